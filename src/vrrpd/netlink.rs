//! Links and addresses of the box, by rtnetlink.
//!
//! # How a virtual address is added
//!
//! So that it is there, but is no source of what this box sends, and changes no route of a network that the interface is in
//! already:
//!
//! - IPv4 beside an address of the same network: the kernel makes it secondary, which adds no route and is never chosen as
//!   source. With a network of its own (or /32, which has no route) it is the last of the primary ones, chosen as source only
//!   for a next hop in its own network, where it has to be. So IPv4 needs no flag. No broadcast address is set, as keepalived.
//! - IPv6: preferred lifetime 0 (deprecated), so that it is no source while there is another, whatever its prefix (keepalived:
//!   /128 only). IFA_F_NODAD: after a split, duplicate address detection would leave it unusable for good. With /128, or where
//!   the interface has an address of the same network, IFA_F_NOPREFIXROUTE: the kernel would add a second route to the
//!   network, and on removal put an expiry date on the one that router advertisements made.
//!
//! IPv4 addresses receive from the moment that they are added. The kernel makes IPv6 ones do so some time later (commonly 0.2 ms,
//! 10 ms were seen), and drops what comes before: [`Netlink::await_reception`].
//!
//! Removing the primary IPv4 address of a network removes the secondary ones too, unless `promote_secondaries` is on; also
//! virtual ones of other routers, if the first address of their network is virtual. The monitor tells.

mod message;
mod monitor;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::netdevice::index_to_name;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::config::model::VirtualAddress;
use crate::net::clock;
use crate::vrrp::Family;
use crate::vrrp::announce::Mac;
use message::{Content, Message, messages};

pub use monitor::{Change, Monitor};

/// Marks our addresses (IFA_PROTO, Linux 5.18 and later; older kernels ignore it). The kernel itself uses 1 to 3; whoever
/// borrows numbers of routing daemons for it (rt_protos) uses others.
pub const TAG: u8 = 0xb5;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, for as long as it exists.
    pub index: u32,
    /// Its name, which may change.
    pub name: Arc<str>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Switched on by the administrator.
    pub up: bool,
    /// Switched on, with a carrier, and usable (IFF_RUNNING).
    pub running: bool,
    /// Largest packet.
    pub mtu: u32,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// IPv4: the interface's name, or one that begins with it.
    pub label: Option<Arc<str>>,
    /// Put there by us or an earlier process of ours ([`TAG`]).
    pub tagged: bool,
    /// IPv4: not the first of its network.
    pub secondary: bool,
    /// IPv6: no source while there is another.
    pub deprecated: bool,
    /// IPv6: cannot be used yet, or is a duplicate.
    pub tentative: bool,
}

/// What [`Netlink::add`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The address was not there, and is now.
    New,
    /// It was there already, put by an earlier process of ours: it is ours to remove.
    Ours,
    /// It was there already, put by somebody else (or by us, on a kernel without tags): by itself not ours to remove.
    Adopted,
}

/// What [`Netlink::remove`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The address was there, and is not any more.
    Removed,
    /// It was gone already, or its interface is.
    Absent,
}

/// A request that failed.
#[derive(Debug)]
pub enum NetlinkError {
    /// No socket.
    Socket(io::Error),
    /// The kernel refuses, or does not answer.
    Refused {
        /// As in "put 192.0.2.100/24 on eth0".
        request: String,
        /// Its answer.
        source: io::Error,
        /// What it says about it, from Linux 4.12 on and not always.
        why: Option<String>,
    },
}

impl std::fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(e) => write!(f, "cannot open a netlink socket: {e}"),
            Self::Refused { request, source, why } => {
                write!(f, "cannot {request}: {source}")?;
                if let Some(why) = why {
                    write!(f, " ({why})")?;
                }
                // Not EACCES, of the same kind: where IPv6 is switched off.
                match source.raw_os_error() {
                    Some(libc::EPERM) => f.write_str("; it needs CAP_NET_ADMIN"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(source) | Self::Refused { source, .. } => Some(source),
        }
    }
}

