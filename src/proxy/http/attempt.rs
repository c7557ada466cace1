//! One try at one server: the request out, the response's head in.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use crate::config::model::Policy;
use crate::http1::{Limits, Parse, Version};
use crate::net::buffer::{Buffer, SMALL};
use crate::net::transport::Closed;
use crate::net::{Transport, clock};
use crate::pool::Lease;
use crate::proxy::http::exchange::{Exchange, Refusal, gone};
use crate::proxy::http::failure::Failure;
use crate::proxy::http::forward::{Stream, Tries, body_refusal};
use crate::proxy::http::{Conn, headers};
use crate::proxy::idle::ServerConn;
use crate::proxy::link::broken_tls;
use crate::proxy::pump::{Pump, PumpError, Recode, Waits};
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// Our answer to `Expect: 100-continue`.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Response heads longer than this are not passed on (nginx: `proxy_buffer_size`, HAProxy: `tune.bufsize`).
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Fields of a response head at most.
const MAX_RESPONSE_FIELDS: usize = 256;

/// Informational responses passed on before the final one; more is a flood.
const MAX_INFORMATIONAL: u32 = 16;

/// Room left in front of a response, so that our head, a little longer than the server's, fits where that one was.
const HEADROOM: usize = 1024;

/// A FIN this soon after the request is a client that half-closes and waits for its answer (`printf … | nc -N`); a
/// later one is a client that has given up, and the server's work is not needed.
const HALF_CLOSE_WINDOW_MS: u64 = 100;

/// For how long a connection that is not under epoll yet goes unwatched while the server works.
const UNWATCHED_MS: u64 = 50;

/// A server that has answered.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) conn: ServerConn,
    /// The response's head at its front, and what was read with it.
    pub(super) buf: Buffer,
    /// What is left of the request.
    pub(super) sending: Sending,
    /// Whether the client is still there.
    pub(super) watch: ClientWatch,
    /// Kept here by tunnels.
    pub(super) lease: Option<Lease>,
}

/// Sees whether the client has left while nothing is expected from it.
#[derive(Debug, Default)]
pub(super) struct ClientWatch {
    /// The request is complete.
    complete: bool,
    /// When the client was first looked at after that.
    looked: Option<Millis>,
    /// It has closed its half together with the request, and waits for its answer.
    half_closed: bool,
}

impl ClientWatch {
    /// Of a request that is here.
    pub(super) fn of_whole_request() -> Self {
        Self { complete: true, ..Self::default() }
    }

    pub(super) fn is_gone<C: Transport>(&mut self, cx: &mut Context<'_>, conn: &Conn<C>) -> bool {
        if !self.complete || self.half_closed || !conn.is_watched() {
            return false;
        }
        let now = conn.worker.now();
        let looked = *self.looked.get_or_insert(now);
        match conn.io.poll_closed(cx) {
            Poll::Ready(Closed::Broken) => true,
            Poll::Ready(Closed::Half) => {
                self.half_closed = now.since(looked) <= HALF_CLOSE_WINDOW_MS;
                !self.half_closed
            }
            Poll::Pending => false,
        }
    }
}

/// The request on its way to the server.
#[derive(Debug)]
pub(super) enum Sending {
    /// Head and body are in memory; `left` counts what is still to go.
    Held {
        /// Bytes not yet taken by the kernel.
        left: usize,
    },
    /// Head, then a body as it comes from the client.
    Stream(Box<Pump>),
}

impl Sending {
    /// Whether the whole request has been sent.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Held { left } => *left == 0,
            Self::Stream(pump) => pump.source_done() && pump.waits_for() == Waits::Source,
        }
    }

    /// Bytes of body that were streamed.
    pub(super) fn streamed(&self) -> u64 {
        match self {
            Self::Held { .. } => 0,
            Self::Stream(pump) => pump.body(),
        }
    }

    fn moved(&self) -> u64 {
        match self {
            Self::Held { left } => u64::MAX - *left as u64,
            Self::Stream(pump) => pump.moved(),
        }
    }

    /// What it waits for, and how long that may take.
    fn patience<C: Transport>(&self, conn: &Conn<C>, policy: &Policy) -> (std::time::Duration, Waits) {
        match self {
            Self::Stream(pump) if pump.waits_for() == Waits::Source => (conn.listener.http.body_timeout, Waits::Source),
            _ => (policy.send_timeout, Waits::Dest),
        }
    }
}

/// What came of waiting for bytes of a response head.
enum Event {
    Bytes(Buffer),
    ServerClosed,
    /// It breaks the rules of its protocol; what TLS says of it.
    BadServer(Option<Box<str>>),
    /// The request cannot be written in its protocol.
    Unsendable,
    TimedOut(Waits),
    RoleLost,
    ClientGone,
    ClientBody(PumpError),
    Nudge,
}

