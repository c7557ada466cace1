//! The supervisor: holds what must survive the proxy (the lock, every listening socket, the last state), keeps one proxy
//! running, and answers to signals.
//!
//! ```text
//!            spawn, Start            Ready, Heartbeat, State
//! supervisor ─────────────▶  proxy  ─────────────────────────▶ supervisor ─┐
//!     ▲                                                                    │ EOF, garbage, no heartbeat,
//!     └────────────── kill, back-off ◀─────────────────────────────────────┘ a stuck worker
//! ```
//!
//! It runs on the main thread alone, which therefore is the one that forks.

mod certificates;
mod checks;
mod error;
mod orders;
mod overrides;
mod reload;
mod resume;
mod retired;
mod signals;
pub(super) mod sockets;
mod strays;
mod upgrade;

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use crate::app::admin::{Admin, Answer};
use crate::app::asks::Asks;
use crate::app::at;
use crate::app::backoff::Backoff;
use crate::app::child::{Child, Lost, Program};
use crate::app::commands::{Commands, Subject};
use crate::app::duty::{Due, Duty};
use crate::app::history::History;
use crate::app::lock::Lock;
use crate::app::logs;
use crate::app::manager;
use crate::app::supervisor::retired::Retired;
use crate::app::supervisor::strays::Strays;
use crate::app::supervisor::upgrade::{Foreign, Upgrade};
use crate::app::upgrade::Origin;
use crate::app::watchdog::heartbeat_interval;
use crate::config::Loaded;
use crate::config::model::Config;
use crate::ipc::{Event, FromProxy, Purpose, Start, ToProxy};
use crate::net::clock;
use crate::net::listen;
use crate::sys::process;
use crate::sys::user::{self, Identity};
use crate::telemetry::LevelHandle;
use crate::time::{Millis, to_millis};

use self::certificates::Certificates;
use self::overrides::Standing;
use self::reload::{Reload, Wanted, What};
use self::signals::{Request, Signals};
use self::sockets::Sockets;

pub(super) use self::error::RunError;
pub(super) use self::reload::Source;
pub(super) use self::resume::resume;

/// What an event leads to: go on, or leave with a result.
type Flow = ControlFlow<Result<(), RunError>>;

struct Supervisor {
    loaded: Arc<Loaded>,
    /// Where `loaded` came from, and others come from.
    source: Source,
    /// Number of `loaded` on this box.
    generation: u64,
    level: LevelHandle,
    /// None where `state_dir` cannot be used.
    history: Option<History>,
    standing: Standing,
    /// Who waits until what was said of servers is in force, and is told so.
    overriding: Vec<(oneshot::Sender<Answer>, String)>,
    reload: Reload,
    sockets: Sockets,
    program: Program,
    identity: Option<Identity>,
    proxy: Option<Child>,
    backoff: Backoff,
    /// When the next proxy is to be started, while there is none.
    start_at: Option<Instant>,
    /// Since when nobody accepts.
    unserved_since: Option<Millis>,
    /// What the last proxy wants its successor to know.
    state: Option<Box<RawValue>>,
    /// A proxy has been ready. Before that a failure is the operator's (or systemd's) to see; after it, one is tried
    /// again for ever.
    has_served: bool,
    /// When connections under way are cut, after the first signal to stop.
    stop_at: Option<Instant>,
    /// Addresses are being handed over before the rest stops.
    leaving: bool,
    duty: Option<Duty>,
    admin: Admin,
    /// Who waits for the proxy's answers.
    asks: Asks,
    /// Who waits for the end of a handover.
    handover: Option<oneshot::Sender<Answer>>,
    /// When the instance began, whatever program it was then.
    started: Millis,
    lock: Lock,
    upgrade: Upgrade,
    /// The proxy that is to take over from `proxy`, or from `foreign`.
    next: Option<Child>,
    foreign: Option<Foreign>,
    /// The state that `next` was given.
    given: Option<Box<RawValue>>,
    retired: Retired,
    /// While it stops: the proxy is done.
    drained: bool,
    strays: Strays,
    commands: Commands,
    certificates: Certificates,
}