/// Asks and orders; each call waits for the kernel's answer, which comes at once.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buf: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No descriptor or memory is left.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel answers while it takes the request: a lost answer is a fault that must not stop us for good.
            set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            // Niceties, each of some Linux on: why something is refused, and lists of one interface.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Self { socket, sequence: 0, buf: Vec::with_capacity(LARGEST) })
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel refuses, or does not answer.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let found = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let found = found.map_err(|e| e.of("list the interfaces".to_owned()))?;
        let link = |content| if let Content::Link(link) = content { Some(link) } else { None };
        Ok(found.into_iter().filter_map(link).collect())
    }

    /// All addresses.
    ///
    /// # Errors
    /// As [`Netlink::links`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.addresses_of(0)
    }

    /// Puts `address` on the interface `ifindex`, as the module's documentation says. IPv6: it is to be announced after
    /// [`Netlink::await_reception`] only.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, when there is no such interface, it has no IPv6, or the label is not of it.
    pub fn add(&mut self, address: &VirtualAddress, ifindex: u32) -> Result<Added, NetlinkError> {
        let VirtualAddress { ip, prefix, interface, .. } = address;
        let request = || format!("put {ip}/{prefix} on {interface}");
        let message =
            RouteNetlinkMessage::NewAddress(new_address(address, ifindex, self.needs_route(address, ifindex)?));
        match self.order(&message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => return Ok(Added::New),
            Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.of(request())),
        }
        let present = self.addresses_of(ifindex)?;
        match present.iter().find(|other| other.ip == *ip) {
            // IPv6 knows an address once, whatever its prefix.
            Some(other) if other.tagged && other.prefix != *prefix => {
                self.remove(other.ip, other.prefix, ifindex)?;
                self.order(&message, NLM_F_CREATE | NLM_F_EXCL).map_err(|e| e.of(request()))?;
                Ok(Added::New)
            }
            Some(other) if other.tagged => Ok(Added::Ours),
            Some(_) | None => Ok(Added::Adopted),
        }
    }

    /// Waits until all of `addresses` (others than IPv6 do not wait) receive on the interface `ifindex`, at most for `limit`.
    /// `false`: they do not.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn await_reception(
        &mut self,
        addresses: &[IpAddr],
        ifindex: u32,
        limit: Duration,
    ) -> Result<bool, NetlinkError> {
        const PAUSE: Duration = Duration::from_micros(200);
        let end = clock::micros().after(limit);
        for ip in addresses.iter().filter(|ip| ip.is_ipv6()) {
            while !self.receives(*ip, ifindex)? {
                if clock::micros() >= end {
                    return Ok(false);
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(true)
    }

    /// Takes `ip` off the interface `ifindex`.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn remove(&mut self, ip: IpAddr, prefix: u8, ifindex: u32) -> Result<Removed, NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(ip, prefix, ifindex));
        match self.order(&message, 0) {
            Ok(()) => Ok(Removed::Removed),
            Err(e) if matches!(e.source.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                Ok(Removed::Absent)
            }
            Err(e) => {
                let name = index_to_name(&self.socket, ifindex).unwrap_or_else(|_| format!("interface {ifindex}"));
                Err(e.of(format!("take {ip}/{prefix} off {name}")))
            }
        }
    }

    /// Whether packets to `ip` are for this box.
    fn receives(&mut self, ip: IpAddr, ifindex: u32) -> Result<bool, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        message.attributes = vec![RouteAttribute::Destination(ip.into()), RouteAttribute::Oif(ifindex)];
        let mut receives = false;
        let answer = self.ask(&RouteNetlinkMessage::GetRoute(message), NLM_F_ACK, |message| {
            receives |= matches!(message.content, Content::Route { local: true });
        });
        match answer {
            Err(e) if e.source.kind() == io::ErrorKind::WouldBlock => Err(e.of(format!("look up the route to {ip}"))),
            // No route at all, or none yet.
            Ok(()) | Err(_) => Ok(receives),
        }
    }

    /// Whether the interface is not in the network of `address` yet.
    fn needs_route(&mut self, address: &VirtualAddress, ifindex: u32) -> Result<bool, NetlinkError> {
        let VirtualAddress { ip, prefix, .. } = *address;
        // IPv4 does that by itself, and all bits are no network.
        if ip.is_ipv4() || prefix == 128 {
            return Ok(false);
        }
        let present = self.addresses_of(ifindex)?;
        Ok(!present.iter().any(|other| other.prefix == prefix && same_network(other.ip, ip, prefix)))
    }

    /// The addresses of one interface, or of all (0).
    fn addresses_of(&mut self, ifindex: u32) -> Result<Vec<Address>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let found = self.list(&RouteNetlinkMessage::GetAddress(message));
        let found = found.map_err(|e| e.of("list the addresses".to_owned()))?;
        let address = |content| if let Content::Address(address) = content { Some(address) } else { None };
        // Linux before 4.20 lists all in any case.
        let wanted = |address: &Address| ifindex == 0 || address.ifindex == ifindex;
        Ok(found.into_iter().filter_map(address).filter(wanted).collect())
    }

    /// What the kernel lists for `message`.
    fn list(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<Content>, Refusal> {
        // Something changed in the middle of it: the list may lack what was there all the time.
        const MOST_TRIES: usize = 8;
        let mut found = Vec::new();
        for _ in 0..MOST_TRIES {
            found.clear();
            let mut interrupted = false;
            self.ask(message, NLM_F_DUMP, |message| {
                interrupted |= message.interrupted;
                found.push(message.content);
            })?;
            if !interrupted {
                break;
            }
        }
        Ok(found)
    }

    /// Has the kernel do `message`.
    fn order(&mut self, message: &RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.ask(message, NLM_F_ACK | flags, |_| {})
    }

    /// Sends `message`, and hands each part of the answer to `take`.
    fn ask(&mut self, message: &RouteNetlinkMessage, flags: u16, mut take: impl FnMut(Message)) -> Result<(), Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.clone()));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            self.buf.clear();
            self.socket.recv(&mut self.buf, 0)?;
            for message in messages(&self.buf).filter(|message| message.sequence == self.sequence) {
                match message.content {
                    Content::Done => return Ok(()),
                    Content::Refused { source, why } => return Err(Refusal { source, why }),
                    _ => take(message),
                }
            }
        }
    }
}

