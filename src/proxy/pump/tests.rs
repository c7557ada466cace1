use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::net::memory::{Memory, pair};

fn means() -> Means {
    Means { buffers: BufferPool::new(), pipes: PipePool::new(), read_ahead: 64 * 1024 }
}

/// A source and a sink around a pump's two transports.
struct Bench {
    source: (Memory, Memory),
    dest: (Memory, Memory),
}

impl Bench {
    fn new(capacity: usize) -> Self {
        Self { source: pair(capacity), dest: pair(capacity) }
    }

    /// Feeds `input`, ends it if told so, and drives the pump until it is done or starves.
    fn run(&self, pump: &mut Pump, input: &[u8], end: bool) -> (Vec<u8>, Poll<Result<(), PumpError>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut fed, mut out) = (0, Vec::new());
        loop {
            fed += self.source.0.give(&input[fed..]);
            if fed == input.len() && end {
                let _ = self.source.0.shutdown();
            }
            let poll = pump.poll(&mut cx, &self.source.1, &self.dest.0);
            let got = self.dest.1.received();
            let starved = got.is_empty() && fed == input.len();
            out.extend(got);
            if poll.is_ready() || starved {
                return (out, poll);
            }
        }
    }
}

fn chunked(body: &[u8], sizes: &[usize], trailer: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut at, mut turn) = (0, 0);
    while at < body.len() {
        let n = sizes[turn % sizes.len()].clamp(1, body.len() - at);
        out.extend(format!("{n:x};ext=\"1\"\r\n").bytes());
        out.extend(&body[at..at + n]);
        out.extend(b"\r\n");
        at += n;
        turn += 1;
    }
    out.extend(format!("0\r\n{trailer}\r\n").bytes());
    out
}

/// A decoder of our own, slow and plain.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let at = bytes.windows(2).position(|w| w == b"\r\n").expect("a size line");
        let line = std::str::from_utf8(&bytes[..at]).expect("ascii");
        let size = usize::from_str_radix(line.split(';').next().expect("a size"), 16).expect("hex");
        bytes = &bytes[at + 2..];
        if size == 0 {
            return out;
        }
        out.extend(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

#[test]
fn a_length_ends_where_it_says_and_keeps_the_rest() {
    let bench = Bench::new(1 << 16);
    let mut pump = Pump::new(Framing::Length(5), Recode::AsIs, None, means()).expect("a pump");
    let (out, end) = bench.run(&mut pump, b"helloGET / HTTP/1.1", false);
    assert!(matches!(end, Poll::Ready(Ok(()))));
    assert_eq!(out, b"hello");
    assert_eq!(pump.into_rest().expect("the next request").bytes(), b"GET / HTTP/1.1");
}

#[test]
fn a_source_that_ends_early_is_told_from_one_that_ends() {
    for (framing, good) in
        [(Framing::Length(5), false), (Framing::Chunked(Chunked::new()), false), (Framing::UntilClose, true)]
    {
        let bench = Bench::new(1 << 16);
        let mut pump = Pump::new(framing, Recode::AsIs, None, means()).expect("a pump");
        let (_, end) = bench.run(&mut pump, b"3\r\n", true);
        match end {
            Poll::Ready(Ok(())) => assert!(good),
            Poll::Ready(Err(PumpError::Truncated)) => assert!(!good),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_head_and_the_first_bytes_are_one_write() {
    let bench = Bench::new(1 << 16);
    let buffers = BufferPool::new();
    let mut initial = buffers.take(1);
    initial.push(b"old head|body");
    initial.consume(9);
    let mut pump = Pump::new(Framing::Length(4), Recode::AsIs, Some(initial), means()).expect("a pump");
    pump.send_first(b"new|");
    assert!(pump.head.is_empty(), "the head went in front of the body");
    let (out, end) = bench.run(&mut pump, b"", false);
    assert!(matches!(end, Poll::Ready(Ok(()))));
    assert_eq!(out, b"new|body");
}

#[test]
fn a_head_that_does_not_fit_is_sent_all_the_same() {
    let bench = Bench::new(7);
    let buffers = BufferPool::new();
    let mut initial = buffers.take(1);
    initial.push(b"body");
    let mut pump = Pump::new(Framing::Length(4), Recode::AsIs, Some(initial), means()).expect("a pump");
    pump.send_first(b"a head of some length|");
    let (out, _) = bench.run(&mut pump, b"", false);
    assert_eq!(out, b"a head of some length|body");
}

#[test]
fn a_body_over_its_limit_stops() {
    let bench = Bench::new(1 << 16);
    let mut pump = Pump::new(Framing::Chunked(Chunked::new()), Recode::AsIs, None, means()).expect("a pump");
    pump.limit(9).expect("nothing yet");
    let (_, end) = bench.run(&mut pump, b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", false);
    assert!(matches!(end, Poll::Ready(Err(PumpError::TooLarge))));
}

#[test]
fn a_pump_that_waits_for_its_source_holds_no_buffer() {
    let bench = Bench::new(1 << 16);
    let mut pump = Pump::new(Framing::UntilClose, Recode::AsIs, None, means()).expect("a pump");
    let (out, end) = bench.run(&mut pump, b"event", false);
    assert!(end.is_pending());
    assert_eq!((out.as_slice(), pump.waits_for()), (&b"event"[..], Waits::Source));
    assert!(pump.buf.is_none());
}

#[test]
fn a_slow_destination_bounds_what_is_held() {
    let (source, dest) = (pair(1 << 20), pair(1));
    let mut pump = Pump::new(Framing::UntilClose, Recode::AsIs, None, means()).expect("a pump");
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        source.0.give(&[b'x'; 50_000]);
        assert!(pump.poll(&mut cx, &source.1, &dest.0).is_pending());
    }
    assert_eq!(pump.waits_for(), Waits::Dest);
    assert!(pump.buf.as_ref().expect("bytes held").capacity() <= 64 * 1024);
}

proptest! {
    #[test]
    fn bodies_arrive_whole_whatever_the_pieces(
        body in proptest::collection::vec(any::<u8>(), 0..5000),
        sizes in proptest::collection::vec(1usize..700, 1..6),
        window in 1usize..900,
        initial in 0usize..200,
        trailer in prop_oneof![Just(""), Just("X-Sum: 1\r\n")],
    ) {
        let wire = chunked(&body, &sizes, trailer);
        for (framing, recode, input) in [
            (Framing::Length(body.len() as u64), Recode::AsIs, &body),
            (Framing::UntilClose, Recode::AsIs, &body),
            (Framing::UntilClose, Recode::Enchunk, &body),
            (Framing::Chunked(Chunked::new()), Recode::AsIs, &wire),
            (Framing::Chunked(Chunked::new()), Recode::Dechunk, &wire),
        ] {
            let bench = Bench::new(window);
            let until_close = matches!(framing, Framing::UntilClose);
            let split = initial.min(input.len());
            let first = (split > 0).then(|| {
                let mut b = BufferPool::new().take(1);
                b.push(&input[..split]);
                b
            });
            let mut pump = Pump::new(framing, recode, first, means()).expect("a good start");
            let (out, end) = bench.run(&mut pump, &input[split..], until_close);
            prop_assert!(matches!(end, Poll::Ready(Ok(()))), "{:?} {:?}", recode, end);
            match recode {
                Recode::AsIs => prop_assert_eq!(&out, input),
                Recode::Dechunk => prop_assert_eq!(&out, &body),
                Recode::Enchunk => prop_assert_eq!(&unchunk(&out), &body),
            }
            prop_assert_eq!(pump.body(), body.len() as u64);
        }
    }
}
