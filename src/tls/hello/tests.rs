#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

/// `openssl s_client -servername Shop.Example.com -alpn h2,http/1.1`, OpenSSL 3.0.
const OPENSSL_TLS13: &str = "\
    160301014f0100014b030351d672b442b2c30d3ce6dbce2799a812a0a1fb6ac0b839541e93e88c5a3afb4c20af752e2f288491fec462c7da7a\
    f11e91fb421822acadcb2efae8b8d0796d7bd3003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067\
    c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000c400000015001300001053686f702e4578616d706c652e636f6d000b\
    000403000102000a00160014001d0017001e0019001801000101010201030104002300000010000e000c02683208687474702f312e31001600\
    0000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602002b00090803\
    04030303020301002d00020101003300260024001d0020c9bcfeaaf7bf244a9fae8aa93d9e79c224f006e17ef47c5148d1517c432f0671";

/// `openssl s_client -noservername -tls1`.
const OPENSSL_TLS10: &str = "\
    160301007f0100007b0301416e6b7cd23cab00e8606033d103acfffaa5d5491453c45333897da74034f9df00002ec00ac01400390038008800\
    87c019003a0089c009c0130033003200450044c0180034004600350084002f004100ff01000024000b000403000102000a000c000a001d0017\
    001e00190018002300000016000000170000";

const VERSION: Malformed = Malformed::Field("version");
const EXTENSIONS: Malformed = Malformed::Field("extensions");
const NAME: Malformed = Malformed::Field("server name");
const PROTOCOLS: Malformed = Malformed::Field("protocol list");
const VERSIONS: Malformed = Malformed::Field("version list");

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("hex")
}

fn list8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("short")], bytes].concat()
}

fn list16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), list16(data)].concat()
}

fn named(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &list16(&[&[HOST_NAME], &list16(name)[..]].concat()))
}

/// A message with this body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// Records of at most `fragment` bytes each.
fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    message.chunks(fragment).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &list16(part)].concat()).collect()
}

/// What every hello has before its extensions.
fn start() -> Vec<u8> {
    start_with(&[0x1301, 0x0a0a])
}

fn start_with(suites: &[u16]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    [&[3, 3][..], &[7; 32], &list8(&[9; 32]), &list16(&suites), &list8(&[0])].concat()
}

/// One record with a hello that has these extensions.
fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [start(), list16(&extensions.concat())].concat();
    records(&message(CLIENT_HELLO, &body), MAX_FRAGMENT)
}

fn parse(bytes: &[u8]) -> Result<Parse, Malformed> {
    Reader::default().parse(bytes)
}

