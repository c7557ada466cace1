//! HTTP/2 to servers: what a server sees, what a client gets back, and what becomes of the shared connections.

use h2::Reason;
use hyper::body::Bytes;
use hyper::http::Version;
use hyper::{HeaderMap, Method, Response};

use super::big;
use crate::support::h2_origin::{H2Origin, is_reset, wait};
use crate::support::origin::{Answering, Origin};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{End, Peer, get, ok, post};

const CHUNKED_POST: &str = "POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn text(server: impl std::fmt::Display, pool: &str) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\nhttp_version = \"2\"\n{pool}\n"
    )
}

fn stage(pool: &str) -> (H2Origin, Proxy) {
    let origin = H2Origin::new();
    let proxy = Proxy::start(&text(origin.addr(), pool));
    (origin, proxy)
}

fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let mut builder = Response::builder().status(status);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(name, value.parse().unwrap());
    fields
}

#[test]
fn a_request_becomes_one_of_http2_and_its_response_comes_back() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    client.send(
        "GET /a/b?c=<d> HTTP/1.1\r\nHost: a.test:81\r\nX-One: 1\r\nx-one: 2\r\nConnection: keep-alive, X-Hop\r\n\
         X-Hop: 1\r\nCookie: a=1\r\n\r\n",
    );
    let mut exchange = origin.request();
    let head = &exchange.head;
    assert_eq!((&head.method, head.version), (&Method::GET, Version::HTTP_2));
    assert_eq!(head.uri.to_string(), "http://a.test:81/a/b?c=%3Cd%3E");
    let ones: Vec<_> = head.headers.get_all("x-one").iter().collect();
    assert_eq!(ones, ["1", "2"]);
    assert_eq!(exchange.field("cookie"), Some("a=1"));
    assert_eq!(exchange.field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(["host", "connection", "x-hop", "te"].iter().all(|name| exchange.field(name).is_none()));
    assert!(exchange.body.is_end_stream());
    let mut stream = exchange.head(response(200, &[("x-two", "a"), ("x-two", "b")]), false);
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    stream.send_data(Bytes::from_static(b" world"), true).unwrap();
    let answer = client.response();
    assert_eq!((answer.status(), answer.text(), answer.all("x-two")), (200, "hello world", vec!["a", "b"]));
    // With a length, and on the same connection.
    client.send(get("/next"));
    let mut exchange = origin.request();
    let mut stream = exchange.head(response(201, &[("content-length", "3")]), false);
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let answer = client.response();
    assert_eq!((answer.status(), answer.text(), answer.field("content-length")), (201, "abc", Some("3")));
    assert_eq!((exchange.connection, origin.connections()), (1, 1));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    client.send(post("/held", "held"));
    let mut exchange = origin.request();
    assert_eq!(exchange.field("content-length"), Some("4"));
    assert_eq!(exchange.rest(), (b"held".to_vec(), None));
    exchange.ok("");
    assert_eq!(client.response().text(), "");

    client.send([CHUNKED_POST, "5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nx-more: a: b\r\n\r\n"].concat());
    let mut exchange = origin.request();
    let (body, fields) = exchange.rest();
    let fields = fields.expect("trailers");
    assert_eq!(
        (&body[..], fields["x-sum"].as_bytes(), fields["x-more"].as_bytes()),
        (&b"hello world"[..], &b"1"[..], &b"a: b"[..])
    );
    assert!(exchange.field("transfer-encoding").is_none());
    let mut stream = exchange.head(response(200, &[]), false);
    stream.send_data(Bytes::from_static(b"hi"), false).unwrap();
    let mut fields = trailers("x-status", "0");
    // May only be a header, and does not end the body twice.
    fields.insert("content-length", "7".parse().unwrap());
    stream.send_trailers(fields).unwrap();
    let answer = client.response();
    assert_eq!(String::from_utf8_lossy(&answer.wire), "2\r\nhi\r\n0\r\nx-status: 0\r\n\r\n");
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    for (request, status, fields) in [
        ("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", 200, &[("content-length", "70")][..]),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 204, &[]),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 304, &[("etag", "\"a\"")]),
    ] {
        client.send(request);
        origin.request().head(response(status, fields), true);
        let head = client.head();
        assert_eq!((head.status(), head.field("transfer-encoding")), (status, None), "{request}");
        assert_eq!(head.field("content-length"), fields.iter().find(|f| f.0 == "content-length").map(|f| f.1));
    }
    client.send(get("/"));
    origin.request().head(response(200, &[]), true);
    assert_eq!(client.response().field("content-length"), Some("0"));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn interim_responses_pass() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    client.send(get("/"));
    let mut exchange = origin.request();
    exchange.interim(response(103, &[("link", "</a.css>")]));
    exchange.interim(response(103, &[("link", "</b.css>")]));
    let head = client.head();
    assert_eq!((head.status(), head.field("link")), (103, Some("</a.css>")));
    assert_eq!(client.head().field("link"), Some("</b.css>"));
    exchange.ok("done");
    assert_eq!(client.response().text(), "done");
}

