//! Ethernet frames that say or ask where an address is: ARP (RFC 826) and neighbour discovery (RFC 4861).
//!
//! ```text
//! ARP   Ethernet 14 | hardware, protocol, lengths, operation 8 | sender MAC 6, IP 4 | target MAC 6, IP 4       42 bytes
//! NA    Ethernet 14 | IPv6 40 | type, code, checksum, flags 8 | target 16 | option 2, 1, MAC 6                 86 bytes
//! NS    the same with option 1; without option when the sender has no address
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{
    MutableNdpOptionPacket, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NdpOptionType, NdpOptionTypes,
    NeighborAdvertFlags,
};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet, checksum};
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

    /// `fill` gets `len` zeros, and gives up only when they are too few for a header.
    fn build(len: usize, fill: impl FnOnce(&mut [u8]) -> Option<()>) -> Self {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..len).and_then(fill).expect("invariant: `len` is the sum of what is filled in, at most LONGEST");
        Self { bytes, len }
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
/// advertisement, from a router or not (RFC 9568 6.4.1).
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

/// The group in which who has `ip` is asked for it (RFC 4291 2.7.1).
pub fn solicited_group(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// What `frame`, received, claims; `None` when it is anything else than ARP or a valid neighbour advertisement.
///
/// ARP requests claim too: whoever asks says who it is, and gratuitous ones are requests.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
    let [_, _, _, _, _, _, source @ .., type_high, type_low] = ethernet;
    let claim = match EtherType(u16::from_be_bytes([*type_high, *type_low])) {
        EtherTypes::Arp => claim_of_arp(packet),
        EtherTypes::Ipv6 => claim_of_advertisement(packet, Mac(*source)),
        _ => None,
    };
    // Nobody is a group.
    claim.filter(|claim| claim.mac.0[0] & 1 == 0 && !claim.ip.is_unspecified() && !claim.ip.is_multicast())
}

const LONGEST: usize = 86;
const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
/// Of an advertisement or solicitation, without options.
const NEIGHBOUR: usize = 24;
/// One that holds an Ethernet address.
const OPTION: usize = 8;

fn claim_of_arp(packet: &[u8]) -> Option<Claim> {
    // Ethernet, IPv4, and the lengths of their addresses.
    let rest = packet.strip_prefix(&[0, 1, 8, 0, 6, 4])?;
    let (operation, rest) = rest.split_first_chunk()?;
    if !matches!(ArpOperation(u16::from_be_bytes(*operation)), ArpOperations::Request | ArpOperations::Reply) {
        return None;
    }
    let (mac, rest) = rest.split_first_chunk()?;
    let ip = rest.first_chunk::<4>()?;
    Some(Claim { ip: Ipv4Addr::from(*ip).into(), mac: Mac(*mac) })
}

/// With the checks of RFC 4861 7.1.2.
fn claim_of_advertisement(packet: &[u8], sender: Mac) -> Option<Claim> {
    let (header, rest) = packet.split_first_chunk::<IPV6>()?;
    let [first, _, _, _, length_high, length_low, 58, 255, addresses @ ..] = header else { return None };
    let message = rest.get(..usize::from(u16::from_be_bytes([*length_high, *length_low])))?;
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination.first_chunk::<16>()?));
    let (advertisement, options) = message.split_first_chunk::<NEIGHBOUR>()?;
    let [136, 0, sum_high, sum_low, flags, _, _, _, target @ ..] = advertisement else { return None };
    let sum = checksum(&Icmpv6Packet::new(message)?, &source, &destination);
    let solicited = flags & NeighborAdvertFlags::Solicited != 0;
    if first >> 4 != 6 || sum != u16::from_be_bytes([*sum_high, *sum_low]) || (destination.is_multicast() && solicited)
    {
        return None;
    }
    let mac = target_mac(options)?.unwrap_or(sender);
    Some(Claim { ip: Ipv6Addr::from(*target).into(), mac })
}

