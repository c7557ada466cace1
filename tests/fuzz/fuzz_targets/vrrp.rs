//! What the network brings to a virtual router: no bytes panic; an advertisement that is accepted means the same when it is
//! written anew; a verdict keeps its promises; and so does a claim of an address.
//!
//! The first byte says what the rest is: bit 0: over IPv6; bit 1: unicast; bit 2: a frame; bits 3 to 5: what is expected;
//! bit 6: the checksum is mended.
#![no_main]

use std::net::IpAddr;

use bascule::vrrp::announce::{announcement, claim};
use bascule::vrrp::judge::{Expectations, Verdict, judge};
use bascule::vrrp::packet::{Advert, Envelope, PROTOCOL, decode};
use bascule::vrrp::{Checksum, Family, Interval, Password, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    if kind & 4 != 0 {
        return frame(bytes);
    }
    let envelope = envelope(kind & 1 != 0, kind & 2 != 0);
    let mut bytes = bytes.to_vec();
    if kind & 64 != 0 {
        mend(&mut bytes, &envelope);
    }
    if let Ok((advert, checksum)) = decode(&bytes, &envelope) {
        assert!(!advert.addresses.is_empty());
        assert!(advert.addresses.iter().all(|ip| Family::of(*ip) == Family::of(envelope.source)));
        let again = advert.encode(envelope.source, envelope.destination, checksum);
        assert_eq!(again.len(), bytes.len());
        assert_eq!(decode(&again, &envelope).map(|(advert, _)| advert), Ok(advert.clone()));
        verdict(&envelope, &advert, checksum, kind >> 3);
    }
});

fn verdict(envelope: &Envelope, advert: &Advert, checksum: Checksum, expected: u8) {
    let v2 = expected & 1 != 0;
    let expectations = Expectations {
        vrid: advert.vrid,
        version: if v2 { Version::V2 } else { Version::V3 },
        password: (v2 && expected & 2 != 0).then(|| Password::new("secret12")),
        interval: Interval::from_secs(1).expect("a second"),
        addresses: ["192.0.2.100", "192.0.2.101", "fe80::1:51", "2001:db8::101"].map(ip).to_vec(),
        peers: if expected & 4 != 0 { vec![ip("192.0.2.11"), ip("fd00:2::11")] } else { Vec::new() },
        check_source: true,
        check_ttl: true,
    };
    match judge(&expectations, Some(ip("192.0.2.12")), envelope, advert, checksum) {
        Verdict::Peer(said) => {
            assert_eq!(advert.version, expectations.version);
            assert_eq!(envelope.is_multicast(), expectations.peers.is_empty());
            assert!(!v2 || said.interval == expectations.interval);
            assert_eq!((said.source, said.priority), (envelope.source, advert.priority));
        }
        Verdict::Alive(..) => assert!(advert.addresses.iter().any(|ip| expectations.addresses.contains(ip))),
        Verdict::Drop(reason) => assert_ne!(reason.name(), "other"),
    }
    // Its own words are never a peer's.
    let own = judge(&expectations, Some(envelope.source), envelope, advert, checksum);
    assert!(matches!(own, Verdict::Drop(_)));
}

fn frame(bytes: &[u8]) {
    if let Some(claim_found) = claim(bytes) {
        assert!(!claim_found.ip.is_multicast() && !claim_found.ip.is_unspecified() && claim_found.mac.0[0] & 1 == 0);
        for router in [false, true] {
            let frame = announcement(claim_found.mac, claim_found.ip, router);
            assert_eq!(claim(frame.bytes()), Some(claim_found));
        }
        // What follows it, as the padding of short frames, changes nothing.
        assert_eq!(claim(&[bytes, &[0; 18]].concat()), Some(claim_found));
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Those of the packets that were captured.
fn envelope(v6: bool, unicast: bool) -> Envelope {
    let (source, destination) = match (v6, unicast) {
        (false, false) => ("192.0.2.11", "224.0.0.18"),
        (false, true) => ("192.0.2.11", "192.0.2.12"),
        (true, false) => ("fe80::3063:e2ff:fe3b:cd4a", "ff02::12"),
        (true, true) => ("fd00:2::11", "fd00:2::12"),
    };
    Envelope { source: ip(source), destination: ip(destination), ttl: 255 }
}

/// Writes the right checksum, which no fuzzer finds.
fn mend(bytes: &mut [u8], envelope: &Envelope) {
    if bytes.len() < 8 {
        return;
    }
    bytes[6..8].fill(0);
    let mut all = bytes.to_vec();
    if all.len() % 2 == 1 {
        all.push(0);
    }
    if envelope.source.is_ipv6() || bytes[0] >> 4 == 3 {
        for ip in [envelope.source, envelope.destination] {
            match ip {
                IpAddr::V4(ip) => all.extend(ip.octets()),
                IpAddr::V6(ip) => all.extend(ip.octets()),
            }
        }
        all.extend([0, PROTOCOL]);
        all.extend((bytes.len() as u32).to_be_bytes());
    }
    let mut sum: u64 = all.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