#[test]
fn both_directions_go_on_at_once() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    client.send(CHUNKED_POST);
    // The head goes before there is any body.
    let mut exchange = origin.request();
    let mut stream = exchange.head(response(200, &[("content-type", "application/grpc")]), false);
    assert_eq!(client.head().field("transfer-encoding"), Some("chunked"));
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len()));
        assert_eq!(exchange.data(), word);
        stream.send_data(Bytes::copy_from_slice(word.as_bytes()), false).unwrap();
        client.expect(format!("{:x}\r\n{word}\r\n", word.len()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(exchange.rest(), (Vec::new(), None));
    stream.send_trailers(trailers("grpc-status", "0")).unwrap();
    client.expect("0\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn requests_share_connections_as_the_server_allows() {
    let origin = H2Origin::with(|builder| {
        builder.max_concurrent_streams(2);
    });
    let proxy = Proxy::start(&text(origin.addr(), ""));
    // Until the server has said so nobody knows.
    let mut first = proxy.connect();
    first.send(get("/first"));
    origin.request().ok("");
    first.response();
    let mut clients: Vec<Peer> = (0..5).map(|_| proxy.connect()).collect();
    let mut exchanges = Vec::new();
    for client in &mut clients {
        client.send(get("/"));
        exchanges.push(origin.request());
    }
    let mut used: Vec<usize> = exchanges.iter().map(|exchange| exchange.connection).collect();
    used.sort_unstable();
    assert_eq!(used, [1, 1, 2, 2, 3]);
    for (exchange, client) in exchanges.into_iter().zip(&mut clients) {
        exchange.ok("x");
        assert_eq!(client.response().text(), "x");
    }
}

#[test]
fn requests_that_come_at_once_open_one_connection() {
    let (origin, proxy) = stage("");
    let mut clients: Vec<Peer> = (0..20).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/")));
    let exchanges: Vec<_> = (0..20).map(|_| origin.request()).collect();
    assert_eq!(origin.connections(), 1);
    exchanges.into_iter().for_each(|exchange| exchange.ok("x"));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "x"));
}

#[test]
fn a_connection_that_says_goodbye_gets_nothing_new_and_ends_what_it_has() {
    let (origin, proxy) = stage("");
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    one.send(get("/one"));
    let old = origin.request();
    old.say_goodbye();
    // Its GOAWAY may come after the next request has gone, which the server has then not processed.
    two.send(post("/two", "body"));
    let mut new = origin.request();
    assert_eq!(new.rest().0, b"body");
    new.ok("two");
    assert_eq!(two.response().text(), "two");
    old.ok("one");
    assert_eq!(one.response().text(), "one");
    two.send(get("/three"));
    let next = origin.request();
    assert_eq!(next.connection, 2);
    next.ok("");
    two.response();
}

