//! Somebody on the network who sends whatever a test likes as an advertisement.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use bascule::vrrp::packet::{Advert, Authentication, GROUP_V4, GROUP_V6, PROTOCOL};
use bascule::vrrp::{Checksum, Interval, Priority, Version, Vrid};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Host, INTERFACE};

/// A raw socket with a source address.
pub(crate) struct Forger {
    socket: Socket,
    ifindex: u32,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Forger {
    /// Sends from `source`, which is added to the host's addresses if it has not got it, to the group.
    pub(crate) fn new(host: &Host, source: IpAddr) -> Self {
        let shown = host.ip_output(&format!("-o address show dev {INTERFACE} to {source}"));
        if shown.is_empty() {
            let flags = if source.is_ipv6() { " nodad" } else { "" };
            host.ip(&format!("address add {source} dev {INTERFACE}{flags}"));
        }
        let socket = host.run(|| {
            let domain = if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL)))).unwrap();
            socket.bind_device(Some(INTERFACE.as_bytes())).unwrap();
            socket.bind(&SocketAddr::new(source, 0).into()).or_else(|_| {
                let with_scope = scoped(source, host.ifindex);
                socket.bind(&with_scope.into())
            })?;
            Ok::<_, std::io::Error>(socket)
        });
        let destination = if source.is_ipv4() { GROUP_V4.into() } else { GROUP_V6.into() };
        Self { socket: socket.unwrap(), ifindex: host.ifindex, source, destination }
    }

    /// The same to one box.
    pub(crate) fn to(self, destination: IpAddr) -> Self {
        Self { destination, ..self }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&self, bytes: &[u8], ttl: u8) {
        match self.source {
            IpAddr::V4(_) => {
                self.socket.set_ttl_v4(ttl.into()).unwrap();
                self.socket.set_multicast_ttl_v4(ttl.into()).unwrap();
            }
            IpAddr::V6(_) => {
                self.socket.set_unicast_hops_v6(ttl.into()).unwrap();
                sockopt::set_ipv6_multicast_hops(self.socket.as_fd(), ttl.into()).unwrap();
            }
        }
        let destination = scoped(self.destination, self.ifindex);
        assert_eq!(self.socket.send_to(bytes, &destination.into()).unwrap(), bytes.len());
    }

    /// An advertisement as it should be.
    pub(crate) fn encode(&self, advert: &Advert) -> Vec<u8> {
        advert.encode(self.source, self.destination, Checksum::PseudoHeader)
    }

    /// Sends an advertisement, changed by `edit` after its checksum was reckoned.
    pub(crate) fn advertise(&self, advert: &Advert, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.encode(advert);
        edit(&mut bytes);
        self.send(&bytes, 255);
    }
}

/// An advertisement without authentication.
pub(crate) fn advert(version: Version, vrid: u8, priority: u8, interval: Interval, addresses: &[IpAddr]) -> Advert {
    Advert {
        version,
        vrid: Vrid::new(vrid).unwrap(),
        priority: Priority(priority),
        interval,
        authentication: Authentication::None,
        addresses: addresses.to_vec(),
    }
}

/// With the interface of a link-local address or group.
fn scoped(ip: IpAddr, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, 0),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, ifindex).into(),
    }
}
