//! Ethernet frames that say or ask where an address is: ARP (RFC 826) and neighbour discovery (RFC 4861).
//!
//! ```text
//! ARP   Ethernet 14 | hardware, protocol, lengths, operation 8 | sender MAC 6, IP 4 | target MAC 6, IP 4       42 bytes
//! NA    Ethernet 14 | IPv6 40 | type, code, checksum, flags 8 | target 16 | option 2, 1, MAC 6                 86 bytes
//! NS    the same with option 1; without option when the sender has no address
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{
    MutableNdpOptionPacket, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NdpOptionType, NdpOptionTypes,
    NeighborAdvertFlags,
};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::MutableIpv6Packet;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// None yet.
    const UNKNOWN: Self = Self([0; 6]);

    /// Where frames for the multicast group `group` go (RFC 2464 7).
    fn of_group(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame to be sent, without the padding that Ethernet adds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Frame {
    /// From the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a received frame says: who answers for `ip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub ip: IpAddr,
    /// Where frames for it go, by the sender's word.
    pub mac: Mac,
}

/// Tells everybody that `ip` is at `mac`: a gratuitous ARP request as keepalived sends it, or an unsolicited neighbour
/// advertisement, from a router or not (RFC 9568 8.2.2; 8.1.2 and 8.2.1 of RFC 5798).
pub fn announcement(mac: Mac, ip: IpAddr, router: bool) -> Frame {
    match ip {
        IpAddr::V4(ip) => arp_request(mac, ip, Mac::BROADCAST, ip),
        IpAddr::V6(ip) => advertisement(mac, ip, router),
    }
}

/// Asks everybody who has `target`: an ARP request or a neighbour solicitation. An unspecified `source` makes it a probe,
/// which leaves no trace in anybody's tables (RFC 5227 1.1, RFC 4862 5.4.2). `None` when the families differ.
pub fn question(mac: Mac, source: IpAddr, target: IpAddr) -> Option<Frame> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => Some(arp_request(mac, source, Mac::UNKNOWN, target)),
        (IpAddr::V6(source), IpAddr::V6(target)) => Some(solicitation(mac, source, target)),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// What `frame`, received, claims; `None` when it is anything else than ARP or a valid neighbour advertisement.
///
/// ARP requests claim too: whoever asks says who it is, and gratuitous ones are requests.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    unimplemented!("{frame:?}")
}

const LONGEST: usize = 86;

fn arp_request(mac: Mac, source: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Frame {
    unimplemented!("{mac} {source} {target_mac} {target}")
}

fn advertisement(mac: Mac, ip: Ipv6Addr, router: bool) -> Frame {
    unimplemented!("{mac} {ip} {router}")
}

fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Frame {
    unimplemented!("{mac} {source} {target}")
}
