//! Headers that servers are sent.

use std::net::SocketAddr;

use bascule::proxy_protocol::{Addresses, Header, Parse, Version, parse};

use super::{CLIENT, VIRTUAL, header};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{End, Peer, get, ok};

/// A server that expects headers of `version`, and a listener of `protocol` with these keys in front of it.
fn stage(protocol: &str, version: &str, listener: &str) -> (Origin, Proxy) {
    let origin = Origin::new();
    let proxy = Proxy::start(&config(origin.addr(), protocol, version, listener));
    (origin, proxy)
}

fn config(addr: SocketAddr, protocol: &str, version: &str, listener: &str) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\nprotocol = \"{protocol}\"\npool = \"p\"\n{listener}\n\
         [pool.p]\nservers = [\"{addr}\"]\nsend_proxy_protocol = \"{version}\"\n"
    )
}

/// The header that a connection begins with.
fn received(server: &mut Peer) -> Header {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(server.bytes(1));
        match parse(&bytes) {
            Ok(Parse::Partial) => {}
            Ok(Parse::Complete { header, len }) if len == bytes.len() => return header,
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }
}

fn ends(source: &str, destination: &str) -> Header {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    Header { addresses: Some(Addresses { source: end(source), destination: end(destination) }), tlvs: Vec::new() }
}

#[test]
fn a_server_is_told_the_ends_of_the_clients_connection() {
    for protocol in ["http", "tcp"] {
        for version in ["v1", "v2"] {
            let (origin, proxy) = stage(protocol, version, "");
            let mut client = proxy.connect();
            client.send(get("/"));
            let mut server = origin.accept();
            let expected = ends(&client.local_addr().to_string(), &proxy.addr().to_string());
            assert_eq!(received(&mut server), expected, "{protocol} {version}");
            assert_eq!(server.request().line, "GET / HTTP/1.1");
            server.send(ok("answer"));
            assert_eq!(client.response().body, b"answer");
        }
    }
}

#[test]
fn what_a_proxy_in_front_said_is_passed_on() {
    let listener = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let id = [5, 0, 2, b'i', b'd'];
    for protocol in ["http", "tcp"] {
        for (version, tlvs) in [("v1", &[][..]), ("v2", &id)] {
            let (origin, proxy) = stage(protocol, version, listener);
            let mut client = proxy.connect();
            // A name in front of it, and padding.
            client.send(
                [header(Version::V2, CLIENT, &[&[4, 0, 1, 0][..], &id].concat()), get("/").into_bytes()].concat(),
            );
            let mut server = origin.accept();
            let expected = Header { tlvs: tlvs.to_vec(), ..ends(CLIENT, VIRTUAL) };
            assert_eq!(received(&mut server), expected, "{protocol} {version}");
            assert_eq!(server.request().line, "GET / HTTP/1.1");
        }
    }
}

#[test]
fn a_connection_serves_the_client_it_was_opened_for_and_nobody_else() {
    let (origin, proxy) = stage("http", "v2", "");
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    for client in [&mut one, &mut two] {
        for _ in 0..2 {
            client.send(get("/"));
            let mut server = origin.accept();
            let source = received(&mut server).addresses.map(|addresses| addresses.source);
            assert_eq!(source, Some(client.local_addr()));
            server.request();
            server.send(ok(""));
            client.response();
            assert_eq!(server.rest(), (Vec::new(), End::Fin));
        }
    }
}

#[test]
fn a_second_server_is_told_too() {
    let (silent, origin) = (Origin::new(), Origin::new());
    let servers = format!("{}\", \"{}", silent.addr(), origin.addr());
    let config = config(origin.addr(), "http", "v1", "").replace(&origin.addr().to_string(), &servers);
    let proxy = Proxy::start(&format!("{config}algorithm = \"first\"\n"));
    let mut client = proxy.connect();
    client.send(get("/"));
    drop(silent.accept());
    let mut server = origin.accept();
    assert_eq!(received(&mut server), ends(&client.local_addr().to_string(), &proxy.addr().to_string()));
    assert_eq!(server.request().line, "GET / HTTP/1.1");
}

#[test]
fn idle_connections_without_a_header_are_not_used_once_there_is_to_be_one() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&config(origin.addr(), "http", "off", ""));
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok(""));
    client.response();
    proxy.reload(&config(origin.addr(), "http", "v1", ""));
    let mut client = proxy.connect();
    client.send(get("/"));
    let mut server = origin.accept();
    assert_eq!(received(&mut server).addresses.map(|addresses| addresses.source), Some(client.local_addr()));
}
