//! Pools at work: which server gets a request, what is counted of it, and who waits when all are full.
//!
//! A [`Pool`] is immutable and belongs to one snapshot. What lives longer is behind `Arc`s that the next snapshot's pool
//! takes over: a [`Server`]'s counters and failures (keyed by pool, server and address, never by weight), the line of
//! waiting requests, the retry budget. Each worker owns a [`PickState`] per pool, so a pick takes no lock; what workers
//! share are the atomics of `Server`.
//!
//! One request: [`Pool::pick`] (or [`Pool::pick_or_wait`]) gives a [`Lease`]; the outcome is told by
//! [`Lease::succeeded`] or [`Pool::on_failure`]; dropping the lease ends the request on that server. For a retry the same
//! [`Tried`] is handed in again, after [`Pool::try_retry`].
//!
//! Which servers are considered, in this order (nginx's rules but for the third):
//! 1. servers that are not backups, untried, not `down` by file or checks, below `max_conns`, and not unavailable by failures;
//! 2. backups, by the same rules;
//! 3. with `fail_open`, those of a tier in which failures have made every server unavailable, as if none had failed:
//!    first of the servers, then of the backups. A backup that works is therefore preferred to a server that failed.
//!
//! A client that stays with its server (`sticky`) is given that one before any other that the same step would allow, backup or
//! not, and also while the operator drains it.
//!
//! In panic (`panic_threshold`), the servers that are not backups come before all that, well or not.

mod active;
mod budget;
mod circuit;
mod ejection;
mod election;
mod fallback;
mod handover;
mod latency;
mod mirror;
mod note;
mod panic;
mod passive;
mod queue;
mod report;
mod select;
mod server;
mod slow_start;
mod sticky;
#[cfg(test)]
mod tests;
mod tried;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::balance::{Balancer, Flow, Node, State};
use crate::config::model::{self, Duty, Overrides, PoolTls};
use crate::health::Role;
use crate::health::breaker::Turn;
use crate::time::{Millis, to_millis};

pub use self::budget::{RetryBudget, RetryPermit};
pub use self::circuit::{CircuitOpen, CircuitReport, CircuitState, Overflow, OverflowCounts, Pass, Pending, Use};
pub use self::ejection::{Ejected, EjectionState, Outcome};
pub use self::election::RoleChange;
pub use self::handover::ServerState;
pub use self::latency::{Latency, Percentiles};
pub use self::mirror::{CopyPermit, CopyReport};
pub use self::note::Note;
pub use self::panic::PanicReport;
pub use self::report::{ServerCondition, ServerReport};
pub use self::select::PickError;
pub use self::server::{Failure, Lease, Server};
pub use self::sticky::{Stick, StickyReport};
pub use self::tried::{Tried, Wanted};

use self::circuit::Circuit;
use self::ejection::Ejections;
use self::election::Election;
use self::fallback::Fallen;
use self::mirror::Copies;
use self::panic::Panic;
use self::passive::Limits;
use self::queue::Queue;
use self::slow_start::Growing;
use self::sticky::Sticky;

/// What a pick is told of the request or connection.
pub type PickInput<'a> = Flow<'a>;

/// A pool of one snapshot.
#[derive(Debug)]
pub struct Pool {
    /// What the file says.
    pub config: Arc<model::Pool>,
    /// Ordinary servers, backups.
    tiers: [Tier; 2],
    queue: Arc<Queue>,
    budget: Arc<RetryBudget>,
    election: Arc<Election>,
    /// See [`Pool::has_been_judged`].
    judged: Arc<AtomicBool>,
    /// Whether a slow start is configured for any server.
    has_slow_start: bool,
    growing: Arc<Growing>,
    panic: Arc<Panic>,
    ejections: Arc<Ejections>,
    copies: Arc<Copies>,
    /// Only where one is configured.
    circuit: Option<Arc<Circuit>>,
    /// `None`: clients do not stay with servers.
    sticky: Option<Box<Sticky>>,
    fallen: Arc<Fallen>,
    /// That of the configuration, or an equal one that remembers sessions.
    tls: Option<PoolTls>,
}

