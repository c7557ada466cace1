//! A TLS connection over a socket, by rustls' unbuffered API.
//!
//! rustls' usual connections own their buffers; these borrow those of the worker and give them back as soon as they are
//! empty, so that an idle connection is its keys and little else. What the handshake leaves to be sent (session tickets)
//! goes out with the first response, in one write.

use std::cell::RefCell;
use std::fmt::{self, Display, Formatter};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};

use crate::net::buffer::{Buffer, BufferPool, SMALL};
use crate::net::transport::Closed;
use crate::net::{Sock, Transport};

/// Bytes that encryption adds to what is taken at once: four records, each with its header, nonce, tag and type.
const OVERHEAD: usize = 4 * 32;

/// The largest record on the wire (RFC 8446 section 5.2; RFC 5246 section 6.2.3 allows more, which rustls refuses).
const MAX_RECORD: usize = 5 + 16 * 1024 + 256;

/// What a peer may have us hold of a handshake: a message is 64 KiB at most, and each of its records has a header.
const MAX_INCOMING: usize = 3 * SMALL;

/// Pieces of a write that are joined into one record, so that a head and the start of its body are not two.
const JOINED: usize = 16 * 1024;

/// Why a handshake failed.
#[derive(Debug)]
pub enum TlsError {
    /// The socket did, or the peer closed it.
    Io(io::Error),
    /// What the peer sent, or is; it has been told by an alert.
    Tls(rustls::Error),
}

impl Display for TlsError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => f.write_str("closed during the handshake"),
            Self::Io(e) => e.fmt(f),
            Self::Tls(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(e: TlsError) -> Self {
        match e {
            TlsError::Io(e) => e,
            TlsError::Tls(e) => Self::new(io::ErrorKind::InvalidData, e),
        }
    }
}

/// See the module's documentation. Made without a role, so that the owner can read the ClientHello first.
pub struct TlsStream {
    sock: Sock,
    buffers: Rc<BufferPool>,
    state: RefCell<State>,
}

struct State {
    role: Role,
    /// What was received and not decrypted yet.
    incoming: Option<Buffer>,
    /// What was decrypted and not taken yet, from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// What was encrypted and not sent yet.
    outgoing: Option<Buffer>,
    /// Bytes of a write that are encrypted, and whose caller waits until they are sent.
    accepted: usize,
    /// The peer has said that it will send no more.
    peer_closed: bool,
    /// It sends no more and has not said so: it may still read, or somebody in between has cut it off.
    cut: bool,
    /// Nothing more can be sent: we have said that we are done, or the connection is broken.
    done: bool,
    /// The socket's direction is to be ended behind what is left to be sent.
    ends: bool,
    /// What the peer sent made no sense, or it is not who it should be.
    failed: bool,
}

enum Role {
    None,
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What a connection can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// The handshake waits for the peer.
    Blocked,
    /// Data may be sent.
    Open,
    /// Both sides are done.
    Closed,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("sock", &self.sock).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// A connection that has no role yet.
    pub fn new(sock: Sock, buffers: Rc<BufferPool>) -> Self {
        let state = State {
            role: Role::None,
            incoming: None,
            plain: Vec::new(),
            taken: 0,
            outgoing: None,
            accepted: 0,
            peer_closed: false,
            cut: false,
            done: false,
            ends: false,
            failed: false,
        };
        Self { sock, buffers, state: RefCell::new(state) }
    }

    /// Serves a client; `received`: what was read of the socket so far.
    ///
    /// # Errors
    /// `config` cannot be used.
    pub fn start_server(&self, config: Arc<ServerConfig>, received: Option<Buffer>) -> Result<(), rustls::Error> {
        let mut state = self.state.borrow_mut();
        state.role = Role::Server(Box::new(UnbufferedServerConnection::new(config)?));
        state.incoming = received.filter(|buf| !buf.is_empty());
        Ok(())
    }

    /// Is the client of the server `name`.
    ///
    /// # Errors
    /// `config` cannot be used.
    pub fn start_client(&self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<(), rustls::Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        self.state.borrow_mut().role = Role::Client(Box::new(connection));
        Ok(())
    }

