//! Clients that cost more than they ask for: each is told to calm down, and costs a bounded number of requests and bytes.

use super::{answered, config, stage};
use crate::support::frames::*;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::reply;

const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `http2_max_glitches` of the tests.
const ALLOWED: usize = 50;

/// Frames of a flood: far more than what is allowed, and than what time forgives meanwhile.
const MANY: usize = 20_000;

fn strict() -> String {
    format!("http2_max_glitches = {ALLOWED}")
}

/// Makes frames of a number, from 0 up.
type Maker = Box<dyn Fn(u32) -> Vec<u8>>;

/// Sends what `frames` makes of the numbers up to [`MANY`], as far as it is taken; then reads.
fn flood(proxy: &Proxy, first: &[u8], frames: impl Fn(u32) -> Vec<u8>) -> Fate {
    let mut client = Frames::connect(proxy.addr(), &[(4, 1 << 30)]);
    client.send(first);
    for i in 0..MANY as u32 {
        if !client.try_send(&frames(i)) {
            break;
        }
    }
    client.fate_but_answers_and_resets()
}

#[test]
fn frames_that_do_nothing_are_a_flood() {
    let (_origin, proxy) = answered(&strict());
    let open = post(1, "/", &[]);
    let floods: [(&str, &[u8], Maker); 9] = [
        ("PING", b"", Box::new(|_| ping())),
        ("PING ACK", b"", Box::new(|_| frame(PING, ACK, 0, &[0; 8]))),
        ("SETTINGS", b"", Box::new(|_| setting(&[(3, 100)]))),
        ("empty SETTINGS", b"", Box::new(|_| setting(&[]))),
        ("PRIORITY", b"", Box::new(|i| frame(PRIORITY, NONE, 2 * i + 1, &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", b"", Box::new(|_| window(0, 1))),
        ("empty DATA", &open, Box::new(|_| frame(DATA, NONE, 1, b""))),
        ("nothing but padding", &open, Box::new(|_| frame(DATA, PADDED, 1, &[2, 0, 0]))),
        ("an unknown type", b"", Box::new(|_| frame(0x99, NONE, 0, b""))),
    ];
    for (what, first, frames) in floods {
        assert_eq!(flood(&proxy, first, frames), Fate::Gone(ENHANCE_YOUR_CALM), "{what}");
    }
    let floods = || proxy.engine().errors().errors.iter().any(|error| error.reason == "client_flood");
    wait_for("a note of it", || floods().then_some(()));
}

/// CVE-2023-44487.
#[test]
fn requests_that_are_reset_at_once_reach_the_server_a_bounded_number_of_times() {
    let (origin, proxy) = answered(&strict());
    let fate = flood(&proxy, b"", |i| [get(2 * i + 1, "/"), reset(2 * i + 1, CANCEL)].concat());
    assert_eq!(fate, Fate::Gone(ENHANCE_YOUR_CALM));
    // What was reset was paid for; what was answered before its reset came is no flood, and pays for one more.
    let seen = origin.requests().len();
    assert!(seen < MANY / 10, "{seen} of {MANY} requests reached the server");
}

/// CVE-2025-8671: streams that the client makes us reset.
#[test]
fn requests_that_we_have_to_reset_reach_the_server_a_bounded_number_of_times() {
    let (origin, proxy) = stage(&strict(), "");
    let length = [("content-length", "5")];
    let floods: [(&str, Maker); 4] = [
        ("a window above its limit", Box::new(move |id| [post(id, "/", &[]), window(id, MAX)].concat())),
        (
            "more than Content-Length",
            Box::new(move |id| [post(id, "/", &length), frame(DATA, NONE, id, &[0; 6])].concat()),
        ),
        ("half-closed", Box::new(|id| [get(id, "/"), frame(HEADERS, END_HEADERS, id, &block(&[("x", "y")]))].concat())),
        ("a malformed head", Box::new(|id| frame(HEADERS, END, id, &block(&request("GET", "/", &[("te", "x")]))))),
    ];
    for (what, frames) in floods {
        let fate = flood(&proxy, b"", |i| frames(2 * i + 1));
        assert!(matches!(fate, Fate::Gone(ENHANCE_YOUR_CALM | STREAM_CLOSED)), "{what}: {fate:?}");
    }
    // None of them was answered, so each connection that came is one request.
    let mut seen = 0;
    while origin.is_wanted() {
        drop(origin.accept());
        seen += 1;
    }
    assert!(seen <= 4 * 3 * ALLOWED, "{seen} requests reached the server");
}

const STREAM_CLOSED: u32 = 5;
const MAX: u32 = 0x7fff_ffff;

/// CVE-2024-27316 and its relatives.
#[test]
fn a_block_without_an_end_is_a_flood() {
    let (origin, proxy) = answered("");
    let head = frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/", &[])));
    for piece in [block(&[("x", "y")]), Vec::new()] {
        let fate = flood(&proxy, &head, |_| frame(CONTINUATION, NONE, 1, &piece));
        assert_eq!(fate, Fate::Gone(ENHANCE_YOUR_CALM));
    }
    assert_eq!(origin.requests().len(), 0);
}

/// CVE-2026-49975: one byte a field, of a table that the client has filled.
#[test]
fn fields_that_a_byte_stands_for_count_in_full() {
    let (origin, proxy) = answered("");
    let long = "x".repeat(3000);
    let mut head = block(&request("GET", "/", &[]));
    head.extend([0x40, 1, b'b']);
    head.extend(block(&[("b", &long)]).drain(3..));
    head.extend([0x80 | 62; 10_000]);
    let mut client = Frames::connect(proxy.addr(), &[]);
    client.send(&frame(HEADERS, END, 1, &head));
    assert_eq!(client.fate(), Fate::Gone(ENHANCE_YOUR_CALM));

    // Crumbs of a cookie: few enough for the connection, too many for a request.
    let mut head = block(&request("GET", "/", &[]));
    head.extend(b"\x40\x06cookie\x00");
    head.extend([0x80 | 62; 2_000]);
    let mut client = Frames::connect(proxy.addr(), &[]);
    client.send(&frame(HEADERS, END, 1, &head));
    assert_eq!(client.fate(), Fate::Answer(1, 431));
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn more_fields_than_are_allowed_are_refused_as_in_http_1_1() {
    let (origin, mut proxy) = answered("max_header_count = 10");
    let mut client = Frames::connect(proxy.addr(), &[]);
    client.send(&frame(HEADERS, END, 1, &block(&request("GET", "/", &[("x", "y"); 20]))));
    assert_eq!(client.fate(), Fate::Answer(1, 431));
    assert!(proxy.log_line().contains("431 reason=head_too_large"));
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_window_of_a_byte_at_a_time_is_a_flood() {
    let (origin, proxy) = stage(&strict(), "");
    let mut client = Frames::connect(proxy.addr(), &[(4, 0)]);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000)));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    let mut bytes = 0;
    loop {
        // One by one, so that each makes us send.
        if !client.try_send(&window(1, 1)) {
            break;
        }
        match client.next() {
            Some(frame) if frame.kind == DATA => bytes += frame.payload.len(),
            Some(frame) if frame.kind == GOAWAY => {
                assert_eq!(frame.payload[7], ENHANCE_YOUR_CALM as u8);
                break;
            }
            Some(_) => {}
            None => panic!("the end without a word"),
        }
    }
    assert!(bytes < 10 * ALLOWED, "{bytes} bytes were sent one by one");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_loses_the_stream() {
    let (origin, mut proxy) = stage("send_timeout = \"100ms\"", "");
    let mut client = Frames::connect(proxy.addr(), &[(4, 0)]);
    client.send(&get(1, "/"));
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    assert!(matches!(client.fate(), Fate::Reset(1, _)));
    assert_eq!(proxy.log_line(), "GET / 200 reason=client_timeout tries=1");
}

#[test]
fn what_is_begun_and_not_ended_ends_the_connection() {
    let (_origin, proxy) = answered("header_timeout = \"100ms\"");
    for part in [&b""[..], &PREFACE[..20], PREFACE] {
        let mut client = Frames::silent(proxy.addr());
        client.send(part);
        while client.next().is_some() {}
    }
    // In the middle of a frame's head, of a block, and between two frames of one.
    let whole = get(1, "/");
    let open = frame(HEADERS, END_STREAM, 1, &block(&request("GET", "/", &[])));
    for part in [&whole[..5], &whole[..20], &open] {
        let mut client = Frames::connect(proxy.addr(), &[]);
        client.send(part);
        assert!(matches!(client.fate(), Fate::Gone(_)));
    }
    wait_for("no connection", || (proxy.engine().connections() == 0).then_some(()));
}

/// As Go's client does: both windows, every 4 KiB.
#[test]
fn a_client_that_opens_its_windows_in_small_steps_is_no_flood() {
    const LEN: usize = 4 << 20;
    let origin = Answering::with(reply("200 OK", "", &"x".repeat(LEN)));
    let proxy = Proxy::start(&config(&strict(), origin.addr(), ""));
    let mut client = Frames::connect(proxy.addr(), &[]);
    client.send(&get(1, "/"));
    let mut left = LEN;
    while left > 0 {
        let frame = client.next().expect("more of the body");
        assert_ne!(frame.kind, GOAWAY, "{left} bytes before the end");
        if frame.kind == DATA {
            left -= frame.payload.len();
            for step in frame.payload.chunks(4096) {
                let by = step.len() as u32;
                client.send(&[window(0, by), window(1, by)].concat());
            }
        }
    }
}

/// Resets, pings and updates in proportion to what is asked for are nothing strange.
#[test]
fn a_busy_client_is_no_flood() {
    let (origin, proxy) = answered(&format!("{}\nkeepalive_requests = 1000000", strict()));
    let mut client = Frames::connect(proxy.addr(), &[]);
    for i in 0..1000 {
        let id = 2 * i + 1;
        client.send(&[get(id, "/"), window(0, 5), window(id, 5), ping()].concat());
        let (mut answered, mut alive) = (false, false);
        while !(answered && alive) {
            match client.next().expect("no end") {
                Frame { kind: DATA, flags: END_STREAM, .. } => answered = true,
                Frame { kind: PING, .. } => alive = true,
                Frame { kind: GOAWAY, payload, .. } => panic!("GOAWAY {payload:?} after {i} requests"),
                _ => {}
            }
        }
    }
    assert_eq!(origin.requests().len(), 1000);
}