/// Sends the request and reads until the final response's head is there.
pub(super) async fn exchange_head<C: Transport>(
    ex: &mut Exchange<'_, C>,
    mut server: ServerConn,
    lease: &Lease,
    policy: &Policy,
    stream: &mut Option<Stream>,
    tries: &mut Tries<'_>,
) -> Result<Attempt, Failure> {
    let conn = ex.conn;
    server.requests += 1;
    let total = ex.scratch.out.len() + ex.held_body;
    ex.facts.upstream_sent += total as u64;
    let mut sending = match stream {
        None => Sending::Held { left: total },
        Some(s) => start_stream(ex, s, policy).await?,
    };
    let mut held: Option<Buffer> = None;
    let mut informational = 0;
    let mut watch = ClientWatch::default();
    let mut deadline = Millis(u64::MAX);
    let mut seen = None;
    loop {
        let request = ex.buf.bytes();
        let (head, body) = (&ex.scratch.out[..], &request[ex.scratch.request.len..][..ex.held_body]);
        let facts = &ex.facts;
        let event = poll_fn(|cx| {
            // Before anything else: a former primary gets nothing more, and what it says counts no more.
            if facts.has_lost(lease.server()) {
                return Poll::Ready(Event::RoleLost);
            }
            let sent = match poll_sending(cx, &mut sending, head, body, &conn.io, &server.link) {
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
                // The server has stopped reading, perhaps because it has answered already: that is read below.
                Poll::Ready(Err(PumpError::Dest)) => true,
                Poll::Ready(Err(e)) => return Poll::Ready(Event::ClientBody(e)),
            };
            let mut buf = held.take().unwrap_or_else(|| {
                let mut b = conn.worker.buffers().take(SMALL);
                b.reserve_front(HEADROOM);
                b
            });
            match server.link.poll_recv(cx, buf.space()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    buf.filled(n);
                    return Poll::Ready(Event::Bytes(buf));
                }
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                    return Poll::Ready(Event::BadServer(broken_tls(&e)));
                }
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::InvalidInput => {
                    return Poll::Ready(Event::Unsendable);
                }
                Poll::Ready(_) => return Poll::Ready(Event::ServerClosed),
                // A server that takes its time costs no buffer.
                Poll::Pending if buf.is_empty() => {}
                Poll::Pending => held = Some(buf),
            }
            let now = conn.worker.now();
            if sent && !watch.complete {
                watch.complete = true;
                seen = None;
            }
            if seen != Some(sending.moved()) {
                seen = Some(sending.moved());
                deadline = now.after(if sent { policy.read_timeout } else { sending.patience(conn, policy).0 });
                let unwatched = sent && !conn.is_watched();
                conn.timer.set(if unwatched { deadline.min(Millis(now.0 + UNWATCHED_MS)) } else { deadline });
            }
            if watch.is_gone(cx, conn) {
                return Poll::Ready(Event::ClientGone);
            }
            if conn.timer.poll_expired(cx).is_ready() {
                let waits = if sent { Waits::Dest } else { sending.patience(conn, policy).1 };
                return Poll::Ready(if conn.worker.now() < deadline { Event::Nudge } else { Event::TimedOut(waits) });
            }
            Poll::Pending
        })
        .await;
        let mut buf = match event {
            Event::Bytes(buf) => buf,
            Event::ServerClosed => {
                let written = written(&sending, total) && !server.link.is_untouched();
                return Err(Failure::Reset { written, alone: server.link.is_reset_alone() });
            }
            Event::BadServer(None) => return Err(Failure::BadHead),
            Event::BadServer(Some(detail)) => {
                return Err(Failure::Tls { reason: Reason::ServerTls, detail, written: written(&sending, total) });
            }
            Event::Unsendable => {
                let refusal = Refusal { status: 400, reason: Some(Reason::BadRequest), close: false };
                return Err(Failure::Client(refusal));
            }
            Event::RoleLost => {
                server.link.set_abort();
                return Err(Failure::RoleLost { written: written(&sending, total) });
            }
            Event::ClientGone => return Err(Failure::Client(gone())),
            Event::ClientBody(e) => return Err(Failure::Client(body_refusal(e))),
            Event::TimedOut(Waits::Source) => {
                let refusal = Refusal { status: 408, reason: Some(Reason::ClientTimeout), close: true };
                return Err(Failure::Client(refusal));
            }
            Event::TimedOut(Waits::Dest) if watch.complete => {
                server.link.note_silence();
                return Err(Failure::ReadTimeout);
            }
            Event::TimedOut(Waits::Dest) => return Err(Failure::SendTimeout),
            Event::Nudge => {
                conn.start_watching(deadline);
                continue;
            }
        };
        loop {
            let limits = Limits { max_size: MAX_RESPONSE_HEAD, max_fields: MAX_RESPONSE_FIELDS, ..Limits::default() };
            let response = &mut ex.scratch.response;
            match response.parse(buf.bytes(), ex.scratch.request.method, &limits) {
                Ok(Parse::Complete) => {}
                Ok(Parse::Partial) => {
                    if buf.room() == 0 {
                        buf.grow(MAX_RESPONSE_HEAD + SMALL);
                    }
                    if buf.room() == 0 {
                        return Err(Failure::BadHead);
                    }
                    if !buf.is_empty() {
                        held = Some(buf);
                    }
                    // Between two reads, as nginx: a head in pieces is no silence.
                    seen = None;
                    break;
                }
                Err(_) => return Err(Failure::BadHead),
            }
            let status = response.status;
            if status == 101 && ex.scratch.request.upgrade.is_none() {
                return Err(Failure::BadHead);
            }
            if status >= 200 || status == 101 {
                let now = clock::now_micros();
                lease.server().latency.record(now.saturating_sub(ex.facts.tried));
                if let Some(t) = ex.scratch.tries.last_mut() {
                    t.status = status;
                    t.header = Some(now.saturating_sub(ex.facts.since()));
                }
                let resendable = stream.as_ref().is_none_or(|s| !s.started);
                let method_allows = policy.retry.non_idempotent || ex.scratch.request.method.is_idempotent();
                let listed = policy.retry.on.statuses.contains(&status);
                // Asked last, for it starts the next try: without one the client gets this response.
                if listed && resendable && method_allows && tries.start_next(conn.worker.now()) {
                    return Err(Failure::Status(status));
                }
                return Ok(Attempt { conn: server, buf, sending, watch, lease: None });
            }
            informational += 1;
            if informational > MAX_INFORMATIONAL {
                return Err(Failure::BadHead);
            }
            let len = ex.scratch.response.len;
            // 100 answers an expectation that we have met ourselves; HTTP/1.0 knows no 1xx.
            if status != 100 && ex.scratch.request.version != Version::Http10 {
                let mut text = std::mem::take(&mut ex.scratch.text);
                text.clear();
                headers::write_informational(&mut text, &ex.scratch.response, buf.bytes(), b"");
                let sent = conn.send_all(&text).await;
                ex.scratch.text = text;
                if sent.is_err() {
                    return Err(Failure::Client(gone()));
                }
            }
            buf.consume(len);
        }
    }
}

