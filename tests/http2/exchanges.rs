//! Streams as exchanges: what servers and clients see of each other.

use std::io::{ErrorKind, Read, Write};

use super::{answered, config, stage};
use crate::support::frames::*;
use crate::support::origin::{Origin, Refusing};
use crate::support::proxy::{Proxy, router};
use crate::support::wait_for;
use crate::support::wire::{Peer, get as get1, ok};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;

/// Opens every window wide.
fn connect(proxy: &Proxy) -> Frames {
    let mut client = Frames::connect(proxy.addr(), &[(4, 1 << 30)]);
    client.send(&window(0, 1 << 30));
    client
}

/// The body of a response on stream `id`, up to its end or its trailers.
fn body(client: &mut Frames, id: u32) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let frame = client.next().expect("more of a body");
        match frame.kind {
            DATA if frame.id == id => {
                body.extend(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    return body;
                }
            }
            HEADERS if frame.id == id => return body,
            RST_STREAM | GOAWAY => panic!("{frame:?} in a body"),
            _ => {}
        }
    }
}

#[test]
fn a_request_arrives_as_one_of_http_1_1() {
    let (origin, mut proxy) =
        stage("access_log = { path = \"/log\", format = '$request $status $server_protocol $http2' }", "");
    let mut client = connect(&proxy);
    let more = [("accept", "*/*"), ("cookie", "a=1"), ("x-test", "1"), ("cookie", "b=2"), ("te", "trailers")];
    client.send(&frame(HEADERS, END, 1, &block(&request("GET", "/a?b=c", &more))));
    let (mut server, message) = origin.request();
    assert_eq!(message.line, "GET /a?b=c HTTP/1.1");
    assert_eq!(message.field("host"), Some("a.test"));
    assert_eq!(message.field("cookie"), Some("a=1; b=2"));
    assert_eq!((message.field("x-test"), message.field("te")), (Some("1"), Some("trailers")));
    assert_eq!((message.field("content-length"), message.field("transfer-encoding")), (None, None));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 5\r\nConnection: keep-alive\r\nX: y\r\n\r\nhello");
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    assert_eq!(body(&mut client, 1), b"hello");
    assert_eq!(proxy.log_line(), "GET /a?b=c HTTP/2.0 200 HTTP/2.0 h2c");
    // The connection to the server is used again.
    client.send(&get(3, "/second"));
    assert_eq!(server.request().target(), "/second");
}

#[test]
fn a_body_goes_through_with_its_length_or_in_chunks_with_its_trailers() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&post(1, "/known", &[("content-length", "6")]));
    client.send(&[frame(DATA, NONE, 1, b"abc"), frame(DATA, END_STREAM, 1, b"def")].concat());
    let (mut server, message) = origin.request();
    assert_eq!((message.field("content-length"), message.text()), (Some("6"), "abcdef"));
    server.send(ok(""));
    assert_eq!(client.fate(), Fate::Answer(1, 200));

    client.send(&post(3, "/unknown", &[]));
    client.send(&[frame(DATA, NONE, 3, b"abc"), frame(DATA, NONE, 3, b"de")].concat());
    client.send(&frame(HEADERS, END, 3, &block(&[("checksum", "1")])));
    let message = server.request();
    assert_eq!((message.field("transfer-encoding"), message.text()), (Some("chunked"), "abcde"));
    assert_eq!(String::from_utf8(message.wire).unwrap(), "3\r\nabc\r\n2\r\nde\r\n0\r\nchecksum: 1\r\n\r\n");
    server.send(ok(""));
    assert_eq!(client.fate(), Fate::Answer(3, 200));

    client.send(&frame(HEADERS, END, 5, &block(&request("POST", "/none", &[]))));
    assert_eq!(server.request().field("content-length"), Some("0"));
}

