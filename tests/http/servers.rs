//! What is done when servers fail, are full, or are reused; each failure with the reason that the log gives.

use std::time::{Duration, Instant};

use super::stage;
use crate::support::origin::{Answering, Origin, Refusing, Silent};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{Peer, get, ok, post, reply};

/// A proxy in front of these servers, each written as in the file; with keys of the pool.
fn pool(servers: &[String], keys: &str) -> Proxy {
    let servers = servers.join(", ");
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [{servers}]\n{keys}\n"
    ))
}

fn server(addr: impl std::fmt::Display) -> String {
    format!("\"{addr}\"")
}

/// The status of one request on a connection of its own.
fn status(proxy: &Proxy, request: impl AsRef<[u8]>) -> u16 {
    let mut client = proxy.connect();
    client.send(request);
    client.response().status()
}

#[test]
fn every_failure_has_its_status_and_its_reason() {
    let refusing = Refusing::new();
    let proxy = &mut pool(&[server(refusing.addr())], "");
    assert_eq!(status(proxy, get("/")), 502);
    assert_eq!(proxy.log_line(), "GET / 502 reason=connect_refused tries=1");

    let silent = Silent::new();
    let proxy = &mut pool(&[server(silent.addr())], "connect_timeout = \"100ms\"");
    assert_eq!(status(proxy, get("/")), 504);
    assert_eq!(proxy.log_line(), "GET / 504 reason=connect_timeout tries=1");

    let down = format!("{{ address = \"{}\", down = true }}", refusing.addr());
    let proxy = &mut pool(&[down], "");
    assert_eq!(status(proxy, get("/")), 502);
    assert_eq!(proxy.log_line(), "GET / 502 reason=no_server tries=-");

    for (said, reset) in [("", false), ("", true), ("HTTP/1.1 200 OK\r\nX: half", false)] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(said);
        if reset {
            server.reset();
        } else {
            drop(server);
        }
        assert_eq!(client.response().status(), 502);
        assert_eq!(proxy.log_line(), "GET / 502 reason=reset_before_head tries=1");
    }

    for (said, status, reason) in [("", 504, "read_timeout"), ("HTTP/1.1 200 OK\r\n", 504, "read_timeout")] {
        let (origin, mut proxy) = stage("", "read_timeout = \"100ms\"");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(said);
        assert_eq!(client.response().status(), status);
        server.expect_gone();
        assert_eq!(proxy.log_line(), format!("GET / {status} reason={reason} tries=1"));
    }
}

#[test]
fn read_timeout_counts_from_the_last_byte_of_a_body() {
    let (origin, mut proxy) = stage("", "read_timeout = \"200ms\"");
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    let start = Instant::now();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(100));
        server.send("x");
    }
    client.head();
    client.expect("xxxx");
    let (rest, _) = client.rest();
    assert!(rest.is_empty() && start.elapsed() >= Duration::from_millis(550), "{:?}", start.elapsed());
    assert_eq!(proxy.log_line(), "GET / 200 reason=read_timeout tries=1");
}

#[test]
fn a_server_that_takes_nothing_of_the_request_is_given_up_after_send_timeout() {
    let (origin, mut proxy) = stage("", "send_timeout = \"200ms\"\nmax_body_size = \"off\"");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\n");
    let _server = origin.accept();
    // Until the sockets on the way are full, and the answer comes.
    let endless = vec![b'x'; 1_000_000];
    let sender = std::thread::spawn(move || {
        while client.try_send(&endless).is_ok() {}
        client
    });
    assert_eq!(proxy.log_line(), "POST / 504 reason=send_timeout tries=1");
    drop(proxy);
    sender.join().unwrap();
}

