//! The supervisor's half of VRRP: runs the vrrp process, says what this box can do, and takes part in handovers.
//!
//! ```text
//!  stop, handover      the proxy          the vrrp process
//!        │        quiet: finish, close         │
//!        ├──────────────▶│                     │
//!        │   quieted, or handover_drain over   │
//!        ├────────────────────────────────────▶│ priority 0, waits, lingers
//!        │◀──────────── leaving ───────────────┤
//!        ├── abort ─────▶│── aborted ─────────▶│ takes the address off
//!        │◀──────────── stopped, changed ──────┤
//! ```

mod change;
mod handover;
mod succession;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::app::at;
use crate::app::backoff::Backoff;
use crate::app::child::{Lost, Program, descriptors};
use crate::app::condition::Condition;
use crate::app::duty::succession::Succession;
use crate::app::notifier::{Change, Notifier};
use crate::app::tracker::Tracker;
use crate::app::vrrp::NOTE;
use crate::app::vrrp::child::VrrpChild;
use crate::app::vrrp::messages::{FromVrrp, Start, ToVrrp};
use crate::config::Loaded;
use crate::config::model::VirtualRouter;
use crate::ipc::PoolSummary;
use crate::net::clock;
use crate::proxy::BoundListener;
use crate::vrrp::event::{State, Why};
use crate::vrrp::machine::Memory;
use crate::vrrpd;
use crate::vrrpd::report::{Fitness, Status};

/// See the module's documentation.
pub(super) struct Duty {
    routers: Vec<Arc<VirtualRouter>>,
    config: String,
    node: String,
    run_dir: PathBuf,
    doors: Vec<TcpListener>,
    /// Read end for proxies, write end for the vrrp process: the proxy ends when nobody holds the write end.
    guard: (OwnedFd, OwnedFd),
    child: Option<VrrpChild>,
    backoff: Backoff,
    start_at: Option<Instant>,
    /// Since when nobody speaks for the addresses that may be on the box.
    mute_since: Option<Instant>,
    proxy: Option<OwnedFd>,
    condition: Condition,
    tracker: Tracker,
    notifier: Option<Notifier>,
    said: Vec<Fitness>,
    status: Status,
    memories: Vec<(Arc<str>, Memory)>,
    scheduling: String,
    stage: Stage,
    /// What is to be said next.
    then: Option<DutyEvent>,
    /// What the proxy was last told; [`Quiet::Twice`]: a peer that has taken over waits until it is.
    quiet: Quiet,
    succession: Succession,
    /// What the routers are to be, while addresses are given away first or a process is on the way.
    change: Option<change::Next>,
}

/// What is under way.
#[derive(Debug)]
enum Stage {
    Steady,
    /// The proxy finishes what it can.
    Draining {
        of: BTreeSet<usize>,
        until: Instant,
        then: Then,
    },
    /// The vrrp process gives addresses away.
    Handing {
        of: BTreeSet<usize>,
        failed: bool,
        until: Instant,
    },
    /// The same, and nothing else follows.
    Stopping {
        until: Instant,
    },
    Stopped,
}

/// What comes after the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stop,
    HandOver,
}

/// What proxies do with their connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    /// They keep them.
    Off,
    /// They finish what they do, and say when nothing is left of what there was.
    Once,
    /// The same, and what was on its way to them meanwhile is finished too.
    Twice,
}

/// What [`Duty::next`] has waited for.
#[derive(Debug)]
pub(super) enum Due {
    /// There is more to be done at once.
    Then,
    Message(Result<FromVrrp, Lost>),
    /// Of a process that is to take over.
    Successor(Result<FromVrrp, Lost>),
    /// Another process is to be started.
    Start,
    /// What scripts and files say of a router has changed.
    Tracked(usize, Fitness),
    /// The patience with a proxy that is away is over.
    Grace,
    /// The time for a drain or a handover is over.
    StageOver,
    /// Nobody has spoken for the addresses for too long.
    Mute,
}

/// What the supervisor is to do, or to know.
#[derive(Debug)]
pub(super) enum DutyEvent {
    /// Nothing.
    None,
    /// Tell the proxy to finish what it can, or to go on.
    Quiet(Quiet),
    /// Tell the proxy to reset connections, then [`Duty::aborted`]; without a token nobody waits.
    Abort { addresses: Vec<IpAddr>, token: u64 },
    /// No router takes part any more.
    Stopped,
    /// A handover is over; whether somebody took the addresses.
    HandedOver(bool),
}

