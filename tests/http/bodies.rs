//! Bodies and what goes before them: framing in both directions, interim responses, buffering.

use super::{big, stage};
use crate::support::wire::{End, Peer, chunked, get, ok, post, reply};

const CHUNKED_POST: &str = "POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED_OK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_chunked_request_passes_with_its_extensions_and_trailers() {
    let (origin, proxy) = stage("", "");
    let wire = "5;name=value;q=\"a;b\"\r\nhello\r\n6\r\n world\r\n0;last\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n";
    let mut client = proxy.connect();
    client.send(CHUNKED_POST);
    for byte in wire.bytes() {
        client.send([byte]);
    }
    let (mut server, request) = origin.request();
    assert_eq!((request.field("transfer-encoding"), request.text()), (Some("chunked"), "hello world"));
    assert!(request.all("content-length").is_empty());
    assert_eq!(String::from_utf8_lossy(&request.wire), wire);
    server.send(ok("done"));
    assert_eq!(client.response().text(), "done");
    // What follows the last chunk is a request, also when it came along.
    client.send([CHUNKED_POST, wire, &get("/next")].concat());
    assert_eq!(server.request().text(), "hello world");
    server.send(ok("1"));
    assert_eq!(server.request().target(), "/next");
    server.send(ok("2"));
    assert_eq!([client.response().text(), client.response().text()], ["1", "2"]);
}

#[test]
fn a_chunked_response_passes_with_its_extensions_and_trailers() {
    let (origin, proxy) = stage("", "");
    let wire = "5;name=value\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n";
    let mut client = proxy.connect();
    let mut server = None;
    for split in [0, 1, 8, 20, wire.len() - 1] {
        client.send(get("/"));
        let server = server.get_or_insert_with(|| origin.accept());
        server.request();
        server.send([CHUNKED_OK, &wire[..split]].concat());
        server.send(&wire[split..]);
        let response = client.response();
        assert_eq!((response.field("transfer-encoding"), response.text()), (Some("chunked"), "hello"));
        assert_eq!(String::from_utf8_lossy(&response.wire), wire);
    }
}

#[test]
fn an_old_client_gets_a_chunked_response_without_chunks() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send([CHUNKED_OK, "5;x\r\nhello\r\n6\r\n wor"].concat());
    server.send("ld\r\n0\r\nX-Trailer: 1\r\n\r\n");
    let response = client.head();
    assert_eq!((response.all("transfer-encoding"), response.field("connection")), (vec![], Some("close")));
    assert_eq!(client.rest(), (b"hello world".to_vec(), End::Fin));
    // The server's connection was read to its end and serves others.
    let mut next = proxy.connect();
    next.send(get("/"));
    server.request();
}

#[test]
fn a_response_that_ends_with_its_connection_is_chunked_for_new_clients() {
    for version in ["1.0", "1.1"] {
        let (origin, proxy) = stage("", "");
        let body = big(100_000);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(get("/"));
            let (mut server, _) = origin.request();
            server.send(format!("HTTP/{version} 200 OK\r\n\r\nfirst "));
            client.head();
            client.expect("6\r\nfirst \r\n");
            server.send(&body);
            drop(server);
            let mut rest = Vec::new();
            loop {
                let size = client.line();
                let size = usize::from_str_radix(&size, 16).unwrap();
                rest.extend(client.bytes(size));
                client.expect("\r\n");
                if size == 0 {
                    break;
                }
            }
            assert!(rest == body);
        }
    }
}

#[test]
fn a_response_that_ends_with_its_connection_does_so_for_old_clients() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send("HTTP/1.0 200 OK\r\n\r\nall of it");
    drop(server);
    let response = client.head();
    assert_eq!((response.line.as_str(), response.field("connection")), ("HTTP/1.1 200 OK", Some("close")));
    assert_eq!(client.rest(), (b"all of it".to_vec(), End::Fin));
}

#[test]
fn responses_without_a_body_end_with_their_head_whatever_they_say() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    let mut server = None;
    let head = "HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned();
    for (request, reply, expected) in [
        (&head, "200 OK\r\nContent-Length: 1000", Some("1000")),
        (&head, "200 OK\r\nTransfer-Encoding: chunked", None),
        (&head, "200 OK", None),
        (&get("/"), "304 Not Modified\r\nContent-Length: 1000", Some("1000")),
        (&get("/"), "204 No Content", None),
        (&get("/"), "204 No Content\r\nContent-Length: 0", None),
    ] {
        client.send(request);
        let server = server.get_or_insert_with(|| origin.accept());
        server.request();
        server.send(format!("HTTP/1.1 {reply}\r\nX-Last: 1\r\n\r\n"));
        let response = client.head();
        assert_eq!(response.field("content-length"), expected, "{reply}");
        assert_eq!(response.field("x-last"), Some("1"));
    }
    client.send(get("/"));
    let mut server = server.unwrap();
    server.request();
    server.send(ok("framing is intact"));
    assert_eq!(client.response().text(), "framing is intact");
    assert!(!origin.is_wanted());
}

