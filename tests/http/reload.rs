//! Another configuration while exchanges are under way.

use std::net::SocketAddr;

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{End, Peer, get, ok};

/// A listener before a server, of which answers say which configuration made them.
fn config(server: SocketAddr, mark: usize, more: &str) -> String {
    format!(
        "[global]\nworkers = 1\ndrain_timeout = \"200ms\"\n[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\nresponse_headers = {{ set = {{ X-Mark = \"{mark}\" }} }}\n{more}"
    )
}

/// Begins a download.
fn begin(proxy: &Proxy, origin: &Origin) -> (Peer, Peer) {
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none");
    client.head();
    (client, server)
}

#[test]
fn a_request_under_way_ends_by_the_configuration_that_it_began_with() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&config(origin.addr(), 1, ""));
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    proxy.reload(&config(origin.addr(), 2, ""));
    server.send(ok("a"));
    assert_eq!(client.response().field("x-mark"), Some("1"));
    // The next, on the same connections, by the new one.
    client.send(get("/"));
    server.request();
    server.send(ok("b"));
    assert_eq!(client.response().field("x-mark"), Some("2"));
    assert!(!origin.is_wanted());
}

#[test]
fn what_goes_on_over_a_server_that_is_gone_is_cut_after_drain_timeout() {
    let (origin, other) = (Origin::new(), Origin::new());
    let mut proxy = Proxy::start(&config(origin.addr(), 1, ""));
    let (mut client, mut server) = begin(&proxy, &origin);
    proxy.reload(&config(other.addr(), 2, ""));
    server.send("two");
    client.expect("onetwo");
    assert_eq!(client.rest().1, End::Reset);
    proxy.wait_for_log("reason=drain_timeout");
    // One over a server that stays has all the time.
    let (mut client, mut server) = begin(&proxy, &other);
    proxy.reload(&config(other.addr(), 3, ""));
    std::thread::sleep(std::time::Duration::from_millis(400));
    server.send("twoend");
    client.expect("onetwoend");
}

#[test]
fn a_listener_that_is_gone_serves_what_it_has_and_ends_it() {
    let origin = Origin::new();
    let two = config(origin.addr(), 1, "[listener.m]\nbind = [\"127.0.0.1:81\"]\npool = \"p\"\n");
    let mut proxy = Proxy::start(&two);
    let addr = proxy.addr_of("m");
    let mut client = Peer::connect(addr);
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("a"));
    assert_eq!(client.response().field("connection"), None);
    client.send(get("/"));
    server.request();
    proxy.reload(&config(origin.addr(), 2, ""));
    server.send(ok("b"));
    // The head is made when the answer comes: the connection is not promised to stay.
    assert_eq!(client.response().field("connection"), Some("close"));
    client.expect_end();
}

#[test]
fn old_configurations_are_kept_for_so_many_reloads_and_no_longer() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&config(origin.addr(), 0, ""));
    // Each keeps the configuration that it began with.
    let mut downloads = Vec::new();
    for mark in 1..=18 {
        downloads.push(begin(&proxy, &origin));
        proxy.reload(&config(origin.addr(), mark, ""));
    }
    for (i, (client, server)) in downloads.iter_mut().enumerate() {
        if i < 2 {
            client.expect("one");
            assert_eq!(client.rest().1, End::Reset, "{i}");
        } else {
            server.send(b"twoend");
            client.expect("onetwoend");
        }
    }
}
