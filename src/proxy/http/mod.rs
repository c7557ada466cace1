//! HTTP client connections.
//!
//! A connection is one task. While it waits for a request it is a registered socket, a deadline and little else: buffers
//! and work space are borrowed from the worker once bytes arrive, and the exchange's own state lives in a box that goes
//! when the response is out.
//!
//! ```text
//! serve: read_head -> Exchange (exchange.rs: route, answers of our own, log)
//!                        -> forward (forward.rs: body, servers and retries, response)
//!                             -> attempt (checkout.rs: a connection; attempt.rs: request out, head in)
//!                             -> Pump (bodies), tunnel (after 101)
//!                        -> copy (mirror.rs: the same request for another pool, in a task of its own)
//! ```
//!
//! A connection of HTTP/2 (http2.rs) has a task of its own for each stream, which is one such exchange.

mod attempt;
mod challenge;
mod checkout;
mod client_addr;
mod exchange;
mod facts;
mod failure;
mod forward;
pub(crate) mod headers;
mod http2;
mod https;
mod mirror;
mod respond;
pub(crate) mod scratch;
mod split;
mod sticky;
mod turn;
mod vars;

use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use challenge::is_asked_for as is_challenge;
pub(crate) use https::{says_https, write_location};
pub(crate) use split::chosen;
pub(crate) use sticky::stick;
pub(crate) use vars::{seconds, write_display, write_ip};

use crate::http1::{Limits, Parse, RequestError};
use crate::net::buffer::{Buffer, SMALL};
use crate::net::wheel::Timer;
use crate::net::{Sock, TlsStream, Transport};
use crate::pool::Server;
use crate::proxy::handshake;
use crate::proxy::http::client_addr::client_address;
use crate::proxy::http::exchange::{Exchange, Refusal};
use crate::proxy::http::facts::Facts;
use crate::proxy::http::scratch::Scratch;
use crate::proxy::listen::ListenerCtx;
use crate::proxy::preface::{self, Preface};
use crate::proxy::worker::Worker;
use crate::snapshot::ListenerView;
use crate::telemetry::reason::Reason;
use crate::time::Millis;
use crate::tls::Agreed;

/// After a response that ends the connection while the client still sends: for how long what it sends is read and
/// thrown away, so that the kernel does not answer it with a reset that would take the response along (nginx:
/// `lingering_timeout`, `lingering_time`).
const LINGER_IDLE: Duration = Duration::from_secs(5);
const LINGER_TOTAL: Duration = Duration::from_secs(30);

/// While the proxy is to become quiet: how long a connection may be idle yet. One that is in use is used again before, and
/// ends with that answer; closed at once, it could be closed just as its next request is on the way.
const QUIET_IDLE: Duration = Duration::from_millis(500);

/// A client connection.
pub(crate) struct Conn<C: Transport> {
    io: C,
    timer: Timer,
    worker: Rc<Worker>,
    listener: Rc<ListenerCtx>,
    peer: SocketAddr,
    /// What came before the first request, on listeners where something does.
    preface: Option<Rc<Preface>>,
    // Thin: there are many idle connections.
    peer_text: OnceCell<Rc<String>>,
    /// [`Self::NO_CLIENT`], or counts up from 1; a stream of HTTP/2 has that of its connection.
    serial: u64,
}

/// What becomes of the connection after an exchange.
enum Next {
    /// The next request, of which this much is here.
    Request(Option<Buffer>),
    /// Close.
    Close,
    /// The last response is out: close, or linger if the client has sent more meanwhile.
    Last,
    /// Close, but let the client finish what it sends.
    Linger,
}

/// Bytes of a request.
struct Arrival {
    scratch: Box<Scratch>,
    buf: Buffer,
    outcome: Outcome,
}

/// What they are.
enum Outcome {
    Request,
    Bad(RequestError),
    TimedOut,
}