/// The source of advertisements by the interface `ifindex`: its primary IPv4 address, or a link-local IPv6 address that
/// is in use; never one of `exclude` (the virtual ones), nor one that we put there.
pub fn source_address(addresses: &[Address], ifindex: u32, family: Family, exclude: &[IpAddr]) -> Option<IpAddr> {
    let usable = |address: &&Address| {
        let of_kind = match address.ip {
            IpAddr::V4(_) => family == Family::V4,
            IpAddr::V6(ip) => family == Family::V6 && ip.is_unicast_link_local() && !address.tentative,
        };
        address.ifindex == ifindex && of_kind && !address.tagged && !exclude.contains(&address.ip)
    };
    // The first of the best, which is what the kernel would take.
    let found = addresses.iter().filter(usable).min_by_key(|address| address.secondary || address.deprecated);
    found.map(|address| address.ip)
}

/// The kernel puts at most 32 KiB into one datagram of a list.
const LARGEST: usize = 64 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a request that is not described yet.
#[derive(Debug)]
struct Refusal {
    source: io::Error,
    why: Option<String>,
}

impl Refusal {
    fn of(self, request: String) -> NetlinkError {
        NetlinkError::Refused { request, source: self.source, why: self.why }
    }
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self { source, why: None }
    }
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let (shift, one, other) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (32, one.to_bits().into(), other.to_bits().into()),
        (IpAddr::V6(one), IpAddr::V6(other)) => (128, one.to_bits(), other.to_bits()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let (one, other): (u128, u128) = (one, other);
    // All bits shifted out: the network of everything.
    (one ^ other).checked_shr(u32::saturating_sub(shift, prefix.into())).unwrap_or(0) == 0
}

/// With our tag and flags.
fn new_address(address: &VirtualAddress, ifindex: u32, needs_route: bool) -> AddressMessage {
    let mut message = address_message(address.ip, address.prefix, ifindex);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(TAG)));
    match address.ip {
        IpAddr::V4(_) => {
            message.attributes.extend(address.label.as_deref().map(|label| AddressAttribute::Label(label.to_owned())));
        }
        IpAddr::V6(_) => {
            let route = if needs_route { AddressFlags::empty() } else { AddressFlags::Noprefixroute };
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | route));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    message
}

