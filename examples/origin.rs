//! A small, fast HTTP/1.1 origin server to put behind a proxy: `cargo run --release --example origin -- 127.0.0.1:8081`.
//!
//! `benches/compare` uses it, so it costs as little CPU as it can: one thread, one level-triggered epoll, replies made
//! once at start, large ones sent from a memfd by `sendfile`. It trusts its peers and is no model for a server that
//! faces strangers: it knows Content-Length only, and no pipelining.
//!
//! | path | reply |
//! |---|---|
//! | `/16k`, `/1m` | 16 KiB, 1 MiB |
//! | anything else, with any method | 100 bytes, after the request's body was read |

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};

fn main() -> io::Result<()> {
    let Some(address) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: origin IP:PORT");
        std::process::exit(64);
    };
    Origin::bind(address)?.run()
}

/// Marks the listening socket among the events; connections are marked with their index.
const LISTENER: u64 = u64::MAX;

/// The server: its sockets, and one buffer that all connections read into.
struct Origin {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    /// Indexes of `connections` that are `None`.
    vacant: Vec<usize>,
    replies: Replies,
    buffer: Vec<u8>,
}

impl Origin {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        // Inherited by accepted sockets, which saves a system call for each.
        listener.set_tcp_nodelay(true)?;
        listener.set_nonblocking(true)?;
        listener.bind(&address.into())?;
        listener.listen(4096)?;
        let listener = TcpListener::from(listener);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let (connections, vacant) = (Vec::new(), Vec::new());
        Ok(Self { epoll, listener, connections, vacant, replies: Replies::new()?, buffer: vec![0; 64 * 1024] })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    index => self.serve(index as usize, event.flags)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client gave up while it was queued.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
            self.connections[index] = Some(Connection { stream, state: State::Head(Vec::new()), last: false });
        }
    }

    fn serve(&mut self, index: usize, flags: EventFlags) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let was_sending = connection.is_sending();
        let goes_on = if was_sending && flags.contains(EventFlags::OUT) {
            connection.send(&self.replies)
        } else {
            connection.receive(&mut self.buffer, &self.replies)
        };
        if !goes_on.unwrap_or(false) {
            // Dropping the stream takes it out of the epoll set.
            self.connections[index] = None;
            self.vacant.push(index);
        } else if was_sending != connection.is_sending() {
            let interest = if was_sending { EventFlags::IN } else { EventFlags::OUT };
            epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(index as u64), interest)?;
        }
        Ok(())
    }
}

/// One client connection.
struct Connection {
    stream: TcpStream,
    state: State,
    /// The connection ends after this reply.
    last: bool,
}

enum State {
    /// Waits for a request; holds what has arrived of its head.
    Head(Vec<u8>),
    /// Waits for so many more bytes of the body.
    Body(u64, Kind),
    /// Sends a reply, from this offset on.
    Reply(u64, Kind),
}

impl Connection {
    fn is_sending(&self) -> bool {
        matches!(self.state, State::Reply(..))
    }

    /// Reads once and answers when a request is complete. Returns whether the connection goes on.
    fn receive(&mut self, buffer: &mut [u8], replies: &Replies) -> io::Result<bool> {
        let received = match self.stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let (body_left, kind) = match &mut self.state {
            State::Head(head) => {
                if !head.is_empty() {
                    head.extend_from_slice(received);
                }
                let whole = if head.is_empty() { received } else { head.as_slice() };
                let Some(request) = Request::parse(whole)? else {
                    if head.is_empty() {
                        head.extend_from_slice(received);
                    }
                    return Ok(true);
                };
                self.last = request.last;
                ((request.head_length + request.body_length).saturating_sub(whole.len() as u64), request.kind)
            }
            State::Body(left, kind) => (left.saturating_sub(received.len() as u64), *kind),
            State::Reply(..) => return Ok(true),
        };
        if body_left > 0 {
            self.state = State::Body(body_left, kind);
            return Ok(true);
        }
        self.state = State::Reply(0, kind);
        self.send(replies)
    }

    /// Sends what the socket takes. Returns whether the connection goes on.
    fn send(&mut self, replies: &Replies) -> io::Result<bool> {
        while let State::Reply(offset, kind) = &mut self.state {
            let reply = replies.get(*kind);
            let sent = match &reply.file {
                None => self.stream.write(&reply.bytes[*offset as usize..]),
                Some(file) => sendfile(&self.stream, file, Some(offset), reply.bytes.len()).map_err(io::Error::from),
            };
            match sent {
                // `sendfile` moves the offset itself.
                Ok(sent) if reply.file.is_none() => *offset += sent as u64,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            if *offset == reply.bytes.len() as u64 {
                self.state = State::Head(Vec::new());
                return Ok(!self.last);
            }
        }
        Ok(true)
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Kind {
    Small,
    Kib16,
    Mib1,
}

/// What matters of a request's head.
struct Request {
    kind: Kind,
    head_length: u64,
    body_length: u64,
    last: bool,
}

impl Request {
    /// `None` if the head is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut fields);
        let head_length = match head.parse(bytes).map_err(io::Error::other)? {
            httparse::Status::Complete(length) => length as u64,
            httparse::Status::Partial => return Ok(None),
        };
        let kind = match head.path {
            Some("/16k") => Kind::Kib16,
            Some("/1m") => Kind::Mib1,
            _ => Kind::Small,
        };
        let mut request = Self { kind, head_length, body_length: 0, last: head.version == Some(0) };
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                let digits = std::str::from_utf8(field.value).map_err(io::Error::other)?;
                request.body_length = digits.parse().map_err(io::Error::other)?;
            } else if field.name.eq_ignore_ascii_case("connection") {
                request.last = field.value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(request))
    }
}

/// A whole reply, head and body.
struct Reply {
    bytes: Vec<u8>,
    /// The same in a memfd, if it is large enough for `sendfile` to be cheaper than a copy.
    file: Option<File>,
}

impl Reply {
    fn new(body_length: usize) -> io::Result<Self> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Type: text/plain\r\nContent-Length: {body_length}\r\n\r\n",
            httpdate::fmt_http_date(SystemTime::now()),
        );
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + body_length - 1, b'x');
        bytes.push(b'\n');
        let file = if body_length > 64 * 1024 {
            let mut file = File::from(memfd_create("reply", MemfdFlags::CLOEXEC)?);
            file.write_all(&bytes)?;
            Some(file)
        } else {
            None
        };
        Ok(Self { bytes, file })
    }
}

/// All replies there are.
struct Replies {
    small: Reply,
    kib16: Reply,
    mib1: Reply,
}

impl Replies {
    fn new() -> io::Result<Self> {
        Ok(Self { small: Reply::new(100)?, kib16: Reply::new(16 << 10)?, mib1: Reply::new(1 << 20)? })
    }

    fn get(&self, kind: Kind) -> &Reply {
        match kind {
            Kind::Small => &self.small,
            Kind::Kib16 => &self.kib16,
            Kind::Mib1 => &self.mib1,
        }
    }
}