#[test]
fn a_body_with_a_get_and_an_empty_post_pass_as_they_are() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody");
    let (mut server, request) = origin.request();
    assert_eq!((request.field("content-length"), request.text()), (Some("4"), "body"));
    server.send(ok("1"));
    client.response();
    client.send(post("/", ""));
    assert_eq!(server.request().field("content-length"), Some("0"));
    server.send(ok("2"));
    client.response();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(server.request().all("content-length"), Vec::<&str>::new());
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    let (origin, proxy) = stage("", "max_body_size = \"off\"");
    let body = big(5_000_000);
    for chunks in [None, Some([100_000, 1, 70_000])] {
        let wire = chunks.map_or_else(|| body.clone(), |sizes| chunked(&body, &sizes));
        let framing = match chunks {
            Some(_) => "Transfer-Encoding: chunked".to_owned(),
            None => format!("Content-Length: {}", body.len()),
        };
        let (upload, download) = (wire.clone(), wire.clone());
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{framing}\r\n\r\n");
        let mut client = proxy.connect();
        let sender = std::thread::spawn(move || {
            client.send(head);
            client.send(upload);
            client
        });
        let (mut server, request) = origin.request();
        assert!(request.wire == wire);
        let mut client = sender.join().unwrap();
        let sender = std::thread::spawn(move || {
            server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            server.send(download);
            server
        });
        assert!(client.response().wire == wire);
        client.expect_end();
        drop(sender.join().unwrap());
    }
}

#[test]
fn a_buffered_request_waits_for_its_body_before_it_takes_a_server() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 60000\r\n\r\n");
    let body = big(60_000);
    client.send(&body[..59_999]);
    // Another request goes through meanwhile; only then would a connection for the first one have been seen.
    let mut other = proxy.connect();
    other.send(get("/other"));
    let (mut server, request) = origin.request();
    assert_eq!(request.target(), "/other");
    assert!(!origin.is_wanted());
    server.send(ok("1"));
    other.response();
    client.send(&body[59_999..]);
    assert!(server.request().body == body);
    server.send(ok("2"));
    assert_eq!(client.response().text(), "2");
}

#[test]
fn a_streamed_request_reaches_the_server_as_it_comes() {
    for (pool, head) in [
        ("request_buffering = \"off\"", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n"),
        ("request_buffering = \"4KiB\"", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4097\r\n\r\n"),
        ("", CHUNKED_POST),
    ] {
        let (origin, proxy) = stage("", pool);
        let mut client = proxy.connect();
        client.send([head, "5\r\n"].concat());
        let mut server = origin.accept();
        server.head();
        server.expect("5\r\n");
        client.send("abcde");
        server.expect("abcde");
    }
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on_and_its_server_never_asked() {
    for pool in ["", "request_buffering = \"off\""] {
        let (origin, proxy) = stage("", pool);
        let mut client = proxy.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.response().line, "HTTP/1.1 100 Continue");
        client.send("hello");
        let (mut server, request) = origin.request();
        assert_eq!((request.text(), request.all("expect")), ("hello", vec![]));
        // Some servers say it unasked: it has been said.
        server.send(["HTTP/1.1 100 Continue\r\n\r\n", &ok("done")].concat());
        assert_eq!(client.response().text(), "done");
        client.send(get("/next"));
        assert_eq!(server.request().target(), "/next");
    }
}

#[test]
fn a_client_that_sends_its_body_without_waiting_for_100_is_not_told() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let (mut server, request) = origin.request();
    assert_eq!(request.text(), "hello");
    server.send(ok("done"));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn an_early_final_status_to_an_expectation_ends_the_connection_but_loses_no_body() {
    // Refused by us: the body is never asked for, and may come nevertheless.
    let (_origin, proxy) = stage("", "max_body_size = \"4\"");
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status(), response.field("connection")), (413, Some("close")));
    client.send("hello");
    client.finish();
    client.expect_end();

    // Refused by the server, which was given the head only.
    let (origin, proxy) = stage("", "request_buffering = \"off\"");
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    let mut server = origin.accept();
    server.head();
    server.send(reply("403 Forbidden", "", "no"));
    let response = client.response();
    assert_eq!((response.status(), response.text(), response.field("connection")), (403, "no", Some("close")));
    // The rest of the body is not a request, neither here nor there.
    client.send(&get("/x")[..5]);
    client.finish();
    client.expect_end();
    server.expect_gone();
}