/// The pump of a body that is not held.
async fn start_stream<C: Transport>(
    ex: &mut Exchange<'_, C>,
    s: &mut Stream,
    policy: &Policy,
) -> Result<Sending, Failure> {
    let conn = ex.conn;
    let framing = s.framing.take().ok_or(Failure::Client(gone()))?;
    if ex.take_expectation() {
        conn.send_all(CONTINUE).await.map_err(|_| Failure::Client(gone()))?;
    }
    s.started = true;
    let means = conn.worker.means(policy.request_buffering.max(SMALL));
    let mut pump =
        Pump::new(framing, Recode::AsIs, s.initial.take(), means).map_err(|e| Failure::Client(body_refusal(e)))?;
    pump.limit(s.max).map_err(|e| Failure::Client(body_refusal(e)))?;
    pump.send_first(&ex.scratch.out);
    Ok(Sending::Stream(Box::new(pump)))
}

fn written(sending: &Sending, total: usize) -> bool {
    match sending {
        Sending::Held { left } => *left < total,
        Sending::Stream(_) => true,
    }
}

fn poll_sending<C: Transport, S: Transport>(
    cx: &mut Context<'_>,
    sending: &mut Sending,
    head: &[u8],
    body: &[u8],
    client: &C,
    server: &S,
) -> Poll<Result<(), PumpError>> {
    match sending {
        Sending::Stream(pump) => pump.poll(cx, client, server),
        Sending::Held { left } => {
            while *left > 0 {
                let done = head.len() + body.len() - *left;
                let sent = if done < head.len() {
                    let bufs = [IoSlice::new(&head[done..]), IoSlice::new(body)];
                    server.poll_send(cx, if body.is_empty() { &bufs[..1] } else { &bufs })
                } else {
                    server.poll_send(cx, &[IoSlice::new(&body[done - head.len()..])])
                };
                match sent {
                    Poll::Ready(Ok(n)) => *left -= n,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Dest)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        }
    }
}

/// How passing a body on went so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relayed {
    /// The client has all of it.
    Whole,
    /// The server has given all of it; the rest waits for a slow client.
    Read,
}

