//! The proxy process: gives up its privileges, takes sockets and configuration from the supervisor, and runs the engine.
//!
//! The main thread is the control runtime. It obeys the socketpair only, and when that ends it ends: a proxy never outlives
//! its supervisor.
//!
//! But for one that is guarded: it holds the read end of a pipe whose write ends the supervisor and the vrrp process have.
//! When the supervisor dies it goes on serving, so that the vrrp process can hand the addresses over, and ends when the
//! pipe does. It ends at once when a supervisor that lives closes the socketpair.

mod commands;
mod names;
mod reload;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::{debug, error, warn};

use crate::app::answers::Answers;
use crate::app::at;
use crate::app::proxy::commands::Commands;
use crate::app::proxy::names::Names;
use crate::app::proxy::reload::{Apply, Reload};
use crate::app::watchdog::heartbeat_interval;
use crate::config;
use crate::config::model::Config;
use crate::ipc::{
    Event, FromProxy, Limits, PoolSummary, Progress, Purpose, RecvError, Setup, Start, SupervisorChannel, ToProxy,
};
use crate::probe::{Checker, Network};
use crate::proxy::{Done, Engine, HANDSHAKES, PoolHealth, WorkerProgress};
use crate::snapshot::Addresses;
use crate::sys::process::{self, ConfineError, Orphan};
use crate::sys::schedule;
use crate::sys::user::Identity;
use crate::telemetry::LevelHandle;
use crate::tls::TicketSeed;

/// Why the proxy could not run.
#[derive(Debug)]
pub(super) enum ProxyError {
    /// Somebody else than the supervisor started it.
    NotSupervised,
    Confine(ConfineError),
    Runtime(io::Error),
    Receive(RecvError),
    /// The supervisor went away, or said something else than Start.
    NoStart,
    /// The guard is missing or is no pipe.
    Guard(io::Error),
    /// The configuration or the engine; the supervisor was told.
    Start(StartError),
    /// The supervisor takes no messages any more.
    Send(io::Error),
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupervised => f.write_str("`proxy` is started by `bascule run`, not by hand"),
            Self::Confine(e) => write!(f, "proxy: {e}"),
            Self::Runtime(e) => write!(f, "proxy: {e}"),
            Self::Receive(e) => write!(f, "proxy: {e}"),
            Self::NoStart => f.write_str("proxy: the supervisor did not start it"),
            Self::Guard(e) => write!(f, "proxy: cannot watch the guard: {e}"),
            Self::Start(e) => write!(f, "proxy: {e}"),
            Self::Send(e) => write!(f, "proxy: the supervisor cannot be told: {e}"),
        }
    }
}

/// Why the engine does not run.
#[derive(Debug)]
pub(super) enum StartError {
    Config(config::Diagnostics),
    Telemetry(String),
    /// Not as many descriptors as the message names.
    Descriptors,
    Engine(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(e) => e.fmt(f),
            Self::Telemetry(e) => write!(f, "cannot log: {e}"),
            Self::Descriptors => f.write_str("descriptors are missing"),
            Self::Engine(e) => write!(f, "cannot start workers: {e}"),
        }
    }
}

/// Between two summaries for a successor.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// The summary of thousands of servers takes its time: it is made after at least so many times that, or when it is old.
const STATE_PACE: u32 = 200;
const LONGEST_STATE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the pools that virtual routers track.
const POOLS_INTERVAL: Duration = Duration::from_millis(100);
/// From the end of the socketpair until the kernel tells whether the supervisor has died: it closes a dying process's
/// descriptors before it gives its children away.
const DEATH_GRACE: Duration = Duration::from_millis(500);

