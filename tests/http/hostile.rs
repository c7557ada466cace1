//! Bytes that are no valid HTTP, or that two parsers would read differently: what each side gets to see of them.

use super::stage;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::{get, ok};

/// Whatever follows a refused request is never read as another one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn head(fields: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n")
}

fn body_after(fields: &str, body: &str) -> String {
    head(fields) + body
}

#[test]
fn ambiguous_requests_are_refused_and_never_forwarded() {
    let (origin, mut proxy) = stage("", "");
    let chunked = "Transfer-Encoding: chunked";
    let line = |line: &str| format!("{line}\r\nHost: a.test\r\n\r\n");
    let rows: Vec<(&str, u16, String)> = vec![
        ("CL and TE", 400, body_after(&format!("Content-Length: 5\r\n{chunked}"), "0\r\n\r\n")),
        ("TE and CL", 400, body_after(&format!("{chunked}\r\nContent-Length: 5"), "0\r\n\r\n")),
        ("TE chunked twice", 400, body_after(&format!("{chunked}\r\n{chunked}"), "0\r\n\r\n")),
        ("TE identity, chunked", 501, body_after("Transfer-Encoding: identity, chunked", "0\r\n\r\n")),
        ("TE chunked, identity", 501, body_after("Transfer-Encoding: chunked, identity", "0\r\n\r\n")),
        ("TE ,chunked", 501, body_after("Transfer-Encoding: ,chunked", "0\r\n\r\n")),
        ("TE xchunked", 501, body_after("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        ("TE gzip", 501, body_after("Transfer-Encoding: gzip", "0\r\n\r\n")),
        ("TE with a vertical tab", 400, body_after("Transfer-Encoding: \x0bchunked", "0\r\n\r\n")),
        ("TE with a space before the colon", 400, body_after("Transfer-Encoding : chunked", "0\r\n\r\n")),
        ("TE in HTTP/1.0", 400, format!("POST /x HTTP/1.0\r\nHost: a.test\r\n{chunked}\r\n\r\n0\r\n\r\n")),
        ("CL twice, the same", 400, body_after("Content-Length: 1\r\nContent-Length: 1", "x")),
        ("CL twice, different", 400, body_after("Content-Length: 1\r\nContent-Length: 2", "xx")),
        ("CL list", 400, body_after("Content-Length: 1, 1", "x")),
        ("CL +1", 400, body_after("Content-Length: +1", "x")),
        ("CL 0x1", 400, body_after("Content-Length: 0x1", "x")),
        ("CL empty", 400, head("Content-Length:")),
        ("CL -1", 400, head("Content-Length: -1")),
        ("CL 2^64+1", 400, body_after("Content-Length: 18446744073709551617", "x")),
        ("bare CR in a value", 400, head("X: a\rb")),
        ("bare CR instead of a line end", 400, "GET /x HTTP/1.1\rHost: a.test\r\n\r\n".into()),
        ("NUL in a value", 400, head("X: a\0b")),
        ("empty name", 400, head(": a")),
        ("space before the first field", 400, "GET /x HTTP/1.1\r\n Host: a.test\r\n\r\n".into()),
        ("folded value", 400, head("X: a\r\n b")),
        ("no colon", 400, head("Broken")),
        ("name that is no token", 400, head("X(y): 1")),
        ("no Host", 400, "GET /x HTTP/1.1\r\n\r\n".into()),
        ("two Hosts", 400, "GET /x HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n".into()),
        ("Host with @", 400, "GET /x HTTP/1.1\r\nHost: user@a.test\r\n\r\n".into()),
        ("authority and Host differ", 400, line("GET http://b.test/x HTTP/1.1")),
        ("# in the target", 400, line("GET /x#y HTTP/1.1")),
        ("NUL in the target", 400, line("GET /x\0y HTTP/1.1")),
        ("space in the target", 400, line("GET /x y HTTP/1.1")),
        ("* with GET", 400, line("GET * HTTP/1.1")),
        ("target without a slash", 400, line("GET x HTTP/1.1")),
        ("target above the root", 400, line("GET /../x HTTP/1.1")),
        ("broken escape", 400, line("GET /%zz HTTP/1.1")),
        ("CONNECT", 405, line("CONNECT a.test:443 HTTP/1.1")),
        ("HTTP/2.0", 505, line("GET /x HTTP/2.0")),
        ("HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("HTTP/0.9", 400, "GET /x\r\n".into()),
        ("method that is no token", 400, line("G(T /x HTTP/1.1")),
        ("2000 fields", 431, head(&vec!["X: 1"; 2000].join("\r\n"))),
        ("20 KB target", 414, line(&format!("GET /{} HTTP/1.1", "x".repeat(20_000)))),
        ("40 KB field", 431, head(&format!("X: {}", "x".repeat(40_000)))),
        ("TLS", 400, "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03aaaaaaaaaaaaaaaa\r\n\r\n".into()),
        ("PROXY line", 400, format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{SMUGGLED}")),
        ("PROXY v2", 400, "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".into()),
    ];
    for (name, status, bytes) in rows {
        let mut client = proxy.connect();
        // What is wrong may be seen before the end: the rest is then of no interest to anybody.
        let _ = client.try_send([bytes.as_bytes(), SMUGGLED.as_bytes()].concat());
        client.finish();
        let response = client.response();
        assert_eq!((response.status(), response.field("connection")), (status, Some("close")), "{name}");
        client.expect_end();
        assert!(proxy.log_line().contains(&format!(" {status} reason=")), "{name}");
        assert!(!origin.is_wanted(), "{name}");
    }
}

#[test]
fn a_byte_beyond_ascii_in_the_target_is_refused() {
    let (origin, proxy) = stage("", "");
    let mut client = proxy.connect();
    client.send(b"GET /\x80 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    assert!(!origin.is_wanted());
}

#[test]
fn unusual_requests_that_mean_one_thing_are_passed_on_in_order() {
    let (origin, proxy) = stage("", "");
    let many: String = (0..90).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (name, bytes, line) in [
        ("bare LF", "GET /x HTTP/1.1\nHost: a.test\nX: 1\n\n".to_owned(), "GET /x HTTP/1.1"),
        ("HTTP/1.2", "GET /x HTTP/1.2\r\nHost: a.test\r\n\r\n".to_owned(), "GET /x HTTP/1.1"),
        ("lower-case method", "get /x HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), "get /x HTTP/1.1"),
        ("90 fields", format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{many}\r\n"), "GET /x HTTP/1.1"),
        ("blanks around a value", "GET /x HTTP/1.1\r\nHost:\t a.test \t\r\n\r\n".to_owned(), "GET /x HTTP/1.1"),
        (
            "large chunk digits",
            head("Transfer-Encoding: chunked") + "0000000000000001\r\nx\r\n0\r\n\r\n",
            "POST /x HTTP/1.1",
        ),
    ] {
        let mut client = proxy.connect();
        client.send([bytes.as_str(), &get("/next")].concat());
        let (mut server, request) = origin.request();
        assert_eq!((request.line.as_str(), request.field("host")), (line, Some("a.test")), "{name}");
        server.send(ok("1"));
        assert_eq!(client.response().text(), "1", "{name}");
        assert_eq!(server.request().target(), "/next", "{name}");
        server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.response();
    }
}

#[test]
fn broken_chunks_end_both_connections() {
    for (name, good, bad) in [
        ("0x", "", "0x1\r\na\r\n0\r\n\r\n"),
        ("no digits", "", "\r\n0\r\n\r\n"),
        ("sign", "", "+1\r\na\r\n0\r\n\r\n"),
        ("overflow", "", "10000000000000001\r\na\r\n0\r\n\r\n"),
        ("bare LF", "1", "\na\r\n0\r\n\r\n"),
        ("LF in an extension", "1;a=b", "\nc\r\na\r\n0\r\n\r\n"),
        ("no CRLF after data", "1\r\na", "b\r\n0\r\n\r\n"),
        ("LF after data", "1\r\na", "\n0\r\n\r\n"),
        ("space in front of the size", "1\r\na\r\n", " 1\r\na\r\n0\r\n\r\n"),
        ("framing in trailers", "0\r\n", "Content-Length: 5\r\n\r\n"),
        ("NUL in trailers", "0\r\nX: ", "\0\r\n\r\n"),
    ] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(head("Transfer-Encoding: chunked") + good);
        let mut server = origin.accept();
        server.head();
        server.expect(good);
        client.send([bad, SMUGGLED].concat());
        let response = client.response();
        assert_eq!((response.status(), response.field("connection")), (400, Some("close")), "{name}");
        // Not one byte of what is wrong.
        server.expect_gone();
        assert!(proxy.log_line().ends_with("400 reason=bad_request tries=1"), "{name}");
    }
}

#[test]
fn ambiguous_responses_are_not_passed_on() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    for (name, response) in [
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/2", "HTTP/2.0 200 OK\r\n\r\n"),
        ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two CLs", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
        ("two CLs, the same", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        ("CL that is no number", "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\nx"),
        ("TE in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx"),
        ("NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
        ("folded value", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        ("head without end", &huge),
        ("broken first chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        let (origin, mut proxy) = stage("", "retries = 0");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(response);
        let response = client.response();
        // It is the server's fault: the client's connection goes on.
        assert_eq!((response.status(), response.all("connection")), (502, vec![]), "{name}");
        server.expect_gone();
        let reason = if name == "broken first chunk" { "bad_body" } else { "bad_head" };
        assert_eq!(proxy.log_line(), format!("GET / 502 reason={reason} tries=1"), "{name}");
    }
}

#[test]
fn bodies_where_there_can_be_none_are_not_taken_for_the_next_response() {
    let head = "HEAD /1 HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned();
    for (request, response) in [
        (&get("/1"), "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        (&get("/1"), "HTTP/1.1 304 Not Modified\r\n\r\nevil"),
        (&head, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        (&head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
    ] {
        let (origin, proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(request);
        let (mut server, _) = origin.request();
        server.send(response);
        client.head();
        client.send(get("/2"));
        let (mut next, _) = origin.request();
        next.send(ok("2"));
        assert_eq!(client.response().text(), "2", "{request} {response}");
        server.expect_gone();
    }
}

#[test]
fn a_response_that_breaks_off_in_a_chunk_is_neither_whole_nor_repeated() {
    for (rest, reason) in [("", "reset_in_body"), ("zz\r\n", "bad_body")] {
        let (origin, mut proxy) = stage("", "");
        let mut client = proxy.connect();
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        client.head();
        client.expect("5\r\nhello\r\n");
        server.send(rest);
        drop(server);
        let (rest, _) = client.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "");
        assert_eq!(proxy.log_line(), format!("GET / 200 reason={reason} tries=1"));
        assert!(!origin.is_wanted());
    }
}

#[test]
fn a_hostile_client_does_not_disturb_others() {
    let origin = Answering::with(ok("fine"));
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    let mut good = proxy.connect();
    for garbage in
        [&b"\0\0\0\0"[..], b"GET", b"\xff\xfe\xfd\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"]
    {
        let mut bad = proxy.connect();
        bad.send(garbage);
        good.send(get("/"));
        assert_eq!(good.response().text(), "fine");
        bad.reset();
    }
}