impl<C: Transport> Conn<C> {
    /// Serial number of what nobody waits for: not among the worker's clients.
    const NO_CLIENT: u64 = 0;

    /// A connection just accepted.
    pub(crate) fn new(io: C, worker: Rc<Worker>, listener: Rc<ListenerCtx>, peer: SocketAddr, serial: u64) -> Self {
        worker.clients.opened();
        let mut conn = Self::of_nobody(io, worker, listener, peer);
        conn.serial = serial;
        conn
    }

    /// One that is not among the worker's clients.
    fn of_nobody(io: C, worker: Rc<Worker>, listener: Rc<ListenerCtx>, peer: SocketAddr) -> Self {
        let timer = worker.wheel.timer();
        let (preface, peer_text) = (None, OnceCell::new());
        Self { io, timer, worker, listener, peer, preface, peer_text, serial: Self::NO_CLIENT }
    }

    /// Reads what stands before the first request; false: there will be none.
    pub(crate) async fn begin(&mut self) -> bool {
        let Some(preface) = preface::read(&self.io, self.peer, &self.worker, &self.listener).await else {
            return false;
        };
        self.peer = preface.source();
        self.preface = Some(Rc::new(preface));
        true
    }

    /// What the TLS handshake has come to, if there was one.
    fn agreed(&self) -> Option<&Agreed> {
        self.preface.as_ref().and_then(|preface| preface.agreed.as_ref())
    }

    /// Whether the handshake was for a site that asks the same of clients as that of `host`.
    fn may_ask_for(&self, host: &[u8], listener: &ListenerView) -> bool {
        let server = listener.server(Some(host));
        self.agreed().zip(server).is_none_or(|(agreed, server)| agreed.may_use(server))
    }

    /// Whether the client speaks TLS to us.
    fn is_tls(&self) -> bool {
        self.agreed().is_some()
    }

    /// What the client asks with: `http`, `https`.
    fn scheme(&self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }

    /// Serves requests until one side has had enough.
    pub(crate) async fn serve(&self) {
        let mut rest: Option<Buffer> = self.preface.as_ref().and_then(|preface| preface.take_rest());
        if self.agreed().is_some_and(|agreed| agreed.alpn.as_deref() == Some(b"h2")) {
            return Box::pin(self.serve_http2(rest)).await;
        }
        let mut requests = 0;
        loop {
            // The exchange's state is large and lives in a box, which goes before the connection is idle again.
            let exchange = match self.read_head(rest.take(), requests == 0).await {
                Some(arrival) => self.exchange(arrival, requests + 1),
                None => return,
            };
            match exchange.await {
                Next::Request(held) => rest = held,
                Next::Close | Next::Last => return,
                Next::Linger => return Box::pin(self.linger()).await,
            }
            requests += 1;
        }
    }