fn address_message(ip: IpAddr, prefix: u8, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;
    use crate::vrrpd::lab::{Host, INTERFACE, Lab};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn virtual_address(address: &str, label: Option<&str>) -> VirtualAddress {
        let (ip, prefix) = address.split_once('/').unwrap();
        let (ip, prefix) = (ip.parse().unwrap(), prefix.parse().unwrap());
        VirtualAddress { ip, prefix, interface: INTERFACE.into(), label: label.map(Arc::from) }
    }

    fn netlink(host: &Host) -> Netlink {
        host.run(|| Netlink::open().unwrap())
    }

    /// The addresses with our mark.
    fn tagged(netlink: &mut Netlink) -> Vec<Address> {
        netlink.addresses().unwrap().into_iter().filter(|address| address.tagged).collect()
    }

    /// The routes of `host` but those to single addresses of its own.
    fn routes(host: &Host) -> String {
        let all = [host.ip_output("-4 route show table all"), host.ip_output("-6 route show table all")].concat();
        let routes = all.lines().filter(|line| !line.starts_with("local "));
        routes.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn links_are_listed() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let links = netlink(host).links().unwrap();
        assert_eq!(links.iter().map(|link| &*link.name).collect::<Vec<_>>(), ["lo", INTERFACE]);
        assert_eq!(
            links[1],
            Link {
                index: host.ifindex,
                name: INTERFACE.into(),
                mac: Some(Mac(host.mac())),
                up: true,
                running: true,
                mtu: 1500,
            }
        );
    }

    #[test]
    fn a_virtual_address_is_tagged_and_changes_neither_routes_nor_sources() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut netlink = netlink(host);
        let (before, routes_before) = (netlink.addresses().unwrap(), routes(host));
        assert!(before.iter().all(|address| !address.tagged));
        let label = format!("{INTERFACE}:vip");
        let cases = [
            ("192.0.2.100/24", Some(label.as_str()), Some(label.as_str())),
            ("192.0.2.101/32", None, Some(INTERFACE)),
            ("198.51.100.1/32", None, Some(INTERFACE)),
            ("2001:db8::100/64", None, None),
            ("2001:db8::101/128", None, None),
            ("fe80::100/64", None, None),
        ];
        for (address, label, shown) in cases {
            let wanted = virtual_address(address, label);
            let limit = Duration::from_secs(5);
            assert!(
                !netlink.await_reception(&[wanted.ip], host.ifindex, Duration::ZERO).unwrap() || wanted.ip.is_ipv4()
            );
            assert_eq!(netlink.add(&wanted, host.ifindex).unwrap(), Added::New);
            assert!(netlink.await_reception(&[wanted.ip], host.ifindex, limit).unwrap());
            let tagged = tagged(&mut netlink);
            let found = tagged.iter().find(|found| found.ip == wanted.ip).unwrap();
            assert_eq!(
                *found,
                Address {
                    ifindex: host.ifindex,
                    ip: wanted.ip,
                    prefix: wanted.prefix,
                    label: shown.map(Arc::from),
                    tagged: true,
                    secondary: address == "192.0.2.100/24",
                    deprecated: wanted.ip.is_ipv6(),
                    tentative: false,
                }
            );
        }
        let shown = host.ip_output(&format!("address show dev {INTERFACE}"));
        assert!(!shown.contains(".100/24 brd"), "{shown}");
        assert!(shown.contains("2001:db8::100/64 scope global nodad deprecated noprefixroute"), "{shown}");
        assert!(shown.contains("2001:db8::101/128 scope global nodad deprecated noprefixroute"), "{shown}");
        assert_eq!(routes(host), routes_before);
        for (to, source) in [("192.0.2.2", "src 192.0.2.1 "), ("2001:db8::2", "src 2001:db8::1 ")] {
            let route = host.ip_output(&format!("route get {to}"));
            assert!(route.contains(source), "{route}");
        }
        for (address, ..) in cases {
            let VirtualAddress { ip, prefix, .. } = virtual_address(address, None);
            assert_eq!(netlink.remove(ip, prefix, host.ifindex).unwrap(), Removed::Removed);
            assert_eq!(netlink.remove(ip, prefix, host.ifindex).unwrap(), Removed::Absent);
        }
        assert_eq!(netlink.addresses().unwrap(), before);
        assert_eq!(routes(host), routes_before);
    }

    #[test]
    fn an_address_with_a_network_of_its_own_brings_the_route_to_it() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut netlink = netlink(host);
        for address in ["198.51.100.1/24", "2001:db8:1::1/64"] {
            netlink.add(&virtual_address(address, None), host.ifindex).unwrap();
        }
        assert!(routes(host).contains(&format!("198.51.100.0/24 dev {INTERFACE}")), "{}", routes(host));
        assert!(routes(host).contains(&format!("2001:db8:1::/64 dev {INTERFACE}")), "{}", routes(host));
    }

    #[test]
    fn what_is_there_already_is_adopted_and_what_an_earlier_process_put_is_ours() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut netlink = netlink(host);
        host.ip(&format!("address add 192.0.2.100/24 dev {INTERFACE}"));
        host.ip(&format!("address add 2001:db8::100/128 dev {INTERFACE}"));
        for (address, found) in [
            ("192.0.2.100/24", Added::Adopted),
            // IPv6 knows an address once, whatever its prefix.
            ("2001:db8::100/128", Added::Adopted),
            ("2001:db8::100/64", Added::Adopted),
            ("192.0.2.101/24", Added::New),
            ("192.0.2.101/24", Added::Ours),
            ("2001:db8::101/128", Added::New),
            ("2001:db8::101/128", Added::Ours),
            ("2001:db8::101/64", Added::New),
            ("2001:db8::101/64", Added::Ours),
        ] {
            assert_eq!(netlink.add(&virtual_address(address, None), host.ifindex).unwrap(), found, "{address}");
        }
        let tagged: Vec<_> = tagged(&mut netlink).iter().map(|a| (a.ip, a.prefix)).collect();
        assert_eq!(tagged, [(ip("192.0.2.101"), 24), (ip("2001:db8::101"), 64)]);
    }

    #[test]
    fn what_is_refused_is_said_with_its_reason() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut netlink = netlink(host);
        let error = netlink.add(&virtual_address("192.0.2.100/24", None), 4711).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot put 192.0.2.100/24 on eth0: No such device (os error 19) (ipv4: Device not found)"
        );
        assert_eq!(netlink.remove(ip("192.0.2.100"), 24, 4711).unwrap(), Removed::Absent);
        host.run(|| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6"), "1").unwrap();
            let error = netlink.add(&virtual_address("2001:db8::100/128", None), host.ifindex).unwrap_err().to_string();
            let expected = "cannot put 2001:db8::100/128 on eth0: Permission denied (os error 13)";
            assert!(error.starts_with(expected) && !error.contains("CAP_NET_ADMIN"), "{error}");
            // The capability is looked at when the socket is made, too.
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, sets).unwrap();
            let mut netlink = Netlink::open().unwrap();
            let add = netlink.add(&virtual_address("192.0.2.100/24", None), host.ifindex).unwrap_err().to_string();
            let remove = netlink.remove(host.v4(), 24, host.ifindex).unwrap_err().to_string();
            for (error, what) in [(add, "put 192.0.2.100/24 on eth0"), (remove, "take 192.0.2.1/24 off eth0")] {
                let reason = "Operation not permitted (os error 1); it needs CAP_NET_ADMIN";
                assert_eq!(error, format!("cannot {what}: {reason}"));
            }
        });
    }

    #[test]
    fn the_source_of_adverts_is_an_address_of_the_box_itself() {
        let address = |text: &str| Address {
            ifindex: 2,
            ip: ip(text),
            prefix: 24,
            label: None,
            tagged: false,
            secondary: false,
            deprecated: false,
            tentative: false,
        };
        let addresses = [
            Address { ifindex: 1, ..address("192.0.2.9") },
            Address { tagged: true, ..address("192.0.2.100") },
            address("192.0.2.101"),
            Address { secondary: true, ..address("192.0.2.10") },
            address("192.0.2.11"),
            address("2001:db8::11"),
            Address { tentative: true, ..address("fe80::9") },
            Address { deprecated: true, ..address("fe80::10") },
            address("fe80::11"),
        ];
        let exclude = [ip("192.0.2.101")];
        let source = |addresses: &[Address], family| source_address(addresses, 2, family, &exclude);
        assert_eq!(source(&addresses, Family::V4), Some(ip("192.0.2.11")));
        assert_eq!(source(&addresses, Family::V6), Some(ip("fe80::11")));
        // Better than none.
        assert_eq!(source(&addresses[..4], Family::V4), Some(ip("192.0.2.10")));
        assert_eq!(source(&addresses[..8], Family::V6), Some(ip("fe80::10")));
        assert_eq!(source(&addresses[..3], Family::V4), None);
        assert_eq!(source(&addresses[..7], Family::V6), None);
    }

    #[test]
    fn networks_are_compared_by_their_prefix() {
        for (one, other, prefix, same) in [
            ("192.0.2.1", "192.0.2.254", 24, true),
            ("192.0.2.1", "192.0.3.1", 24, false),
            ("192.0.2.1", "198.51.100.1", 0, true),
            ("192.0.2.1", "192.0.2.2", 32, false),
            ("2001:db8::1", "2001:db8::2", 127, false),
            ("2001:db8::1", "2001:db8:0:0:1::", 64, true),
            ("2001:db8::1", "fe80::1", 0, true),
            ("2001:db8::1", "192.0.2.1", 0, false),
        ] {
            assert_eq!(same_network(ip(one), ip(other), prefix), same, "{one} {other}/{prefix}");
        }
    }
}