/// Passes the response's body on, while what is left of the request goes the other way.
pub(super) async fn relay_body<C: Transport>(
    ex: &Exchange<'_, C>,
    attempt: &mut Attempt,
    pump: &mut Pump,
    lease: &Lease,
    policy: &Policy,
) -> Result<Relayed, Reason> {
    let conn = ex.conn;
    let Attempt { conn: ServerConn { link: server, .. }, sending, watch, .. } = attempt;
    let body = &ex.buf.bytes()[ex.scratch.request.len..][..ex.held_body];
    // The text of a head that is still on its way has been overwritten by now; a server that answers without having
    // read it does not need it.
    let mut uploading = match sending {
        Sending::Held { left } => *left > 0 && *left <= body.len(),
        Sending::Stream(_) => !sending.is_done(),
    };
    let mut seen = None;
    let mut deadline = Millis(u64::MAX);
    loop {
        let step = poll_fn(|cx| {
            if uploading {
                match poll_sending(cx, sending, &[], body, &conn.io, server) {
                    Poll::Pending => {}
                    // A server that has answered may stop reading.
                    Poll::Ready(Ok(()) | Err(PumpError::Dest)) => uploading = false,
                    Poll::Ready(Err(PumpError::Source | PumpError::Truncated)) => {
                        return Poll::Ready(Err(Reason::ClientGone));
                    }
                    Poll::Ready(Err(PumpError::TooLarge)) => return Poll::Ready(Err(Reason::BodyTooLarge)),
                    Poll::Ready(Err(PumpError::Framing)) => return Poll::Ready(Err(Reason::BadRequest)),
                }
            }
            match pump.poll(cx, server, &conn.io) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(Some(Relayed::Whole))),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(body_reason(e))),
                Poll::Pending if pump.source_done() => return Poll::Ready(Ok(Some(Relayed::Read))),
                Poll::Pending => {}
            }
            if conn.has_ended(lease.server()) || ex.generation < conn.worker.shared.oldest.load(Ordering::Relaxed) {
                return Poll::Ready(Err(Reason::DrainTimeout));
            }
            if ex.facts.has_lost(lease.server()) {
                server.set_abort();
                return Poll::Ready(Err(Reason::RoleLost));
            }
            let now = conn.worker.now();
            let silent = !uploading && pump.waits_for() == Waits::Source;
            if silent {
                watch.complete = true;
                if watch.is_gone(cx, conn) {
                    return Poll::Ready(Err(Reason::ClientGone));
                }
            }
            let moved = pump.moved().wrapping_add(sending.moved());
            let slow_client = pump.waits_for() == Waits::Dest;
            if seen != Some(moved) {
                seen = Some(moved);
                deadline = now.after(if slow_client { conn.listener.http.send_timeout } else { policy.read_timeout });
                let unwatched = silent && !conn.is_watched();
                conn.timer.set(if unwatched { deadline.min(Millis(now.0 + UNWATCHED_MS)) } else { deadline });
            }
            conn.timer.poll_expired(cx).map(|()| match slow_client {
                _ if conn.worker.now() < deadline => Ok(None),
                true => Err(Reason::ClientTimeout),
                false => Err(Reason::ReadTimeout),
            })
        })
        .await?;
        if let Some(relayed) = step {
            return Ok(relayed);
        }
        conn.start_watching(deadline);
    }
}

/// Writes what is left of a response that the server has given whole.
pub(super) async fn flush_body<C: Transport>(conn: &Conn<C>, pump: &mut Pump) -> Result<(), Reason> {
    let mut seen = None;
    poll_fn(|cx| {
        if let Poll::Ready(end) = pump.poll_flush(cx, &conn.io) {
            return Poll::Ready(end.map_err(body_reason));
        }
        if conn.listener.has_ended(conn.worker.now()) {
            return Poll::Ready(Err(Reason::DrainTimeout));
        }
        if seen != Some(pump.moved()) {
            seen = Some(pump.moved());
            conn.timer.set(conn.worker.now().after(conn.listener.http.send_timeout));
        }
        conn.timer.poll_expired(cx).map(|()| Err(Reason::ClientTimeout))
    })
    .await
}

fn body_reason(e: PumpError) -> Reason {
    match e {
        PumpError::Source | PumpError::Truncated => Reason::ResetInBody,
        PumpError::Framing | PumpError::TooLarge => Reason::BadBody,
        PumpError::Dest => Reason::ClientGone,
    }
}
