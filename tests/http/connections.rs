//! Connections with clients: how long they live, whose turn it is, and how they end.

use super::stage;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{End, Peer, get, ok, post, reply};

#[test]
fn a_connection_serves_one_request_after_another() {
    let (origin, mut proxy) = stage("", "");
    let mut client = proxy.connect();
    let mut server = None;
    for i in 0..3 {
        client.send(get(&format!("/{i}")));
        let server = server.get_or_insert_with(|| origin.accept());
        assert_eq!(server.request().line, format!("GET /{i} HTTP/1.1"));
        server.send(ok("hello"));
        let response = client.response();
        assert_eq!((response.line.as_str(), response.text()), ("HTTP/1.1 200 OK", "hello"));
        assert!(response.all("connection").is_empty());
        assert_eq!(proxy.log_line(), format!("GET /{i} 200 reason=- tries=1"));
    }
    assert!(!origin.is_wanted());
}

#[test]
fn requests_in_one_segment_are_answered_in_their_order() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send([get("/1"), post("/2", "two"), get("/3")].concat());
    let (mut server, first) = origin.request();
    assert_eq!(first.target(), "/1");
    server.send(ok("one"));
    let second = server.request();
    assert_eq!((second.target(), second.text()), ("/2", "two"));
    server.send(ok("zwei"));
    assert_eq!(server.request().target(), "/3");
    server.send(ok("three"));
    assert_eq!([0; 3].map(|_| client.response().text().to_owned()), ["one", "zwei", "three"]);
}

#[test]
fn a_request_in_single_bytes_is_one_request() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    for byte in post("/slow", "body").bytes() {
        client.send([byte]);
    }
    let (mut server, request) = origin.request();
    assert_eq!((request.line.as_str(), request.text()), ("POST /slow HTTP/1.1", "body"));
    server.send(ok("done"));
    assert_eq!(client.response().text(), "done");
}

#[test]
fn empty_lines_between_requests_are_skipped() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(format!("\r\n{}\r\n\r\n{}", get("/1"), get("/2")));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    server.request();
    server.send(ok("2"));
    assert_eq!([client.response().text(), client.response().text()], ["1", "2"]);
}

#[test]
fn an_old_client_gets_its_answer_and_the_end() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let (mut server, request) = origin.request();
    assert_eq!((request.line.as_str(), request.field("host")), ("GET /old HTTP/1.1", Some("p")));
    server.send(ok("hello"));
    let response = client.response();
    assert_eq!((response.line.as_str(), response.field("connection")), ("HTTP/1.1 200 OK", Some("close")));
    client.expect_end();
}

#[test]
fn an_old_client_that_asks_for_it_keeps_its_connection() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.test\r\n\r\n";
    client.send(request);
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    assert_eq!(client.response().field("connection"), Some("keep-alive"));
    client.send(request);
    server.request();
    server.send(ok("2"));
    assert_eq!(client.response().text(), "2");
}

#[test]
fn connection_close_is_honoured_and_said() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let (mut server, request) = origin.request();
    assert!(request.all("connection").is_empty());
    server.send(ok("bye"));
    assert_eq!(client.response().field("connection"), Some("close"));
    client.expect_end();
    // Only the client's connection ends.
    let mut next = proxy.connect();
    next.send(get("/"));
    server.request();
}

#[test]
fn the_last_of_keepalive_requests_is_told_so() {
    // A third comes too late, with the second or after it, and must not take the answers before it along.
    for together in [true, false] {
        let (origin, mut proxy) = stage("keepalive_requests = 2", "");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(ok("1"));
        assert!(client.response().all("connection").is_empty());
        // The worker waits for the next request.
        proxy.log_line();
        client.send(get("/").repeat(if together { 2 } else { 1 }));
        server.request();
        if !together {
            client.send(get("/"));
        }
        server.send(ok("2"));
        assert_eq!(client.response().field("connection"), Some("close"));
        client.finish();
        client.expect_end();
    }
}

#[test]
fn without_a_keepalive_timeout_each_response_is_the_last() {
    let (origin, proxy) = stage("keepalive_timeout = \"off\"", "");
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    assert_eq!(client.response().field("connection"), Some("close"));
    client.expect_end();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let (origin, proxy) = stage("keepalive_timeout = \"100ms\"", "");
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    client.response();
    client.expect_end();
}

#[test]
fn a_new_connection_that_says_nothing_is_closed_without_a_word() {
    let (_origin, proxy) = stage("header_timeout = \"100ms\"", "");
    proxy.connect().expect_end();
}

#[test]
fn a_head_that_takes_too_long_is_answered_408() {
    let (_origin, mut proxy) = stage("header_timeout = \"100ms\"", "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a");
    let response = client.response();
    assert_eq!((response.status(), response.field("connection")), (408, Some("close")));
    client.finish();
    client.expect_end();
    assert!(proxy.log_line().contains("408 reason=client_timeout"));
}

