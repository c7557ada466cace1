//! Connections of HTTP/2 to servers, each shared by the exchanges of one worker.
//!
//! A connection is a task of its worker that moves frames. Exchanges hold [`Ticket`]s, as many as the server allows at a
//! time; the pool's list keeps the connection while it may get more. Once nobody has a hold on it, it says goodbye and ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::uri::Scheme;
use tokio::sync::Notify;

use crate::config::model;
use crate::net::clock;
use crate::net::wheel::Timer;
use crate::proxy::link::Link;
use crate::proxy::link::adapter::Io;
use crate::proxy::link::stream::Stream;
use crate::time::Millis;

/// Streams of a connection at most, whatever the server allows: one more connection costs less than a long queue in one.
const MOST_STREAMS: u32 = 100;

/// Bytes of a response that a server may send before the client has taken some of them.
const STREAM_WINDOW: u32 = 128 << 10;

/// Of all responses together: as much as all streams may hold, so that slow clients never stop the others.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;

/// All fields of a response head, by the reckoning of RFC 9113 section 6.5.2.
const MAX_HEAD: u32 = 64 << 10;

/// For how long a connection that nobody needs may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// A connection. Dropped, it ends with the last of its tickets.
#[derive(Debug)]
pub(crate) struct Shared {
    /// [`crate::pool::Server::id`] of the server it leads to.
    pub(crate) server: u32,
    /// When it was opened.
    born: Millis,
    /// Streams opened on it.
    requests: Cell<u32>,
    /// Streams open.
    active: Cell<u32>,
    /// Since when there is none.
    idle_since: Cell<Millis>,
    /// As [`crate::proxy::idle::ServerConn::losses`].
    losses: Cell<Option<u32>>,
    /// Nothing new.
    ended: Rc<Cell<bool>>,
    /// How often something came from the server.
    heard: Rc<Cell<u64>>,
    /// Nobody needs it.
    released: Rc<Cell<bool>>,
    link: Rc<Link>,
    scheme: Scheme,
    to: SendRequest<Bytes>,
}

/// A place on a connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    conn: Rc<Shared>,
    /// [`Shared::heard`] when it was taken.
    heard: u64,
}

impl Shared {
    /// Starts HTTP/2 on a link that nothing was sent on; must be called on a worker's runtime. `timer` is for its end.
    ///
    /// # Errors
    /// When the settings cannot be sent.
    pub(crate) async fn start(
        link: Link,
        server: u32,
        scheme: Scheme,
        timer: Timer,
        now: Millis,
    ) -> Result<Rc<Self>, h2::Error> {
        let link = Rc::new(link);
        let heard = Rc::new(Cell::new(0));
        let io = Io::new(Rc::clone(&link), Rc::clone(&heard));
        let (to, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .initial_max_send_streams(MOST_STREAMS as usize)
            .handshake(io)
            .await?;
        let (ended, released) = (Rc::<Cell<bool>>::default(), Rc::<Cell<bool>>::default());
        tokio::task::spawn_local(drive(connection, Rc::clone(&ended), Rc::clone(&released), timer));
        Ok(Rc::new(Self {
            server,
            born: now,
            requests: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(now),
            losses: Cell::new(None),
            ended,
            heard,
            released,
            link,
            scheme,
            to,
        }))
    }

    /// A place on it, if there is one; `certain` asks the kernel whether the server has closed it.
    pub(crate) fn ticket(self: &Rc<Self>, config: &model::Pool, now: Millis, certain: bool) -> Option<Ticket> {
        let most = u32::try_from(self.to.current_max_send_streams()).unwrap_or(u32::MAX).min(MOST_STREAMS);
        if self.active.get() >= most || !self.may_be_used(config, now) {
            return None;
        }
        // Where others are under way, bytes that wait are theirs.
        if certain && self.is_idle() && self.requests.get() > 0 && self.link.is_stale_now() {
            return None;
        }
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get().saturating_add(1));
        Some(Ticket { conn: Rc::clone(self), heard: self.heard.get() })
    }

