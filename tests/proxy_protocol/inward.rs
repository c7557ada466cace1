//! Headers that proxies in front send.

use bascule::proxy_protocol::{Header, Version};

use super::{CLIENT, header};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{End, get, ok};

const LOG: &str = "[access_log]\npath = \"/log\"\nformat = '$remote_addr:$remote_port $realip_remote_addr \
                   $proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port'\n";

const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]";
const OPTIONAL: &str = "proxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.1\"]";

/// A server, and a listener of `protocol` with these keys in front of it.
fn stage(protocol: &str, listener: &str) -> (Origin, Proxy) {
    let origin = Origin::new();
    let addr = origin.addr();
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\nprotocol = \"{protocol}\"\npool = \"p\"\n{listener}\n\
         [pool.p]\nservers = [\"{addr}\"]\n{LOG}"
    ));
    (origin, proxy)
}

/// The reason of the only failure that is remembered, once there is one.
fn failure(proxy: &Proxy) -> &'static str {
    let reasons = || proxy.engine().errors().errors.iter().map(|error| error.reason).collect::<Vec<_>>();
    wait_for("a failure", || match reasons()[..] {
        [] => None,
        [reason] => Some(reason),
        ref several => panic!("{several:?}"),
    })
}

#[test]
fn the_client_of_a_request_is_the_source_in_the_header() {
    for version in [Version::V1, Version::V2] {
        let (origin, mut proxy) = stage("http", REQUIRED);
        let mut client = proxy.connect();
        // With the first request in one segment, and a second one behind it without a header.
        client.send([header(version, CLIENT, &[5, 0, 1, b'x']), get("/1").into_bytes()].concat());
        let (mut server, request) = origin.request();
        assert_eq!((&*request.line, request.field("x-forwarded-for")), ("GET /1 HTTP/1.1", Some("192.0.2.7")));
        server.send(ok("1"));
        assert_eq!(client.response().body, b"1");
        client.send(get("/2"));
        assert_eq!(server.request().field("x-forwarded-for"), Some("192.0.2.7"));
        server.send(ok("2"));
        assert_eq!(client.response().body, b"2");
        for _ in 0..2 {
            assert_eq!(proxy.log_line(), "192.0.2.7:40001 127.0.0.1 192.0.2.7:40001 198.51.100.1:443");
        }
    }
}

#[test]
fn a_header_may_come_byte_by_byte() {
    for version in [Version::V1, Version::V2] {
        let (origin, proxy) = stage("http", REQUIRED);
        let mut client = proxy.connect();
        for byte in [header(version, "[2001:db8::7]:1", &[]), get("/").into_bytes()].concat() {
            client.send([byte]);
        }
        assert_eq!(origin.request().1.field("x-forwarded-for"), Some("2001:db8::7"));
    }
}

#[test]
fn who_speaks_for_itself_is_the_client() {
    for version in [Version::V1, Version::V2] {
        let (origin, mut proxy) = stage("http", REQUIRED);
        let mut client = proxy.connect();
        let mut bytes = Vec::new();
        version.write(&Header::default(), &mut bytes);
        client.send([bytes, get("/").into_bytes()].concat());
        let (mut server, request) = origin.request();
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        server.send(ok(""));
        client.response();
        let port = client.local_addr().port();
        assert_eq!(proxy.log_line(), format!("127.0.0.1:{port} 127.0.0.1 -:- -:-"));
    }
}

#[test]
fn what_is_no_header_closes_the_connection_with_its_reason() {
    for protocol in ["http", "tcp"] {
        for bytes in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 192.0.2.7\r\n", "\r\n\r\n\0\r\nQUIT\n\x11"] {
            let (origin, proxy) = stage(protocol, REQUIRED);
            let mut client = proxy.connect();
            client.send(bytes);
            client.expect_gone();
            assert_eq!(failure(&proxy), "proxy_header", "{protocol}: {bytes:?}");
            assert!(!origin.is_wanted());
        }
        let (_origin, proxy) = stage(protocol, &format!("{REQUIRED}\nheader_timeout = \"50ms\""));
        let mut client = proxy.connect();
        client.send("PROXY TCP4");
        client.expect_gone();
        assert_eq!(failure(&proxy), "client_timeout", "{protocol}");
    }
}

#[test]
fn a_proxy_that_only_looks_whether_the_port_is_open_is_no_failure() {
    let (_origin, proxy) = stage("http", REQUIRED);
    let mut client = proxy.connect();
    client.finish();
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    assert!(proxy.engine().errors().errors.is_empty());
}

