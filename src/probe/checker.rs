//! A task for each server: waits, probes, and makes the verdict hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::health::roles::Observation;
use crate::health::{Hysteresis, Quiet, Role, Schedule, Verdict, spread};
use crate::net::clock;
use crate::pool::{Pool, RoleChange, Server};
use crate::time::Millis;

use super::attempt::{Attempt, Failure, Network, Target};

/// Checks servers until it is dropped; their verdicts outlive it.
///
/// A task sleeps between probes and costs a timer and its memory (about 1 KiB) meanwhile; probes of a thousand servers are
/// spread over the interval by their schedules, not by a queue.
#[derive(Debug)]
pub struct Checker<A = Network> {
    common: Arc<Common<A>>,
    seed: u64,
    /// By id of the server.
    tasks: HashMap<u32, Task>,
    /// By name of the pool, if its checks know roles: a change of role has been seen.
    stirs: HashMap<Arc<str>, watch::Sender<()>>,
}

#[derive(Debug)]
struct Task {
    server: Arc<Server>,
    target: Target,
    abort: AbortHandle,
}

/// What every task needs.
#[derive(Debug)]
struct Common<A> {
    attempts: A,
    /// The zero of schedules.
    epoch: Instant,
    turned: Arc<Notify>,
}

/// One server's part of a task.
struct Watch {
    server: Arc<Server>,
    target: Target,
    hysteresis: Hysteresis,
    quiet: Quiet,
    role: Option<Role>,
    /// Of the pool: told, and listened to, by all of its tasks.
    stir: watch::Sender<()>,
    /// The last probe could not be made, which was said.
    hindered: bool,
}

impl<A: Attempt> Checker<A> {
    /// Checks nothing yet. `seed` should differ from box to box; `turned` is notified of every new verdict.
    pub fn new(attempts: A, seed: u64, turned: Arc<Notify>) -> Self {
        let common = Common { attempts, epoch: Instant::now(), turned };
        Self { common: Arc::new(common), seed, tasks: HashMap::new(), stirs: HashMap::new() }
    }

    /// Checks the servers of these pools from now on, as their configuration says. What has not changed goes on as it was;
    /// the verdict on a server that is no longer checked is forgotten.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn set_pools(&mut self, pools: &[Arc<Pool>]) {
        let mut before = std::mem::take(&mut self.tasks);
        self.stirs.retain(|name, _| pools.iter().any(|pool| pool.config.name == *name));
        for pool in pools {
            self.common.told(&pool.config.name, pool.settle_roles());
            let Some(check) = &pool.config.health_check else { continue };
            for (server, host) in pool.checked() {
                let target = Target::new(check, &pool.config, server, host);
                let task = match before.remove(&server.id) {
                    Some(task) if task.target == target => task,
                    other => {
                        other.inspect(|task| task.abort.abort());
                        self.start(server, target)
                    }
                };
                self.tasks.insert(server.id, task);
            }
        }
        for task in before.into_values() {
            task.abort.abort();
            task.server.judge(None);
            self.common.told(&task.server.pool, task.server.observe_role(Observation::Down));
        }
    }

    fn start(&mut self, server: &Arc<Server>, target: Target) -> Task {
        if server.is_presumed() {
            server.note_verdict("initial_state; not checked yet", clock::now());
        }
        let watch = Watch {
            server: server.clone(),
            target: target.clone(),
            hysteresis: Hysteresis::new(server.verdict()),
            quiet: Quiet::default(),
            role: None,
            stir: self.stirs.entry(server.pool.clone()).or_default().clone(),
            hindered: false,
        };
        let schedule = Schedule::new(self.common.now(), target.check.pace, spread(self.seed, server.id));
        let abort = tokio::spawn(self.common.clone().check(watch, schedule)).abort_handle();
        Task { server: server.clone(), target, abort }
    }
}

impl<A> Drop for Checker<A> {
    fn drop(&mut self) {
        self.tasks.values().for_each(|task| task.abort.abort());
    }
}

impl<A: Attempt> Common<A> {
    async fn check(self: Arc<Self>, mut watch: Watch, mut schedule: Schedule) {
        let mut stirred = watch.stir.subscribe();
        loop {
            // Cancel-safe: a timer, and a receiver that remembers what it has seen.
            tokio::select! {
                () = sleep_until(self.epoch + Duration::from_millis(schedule.due().0)) => {}
                Ok(()) = stirred.changed() => {
                    schedule.hurry();
                    continue;
                }
            }
            schedule.started(self.now());
            let attempt = self.attempts.attempt(&watch.target);
            let result = match watch.target.limit() {
                Some(limit) => timeout(limit, attempt).await.unwrap_or(Err(Failure::TimedOut(limit))),
                None => attempt.await,
            };
            if watch.on_result(result) {
                self.turned.notify_one();
            }
            if watch.hysteresis.is_turning() {
                schedule.hurry();
            }
        }
    }
}