#[test]
fn what_the_server_has_refused_is_sent_again_even_a_post() {
    let (origin, mut proxy) = stage("");
    let mut client = proxy.connect();
    client.send(get("/warm"));
    origin.request().ok("");
    client.response();
    client.send(post("/", "once"));
    origin.request().reset(Reason::REFUSED_STREAM);
    let mut again = origin.request();
    assert_eq!((again.rest().0, again.connection), (b"once".to_vec(), 1));
    again.ok("done");
    assert_eq!(client.response().text(), "done");
    proxy.wait_for_log("POST / 200 reason=- tries=1");
    // Any other reset may mean that it was processed.
    client.send(post("/", "twice"));
    origin.request().reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.response().status(), 502);
    proxy.wait_for_log("502 reason=reset_before_head");
    assert!(origin.try_request().is_none());
}

#[test]
fn a_stream_that_the_server_resets_is_its_answer() {
    let (origin, mut proxy) = stage("");
    let mut client = proxy.connect();
    client.send(get("/warm"));
    origin.request().ok("");
    client.response();
    client.send(get("/bad"));
    origin.request().reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.response().status(), 502);
    proxy.wait_for_log("GET /bad 502 reason=reset_before_head tries=1");
    client.send(get("/good"));
    let good = origin.request();
    assert_eq!((good.head.uri.path(), good.connection), ("/good", 1));
    good.ok("");
    client.response();
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The stream of the next HEADERS frame.
fn next_headers(server: &mut Peer) -> u32 {
    loop {
        let head = server.bytes(9);
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        server.bytes(len);
        if head[3] == 1 {
            return u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        }
    }
}

#[test]
fn streams_above_the_last_of_a_goaway_go_elsewhere() {
    let origin = Origin::new();
    let proxy = Proxy::start(&text(origin.addr(), ""));
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    one.send(get("/one"));
    let mut server = origin.accept();
    server.expect(PREFACE);
    server.send(frame(4, 0, 0, &[]));
    assert_eq!(next_headers(&mut server), 1);
    two.send(post("/two", "x"));
    assert_eq!(next_headers(&mut server), 3);
    // GOAWAY, last stream 1, NO_ERROR.
    server.send(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    let mut other = origin.accept();
    other.expect(PREFACE);
    other.send(frame(4, 0, 0, &[]));
    assert_eq!(next_headers(&mut other), 1);
    // HEADERS with END_STREAM and END_HEADERS: `:status: 200` of the static table, and 204.
    other.send(frame(1, 5, 1, &[0x89]));
    assert_eq!(two.head().status(), 204);
    server.send(frame(1, 5, 1, &[0x88]));
    assert_eq!(one.response().status(), 200);
}

#[test]
fn requests_of_a_connection_that_broke_share_the_next_one() {
    let origin = Origin::new();
    let proxy = Proxy::start(&text(origin.addr(), ""));
    let mut clients: Vec<Peer> = (0..5).map(|_| proxy.connect()).collect();
    clients[0].send(get("/warm"));
    let mut server = origin.accept();
    server.expect(PREFACE);
    server.send(frame(4, 0, 0, &[]));
    let stream = next_headers(&mut server);
    server.send(frame(1, 5, stream, &[0x88]));
    clients[0].response();
    for client in &mut clients {
        client.send(get("/"));
        next_headers(&mut server);
    }
    drop(server);
    let mut server = origin.accept();
    server.expect(PREFACE);
    server.send(frame(4, 0, 0, &[]));
    for _ in &clients {
        let stream = next_headers(&mut server);
        server.send(frame(1, 5, stream, &[0x88]));
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
}

#[test]
fn what_does_not_speak_http2_is_a_bad_server() {
    let origin = Answering::new(|_| ok("never").into());
    let mut proxy = Proxy::start(&text(origin.addr(), "retries = 0"));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.response().status(), 502);
    proxy.wait_for_log("502 reason=");
    let raw = Origin::new();
    let mut proxy = Proxy::start(&text(raw.addr(), "retries = 0"));
    let mut client = proxy.connect();
    client.send(get("/"));
    let mut server = raw.accept();
    server.expect(PREFACE);
    server.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status(), 502);
    proxy.wait_for_log("502 reason=bad_head");
}