    /// Whether it may get another stream, or be kept for one.
    pub(crate) fn may_be_used(&self, config: &model::Pool, now: Millis) -> bool {
        let unused = self.is_idle() && self.requests.get() > 0;
        !self.ended.get()
            && self.requests.get() < config.keepalive_requests
            && u128::from(now.since(self.born)) < config.keepalive_time.as_millis()
            && !(unused && (config.keepalive == 0 || self.idle_for(now) >= config.keepalive_timeout.as_millis()))
            && self.accepts()
    }

    /// Whether no stream is open on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    fn idle_for(&self, now: Millis) -> u128 {
        now.since(self.idle_since.get()).into()
    }

    /// Whether the server takes new streams: neither has it said GOAWAY, nor is the connection gone.
    fn accepts(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.to.clone().poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// See [`crate::proxy::idle::ServerConn::losses`].
    pub(crate) fn losses(&self) -> Option<u32> {
        self.losses.get()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.released.set(true);
    }
}

impl Ticket {
    /// The stream.
    pub(crate) fn open(self) -> Stream {
        let (to, scheme) = (self.conn.to.clone(), self.conn.scheme.clone());
        Stream::new(to, scheme, self)
    }

    /// What the connection runs over.
    pub(crate) fn link(&self) -> &Link {
        &self.conn.link
    }

    /// Streams that were opened on the connection before this one.
    pub(crate) fn requests_before(&self) -> u32 {
        self.conn.requests.get().saturating_sub(1)
    }

    /// Its request ends with the server's role.
    pub(crate) fn bind(&self, losses: Option<u32>) {
        if losses.is_some() {
            self.conn.losses.set(losses);
        }
    }

    /// The server was silent for too long. If that is true of the whole connection, it may be a dead one: it gets nothing
    /// new.
    pub(crate) fn note_silence(&self) {
        if self.conn.heard.get() == self.heard {
            self.conn.ended.set(true);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.active.set(conn.active.get().saturating_sub(1));
        if conn.active.get() == 0 {
            conn.idle_since.set(clock::now());
        }
    }
}

/// Moves frames until the connection ends.
async fn drive(
    mut connection: Connection<Io<Link>, Bytes>,
    ended: Rc<Cell<bool>>,
    released: Rc<Cell<bool>>,
    timer: Timer,
) {
    let mut leaving = false;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(end);
        }
        // Whoever let go of it last has woken this task.
        if released.get() && !leaving {
            leaving = true;
            timer.set(clock::now().after(GOODBYE));
        }
        if leaving { timer.poll_expired(cx).map(Ok) } else { Poll::Pending }
    })
    .await;
    ended.set(true);
    if let Err(error) = end {
        tracing::debug!(%error, "connection of HTTP/2 to a server ended");
    }
}

/// A connection that is being made, which others wait for: so that many requests at once do not make one each.
#[derive(Debug)]
pub(crate) struct Opening {
    server: u32,
    waiting: Cell<u32>,
    over: Cell<bool>,
    done: Notify,
}

/// Whoever makes it; dropped, it is over, whatever came of it.
#[derive(Debug)]
pub(crate) struct Opener(Rc<Opening>);

impl Opening {
    /// Of a connection to `server`.
    pub(crate) fn new(server: u32) -> (Rc<Self>, Opener) {
        let opening = Self { server, waiting: Cell::new(0), over: Cell::new(false), done: Notify::new() };
        let opening = Rc::new(opening);
        (Rc::clone(&opening), Opener(opening))
    }

    /// Whether it is under way.
    pub(crate) fn goes_on(&self) -> bool {
        !self.over.get()
    }

    /// Whether one more may wait for it who wants to get to `server`.
    pub(crate) fn takes(&self, server: u32) -> bool {
        self.server == server && self.goes_on() && self.waiting.get() + 1 < MOST_STREAMS
    }

    /// Waits for its end until `timer`, which is set, expires; whether it has ended.
    pub(crate) async fn wait(&self, timer: &Timer) -> bool {
        self.waiting.set(self.waiting.get() + 1);
        let mut done = pin!(self.done.notified());
        poll_fn(|cx| match done.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => timer.poll_expired(cx).map(|()| false),
        })
        .await
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.done.notify_waiters();
    }
}
