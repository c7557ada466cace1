//! HTTP/2 client connections: one task drives the frames, and each stream is an exchange in a task of its own.
//!
//! ```text
//! serve_http2: Carrier <- h2::server::Connection -> a stream: head -> http1 codec -> Exchange over H2Stream
//! ```
//! The connection outlives its streams: it ends once all of them have.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason as Code, RecvStream};
use http::Request;
use tokio::task::AbortHandle;

use crate::http1::{self, Body, RequestError};
use crate::http2::downstream::{H2Stream, Shared};
use crate::http2::guard::{Fault, Purse};
use crate::http2::translate;
use crate::http2::wire::{Carrier, PREFACE, Wire};
use crate::net::Transport;
use crate::net::buffer::Buffer;
use crate::proxy::errors::FailedExchange;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::{Arrival, Conn, Outcome, QUIET_IDLE};
use crate::proxy::worker::Worker;
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// The part of the preface that a line is (RFC 9113 section 3.4).
const FIRST_LINE: &[u8] = PREFACE.split_at(16).0;

/// Bytes of a response that wait in a stream for the connection, at most.
const SEND_BUFFER: usize = 64 * 1024;

/// What h2 allows for small frames that wait to be read, as so many times the connection's window: each counts as 256 bytes.
/// Its own half is 2,000 of them, which streams of small messages reach when their servers pause.
const FRAME_OVERHEAD: usize = 4;

/// Streams that a client may have reset before we have looked at them, and such that we have and it still writes to.
const PENDING_RESETS: usize = 64;

/// What the streams of a connection share with it.
struct Streams {
    shared: Rc<Shared>,
    worker: Rc<Worker>,
    live: Cell<usize>,
    /// Whoever waits for the last one.
    waiting: RefCell<Option<Waker>>,
    /// By number; of listeners that an address of a virtual router leads to.
    tasks: RefCell<HashMap<u32, AbortHandle>>,
    /// The connection was dropped without an end.
    orphaned: Cell<bool>,
}

/// Counts a stream for as long as it is served.
struct Live {
    streams: Rc<Streams>,
    number: u32,
}

/// Takes the streams along when the connection is dropped in the middle, as [`Clients::condemn`] has it.
///
/// [`Clients::condemn`]: crate::proxy::clients::Clients::condemn
struct Parent(Rc<Streams>);

impl Drop for Live {
    fn drop(&mut self) {
        let Streams { worker, live, waiting, tasks, orphaned, .. } = &*self.streams;
        live.set(live.get() - 1);
        tasks.borrow_mut().remove(&self.number);
        if orphaned.get() {
            worker.clients.orphan_gone();
        }
        if live.get() == 0
            && let Some(waiting) = waiting.take()
        {
            waiting.wake();
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let Streams { worker, live, tasks, orphaned, .. } = &*self.0;
        if !tasks.borrow().is_empty() {
            orphaned.set(true);
            worker.clients.orphaned(live.get());
            // Aborting drops nothing yet: the runtime does when its turn comes.
            tasks.borrow().values().for_each(AbortHandle::abort);
        }
    }
}

/// How a connection ends.
enum End {
    /// Everything is said.
    Over,
    /// There is nobody to say it to, or no more time.
    Cut,
}

/// A connection of HTTP/2 as it is driven.
struct Driver<'d, 'c, C: Transport> {
    conn: &'c Conn<C>,
    carrier: &'d Carrier<'c, C>,
    h2: Connection<Wire<'d, 'c, C>, Bytes>,
    streams: Rc<Streams>,
    requests: u32,
    /// Told to make no new streams.
    leaving: bool,
    /// The last word has been said to h2.
    ending: bool,
    watch: Watch,
}

/// What lasts too long if it lasts.
#[derive(Debug, Default)]
struct Watch {
    /// Since when there is no stream.
    idle: Option<Millis>,
    /// The frame that is not complete, and since when.
    amid: Option<(u64, Millis)>,
    /// How many bytes the client had taken when it last took some while more waited, and when.
    stuck: Option<(u64, Millis)>,
}

/// What lasted too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Idle,
    Amid,
    Stuck,
}

impl<C: Transport> Conn<C> {
    /// Whether a client speaks HTTP/2 without having asked, where it may: over TLS it has to ask (section 3.3).
    pub(super) fn is_http2(&self, buf: &Buffer) -> bool {
        self.listener.http.http2.is_on && !self.is_tls() && buf.bytes().starts_with(FIRST_LINE)
    }

