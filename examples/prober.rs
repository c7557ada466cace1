//! Sees how long a service is away: `cargo run --release --example prober -- probe IP:PORT PERIOD_MS TIMEOUT_MS BUSY
//! PATH`.
//!
//! A GET of `/` on a new connection every `PERIOD_MS`, whatever became of those before, and `BUSY` clients that each
//! ask for `PATH` again and again on one connection, which they replace when it is closed. Prints a line for every
//! request that ended, with times in microseconds, the first since 1970 and the others since the first; -1 is never:
//!
//!     p|b START CONNECTED SENT END OUTCOME BOX
//!
//! `p` are the periodic ones, `b` the busy clients'. `OUTCOME` is `ok` when status 200 and the whole body came, else
//! the reason. `BOX` is the reply's X-Box field. When standard input ends no request is begun any more, and those that
//! run are waited for.
//!
//! `prober serve IP:PORT` answers `GET /wait/20` after 20 ms: busy clients then have a request in flight at all times
//! without costing much CPU.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Of the thread that runs everything: the default of 50 us would be part of every time.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["probe", address, period, limit, busy, path] => {
            let (Ok(address), Ok(period), Ok(limit), Ok(busy)) =
                (address.parse(), period.parse(), limit.parse(), busy.parse())
            else {
                usage()
            };
            let limit = Duration::from_millis(limit);
            let (records, writer) = spawn_writer();
            let prober = Rc::new(Prober { address, limit, clock: Clock::new(), records });
            local.block_on(&runtime, probe(prober, Duration::from_millis(period), busy, path.to_owned()));
            // The last sender went with the last request.
            writer.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))
        }
        ["serve", address] => {
            let Ok(address) = address.parse::<SocketAddr>() else { usage() };
            local.block_on(&runtime, serve(address))
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: prober probe IP:PORT PERIOD_MS TIMEOUT_MS BUSY PATH | prober serve IP:PORT");
    std::process::exit(64);
}

/// Ties the steady clock to the calendar once, so that a step of the latter does not show in the times.
struct Clock {
    steady: Instant,
    since_1970: Duration,
}

impl Clock {
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { steady: Instant::now(), since_1970 }
    }

    fn micros(&self, at: Instant) -> u128 {
        (self.since_1970 + at.saturating_duration_since(self.steady)).as_micros()
    }
}

/// A thread that writes what it is sent, so that a slow disk delays no request.
fn spawn_writer() -> (Sender<String>, std::thread::JoinHandle<io::Result<()>>) {
    let (records, received) = mpsc::channel::<String>();
    let writer = std::thread::spawn(move || {
        let mut output = io::stdout().lock();
        while let Ok(first) = received.recv() {
            let mut text = first;
            text.extend(received.try_iter());
            output.write_all(text.as_bytes())?;
            output.flush()?;
        }
        Ok(())
    });
    (records, writer)
}

/// What the requests share.
struct Prober {
    address: SocketAddr,
    limit: Duration,
    clock: Clock,
    records: Sender<String>,
}

/// When a request got how far.
#[derive(Default)]
struct Progress {
    connected: Option<Instant>,
    sent: Option<Instant>,
}

/// A whole reply with status 200.
struct Reply {
    answered_by: String,
    closes: bool,
}

async fn probe(prober: Rc<Prober>, period: Duration, busy: usize, path: String) {
    let (ended, mut end) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = ended.send(true);
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..busy {
        let (prober, path, end) = (prober.clone(), path.clone(), end.clone());
        tasks.spawn_local(async move {
            let mut connection = None;
            while !*end.borrow() {
                if !prober.get('b', &path, false, &mut connection).await {
                    // A refusal takes no time; this keeps the loop from using up the core.
                    sleep(Duration::from_millis(2)).await;
                }
            }
        });
    }
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        // Both can be dropped at any time: a tick that was not taken is still due.
        tokio::select! {
            _ = ticks.tick() => {}
            _ = end.changed() => break,
        }
        let prober = prober.clone();
        tasks.spawn_local(async move {
            prober.get('p', "/", true, &mut None).await;
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

impl Prober {
    /// One request, recorded. Leaves the connection for the next one if it can take one. Whether all went well.
    async fn get(&self, kind: char, path: &str, close: bool, connection: &mut Option<TcpStream>) -> bool {
        let (start, mut progress) = (Instant::now(), Progress::default());
        let attempt = self.attempt(path, close, connection.take(), &mut progress);
        let result = timeout(self.limit, attempt).await;
        let end = Instant::now();
        let mut answered_by = "-".to_owned();
        let outcome = match result {
            Err(_) => "timeout".to_owned(),
            Ok(Err(outcome)) => outcome,
            Ok(Ok((stream, reply))) => {
                answered_by = reply.answered_by;
                *connection = stream.filter(|_| !reply.closes);
                "ok".to_owned()
            }
        };
        let since = |at: Option<Instant>| at.map_or(-1, |at| (at - start).as_micros() as i64);
        let line = format!(
            "{kind} {} {} {} {} {outcome} {answered_by}\n",
            self.clock.micros(start),
            since(progress.connected),
            since(progress.sent),
            since(Some(end)),
        );
        // The writer ends early only when nobody reads.
        let _ = self.records.send(line);
        outcome == "ok"
    }

    async fn attempt(
        &self,
        path: &str,
        close: bool,
        connection: Option<TcpStream>,
        progress: &mut Progress,
    ) -> Result<(Option<TcpStream>, Reply), String> {
        let mut stream = match connection {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.map_err(reason)?;
                stream.set_nodelay(true).map_err(reason)?;
                stream
            }
        };
        progress.connected = Some(Instant::now());
        let field = if close { "Connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\n{field}\r\n");
        stream.write_all(request.as_bytes()).await.map_err(reason)?;
        progress.sent = Some(Instant::now());
        let reply = read_reply(&mut stream).await?;
        Ok((Some(stream), reply))
    }
}

async fn read_reply(stream: &mut TcpStream) -> Result<Reply, String> {
    let mut bytes = Vec::with_capacity(4096);
    let end = loop {
        if stream.read_buf(&mut bytes).await.map_err(reason)? == 0 {
            return Err("closed".to_owned());
        }
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("garbage");
    if status != "200" {
        return Err(status.to_owned());
    }
    let (mut length, mut reply) = (0, Reply { answered_by: "-".to_owned(), closes: false });
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(|_| "garbage".to_owned())?,
            "connection" => reply.closes = value.eq_ignore_ascii_case("close"),
            "x-box" => reply.answered_by = value.to_owned(),
            _ => {}
        }
    }
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.map_err(reason)? == 0 {
            return Err("cut".to_owned());
        }
    }
    Ok(reply)
}

fn reason(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        ErrorKind::TimedOut => "timeout",
        _ => "error",
    }
    .to_owned()
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(answer(stream));
    }
}

/// Answers the requests of one connection, as long as they come one at a time and without a body.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await? > 0 {
        if !bytes.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        bytes.clear();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let wait = path.strip_prefix("/wait/").and_then(|millis| millis.parse().ok()).unwrap_or(0);
        sleep(Duration::from_millis(wait)).await;
        let body = "x".repeat(4096);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
    }
    Ok(())
}