/// Runs as the child of process `supervisor`, as `identity` if given; `guarded`: it may outlive it.
pub(super) fn run(identity: Option<Identity>, supervisor: i32, guarded: bool) -> Result<(), ProxyError> {
    process::set_name(c"bascule-proxy");
    let channel = channel_on_stdin().ok_or(ProxyError::NotSupervised)?;
    let supervisor = Pid::from_raw(supervisor).ok_or(ProxyError::NotSupervised)?;
    let orphan = if guarded { Orphan::Lives } else { Orphan::Dies };
    // The workers are ordinary; this thread does little, and the supervisor waits for what it says.
    let _ = schedule::prompt();
    process::confine(identity, supervisor, orphan).map_err(ProxyError::Confine)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProxyError::Runtime)?;
    let (mut channel, start, mut descriptors) = runtime.block_on(begin(channel))?;
    let guard = if start.guarded { Some(runtime.block_on(take_guard(&mut descriptors))?) } else { None };
    let started = prepare(start).and_then(|prepared| {
        let names = runtime.block_on(Names::resolve(&prepared.config, &prepared.state.addresses));
        // Outside the runtime: the engine starts threads and waits for them, and ends them when it is dropped.
        start_engine(prepared, descriptors, names)
    });
    let (mut engine, names, level) = match started {
        Ok(started) => started,
        Err(error) => {
            let event = FromProxy::Event(Event::StartFailed { reason: error.to_string() });
            runtime.block_on(channel.send(&event, &[])).map_err(ProxyError::Send)?;
            return Err(ProxyError::Start(error));
        }
    };
    let (aborted, aborts) = mpsc::unbounded_channel();
    let turned = Arc::new(Notify::new());
    // Boxes that start together do not probe together.
    let seed = crate::net::clock::now_micros();
    // Tasks of the runtime; they start with it.
    let (orders, commands) = Commands::new();
    let checker = {
        let _inside = runtime.enter();
        Checker::new(Network::new(orders), seed, Arc::clone(&turned))
    };
    let control = Control {
        channel: &mut channel,
        supervisor,
        supervised: true,
        death_at: None,
        guard,
        engine: &mut engine,
        names,
        level,
        reload: Reload::default(),
        checker,
        commands,
        turned,
        drain_at: None,
        draining: false,
        retires_at_end: false,
        quieting: None,
        again: false,
        aborted,
        aborts,
        pools: None,
        answers: Answers::new(),
    };
    runtime.block_on(control.run())
}

/// Standard input, when it is one end of a socketpair.
pub(super) fn channel_on_stdin() -> Option<OwnedFd> {
    let stdin = io::stdin();
    let kind = rustix::net::sockopt::socket_type(&stdin).ok()?;
    (kind == SocketType::SEQPACKET).then(|| stdin.as_fd().try_clone_to_owned().ok()).flatten()
}

/// Signals to the whole process group or control group are the supervisor's to answer.
pub(super) fn ignore_signals() -> io::Result<()> {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    // The handler stays when the stream is dropped.
    kinds.into_iter().try_for_each(|kind| signal(kind).map(drop))
}

/// Takes the first message.
async fn begin(channel: OwnedFd) -> Result<(SupervisorChannel, Start, Vec<OwnedFd>), ProxyError> {
    ignore_signals().map_err(ProxyError::Runtime)?;
    let mut channel = SupervisorChannel::new(channel, Limits::OF_SUPERVISOR).map_err(ProxyError::Runtime)?;
    match channel.recv().await.map_err(ProxyError::Receive)? {
        Some((ToProxy::Start(start), descriptors)) => Ok((channel, start, descriptors)),
        Some((
            ToProxy::Prepare { .. }
            | ToProxy::Commit { .. }
            | ToProxy::Forget
            | ToProxy::Override { .. }
            | ToProxy::Drain { .. }
            | ToProxy::Retire
            | ToProxy::RetireAtEnd { .. }
            | ToProxy::Count { .. }
            | ToProxy::Quiet { .. }
            | ToProxy::Abort { .. }
            | ToProxy::ReopenLogs { .. }
            | ToProxy::Checked { .. }
            | ToProxy::Ask { .. }
            | ToProxy::Stop,
            _,
        ))
        | None => Err(ProxyError::NoStart),
    }
}

/// Takes the guard off the descriptors of [`Start`].
async fn take_guard(descriptors: &mut Vec<OwnedFd>) -> Result<pipe::Receiver, ProxyError> {
    if descriptors.is_empty() {
        return Err(ProxyError::Guard(io::ErrorKind::NotFound.into()));
    }
    pipe::Receiver::from_owned_fd(descriptors.remove(0)).map_err(ProxyError::Guard)
}