/// What has changed in a pool by itself, to be told once.
#[derive(Debug)]
pub enum News {
    /// Health is ignored from now on, or heeded again.
    Panic {
        /// Which of the two.
        on: bool,
        /// Servers that are well, backups not counted.
        well: usize,
        /// Of so many.
        all: usize,
    },
    /// The ejection of a server is over.
    Returned(Arc<Server>),
    /// The circuit has opened, or closes.
    Circuit(Turn),
}

#[derive(Debug)]
struct Tier {
    members: Vec<Member>,
    nodes: Vec<Node>,
    balancer: Balancer,
    /// Chooses the first server of a client that is to stay, by its key.
    first: Option<Balancer>,
}

/// A server with the limits that this snapshot sets.
#[derive(Debug)]
struct Member {
    server: Arc<Server>,
    standing: Standing,
    /// By the checks of its pool.
    checked: bool,
    /// 0: no limit.
    max_conns: u32,
    limits: Limits,
    /// Milliseconds; 0: none.
    slow_start: u64,
    /// Errors in a row leave it out.
    ejects: bool,
    /// `max_fails` as written: the single-server rule changes that of `limits`.
    max_fails: u32,
}

/// What the file and the operator say of using a server. The verdict in the server itself is stale when the checks of its
/// pool are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Used,
    /// Unless its checks find it down.
    Checked,
    /// Never: the file says so.
    Down,
    /// Not for anything new: the operator says so.
    Off(Duty),
}

/// What one worker remembers of one pool between picks; made by [`Pool::new_state`] of that very pool.
#[derive(Debug)]
pub struct PickState {
    tiers: [State; 2],
}

