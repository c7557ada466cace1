//! A load generator with a constant rate, for latencies: `cargo run --release --example load -- IP:PORT /path RATE
//! CONNECTIONS SECONDS`.
//!
//! wrk sends the next request when the last one is answered, so a stall hides the requests it would have delayed
//! (coordinated omission). Here request `n` is due at `start + n / RATE` whatever happened before, goes out on any free
//! connection of a fixed set, and its latency counts from when it was due. The first tenth of the run warms up and is not
//! counted. Prints one JSON object.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::thread::set_current_timer_slack;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::parse(&arguments) else {
        eprintln!("usage: load IP:PORT PATH RATE CONNECTIONS SECONDS");
        std::process::exit(64);
    };
    // The default slack of 50 us would be part of every latency.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let mut latencies = run(&plan)?;
    latencies.sort_unstable();
    let at = |quantile: f64| {
        let index = (latencies.len() as f64 * quantile) as usize;
        latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    };
    println!(
        r#"{{"requests":{},"p50_us":{:.1},"p90_us":{:.1},"p99_us":{:.1},"p999_us":{:.1}}}"#,
        latencies.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

/// The arguments.
struct Plan {
    address: SocketAddr,
    path: String,
    /// Requests a second.
    rate: f64,
    connections: usize,
    length: Duration,
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [address, path, rate, connections, seconds] = arguments else { return None };
        Some(Self {
            address: address.parse().ok()?,
            path: path.clone(),
            rate: rate.parse().ok().filter(|rate| *rate > 0.0)?,
            connections: connections.parse().ok().filter(|count| *count > 0)?,
            length: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
        })
    }

    fn due(&self, start: Instant, request: u64) -> Instant {
        start + Duration::from_secs_f64(request as f64 / self.rate)
    }
}

/// Sends all requests and returns the latencies of those that count.
fn run(plan: &Plan) -> io::Result<Vec<Duration>> {
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", plan.path, plan.address);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let stream = TcpStream::connect(plan.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        connections.push(Connection { stream, due: None, left: None, head: Vec::new() });
    }
    // Used in turn, so that all of them stay in use at any rate.
    let mut free: VecDeque<usize> = (0..plan.connections).collect();
    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(256);
    let (count, warm_up) = ((plan.rate * plan.length.as_secs_f64()) as u64, plan.length / 10);
    let mut latencies = Vec::with_capacity(count as usize);
    let start = Instant::now();
    let mut sent = 0;
    while sent < count || free.len() < connections.len() {
        let mut timeout = None;
        while sent < count && !free.is_empty() {
            let due = plan.due(start, sent);
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                timeout = Timespec::try_from(wait).ok();
                break;
            }
            if let Some(index) = free.pop_front() {
                connections[index].send(request.as_bytes(), due)?;
                sent += 1;
            }
        }
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            if let Some(due) = connections[index].receive(&mut buffer)? {
                free.push_back(index);
                if due - start >= warm_up {
                    latencies.push(due.elapsed());
                }
            }
        }
    }
    Ok(latencies)
}

/// One connection, with at most one request under way.
struct Connection {
    stream: TcpStream,
    /// When the request under way was due.
    due: Option<Instant>,
    /// Bytes of the reply's body still to come, once its head has arrived.
    left: Option<u64>,
    /// A head that has arrived in part.
    head: Vec<u8>,
}

impl Connection {
    fn send(&mut self, request: &[u8], due: Instant) -> io::Result<()> {
        self.due = Some(due);
        self.left = None;
        // A request of a few bytes on a connection without unanswered ones always fits the socket's buffer.
        self.stream.write_all(request)
    }

    /// Reads once. Returns when the request was due if its reply is now complete.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Instant>> {
        let received = match self.stream.read(buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed a connection")),
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let left = match self.left {
            Some(left) => left.saturating_sub(received.len() as u64),
            None => {
                self.head.extend_from_slice(received);
                let Some(whole) = reply_length(&self.head)? else { return Ok(None) };
                let left = whole.saturating_sub(self.head.len() as u64);
                self.head.clear();
                left
            }
        };
        self.left = Some(left);
        Ok(if left == 0 { self.due.take() } else { None })
    }
}

/// Length of head and body; `None` if the head is not complete.
fn reply_length(bytes: &[u8]) -> io::Result<Option<u64>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_length) = head.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    if head.code != Some(200) {
        return Err(io::Error::other(format!("status {:?}", head.code)));
    }
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.ok_or_else(|| io::Error::other("a reply without Content-Length"))?;
    let digits = std::str::from_utf8(length.value).map_err(io::Error::other)?;
    let body_length: u64 = digits.parse().map_err(io::Error::other)?;
    Ok(Some(head_length as u64 + body_length))
}