#[test]
fn an_optional_header_may_be_missing() {
    let (origin, proxy) = stage("http", OPTIONAL);
    for (bytes, expected) in [(header(Version::V2, CLIENT, &[]), "192.0.2.7"), (Vec::new(), "127.0.0.1")] {
        let mut client = proxy.connect();
        client.send([bytes, get("/").into_bytes()].concat());
        let (mut server, request) = origin.request();
        assert_eq!(request.field("x-forwarded-for"), Some(expected));
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.response();
    }
    // A method that begins as a header does.
    let mut client = proxy.connect();
    for byte in "PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n".bytes() {
        client.send([byte]);
    }
    let (mut server, request) = origin.request();
    assert_eq!(request.line, "PROPFIND / HTTP/1.1");
    server.send(ok(""));
    client.response();
    // A broken one is not taken for something else.
    let mut client = proxy.connect();
    client.send("PROXY \r\n");
    client.expect_gone();
    assert_eq!(failure(&proxy), "proxy_header");
}

#[test]
fn nobody_else_is_believed() {
    let untrusted = |mode: &str| format!("proxy_protocol = \"{mode}\"\ntrusted_proxies = [\"192.0.2.1\"]");
    for protocol in ["http", "tcp"] {
        let (origin, proxy) = stage(protocol, &untrusted("required"));
        let mut client = proxy.connect();
        let _ = client.try_send(header(Version::V1, CLIENT, &[]));
        client.expect_gone();
        assert_eq!((proxy.engine().listener_denied("l"), origin.is_wanted()), (1, false), "{protocol}");
        assert!(proxy.engine().errors().errors.is_empty());
    }
    let (origin, proxy) = stage("http", &untrusted("optional"));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(origin.request().1.field("x-forwarded-for"), Some("127.0.0.1"));
    let mut client = proxy.connect();
    client.send([header(Version::V1, CLIENT, &[]), get("/").into_bytes()].concat());
    assert_eq!(client.response().status(), 400, "its header is a request line that is none");
}

#[test]
fn access_lists_and_limits_look_at_the_source() {
    let limit = "[limit.once]\nrate = \"1/h\"";
    for protocol in ["http", "tcp"] {
        // The proxy itself may not come in, which is no matter.
        let lists = "allow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.66\", \"127.0.0.1\"]\nlimits = [\"once\"]";
        let (origin, proxy) = stage(protocol, &format!("{REQUIRED}\n{lists}\n{limit}"));
        let ask = |source: &str| {
            let mut client = proxy.connect();
            let _ = client.try_send([header(Version::V2, source, &[]), get("/").into_bytes()].concat());
            client
        };
        for (source, denied) in [("192.0.2.66:1", 1), ("203.0.113.1:1", 2)] {
            ask(source).expect_gone();
            assert_eq!(
                (proxy.engine().listener_denied("l"), origin.is_wanted()),
                (denied, false),
                "{protocol} {source}"
            );
        }
        let _first = ask("192.0.2.7:1");
        let _server = origin.request();
        let _other = ask("192.0.2.8:1");
        let _server = origin.request();
        let mut again = ask("192.0.2.7:2");
        match protocol {
            "http" => assert_eq!(again.response().status(), 429),
            _ => again.expect_gone(),
        }
        assert!(!origin.is_wanted(), "{protocol}");
    }
}

#[test]
fn a_session_begins_behind_the_header() {
    let (origin, mut proxy) = stage("tcp", REQUIRED);
    let mut client = proxy.connect();
    client.send([header(Version::V1, CLIENT, &[]), b"first ".to_vec()].concat());
    let mut server = origin.accept();
    client.send("second");
    client.finish();
    assert_eq!(server.rest(), (b"first second".to_vec(), End::Fin));
    server.send("answer");
    server.finish();
    assert_eq!(client.rest(), (b"answer".to_vec(), End::Fin));
    assert_eq!(proxy.log_line(), "192.0.2.7:40001 127.0.0.1 192.0.2.7:40001 198.51.100.1:443");
}

#[test]
fn draining_waits_for_who_has_begun_to_speak() {
    for protocol in ["http", "tcp"] {
        let (origin, mut proxy) = stage(protocol, REQUIRED);
        let (mut silent, mut speaking) = (proxy.connect(), proxy.connect());
        let header = header(Version::V1, CLIENT, &[]);
        speaking.send(&header[..9]);
        wait_for("both to be accepted", || (proxy.engine().connections() == 2).then_some(()));
        proxy.drain();
        silent.expect_end();
        speaking.send([&header[9..], get("/").as_bytes()].concat());
        let (mut server, _) = origin.request();
        server.send(ok("answer"));
        assert_eq!(speaking.response().body, b"answer", "{protocol}");
    }
}