impl Pool {
    /// Builds the pool of a new snapshot.
    ///
    /// `addresses` gives the addresses of a server as far as they are known; each becomes a server of its own with the
    /// weight and limits of the spec, none is fine. `overrides` win over the spec. Servers, waiting line and retry budget of
    /// `previous`, if it is the pool of the same name, are carried over.
    pub fn build(
        config: &Arc<model::Pool>,
        addresses: impl Fn(&model::ServerSpec) -> Vec<SocketAddr>,
        overrides: &Overrides,
        previous: Option<&Self>,
    ) -> Self {
        let previous = previous.filter(|pool| pool.config.name == config.name);
        let queue = previous.map_or_else(Arc::default, |pool| pool.queue.clone());
        let growing = previous.map_or_else(Arc::default, |pool| pool.growing.clone());
        let election: Arc<Election> = previous.map_or_else(Arc::default, |pool| pool.election.clone());
        let mut new = Vec::new();
        let mut tiers = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for spec in &config.servers {
            let (members, nodes) = &mut tiers[usize::from(spec.backup)];
            let said = overrides.of(&config.name, &spec.name);
            let weight = said.and_then(|said| said.weight).unwrap_or(spec.weight);
            let mut seen = Vec::new();
            for address in addresses(spec) {
                if seen.contains(&address) {
                    continue;
                }
                seen.push(address);
                let known = previous.and_then(|pool| {
                    pool.members().find(|m| m.server.name == spec.name && m.server.address == address)
                });
                let server = match known {
                    Some(member) => member.server.clone(),
                    None => {
                        let shared = (queue.clone(), growing.clone(), election.clone());
                        Arc::new(Server::new(config.name.clone(), spec.name.clone(), address, shared))
                    }
                };
                let duty = said.and_then(|said| said.duty);
                let member = Member::new(server, spec, duty, config);
                // Not of one that serves unchecked until now: it would be taken out of its work.
                if let Some(initial) = config.health_check.as_ref().and_then(|check| check.initial)
                    && member.checked
                    && known.is_none_or(|before| before.standing != Standing::Used)
                {
                    member.server.health.active.presume(initial);
                }
                match known {
                    None => new.push(member.server.clone()),
                    // It had no slow start, and has its full weight.
                    Some(before) if before.slow_start == 0 => member.server.end_slow_start(),
                    Some(_) => {}
                }
                if known.is_some_and(|before| !before.may_panic()) && member.may_panic() {
                    member.server.begin_slow_start();
                }
                members.push(member);
                nodes.push(node(spec, weight, address));
            }
        }
        let mut tiers = tiers.map(|(members, nodes)| {
            let balancer = Balancer::build(&config.algorithm, &nodes);
            let first = Sticky::balancer(config, &nodes);
            Tier { members, nodes, balancer, first }
        });
        // nginx's single-server rule: there is nobody to turn to, so failures make nothing unavailable.
        if let [Tier { members, .. }, Tier { members: backups, .. }] = &mut tiers
            && let ([only], []) = (&mut members[..], &backups[..])
        {
            only.slow_start = 0;
            if config.fallback.is_none() {
                only.limits.max_fails = 0;
            }
        }
        // A server that joins others starts slowly; when all are new, there is nobody to take the load meanwhile.
        if tiers.iter().map(|tier| tier.members.len()).sum::<usize>() > new.len() {
            new.iter().for_each(|server| server.begin_slow_start());
        }
        let has_slow_start = tiers.iter().flat_map(|tier| &tier.members).any(|member| member.slow_start > 0);
        let panic = previous.filter(|_| config.panic_threshold.is_some());
        let panic = panic.map_or_else(Arc::default, |pool| pool.panic.clone());
        let ejections = previous.map_or_else(Arc::default, |pool| pool.ejections.clone());
        let copies = previous.map_or_else(Arc::default, |pool| pool.copies.clone());
        let circuit = config.circuit_breaker.as_ref();
        let circuit = circuit.map(|_| previous.and_then(|pool| pool.circuit.clone()).unwrap_or_default());
        let fallen = previous.filter(|_| config.fallback.is_some());
        let fallen = fallen.map_or_else(Arc::default, |pool| pool.fallen.clone());
        let budget = previous.map_or_else(Arc::default, |pool| pool.budget.clone());
        let judged = previous.filter(|pool| pool.config.health_check.is_some() || config.health_check.is_none());
        let judged = judged.map_or_else(Arc::default, |pool| pool.judged.clone());
        let sticky = Sticky::build(config, &tiers, previous);
        let tls = previous.map(|pool| &pool.tls).filter(|before| **before == config.tls).unwrap_or(&config.tls);
        Self {
            config: config.clone(),
            tiers,
            queue,
            budget,
            election,
            judged,
            has_slow_start,
            growing,
            panic,
            ejections,
            copies,
            circuit,
            sticky,
            fallen,
            tls: tls.clone(),
        }
    }

    /// This pool is at work from now on: its servers, and no others, may be its primary.
    pub fn settle_roles(&self) -> Option<RoleChange> {
        // In file order, which the tiers have lost.
        let place = |member: &&Member| self.config.servers.iter().position(|spec| spec.name == member.server.name);
        let mut members: Vec<&Member> = self.members().filter(|member| member.checked).collect();
        members.sort_by_key(place);
        let usable = |member: &Member| (member.server.clone(), member.standing == Standing::Checked);
        self.election.set_members(self.config.primaries, members.into_iter().map(usable).collect())
    }

    /// Whether several servers insist on being the primary, and how often that has been.
    pub fn conflicts(&self) -> (bool, u64) {
        (self.election.is_in_conflict(), self.election.conflicts())
    }

    /// A fresh state for one worker. `seed` should differ between workers; it is used by `random_two` only.
    pub fn new_state(&self, seed: u64) -> PickState {
        PickState { tiers: self.tiers.each_ref().map(|tier| State::new(&tier.nodes, seed)) }
    }

