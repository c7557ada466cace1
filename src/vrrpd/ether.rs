//! Ethernet frames in and out of one interface: announcements, and questions with their answers.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendFlags, send};
use socket2::{Domain, Socket, Type};

use crate::net::filter::Filter;
use crate::sys::datagram;
use crate::sys::packet::{self, Hears};
use crate::vrrp::announce::{Claim, Mac, claim, solicited_group};

/// A packet socket of one interface, for ARP and neighbour discovery.
#[derive(Debug)]
pub struct Ether {
    socket: Socket,
}

impl Ether {
    /// One that only sends.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        Ok(Self { socket: packet::open(ifindex, Hears::Nothing, &[])? })
    }

    /// One that also hears ARP and neighbour advertisements.
    ///
    /// # Errors
    /// As [`Ether::open`].
    pub fn open_listening(ifindex: u32) -> io::Result<Self> {
        let filter = keep_claims_and(Filter::new().refuse(), Filter::new().refuse());
        Ok(Self { socket: packet::open(ifindex, Hears::Everything, filter.program())? })
    }

    /// The present address of the interface.
    ///
    /// # Errors
    /// It has none: it is no Ethernet, or is gone.
    pub fn mac(&self) -> io::Result<Mac> {
        mac(&self.socket)
    }

    /// Sends `frame`, which begins with the Ethernet header; never waits.
    ///
    /// # Errors
    /// The interface is down or gone, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send_frame(&self.socket, frame)
    }

    /// The next claim that waits; `None` when none does, or after some frames that claim nothing. Those of this box are not
    /// heard, unless something on the network sends them back.
    ///
    /// # Errors
    /// The interface went down (once; it is heard again when it is up), or is gone.
    pub fn hear(&self) -> io::Result<Option<Claim>> {
        // A flood shall not keep the caller's thread.
        const MOST_IN_VAIN: usize = 64;
        // ARP, or an advertisement with more options than anybody sends.
        let mut frame = [0; 256];
        for _ in 0..MOST_IN_VAIN {
            let datagram = match datagram::receive(self.socket.as_fd(), &mut frame) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            };
            let found = frame.get(..datagram.len).filter(|_| !datagram.truncated).and_then(claim);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

impl AsFd for Ether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Membership in the groups in which neighbours are asked for IPv6 addresses, held before the addresses are.
///
/// The kernel joins by itself, but some time after an address was added, and a switch that snoops has to learn of it. A
/// question that is lost meanwhile costs the client a second.
#[derive(Debug)]
pub struct SolicitedGroups {
    socket: Socket,
}

impl SolicitedGroups {
    /// None yet; those that were joined are left when this is dropped.
    ///
    /// # Errors
    /// No descriptor is left, or the kernel has no IPv6.
    pub fn open() -> io::Result<Self> {
        // Bound to no port, it receives nothing.
        Ok(Self { socket: Socket::new(Domain::IPV6, Type::DGRAM, None)? })
    }

    /// Joins the group of `ip` on the interface `ifindex`.
    ///
    /// # Errors
    /// There is no such interface, or it has no IPv6.
    pub fn join(&self, ip: Ipv6Addr, ifindex: u32) -> io::Result<()> {
        match self.socket.join_multicast_v6(&solicited_group(ip), ifindex) {
            // It is the group of another address too.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Ok(()),
            other => other,
        }
    }
}

/// Whether this box forwards IPv6 packets that come in by `interface`: what the Router flag of an advertisement says.
pub fn is_router(interface: &str) -> bool {
    let setting = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"));
    setting.is_ok_and(|value| value.trim() != "0")
}

// Offsets and values in a frame, for filters.
const TYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const ARP: u32 = 0x0806;
const NEXT_HEADER: u32 = 20;
const ICMPV6: u32 = 58;
const MESSAGE: u32 = 54;
const ADVERTISEMENT: u32 = 136;

/// Keeps what [`claim`] may understand. `ipv4` decides on IPv4, and `ipv6` on the rest of IPv6, with the next header loaded;
/// both must end.
pub(super) fn keep_claims_and(ipv4: Filter, ipv6: Filter) -> Filter {
    let advertisement = Filter::new().byte(MESSAGE).require(ADVERTISEMENT).keep();
    let ipv6 = Filter::new().byte(NEXT_HEADER).when(ICMPV6, advertisement).append(ipv6);
    Filter::new().half(TYPE).when(ARP, Filter::new().keep()).when(IPV4, ipv4).when(IPV6, ipv6).refuse()
}

/// Sends `frame` by the interface that `socket` is tied to.
pub(super) fn send_frame(socket: &Socket, frame: &[u8]) -> io::Result<()> {
    // All or nothing: it is one frame.
    send(socket, frame, SendFlags::empty())?;
    Ok(())
}

/// The address of the interface that `socket` is tied to.
pub(super) fn mac(socket: &Socket) -> io::Result<Mac> {
    let address = packet::hardware_address(socket.as_fd())?;
    address.map(Mac).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the interface has no Ethernet address"))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::vrrp::announce::{announcement, question};
    use crate::vrrpd::lab::{INTERFACE, Lab, wait};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_announcement_arrives_as_it_was_built_and_moves_the_address() {
        let Some(lab) = Lab::new(2) else { return };
        let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
        let everything = two.run(|| packet::open(two.ifindex, Hears::Everything, &[]).unwrap());
        let listening = two.run(|| Ether::open_listening(two.ifindex).unwrap());
        let ether = one.run(|| Ether::open(one.ifindex).unwrap());
        assert_eq!(ether.mac().unwrap(), Mac(one.mac()));
        for address in ["192.0.2.100", "2001:db8::100"] {
            // As if another box had it.
            two.ip(&format!("neighbour replace {address} lladdr 02:00:00:00:00:77 dev {INTERFACE} nud stale"));
            let frame = announcement(Mac(one.mac()), ip(address), false);
            ether.send(frame.bytes()).unwrap();
            let arrived = || {
                let mut bytes = [0; 256];
                let datagram = datagram::receive(everything.as_fd(), &mut bytes).ok()?;
                assert!(datagram.hardware_source.is_some());
                (bytes[..datagram.len] == *frame.bytes()).then_some(datagram)
            };
            assert_eq!(wait(arrived, "the announcement").hardware_source, Some(one.mac()));
            let mut claims = Vec::new();
            let claimed = || {
                claims.extend(listening.hear().unwrap());
                claims.contains(&Claim { ip: ip(address), mac: Mac(one.mac()) }).then_some(())
            };
            wait(claimed, "the claim");
            let moved = || two.ip_output(&format!("neighbour show {address}")).contains("00:00:01").then_some(());
            wait(moved, "the neighbour table");
        }
    }

    #[test]
    fn a_neighbour_answers_a_question_and_a_missing_one_does_not() {
        let Some(lab) = Lab::new(2) else { return };
        let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
        let ether = one.run(|| Ether::open_listening(one.ifindex).unwrap());
        let ask = |source, target| ether.send(question(Mac(one.mac()), source, target).unwrap().bytes()).unwrap();
        for (source, target) in [(one.v4(), two.v4()), (one.link_local(), two.link_local()), (ip("0.0.0.0"), two.v4())]
        {
            ask(source, target);
            let answer = || ether.hear().unwrap().filter(|claim| claim.ip == target);
            assert_eq!(wait(answer, "the answer").mac, Mac(two.mac()));
        }
        ask(one.v4(), ip("192.0.2.77"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        while let Some(claim) = ether.hear().unwrap() {
            assert_ne!(claim.ip, ip("192.0.2.77"));
        }
    }

    #[test]
    fn a_group_is_joined_before_the_address_is_there_and_left_after() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let member = || host.ip_output(&format!("maddress show dev {INTERFACE}")).contains("ff02::1:ff00:100");
        host.run(|| {
            let groups = SolicitedGroups::open().unwrap();
            for address in ["2001:db8::100", "2001:db8:1::100", "fe80::100"] {
                groups.join(address.parse().unwrap(), host.ifindex).unwrap();
            }
            assert!(member());
            assert!(groups.join("fe80::100".parse().unwrap(), 4711).is_err());
        });
        // Programs that other tests are about to start have a copy of the socket for a moment.
        wait(|| (!member()).then_some(()), "the end of the membership");
    }

    #[test]
    fn a_missing_interface_is_an_error() {
        let Some(lab) = Lab::new(1) else { return };
        let error = lab.hosts[0].run(|| Ether::open(4711).unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn forwarding_makes_a_router() {
        let Some(lab) = Lab::new(1) else { return };
        lab.hosts[0].run(|| {
            assert!(!is_router(INTERFACE) && !is_router("none"));
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/forwarding"), "1").unwrap();
            assert!(is_router(INTERFACE));
        });
    }
}
