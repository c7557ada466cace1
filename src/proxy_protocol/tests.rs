#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

fn addresses(source: &str, destination: &str) -> Addresses {
    let end = |text: &str| text.parse().expect("an address");
    Addresses { source: end(source), destination: end(destination) }
}

fn header(addresses: Option<Addresses>, tlvs: &[u8]) -> Header {
    Header { addresses, tlvs: tlvs.to_vec() }
}

fn written(version: Version, header: &Header) -> Vec<u8> {
    let mut out = Vec::new();
    version.write(header, &mut out);
    out
}

/// Version 2 with these bytes behind the signature.
fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [V2_SIGNATURE, &[command, family][..], &length, payload].concat()
}

fn inet(tlvs: &[u8]) -> Vec<u8> {
    v2(PROXY, 0x11, &[&[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb], tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).expect("short").to_be_bytes()[..], value].concat()
}

/// A header that is complete with its last byte and not before, whatever follows.
fn accept(bytes: &[u8]) -> Header {
    for n in 0..bytes.len() {
        assert_eq!(parse(&bytes[..n]), Ok(Parse::Partial), "{n} bytes of {}", bytes.escape_ascii());
    }
    let more = [bytes, b"\r\nGET"].concat();
    match (parse(bytes), parse(&more)) {
        (Ok(Parse::Complete { header, len }), Ok(same)) => {
            assert_eq!(len, bytes.len());
            assert_eq!(same, Parse::Complete { header: header.clone(), len });
            header
        }
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

fn ipv4() -> Addresses {
    addresses("192.0.2.1:56324", "198.51.100.2:443")
}

#[test]
fn lines_of_version_1_are_read() {
    let longest =
        "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 16));
    assert_eq!(unknown.len(), MAX_V1);
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Some(ipv4())),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some(addresses("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", Some(addresses("192.0.2.1:0", "198.51.100.2:0"))),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some(addresses("[2001:db8::1]:1", "[::1]:2"))),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some(addresses("[::ffff:192.0.2.1]:1", "[::1]:2"))),
        (&longest, Some(addresses(all, all))),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        (&unknown, None),
    ] {
        assert_eq!(accept(line.as_bytes()), header(expected, &[]), "{line:?}");
    }
}

