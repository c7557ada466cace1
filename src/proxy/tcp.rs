//! TCP sessions: one client connection, one server, bytes both ways.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::model::{Algorithm, Passthrough, RetryOn};
use crate::net::TlsStream;
use crate::net::buffer::SMALL;
use crate::net::wheel::Timer;
use crate::net::{Transport, clock};
use crate::pool::{Lease, Outcome, Overflow, Pass, PickInput, Pool, Tried, Use, Wanted};
use crate::proxy::handshake;
use crate::proxy::link::{Link, LinkError, Reach};
use crate::proxy::listen::ListenerCtx;
use crate::proxy::preface::{self, Preface};
use crate::proxy::pump::Pump;
use crate::proxy::session::Session;
use crate::proxy::tunnel::tunnel;
use crate::proxy::worker::{PoolLocal, Worker, admit};
use crate::snapshot::ListenerView;
use crate::telemetry::access_log::Log;
use crate::telemetry::reason::Reason;

/// A client connection.
pub(crate) struct Conn<C: Transport> {
    client: C,
    worker: Rc<Worker>,
    listener: Rc<ListenerCtx>,
    peer: SocketAddr,
    /// What came before the session, on listeners where something does.
    preface: Option<Rc<Preface>>,
    serial: u64,
}

impl<C: Transport> Conn<C> {
    /// A connection just accepted.
    pub(crate) fn new(client: C, worker: Rc<Worker>, listener: Rc<ListenerCtx>, peer: SocketAddr, serial: u64) -> Self {
        worker.clients.opened();
        Self { client, worker, listener, peer, preface: None, serial }
    }

    /// Reads what stands before the session; false: there will be none.
    pub(crate) async fn begin(&mut self) -> bool {
        let passthrough = self.listener.tcp.as_ref().and_then(|tcp| tcp.passthrough.as_ref());
        if self.listener.expected.is_none() && passthrough.is_none() {
            return true;
        }
        let Some(preface) = Box::pin(self.preface(passthrough)).await else { return false };
        self.peer = preface.source();
        self.preface = Some(Rc::new(preface));
        true
    }

    /// A PROXY header, and what TLS begins with that is passed through.
    async fn preface(&self, passthrough: Option<&Passthrough>) -> Option<Preface> {
        let Self { client, worker, listener, .. } = self;
        let accepted = worker.now();
        let preface = preface::read(client, self.peer, worker, listener).await?;
        match passthrough {
            None => Some(preface),
            Some(passthrough) => {
                let deadline = accepted.after(passthrough.timeout);
                handshake::read_hello(client, preface, deadline, worker, listener).await
            }
        }
    }

    /// Serves it to its end.
    pub(crate) async fn serve(&self) {
        let Self { client, worker, listener, .. } = self;
        let timer = worker.wheel.timer();
        let Some(settings) = &listener.tcp else { return };
        let (view, index) = listener.view(worker);
        let place = &view.snapshot.listeners[index];
        let Some(index) = self.pool(place) else { return self.turn_away(place.log.as_ref()) };
        let wanted = settings.roles.map(Wanted::from);
        let admitted = admit(&view.snapshot, index, wanted, worker.now());
        let index = admitted.as_ref().map_or(index, |(index, _)| *index);
        let (pool, local) = (&view.snapshot.pools[index], &view.pools[index]);
        let log = place.log.clone();
        let name = Arc::clone(&pool.config.name);
        let preface = self.preface.as_ref().map(Rc::clone);
        let mut session = Session::new(listener, self.peer, preface, self.serial, name, log.is_some());
        let mut seats = Vec::new();
        let passed = match &place.gate {
            Some(gate) => gate.admit(session.client(), &session, &mut Vec::new(), &mut seats).map_err(|r| r.reason),
            None => Ok(Duration::ZERO),
        };
        let reached = match (passed, admitted) {
            (Ok(_), Ok((_, pass))) => {
                let header = pool
                    .config
                    .send_proxy_protocol
                    .map(|version| preface::header_for(version, self.peer, client, listener, self.preface.as_deref()));
                reach(worker, &timer, pool, local, wanted, pass, header.as_deref(), &mut session).await
            }
            (Ok(_), Err(_)) => Err(Reason::CircuitOpen),
            (Err(reason), _) => Err(reason),
        };
        let read_ahead = 2 * SMALL;
        // A session may last for days: it keeps its server, not the configuration it was found in.
        drop(view);
        match reached {
            Ok((server, lease, losses)) => {
                let losses = losses.filter(|_| settings.roles.is_some_and(|roles| roles.ends_with_role));
                let pump = |first| Pump::of_tunnel(first, worker.means(read_ahead));
                let first = self.preface.as_ref().and_then(|preface| preface.take_rest());
                let (Ok(up), Ok(down)) = (pump(first), pump(None)) else { return };
                let now = || worker.now();
                let lost = || losses.is_some_and(|losses| lease.server().role_losses() != losses);
                let cut = || {
                    let ended = lease.server().has_ended(now()) || listener.has_ended(now());
                    if ended { Some(Reason::DrainTimeout) } else { lost().then_some(Reason::RoleLost) }
                };
                let end = tunnel(client, &server, up, down, &timer, settings.idle_timeout, now, cut).await;
                worker.count_success(&lease);
                session.finish(end.to_server, end.to_client, end.reason);
                if let Some(reason) = end.reason {
                    worker.shared.errors.record(|| session.failed(reason, Some(lease.server())));
                }
            }
            Err(reason) => {
                // The client sees at once that nobody is there, as if the port were closed.
                client.set_abort();
                session.finish(0, 0, Some(reason));
                if !reason.is_refusal() {
                    worker.shared.errors.record(|| session.failed(reason, None));
                }
            }
        }
        if let Some(log) = log {
            worker.log.borrow_mut().line(&log, &session, SystemTime::now());
        }
    }
}