/// A field that is in no table (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn what_breaks_the_rules_of_http2_is_not_passed_on() {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const OK: &[u8] = &[0x88];
    let head = |fields: &[u8]| frame(1, END_HEADERS | END_STREAM, 1, fields);
    let cases = [
        ("a field of the connection", head(&[OK, &field("connection", "close")].concat())),
        ("a name in upper case", head(&[OK, &field("X-Up", "1")].concat())),
        ("a line end in a value", head(&[OK, &field("x", "1\r\ny: 2")].concat())),
        ("no status", head(&field("x", "1"))),
        ("a status twice", head(&[OK, OK].concat())),
        ("a length twice", {
            let length = field("content-length", "5");
            [frame(1, END_HEADERS, 1, &[OK, &length, &length].concat()), frame(0, END_STREAM, 1, b"hello")].concat()
        }),
        ("a length that is none", head(&[OK, &field("content-length", "5x")].concat())),
        ("less than its length", head(&[OK, &field("content-length", "5")].concat())),
        ("another protocol", frame(1, END_HEADERS, 1, &field(":status", "101"))),
        ("data before a head", frame(0, END_STREAM, 1, b"hello")),
        ("data of no stream", frame(0, 0, 0, b"hello")),
        ("a broken table", head(&[0xff, 0xff, 0xff])),
        ("too many interim responses", frame(1, END_HEADERS, 1, &field(":status", "103")).repeat(17)),
        ("a frame that is too long", frame(0, 0, 1, &[0; 20_000])),
    ];
    for (what, frames) in cases {
        let origin = Origin::new();
        let mut proxy = Proxy::start(&text(origin.addr(), "retries = 0"));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut server = origin.accept();
        server.expect(PREFACE);
        server.send(frame(4, 0, 0, &[]));
        assert_eq!(next_headers(&mut server), 1);
        server.send(frames);
        let mut head = client.head();
        while head.status() == 103 {
            head = client.head();
        }
        assert_eq!(head.status(), 502, "{what}");
        let line = proxy.wait_for_log(" 502 ");
        assert!(line.contains("reason=bad_head"), "{what}: {line}");
    }
}

#[test]
fn a_client_that_leaves_resets_its_stream_and_no_other() {
    let (origin, proxy) = stage("");
    let (mut gone, mut stays) = (proxy.connect(), proxy.connect());
    stays.send(get("/stays"));
    let kept = origin.request();
    gone.send(get("/gone"));
    let mut left = origin.request();
    assert_eq!((kept.connection, left.connection), (1, 1));
    gone.reset();
    assert_eq!(left.reset_reason(), Reason::CANCEL);
    kept.ok("here");
    assert_eq!(stays.response().text(), "here");
}

#[test]
fn half_a_response_is_no_whole_one() {
    let (origin, mut proxy) = stage("");
    let mut client = proxy.connect();
    client.send(get("/"));
    let mut exchange = origin.request();
    let mut stream = exchange.head(response(200, &[]), false);
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    client.head();
    client.expect("4\r\nhalf\r\n");
    stream.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.rest(), (Vec::new(), End::Reset));
    proxy.wait_for_log("200 reason=reset_in_body");
}