#[test]
fn a_refused_connection_is_retried_on_the_next_server_for_every_method() {
    let refusing = Refusing::new();
    let good = Answering::with(ok("1"));
    let proxy = &mut pool(&[server(refusing.addr()), server(good.addr())], "");
    assert_eq!(status(proxy, post("/", "body")), 200);
    assert_eq!(proxy.log_line(), "POST / 200 reason=- tries=2");
    assert_eq!(good.requests()[0].text(), "body");
    // The server that failed is left alone for fail_timeout.
    assert_eq!(status(proxy, get("/")), 200);
    assert_eq!(proxy.log_line(), "GET / 200 reason=- tries=1");
    // A streamed body has not been touched yet.
    let proxy = &mut pool(&[server(refusing.addr()), server(good.addr())], "request_buffering = \"off\"");
    assert_eq!(status(proxy, post("/", "streamed")), 200);
    assert_eq!(good.requests()[2].text(), "streamed");
}

#[test]
fn only_what_may_be_done_twice_is_sent_twice() {
    let dying = Answering::with("");
    let good = Answering::with(ok("1"));
    for (keys, request, status_of, tries) in [
        ("", get("/"), 200, 2),
        ("", "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx".to_owned(), 200, 2),
        ("", post("/", "x"), 502, 1),
        ("", "PATCH / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 502, 1),
        ("", "MERGE / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 502, 1),
        ("retry_non_idempotent = true", post("/", "x"), 200, 2),
        ("retry_on = [\"connect\"]", get("/"), 502, 1),
        ("retries = 0", get("/"), 502, 1),
        ("retry_budget = { percent = 0, min = 0 }", get("/"), 502, 1),
        // A body that was not kept cannot be sent again.
        (
            "request_buffering = \"off\"",
            "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx".to_owned(),
            200,
            2,
        ),
        (
            "",
            "PUT / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".to_owned(),
            502,
            1,
        ),
    ] {
        let proxy = &mut pool(&[server(dying.addr()), server(good.addr())], &format!("algorithm = \"first\"\n{keys}"));
        assert_eq!(status(proxy, &request), status_of, "{keys} {request}");
        let reason = if status_of == 200 { "-" } else { "reset_before_head" };
        let end = format!("/ {status_of} reason={reason} tries={tries}");
        let line = proxy.log_line();
        assert!(line.ends_with(&end), "{line} for {keys} {request}");
    }
}

#[test]
fn timeouts_are_retried_only_when_listed() {
    let good = Answering::with(ok("1"));
    for (keys, expected) in [("", 504), ("retry_on = [\"timeout\"]", 200)] {
        let silent = Origin::new();
        let keys = format!("algorithm = \"first\"\nread_timeout = \"100ms\"\n{keys}");
        let proxy = &mut pool(&[server(silent.addr()), server(good.addr())], &keys);
        assert_eq!(status(proxy, get("/")), expected);
    }
}

#[test]
fn listed_statuses_are_retried_and_the_last_response_is_passed_on() {
    let bad = Answering::with(reply("503 Service Unavailable", "X-From: server\r\n", "try later"));
    let good = Answering::with(ok("1"));
    let keys = "algorithm = \"first\"\nretry_on = [\"http_503\"]";
    let proxy = &mut pool(&[server(bad.addr()), server(good.addr())], keys);
    assert_eq!(status(proxy, get("/")), 200);
    assert_eq!(proxy.log_line(), "GET / 200 reason=- tries=2");

    // Nobody else, no retry left, none in the budget, or no second sending: the server's own words.
    for (servers, keys, request, tries) in [
        (vec![server(bad.addr())], "", get("/"), 1),
        (vec![server(bad.addr()), server(good.addr())], "retries = 0", get("/"), 1),
        (vec![server(bad.addr()), server(good.addr())], "retry_budget = { percent = 0, min = 0 }", get("/"), 1),
        (vec![server(bad.addr()), server(good.addr())], "", post("/", "x"), 1),
    ] {
        let keys = format!("algorithm = \"first\"\nretry_on = [\"http_503\"]\n{keys}");
        let mut proxy = pool(&servers, &keys);
        let mut client = proxy.connect();
        client.send(&request);
        let response = client.response();
        assert_eq!((response.status(), response.text()), (503, "try later"), "{keys}");
        assert_eq!(response.field("x-from"), Some("server"));
        assert!(proxy.log_line().ends_with(&format!("/ 503 reason=- tries={tries}")));
    }

    // Not listed: passed on, and no failure.
    let proxy = &mut pool(&[server(bad.addr()), server(good.addr())], "algorithm = \"first\"");
    for _ in 0..3 {
        assert_eq!(status(proxy, get("/")), 503);
    }
}

#[test]
fn no_retry_starts_after_retry_timeout() {
    let silent = Silent::new();
    let good = Answering::with(ok("1"));
    let keys = "algorithm = \"first\"\nconnect_timeout = \"200ms\"\nretry_timeout = \"100ms\"";
    let proxy = &mut pool(&[server(silent.addr()), server(good.addr())], keys);
    assert_eq!(status(proxy, get("/")), 504);
    assert_eq!(proxy.log_line(), "GET / 504 reason=connect_timeout tries=1");
}

#[test]
fn backups_serve_only_while_the_others_cannot() {
    let refusing = Refusing::new();
    let backup = Answering::with(ok("backup"));
    let good = Answering::with(ok("good"));
    let spare = format!("{{ address = \"{}\", backup = true }}", backup.addr());
    let proxy = &mut pool(&[server(refusing.addr()), spare.clone()], "");
    assert_eq!(status(proxy, get("/")), 200);
    assert_eq!(proxy.log_line(), "GET / 200 reason=- tries=2");
    let proxy = &mut pool(&[server(good.addr()), spare], "");
    for _ in 0..5 {
        assert_eq!(status(proxy, get("/")), 200);
    }
    assert_eq!((backup.requests().len(), good.requests().len()), (1, 5));
}

#[test]
fn requests_beyond_max_conns_wait_in_the_queue_or_are_refused() {
    let (origin, mut proxy) = stage("", "max_conns = 1\nqueue = 1\nqueue_timeout = \"5s\"");
    let mut first = proxy.connect();
    first.send(get("/1"));
    let (mut server, _) = origin.request();
    let mut second = proxy.connect();
    second.send(get("/2"));
    // The place in the queue is taken as soon as another is refused.
    let refused = wait_for("a full queue", || {
        let mut third = proxy.connect();
        third.send(get("/3"));
        let status = third.response().status();
        (status == 503).then_some(status)
    });
    assert_eq!(refused, 503);
    assert_eq!(proxy.log_line(), "GET /3 503 reason=queue_full tries=-");
    server.send(ok("1"));
    first.response();
    assert_eq!(server.request().target(), "/2");
    server.send(ok("2"));
    assert_eq!(second.response().text(), "2");

    let (origin, mut proxy) = stage("", "max_conns = 1\nqueue = 1\nqueue_timeout = \"100ms\"");
    let mut first = proxy.connect();
    first.send(get("/1"));
    let _server = origin.request();
    assert_eq!(status(&proxy, get("/2")), 503);
    assert_eq!(proxy.log_line(), "GET /2 503 reason=queue_timeout tries=-");

    let (origin, mut proxy) = stage("", "max_conns = 1");
    let mut first = proxy.connect();
    first.send(get("/1"));
    let _server = origin.request();
    assert_eq!(status(&proxy, get("/2")), 502);
    assert_eq!(proxy.log_line(), "GET /2 502 reason=no_server tries=-");
}

/// One client sends requests one after the other; how many of them each connection to the server carried.
fn reuse(keys: &str, requests: usize) -> Vec<usize> {
    let origin = Answering::with(ok("1"));
    let proxy = pool(&[server(origin.addr())], keys);
    let mut client = proxy.connect();
    for _ in 0..requests {
        client.send(get("/"));
        client.response();
    }
    origin.per_connection()
}

#[test]
fn connections_to_servers_are_reused_within_their_limits() {
    assert_eq!(reuse("", 5), [5]);
    assert_eq!(reuse("keepalive = 0", 3), [1, 1, 1]);
    assert_eq!(reuse("keepalive_requests = 2", 5), [2, 2, 1]);
}

#[test]
fn idle_connections_end_by_age_and_by_time() {
    for key in ["keepalive_timeout", "keepalive_time"] {
        let (origin, proxy) = stage("", &format!("{key} = \"200ms\""));
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(ok("1"));
        client.response();
        // Noticed even when nobody asks for it.
        server.expect_end();
        client.send(get("/"));
        origin.request();
    }
}

#[test]
fn the_idle_connection_unused_longest_gives_way() {
    let (origin, proxy) = stage("", "keepalive = 1");
    let (mut a, mut b) = (proxy.connect(), proxy.connect());
    a.send(get("/a"));
    let (mut server_a, _) = origin.request();
    b.send(get("/b"));
    let (mut server_b, _) = origin.request();
    server_a.send(ok("a"));
    a.response();
    server_b.send(ok("b"));
    b.response();
    server_a.expect_end();
    a.send(get("/"));
    server_b.request();
}

#[test]
fn bytes_behind_a_response_end_the_connection_to_the_server() {
    // With the response, and while it is idle.
    for late in [false, true] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(get("/1"));
        let (mut server, _) = origin.request();
        if late {
            server.send(ok("1"));
            assert_eq!(client.response().text(), "1");
            // The line is written by a worker that waits again, and so sees what comes.
            assert!(proxy.log_line().starts_with("GET /1 200"));
            server.send(ok("smuggled"));
        } else {
            server.send([ok("1"), ok("smuggled")].concat());
            assert_eq!(client.response().text(), "1");
        }
        client.send(get("/2"));
        let (mut next, request) = origin.request();
        assert_eq!(request.target(), "/2");
        next.send(ok("2"));
        assert_eq!(client.response().text(), "2");
        server.expect_gone();
    }
}

#[test]
fn a_kept_connection_that_the_server_closed_is_not_used() {
    let (origin, mut proxy) = stage("", "");
    let mut client = proxy.connect();
    for request in [get("/"), post("/", "body"), get("/")] {
        client.send(&request);
        let (mut server, got) = origin.request();
        server.send(ok("1"));
        client.response();
        assert_eq!(got.text(), if request.starts_with("POST") { "body" } else { "" });
        // The FIN arrives before the next request does.
        drop(server);
        assert!(proxy.log_line().ends_with("200 reason=- tries=1"));
    }
}

#[test]
fn a_kept_connection_that_dies_under_a_request_is_replaced_only_where_that_is_safe() {
    for (request, expected, tries) in [
        (get("/2"), 200, "GET /2 200 reason=- tries=1"),
        (post("/2", "x"), 502, "POST /2 502 reason=reset_before_head tries=1"),
    ] {
        let (origin, mut proxy) = stage("", "retries = 0");
        let mut client = proxy.connect();
        client.send(get("/1"));
        let (mut server, _) = origin.request();
        server.send(ok("1"));
        client.response();
        proxy.log_line();
        client.send(&request);
        // It dies once the request is there: nothing could be known before.
        assert_eq!(server.request().target(), "/2");
        drop(server);
        if expected == 200 {
            let (mut server, _) = origin.request();
            server.send(ok("2"));
        }
        assert_eq!(client.response().status(), expected);
        assert_eq!(proxy.log_line(), tries);
    }
}

#[test]
fn a_server_at_its_requests_end_does_not_see_a_request_twice() {
    // Reused connections, many clients: each answer belongs to its question.
    let origin = Answering::new(|request| ok(request.target()).into_bytes());
    let proxy = Proxy::start(&format!(
        "[global]\nworkers = 2\n[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{}\"]\nkeepalive_requests = 7\nkeepalive = 3\n",
        origin.addr()
    ));
    let addr = proxy.addr();
    let clients: Vec<_> = (0..8)
        .map(|c| {
            std::thread::spawn(move || {
                let mut client = Peer::connect(addr);
                for i in 0..50 {
                    let target = format!("/{c}/{i}");
                    client.send(get(&target));
                    assert_eq!(client.response().text(), target);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let mut seen: Vec<_> = origin.requests().iter().map(|r| r.target().to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 400);
}