    /// Serves a client that speaks HTTP/2, of which `early` has been read.
    pub(super) async fn serve_http2(&self, early: Option<Buffer>) {
        let http = &self.listener.http;
        let now = self.worker.now();
        let is_anywhere = self.listener.address.ip().is_unspecified();
        let local_address = is_anywhere.then(|| self.io.local_address()).flatten();
        let shared = Rc::new(Shared::new(Purse::new(http.http2.max_glitches, now), local_address));
        let streams = Rc::new(Streams {
            shared: Rc::clone(&shared),
            worker: Rc::clone(&self.worker),
            live: Cell::new(0),
            waiting: RefCell::new(None),
            tasks: RefCell::default(),
            orphaned: Cell::new(false),
        });
        let _parent = Parent(Rc::clone(&streams));
        let carrier = Carrier::new(&self.io, early, &shared.purse, now);
        self.timer.set(now.after(http.header_timeout));
        let mut handshake = self.http2_settings().handshake(Wire(&carrier));
        let shaken = poll_fn(|cx| {
            let shaken = std::pin::Pin::new(&mut handshake).poll(cx);
            if let Poll::Ready(Err(_)) = carrier.poll_flush(cx) {
                return Poll::Ready(None);
            }
            let now = self.worker.now();
            match shaken {
                Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
                Poll::Pending if self.listener.has_ended(now) => Poll::Ready(None),
                Poll::Pending if self.timer.poll_expired(cx).is_ready() => Poll::Ready(None),
                Poll::Pending => {
                    if self.worker.draining() {
                        self.timer.bring_forward(now.after(QUIET_IDLE));
                    }
                    Poll::Pending
                }
            }
        })
        .await;
        let Some(h2) = shaken else { return };
        let mut driver = Driver {
            conn: self,
            carrier: &carrier,
            h2,
            streams: Rc::clone(&streams),
            requests: 0,
            leaving: false,
            ending: false,
            watch: Watch::default(),
        };
        let end = poll_fn(|cx| driver.poll(cx)).await;
        if let Some(fault) = carrier.fault() {
            self.note_fault(fault);
        }
        // Streams that are still there learn by this that nobody waits for them.
        drop(driver);
        poll_fn(|cx| match streams.live.get() {
            0 => Poll::Ready(()),
            _ => {
                streams.waiting.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        if matches!(end, End::Over) {
            self.linger().await;
        }
    }

    fn http2_settings(&self) -> Builder {
        let http = &self.listener.http;
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(http.http2.max_concurrent_streams)
            .initial_window_size(http.http2.stream_window)
            .initial_connection_window_size(http.http2.connection_window)
            .max_header_list_size(u32::try_from(http.max_header_size).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(FRAME_OVERHEAD * http.http2.connection_window as usize)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_concurrent_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(http.http2.max_glitches as usize));
        builder
    }

    /// A client that broke the protocol, or floods; what it asked for has lines of its own.
    fn note_fault(&self, fault: Fault) {
        tracing::debug!(peer = %self.peer, listener = %self.listener.name, ?fault, "HTTP/2 connection ended");
        if fault == Fault::Flood {
            let client = self.peer.ip().to_canonical();
            let listener = Rc::clone(&self.listener);
            self.worker
                .shared
                .errors
                .record(|| FailedExchange::new(client, listener.name.clone(), Reason::ClientFlood));
        }
    }
}

impl<C: Transport> Driver<'_, '_, C> {
    /// Moves everything as far as it goes; ready when the connection is to be closed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let now = self.conn.worker.now();
        self.carrier.set_now(now);
        loop {
            if let Poll::Ready(end) = self.poll_frames(cx) {
                return Poll::Ready(end);
            }
            if !self.has_more_to_say() {
                break;
            }
        }
        if self.conn.listener.has_ended(now) {
            return Poll::Ready(End::Cut);
        }
        let (deadline, late) = self.watch(now);
        self.conn.timer.set(deadline);
        if deadline > now {
            let _ = self.conn.timer.poll_expired(cx);
            return Poll::Pending;
        }
        match late {
            Late::Stuck => Poll::Ready(End::Cut),
            _ if self.ending => Poll::Ready(End::Cut),
            Late::Idle => self.end(Code::NO_ERROR, cx),
            Late::Amid => self.end(Code::PROTOCOL_ERROR, cx),
        }
    }

    /// Has h2 read and write until it waits for somebody.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(None) => return self.carrier.poll_flush(cx).map(|_| End::Over),
                Poll::Ready(Some(Err(e))) => {
                    tracing::debug!(peer = %self.conn.peer, error = %e, "HTTP/2 connection ended");
                    let flushed = self.carrier.poll_flush(cx);
                    return Poll::Ready(if flushed.is_ready() && !e.is_io() { End::Over } else { End::Cut });
                }
                Poll::Pending => break,
            }
        }
        match self.carrier.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Cut),
            _ => Poll::Pending,
        }
    }

    /// Tells h2 what the client is to hear, if there is something.
    fn has_more_to_say(&mut self) -> bool {
        if let Some(fault) = self.carrier.fault().filter(|_| !self.ending) {
            self.ending = true;
            self.h2.abrupt_shutdown(fault.reason());
            return true;
        }
        let (worker, listener) = (&self.conn.worker, &self.conn.listener);
        // Who has just connected gets its answer.
        let is_unwanted = (worker.clients.is_quiet() || listener.is_gone()) && self.requests > 0;
        let is_worn = self.requests >= listener.http.keepalive_requests;
        if !self.leaving && (is_unwanted || is_worn || worker.draining()) {
            self.leaving = true;
            self.h2.graceful_shutdown();
            return true;
        }
        false
    }

    /// Ends it by a GOAWAY.
    fn end(&mut self, code: Code, cx: &mut Context<'_>) -> Poll<End> {
        self.ending = true;
        self.h2.abrupt_shutdown(code);
        let end = self.poll_frames(cx);
        // A client that does not take it does without.
        let limit = self.conn.worker.now().after(self.conn.listener.http.send_timeout);
        self.conn.timer.set(limit);
        let _ = self.conn.timer.poll_expired(cx);
        end
    }

    /// When something will have lasted too long, and what.
    fn watch(&mut self, now: Millis) -> (Millis, Late) {
        let http = &self.conn.listener.http;
        let is_busy = self.streams.live.get() > 0 || self.h2.has_streams();
        self.watch.idle = if is_busy { None } else { self.watch.idle.or(Some(now)) };
        let amid = self.carrier.amid();
        self.watch.amid = amid.map(|frame| match self.watch.amid {
            Some((same, since)) if same == frame => (frame, since),
            _ => (frame, now),
        });
        // A client may take its window back, so that what is left of an answer has nobody who looks after it.
        let is_left = is_busy && self.streams.live.get() == 0;
        let moved = (self.carrier.is_blocked() || is_left).then(|| self.carrier.moved());
        self.watch.stuck = moved.map(|moved| match self.watch.stuck {
            Some((same, since)) if same == moved => (moved, since),
            _ => (moved, now),
        });
        let patience = match self.requests {
            _ if self.leaving => http.keepalive_timeout.min(QUIET_IDLE),
            0 => http.header_timeout,
            _ => http.keepalive_timeout,
        };
        let idle = self.watch.idle.map(|since| (since.after(patience), Late::Idle));
        let amid = self.watch.amid.map(|(_, since)| (since.after(http.header_timeout), Late::Amid));
        let stuck = self.watch.stuck.map(|(_, since)| (since.after(http.send_timeout), Late::Stuck));
        let all = [idle, amid, stuck].into_iter().flatten();
        all.min_by_key(|(at, _)| *at).unwrap_or((Millis(u64::MAX), Late::Idle))
    }

    /// Starts a stream.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let conn = self.conn;
        let (parts, body) = request.into_parts();
        let arrival = conn.receive(&parts, body.is_end_stream());
        let head = &arrival.scratch.request;
        let chunked = head.body == Body::Chunked;
        let method = if parts.method == http::Method::HEAD { http1::Method::Head } else { head.method };
        let io = H2Stream::new(body, respond, method, chunked, Rc::clone(&self.streams.shared));
        let stream = Conn {
            io,
            timer: conn.worker.wheel.timer(),
            worker: Rc::clone(&conn.worker),
            listener: Rc::clone(&conn.listener),
            peer: conn.peer,
            preface: conn.preface.clone(),
            peer_text: conn.peer_text.clone(),
            serial: conn.serial,
        };
        self.requests += 1;
        self.streams.live.set(self.streams.live.get() + 1);
        let number = self.requests;
        let live = Live { streams: Rc::clone(&self.streams), number };
        let task = tokio::task::spawn_local(async move {
            stream.serve_stream(arrival, number).await;
            stream.io.finish();
            drop((stream, live));
        });
        if conn.listener.tracked {
            self.streams.tasks.borrow_mut().insert(number, task.abort_handle());
        }
    }
}