/// For whoever is to be told of connections that nobody waits for.
pub(super) const NO_TOKEN: u64 = 0;
/// Nobody speaks for so long: addresses that are still on the box are taken off, for a peer has them by now.
const MUTE_LIMIT: Duration = Duration::from_secs(1);
/// For the vrrp process to leave.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// For commands that are still to be told.
const NOTIFY_LIMIT: Duration = Duration::from_secs(5);
/// No offer and linger lasts longer than this.
const HANDOVER_LIMIT: Duration = Duration::from_secs(60);

impl Duty {
    /// What runs `loaded`'s virtual routers; `None` when there are none. To be called by the main thread in its runtime.
    pub(super) fn new(loaded: &Loaded, listeners: &[BoundListener], program: &Program) -> io::Result<Option<Self>> {
        if loaded.config.routers.is_empty() {
            return Ok(None);
        }
        Self::build(loaded, listeners, program).map(Some)
    }

    /// The same, also of no routers: proxies may watch its guard still.
    fn build(loaded: &Loaded, listeners: &[BoundListener], program: &Program) -> io::Result<Self> {
        let config = &loaded.config;
        let count = config.routers.len();
        let identity = change::runner(config);
        Ok(Self {
            routers: config.routers.clone(),
            config: loaded.effective.clone(),
            node: config.node.to_string(),
            run_dir: config.global.run_dir.clone(),
            doors: change::doors(config, listeners)?,
            guard: pipe_with(PipeFlags::CLOEXEC)?,
            child: None,
            backoff: Backoff::default(),
            start_at: None,
            mute_since: None,
            proxy: None,
            condition: Condition::new(count),
            tracker: Tracker::start(&config.routers, identity),
            notifier: Some(Notifier::start(identity, program)),
            said: Vec::new(),
            status: Status::default(),
            memories: Vec::new(),
            scheduling: String::new(),
            stage: if count == 0 { Stage::Stopped } else { Stage::Steady },
            then: None,
            quiet: Quiet::Off,
            succession: Succession::default(),
            change: None,
        })
    }