#[test]
fn trailers_and_interim_answers_reach_the_client() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.fate(), Fate::Answer(1, 103));
    server.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n\r\n5\r\nhello\r\n0\r\nsum: 15\r\n\r\n",
    );
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    let data = client.next_of(DATA).unwrap();
    assert_eq!((&data.payload[..], data.flags), (&b"hello"[..], NONE));
    let trailers = client.next_of(HEADERS).unwrap();
    assert_eq!((trailers.id, trailers.flags & END_STREAM), (1, END_STREAM));

    // Without trailers the last data ends the stream.
    client.send(&get(3, "/"));
    server.request();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n");
    let data = client.next_of(DATA).unwrap();
    assert_eq!((&data.payload[..], data.flags), (&b"hello"[..], END_STREAM));
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&frame(HEADERS, END, 1, &block(&request("HEAD", "/", &[]))));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.next_of(HEADERS).unwrap().flags, END);
    for (id, head) in [
        (3, "204 No Content\r\n"),
        (5, "304 Not Modified\r\nContent-Length: 5\r\n"),
        (7, "200 OK\r\nContent-Length: 0\r\n"),
    ] {
        client.send(&get(id, "/"));
        server.request();
        server.send(format!("HTTP/1.1 {head}\r\n"));
        let head = client.next_of(HEADERS).unwrap();
        assert_eq!((head.id, head.flags), (id, END));
    }
}

