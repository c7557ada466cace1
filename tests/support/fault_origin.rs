//! Servers that misbehave, and what a client needs to tell.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; a helper that fails fails the test"
)]

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::{Domain, SockRef, Socket, Type};

use super::support::{PATIENCE, wait_for};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Whether a test that needs root is to be left out; only `BASCULE_TEST_UNPRIVILEGED` says so.
pub(crate) fn without_root() -> bool {
    std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some()
}

/// Serves every connection with `serve`, on a thread of its own, until the test process ends.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let addr = listener.local_addr().unwrap();
    serve_on(listener, serve);
    addr
}

/// The same on a socket that listens already.
pub(crate) fn serve_on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
    std::thread::spawn(move || {
        let serve = &serve;
        std::thread::scope(|scope| {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                scope.spawn(move || serve(stream));
            }
        });
    });
}

/// A server whose connections the test itself takes.
pub(crate) fn handing_server() -> (SocketAddr, Accepted) {
    let (sender, receiver) = channel();
    let addr = server(move |stream| drop(sender.send(stream)));
    (addr, Accepted(receiver))
}

/// Connections made to a server.
pub(crate) struct Accepted(Receiver<TcpStream>);

impl Accepted {
    /// The next one.
    pub(crate) fn next(&self) -> TcpStream {
        self.0.recv_timeout(PATIENCE).expect("a connection to the server")
    }
}

/// A port that nobody listens on and nobody else can take.
pub(crate) struct Refusing {
    socket: Socket,
    pub(crate) addr: SocketAddr,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&ANY_PORT.into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        Self { socket, addr }
    }

    /// Accepts from now on.
    pub(crate) fn listen(self) -> TcpListener {
        self.socket.listen(128).unwrap();
        self.socket.into()
    }
}

/// A port whose connection attempts are never answered: its accept queue is full.
pub(crate) struct BlackHole {
    _listener: Socket,
    _queued: Vec<Socket>,
    pub(crate) addr: SocketAddr,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&ANY_PORT.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        // The queue takes one more than its length; an attempt that hangs shows that it is full.
        loop {
            assert!(queued.len() < 16, "the accept queue never fills");
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&addr.into(), Duration::from_millis(200));
            queued.push(socket);
            if connected.is_err() {
                return Self { _listener: listener, _queued: queued, addr };
            }
        }
    }
}

/// Closes with RST.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads on until the peer has reset the connection.
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("closed in order, not reset"),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Err(e) => panic!("not reset: {e}"),
        }
    }
}

/// Reads everything up to the orderly end.
pub(crate) fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Says that nothing more will be sent.
pub(crate) fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// A connection that takes little before it must be read: its receive buffer has `size` bytes.
pub(crate) fn connect_small(addr: SocketAddr, size: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(size).unwrap();
    socket.connect(&addr.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits for `count` lines of a log file, and returns all there are.
pub(crate) fn log_lines(path: &Path, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines in {}", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<_> = complete.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// Bytes that no two places of a stream share: a shift, a loss or a repetition changes their checksum.
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next bytes of the stream.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for eight in buffer.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

/// Sends `pieces` blocks of 64 KiB, then the end; returns the checksum of what was sent.
pub(crate) fn send_pattern(mut stream: &TcpStream, seed: u64, pieces: usize) -> u32 {
    let mut pattern = Pattern::new(seed);
    let mut hash = crc32fast::Hasher::new();
    let mut block = vec![0; 64 * 1024];
    for _ in 0..pieces {
        pattern.fill(&mut block);
        hash.update(&block);
        io::Write::write_all(&mut stream, &block).unwrap();
    }
    finish(stream);
    hash.finalize()
}

/// Length and checksum of what comes until the orderly end.
pub(crate) fn receive_checked(mut stream: &TcpStream) -> (usize, u32) {
    let mut hash = crc32fast::Hasher::new();
    let mut block = vec![0; 64 * 1024];
    let mut length = 0;
    loop {
        match stream.read(&mut block).unwrap() {
            0 => return (length, hash.finalize()),
            n => {
                hash.update(&block[..n]);
                length += n;
            }
        }
    }
}

/// Open descriptors of a process, as what they point to.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.flatten().filter_map(|e| Some(fs::read_link(e.path()).ok()?.display().to_string())).collect()
}

/// Leaves a process, of the same user as this one, room for `more` descriptors above those it has; undone by
/// [`restore_descriptors`].
pub(crate) fn limit_descriptors(pid: u32, more: u64) {
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let highest = numbers.filter_map(|e| e.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
    set_descriptors(pid, Some(highest + 1 + more));
}

/// Lets a process have as many descriptors as its hard limit says.
pub(crate) fn restore_descriptors(pid: u32) {
    set_descriptors(pid, hard_limit(pid));
}

/// The hard limit, which only a privileged process could raise again; `None`: there is none.
fn hard_limit(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().nth(1)?.parse().ok())
}

fn set_descriptors(pid: u32, current: Option<u64>) {
    let limit = Rlimit { current, maximum: hard_limit(pid) };
    prlimit(Pid::from_raw(pid.cast_signed()), Resource::Nofile, limit).unwrap();
}