/// A hello that must be complete, and was not before its last byte.
fn accept(bytes: &[u8]) -> ClientHello {
    let mut reader = Reader::default();
    for n in 0..bytes.len() {
        assert_eq!(reader.parse(&bytes[..n]), Ok(Parse::Partial), "{n} bytes of {}", bytes.escape_ascii());
    }
    match (reader.parse(bytes), parse(bytes)) {
        (Ok(Parse::Complete(hello)), Ok(Parse::Complete(other))) if hello == other => hello,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

fn names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

#[test]
fn what_openssl_sends_is_understood() {
    let hello = accept(&hex(OPENSSL_TLS13));
    assert_eq!(hello.server_name.as_deref(), Some("shop.example.com"));
    assert_eq!(hello.alpn, names(&["h2", "http/1.1"]));
    assert_eq!(hello.versions, [0x0304, 0x0303, 0x0302, 0x0301].map(Version));
    assert_eq!(hello.highest_version().and_then(Version::name), Some("TLSv1.3"));

    let hello = accept(&hex(OPENSSL_TLS10));
    assert_eq!(hello, ClientHello { versions: vec![Version(0x0301)], ..ClientHello::default() });
    assert_eq!(hello.highest_version().and_then(Version::name), Some("TLSv1"));
}

#[test]
fn a_client_without_aes_in_hardware_is_known_by_its_first_cipher() {
    for (suites, prefers_chacha) in [
        (&[0x1303, 0x1301][..], true),
        (&[0x2a2a, 0x1303, 0x1301], true),
        (&[0xcca8, 0xc02f], true),
        (&[0xcca9], true),
        (&[0x1301, 0x1303], false),
        (&[0x2a2a, 0x1301, 0x1303], false),
        (&[0x2a2a], false),
    ] {
        let hello = accept(&records(&message(CLIENT_HELLO, &start_with(suites)), MAX_FRAGMENT));
        assert_eq!(hello.prefers_chacha, prefers_chacha, "{suites:x?}");
    }
}

#[test]
fn a_hello_may_be_spread_over_any_records() {
    let whole = hex(OPENSSL_TLS13);
    let expected = accept(&whole);
    for fragment in [1, 2, 3, 4, 5, 64, 100] {
        assert_eq!(accept(&records(&whole[RECORD_HEADER..], fragment)), expected, "records of {fragment} bytes");
    }
}

#[test]
fn what_follows_is_not_looked_at() {
    let whole = hex(OPENSSL_TLS13);
    let expected = Ok(Parse::Complete(accept(&whole)));
    // Early data, a second message in the record, nonsense.
    assert_eq!(parse(&[&whole[..], &[23, 3, 3, 0, 1, 0]].concat()), expected);
    assert_eq!(parse(&[&whole[..], b"GET /"].concat()), expected);
    let two = [&whole[RECORD_HEADER..], &[2, 0, 0, 0]].concat();
    assert_eq!(parse(&records(&two, MAX_FRAGMENT)), expected);
}

#[test]
fn the_least_and_the_unknown_are_tolerated() {
    let old = records(&message(CLIENT_HELLO, &start()), MAX_FRAGMENT);
    assert_eq!(accept(&old), ClientHello { versions: vec![Version(0x0303)], ..ClientHello::default() });
    assert_eq!(accept(&with(&[])).alpn, names(&[]));
    let grease = [
        extension(0x0a0a, &[]),
        named(b"a.example"),
        extension(SUPPORTED_VERSIONS, &list8(&[0xda, 0xda, 3, 4, 3, 3, 0x7f, 0x1c])),
        extension(ALPN, &list16(&[list8(b"\x1a\x1a"), list8(b"h2")].concat())),
        // The outer part of an encrypted hello.
        extension(0xfe0d, &[0; 40]),
        extension(0xfafa, &[0]),
    ];
    let hello = accept(&with(&grease));
    assert_eq!(hello.server_name.as_deref(), Some("a.example"));
    assert_eq!(hello.alpn, names(&["\x1a\x1a", "h2"]));
    assert_eq!(hello.versions, [0x0304, 0x0303, 0x7f1c].map(Version));
    assert_eq!(hello.highest_version(), Some(Version(0x0304)));
    assert_eq!(ClientHello { versions: vec![Version(0x0305)], ..hello }.highest_version(), None);
    // A name of a type that does not exist yet, then a host name.
    let other = [&[1][..], &list16(b"x"), &[HOST_NAME], &list16(b"b")].concat();
    assert_eq!(accept(&with(&[extension(SERVER_NAME, &list16(&other))])).server_name.as_deref(), Some("b"));
}

#[test]
fn server_names_are_host_names() {
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    for (name, is) in [
        ("shop.example.com", Some("shop.example.com")),
        ("SHOP.Example.COM.", Some("shop.example.com")),
        ("localhost", Some("localhost")),
        ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        ("_service.a-b.9", Some("_service.a-b.9")),
        (&long, Some(&long)),
        ("192.0.2.1", None),
        ("192.0.2.1.", None),
        ("2001:db8::1", None),
        ("::ffff:192.0.2.1", None),
    ] {
        assert_eq!(accept(&with(&[named(name.as_bytes())])).server_name.as_deref(), is, "{name}");
    }
    let label = "a".repeat(64);
    let longer = format!("{long}d");
    for name in [
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\0",
        "a.example\0.b",
        "*.a",
        "a:443",
        "[::1]",
        "a/b",
        "b\u{fc}cher.example",
        "a%",
        &label,
        &longer,
    ] {
        assert_eq!(parse(&with(&[named(name.as_bytes())])), Err(Malformed::ServerName), "{name:?}");
    }
    assert_eq!(parse(&with(&[named(&[0xff, b'a'])])), Err(Malformed::ServerName));
}

#[test]
fn what_is_no_client_hello_is_refused_with_its_reason() {
    let body = |body: &[u8]| records(&message(CLIENT_HELLO, body), MAX_FRAGMENT);
    let ext = |kind, data: &[u8]| with(&[extension(kind, data)]);
    let twice = [list16(b"a"), list16(b"b")].map(|name| [&[HOST_NAME], &name[..]].concat()).concat();
    for (bytes, error) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Malformed::NotTls(b'G')),
        (vec![0], Malformed::NotTls(0)),
        (vec![ALERT, 3, 1, 0, 2, 2, 70], Malformed::Alert),
        (vec![0x80, 46, 1, 3, 1], Malformed::Ssl2),
        (vec![0x80, 46, 2], Malformed::NotTls(0x80)),
        (vec![HANDSHAKE, 2, 0, 0, 1], Malformed::RecordVersion(0x0200)),
        (vec![HANDSHAKE, 3, 1, 0, 0], Malformed::RecordLength(0)),
        (vec![HANDSHAKE, 3, 1, 0x40, 1], Malformed::RecordLength(0x4001)),
        (vec![HANDSHAKE, 3, 1, 0, 4, 2], Malformed::MessageType(2)),
        (vec![HANDSHAKE, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], Malformed::TooLarge(0x00ff_ffff + 9)),
        ([records(&message(CLIENT_HELLO, &start())[..9], 9), vec![23]].concat(), Malformed::Interrupted(23)),
        ([records(&message(CLIENT_HELLO, &start())[..9], 9), vec![20]].concat(), Malformed::Interrupted(20)),
        (body(&[]), VERSION),
        (body(&[3]), VERSION),
        (body(&[3, 3, 1]), Malformed::Field("random")),
        (body(&[&[3, 3][..], &[0; 32], &list8(&[0; 33])].concat()), Malformed::Field("session id")),
        (body(&[&[3, 3][..], &[0; 32], &[0, 0, 0]].concat()), Malformed::Field("cipher suites")),
        (body(&[&[3, 3][..], &[0; 32], &[0, 0, 3, 1, 1, 1]].concat()), Malformed::Field("cipher suites")),
        (body(&[&[3, 3][..], &[0; 32], &[0, 0, 2, 1, 1, 0]].concat()), Malformed::Field("compression methods")),
        (body(&[start(), vec![0]].concat()), EXTENSIONS),
        (body(&[start(), vec![0, 1, 0]].concat()), EXTENSIONS),
        (body(&[start(), vec![0, 0, 0]].concat()), EXTENSIONS),
        (body(&[start(), list16(&[0, 10, 0, 1])].concat()), EXTENSIONS),
        (with(&[named(b"a"), named(b"a")]), Malformed::Twice(SERVER_NAME)),
        (with(&[extension(0x0a0a, &[]), extension(0x0a0a, &[])]), Malformed::Twice(0x0a0a)),
        (ext(SERVER_NAME, &list16(&twice)), Malformed::Twice(SERVER_NAME)),
        (ext(SERVER_NAME, &[]), NAME),
        (ext(SERVER_NAME, &[0, 0]), NAME),
        (ext(SERVER_NAME, &list16(&[HOST_NAME, 0, 0])), NAME),
        (ext(SERVER_NAME, &list16(&[HOST_NAME, 0, 2, b'a'])), NAME),
        (ext(SERVER_NAME, &[0, 4, HOST_NAME, 0, 1, b'a', 0]), NAME),
        (ext(ALPN, &[0, 0]), PROTOCOLS),
        (ext(ALPN, &[0, 2, 0, 0]), PROTOCOLS),
        (ext(ALPN, &[0, 3, 3, b'h', b'2']), PROTOCOLS),
        (ext(ALPN, &[0, 3, 2, b'h', b'2', 0]), PROTOCOLS),
        (ext(SUPPORTED_VERSIONS, &[0]), VERSIONS),
        (ext(SUPPORTED_VERSIONS, &[3, 3, 4, 3]), VERSIONS),
        (ext(SUPPORTED_VERSIONS, &[2, 3, 4, 3]), VERSIONS),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{}: {error}", bytes.escape_ascii());
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn the_size_is_bounded_to_the_byte() {
    let whole = hex(OPENSSL_TLS13);
    let parse = |max_size, bytes: &[u8]| Reader::new(max_size).parse(bytes);
    let size = whole.len();
    assert!(matches!(parse(size, &whole), Ok(Parse::Complete(_))));
    assert_eq!(parse(size - 1, &whole), Err(Malformed::TooLarge(size)));
    // As soon as the length is there.
    assert_eq!(parse(size - 1, &whole[..RECORD_HEADER]), Err(Malformed::TooLarge(size)));
    // Record headers count too.
    let many = records(&whole[RECORD_HEADER..], 1);
    assert!(matches!(parse(many.len(), &many), Ok(Parse::Complete(_))));
    assert_eq!(parse(many.len() - 1, &many), Err(Malformed::TooLarge(many.len())));
    // Larger than a record, as with the keys of several post-quantum groups.
    let large = [start(), list16(&[extension(51, &[0; 20_000]), named(b"a")].concat())].concat();
    let large = records(&message(CLIENT_HELLO, &large), MAX_FRAGMENT);
    assert_eq!(accept(&large).server_name.as_deref(), Some("a"));
}

proptest! {
    #[test]
    fn no_bytes_do_harm_and_no_split_matters(bytes in near_hello(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let whole = parse(&bytes);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let mut reader = Reader::default();
        let last = ends.iter().map(|end| reader.parse(&bytes[..*end])).find(|result| *result != Ok(Parse::Partial));
        prop_assert_eq!(last.unwrap_or(Ok(Parse::Partial)), whole);
    }

    #[test]
    fn what_was_written_is_read(
        name in "[a-z0-9_]{1,20}(\\.[a-z][a-z0-9-]{0,20}){1,4}",
        alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..5),
        fragment in 1_usize..400,
        padding in 0_usize..9000,
    ) {
        let list: Vec<u8> = alpn.iter().flat_map(|protocol| list8(protocol)).collect();
        let extensions = [extension(21, &vec![0; padding]), named(name.as_bytes()), extension(ALPN, &list16(&list))];
        let body = [start(), list16(&extensions.concat())].concat();
        let bytes = records(&message(CLIENT_HELLO, &body), fragment);
        let expected =
            ClientHello { server_name: Some(name), alpn, versions: vec![Version(0x0303)], ..ClientHello::default() };
        prop_assert_eq!(Reader::new(bytes.len()).parse(&bytes), Ok(Parse::Complete(expected)));
        prop_assert_eq!(Reader::new(bytes.len()).parse(&bytes[..bytes.len() - 1]), Ok(Parse::Partial));
    }
}

/// A real hello with some bytes changed, its end cut off.
fn near_hello() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (changes, 1_usize..400, any::<prop::sample::Index>()).prop_map(|(changes, fragment, end)| {
        let mut bytes = records(&hex(OPENSSL_TLS13)[RECORD_HEADER..], fragment);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        bytes
    })
}