#[test]
fn a_server_may_end_its_stream_after_a_complete_response() {
    let (origin, proxy) = stage("");
    let mut client = proxy.connect();
    client.send(get("/"));
    let mut first = origin.request();
    let mut stream = first.head(response(200, &[("content-length", "5")]), false);
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(client.response().text(), "hello");
    client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut second = origin.request();
    let mut empty = second.head(response(200, &[]), false);
    assert_eq!(client.head().status(), 200);
    // A reset of either would be in front of this.
    client.send(get("/"));
    origin.request().ok("third");
    assert_eq!(client.response().text(), "third");
    for stream in [&mut stream, &mut empty] {
        assert!(!is_reset(stream));
        stream.send_data(Bytes::new(), true).unwrap();
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_slow_client_holds_no_more_than_a_window_and_stops_nobody_else() {
    let (origin, proxy) = stage("response_buffering = \"16KiB\"");
    let body = big(8 << 20);
    let mut slow = Peer::connect_narrow(proxy.addr());
    slow.send(get("/slow"));
    let mut exchange = origin.request();
    let mut stream = exchange.head(response(200, &[("content-length", &body.len().to_string())]), false);
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, all) = (std::sync::Arc::clone(&sent), body.clone());
    let sending = origin.handle().spawn(async move {
        let mut at = 0;
        while at < all.len() {
            stream.reserve_capacity(all.len() - at);
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            let end = (at + room).min(all.len());
            stream.send_data(Bytes::copy_from_slice(&all[at..end]), end == all.len()).unwrap();
            at = end;
            count.store(at, std::sync::atomic::Ordering::SeqCst);
        }
    });
    slow.head();
    // Others on the same connection go on.
    let mut other = proxy.connect();
    for _ in 0..20 {
        other.send(get("/"));
        let exchange = origin.request();
        assert_eq!(exchange.connection, 1);
        exchange.ok("x");
        assert_eq!(other.response().text(), "x");
    }
    let held = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(held < body.len() / 2, "{held} bytes were taken for a client that reads nothing");
    assert!(slow.bytes(body.len()) == body);
    wait("the end", sending).unwrap();
}

#[test]
fn a_large_upload_arrives_whole_through_small_windows() {
    let origin = H2Origin::with(|builder| {
        builder.initial_window_size(1000);
    });
    let proxy = Proxy::start(&text(origin.addr(), "max_body_size = \"16MiB\"\nrequest_buffering = \"16KiB\""));
    let body = big(1 << 20);
    let mut client = proxy.connect();
    let (mut sender, all) = (client.try_clone(), body.clone());
    let sending = std::thread::spawn(move || {
        sender.send(format!("POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", all.len()));
        sender.send(all);
    });
    let mut exchange = origin.request();
    assert!(exchange.rest().0 == body);
    exchange.ok("got it");
    sending.join().unwrap();
    assert_eq!(client.response().text(), "got it");
}

#[test]
fn a_connection_that_is_silent_gets_nothing_new() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&text(origin.addr(), "retries = 0\nread_timeout = \"50ms\""));
    let mut client = proxy.connect();
    client.send(get("/"));
    let silent = origin.accept();
    assert_eq!(client.response().status(), 504);
    proxy.wait_for_log("504 reason=read_timeout");
    client.send(get("/"));
    let next = origin.accept();
    assert_eq!(client.response().status(), 504);
    drop((silent, next));
}

#[test]
fn a_reload_changes_the_version() {
    let origin = H2Origin::new();
    let mut proxy = Proxy::start(&text(origin.addr(), ""));
    let mut client = proxy.connect();
    client.send(get("/two"));
    origin.request().ok("2");
    assert_eq!(client.response().text(), "2");
    let old = Answering::new(|_| ok("1").into());
    proxy.reload(&text(old.addr(), "").replace("\"2\"", "\"1.1\""));
    client.send(get("/one"));
    assert_eq!(client.response().text(), "1");
}

#[test]
fn an_idle_connection_ends_after_its_time() {
    let (origin, proxy) = stage("keepalive_timeout = \"50ms\"");
    let mut client = proxy.connect();
    client.send(get("/"));
    origin.request().ok("");
    client.response();
    // Whichever looks first, the sweep or the next request.
    wait_for("another connection", || {
        std::thread::sleep(std::time::Duration::from_millis(60));
        client.send(get("/"));
        let exchange = origin.request();
        let connection = exchange.connection;
        exchange.ok("");
        client.response();
        (connection == 2).then_some(())
    });
}