    /// All servers, backups last, each tier in file order.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.members().map(|member| &member.server)
    }

    /// Servers that would be picked now but for the load on them: not down, not unavailable by failures.
    pub fn available(&self, now: Millis) -> usize {
        self.members().filter(|member| member.is_available(now)).count()
    }

    /// Whether there is one that is `wanted`; the load on it does not count. Where there is none, the fallback pool is asked.
    pub fn has_available(&self, wanted: Option<Wanted>, now: Millis) -> bool {
        Wanted::finds(wanted, |role| self.members().any(|member| member.is_left(role, now)))
    }

    /// Whether a role is `wanted` that no server has, be it available or not.
    pub fn lacks_role(&self, wanted: Option<Wanted>) -> bool {
        wanted.is_some() && !Wanted::finds(wanted, |role| self.members().any(|member| member.server.has_role(role)))
    }

    /// Servers that are up. Unlike [`Pool::available`] this changes by what servers do and never by time alone: one that
    /// has failed `max_fails` times is up again when it has answered a request, or `rise` checks in a row, not after
    /// `fail_timeout`; so is a single server.
    pub fn up(&self) -> usize {
        self.members().filter(|member| member.is_up()).count()
    }

    /// Whether the checks have had a word on every server once; true of a pool without checks. It stays true when servers
    /// come later. False while there are none because no name resolves.
    pub fn has_been_judged(&self) -> bool {
        if self.config.health_check.is_none() || self.judged.load(Ordering::Relaxed) {
            return true;
        }
        let all_down = self.config.servers.iter().all(|spec| spec.down);
        let mut checked = self.checked().peekable();
        let judged = all_down || checked.peek().is_some() && checked.all(|(server, _)| server.has_been_judged());
        if judged {
            self.judged.store(true, Ordering::Relaxed);
        }
        judged
    }

    /// The servers that are to be checked, each with its host as written, an IPv6 address in brackets.
    pub fn checked(&self) -> impl Iterator<Item = (&Arc<Server>, &Arc<str>)> {
        let all = self.tiers.iter().flat_map(|tier| tier.members.iter().zip(&tier.nodes));
        all.filter(|(member, _)| member.checked).map(|(member, node)| (&member.server, &node.host))
    }

    /// How its servers speak TLS; `None`: they do not.
    pub fn tls(&self) -> Option<&PoolTls> {
        self.tls.as_ref()
    }

    /// The host of one of its servers as written, an IPv6 address in brackets.
    pub fn host_of(&self, server: &Server) -> Option<&str> {
        let mut all = self.tiers.iter().flat_map(|tier| tier.members.iter().zip(&tier.nodes));
        all.find(|(member, _)| member.server.id == server.id).map(|(_, node)| &*node.host)
    }

    /// Whether picks from `other` go on from where picks from this pool are: the same servers with the same weights, and the
    /// same algorithm.
    pub fn picks_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Tier, &Tier)| a.nodes == b.nodes;
        self.config.algorithm == other.config.algorithm && self.tiers.iter().zip(&other.tiers).all(same)
    }

    /// All servers.
    pub fn total(&self) -> usize {
        self.members().count()
    }

    /// Requests and connections on all servers now.
    pub fn in_flight(&self) -> u64 {
        self.servers().map(|server| u64::from(server.in_flight())).sum()
    }

    /// Leave to start one retry, until the permit is dropped; `None`: as many run as `retry_budget` and
    /// `max_retries` allow.
    pub fn try_retry(&self) -> Option<RetryPermit> {
        let most = self.config.circuit_breaker.as_ref().map_or(0, |limits| limits.max_retries);
        let permit = self.budget.try_start(self.config.retry_budget, most, self.in_flight());
        if permit.is_none() {
            self.note_refused_retry();
        }
        permit
    }

    /// Counts a failure of the lease's server for all workers, and makes this worker send less to it for a while.
    ///
    /// `state` is the worker's for this pool, also when the lease is of an older snapshot.
    pub fn on_failure(&self, state: &mut PickState, lease: &Lease, now: Millis) -> Failure {
        let mut max_fails = 0;
        for (tier, state) in self.tiers.iter().zip(&mut state.tiers) {
            if let Some(i) = tier.members.iter().position(|member| Arc::ptr_eq(&member.server, lease.server())) {
                state.on_failure(i, tier.members[i].limits.max_fails);
                max_fails = tier.members[i].max_fails;
            }
        }
        let failure = lease.failed(now);
        let reached = max_fails > 0 && lease.server().health.passive.row() == max_fails;
        Failure { is_failed: failure.is_failed || reached, ..failure }
    }

    /// What has changed by itself since the last call: to be called before a pick, and now and then without one. Allocates
    /// only when there is something; a pool without `ejection`, `panic_threshold` and `circuit_breaker` does nothing
    /// here.
    pub fn watch(&self, now: Millis) -> Vec<News> {
        let mut news = Vec::new();
        if self.config.ejection.is_some() {
            self.watch_ejections(now, &mut news);
        }
        if self.config.panic_threshold.is_some() {
            news.extend(self.watch_panic(now));
        }
        self.watch_circuit(now, &mut news);
        news
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.tiers.iter().flat_map(|tier| &tier.members)
    }
}

