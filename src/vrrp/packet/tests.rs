use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn envelope(source: &str, destination: &str) -> Envelope {
    Envelope { source: ip(source), destination: ip(destination), ttl: TTL }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn advert(version: Version, vrid: u8, priority: u8, interval: Interval, addresses: &[&str]) -> Advert {
    Advert {
        version,
        vrid: Vrid::new(vrid).unwrap(),
        priority: Priority(priority),
        interval,
        authentication: Authentication::None,
        addresses: addresses.iter().map(|a| ip(a)).collect(),
    }
}

/// What keepalived 2.2.7 sent, and what it means.
fn captured() -> Vec<(&'static str, Envelope, Advert)> {
    let second = Interval::from_secs(1).unwrap();
    let fast = Interval::from_centis(10).unwrap();
    let v4 = envelope("192.0.2.11", "224.0.0.18");
    let pass = |priority| Advert {
        authentication: Authentication::Pass(Password::new("secret12longer")),
        ..advert(Version::V2, 0x33, priority, second, &["192.0.2.100"])
    };
    vec![
        ("2133 9601 0101 17e7 c0000264 7365637265743132", v4, pass(150)),
        ("2133 0001 0101 ade7 c0000264 7365637265743132", v4, pass(0)),
        (
            "3133 9602 000a 1157 c0000264 c0000265",
            v4,
            advert(Version::V3, 0x33, 150, fast, &["192.0.2.100", "192.0.2.101"]),
        ),
        (
            "3134 9601 000a f1c4 c0000266",
            envelope("192.0.2.11", "192.0.2.12"),
            advert(Version::V3, 0x34, 150, fast, &["192.0.2.102"]),
        ),
        (
            "3133 6402 000a 90d2 fe800000000000000000000000010051 fd000002000000000000000000000100",
            envelope("fe80::3063:e2ff:fe3b:cd4a", "ff02::12"),
            advert(Version::V3, 0x33, 100, fast, &["fe80::1:51", "fd00:2::100"]),
        ),
        (
            "3134 9601 000a 400a fd000002000000000000000000000102",
            envelope("fd00:2::11", "fd00:2::12"),
            advert(Version::V3, 0x34, 150, fast, &["fd00:2::102"]),
        ),
        (
            "2133 fe01 0001 b3ef 20010db8000000000000000000000101",
            envelope("fe80::2", "ff02::12"),
            advert(Version::V2, 0x33, 254, second, &["2001:db8::101"]),
        ),
    ]
}

#[test]
fn what_keepalived_sends_is_understood_and_would_be_sent_the_same() {
    for (hex, envelope, meaning) in captured() {
        let bytes = bytes(hex);
        assert_eq!(decode(&bytes, &envelope), Ok((meaning.clone(), Checksum::PseudoHeader)), "{hex}");
        assert_eq!(meaning.encode(envelope.source, envelope.destination, Checksum::PseudoHeader), bytes, "{hex}");
    }
}

#[test]
fn both_checksums_of_version_3_over_ipv4_are_accepted_and_told_apart() {
    let v4 = envelope("192.0.2.11", "224.0.0.18");
    let plain = bytes("3133 9602 000a b3f5 c0000264 c0000265");
    let (advert, checksum) = decode(&plain, &v4).unwrap();
    assert_eq!(checksum, Checksum::Rfc9568);
    assert_eq!(advert.encode(v4.source, v4.destination, Checksum::Rfc9568), plain);
    let unicast = envelope("192.0.2.11", "192.0.2.12");
    assert_eq!(decode(&bytes("3134 9601 000a 7659 c0000266"), &unicast).unwrap().1, Checksum::Rfc9568);
}

#[test]
fn each_flaw_has_its_name() {
    let v4 = envelope("192.0.2.11", "224.0.0.18");
    let good = bytes("3133 9602 000a 1157 c0000264 c0000265");
    // Changes bytes, and mends the checksum unless that is what is to be wrong.
    let flawed = |changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        changes.iter().for_each(|&(at, value)| bytes[at] = value);
        bytes[6..8].fill(0);
        let sum = sum_of(&bytes, Some((v4.source, v4.destination)));
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        decode(&bytes, &v4).map(drop)
    };
    assert_eq!(flawed(&[]), Ok(()));
    assert_eq!(flawed(&[(0, 0x41)]), Err(Malformed::Version(4)));
    assert_eq!(flawed(&[(0, 0x11)]), Err(Malformed::Version(1)));
    assert_eq!(flawed(&[(0, 0x32)]), Err(Malformed::Type(2)));
    assert_eq!(flawed(&[(1, 0)]), Err(Malformed::Vrid));
    assert_eq!(flawed(&[(3, 1)]), Err(Malformed::Length));
    assert_eq!(flawed(&[(3, 255)]), Err(Malformed::Length));
    assert_eq!(flawed(&[(4, 0xf0), (5, 0)]), Err(Malformed::NoInterval));
    assert_eq!(flawed(&[(4, 0xf0), (5, 10)]), Ok(()), "reserved bits are ignored (RFC 9568 5.2.6)");
    for len in 0..good.len() {
        let expected = if len < HEADER { Malformed::TooShort } else { Malformed::Length };
        assert_eq!(decode(&good[..len], &v4).map(drop), Err(expected));
    }
    let mut padded = good.clone();
    padded.push(0);
    assert_eq!(decode(&padded, &v4).map(drop), Err(Malformed::Length));
    let mut none = bytes("3133 9600 000a 0000");
    let sum = sum_of(&none, Some((v4.source, v4.destination)));
    none[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(decode(&none, &v4).map(drop), Err(Malformed::NoAddresses));
    for at in 0..good.len() {
        let mut wrong = good.clone();
        wrong[at] ^= 0x08;
        assert!(decode(&wrong, &v4).is_err(), "byte {at}");
    }
    let elsewhere = envelope("192.0.2.13", "224.0.0.18");
    assert_eq!(decode(&good, &elsewhere).map(drop), Err(Malformed::Checksum));
}

#[test]
fn version_2_has_its_own_flaws() {
    let v4 = envelope("192.0.2.11", "224.0.0.18");
    let sign = |hex: &str| {
        let mut bytes = bytes(hex);
        let sum = sum_of(&bytes, None);
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        decode(&bytes, &v4).map(drop)
    };
    assert_eq!(sign("2133 9601 0001 0000 c0000264 0000000000000000"), Ok(()));
    assert_eq!(sign("2133 9601 0201 0000 c0000264 0000000000000000"), Err(Malformed::AuthenticationType(2)));
    assert_eq!(sign("2133 9601 0000 0000 c0000264 0000000000000000"), Err(Malformed::NoInterval));
    assert_eq!(sign("2133 9601 0001 0000 c0000264"), Err(Malformed::Length), "authentication data is always there");
}

#[test]
fn version_2_over_ipv6_has_no_authentication() {
    let v6 = envelope("fe80::2", "ff02::12");
    // What keepalived 2.2.7 with a password sends: its type, and no data.
    let typed = bytes("2134 fe02 0101 b35d 20010db8000000000000000000000100 fe800000000000000000000000000100");
    assert_eq!(decode(&typed, &v6).map(drop), Err(Malformed::AuthenticationType(1)));
    let second = Interval::from_secs(1).unwrap();
    let open = advert(Version::V2, 0x33, 254, second, &["2001:db8::101"]);
    let typed = Advert { authentication: Authentication::Pass(Password::new("secret")), ..open.clone() };
    let encode = |advert: &Advert| advert.encode(v6.source, v6.destination, Checksum::PseudoHeader);
    assert_eq!(encode(&typed), encode(&open));
}

#[test]
fn ucarp_which_shares_the_protocol_number_is_not_taken_for_a_router() {
    // Version 2, type 1, vhid 1, advskew 0, authlen 7, advbase 1, then counter and HMAC-SHA1.
    let mut carp = bytes("2101 0007 0001 0000");
    carp.extend([0xab; 28]);
    assert_eq!(decode(&carp, &envelope("192.0.2.7", "224.0.0.18")).map(drop), Err(Malformed::Length));
}

fn any_advert() -> impl Strategy<Value = (Advert, Envelope)> {
    let address = |v4: bool| {
        any::<u128>().prop_map(move |bits| {
            if v4 { IpAddr::V4(((bits & 0xffff_ffff) as u32).into()) } else { IpAddr::V6(bits.into()) }
        })
    };
    (any::<bool>(), any::<bool>(), 1..=255u8, any::<u8>(), 1..=4095u16, any::<Option<[u8; 8]>>()).prop_flat_map(
        move |(v4, v3, vrid, priority, interval, password)| {
            let list = prop::collection::vec(address(v4), 1..=40);
            (list, address(v4), address(v4)).prop_map(move |(addresses, source, destination)| {
                let (version, interval, authentication) = if v3 {
                    (Version::V3, Interval::from_centis(interval), Authentication::None)
                } else {
                    let password = password.filter(|_| v4).map(Password);
                    let authentication = password.map_or(Authentication::None, Authentication::Pass);
                    (Version::V2, Interval::from_secs((interval % 255 + 1) as u8), authentication)
                };
                let advert = Advert {
                    version,
                    vrid: Vrid::new(vrid).unwrap(),
                    priority: Priority(priority),
                    interval: interval.unwrap(),
                    authentication,
                    addresses,
                };
                (advert, Envelope { source, destination, ttl: TTL })
            })
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded((advert, envelope) in any_advert(), rfc9568: bool) {
        let style = if rfc9568 { Checksum::Rfc9568 } else { Checksum::PseudoHeader };
        let bytes = advert.encode(envelope.source, envelope.destination, style);
        prop_assert_eq!(decode(&bytes, &envelope).map(|(advert, _)| advert), Ok(advert));
    }

    #[test]
    fn any_bytes_are_an_advert_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..80), v4: bool, mend: bool, first in 0u8..8,
    ) {
        let envelope = if v4 { envelope("192.0.2.1", "224.0.0.18") } else { envelope("fe80::1", "ff02::12") };
        let mut bytes = bytes;
        if mend && bytes.len() >= HEADER {
            // Random bytes seldom get past the first checks.
            bytes[0] = 0x21 + 0x10 * (first & 1);
            bytes[3] = u8::try_from((bytes.len() - HEADER) / 4).unwrap();
            bytes[6..8].fill(0);
            let sum = sum_of(&bytes, (first & 1 == 1 || !v4).then_some((envelope.source, envelope.destination)));
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = decode(&bytes, &envelope);
    }
}
