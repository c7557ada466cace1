//! Other protocols on the connection: upgrades, and what must not become one.

use super::stage;
use crate::support::wire::{End, get, ok};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Accept: 1\r\n\r\n";

#[test]
fn after_101_bytes_pass_both_ways_and_those_sent_too_early_too() {
    let (origin, mut proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send([WEBSOCKET, "early from client"].concat());
    let (mut server, request) = origin.request();
    assert_eq!((request.field("connection"), request.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert!(request.field("sec-websocket-key").is_some());
    server.send([SWITCHING, "early from server"].concat());
    let response = client.head();
    assert_eq!(response.line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!((response.field("connection"), response.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(response.field("x-accept"), Some("1"));
    client.expect("early from server");
    server.expect("early from client");
    // Nothing of it is HTTP any more.
    client.send("GET / HTTP/1.1\r\n\r\n");
    server.expect("GET / HTTP/1.1\r\n\r\n");
    server.send(b"\x81\x05hello");
    client.expect(b"\x81\x05hello");
    // Each direction ends by itself.
    client.finish();
    server.expect_end();
    server.send("last words");
    client.expect("last words");
    drop(server);
    client.expect_end();
    assert_eq!(proxy.log_line(), "GET /chat 101 reason=- tries=1");
}

#[test]
fn a_reset_passes_through_a_tunnel() {
    let (origin, mut proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(WEBSOCKET);
    let (mut server, _) = origin.request();
    server.send(SWITCHING);
    client.head();
    server.reset();
    assert_eq!(client.rest(), (Vec::new(), End::Reset));
    assert_eq!(proxy.log_line(), "GET /chat 101 reason=reset_in_body tries=1");
}

#[test]
fn a_tunnel_outlives_read_timeout_and_ends_with_tunnel_timeout() {
    let (origin, mut proxy) = stage("", "read_timeout = \"50ms\"\ntunnel_timeout = \"300ms\"");
    let mut client = proxy.connect();
    client.send(WEBSOCKET);
    let (mut server, _) = origin.request();
    server.send(SWITCHING);
    client.head();
    let start = std::time::Instant::now();
    server.expect_gone();
    assert!(start.elapsed() >= std::time::Duration::from_millis(250), "{:?}", start.elapsed());
    client.expect_gone();
    assert_eq!(proxy.log_line(), "GET /chat 101 reason=idle_timeout tries=1");
}

#[test]
fn an_upgrade_that_is_answered_otherwise_is_a_request_like_any_other() {
    // CVE-2026-2833: what follows an `Upgrade` that nobody accepted must not bypass the proxy.
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    let upgrade = "GET /1 HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n";
    let smuggled = "GET /2 HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n";
    client.send([upgrade, smuggled].concat());
    let (mut server, request) = origin.request();
    assert_eq!(request.field("upgrade"), Some("foo"));
    server.send("HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: foo\r\nContent-Length: 1\r\n\r\n1");
    let response = client.response();
    assert_eq!((response.status(), response.all("upgrade"), response.all("connection")), (200, vec![], vec![]));
    let second = server.request();
    assert_eq!((second.target(), second.field("x-forwarded-for")), ("/2", Some("127.0.0.1")));
    server.send(ok("2"));
    assert_eq!(client.response().text(), "2");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_bad_response() {
    for request in [
        get("/"),
        // Named, not listed in Connection; with a body; the one that would carry requests past us.
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
    ] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(&request);
        let (mut server, forwarded) = origin.request();
        assert!(forwarded.all("upgrade").is_empty(), "{request}");
        server.send(SWITCHING);
        assert_eq!(client.response().status(), 502);
        server.expect_gone();
        assert_eq!(proxy.log_line(), "GET / 502 reason=bad_head tries=1");
    }
}

#[test]
fn connect_is_refused() {
    let (origin, mut proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(["CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", &get("/smuggled")].concat());
    let response = client.response();
    assert_eq!((response.status(), response.field("connection")), (405, Some("close")));
    client.finish();
    client.expect_end();
    assert!(proxy.log_line().contains(" 405 reason=bad_request"));
    assert!(!origin.is_wanted());
}