impl Member {
    fn new(server: Arc<Server>, spec: &model::ServerSpec, duty: Option<Duty>, pool: &model::Pool) -> Self {
        let checks = pool.health_check.is_some();
        let limits = Limits { max_fails: spec.max_fails, fail_timeout: to_millis(spec.fail_timeout) };
        let standing = match (spec.down, duty, checks) {
            (true, ..) => Standing::Down,
            (false, Some(duty), _) => Standing::Off(duty),
            (false, None, true) => Standing::Checked,
            (false, None, false) => Standing::Used,
        };
        let checked = checks && !spec.down && duty != Some(Duty::Maintenance);
        Self {
            server,
            standing,
            checked,
            max_conns: spec.max_conns,
            limits,
            slow_start: spec.slow_start.map_or(0, to_millis),
            ejects: pool.ejection.is_some(),
            max_fails: spec.max_fails,
        }
    }

    /// Every verdict on the server must be good.
    fn is_up(&self) -> bool {
        let passive = &self.server.health.passive;
        if self.ejects && self.server.health.ejection.is_ejected() {
            return false;
        }
        match self.standing {
            Standing::Used => !passive.has_failed(self.max_fails),
            Standing::Checked => !self.is_down() && !passive.has_failed_lately(self.max_fails),
            Standing::Down | Standing::Off(_) => false,
        }
    }

    /// Not to be used, whatever becomes of the others: the file or the checks say so.
    fn is_down(&self) -> bool {
        match self.standing {
            Standing::Used => false,
            Standing::Checked => self.server.health.active.is_down(),
            Standing::Down | Standing::Off(_) => true,
        }
    }

    fn is_available(&self, now: Millis) -> bool {
        !self.is_down() && !self.server.health.passive.is_unavailable(self.limits, now) && !self.is_out(now)
    }

    /// Whether it is available to whom wants `role`.
    fn is_left(&self, role: Option<Role>, now: Millis) -> bool {
        self.is_available(now) && self.server.has_role(role)
    }

    /// Neither the file nor the operator takes it out: what else is said of it may be ignored in panic.
    fn may_panic(&self) -> bool {
        matches!(self.standing, Standing::Used | Standing::Checked)
    }
}

fn node(spec: &model::ServerSpec, weight: u32, address: SocketAddr) -> Node {
    let (host, port) = match &spec.address {
        model::ServerAddress::Ip(SocketAddr::V4(written)) => (written.ip().to_string().into(), written.port()),
        model::ServerAddress::Ip(SocketAddr::V6(written)) => (format!("[{}]", written.ip()).into(), written.port()),
        model::ServerAddress::Name { host, port } => (host.clone(), *port),
    };
    Node { weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN), host, port, address }
}