/// The vrrp process is watched as closely, however patient the operator is with the proxy.
const WATCH_AT_LEAST: Duration = Duration::from_millis(250);
/// Clients wait this long in the accept queues for the next proxy; then they are reset rather than left hanging.
const UNSERVED_LIMIT: Duration = Duration::from_secs(5);
/// For the proxy to write the rest of its logs once it is told to leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// Bound of one round of resets, so that signals are still answered under a flood.
const RESETS_PER_ROUND: usize = 4096;

/// Runs `loaded`, which came from `source`, until a signal ends it; without an `origin` it cannot be upgraded.
pub(super) fn run(loaded: Loaded, source: Source, origin: Option<Origin>) -> Result<(), RunError> {
    let global = &loaded.config.global;
    let level = crate::telemetry::init(&global.log.level, global.log.json);
    let level = level.map_err(|e| RunError::Telemetry(e.to_string()))?;
    let lock = Lock::take(&global.run_dir).map_err(RunError::Lock)?;
    raise_limits(&loaded.config, None);
    let sockets = Sockets::bind(&loaded.config).map_err(RunError::Bind)?;
    // A log that cannot be opened is better known before the first request than after.
    logs::paths(&loaded.config).iter().try_for_each(|p| logs::open(p).map(drop)).map_err(RunError::Log)?;
    let history = History::open(&global.state_dir).inspect_err(|e| {
        warn!(dir = %global.state_dir.display(), error = %e, "state_dir: no generations are kept, and nothing outlives this instance");
    });
    let standing = Standing::open(&global.state_dir, &loaded.config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    runtime.block_on(async {
        let program = Program::open().map_err(RunError::System)?;
        let duty = Duty::new(&loaded, sockets.bound(), &program).map_err(RunError::System)?;
        let mut supervisor = Supervisor {
            identity: identity(&loaded.config.global.user),
            admin: Admin::open(&loaded.config.admin).map_err(RunError::Admin)?,
            source,
            generation: 0,
            asks: Asks::new(),
            level,
            history: history.ok(),
            overriding: Vec::new(),
            loaded: Arc::new(loaded),
            standing,
            reload: Reload::default(),
            sockets,
            program,
            proxy: None,
            backoff: Backoff::default(),
            start_at: None,
            unserved_since: None,
            state: None,
            has_served: false,
            stop_at: None,
            leaving: false,
            duty,
            handover: None,
            started: clock::now(),
            lock,
            upgrade: Upgrade::new(origin),
            next: None,
            foreign: None,
            given: None,
            retired: Retired::default(),
            drained: false,
            strays: Strays::default(),
            commands: Commands::new(),
            certificates: Certificates::new(),
        };
        supervisor.number();
        supervisor.serve(Signals::new().map_err(RunError::System)?).await
    })
}

/// For this process and those that it starts, and for the `proxy` that runs already.
fn raise_limits(config: &Config, proxy: Option<u32>) {
    let wanted = config.global.descriptors();
    let limit = process::raise_descriptor_limit(proxy, wanted);
    if limit < wanted {
        warn!(limit, wanted, "the limit of open files is too low for max_connections (systemd: LimitNOFILE)");
    }
}

/// Whom a child called for `name` becomes; `None` when it stays who we are.
pub(super) fn identity(name: &str) -> Option<Identity> {
    if !process::can_change_user() {
        if rustix::process::geteuid().is_root() {
            warn!(user = name, "without CAP_SETUID and CAP_SETGID children stay root; the proxy without capabilities");
        }
        return None;
    }
    Some(user::lookup(name).unwrap_or_else(|| {
        warn!(user = name, "no such user: nobody instead");
        user::nobody()
    }))
}

impl Supervisor {
    async fn serve(mut self, signals: Signals) -> Result<(), RunError> {
        self.unserved_since = Some(clock::now());
        self.start().await.map_err(RunError::Proxy)?;
        self.go_on(signals).await
    }

    async fn go_on(mut self, mut signals: Signals) -> Result<(), RunError> {
        let mut watch = interval(heartbeat_interval(self.watchdog()).min(WATCH_AT_LEAST));
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // In this order, so that a heartbeat that waits is read before it is missed. All arms are cancel-safe.
            let flow = tokio::select! {
                biased;
                request = signals.next() => self.on_signal(request).await,
                message = next_message(&mut self.proxy) => self.on_message(message).await,
                message = next_message(&mut self.next) => self.on_next(message).await,
                (pid, message) = self.retired.next() => self.on_retired(pid, message).await,
                () = at(self.upgrade.look_at()) => self.on_look(&mut signals).await,
                verdict = self.upgrade.verdict() => {
                    self.on_verdict(verdict);
                    ControlFlow::Continue(())
                }
                () = at(self.stop_at) => self.on_stop_limit(),
                () = at(self.start_at) => self.on_start_due().await,
                due = next_duty(&mut self.duty) => self.on_due(due).await,
                () = at(self.asks.next_limit()) => {
                    self.asks.on_limit();
                    ControlFlow::Continue(())
                }
                done = self.commands.next() => self.on_checked(done).await,
                asked = self.admin.next() => self.on_asked(asked).await,
                due = self.reload.next() => self.on_reload_due(due).await,
                due = self.certificates.next() => self.on_certificates(due).await,
                _ = watch.tick() => self.on_watch().await,
            };
            self.finish_upgrade();
            if let ControlFlow::Break(result) = flow {
                // First whoever would take our end for a death.
                if let Some(duty) = &mut self.duty {
                    duty.end().await;
                }
                if let Some(proxy) = self.proxy.take() {
                    proxy.stop(LEAVE_LIMIT).await;
                }
                self.retired.end().await;
                return result;
            }
        }
    }

    /// The number of what runs: that of the last generation if it is the same still, else the next.
    fn number(&mut self) {
        let Some(history) = &self.history else { return };
        let latest = history.latest();
        let same = history.read(latest).is_ok_and(|(generation, text)| {
            text == self.loaded.effective && generation.node == *self.loaded.config.node
        });
        self.generation = latest;
        if !same {
            self.generation += 1;
            self.keep_generation("start".to_owned(), "bascule run".to_owned());
        }
    }

    fn watchdog(&self) -> Duration {
        self.loaded.config.global.proxy_watchdog
    }

    /// Starts a proxy and hands it everything.
    async fn start(&mut self) -> Result<(), Lost> {
        self.start_at = None;
        let child = self.spawn()?;
        let sent = self.introduce(&child).await;
        self.proxy = Some(child);
        sent
    }

    fn spawn(&self) -> Result<Child, Lost> {
        let child = Child::spawn(&self.program, self.identity, self.watchdog(), self.duty.as_ref().map(Duty::guard))
            .map_err(Lost::Unborn)?;
        debug!(pid = child.pid(), "proxy started");
        Ok(child)
    }

    /// Hands a new proxy everything.
    async fn introduce(&self, child: &Child) -> Result<(), Lost> {
        let (log_files, log_fds) = logs::open_all(&self.loaded.config);
        let (listeners, mut fds) = self.sockets.now();
        let setup = reload::setup(&self.loaded, self.overrides(), listeners, log_files);
        let node = self.loaded.config.node.to_string();
        let start = Start { node, setup, state: self.state.clone(), guarded: false, purpose: Purpose::Serve };
        fds.extend(log_fds.iter().map(AsFd::as_fd));
        child.start(start, &fds).await
    }

    async fn on_signal(&mut self, request: Request) -> Flow {
        match request {
            Request::Stop => self.stop().await,
            Request::ReopenLogs => self.reopen_logs().await,
            Request::Reload => {
                let by = "SIGHUP".to_owned();
                self.reload(Wanted { what: What::File, dry_run: false, confirm: None, by, reply: None }).await
            }
            Request::Upgrade => {
                if let Err(why) = self.upgrade(None) {
                    error!(reason = why, "no upgrade");
                }
                ControlFlow::Continue(())
            }
        }
    }

    /// Hands the addresses over, then drains; at the second call leaves at once.
    pub(super) async fn stop(&mut self) -> Flow {
        if self.stop_at.is_some() || self.leaving {
            warn!("second request to stop: leaving at once");
            return self.stop_now().await;
        }
        self.abandon_upgrade().await;
        let Some(duty) = self.duty.as_mut().filter(|duty| duty.is_running()) else { return self.drain().await };
        self.leaving = true;
        let event = duty.stop().await;
        self.on_duty(event).await
    }

    /// Stops accepting, and lets the proxy finish what is under way.
    async fn drain(&mut self) -> Flow {
        manager::notify(&[NotifyState::Stopping]);
        let limit = self.loaded.config.global.shutdown_timeout;
        if !self.proxy.as_ref().is_some_and(|p| p.ready) {
            info!("stopping");
            return ControlFlow::Break(Ok(()));
        }
        info!(?limit, "stopping: connections under way are finished");
        self.stop_at = Some(Instant::now() + limit);
        // The proxy's own descriptors hold the sockets open until it has accepted what is queued.
        self.sockets.close();
        self.tell(ToProxy::Drain { timeout_ms: to_millis(limit) }, &[]).await
    }

    /// Sends a message to the proxy, if there is one.
    async fn tell(&mut self, message: ToProxy, fds: &[std::os::fd::BorrowedFd<'_>]) -> Flow {
        match &self.proxy {
            Some(proxy) => match proxy.send(&message, fds).await {
                Ok(()) => ControlFlow::Continue(()),
                Err(lost) => self.on_lost(lost).await,
            },
            None => ControlFlow::Continue(()),
        }
    }

    async fn on_message(&mut self, message: Result<FromProxy, Lost>) -> Flow {
        if message.is_ok() {
            self.asks.heard();
        }
        match message {
            Ok(FromProxy::Ready) => self.on_ready().await,
            Ok(FromProxy::Heartbeat { .. }) => {}
            Ok(FromProxy::State(state)) => self.state = Some(state),
            Ok(FromProxy::Answer { token, answer }) => self.asks.answered(token, &answer),
            Ok(FromProxy::Event(Event::StartFailed { reason })) => {
                if !self.has_served {
                    return ControlFlow::Break(Err(RunError::Refused(reason)));
                }
                error!(reason, "the proxy could not start");
            }
            Ok(FromProxy::Drained) if self.stop_at.is_some() && !self.retired.is_empty() => self.drained = true,
            Ok(FromProxy::Drained) if self.stop_at.is_some() => {
                info!("all connections are finished");
                return ControlFlow::Break(Ok(()));
            }
            Ok(FromProxy::Drained) => warn!("the proxy says it has drained, unasked"),
            Ok(FromProxy::Quieted) => {
                if let Some(pid) = self.proxy.as_ref().map(Child::pid) {
                    return self.quieted(pid).await;
                }
            }
            Ok(FromProxy::Aborted { token }) => {
                if let Some(pid) = self.proxy.as_ref().map(Child::pid) {
                    self.aborted(pid, token).await;
                }
            }
            // Of several the last answer counts: it is the one that is as long as the line.
            Ok(FromProxy::Overridden { token }) if u64::try_from(self.overriding.len()) == Ok(token) => {
                self.overridden();
            }
            Ok(FromProxy::Overridden { .. }) => {}
            Ok(FromProxy::Prepared { token }) => return self.on_prepared(token).await,
            Ok(FromProxy::Refused { token, reason }) => return self.on_refused(token, reason).await,
            Ok(FromProxy::Committed { token, trouble }) => return self.on_committed(token, trouble).await,
            Ok(FromProxy::CheckDue { token, pool, server, address }) => {
                self.on_check_due(token, Subject { pool, server, address });
            }
            Ok(FromProxy::Pools(pools)) => {
                if let Some(duty) = &mut self.duty {
                    duty.set_pools(pools).await;
                }
            }
            Err(lost) => return self.on_lost(lost).await,
        }
        ControlFlow::Continue(())
    }

    async fn on_ready(&mut self) {
        let Some(proxy) = &mut self.proxy else { return };
        proxy.ready = true;
        info!(pid = proxy.pid(), "proxy ready");
        self.backoff.ready(clock::now());
        self.unserved_since = None;
        if !std::mem::replace(&mut self.has_served, true) {
            manager::notify(&[NotifyState::Ready]);
        }
        let pid = proxy.pid();
        if let Some(duty) = &mut self.duty {
            duty.proxy_ready(pid, &self.program).await;
        }
    }

    /// Ends what is left of the proxy, and replaces it unless we are leaving.
    async fn on_lost(&mut self, lost: Lost) -> Flow {
        let now = clock::now();
        self.unserved_since.get_or_insert(now);
        self.asks.lost();
        let (mut how, mut gone) = (String::new(), None);
        if let Some(proxy) = self.proxy.take() {
            let pid = proxy.pid();
            gone = Some(pid);
            if let Lost::Hung(verdict) = lost {
                let location = proxy.location(verdict);
                error!(pid, location, connections = proxy.connections, "proxy hung");
            }
            how = proxy.kill().await;
            error!(pid, reason = %lost, status = how, "proxy lost");
        } else {
            error!(reason = %lost, "proxy not started");
        }
        if self.stop_at.is_some() {
            return ControlFlow::Break(Err(RunError::DrainCut(how)));
        }
        if let Some(duty) = &mut self.duty {
            duty.proxy_lost().await;
        }
        if !self.has_served {
            return ControlFlow::Break(Err(RunError::Proxy(lost)));
        }
        // Another one may be starting already.
        if self.next.is_none() {
            let delay = self.backoff.died(now);
            self.start_at = Some(Instant::now() + delay);
        }
        if let Some(pid) = gone {
            self.forget(pid).await?;
        }
        self.overridden();
        Box::pin(self.reload_without_proxy()).await
    }

    async fn on_next(&mut self, message: Result<FromProxy, Lost>) -> Flow {
        match message {
            Ok(FromProxy::Ready) => self.on_next_ready().await,
            Ok(FromProxy::Event(Event::StartFailed { reason })) => {
                error!(reason, "the proxy that was to take over could not start");
                ControlFlow::Continue(())
            }
            // Its life as the proxy begins with Ready.
            Ok(_) => ControlFlow::Continue(()),
            Err(lost) => self.on_next_lost(lost).await,
        }
    }

    async fn on_start_due(&mut self) -> Flow {
        if self.proxy.is_some() || self.foreign.is_some() {
            return match self.start_next().await {
                Ok(()) => ControlFlow::Continue(()),
                Err(lost) => self.on_next_lost(lost).await,
            };
        }
        match self.start().await {
            Ok(()) => ControlFlow::Continue(()),
            Err(lost) => self.on_lost(lost).await,
        }
    }

    fn on_stop_limit(&mut self) -> Flow {
        let connections = self.proxy.as_ref().map_or(0, |p| p.connections);
        warn!(connections, "shutdown_timeout is over: connections are cut");
        ControlFlow::Break(Ok(()))
    }

    async fn on_watch(&mut self) -> Flow {
        let unserved = self.unserved_since.map(|since| clock::now().since(since));
        if unserved.is_some_and(|ms| ms >= to_millis(UNSERVED_LIMIT)) {
            let shards = self.sockets.bound().iter().flat_map(|l| &l.shards);
            let connections: usize = shards.map(|s| listen::reset_queued(s, RESETS_PER_ROUND)).sum();
            if connections > 0 {
                warn!(connections, "no proxy to serve them: waiting connections reset");
            }
        }
        self.sockets.sweep();
        if let Some(duty) = &mut self.duty {
            duty.check().await;
        }
        self.strays.reap();
        self.check_retired().await?;
        if let Err(lost) = self.next.as_mut().map_or(Ok(()), Child::check) {
            return self.on_next_lost(lost).await;
        }
        match self.proxy.as_mut().map_or(Ok(()), Child::check) {
            Ok(()) => ControlFlow::Continue(()),
            Err(lost) => self.on_lost(lost).await,
        }
    }
}

async fn next_message(proxy: &mut Option<Child>) -> Result<FromProxy, Lost> {
    match proxy {
        Some(proxy) => proxy.next().await,
        None => std::future::pending().await,
    }
}

async fn next_duty(duty: &mut Option<Duty>) -> Due {
    match duty {
        Some(duty) => duty.next().await,
        None => std::future::pending().await,
    }
}