#[test]
fn both_directions_flow_before_either_is_complete() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&post(1, "/chat", &[("content-type", "application/grpc"), ("te", "trailers")]));
    // The head arrives although nothing of the body does.
    let mut server = origin.accept();
    assert_eq!(server.head().line, "POST /chat HTTP/1.1");
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    for _ in 0..3 {
        client.send(&frame(DATA, NONE, 1, b"ping"));
        server.expect("4\r\nping\r\n");
        server.send("4\r\npong\r\n");
        assert_eq!(client.next_of(DATA).unwrap().payload, b"pong");
    }
    client.send(&frame(DATA, END_STREAM, 1, b""));
    server.expect("0\r\n\r\n");
    server.send("0\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(client.next_of(HEADERS).unwrap().flags, END);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&post(1, "/", &[("expect", "100-continue"), ("content-length", "2")]));
    assert_eq!(client.fate(), Fate::Answer(1, 100));
    client.send(&frame(DATA, END_STREAM, 1, b"ok"));
    let (mut server, message) = origin.request();
    assert_eq!(message.text(), "ok");
    server.send(ok("done"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
}

#[test]
fn a_reset_of_the_client_ends_the_exchange_with_the_server() {
    let (origin, mut proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&get(1, "/slow"));
    let (mut server, _) = origin.request();
    client.send(&reset(1, CANCEL));
    server.expect_gone();
    assert_eq!(proxy.log_line(), "GET /slow 499 reason=client_gone tries=1");
    // In the middle of a body, and of an upload, too.
    client.send(&get(3, "/body"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(client.fate(), Fate::Answer(3, 200));
    client.send(&reset(3, CANCEL));
    server.expect_gone();
    client.send(&post(5, "/upload", &[]));
    let mut server = origin.accept();
    server.head();
    client.send(&reset(5, CANCEL));
    server.expect_gone();
    // And the connection goes on.
    client.send(&ping());
    assert_eq!(client.fate_but_answers(), Fate::Alive);
}

#[test]
fn the_end_of_the_connection_ends_all_its_exchanges() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&[get(1, "/"), get(3, "/")].concat());
    let (mut first, _) = origin.request();
    let (mut second, _) = origin.request();
    drop(client);
    first.expect_gone();
    second.expect_gone();
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn half_an_answer_is_taken_back() {
    let (origin, proxy) = stage("", "");
    for reply in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut client = connect(&proxy);
        client.send(&get(1, "/"));
        let (mut server, _) = origin.request();
        server.send(format!("HTTP/1.1 200 OK\r\n{reply}"));
        assert_eq!(client.fate(), Fate::Answer(1, 200));
        assert_eq!(client.next_of(DATA).unwrap().payload, b"hello");
        drop(server);
        assert_eq!(client.fate(), Fate::Reset(1, INTERNAL_ERROR), "{reply}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_ends_its_stream() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.0 200 OK\r\n\r\nhello");
    drop(server);
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    assert_eq!(body(&mut client, 1), b"hello");
}

#[test]
fn an_answer_before_the_end_of_the_request_is_complete_and_stops_it() {
    let (origin, proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&post(1, "/", &[]));
    let mut server = origin.accept();
    server.head();
    server.send(ok("enough"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    let data = client.next_of(DATA).unwrap();
    assert_eq!((&data.payload[..], data.flags), (&b"enough"[..], END_STREAM));
    assert_eq!(client.fate(), Fate::Reset(1, NO_ERROR));
}

/// Reads until nothing comes for a moment; the time only bounds how long a failure takes to show.
fn drain(server: &mut Peer) -> usize {
    let stream = server.stream();
    stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let (mut sum, mut piece) = (0, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return sum,
            Ok(n) => sum += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return sum,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_server_that_does_not_read_stops_the_upload() {
    const WINDOW: usize = 64 * 1024;
    let (origin, proxy) =
        stage("http2_stream_window = \"64KiB\"\nhttp2_connection_window = \"64KiB\"", "request_buffering = \"off\"");
    let mut client = connect(&proxy);
    client.send(&post(1, "/", &[]));
    let mut server = origin.accept();
    server.head();
    // As much as the client may send, and no more than the windows that were opened for it.
    let mut windows = [65_535, WINDOW];
    let mut sent = 0;
    for _ in 0..400 {
        while windows.iter().all(|window| *window >= 16_384) {
            client.send(&frame(DATA, NONE, 1, &[7; 16_384]));
            windows = windows.map(|window| window - 16_384);
            sent += 16_384;
        }
        client.send(&ping());
        loop {
            let frame = client.next().unwrap();
            match frame.kind {
                WINDOW_UPDATE => {
                    windows[frame.id as usize] += u32::from_be_bytes(frame.payload[..].try_into().unwrap()) as usize;
                }
                PING => break,
                _ => {}
            }
        }
    }
    // The kernel's buffers of loopback take some megabytes; everything else would have gone on for 400 rounds.
    assert!(sent < 16 << 20, "{sent} bytes were taken of a client whose server does not read");
    assert!(drain(&mut server) > sent - WINDOW, "what was taken was passed on");
}

#[test]
fn a_client_that_opens_no_window_stops_the_download() {
    let (origin, proxy) = stage("", "response_buffering = \"64KiB\"");
    let mut client = Frames::connect(proxy.addr(), &[(4, 0)]);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    let stream = server.stream();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let mut sent = 0usize;
    while let Ok(n) = stream.write(&[7; 65_536]) {
        sent += n;
        assert!(sent < 32 << 20, "{sent} bytes were taken for a client with a window of 0");
    }
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    // No byte of the body came, and the client gets as much as it asks for.
    client.send(&[window(1, 1000), ping()].concat());
    assert_eq!(client.next_of(DATA).unwrap().payload.len(), 1000);
}

#[test]
fn draining_lets_streams_finish_and_makes_no_more() {
    let (origin, mut proxy) = stage("", "");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    proxy.drain();
    let gone = client.next_of(GOAWAY).unwrap();
    assert_eq!(gone.payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let question = client.next_of(PING).unwrap();
    client.send(&frame(PING, ACK, 0, &question.payload));
    assert_eq!(client.next_of(GOAWAY).unwrap().payload, [0, 0, 0, 1, 0, 0, 0, 0]);
    server.send(ok("hello"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    assert_eq!(body(&mut client, 1), b"hello");
    assert!(client.next_of(DATA).is_none());
    drop(client);
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn a_process_that_is_to_become_quiet_says_goodbye_with_the_next_answer() {
    let (origin, proxy) = stage("", "");
    let mut busy = connect(&proxy);
    busy.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    let mut done = proxy.engine().quiet();
    assert_eq!(busy.next_of(GOAWAY).unwrap().payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    // One that came just then is served, and told the same.
    let mut late = connect(&proxy);
    late.send(&get(1, "/late"));
    let (mut other, _) = origin.request();
    assert_eq!(late.next_of(GOAWAY).unwrap().payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    for (client, server) in [(&mut busy, &mut server), (&mut late, &mut other)] {
        server.send(ok("hello"));
        assert_eq!(client.fate(), Fate::Answer(1, 200));
        assert_eq!(body(client, 1), b"hello");
    }
    drop((busy, late));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(done.wait());
    // One of them is older than the order, which waits for no other.
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn an_address_that_leaves_takes_its_streams_along() {
    let origin = Origin::new();
    let config = config("", origin.addr(), "").replace("127.0.0.1:80", "127.0.0.2:80");
    let proxy = Proxy::start_with(&config, |c| c.routers.push(router(&["127.0.0.2"], &[])));
    let mut client = connect(&proxy);
    client.send(&[get(1, "/"), get(3, "/"), post(5, "/", &[])].concat());
    let mut servers = [0; 3].map(|_| origin.accept());
    servers.iter_mut().for_each(|server| _ = server.head());
    let in_flight = || proxy.engine().snapshot().pools[0].in_flight();
    assert_eq!((proxy.engine().connections(), in_flight()), (1, 3));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(proxy.engine().abort(&["127.0.0.2".parse().unwrap()]).wait());
    assert_eq!((proxy.engine().connections(), in_flight()), (0, 0), "at once, not later");
    assert_eq!(client.fate(), Fate::Closed);
    servers.iter_mut().for_each(Peer::expect_gone);
}

#[test]
fn a_silent_client_does_not_hold_up_a_drain() {
    let (_origin, mut proxy) = answered("");
    // One in the preface, one behind it, one in the middle of a frame.
    let mut clients = [Frames::silent(proxy.addr()), connect(&proxy), connect(&proxy)];
    clients[0].send(&PREFACE[..20]);
    clients[1].send(&ping());
    assert_eq!(clients[1].fate(), Fate::Alive);
    clients[2].send(&[ping(), get(1, "/")[..9].to_vec()].concat());
    assert_eq!(clients[2].fate(), Fate::Alive);
    proxy.drain();
    for mut client in clients {
        while client.next().is_some() {}
    }
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn an_idle_connection_ends_when_draining_begins() {
    let (_origin, mut proxy) = answered("");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    proxy.drain();
    // It does not answer the question that comes with GOAWAY, and is not waited for.
    assert!(matches!(client.fate(), Fate::Gone(NO_ERROR)));
    while client.next().is_some() {}
    drop(client);
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

#[test]
fn a_connection_ends_after_keepalive_requests_and_when_it_is_idle() {
    let (_origin, proxy) = answered("keepalive_requests = 2");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    client.send(&get(3, "/"));
    assert_eq!(client.next_of(GOAWAY).unwrap().payload[4..], [0; 4]);

    let (_origin, proxy) = answered("keepalive_timeout = \"50ms\"");
    let mut client = connect(&proxy);
    client.send(&get(1, "/"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    assert_eq!(client.fate(), Fate::Gone(NO_ERROR));
    assert!(client.next().is_none());
}

#[test]
fn more_streams_than_there_may_be_are_refused() {
    let (origin, proxy) = stage("http2_max_concurrent_streams = 2", "");
    let mut client = connect(&proxy);
    let settings = client.next_of(SETTINGS).unwrap();
    assert!(settings.payload.chunks(6).any(|s| s == [0, 3, 0, 0, 0, 2]));
    client.send(&[get(1, "/"), get(3, "/"), get(5, "/")].concat());
    assert_eq!(client.fate(), Fate::Reset(5, 7));
    let (mut server, _) = origin.request();
    server.send(ok(""));
    assert!(matches!(client.fate(), Fate::Answer(1 | 3, 200)));
}

#[test]
fn http_2_is_not_spoken_unasked() {
    let origin = Refusing::new();
    let proxy = Proxy::start(&config("", origin.addr(), "").replace("http2 = true", ""));
    let mut client = proxy.connect();
    client.send(PREFACE);
    assert_eq!(client.response().status(), 505);
    // And where it is, HTTP/1.1 still is too.
    let (_origin, proxy) = answered("");
    let mut client = proxy.connect();
    client.send(get1("/"));
    assert_eq!(client.response().text(), "hello");
}

#[test]
fn a_client_of_grpc_is_told_of_errors_in_its_own_way() {
    let origin = Refusing::new();
    let mut proxy = Proxy::start(&config("", origin.addr(), ""));
    let mut client = connect(&proxy);
    client.send(&post(1, "/s/m", &[("content-type", "application/grpc+proto"), ("te", "trailers")]));
    let head = client.next_of(HEADERS).unwrap();
    assert_eq!(head.flags, END, "all of it is trailers");
    assert_eq!(head.payload[0], 0x88, "200");
    assert_eq!(proxy.log_line(), "POST /s/m 502 reason=connect_refused tries=1");
    assert_eq!(client.fate(), Fate::Reset(1, NO_ERROR));
    // Others get a page.
    client.send(&post(3, "/s/m", &[("content-type", "application/grpc-web")]));
    assert_eq!(client.fate(), Fate::Answer(3, 502));
}
