//! Random but valid traffic: what the server sees is what the client sent, and what the client sees is what the server
//! sent, whatever the framing, the order and the pieces it came in.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{big, stage};
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::{Message, chunked};

/// Sequences that are tried; the same ones in every run.
const CASES: u32 = 150;
const SEED: [u8; 32] = *b"requests in, the same ones out..";

#[derive(Debug, Clone)]
enum Framing {
    None,
    Length(usize),
    Chunked(usize, Vec<usize>),
}

#[derive(Debug, Clone)]
struct Exchange {
    method: &'static str,
    request: Framing,
    /// What the server is asked to answer with.
    response: Framing,
}

fn framing() -> impl Strategy<Value = Framing> {
    let size = prop_oneof![4 => 0usize..200, 2 => 200usize..40_000, 1 => 60_000usize..200_000];
    prop_oneof![
        Just(Framing::None),
        size.clone().prop_map(Framing::Length),
        (size, prop::collection::vec(prop_oneof![1usize..20, 1000usize..70_000], 1..4))
            .prop_map(|(len, sizes)| Framing::Chunked(len, sizes)),
    ]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"]);
    (method, framing(), framing()).prop_map(|(method, request, response)| Exchange { method, request, response })
}

impl Framing {
    fn body(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Length(len) | Self::Chunked(len, _) => big(*len),
        }
    }

    fn wire(&self) -> (String, Vec<u8>) {
        let body = self.body();
        match self {
            Self::None => (String::new(), body),
            Self::Length(len) => (format!("Content-Length: {len}\r\n"), body),
            Self::Chunked(_, sizes) => ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&body, sizes)),
        }
    }

    /// As it is written into a request's field, and read out of it again by the server.
    fn name(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Length(len) => format!("length {len}"),
            Self::Chunked(len, sizes) => {
                let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
                format!("chunked {len} {}", sizes.join(" "))
            }
        }
    }

    fn of_name(name: &str) -> Self {
        let mut words = name.split(' ');
        let kind = words.next();
        let mut numbers = words.map(|w| w.parse().unwrap());
        match kind {
            Some("length") => Self::Length(numbers.next().unwrap()),
            Some("chunked") => Self::Chunked(numbers.next().unwrap(), numbers.collect()),
            _ => Self::None,
        }
    }
}

fn answer(request: &Message) -> Vec<u8> {
    let framing = Framing::of_name(request.field("x-answer").unwrap());
    let (fields, wire) = framing.wire();
    let length = if matches!(framing, Framing::None) { "Content-Length: 0\r\n" } else { "" };
    let body = if request.method() == "HEAD" { Vec::new() } else { wire };
    [format!("HTTP/1.1 200 OK\r\n{length}{fields}X-Target: {}\r\n\r\n", request.target()).into_bytes(), body].concat()
}

/// Sends all requests in pieces of these sizes, without waiting for responses, and compares both ends.
fn run(exchanges: &[Exchange], pieces: &[usize], pool: &str) -> Result<(), TestCaseError> {
    let origin = Answering::new(answer);
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [\"{}\"]\n{pool}\n",
        origin.addr()
    ));
    let mut bytes = Vec::new();
    for (i, e) in exchanges.iter().enumerate() {
        let (fields, body) = e.request.wire();
        let answer = e.response.name();
        bytes.extend(
            format!("{} /{i}?q=%20{i} HTTP/1.1\r\nHost: a.test\r\nX-Answer: {answer}\r\n{fields}\r\n", e.method)
                .bytes(),
        );
        bytes.extend(body);
    }
    let mut client = proxy.connect();
    let mut sender = client.try_clone();
    let pieces = pieces.to_vec();
    let sending = std::thread::spawn(move || {
        let mut rest = &bytes[..];
        for size in pieces.iter().cycle() {
            if rest.is_empty() {
                return;
            }
            let (piece, more) = rest.split_at((*size).min(rest.len()));
            sender.send(piece);
            rest = more;
        }
    });
    for (i, e) in exchanges.iter().enumerate() {
        let response = if e.method == "HEAD" { client.head() } else { client.response() };
        prop_assert_eq!(response.status(), 200);
        let target = format!("/{i}?q=%20{i}");
        prop_assert_eq!(response.field("x-target"), Some(target.as_str()));
        if e.method != "HEAD" {
            prop_assert!(response.wire == answer_wire(&e.response), "the body of response {}", i);
        }
    }
    sending.join().unwrap();
    let seen = origin.requests();
    prop_assert_eq!(seen.len(), exchanges.len());
    for (i, (e, got)) in exchanges.iter().zip(&seen).enumerate() {
        prop_assert_eq!(&got.line, &format!("{} /{i}?q=%20{i} HTTP/1.1", e.method));
        let (fields, wire) = e.request.wire();
        prop_assert!(got.wire == wire, "the body of request {}", i);
        let framing: String = got
            .fields
            .iter()
            .filter(|(n, _)| n == "Content-Length" || n == "Transfer-Encoding")
            .map(|(n, v)| format!("{n}: {v}\r\n"))
            .collect();
        prop_assert_eq!(framing, fields);
    }
    Ok(())
}

fn answer_wire(framing: &Framing) -> Vec<u8> {
    framing.wire().1
}

#[test]
fn both_ends_see_what_the_other_sent() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let pools =
        prop::sample::select(vec!["", "request_buffering = \"off\"", "keepalive_requests = 2", "keepalive = 0"]);
    let pieces = prop::collection::vec(prop_oneof![1usize..30, 500usize..5_000, 30_000usize..100_000], 1..6);
    let all = (prop::collection::vec(exchange(), 1..8), pieces, pools);
    runner
        .run(&all, |(exchanges, pieces, pool)| run(&exchanges, &pieces, pool))
        .unwrap_or_else(|e| panic!("seed {:?}: {e}", String::from_utf8_lossy(&SEED)));
}

#[test]
fn bodies_split_at_every_byte_arrive_the_same() {
    let (origin, proxy) = stage("", "");
    let request =
        "PUT /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nab\r\n0\r\nA: b\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\nC: d\r\n\r\n";
    let mut client = proxy.connect();
    let mut server = None;
    for i in 1..request.len() {
        let j = 1 + i % (response.len() - 1);
        client.send(&request[..i]);
        client.send(&request[i..]);
        let server = server.get_or_insert_with(|| origin.accept());
        assert_eq!(server.request().wire, b"2;x=\"y\"\r\nab\r\n0\r\nA: b\r\n\r\n");
        server.send(&response[..j]);
        server.send(&response[j..]);
        assert_eq!(client.response().wire, b"3\r\nxyz\r\n0\r\nC: d\r\n\r\n");
    }
}