impl Conn<H2Stream> {
    /// The one exchange of a stream.
    async fn serve_stream(&self, arrival: Arrival, number: u32) {
        match arrival {
            // Its task is the box of its state.
            Arrival { scratch, buf, outcome: Outcome::Request } => {
                let facts = self.facts(&scratch, &buf, number);
                Exchange::new(self, scratch, buf, facts).run().await;
            }
            other => _ = self.exchange(other, number).await,
        }
    }
}

impl<C: Transport> Conn<C> {
    /// A request of HTTP/2 as one of HTTP/1.1; `ends`: it has no body.
    fn receive(&self, parts: &http::request::Parts, ends: bool) -> Arrival {
        let worker = &self.worker;
        let mut scratch = worker.scratch.take();
        let mut text = std::mem::take(&mut scratch.text);
        let written = translate::write_request(parts, ends, &mut text);
        let mut buf = worker.buffers().take_for(&text);
        text.clear();
        scratch.text = text;
        worker.scratch.put(scratch);
        match written {
            Ok(()) => self.parse(buf).unwrap_or_else(|buf| self.bad(buf, RequestError::BadLine)),
            Err(e) => {
                buf.truncate(0);
                self.bad(buf, e)
            }
        }
    }

    fn bad(&self, buf: Buffer, error: RequestError) -> Arrival {
        Arrival { scratch: self.worker.scratch.take(), buf, outcome: Outcome::Bad(error) }
    }
}