impl<C: Transport> Conn<C> {
    /// Where it goes, by what the client says of TLS that is passed through, if it is.
    fn pool(&self, place: &ListenerView) -> Option<usize> {
        let hello = self.preface.as_ref().and_then(|preface| preface.hello.as_ref());
        let found = hello.zip(place.passthrough.as_ref());
        let found = found.and_then(|(hello, routes)| routes.find(hello.server_name.as_deref(), &hello.alpn));
        found.map_or(place.pool, |(_, pool)| pool)
    }

    /// Ends a connection that leads nowhere.
    fn turn_away(&self, log: Option<&Arc<Log>>) {
        let Self { client, worker, listener, preface, .. } = self;
        handshake::say_unrecognised_name(client, listener);
        let mut session =
            Session::new(listener, self.peer, preface.clone(), self.serial, Arc::default(), log.is_some());
        session.finish(0, 0, Some(Reason::NoRoute));
        worker.shared.errors.record(|| session.failed(Reason::NoRoute, None));
        if let Some(log) = log {
            worker.log.borrow_mut().line(log, &session, SystemTime::now());
        }
    }
}

impl Conn<TlsStream> {
    /// As [`Conn::begin`], and makes the handshake.
    pub(crate) async fn begin_tls(&mut self) -> bool {
        let begun = handshake::begin(&self.client, self.peer, &self.worker, &self.listener).await;
        let Some(preface) = begun else { return false };
        self.peer = preface.source();
        self.preface = Some(Rc::new(preface));
        true
    }
}

impl<C: Transport> Drop for Conn<C> {
    fn drop(&mut self) {
        self.worker.clients.closing(self.serial, self.listener.tracked, &self.client);
    }
}

/// A connection to a server of the pool, on as many servers as the pool's `retries` allow; `header` is sent on it.
#[expect(clippy::too_many_arguments, reason = "where it may go, and what is known of it")]
async fn reach(
    worker: &Worker,
    timer: &Timer,
    pool: &Pool,
    local: &PoolLocal,
    wanted: Option<Wanted>,
    mut pass: Option<Pass>,
    header: Option<&[u8]>,
    session: &mut Session,
) -> Result<(Link, Lease, Option<u32>), Reason> {
    let config = &pool.config;
    let mut key = Vec::new();
    if let Algorithm::Hash { key: template, .. } = &config.algorithm {
        template.expand(session, &mut key);
    }
    let input = PickInput { client: session.client(), key: &key };
    let started = worker.now();
    let mut tried = Tried::wanting(wanted);
    if pool.is_sticky() {
        tried.stick_to(pool.stick_to_source(session.client(), worker.now()));
    }
    let mut last = None;
    let mut permit = None;
    for attempt in 0..=config.retry.retries {
        if attempt > 0 {
            let in_time = config.retry.timeout.is_none_or(|t| started.after(t) > worker.now());
            drop(permit.take());
            permit = pool.try_retry();
            if !in_time || permit.is_none() {
                break;
            }
            let Ok(next) = pool.admit(worker.now()) else { break };
            pass = next;
        }
        let lease = match worker.pick(pool, local, &input, &mut tried, session.queued()).await {
            Ok(lease) => lease,
            Err(reason) => return Err(last.unwrap_or(reason)),
        };
        let Ok(lease) = pool.occupy(lease, pass.take(), Use::Session) else {
            return Err(last.unwrap_or(Reason::Overflow));
        };
        // Read when it was the primary; what is lost while the connection is made is lost too.
        let losses = wanted.map(|_| lease.server().role_losses());
        if wanted.is_some_and(|wanted| wanted.is_lost_by(lease.server())) {
            return Err(Reason::RoleLost);
        }
        let pending = pool.wait_for_connection().map_err(|Overflow| last.unwrap_or(Reason::Overflow))?;
        session.tried(lease.server());
        // The session has just begun, unless it waited or has been elsewhere.
        let first = attempt == 0 && session.queued().is_none();
        let began = if first { session.start() } else { clock::now_micros() };
        let deadline = clock::now().after(config.connect_timeout);
        let reach = Reach { turn: &local.source, header, buffers: worker.buffers(), timer, deadline };
        let connected = reach.link(pool, lease.server()).await;
        drop(pending);
        match connected {
            Ok(link) => {
                lease.server().latency.record(clock::now_micros().saturating_sub(began));
                session.connected(link.sock());
                worker.count_outcome(pool, &lease, Outcome::Good);
                if pool.is_sticky() {
                    // Who has no cookies is told nothing.
                    let _ = pool.keep(&tried, lease.server(), worker.now());
                }
                return Ok((link, lease, losses));
            }
            Err(e) => {
                let reason = e.reason();
                session.not_reached(lease.server(), &e);
                if !e.is_local() {
                    worker.count_outcome(pool, &lease, Outcome::GatewayError);
                }
                if counts(&e, &config.retry.on) {
                    match e.detail() {
                        Some(detail) => {
                            worker.count_failure(pool, local, &lease, format_args!("{reason}: {detail}"));
                        }
                        None => worker.count_failure(pool, local, &lease, reason),
                    }
                }
                if !config.retry.on.connect {
                    return Err(reason);
                }
                last = Some(reason);
            }
        }
    }
    Err(last.unwrap_or(Reason::NoServer))
}

/// Whether a failed connect counts against the server: not when this box has run out of something.
fn counts(e: &LinkError, on: &RetryOn) -> bool {
    on.connect && !e.is_local()
}