/// The target's link-layer address among `options`, if it is there; `None` when they are broken.
fn target_mac(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, length, ..] = options {
        let (option, rest) = options.split_at_checked(usize::from(*length) * 8).filter(|(o, _)| !o.is_empty())?;
        if NdpOptionType(*kind) == NdpOptionTypes::TargetLLAddr {
            found = option.get(2..).and_then(|o| o.first_chunk()).map(|mac| Mac(*mac));
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

fn arp_request(mac: Mac, source: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Frame {
    Frame::build(ETHERNET + ARP, |bytes| {
        let packet = ethernet(bytes, mac, Mac::BROADCAST, EtherTypes::Arp)?;
        let mut arp = MutableArpPacket::new(packet)?;
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(6);
        arp.set_proto_addr_len(4);
        arp.set_operation(ArpOperations::Request);
        arp.set_sender_hw_addr(mac.0.into());
        arp.set_sender_proto_addr(source);
        arp.set_target_hw_addr(target_mac.0.into());
        arp.set_target_proto_addr(target);
        Some(())
    })
}

fn advertisement(mac: Mac, ip: Ipv6Addr, router: bool) -> Frame {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    Frame::build(ETHERNET + IPV6 + NEIGHBOUR + OPTION, |bytes| {
        let message = ipv6(bytes, mac, ip, ALL_NODES)?;
        let mut advertisement = MutableNeighborAdvertPacket::new(message)?;
        advertisement.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
        let router = if router { NeighborAdvertFlags::Router } else { 0 };
        advertisement.set_flags(NeighborAdvertFlags::Override | router);
        advertisement.set_target_addr(ip);
        finish(message, NdpOptionTypes::TargetLLAddr, mac, ip, ALL_NODES)
    })
}

fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Frame {
    let group = solicited_group(target);
    // Who has no address yet must not say where it is (RFC 4861 4.3).
    let option = if source.is_unspecified() { 0 } else { OPTION };
    Frame::build(ETHERNET + IPV6 + NEIGHBOUR + option, |bytes| {
        let message = ipv6(bytes, mac, source, group)?;
        let mut solicitation = MutableNeighborSolicitPacket::new(message)?;
        solicitation.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
        solicitation.set_target_addr(target);
        finish(message, NdpOptionTypes::SourceLLAddr, mac, source, group)
    })
}

/// Writes the Ethernet header; the rest is returned.
fn ethernet(bytes: &mut [u8], source: Mac, destination: Mac, kind: EtherType) -> Option<&mut [u8]> {
    let (header, rest) = bytes.split_at_mut_checked(ETHERNET)?;
    let mut header = MutableEthernetPacket::new(header)?;
    header.set_source(source.0.into());
    header.set_destination(destination.0.into());
    header.set_ethertype(kind);
    Some(rest)
}

/// Writes Ethernet and IPv6 headers; the message is returned.
fn ipv6(bytes: &mut [u8], mac: Mac, source: Ipv6Addr, group: Ipv6Addr) -> Option<&mut [u8]> {
    let packet = ethernet(bytes, mac, Mac::of_group(group), EtherTypes::Ipv6)?;
    let (header, message) = packet.split_at_mut_checked(IPV6)?;
    let mut header = MutableIpv6Packet::new(header)?;
    header.set_version(6);
    header.set_payload_length(u16::try_from(message.len()).ok()?);
    header.set_next_header(IpNextHeaderProtocols::Icmpv6);
    header.set_hop_limit(255);
    header.set_source(source);
    header.set_destination(group);
    Some(message)
}

/// Writes the option, if there is room for one, and the checksum.
fn finish(message: &mut [u8], kind: NdpOptionType, mac: Mac, source: Ipv6Addr, group: Ipv6Addr) -> Option<()> {
    let (_, option) = message.split_at_mut_checked(NEIGHBOUR)?;
    if !option.is_empty() {
        let mut option = MutableNdpOptionPacket::new(option)?;
        option.set_option_type(kind);
        option.set_length(1);
        option.set_data(&mac.0);
    }
    let sum = checksum(&Icmpv6Packet::new(message)?, &source, &group);
    MutableIcmpv6Packet::new(message)?.set_checksum(sum);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0x01]);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(&String::from_iter(two), 16).unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The sum of a message and its pseudo-header, reckoned the long way; 0xffff when the checksum in it is right.
    fn sum(frame: &[u8]) -> u16 {
        let message = &frame[ETHERNET + IPV6..];
        let mut words = frame[ETHERNET + 8..ETHERNET + IPV6].to_vec();
        words.extend([0, 0, 0, message.len() as u8, 0, 0, 0, 58]);
        words.extend(message);
        let total: u32 = words.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        u16::try_from((total & 0xffff) + (total >> 16)).unwrap()
    }

    #[test]
    fn a_gratuitous_arp_is_keepalived_s() {
        // Version 2.2.7: op 1, sha = NIC, spa = tpa = VIP, tha = ff:ff:ff:ff:ff:ff, 42 bytes.
        let expected =
            hex("ffffffffffff 02005e100001 0806 0001 0800 06 04 0001 02005e100001 c0000264 ffffffffffff c0000264");
        let frame = announcement(MAC, ip("192.0.2.100"), false);
        assert_eq!(frame.bytes(), expected);
        assert_eq!(frame.bytes().len(), 42);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_and_says_whether_it_is_a_router() {
        let header = "333300000001 02005e100001 86dd 60000000 0020 3a ff
            20010db8000000000000000000000100 ff020000000000000000000000000001 8800";
        let rest = "000000 20010db8000000000000000000000100 0201 02005e100001";
        for (router, flags) in [(false, "20"), (true, "a0")] {
            let frame = announcement(MAC, ip("2001:db8::100"), router);
            let mut expected = hex(&format!("{header} 0000 {flags} {rest}"));
            // The checksum, which is looked at below.
            expected[56..58].copy_from_slice(&frame.bytes()[56..58]);
            assert_eq!(frame.bytes(), expected);
            assert_eq!(sum(frame.bytes()), 0xffff);
        }
    }

    #[test]
    fn a_question_is_asked_of_everybody_who_may_be_meant() {
        let arp = question(MAC, ip("192.0.2.11"), ip("192.0.2.1")).unwrap();
        let expected =
            "ffffffffffff 02005e100001 0806 0001 0800 06 04 0001 02005e100001 c000020b 000000000000 c0000201";
        assert_eq!(arp.bytes(), hex(expected));
        let solicitation = question(MAC, ip("fe80::11"), ip("2001:db8::1:2:3")).unwrap();
        assert!(solicitation.bytes().starts_with(&hex("3333ff020003 02005e100001 86dd 60000000 0020 3a ff")));
        assert_eq!(solicitation.bytes()[38..54], hex("ff0200000000000000000001ff020003"));
        assert!(solicitation.bytes().ends_with(&hex("0101 02005e100001")));
        assert_eq!(sum(solicitation.bytes()), 0xffff);
        let probe = question(MAC, ip("::"), ip("2001:db8::1")).unwrap();
        assert_eq!(probe.bytes().len(), 78);
        assert_eq!(sum(probe.bytes()), 0xffff);
        assert_eq!(question(MAC, ip("::"), ip("192.0.2.1")), None);
    }

    #[test]
    fn announcements_are_claims_and_questions_of_nobody_are_not() {
        for address in ["192.0.2.100", "2001:db8::100"] {
            let frame = announcement(MAC, ip(address), true);
            assert_eq!(claim(frame.bytes()), Some(Claim { ip: ip(address), mac: MAC }));
        }
        let asks = question(MAC, ip("192.0.2.11"), ip("192.0.2.1")).unwrap();
        assert_eq!(claim(asks.bytes()), Some(Claim { ip: ip("192.0.2.11"), mac: MAC }));
        assert_eq!(claim(question(MAC, ip("0.0.0.0"), ip("192.0.2.1")).unwrap().bytes()), None);
        assert_eq!(claim(question(MAC, ip("fe80::1"), ip("fe80::2")).unwrap().bytes()), None);
    }

    #[test]
    fn an_advertisement_that_is_broken_claims_nothing() {
        let good = announcement(MAC, ip("2001:db8::100"), false).bytes().to_vec();
        // Type of frame, version, length, next header, hop limit, type, code, checksum, target, length of the option.
        for at in [12, 14, 19, 20, 21, 54, 55, 57, 70, 79] {
            let mut frame = good.clone();
            frame[at] ^= 0x41;
            assert_eq!(claim(&frame), None, "byte {at}");
        }
        let group = announcement(Mac([0x33; 6]), ip("192.0.2.100"), false);
        assert_eq!(claim(group.bytes()), None);
    }

    #[test]
    fn an_answer_without_the_option_comes_from_where_it_comes() {
        let mut frame = announcement(MAC, ip("2001:db8::100"), false).bytes().to_vec();
        frame.truncate(78);
        frame[19] = 24;
        frame[56..58].fill(0);
        let sum = !sum(&frame);
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(claim(&frame), Some(Claim { ip: ip("2001:db8::100"), mac: MAC }));
    }

    proptest! {
        #[test]
        fn no_frame_panics(mut frame in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3, message in any::<bool>()) {
            let kinds: [&[u8]; 3] = [&[8, 6, 0, 1, 8, 0, 6, 4], &[0x86, 0xdd], &[]];
            for (to, from) in frame.iter_mut().skip(12).zip(kinds[kind as usize]) {
                *to = *from;
            }
            if message && frame.len() > 80 {
                frame[18..22].copy_from_slice(&[0, 40, 58, 255]);
                frame[54..56].copy_from_slice(&[136, 0]);
            }
            claim(&frame);
        }

        #[test]
        fn no_options_panic(options in prop::collection::vec(0_u8..4, 0..60)) {
            target_mac(&options);
        }
    }
}