    /// Ready once both sides have the keys and know each other as far as they asked.
    ///
    /// # Errors
    /// Why there will be no connection; the peer has been sent an alert where it is to blame.
    pub fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            match state.advance(&self.buffers) {
                // The peer waits for our last message, unless that is tickets: they go with the first data.
                Ok(Stand::Open) if state.leaves_tickets() => return Poll::Ready(Ok(())),
                Ok(Stand::Open) => return state.poll_flush(cx, &self.sock).map_err(TlsError::Io),
                Ok(Stand::Blocked) => ready!(state.poll_flush(cx, &self.sock)).map_err(TlsError::Io)?,
                Ok(Stand::Closed) => return Poll::Ready(Err(TlsError::Io(io::ErrorKind::UnexpectedEof.into()))),
                Err(e) => {
                    state.say_alert(&self.sock);
                    return Poll::Ready(Err(TlsError::Tls(e)));
                }
            }
            if ready!(state.poll_fill(cx, &self.sock, &self.buffers)).map_err(TlsError::Io)? == 0 {
                state.done = true;
                return Poll::Ready(Err(TlsError::Io(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// What rustls knows of the connection; `None` before it has a role.
    pub fn with<R>(&self, look: impl FnOnce(&CommonState) -> R) -> Option<R> {
        match &self.state.borrow().role {
            Role::None => None,
            Role::Server(c) => Some(look(c)),
            Role::Client(c) => Some(look(c)),
        }
    }

    /// The protocol that both sides agreed to speak over this (RFC 7301).
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        self.with(|c| c.alpn_protocol() == Some(protocol)).unwrap_or(false)
    }

    /// The socket beneath.
    pub fn sock(&self) -> &Sock {
        &self.sock
    }

    /// Whether an idle connection can no longer be used; as [`Sock::is_stale`], and as unsure of what has not been
    /// decrypted: a ticket that came late counts as something unasked.
    pub fn is_stale(&self) -> bool {
        self.state.borrow().is_spent() || self.sock.is_stale()
    }

    /// As [`Sock::is_stale_now`].
    pub fn is_stale_now(&self) -> bool {
        self.state.borrow().is_spent() || self.sock.is_stale_now()
    }
}

impl State {
    /// Whether an idle connection cannot be used again: it is over, or holds bytes of the peer that nobody has asked for.
    fn is_spent(&self) -> bool {
        self.peer_closed || self.done || self.taken < self.plain.len() || self.incoming.is_some()
    }

    /// Whether all that is not sent of a handshake that is over is tickets.
    fn leaves_tickets(&self) -> bool {
        matches!(&self.role, Role::Server(c) if c.protocol_version() == Some(ProtocolVersion::TLSv1_3))
    }

    /// Lets rustls work on what is there: decrypts what can be, and encodes what it has to say.
    fn advance(&mut self, buffers: &Rc<BufferPool>) -> Result<Stand, rustls::Error> {
        if self.failed {
            return Err(rustls::Error::General("the connection has failed before".into()));
        }
        loop {
            let Self { role, incoming, plain, outgoing, peer_closed, .. } = self;
            let bytes = incoming.as_mut().map_or(&mut [][..], Buffer::bytes_mut);
            let (discard, step) = role.step(bytes, plain, outgoing, buffers);
            if let Some(buf) = incoming {
                buf.consume(discard);
                if buf.is_empty() {
                    *incoming = None;
                }
            }
            match step {
                Ok(Step::Stands(stand)) => return Ok(stand),
                Ok(Step::PeerClosed) => *peer_closed = true,
                Ok(Step::Again) => {}
                Err(e) => {
                    (self.failed, self.done) = (true, true);
                    // What is to be said comes before anything is read again; reading would fail as before.
                    while role.wants_write() && role.step(&mut [], plain, outgoing, buffers).1.is_ok() {}
                    return Err(e);
                }
            }
        }
    }

    /// Reads once; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, sock: &Sock, buffers: &Rc<BufferPool>) -> Poll<io::Result<usize>> {
        let buf = self.incoming.get_or_insert_with(|| buffers.take(SMALL));
        if buf.room() < MAX_RECORD {
            buf.compact();
        }
        if buf.room() == 0 {
            // Only a handshake message in many records is longer than a buffer.
            if buf.capacity() >= MAX_INCOMING {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            buf.grow(buf.capacity() + SMALL);
        }
        let read = sock.poll_recv(cx, buf.space());
        if let Poll::Ready(Ok(n)) = read {
            buf.filled(n);
        }
        if buf.is_empty() {
            self.incoming = None;
        }
        read
    }

    /// Sends what is encrypted.
    fn poll_flush(&mut self, cx: &mut Context<'_>, sock: &Sock) -> Poll<io::Result<()>> {
        while let Some(buf) = &mut self.outgoing {
            let n = ready!(sock.poll_send(cx, &[IoSlice::new(buf.bytes())])).inspect_err(|_| self.done = true)?;
            buf.consume(n);
            if buf.is_empty() {
                self.outgoing = None;
            }
        }
        if std::mem::take(&mut self.ends) {
            sock.shutdown()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts as much of `bufs` as goes out at once; says how much that is.
    fn encrypt(&mut self, bufs: &[IoSlice<'_>], buffers: &Rc<BufferPool>) -> io::Result<usize> {
        let broken = |e: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, e);
        if self.advance(buffers).map_err(broken)? != Stand::Open {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        let Some(first) = filled.next() else { return Ok(0) };
        if filled.next().is_none() {
            let n = first.len().min(2 * SMALL - OVERHEAD);
            self.encrypt_one(&first[..n], buffers)?;
            return Ok(n);
        }
        if total > JOINED && first.len() >= JOINED {
            return self.encrypt(&[IoSlice::new(first)], buffers);
        }
        let mut joined = buffers.take(JOINED);
        for buf in bufs {
            let n = buf.len().min(JOINED - joined.len());
            joined.push(&buf[..n]);
        }
        self.encrypt_one(joined.bytes(), buffers)?;
        Ok(joined.len())
    }

    fn encrypt_one(&mut self, data: &[u8], buffers: &Rc<BufferPool>) -> io::Result<()> {
        let Self { role, incoming, outgoing, .. } = self;
        let bytes = incoming.as_mut().map_or(&mut [][..], Buffer::bytes_mut);
        let wrote = match role {
            Role::None => None,
            Role::Server(c) => write(c.process_tls_records(bytes), data, outgoing, buffers),
            Role::Client(c) => write(c.process_tls_records(bytes), data, outgoing, buffers),
        };
        wrote.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// After an error: tells the peer, if it still listens.
    fn say_alert(&mut self, sock: &Sock) {
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()), sock);
    }

    /// Tells the peer that no more will be sent (close_notify), as far as that can be done at once.
    fn say_done(&mut self, buffers: &Rc<BufferPool>, sock: &Sock) {
        if !std::mem::replace(&mut self.done, true) && matches!(self.advance(buffers), Ok(Stand::Open)) {
            let bytes = self.incoming.as_mut().map_or(&mut [][..], Buffer::bytes_mut);
            match &mut self.role {
                Role::None => {}
                Role::Server(c) => close(c.process_tls_records(bytes), &mut self.outgoing, buffers),
                Role::Client(c) => close(c.process_tls_records(bytes), &mut self.outgoing, buffers),
            }
        }
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()), sock);
    }
}

impl Role {
    fn step(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        outgoing: &mut Option<Buffer>,
        buffers: &Rc<BufferPool>,
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::None => (0, Err(rustls::Error::HandshakeNotComplete)),
            Self::Server(c) => step(c.process_tls_records(bytes), plain, outgoing, buffers),
            Self::Client(c) => step(c.process_tls_records(bytes), plain, outgoing, buffers),
        }
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::None => false,
            Self::Server(c) => c.wants_write(),
            Self::Client(c) => c.wants_write(),
        }
    }
}

/// What came of one turn of rustls.
enum Step {
    Stands(Stand),
    PeerClosed,
    Again,
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
    outgoing: &mut Option<Buffer>,
    buffers: &Rc<BufferPool>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plain.extend_from_slice(record?.payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let encoded = append(outgoing, buffers, |space| {
                data.encode(space).map_err(|e| match e {
                    EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
            encoded.map(|()| Step::Again).ok_or_else(|| rustls::Error::General("a handshake message was lost".into()))
        }
        // Kept in `outgoing`, in order, and not given up before the connection is.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Stands(Stand::Blocked)),
        ConnectionState::WriteTraffic(_) => Ok(Step::Stands(Stand::Open)),
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::Closed => Ok(Step::Stands(Stand::Closed)),
        // Early data is never accepted: it can be replayed.
        _ => Err(rustls::Error::General("a state that was not asked for".into())),
    });
    (discard, step)
}

/// Encrypts data on a connection that stands open and has nothing to decrypt.
fn write<D>(
    status: UnbufferedStatus<'_, '_, D>,
    data: &[u8],
    outgoing: &mut Option<Buffer>,
    buffers: &Rc<BufferPool>,
) -> Option<()> {
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else { return None };
    append(outgoing, buffers, |space| traffic.encrypt(data, space).map_err(room_for))
}

fn close<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Option<Buffer>, buffers: &Rc<BufferPool>) {
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else { return };
    append(outgoing, buffers, |space| traffic.queue_close_notify(space).map_err(room_for));
}

/// How much room is needed instead; `None`: it cannot be done with any.
fn room_for(e: EncryptError) -> Option<usize> {
    match e {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `put` writes; it says how much it wrote, or how much room it needs.
fn append(
    outgoing: &mut Option<Buffer>,
    buffers: &Rc<BufferPool>,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Option<()> {
    let buf = outgoing.get_or_insert_with(|| buffers.take(SMALL));
    loop {
        match put(buf.space()) {
            Ok(n) => {
                buf.filled(n);
                return Some(());
            }
            Err(needed) => buf.grow(buf.len() + needed?),
        }
    }
}

impl Transport for TlsStream {
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            let held = &state.plain[state.taken..];
            if !held.is_empty() {
                let n = held.len().min(buf.len());
                buf[..n].copy_from_slice(&held[..n]);
                state.taken += n;
                if state.taken == state.plain.len() {
                    (state.plain, state.taken) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(n));
            }
            if state.peer_closed {
                return Poll::Ready(Ok(0));
            }
            if state.failed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let Poll::Ready(n) = state.poll_fill(cx, &self.sock, &self.buffers)? else {
                // Tickets, or the answer to an update of keys: they wait for data to go with no longer than this.
                if state.accepted == 0 {
                    let _ = state.poll_flush(cx, &self.sock)?;
                }
                return Poll::Pending;
            };
            if n == 0 {
                state.cut = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(e) = state.advance(&self.buffers) {
                state.say_alert(&self.sock);
                return Poll::Ready(Err(TlsError::Tls(e).into()));
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let state = &mut *self.state.borrow_mut();
        if state.done {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Who was told to wait comes again with the same bytes: they are told of when they have been sent, so that a
        // connection can be closed behind them.
        if state.accepted == 0 {
            state.accepted = state.encrypt(bufs, &self.buffers).inspect_err(|_| state.say_alert(&self.sock))?;
        }
        ready!(state.poll_flush(cx, &self.sock))?;
        Poll::Ready(Ok(std::mem::take(&mut state.accepted)))
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        if self.state.borrow().peer_closed { Poll::Ready(Closed::Half) } else { self.sock.poll_closed(cx) }
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.sock.poll_broken(cx)
    }

    /// Where the kernel has no room just now, reading goes on with it.
    fn shutdown(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.ends = true;
        state.say_done(&self.buffers, &self.sock);
        Ok(())
    }

    fn set_abort(&self) {
        self.state.borrow_mut().done = true;
        self.sock.set_abort();
    }

    fn plain(&self) -> Option<&Sock> {
        None
    }

    fn socket(&self) -> Option<&Sock> {
        Some(&self.sock)
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        // What is left half said, to a peer that was cut off or by a panic, must not look whole.
        state.done |= state.cut || std::thread::panicking();
        state.say_done(&self.buffers, &self.sock);
    }
}

#[cfg(test)]
mod tests;
