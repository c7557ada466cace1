//! Advertisements on the wire: IP protocol 112, heard from and sent to one interface.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::time::Micros;
use crate::vrrp::Family;

/// Where multicast advertisements over IPv4 go (RFC 9568 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where multicast advertisements over IPv6 go (RFC 9568 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// A received packet of protocol 112; nothing of it has been checked but its IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<'a> {
    /// Sender.
    pub source: IpAddr,
    /// The group, or an address of this box.
    pub destination: IpAddr,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// When the kernel received it.
    pub at: Micros,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

/// Hears the advertisements of one family that come in by one interface, multicast and unicast.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
    family: Family,
    /// No packet that is still to be read arrived before this moment.
    empty_at: Cell<Micros>,
}

impl Receiver {
    /// Opens and joins the group.
    ///
    /// The socket belongs to the interface, not to its name: one that is deleted and made anew needs a new receiver.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface, or it has no IPv6.
    pub fn open(interface: &str, ifindex: u32, family: Family) -> io::Result<Self> {
        unimplemented!("{interface} {ifindex} {family:?}")
    }

    /// The next packet that waits; `None` when none does.
    ///
    /// # Errors
    /// `InvalidData` for a packet that is no whole IP packet of protocol 112: it is gone, the next one may be asked for.
    /// Else the socket is of no use any more.
    pub fn recv<'a>(&self, buf: &'a mut [u8]) -> io::Result<Option<Heard<'a>>> {
        unimplemented!("{buf:?} {:?} {:?} {:?}", self.socket, self.family, self.empty_at)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends the advertisements of one source address by one interface.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    ifindex: u32,
    source: IpAddr,
}

impl Sender {
    /// Opens.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface or `source` is not an address of it.
    pub fn open(interface: &str, ifindex: u32, source: IpAddr) -> io::Result<Self> {
        unimplemented!("{interface} {ifindex} {source}")
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Sends `payload`, whose checksum is the caller's, to the group or to one peer; never waits.
    ///
    /// # Errors
    /// What sendto(2) says: the interface is down, the peer is unreachable, the queue is full, a firewall refuses it.
    pub fn send(&self, payload: &[u8], destination: IpAddr) -> io::Result<()> {
        unimplemented!("{:?} {payload:?} {destination} {}", self.socket, self.ifindex)
    }
}