#[test]
fn interim_responses_are_passed_on_to_those_who_know_them() {
    let (origin, proxy) = stage("", "");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nConnection: close\r\n\r\n";
    let mut client = proxy.connect();
    client.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(hints);
    let early = client.response();
    assert_eq!(early.line, "HTTP/1.1 103 Early Hints");
    assert_eq!(early.fields, [("Link".to_owned(), "</style.css>; rel=preload".to_owned())]);
    server.send(["HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", &ok("done")].concat());
    assert_eq!([client.response().status(), client.response().status()], [102, 200]);
    // Both are complete: the connections serve the next.
    client.send("GET /old HTTP/1.0\r\n\r\n");
    server.request();
    server.send([hints, &ok("old")].concat());
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_flood_of_interim_responses_is_a_bad_response() {
    let (origin, mut proxy) = stage("", "retries = 0");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(1000));
    assert_eq!(client.response().status(), 502);
    server.expect_gone();
    assert_eq!(proxy.log_line(), "GET / 502 reason=bad_head tries=1");
}

#[test]
fn an_early_response_arrives_while_the_upload_goes_on() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send([CHUNKED_POST, "5\r\nhello\r\n"].concat());
    let mut server = origin.accept();
    server.head();
    server.expect("5\r\nhello\r\n");
    server.send([CHUNKED_OK, "2\r\nhi\r\n"].concat());
    assert_eq!(client.head().field("connection"), Some("close"));
    client.expect("2\r\nhi\r\n");
    client.send("6\r\n world\r\n");
    server.expect("6\r\n world\r\n");
    server.send("5\r\nthere\r\n");
    client.expect("5\r\nthere\r\n");
    client.send("0\r\n\r\n");
    server.expect("0\r\n\r\n");
    server.send("0\r\n\r\n");
    client.expect("0\r\n\r\n");
    client.expect_end();
}

#[test]
fn an_early_response_survives_an_upload_that_nobody_reads() {
    let (origin, proxy) = stage("", "max_body_size = \"off\"");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000000\r\n\r\n");
    let mut server = origin.accept();
    server.head();
    server.send(reply("401 Unauthorized", "Connection: close\r\n", "who?"));
    drop(server);
    // Far more than sockets hold; the answer must not be lost to a reset.
    let uploaded = client.try_send(big(10_000_000));
    let response = client.response();
    assert_eq!((response.status(), response.text()), (401, "who?"), "{uploaded:?}");
}

#[test]
fn events_arrive_at_once() {
    let (origin, proxy) = stage("", "");
    for (head, event) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            "9\r\ndata: 1\n\n\r\n",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "data: 1\n\n"),
    ] {
        let mut client = proxy.connect();
        client.send(get("/events"));
        let (mut server, _) = origin.request();
        server.send(head);
        client.head();
        for _ in 0..3 {
            server.send(event);
            client.expect(event);
        }
    }
}

#[test]
fn a_slow_client_does_not_hold_the_server_for_a_response_that_fits() {
    let (origin, mut proxy) = stage("", "response_buffering = \"16MiB\"\nmax_conns = 1\nqueue = 1");
    let body = big(12_000_000);
    let mut slow = Peer::connect_narrow(proxy.addr());
    slow.send(get("/slow"));
    let (mut server, _) = origin.request();
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
    server.send(&body);
    // Its only place and its connection are free while the client has read nothing.
    let mut other = proxy.connect();
    other.send(get("/other"));
    assert_eq!(server.request().target(), "/other");
    server.send(ok("1"));
    assert_eq!(other.response().status(), 200);
    assert!(proxy.log_line().starts_with("GET /other 200 reason=-"));
    assert!(slow.response().body == body);
    assert!(proxy.log_line().starts_with("GET /slow 200 reason=-"));
}

#[test]
fn a_client_that_takes_nothing_is_given_up_after_send_timeout() {
    let (origin, mut proxy) = stage("send_timeout = \"200ms\"", "");
    let mut slow = Peer::connect_narrow(proxy.addr());
    slow.send(get("/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    // The server is held back, and finally dropped.
    let endless = big(1_000_000);
    while server.try_send(&endless).is_ok() {}
    assert_eq!(proxy.log_line(), "GET / 200 reason=client_timeout tries=1");
    assert_eq!(slow.rest().1, End::Reset);
}