#[test]
fn the_limit_for_a_head_starts_with_its_first_byte_on_a_kept_connection() {
    let (origin, proxy) = stage("header_timeout = \"100ms\"\nkeepalive_timeout = \"60s\"", "");
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    client.response();
    client.send("G");
    assert_eq!(client.response().status(), 408);
}

#[test]
fn a_body_that_stops_is_answered_408() {
    for buffering in ["64KiB", "off"] {
        let (_origin, mut proxy) = stage("body_timeout = \"100ms\"", &format!("request_buffering = \"{buffering}\""));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
        let response = client.response();
        assert_eq!((response.status(), response.field("connection")), (408, Some("close")), "{buffering}");
        assert!(proxy.log_line().contains("408 reason=client_timeout"));
    }
}

#[test]
fn a_client_that_closes_its_half_gets_its_answer() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(get("/"));
    client.finish();
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    client.head();
    client.expect("first");
    server.send("later");
    client.expect("later");
    client.expect_end();
}

#[test]
fn a_client_that_leaves_takes_its_connection_to_the_server_along() {
    let (origin, mut proxy) = stage("", "");
    // Before the response, in its middle; with FIN and with RST.
    for (answered, reset) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        if answered {
            server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            client.head();
            client.expect("5\r\nhello\r\n");
        }
        // A FIN that comes with the request is a half-close; later it is the end, also for a proxy that looked late.
        std::thread::sleep(std::time::Duration::from_millis(600));
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        server.expect_gone();
        let status = if answered { 200 } else { 499 };
        assert_eq!(proxy.log_line(), format!("GET / {status} reason=client_gone tries=1"));
    }
}

#[test]
fn connections_beyond_the_listeners_limit_are_closed_and_counted() {
    let (origin, proxy) = stage("max_connections = 1", "");
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    proxy.connect().expect_gone();
    assert_eq!(proxy.engine().listener_connections("l"), Some((1, 1, 1)));
    server.send(ok("1"));
    client.response();
    drop(client);
    wait_for("the end of the first", || (proxy.engine().connections() == 0).then_some(()));
    let mut client = proxy.connect();
    client.send(get("/"));
    server.request();
}

#[test]
fn connections_beyond_the_limit_of_the_process_are_closed() {
    let origin = Answering::with(ok("1"));
    let proxy = Proxy::start(&format!(
        "[global]\nworkers = 1\nmax_connections = 1\n[listener.a]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [listener.b]\nbind = [\"127.0.0.1:81\"]\npool = \"p\"\n[pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    let mut client = Peer::connect(proxy.addr_of("a"));
    client.send(get("/"));
    client.response();
    Peer::connect(proxy.addr_of("b")).expect_gone();
}

#[test]
fn a_response_to_a_request_that_is_not_read_arrives_whole() {
    // The refused client goes on sending: a reset would take the response along.
    let (_origin, proxy) = stage("", "max_body_size = \"1KiB\"");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4000000\r\n\r\n");
    client.send(vec![b'x'; 2_000_000]);
    let response = client.response();
    assert_eq!((response.status(), response.field("connection")), (413, Some("close")));
}

#[test]
fn draining_ends_idle_connections_and_the_others_after_their_response() {
    let (origin, mut proxy) = stage("", "");
    let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
    idle.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    idle.response();
    busy.send(get("/"));
    server.request();
    proxy.drain();
    idle.expect_end();
    server.send(ok("2"));
    assert_eq!(busy.response().field("connection"), Some("close"));
    busy.expect_end();
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn half_a_response_does_not_look_like_a_whole_one() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nab"));
        client.head();
        client.expect("5\r\nab");
        drop(server);
        assert_eq!(client.rest(), (Vec::new(), End::Reset), "{head}");
        assert_eq!(proxy.log_line(), "GET / 200 reason=reset_in_body tries=1");
    }
}

#[test]
fn two_workers_serve_and_both_are_alive() {
    let origin = Answering::with(ok("1"));
    let proxy = Proxy::start(&format!(
        "[global]\nworkers = 2\n[listener.a]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    let mut clients: Vec<_> = (0..32).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "1");
    }
    // Each worker has its own connections to the server; the kernel spreads 32 clients over both.
    assert!(origin.per_connection().len() >= 2);
    let before = proxy.engine().progress();
    assert_eq!(before.len(), 2);
    wait_for("both workers' progress", || {
        let now = proxy.engine().progress();
        before.iter().zip(&now).all(|(b, n)| n.tid == b.tid && n.ticks > b.ticks).then_some(())
    });
}

#[test]
fn a_server_that_asks_for_close_gets_it_and_the_client_does_not() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(get("/1"));
    let (mut server, _) = origin.request();
    server.send(reply("200 OK", "Connection: close\r\n", "1"));
    assert!(client.response().all("connection").is_empty());
    server.expect_end();
    client.send(get("/2"));
    origin.request();
}