#[test]
fn lines_that_are_malformed_are_refused() {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let just_too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 15));
    for (line, error) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n", Malformed::LineEnd),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r", Malformed::LineEnd),
        (&long[..MAX_V1], Malformed::LineTooLong),
        (&long, Malformed::LineTooLong),
        (&just_too_long, Malformed::LineTooLong),
        ("PROXY \r\n", Malformed::Protocol),
        ("PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Malformed::Protocol),
        ("PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n", Malformed::Protocol),
        ("PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n", Malformed::Protocol),
        ("PROXY TCP4\r\n", Malformed::Address),
        ("PROXY TCP4 192.0.2.1\r\n", Malformed::Address),
        ("PROXY TCP4 192.0.2.1  198.51.100.2 56324 443\r\n", Malformed::Address),
        ("PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n", Malformed::Address),
        ("PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n", Malformed::Address),
        ("PROXY TCP4 ::1 ::1 56324 443\r\n", Malformed::Address),
        ("PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n", Malformed::Address),
        ("PROXY TCP6 [::1] [::1] 56324 443\r\n", Malformed::Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n", Malformed::Address),
        ("PROXY TCP4 a.example 198.51.100.2 56324 443\r\n", Malformed::Address),
        ("PROXY TCP4 192.0.2.1 198.51.100.2\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 056 443\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 +56 443\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n", Malformed::Port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n", Malformed::Port),
    ] {
        assert_eq!(parse(line.as_bytes()), Err(error), "{line:?}: {error}");
    }
    assert_eq!(parse(b"PROXY TCP4 \xff 198.51.100.2 1 2\r\n"), Err(Malformed::Address));
}

#[test]
fn something_else_is_told_from_the_first_byte_that_differs() {
    let prefixes = ["P", "PROXY", "PROXY ", "\r", "\r\n\r\n\0\r\nQUIT"];
    assert!(prefixes.iter().all(|bytes| parse(bytes.as_bytes()) == Ok(Parse::Partial)));
    for bytes in [
        "G",
        "PO",
        "POST / HTTP/1.1\r\n",
        "PROXY\t",
        "proxy ",
        " PROXY ",
        "\n",
        "\r\n\r\nG",
        "\r\n\r\n\0\r\nQUIT\r",
        "\x16\x03\x01",
    ] {
        assert_eq!(parse(bytes.as_bytes()), Ok(Parse::Absent), "{bytes:?}");
    }
}

#[test]
fn blocks_of_version_2_are_read() {
    let v6 = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
    let inet6 = |source: &str, destination: &str| {
        let ips = [source, destination].map(|ip| ip.parse::<Ipv6Addr>().expect("an address").octets());
        [ips.as_flattened(), &[0, 1, 0xff, 0xff]].concat()
    };
    let unix = [&[b'/'; UNIX_SIZE][..], &tlv(2, b"a.example")].concat();
    for (bytes, expected) in [
        (inet(&[]), header(Some(ipv4()), &[])),
        (v2(PROXY, 0x21, &inet6("2001:db8::1", "2001:db8::2")), header(Some(v6), &[])),
        (inet(&tlv(2, b"a.example")), header(Some(ipv4()), &tlv(2, b"a.example"))),
        (
            inet(&[tlv(4, &[0; 7]), tlv(5, b"id"), tlv(0xea, &[])].concat()),
            header(Some(ipv4()), &[tlv(5, b"id"), tlv(0xea, &[])].concat()),
        ),
        (v2(LOCAL, 0, &[]), header(None, &[])),
        // Of itself a sender may say anything.
        (v2(LOCAL, 0x11, &[1, 2, 3]), header(None, &[])),
        (v2(PROXY, 0, &[1, 2, 3]), header(None, &[])),
        (v2(PROXY, 0x01, &[]), header(None, &[])),
        (v2(PROXY, 0x31, &unix), header(None, &tlv(2, b"a.example"))),
        (v2(PROXY, 0x12, &[0; INET_SIZE]), header(None, &[])),
        (v2(PROXY, 0x22, &[0; INET6_SIZE]), header(None, &[])),
    ] {
        assert_eq!(accept(&bytes), expected, "{}", bytes.escape_ascii());
    }
    let padding = tlv(4, &vec![0; MAX_V2 - V2_START - INET_SIZE - 3]);
    assert_eq!(inet(&padding).len(), MAX_V2);
    assert_eq!(accept(&inet(&padding)).addresses, Some(ipv4()));
}

#[test]
fn blocks_that_are_malformed_are_refused_as_soon_as_that_is_certain() {
    let start = |rest: &[u8]| [V2_SIGNATURE, rest].concat();
    for (bytes, error) in [
        (start(&[0x11]), Malformed::Command(0x11)),
        (start(&[0x22]), Malformed::Command(0x22)),
        (start(&[0x31]), Malformed::Command(0x31)),
        (start(&[PROXY, 0x41]), Malformed::Family(0x41)),
        (start(&[PROXY, 0x13]), Malformed::Family(0x13)),
        (start(&[PROXY, 0x11, 0, 11]), Malformed::TooShort(11)),
        (start(&[PROXY, 0x21, 0, 35]), Malformed::TooShort(35)),
        (start(&[PROXY, 0x31, 0, 215]), Malformed::TooShort(215)),
        (start(&[PROXY, 0x11, 0x40, 0]), Malformed::TooLarge(MAX_V2 + V2_START)),
        (start(&[LOCAL, 0x11, 0xff, 0xff]), Malformed::TooLarge(65_551)),
        (inet(&[5]), Malformed::Tlv(5)),
        (inet(&[5, 0]), Malformed::Tlv(5)),
        (inet(&[5, 0, 2, 1]), Malformed::Tlv(5)),
        (inet(&[tlv(5, b"ok"), vec![4, 1, 0]].concat()), Malformed::Tlv(4)),
        (inet(&tlv(TLV_CRC32C, &[0; 3])), Malformed::Tlv(3)),
        (inet(&tlv(TLV_CRC32C, &[0; 5])), Malformed::Tlv(3)),
        (inet(&tlv(TLV_CRC32C, &[0; 4])), Malformed::Checksum),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{}: {error}", bytes.escape_ascii());
    }
}

#[test]
fn the_checksum_is_checked_and_not_passed_on() {
    // RFC 9260 has no numbers; these are the usual ones, of RFC 3720 appendix B.4 among others.
    assert_eq!(crc32c([b"1234", b"", b"56789"]), 0xe306_9283);
    assert_eq!(crc32c([&[0; 32], &[], &[]]), 0x8a91_36aa);
    assert_eq!(crc32c([&[0xff; 32], &[], &[]]), 0x62a8_ab43);

    let id = tlv(5, b"id");
    let mut bytes = inet(&[tlv(TLV_CRC32C, &[0; 4]), id.clone()].concat());
    let sum = crc32c([&bytes, &[], &[]]).to_be_bytes();
    let at = bytes.len() - id.len() - 4;
    bytes[at..at + 4].copy_from_slice(&sum);
    assert_eq!(accept(&bytes), header(Some(ipv4()), &id));
    for i in V2_START..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[i] ^= 0x40;
        assert_ne!(parse(&wrong), parse(&bytes), "byte {i}");
    }
    bytes[at] ^= 1;
    assert_eq!(parse(&bytes), Err(Malformed::Checksum));

    let mut twice = inet(&[tlv(TLV_CRC32C, &[0; 4]), tlv(TLV_CRC32C, &[0; 4])].concat());
    let sum = crc32c([&twice, &[], &[]]).to_be_bytes();
    let at = twice.len() - 11;
    twice[at..at + 4].copy_from_slice(&sum);
    assert_eq!(parse(&twice), Err(Malformed::Checksum));
}