/// Resolves when no write end of the guard is left; never without one. Cancel-safe: what is written means nothing.
async fn released(guard: Option<&pipe::Receiver>) {
    let Some(guard) = guard else { return std::future::pending().await };
    loop {
        let readable = guard.readable().await;
        match readable.and_then(|()| guard.try_read(&mut [0; 64])) {
            Ok(1..) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Fires every `period`, counted anew from one that came late.
fn timer(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Resolves when that is done; never when nothing is to be.
async fn done(of: &mut Option<Done>) {
    match of {
        Some(done) => done.wait().await,
        None => std::future::pending().await,
    }
}

/// What the supervisor said, understood.
struct Prepared {
    config: Config,
    setup: Setup,
    state: State,
    level: LevelHandle,
    purpose: Purpose,
}

/// What a proxy knows that its successor can use.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    servers: Box<RawValue>,
    addresses: Addresses,
    /// Of the keys of session tickets.
    #[serde(default)]
    tickets: Option<TicketSeed>,
}

fn prepare(start: Start) -> Result<Prepared, StartError> {
    let Start { node, setup, state, guarded: _, purpose } = start;
    let config = config::parse_with(&setup.config, &node, &setup.attachments).map_err(StartError::Config)?;
    let log = &config.global.log;
    let level = crate::telemetry::init(&log.level, log.json).map_err(|e| StartError::Telemetry(e.to_string()))?;
    crate::telemetry::log_panics();
    // A state that cannot be read costs the successor what it would have known, nothing else.
    let state = state.and_then(|s| serde_json::from_str(s.get()).ok()).unwrap_or_default();
    Ok(Prepared { config, setup, state, level, purpose })
}

/// The engine, and what keeps it current.
fn start_engine(
    prepared: Prepared,
    descriptors: Vec<OwnedFd>,
    names: Names,
) -> Result<(Engine, Names, LevelHandle), StartError> {
    let Prepared { config, setup, state, level, purpose } = prepared;
    let (mut listeners, log_files) = reload::take(&setup, descriptors).ok_or(StartError::Descriptors)?;
    match purpose {
        Purpose::Serve => {}
        // Sockets that nobody takes from stay those of whoever has them too.
        Purpose::Rehearse => listeners.clear(),
    }
    let addresses = names.addresses();
    process::reserve_descriptors(config.global.descriptors());
    let engine = Engine::start(
        config,
        setup.overrides,
        listeners,
        log_files,
        &addresses,
        &state.servers,
        state.tickets.as_ref(),
    );
    Ok((engine.map_err(StartError::Engine)?, names, level))
}

/// What the control runtime does while the workers work.
struct Control<'a> {
    channel: &'a mut SupervisorChannel,
    supervisor: Pid,
    /// The channel has not ended.
    supervised: bool,
    /// When it must be clear whether the supervisor has died.
    death_at: Option<Instant>,
    guard: Option<pipe::Receiver>,
    engine: &'a mut Engine,
    names: Names,
    level: LevelHandle,
    reload: Reload,
    checker: Checker,
    /// What the checker has run.
    commands: Commands,
    /// A server has got another verdict.
    turned: Arc<Notify>,
    /// When the accept queues are left.
    drain_at: Option<Instant>,
    draining: bool,
    /// The end of the channel means that another proxy has taken over.
    retires_at_end: bool,
    /// Old connections are waited for.
    quieting: Option<Done>,
    /// After that once more.
    again: bool,
    /// Tokens of orders that were carried out, and where they come from.
    aborted: mpsc::UnboundedSender<u64>,
    aborts: mpsc::UnboundedReceiver<u64>,
    /// What was last said of the pools.
    pools: Option<Vec<PoolHealth>>,
    /// For the operator.
    answers: Answers,
}

impl Control<'_> {
    async fn run(mut self) -> Result<(), ProxyError> {
        self.say(&FromProxy::Ready).await?;
        let mut heartbeat = self.settle_in();
        // The first one at once: a successor needs the keys of tickets.
        let mut state_due = Instant::now();
        let [mut state, mut pools] = [STATE_INTERVAL, POOLS_INTERVAL].map(timer);
        loop {
            let tracking = self.pools.is_some();
            // Cancel-safe: timers, channels that keep what came in part, and waits for a condition.
            tokio::select! {
                message = self.channel.recv(), if self.supervised => match message.map_err(ProxyError::Receive)? {
                    Some((ToProxy::Stop, _)) => return Ok(()),
                    Some((ToProxy::Commit { token }, _)) => {
                        let done = self.commit(token);
                        heartbeat = self.settle_in();
                        self.say(&done).await?;
                    }
                    Some((ToProxy::Override { token, overrides }, _)) => {
                        self.engine.set_overrides(overrides, &self.names.addresses());
                        self.checker.set_pools(&self.engine.snapshot().pools);
                        self.say(&FromProxy::Overridden { token }).await?;
                    }
                    Some((message, descriptors)) => self.obey(message, descriptors),
                    None => self.on_channel_end(),
                },
                () = at(self.death_at) => self.on_death_due(),
                () = released(self.guard.as_ref()) => std::process::exit(1),
                _ = heartbeat.tick() => self.heartbeat(),
                now = state.tick() => {
                    if now >= state_due {
                        let began = Instant::now();
                        self.report_state();
                        state_due = now + (began.elapsed() * STATE_PACE).min(LONGEST_STATE_INTERVAL);
                    }
                    self.answers.look(self.engine);
                    self.commands.give_up(Instant::now());
                }
                _ = pools.tick(), if tracking => self.report_pools(),
                () = self.turned.notified() => {
                    self.engine.look_at_roles();
                    if tracking {
                        self.report_pools();
                    }
                    self.report_state();
                }
                () = self.names.changed() => {
                    self.engine.set_addresses(&self.names.addresses());
                    self.checker.set_pools(&self.engine.snapshot().pools);
                }
                answer = self.reload.next() => self.say(&answer).await?,
                () = at(self.drain_at) => self.begin_drain(),
                () = self.engine.drained(), if self.draining => {
                    self.draining = false;
                    if !self.supervised && self.retires_at_end {
                        return Ok(());
                    }
                    self.report_state();
                    self.say(&FromProxy::Drained).await?;
                }
                () = done(&mut self.quieting) => {
                    self.quieting = std::mem::take(&mut self.again).then(|| self.engine.quiet());
                    if self.quieting.is_none() {
                        self.say(&FromProxy::Quieted).await?;
                    }
                }
                // A proxy that was replaced leaves them to its successor.
                due = self.commands.next(), if self.supervised && !self.draining => self.say(&due).await?,
                Some(token) = self.aborts.recv() => self.say(&FromProxy::Aborted { token }).await?,
            }
        }
    }

    /// Lets everything around the engine follow what it runs on; the timer of heartbeats.
    fn settle_in(&mut self) -> Interval {
        let snapshot = self.engine.snapshot();
        self.checker.set_pools(&snapshot.pools);
        self.pools = (!self.engine.pools().is_empty()).then(Vec::new);
        timer(heartbeat_interval(snapshot.config.global.proxy_watchdog))
    }

    /// Runs on what was prepared.
    fn commit(&mut self, token: u64) -> FromProxy {
        let Some(Apply { next, listeners, log_files, found }) = self.reload.take_prepared(token) else {
            let trouble = Some("nothing was prepared".to_owned());
            return FromProxy::Committed { token, trouble };
        };
        let config = Arc::clone(&next.config);
        process::reserve_descriptors(config.global.descriptors());
        self.names.follow(&config, found);
        let applied = self.engine.apply(next, listeners, log_files, &self.names.addresses());
        let level = self.level.set(&config.global.log.level);
        let trouble = applied.err().map(|e| format!("not all workers could be started: {e}"));
        let trouble = trouble.or_else(|| level.err().map(|e| e.to_string()));
        if let Some(trouble) = &trouble {
            error!(trouble, "the new configuration is in force but for this");
        }
        FromProxy::Committed { token, trouble }
    }

    fn obey(&mut self, message: ToProxy, descriptors: Vec<OwnedFd>) {
        match message {
            ToProxy::Prepare { token, setup } => {
                let node = self.engine.snapshot().config.node.to_string();
                self.reload.prepare(token, node, setup, descriptors, self.engine.builder(), &self.names);
            }
            ToProxy::Forget => self.reload.forget(),
            ToProxy::Drain { timeout_ms } => {
                debug!(timeout_ms, "draining");
                self.drain_at = Some(Instant::now() + HANDSHAKES);
            }
            ToProxy::Retire => self.retire(),
            ToProxy::RetireAtEnd { on } => self.retires_at_end = on,
            ToProxy::Count { since, until } => {
                let servers =
                    |state: Box<RawValue>| serde_json::from_str(state.get()).map(|State { servers, .. }| servers);
                if let (Ok(since), Ok(until)) = (servers(since), servers(until)) {
                    self.engine.count(&since, &until);
                }
            }
            ToProxy::Quiet { on: true, twice } => (self.quieting, self.again) = (Some(self.engine.quiet()), twice),
            ToProxy::Quiet { on: false, .. } => {
                (self.quieting, self.again) = (None, false);
                self.engine.resume();
            }
            ToProxy::Abort { addresses, token } => {
                debug!(?addresses, "connections are reset");
                let (mut done, aborted) = (self.engine.abort(&addresses), self.aborted.clone());
                tokio::spawn(async move {
                    done.wait().await;
                    // Nobody to tell any more: the process is about to end.
                    let _ = aborted.send(token);
                });
            }
            ToProxy::ReopenLogs { files } => self.engine.reopen_logs(files.into_iter().zip(descriptors).collect()),
            ToProxy::Checked { token, outcome } => self.commands.answered(token, outcome),
            ToProxy::Ask { token, question } => {
                if let Some(answer) = self.answers.answer(self.engine, &question) {
                    self.offer(&FromProxy::Answer { token, answer });
                }
            }
            ToProxy::Start(_) | ToProxy::Commit { .. } | ToProxy::Override { .. } | ToProxy::Stop => {
                warn!("unexpected message from the supervisor");
            }
        }
    }

    /// The supervisor has died, or wants us to end.
    fn on_channel_end(&mut self) {
        if self.retires_at_end {
            self.supervised = false;
            self.retire();
            return;
        }
        if self.guard.is_none() {
            // Without a supervisor nobody watches, and a successor may bind: no goodbyes, workers are cut where they are.
            std::process::exit(1);
        }
        self.supervised = false;
        self.death_at = Some(Instant::now() + DEATH_GRACE);
    }

    fn on_death_due(&mut self) {
        self.death_at = None;
        if process::is_child_of(self.supervisor) {
            std::process::exit(1);
        }
        warn!("the supervisor died: serving until the addresses are handed over");
    }

    /// Leaves the sockets to another proxy.
    fn retire(&mut self) {
        self.draining = true;
        self.engine.retire();
    }

    fn begin_drain(&mut self) {
        self.drain_at = None;
        self.draining = true;
        self.engine.drain();
    }

    fn heartbeat(&self) {
        let progress = |w: WorkerProgress| Progress { tid: w.tid, ticks: w.ticks };
        let workers = self.engine.progress().into_iter().map(progress).collect();
        let connections = u64::try_from(self.engine.connections()).unwrap_or(u64::MAX);
        self.offer(&FromProxy::Heartbeat { workers, connections });
    }

    fn report_state(&self) {
        let addresses = Addresses::clone(&self.names.addresses());
        match to_raw_value(&State { servers: self.engine.state(), addresses, tickets: Some(self.engine.ticket_seed()) })
        {
            Ok(state) => {
                self.offer(&FromProxy::State(state));
            }
            Err(e) => warn!(error = %e, "state not handed on"),
        }
    }

    /// Says how the tracked pools are, if that is news.
    fn report_pools(&mut self) {
        let pools = self.engine.pools();
        if self.pools.as_ref() == Some(&pools) {
            return;
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let summary = |p: &PoolHealth| PoolSummary {
            name: p.name.clone(),
            up: number(p.up),
            total: number(p.total),
            judged: p.judged,
        };
        if self.offer(&FromProxy::Pools(pools.iter().map(summary).collect())) {
            self.pools = Some(pools);
        }
    }

    /// Sends what must not be lost, unless nobody is left to hear it.
    async fn say(&mut self, message: &FromProxy) -> Result<(), ProxyError> {
        if !self.supervised {
            return Ok(());
        }
        match self.channel.send(message, &[]).await {
            // The end of the channel is seen next.
            Err(_) if self.guard.is_some() => Ok(()),
            sent => sent.map_err(ProxyError::Send),
        }
    }

    /// Sends what may be lost: a supervisor that stands still reads the ones before it later, and its death is seen by
    /// the end of the channel. Whether it was sent.
    fn offer(&self, message: &FromProxy) -> bool {
        if !self.supervised {
            return false;
        }
        let sent = self.channel.try_send(message);
        if let Err(e) = &sent {
            debug!(error = %e, "the supervisor does not read");
        }
        sent.is_ok()
    }
}
