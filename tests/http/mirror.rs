//! Copies of requests for a second pool: they are the same, and whatever becomes of them is nobody's concern.

use std::net::SocketAddr;

use crate::support::origin::{Answering, Origin, Refusing};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{get, ok};

/// All requests go to `real`, and copies to `shadow` with further keys.
fn config(real: SocketAddr, shadow: SocketAddr, keys: &str) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\n\
         [[listener.l.route]]\npath = \"/a\"\npool = \"real\"\nstrip_prefix = \"/a\"\nmirror = {{ pool = \"shadow\"{keys} }}\n\
         request_headers = {{ set = {{ X-Route = \"yes\" }} }}\n\
         [pool.real]\nservers = [\"{real}\"]\n[pool.shadow]\nservers = [\"{shadow}\"]\nretries = 3\n"
    )
}

fn proxy(real: SocketAddr, shadow: SocketAddr, keys: &str) -> Proxy {
    Proxy::start(&config(real, shadow, keys))
}

/// Copies that pool `shadow` got, and those it did not get.
fn copies(proxy: &Proxy) -> (u64, u64) {
    let status = proxy.engine().status(|_| 0);
    let shadow = status.pools.iter().find(|pool| &*pool.name == "shadow").unwrap();
    (shadow.mirrored, shadow.mirrored_left_out)
}

fn ask(proxy: &Proxy, request: impl AsRef<[u8]>) -> Vec<u8> {
    let mut client = proxy.connect();
    client.send(request);
    client.response().body
}

#[test]
fn the_copy_is_the_same_request_and_its_answer_is_thrown_away() {
    let (real, shadow) = (Answering::with(ok("real")), Answering::with(ok("shadow")));
    let proxy = proxy(real.addr(), shadow.addr(), "");
    let request = "POST /a/x?y=1 HTTP/1.1\r\nHost: shop\r\nCookie: c=1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(&proxy, request), b"real");
    wait_for("the copy", || (shadow.requests().len() == 1).then_some(()));
    let (mut sent, copy) = (real.requests(), shadow.requests());
    assert_eq!(sent, copy, "the same bytes, X-Request-Id included");
    let sent = sent.remove(0);
    assert_eq!((sent.line.as_str(), &sent.body[..]), ("POST /x?y=1 HTTP/1.1", &b"hello"[..]));
    assert_eq!(copies(&proxy), (1, 0));
}

#[test]
fn requests_of_a_kept_connection_are_copied_over_kept_connections() {
    let (real, shadow) = (Answering::with(ok("real")), Answering::with(ok("shadow")));
    let proxy = proxy(real.addr(), shadow.addr(), "");
    let mut client = proxy.connect();
    for n in 1..=5 {
        client.send(get("/a"));
        assert_eq!(client.response().body, b"real");
        wait_for("the copy", || (shadow.requests().len() == n).then_some(()));
        // The connection is back before the next copy looks for one.
        wait_for("the end of the copy", || (in_flight(&proxy) == 0).then_some(()));
    }
    assert_eq!(shadow.per_connection(), [5]);
}

fn in_flight(proxy: &Proxy) -> u64 {
    proxy.engine().status(|_| 0).pools.iter().map(|pool| pool.in_flight).sum()
}

#[test]
fn a_mirror_that_is_silent_delays_nobody_and_gets_no_more_than_its_bound() {
    let (real, shadow) = (Answering::with(ok("real")), Origin::new());
    let proxy = proxy(real.addr(), shadow.addr(), ", max_in_flight = 2");
    let mut client = proxy.connect();
    for _ in 0..5 {
        client.send(get("/a"));
        assert_eq!(client.response().body, b"real");
    }
    assert_eq!(copies(&proxy), (2, 3));
    // Whoever gives up before the mirror has answered makes room.
    let held = [shadow.request().0, shadow.request().0];
    drop(held);
    wait_for("room", || {
        client.send(get("/a"));
        assert_eq!(client.response().body, b"real");
        (copies(&proxy).0 > 2).then_some(())
    });
}

#[test]
fn a_mirror_that_refuses_is_not_tried_again_for_the_same_request_and_fails_nobody() {
    let (real, shadow) = (Answering::with(ok("real")), Refusing::new());
    let proxy = proxy(real.addr(), shadow.addr(), "");
    assert_eq!(ask(&proxy, get("/a")), b"real");
    let failures = || proxy.engine().status(|_| 0).pools[1].servers[0].failures;
    wait_for("the failure", || (failures() > 0 && in_flight(&proxy) == 0).then_some(()));
    assert_eq!(failures(), 1);
    assert!(proxy.engine().status(|_| 0).pools[0].servers[0].failures == 0);
}

#[test]
fn what_streams_and_what_upgrades_is_not_copied() {
    let (real, shadow) = (Answering::with(ok("real")), Answering::with(ok("shadow")));
    let proxy = proxy(real.addr(), shadow.addr(), "");
    let chunked = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(ask(&proxy, chunked), b"real");
    let upgrade = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(ask(&proxy, upgrade), b"real");
    assert_eq!(copies(&proxy), (0, 2));
    assert_eq!(shadow.requests().len(), 0);
}

#[test]
fn a_share_is_copied() {
    let (real, shadow) = (Answering::with(ok("real")), Answering::with(ok("shadow")));
    let proxy = proxy(real.addr(), shadow.addr(), ", share = \"25%\"");
    let mut client = proxy.connect();
    for _ in 0..400 {
        client.send(get("/a"));
        client.response();
    }
    let (sent, left_out) = copies(&proxy);
    // Ten standard deviations of a fair draw around 100.
    assert!((14..=186).contains(&sent), "{sent}");
    assert_eq!(left_out, 0);
}

#[test]
fn a_reload_keeps_the_count_and_takes_another_share() {
    let (real, shadow) = (Answering::with(ok("real")), Answering::with(ok("shadow")));
    let mut proxy = proxy(real.addr(), shadow.addr(), "");
    assert_eq!(ask(&proxy, get("/a")), b"real");
    assert_eq!(copies(&proxy), (1, 0));
    proxy.reload(&config(real.addr(), shadow.addr(), ", max_in_flight = 7"));
    assert_eq!(ask(&proxy, get("/a")), b"real");
    assert_eq!(copies(&proxy), (2, 0));
}