impl<A> Common<A> {
    /// Says that a reload or an order has changed who is the primary.
    fn told(&self, pool: &str, change: Option<RoleChange>) {
        if change.is_some() {
            self.turned.notify_one();
        }
        tell(pool, change);
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Says what has become of the roles of a pool.
fn tell(pool: &str, change: Option<RoleChange>) {
    match change {
        None => {}
        Some(RoleChange::Elected { name, from: None }) => info!(%pool, server = %name, "server is the primary"),
        Some(RoleChange::Elected { name, from: Some(from) }) => {
            warn!(%pool, server = %name, former = %from, "server is the primary, another was");
        }
        Some(RoleChange::Resigned(name)) => {
            warn!(%pool, server = %name, "the primary has become a replica, and there is no other");
        }
        Some(RoleChange::Conflict(names)) => {
            let servers = names.join(", ");
            error!(%pool, %servers, "several servers say that they are the primary: none gets anything new");
        }
    }
}

impl Watch {
    /// Takes a result in; whether there is a new verdict.
    fn on_result(&mut self, result: Result<Option<Role>, Failure>) -> bool {
        let Self { server, target, .. } = self;
        let (pool, name, address) = (&server.pool, &server.name, target.address);
        if let Err(failure) = &result
            && failure.is_local()
        {
            if !std::mem::replace(&mut self.hindered, true) {
                warn!(%pool, server = %name, %address, reason = %failure, "server not probed");
            }
            return false;
        }
        self.hindered = false;
        let thresholds = target.check.thresholds;
        let is_first = self.hysteresis.verdict().is_none();
        let turned = self.hysteresis.on_result(result.is_ok(), thresholds);
        let verdict = self.hysteresis.verdict();
        // What was presumed holds for good once a probe agrees.
        let confirmed = server.is_presumed() && result.is_ok() == (verdict == Some(Verdict::Up));
        if turned.is_some() || confirmed {
            server.judge(verdict);
        }
        let why = match (&turned, &result) {
            (None, Ok(_)) if confirmed => Some("the first health check passed".to_owned()),
            (None, Err(reason)) if confirmed => Some(format!("health check: {reason}")),
            (Some(Verdict::Down), Err(reason)) => Some(format!("health check: {reason}")),
            (Some(Verdict::Up), _) if is_first => Some("the first health check passed".to_owned()),
            (Some(Verdict::Up), _) => Some(format!("{} health checks in a row passed", thresholds.rise)),
            _ => None,
        };
        if let Some(why) = why {
            server.note_verdict(why, clock::now());
        }
        match (&turned, &result) {
            (Some(Verdict::Up), _) if is_first => debug!(%pool, server = %name, %address, "first health check passed"),
            (Some(Verdict::Up), _) => {
                let reason = format!("{} health checks in a row passed", thresholds.rise);
                info!(%pool, server = %name, %address, reason, "server is up");
            }
            (Some(Verdict::Down), Err(reason)) => warn!(%pool, server = %name, %address, %reason, "server is down"),
            (_, Err(reason)) => debug!(%pool, server = %name, %address, %reason, "health check failed"),
            _ => {}
        }
        if self.quiet.on_result(result.is_ok(), server.failures(), thresholds.rise) {
            server.found_well();
        }
        let seen = match &result {
            Ok(role) => role.map(Observation::Says),
            // A bad one, and it has said what it is: a primary that resigns need not replicate yet.
            Err(Failure::Lag(_)) => Some(Observation::Says(Role::Replica)),
            Err(_) if self.hysteresis.verdict() == Some(Verdict::Down) => Some(Observation::Down),
            Err(_) => Some(Observation::Failed),
        };
        let knows = target.check.probe.knows_roles();
        let change = seen.filter(|_| knows).and_then(|seen| server.observe_role(seen));
        let moved = change.is_some();
        tell(&server.pool, change);
        if let Some(Observation::Says(role)) = seen.filter(|_| knows) {
            let before = self.role.replace(role);
            // Whoever is what this server was, or was what it is, is asked soon.
            if before.is_some_and(|before| before != role) || server.is_role_disputed() {
                self.stir.send_replace(());
            }
        }
        turned.is_some() || moved || confirmed
    }
}