#[test]
fn headers_are_written_as_the_specification_shows_them() {
    let all = addresses("255.255.255.255:65535", "255.255.255.255:65535");
    assert_eq!(
        written(Version::V1, &header(Some(all), b"")),
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"
    );
    assert_eq!(written(Version::V1, &Header::default()), b"PROXY UNKNOWN\r\n");
    assert_eq!(written(Version::V2, &Header::default()), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    let id = tlv(5, b"id");
    assert_eq!(written(Version::V2, &header(Some(ipv4()), &id)), inet(&id));
    assert_eq!(written(Version::V1, &header(Some(ipv4()), &id)), b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
}

#[test]
fn addresses_of_two_families_are_both_written_as_ipv6() {
    let mixed = header(Some(addresses("192.0.2.1:1", "[2001:db8::1]:2")), &[]);
    let expected = Some(addresses("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2"));
    assert_eq!(written(Version::V1, &mixed), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
    assert_eq!(accept(&written(Version::V2, &mixed)).addresses, expected);
    // As a socket for both families has them.
    let mapped = header(Some(addresses("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")), &[]);
    assert_eq!(written(Version::V1, &mapped), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
}

#[test]
fn tlvs_that_do_not_fit_are_left_out() {
    let large = header(Some(ipv4()), &vec![0; 65_536 - INET_SIZE]);
    assert_eq!(written(Version::V2, &large), inet(&[]));
}

proptest! {
    #[test]
    fn no_bytes_do_harm_and_a_prefix_is_never_more_than_the_whole(bytes in near_header()) {
        match parse(&bytes) {
            Ok(Parse::Complete { header, len }) => {
                prop_assert_eq!(parse(&bytes[..len]), Ok(Parse::Complete { header, len }));
                prop_assert_eq!(parse(&bytes[..len - 1]), Ok(Parse::Partial));
            }
            Ok(Parse::Partial) => {
                for n in 0..bytes.len() {
                    prop_assert_eq!(parse(&bytes[..n]), Ok(Parse::Partial));
                }
            }
            Ok(Parse::Absent) | Err(_) => {}
        }
    }

    #[test]
    fn what_is_written_is_read(
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        values in prop::collection::vec((5_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..5),
    ) {
        let ends = Addresses { source: source.into(), destination: destination.into() };
        let tlvs: Vec<u8> = values.iter().flat_map(|(kind, value)| tlv(*kind, value)).collect();
        for version in [Version::V1, Version::V2] {
            let expected = if version == Version::V1 { &[] } else { &tlvs[..] };
            let read = accept(&written(version, &header(Some(ends), &tlvs)));
            prop_assert_eq!(&read.tlvs[..], expected);
            let read = read.addresses.expect("addresses");
            for (read, wrote) in [(read.source, ends.source), (read.destination, ends.destination)] {
                prop_assert_eq!((read.ip().to_canonical(), read.port()), (wrote.ip().to_canonical(), wrote.port()));
            }
        }
    }
}

/// Any bytes, or a header with some of its bytes changed and its end cut off.
fn near_header() -> impl Strategy<Value = Vec<u8>> {
    let headers = prop_oneof![
        Just(inet(&[tlv(4, b"x"), tlv(5, b"id")].concat())),
        Just(v2(PROXY, 0x21, &[7; 50])),
        Just(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec()),
        Just(b"PROXY TCP6 2001:db8::1 ::1 56324 443\r\nGET".to_vec()),
        prop::collection::vec(any::<u8>(), 1..40),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (headers, changes, any::<prop::sample::Index>()).prop_map(|(mut bytes, changes, end)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        bytes
    })
}
