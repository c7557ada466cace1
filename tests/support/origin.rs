//! Servers for the proxy to talk to.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::wire::{Message, PATIENCE, Peer};

/// A server that the test plays itself, connection by connection.
#[derive(Debug)]
pub(crate) struct Origin(TcpListener);

impl Origin {
    pub(crate) fn new() -> Self {
        Self::on(Ipv4Addr::LOCALHOST)
    }

    /// On another address of loopback.
    pub(crate) fn on(ip: Ipv4Addr) -> Self {
        Self(TcpListener::bind((ip, 0)).unwrap())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Peer {
        assert!(self.waits(PATIENCE.as_millis() as i64), "a connection to the server");
        Peer::new(self.0.accept().unwrap().0)
    }

    /// The next connection and its first request.
    pub(crate) fn request(&self) -> (Peer, Message) {
        let mut peer = self.accept();
        let request = peer.request();
        (peer, request)
    }

    /// Whether a connection waits to be accepted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waits(0)
    }

    fn waits(&self, millis: i64) -> bool {
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)).unwrap() > 0
    }
}

/// A server that answers by itself, until the test process ends, and remembers what it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Answering {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<(usize, Message)>>>,
}

impl Answering {
    /// Sends what `answer` makes of each request; after a response that says so it closes the connection, and without a
    /// response at once.
    pub(crate) fn new(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::on(Ipv4Addr::LOCALHOST, answer)
    }

    /// The same on another address of loopback.
    pub(crate) fn on(ip: Ipv4Addr, answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let this = Self { addr: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, answer) = (Arc::clone(&this.seen), Arc::new(answer));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    peer.wait_for_ever();
                    while let Some(request) = peer.next_request() {
                        let reply = answer(&request);
                        seen.lock().unwrap().push((number, request));
                        let close = b"\r\nConnection: close\r\n";
                        if peer.try_send(&reply).is_err() || reply.is_empty() || contains(&reply, close) {
                            return;
                        }
                    }
                });
            }
        });
        this
    }

    /// One that gives the same answer to everything.
    pub(crate) fn with(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::new(move |_| reply.clone())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests so far, in the order they were answered.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.seen.lock().unwrap().iter().map(|(_, m)| m.clone()).collect()
    }

    /// How many requests came over each connection.
    pub(crate) fn per_connection(&self) -> Vec<usize> {
        let seen = self.seen.lock().unwrap();
        let connections = seen.iter().map(|(n, _)| n + 1).max().unwrap_or(0);
        (0..connections).map(|c| seen.iter().filter(|(n, _)| *n == c).count()).collect()
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// An address that refuses connections: bound, and nobody listens. It stays so while the value lives.
#[derive(Debug)]
pub(crate) struct Refusing(socket2::Socket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// Refuses no more.
    pub(crate) fn relent(self) -> Origin {
        self.0.listen(16).unwrap();
        Origin(self.0.into())
    }
}

/// An address that never answers: its accept queue is full, so that the kernel drops what comes.
#[derive(Debug)]
pub(crate) struct Silent {
    listener: socket2::Socket,
    _filling: Vec<socket2::Socket>,
}

impl Silent {
    pub(crate) fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        // A queue of length 0 takes one; those after it stay in their handshake.
        let filling = (0..4)
            .map(|_| {
                let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                let _ = client.connect(&addr);
                client
            })
            .collect();
        Self { listener, _filling: filling }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}