    /// Whether the configuration may change now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_change(&self) -> Result<(), String> {
        let busy = "addresses are being handed over; try again when that is done";
        if self.is_steady() { Ok(()) } else { Err(busy.to_owned()) }
    }

    /// What a proxy watches instead of us.
    pub(super) fn guard(&self) -> &OwnedFd {
        &self.guard.0
    }

    /// All routers, and what is for none of them, as last reported.
    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// How the urgent thread is scheduled.
    pub(super) fn scheduling(&self) -> &str {
        &self.scheduling
    }

    /// Pid of the vrrp process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(VrrpChild::pid)
    }

    pub(super) fn is_in_maintenance(&self) -> bool {
        self.condition.maintenance
    }

    /// Whether there is anything left to stop.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.stage, Stage::Stopped) && (self.child.is_some() || self.start_at.is_some())
    }

    /// What is due next, for [`Self::handle`]. Only waits: cancel-safe, for channels keep what came in part.
    pub(super) async fn next(&mut self) -> Due {
        if self.then.is_some() {
            return Due::Then;
        }
        let grace = self.next_grace();
        let stage = match &self.stage {
            Stage::Draining { until, .. } | Stage::Handing { until, .. } | Stage::Stopping { until } => Some(*until),
            Stage::Steady | Stage::Stopped => None,
        };
        let mute = self.mute_since.map(|since| since + MUTE_LIMIT);
        tokio::select! {
            message = next_message(&mut self.child) => Due::Message(message),
            message = self.succession.next() => Due::Successor(message),
            () = at(self.start_at) => Due::Start,
            (router, fitness) = self.tracker.changed() => Due::Tracked(router, fitness),
            () = at(grace) => Due::Grace,
            () = at(stage) => Due::StageOver,
            () = at(mute) => Due::Mute,
        }
    }

    /// Does what is due. To be awaited to its end.
    pub(super) async fn handle(&mut self, due: Due, program: &Program) -> DutyEvent {
        match due {
            Due::Then => return self.then.take().unwrap_or(DutyEvent::None),
            Due::Message(Ok(message)) => return self.on_message(message).await,
            Due::StageOver => return self.on_stage_over().await,
            Due::Message(Err(lost)) => self.lost(lost).await,
            Due::Successor(said) => self.on_successor(said).await,
            Due::Start => self.start(program).await,
            Due::Tracked(router, fitness) => self.set_tracked(router, fitness).await,
            Due::Grace => self.say().await,
            Due::Mute => self.on_mute(),
        }
        DutyEvent::None
    }

    // === the box

    /// A proxy serves.
    pub(super) async fn proxy_ready(&mut self, pid: u32, program: &Program) {
        (self.condition.serving, self.condition.away_since) = (true, None);
        let pid = Pid::from_raw(pid.cast_signed());
        self.proxy = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let none = self.child.is_none() && self.start_at.is_none() && !self.succession.is_foreign();
        if none && !matches!(self.stage, Stage::Stopped) {
            // Nothing is claimed before it can be served.
            self.start(program).await;
            return;
        }
        self.introduce_proxy().await;
        self.say().await;
    }

    /// The proxy is gone, and may be back in a moment.
    pub(super) async fn proxy_lost(&mut self) {
        self.condition.serving = false;
        self.condition.away_since.get_or_insert_with(Instant::now);
        self.say().await;
    }

    /// How tracked pools are.
    pub(super) async fn set_pools(&mut self, pools: Vec<PoolSummary>) {
        self.condition.pools = pools.into_iter().map(|pool| (Arc::clone(&pool.name), pool)).collect();
        self.say().await;
    }

    /// What scripts and files say of a router.
    async fn set_tracked(&mut self, router: usize, fitness: Fitness) {
        if let Some(tracked) = self.condition.tracked.get_mut(router) {
            *tracked = fitness;
        }
        self.say().await;
    }

    /// The operator's switch.
    pub(super) async fn set_maintenance(&mut self, on: bool) {
        self.condition.maintenance = on;
        self.say().await;
    }

    /// Connections were reset as [`DutyEvent::Abort`] asked.
    pub(super) async fn aborted(&mut self, token: u64) {
        if token != NO_TOKEN {
            self.tell(ToVrrp::Aborted { token }).await;
        }
    }

    fn fitness(&self) -> Vec<Fitness> {
        let now = Instant::now();
        self.routers.iter().enumerate().map(|(i, router)| self.condition.fitness(i, router, now)).collect()
    }

    /// When the patience with a proxy that is away ends for one more router.
    fn next_grace(&self) -> Option<Instant> {
        let now = Instant::now();
        self.routers.iter().filter_map(|router| self.condition.grace_over_at(router)).filter(|at| *at > now).min()
    }

    /// Tells the vrrp process what has changed.
    async fn say(&mut self) {
        let all = self.fitness();
        if all != self.said && self.child.is_some() {
            self.said.clone_from(&all);
            self.tell(ToVrrp::Fitness(all)).await;
        }
    }

    // === the process

    async fn start(&mut self, program: &Program) {
        self.start_at = None;
        if let Err(lost) = self.try_start(program).await {
            self.lost(lost).await;
        }
    }

    async fn try_start(&mut self, program: &Program) -> Result<(), Lost> {
        self.take_change();
        let child = VrrpChild::spawn(program).map_err(Lost::Unborn)?;
        debug!(pid = child.pid(), "vrrp started");
        self.introduce(child).await
    }

    /// Tells a new process all that it needs.
    async fn introduce(&mut self, child: VrrpChild) -> Result<(), Lost> {
        let fitness = self.fitness();
        let start = ToVrrp::Start(Start {
            node: self.node.clone(),
            config: self.config.clone(),
            fitness: fitness.clone(),
            memories: self.memories.clone(),
            doors: self.doors.len(),
        });
        let mut fds = vec![self.guard.1.as_fd()];
        fds.extend(descriptors(self.doors.iter()));
        let sent = child.send(&start, &fds).await;
        self.said = fitness;
        self.child = Some(child);
        sent?;
        self.introduce_proxy().await;
        Ok(())
    }

    async fn introduce_proxy(&mut self) {
        if let (Some(child), Some(proxy)) = (&self.child, &self.proxy)
            && let Err(lost) = child.send(&ToVrrp::Proxy, &[proxy.as_fd()]).await
        {
            self.lost(lost).await;
        }
    }

    async fn tell(&mut self, message: ToVrrp) {
        if let Some(child) = &self.child
            && let Err(lost) = child.send(&message, &[]).await
        {
            self.lost(lost).await;
        }
    }

    /// Ends what is left of the process; another goes on where it stopped.
    async fn lost(&mut self, lost: Lost) {
        let hung = matches!(lost, Lost::Hung(_));
        match self.child.take() {
            Some(child) => {
                let pid = child.pid();
                let how = child.kill().await;
                error!(pid, reason = %lost, status = how, "vrrp process lost");
            }
            None => error!(reason = %lost, "vrrp process not started"),
        }
        self.mute_since.get_or_insert_with(Instant::now);
        if hung {
            self.memories.iter_mut().for_each(|(_, memory)| memory.stalled = true);
        }
        match self.stage {
            Stage::Stopped => {}
            Stage::Stopping { .. } => self.stop_without(),
            Stage::Steady | Stage::Draining { .. } | Stage::Handing { .. } => {
                self.start_at = Some(Instant::now() + self.backoff.died(clock::now()));
            }
        }
    }

    /// Stops although there is no vrrp process to do it.
    fn stop_without(&mut self) {
        (self.start_at, self.stage) = (None, Stage::Stopped);
        self.on_mute();
        self.then = Some(DutyEvent::Stopped);
    }

    /// Nobody could be started: a peer has taken over, and two boxes would answer.
    fn on_mute(&mut self) {
        self.mute_since = None;
        match vrrpd::sweep(&self.run_dir.join(NOTE)) {
            Ok(removed) => warn!(?removed, "no vrrp process for a second: addresses removed"),
            Err(e) => error!(error = e, "no vrrp process, and addresses cannot be removed"),
        }
        self.memories.clear();
    }

    /// To be called several times a second.
    pub(super) async fn check(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(lost) = child.check()
        {
            self.lost(lost).await;
        }
    }

    async fn on_message(&mut self, message: FromVrrp) -> DutyEvent {
        match message {
            FromVrrp::Status(status) => {
                self.memories = status.routers.iter().map(|s| (Arc::clone(&s.name), s.memory.clone())).collect();
                self.status = self.succession.complete(status);
                self.mute_since = None;
                self.backoff.ready(clock::now());
            }
            FromVrrp::Scheduling(text) => self.scheduling = text,
            FromVrrp::Here | FromVrrp::Retired => {}
            FromVrrp::Changed { router, from, to, why } => {
                let name = self.routers.get(router).map_or("", |router| &*router.name);
                if !self.succession.is_no_change(name, to, why) {
                    self.notify(router, to, why);
                }
                if from == State::Active {
                    return self.left(router);
                }
            }
            FromVrrp::NoTaker { router } => return self.handed(router, false).unwrap_or(DutyEvent::None),
            FromVrrp::Held => {
                return self.quiet(Quiet::Twice);
            }
            FromVrrp::Leaving { token, addresses } => return DutyEvent::Abort { addresses, token },
            FromVrrp::Left { addresses } => return DutyEvent::Abort { addresses, token: NO_TOKEN },
            FromVrrp::Stopped => {
                self.stage = Stage::Stopped;
                return DutyEvent::Stopped;
            }
        }
        DutyEvent::None
    }

    /// Has the operator's commands told of a change.
    fn notify(&self, router: usize, state: State, why: Why) {
        let (Some(config), Some(notifier)) = (self.routers.get(router), &self.notifier) else { return };
        notifier.push(Change {
            router: Arc::clone(&config.name),
            state,
            why,
            priority: self.status.routers.get(router).map_or(config.priority.0, |status| status.priority),
            configured_priority: config.priority.0,
            node: self.node.as_str().into(),
            at: SystemTime::now(),
            command: config.notify.clone(),
            webhook: config.webhook.clone(),
        });
    }
}

async fn next_message(child: &mut Option<VrrpChild>) -> Result<FromVrrp, Lost> {
    match child {
        Some(child) => child.next().await,
        None => std::future::pending().await,
    }
}