    /// What is to be done about a head, or the lack of one.
    fn exchange(&self, arrival: Arrival, requests: u32) -> Pin<Box<dyn Future<Output = Next> + '_>> {
        let Arrival { mut scratch, buf, outcome } = arrival;
        let refusal = match outcome {
            Outcome::Request => {
                let facts = self.facts(&scratch, &buf, requests);
                return Box::pin(Exchange::new(self, scratch, buf, facts).run());
            }
            Outcome::Bad(RequestError::Version) if requests == 1 && self.is_http2(&buf) => {
                self.worker.scratch.put(scratch);
                return Box::pin(async move {
                    self.serve_http2(Some(buf)).await;
                    Next::Close
                });
            }
            Outcome::Bad(error) => {
                tracing::debug!(peer = %self.peer, listener = %self.listener.name, %error, "bad request");
                Refusal { status: error.status(), reason: Some(reason_of(&error)), close: true }
            }
            Outcome::TimedOut => Refusal { status: 408, reason: Some(Reason::ClientTimeout), close: true },
        };
        scratch.request.clear();
        let facts = self.facts(&scratch, &buf, requests);
        Box::pin(Exchange::new(self, scratch, buf, facts).refuse_head(refusal))
    }

    /// Waits for a whole request head. Holds no buffer while there is nothing to hold, and only as many bytes as came
    /// while a head is incomplete. `None`: there will be no more requests.
    async fn read_head(&self, rest: Option<Buffer>, first: bool) -> Option<Arrival> {
        let http = &self.listener.http;
        let worker = &self.worker;
        let mut stash: Vec<u8> = Vec::new();
        if let Some(buf) = rest {
            match self.parse(buf) {
                Ok(arrival) => return Some(arrival),
                Err(buf) => stash.extend_from_slice(buf.bytes()),
            }
        }
        let patience = if first || !stash.is_empty() { http.header_timeout } else { http.keepalive_timeout };
        self.timer.set(worker.now().after(patience));
        poll_fn(|cx| self.poll_head(cx, &mut stash, first)).await
    }

    fn poll_head(&self, cx: &mut Context<'_>, stash: &mut Vec<u8>, first: bool) -> Poll<Option<Arrival>> {
        let http = &self.listener.http;
        let worker = &self.worker;
        loop {
            let mut buf = worker.buffers().take((stash.len() + 1).max(SMALL));
            buf.push(stash);
            if buf.room() == 0 {
                buf.grow(buf.capacity() + SMALL);
            }
            match self.io.poll_recv(cx, buf.space()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    buf.filled(n);
                    match self.parse(buf) {
                        Ok(arrival) => return Poll::Ready(Some(arrival)),
                        Err(buf) => {
                            if stash.is_empty() && !first {
                                self.timer.set(worker.now().after(http.header_timeout));
                            }
                            stash.clear();
                            stash.extend_from_slice(buf.bytes());
                        }
                    }
                }
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if self.timer.poll_expired(cx).is_ready() => {
                    // A request that comes at the last moment is answered.
                    if stash.is_empty() && !first && self.has_arrived() {
                        self.timer.set(worker.now().after(http.header_timeout));
                        let _ = self.timer.poll_expired(cx);
                        return Poll::Pending;
                    }
                    // A client that never said a word is told nothing (as nginx); one in the middle of a head is.
                    return Poll::Ready(match stash.is_empty() {
                        true => None,
                        false => Some(Arrival { scratch: worker.scratch.take(), buf, outcome: Outcome::TimedOut }),
                    });
                }
                Poll::Pending if self.listener.has_ended(worker.now()) => return Poll::Ready(None),
                Poll::Pending if stash.is_empty() && worker.draining() && !self.has_arrived() => {
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    // Who has just connected gets its answer.
                    if stash.is_empty() && !first && (worker.clients.is_quiet() || self.listener.is_gone()) {
                        self.timer.bring_forward(worker.now().after(QUIET_IDLE));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// A whole head, or what is wrong with it; the buffer back when more is needed.
    fn parse(&self, mut buf: Buffer) -> Result<Arrival, Buffer> {
        let http = &self.listener.http;
        let limits = Limits {
            max_size: http.max_header_size,
            max_fields: http.max_header_count,
            max_uri: http.max_uri_size,
            underscores: http.underscores_in_headers,
        };
        let mut scratch = self.worker.scratch.take();
        match scratch.request.parse(buf.bytes(), &limits) {
            Ok(Parse::Complete) => Ok(Arrival { scratch, buf, outcome: Outcome::Request }),
            Ok(Parse::Partial) => {
                self.worker.scratch.put(scratch);
                Err(buf)
            }
            Err(e) => {
                buf.compact();
                Ok(Arrival { scratch, buf, outcome: Outcome::Bad(e) })
            }
        }
    }

    fn facts(&self, scratch: &Scratch, buf: &Buffer, requests: u32) -> Facts {
        let head = &scratch.request;
        let trusted_nets = &self.listener.http.trusted_proxies;
        let trusted = !trusted_nets.is_empty() && trusted_nets.iter().any(|n| n.contains(self.peer.ip()));
        let client = if trusted {
            client_address(self.peer.ip(), trusted_nets, head, buf.bytes())
        } else {
            self.peer.ip().to_canonical()
        };
        Facts {
            start: 0,
            picked: 0,
            tried: 0,
            peer: self.peer,
            client,
            trusted,
            connection: self.serial,
            requests,
            status: 0,
            sent: 0,
            body_sent: 0,
            received: buf.len() as u64,
            upstream_sent: 0,
            upstream_received: 0,
            reason: None,
            queued: None,
            losses: None,
            retry_after: 0,
            upstream_port: None,
            id: OnceCell::new(),
        }
    }

    /// Whether the connection may serve another request after this one.
    fn may_keep(&self, requests: u32, asked: bool) -> bool {
        let http = &self.listener.http;
        let stays = !self.worker.draining() && !self.worker.clients.is_quiet() && !self.listener.is_gone();
        asked && requests < http.keepalive_requests && !http.keepalive_timeout.is_zero() && stays
    }

    /// Whether what runs over `server` is to be cut: a reload has removed that, or the listener, long enough ago.
    fn has_ended(&self, server: &Server) -> bool {
        let now = self.worker.now();
        server.has_ended(now) || self.listener.has_ended(now)
    }

    /// Whether the client's leaving would be noticed.
    fn is_watched(&self) -> bool {
        self.io.socket().is_none_or(Sock::is_registered)
    }

    /// Whether bytes of the client are known to wait in the socket.
    fn has_unread(&self) -> bool {
        self.io.has_unread()
    }

    /// Whether something of the client waits in the socket though epoll has not reported it yet: closing would answer a
    /// request with a reset.
    fn has_arrived(&self) -> bool {
        self.io.socket().is_some_and(Sock::is_stale_now)
    }

    /// Lets the client's leaving be noticed from now on; the timer is set to `deadline`.
    fn start_watching(&self, deadline: Millis) {
        if let Some(Err(error)) = self.io.socket().map(Sock::register) {
            tracing::debug!(peer = %self.peer, %error, "cannot watch a client connection");
        }
        self.timer.set(deadline);
    }

    /// The peer's address as text, made once for the connection.
    fn peer_text(&self) -> &str {
        self.peer_text.get_or_init(|| Rc::new(self.peer.ip().to_canonical().to_string()))
    }

    async fn linger(&self) {
        if self.io.shutdown().is_err() {
            return;
        }
        let end = self.worker.now().after(LINGER_TOTAL);
        loop {
            self.timer.set(self.worker.now().after(LINGER_IDLE).min(end));
            let more = poll_fn(|cx| {
                let mut buf = self.worker.buffers().take(SMALL);
                match self.io.poll_recv(cx, buf.space()) {
                    Poll::Ready(read) => Poll::Ready(matches!(read, Ok(n) if n > 0)),
                    Poll::Pending => self.timer.poll_expired(cx).map(|()| false),
                }
            })
            .await;
            if !more || self.worker.now() >= end || self.worker.draining() {
                return;
            }
        }
    }
}

impl Conn<TlsStream> {
    /// As [`Conn::begin`], and makes the handshake.
    pub(crate) async fn begin_tls(&mut self) -> bool {
        let begun = handshake::begin(&self.io, self.peer, &self.worker, &self.listener).await;
        let Some(preface) = begun else { return false };
        self.peer = preface.source();
        self.preface = Some(Rc::new(preface));
        true
    }
}

impl<C: Transport> Drop for Conn<C> {
    fn drop(&mut self) {
        if self.serial != Self::NO_CLIENT && !C::HTTP2 {
            self.worker.clients.closing(self.serial, self.listener.tracked, &self.io);
        }
    }
}

fn reason_of(e: &RequestError) -> Reason {
    match e.status() {
        414 => Reason::UriTooLong,
        431 => Reason::HeadTooLarge,
        _ => Reason::BadRequest,
    }
}
