//! The data path: workers that accept, route, balance and relay.
//!
//! ```text
//! Engine (control runtime) -- one thread each --> Worker: accept loops (listen.rs)
//!                                                   -> handshake.rs, on listeners with TLS
//!                                                   -> http::Conn, one task a connection
//!                                                   -> tcp::Conn, one task a session
//! ```
//! Workers share only atomics and the current snapshot; the engine talks to them through those and a channel each.

mod abort;
mod clients;
mod errors;
mod explain;
mod gate;
mod handshake;
mod http;
mod idle;
mod link;
mod listen;
mod preface;
mod pump;
mod secured;
mod session;
mod status;
mod tcp;
mod thread;
mod tunnel;
mod worker;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::config::model::{Config, Overrides};
use crate::net::clock;
use crate::net::listen::inode;
use crate::pool::{Pool, ServerState};
use crate::proxy::abort::Order;
use crate::proxy::errors::Recent;
use crate::proxy::listen::{ListenerCounters, Post, Posts};
use crate::proxy::thread::{Command, WorkerHandle};
use crate::proxy::worker::Shared;
use crate::snapshot::{Addresses, Snapshot};
use crate::telemetry::access_log::Sinks;
use crate::time::Millis;
use crate::tls::TicketSeed;

pub use crate::proxy::clients::Done;
pub use crate::proxy::errors::{FailedExchange, FailedTry};
pub use crate::proxy::explain::{Explanation, Liveness, PassedOver, Query, explain};
pub use crate::proxy::listen::HANDSHAKES;
pub use crate::proxy::status::{
    CircuitStatus, EngineStatus, HandshakeCounts, Latencies, LimitStatus, ListenerStatus, PoolStatus, RecentErrors,
    ServerStatus,
};

/// So many configurations before the current one are kept for exchanges that began with them.
const OLD_CONFIGURATIONS: usize = 16;

/// A bound, listening address with one socket for each worker, or more, or fewer.
#[derive(Debug)]
pub struct BoundListener {
    /// The listener's name.
    pub name: Arc<str>,
    /// What it is bound to.
    pub addr: SocketAddr,
    /// Nonblocking sockets that share the address by SO_REUSEPORT; at least one.
    pub shards: Vec<TcpListener>,
}

/// How far a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerProgress {
    /// Thread id.
    pub tid: i32,
    /// Grows with every turn of its timer wheel, at least 20 times a second.
    pub ticks: u64,
}

/// Whether a pool can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolHealth {
    /// Its name.
    pub name: Arc<str>,
    /// Servers that are up, backups included.
    pub up: usize,
    /// All servers; of a name that does not resolve, none.
    pub total: usize,
    /// Its first round of health checks is complete, or it has none.
    pub judged: bool,
}

/// The running data path.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    sinks: Arc<Sinks>,
    workers: Vec<WorkerHandle>,
    /// Those that end with their last connection.
    leaving: Vec<WorkerHandle>,
    /// Workers that there ever were.
    born: usize,
    listeners: Vec<BoundListener>,
    /// Configurations before, and the number of the first snapshot after each: exchanges under way may keep them.
    before: VecDeque<(Weak<Config>, u64)>,
    counters: HashMap<Arc<str>, Arc<ListenerCounters>>,
}

/// What a configuration needs to be built while another runs; on any thread.
#[derive(Debug, Clone)]
pub struct Builder {
    current: Arc<Snapshot>,
    sinks: Arc<Sinks>,
}

impl Builder {
    /// The snapshot that [`Engine::apply`] will make current. Nothing that runs is touched.
    pub fn build(&self, config: Config, overrides: Overrides, addresses: &Addresses) -> Snapshot {
        Snapshot::build(Arc::new(config), Arc::new(overrides), addresses, &self.sinks, Some(&self.current))
    }
}

impl Engine {
    /// Starts the workers; they accept when this returns.
    ///
    /// `log_files` are the descriptors of the access logs' files, `state` what a predecessor said of the servers
    /// ([`Engine::state`]; null: nothing) and `tickets` what it sealed tickets with, `addresses` what is known of the servers'
    /// names.
    ///
    /// # Errors
    /// When a thread, a runtime or the log writer cannot be made.
    pub fn start(
        config: Config,
        overrides: Overrides,
        listeners: Vec<BoundListener>,
        log_files: Vec<(PathBuf, OwnedFd)>,
        addresses: &Addresses,
        state: &RawValue,
        tickets: Option<&TicketSeed>,
    ) -> io::Result<Self> {
        let sinks = Arc::new(Sinks::start()?);
        for (path, fd) in log_files {
            sinks.set_file(&path, fd);
        }
        let snapshot = Snapshot::build(Arc::new(config), Arc::new(overrides), addresses, &sinks, None);
        if let Ok(states) = serde_json::from_str::<Vec<ServerState>>(state.get()) {
            for pool in &snapshot.pools {
                pool.import(&states, clock::now());
            }
        }
        if let Some(seed) = tickets {
            snapshot.tickets.adopt(seed);
        }
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(snapshot.generation),
            draining: AtomicBool::new(false),
            oldest: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            accepting: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            node: Arc::clone(&snapshot.config.node),
            none_left: Notify::new(),
            errors: Recent::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
        });
        let mut this = Self {
            shared,
            sinks,
            workers: Vec::new(),
            leaving: Vec::new(),
            born: 0,
            listeners,
            before: VecDeque::new(),
            counters: HashMap::new(),
        };
        this.staff(Millis(u64::MAX))?;
        Ok(this)
    }

    /// What builds the snapshot of another configuration.
    pub fn builder(&self) -> Builder {
        Builder { current: self.snapshot(), sinks: Arc::clone(&self.sinks) }
    }

    /// Goes over to `next`, of [`Builder::build`], which listens on `listeners`; what is under way ends as it began. Servers
    /// and listeners that are gone get no new work; what they still have is cut after the `drain_timeout` of `next`.
    ///
    /// # Errors
    /// A thread or a runtime cannot be made: there are fewer workers than there should be, and everything else is done.
    pub fn apply(
        &mut self,
        next: Snapshot,
        listeners: Vec<BoundListener>,
        log_files: Vec<(PathBuf, OwnedFd)>,
        addresses: &Addresses,
    ) -> io::Result<()> {
        for (path, fd) in log_files {
            self.sinks.set_file(&path, fd);
        }
        let current = self.snapshot();
        // Names may have got other addresses since it was built.
        let next = if next.generation == current.generation + 1 {
            next
        } else {
            let Snapshot { config, overrides, .. } = next;
            Snapshot::build(config, overrides, addresses, &self.sinks, Some(&current))
        };
        let ends_at = clock::now().after(next.config.global.drain_timeout);
        self.before.push_back((Arc::downgrade(&current.config), next.generation));
        self.make_current(next, &current, ends_at);
        drop(current);
        self.let_go_of_the_oldest();
        self.listeners = listeners;
        let staffed = self.staff(ends_at);
        self.sinks.sweep();
        staffed
    }

    fn make_current(&self, next: Snapshot, before: &Snapshot, ends_at: Millis) {
        let stay: HashSet<u32> = next.pools.iter().flat_map(|pool| pool.servers()).map(|server| server.id).collect();
        for server in before.pools.iter().flat_map(|pool| pool.servers()).filter(|s| !stay.contains(&s.id)) {
            server.end_at(ends_at);
        }
        let generation = next.generation;
        self.shared.snapshot.store(Arc::new(next));
        self.shared.generation.store(generation, Ordering::Release);
    }

    /// Bounds the configurations that are kept by exchanges under way.
    fn let_go_of_the_oldest(&mut self) {
        self.before.retain(|(config, _)| config.strong_count() > 0);
        while self.before.len() > OLD_CONFIGURATIONS {
            let Some((_, oldest)) = self.before.pop_front() else { break };
            tracing::warn!("exchanges go on since {OLD_CONFIGURATIONS} reloads ago: the oldest are cut");
            self.shared.oldest.store(oldest, Ordering::Relaxed);
        }
    }

    /// As many workers as the configuration says, and every socket with one of them.
    fn staff(&mut self, ends_at: Millis) -> io::Result<()> {
        let config = Arc::clone(&self.snapshot().config);
        let count = config.global.workers.map_or_else(default_workers, |n| n.get() as usize);
        self.leaving.retain(|w| w.thread.as_ref().is_some_and(|thread| !thread.is_finished()));
        let mut result = Ok(());
        while self.workers.len() < count && result.is_ok() {
            let spawned = WorkerHandle::spawn(self.born, &self.shared, &self.sinks);
            result = spawned.map(|worker| self.workers.push(worker));
            self.born += 1;
        }
        let left: Vec<_> = self.workers.drain(count.min(self.workers.len())..).collect();
        let workers = self.workers.len().max(1);
        let mut posts: Vec<Vec<Post>> = (0..workers).map(|_| Vec::new()).collect();
        let mut all = HashMap::new();
        for bound in &self.listeners {
            let counters = self.counters.entry(Arc::clone(&bound.name)).or_default();
            for (i, socket) in bound.shards.iter().enumerate() {
                socket.set_nonblocking(true)?;
                let ino = inode(socket)?;
                all.insert(ino, (Arc::clone(&bound.name), bound.addr));
                // More shards than workers: some workers serve several, so that no shard is without one.
                posts[i % workers].push(Post {
                    ino,
                    socket: socket.as_fd().try_clone_to_owned()?,
                    name: Arc::clone(&bound.name),
                    address: bound.addr,
                    counters: Arc::clone(counters),
                });
            }
        }
        self.counters.retain(|name, counters| {
            Arc::strong_count(counters) > 1 || self.listeners.iter().any(|bound| bound.name == *name)
        });
        let all = Arc::new(all);
        for (worker, posts) in self.workers.iter().zip(posts) {
            let _ = worker.commands.send(Command::Serve(Posts { posts, all: Arc::clone(&all), ends_at }));
        }
        for worker in left {
            let posts = Vec::new();
            let _ = worker.commands.send(Command::Serve(Posts { posts, all: Arc::clone(&all), ends_at }));
            let _ = worker.commands.send(Command::Leave);
            self.leaving.push(worker);
        }
        result
    }

    /// All workers, also those that are about to end.
    fn everybody(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.workers.iter().chain(&self.leaving)
    }

    /// How far each worker has come.
    pub fn progress(&self) -> Vec<WorkerProgress> {
        let runs = |w: &&WorkerHandle| w.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        self.everybody()
            .filter(runs)
            .map(|w| WorkerProgress {
                tid: w.progress.tid.load(Ordering::Relaxed),
                ticks: w.progress.ticks.load(Ordering::Relaxed),
            })
            .collect()
    }
    /// Client connections open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Client connections of a listener: open, accepted and rejected so far.
    pub fn listener_connections(&self, name: &str) -> Option<(u32, u64, u64)> {
        let c = self.counters.get(name)?;
        let load = Ordering::Relaxed;
        Some((c.open.load(load), c.accepted.load(load), c.rejected.load(load)))
    }

    /// Connections of a listener that its `allow` and `deny` have turned away so far.
    pub fn listener_denied(&self, name: &str) -> u64 {
        self.counters.get(name).map_or(0, |c| c.denied.load(Ordering::Relaxed))
    }

    /// TLS handshakes of a listener so far.
    pub fn listener_handshakes(&self, name: &str) -> HandshakeCounts {
        let counters = self.counters.get(name);
        let count = |of: fn(&ListenerCounters) -> &AtomicU64| counters.map_or(0, |c| of(c).load(Ordering::Relaxed));
        HandshakeCounts { handshakes: count(|c| &c.handshakes), failed: count(|c| &c.failed_handshakes) }
    }

    /// Ends the sessions and exchanges whose server is the primary no more.
    pub fn look_at_roles(&self) {
        if self.snapshot().config.ends_with_roles() {
            for w in self.everybody() {
                let _ = w.commands.send(Command::Wake);
            }
        }
    }

    /// Accepts what is queued, then nothing more; ends idle connections, and the others after their response.
    pub fn drain(&mut self) {
        // Workers have their own descriptors of the sockets; these would keep them open when they are done.
        self.listeners.clear();
        self.shared.draining.store(true, Ordering::Release);
        for w in self.everybody() {
            let _ = w.commands.send(Command::Drain);
        }
    }

    /// Leaves the listening sockets to another process at once, keeps no connection, and finishes the exchanges under way;
    /// for good. A connection in use ends with its next answer, so that no request meets a closed one. [`Engine::drained`]
    /// tells when none is left.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::Release);
        let (_nobody_waits, part) = Done::new();
        for w in &self.workers {
            let _ = w.commands.send(Command::Retire(part.clone()));
        }
    }

    /// Resolves when draining has emptied the backlogs and no client connection is left.
    pub async fn drained(&self) {
        loop {
            let none_left = self.shared.none_left.notified();
            if self.shared.accepting.load(Ordering::Acquire) == 0 && self.connections() == 0 {
                return;
            }
            none_left.await;
        }
    }

    /// Goes on accepting and serving, but keeps no connection: idle ones end, the others after their response. Done when
    /// none is left of those that are open now. TCP sessions and tunnels go on, and are waited for too.
    pub fn quiet(&self) -> Done {
        let (done, part) = Done::new();
        for w in self.everybody() {
            let _ = w.commands.send(Command::BeQuiet(part.clone()));
        }
        done
    }

    /// Ends what [`Engine::quiet`] began, but for an engine that has retired.
    pub fn resume(&self) {
        for w in self.everybody() {
            let _ = w.commands.send(Command::Resume);
        }
    }

    /// Resets the client connections whose local address is one of `addresses`, those included that wait to be accepted,
    /// and takes what they hold of servers back. Done when their sockets are closed.
    ///
    /// Only addresses of virtual routers count.
    pub fn abort(&self, addresses: &[IpAddr]) -> Done {
        let (done, part) = Done::new();
        for w in self.everybody() {
            let _ = w.aborts.send(Order { addresses: addresses.to_vec(), done: part.clone() });
        }
        done
    }

    /// The pools that virtual routers track, by name.
    pub fn pools(&self) -> Vec<PoolHealth> {
        let snapshot = self.shared.snapshot.load();
        let tracked: HashSet<_> =
            snapshot.config.routers.iter().filter_map(|r| r.track_pools.as_ref()).flat_map(|t| &t.pools).collect();
        snapshot.pools.iter().for_each(|pool| worker::watch(pool, clock::now()));
        let health = |p: &Arc<Pool>| PoolHealth {
            name: Arc::clone(&p.config.name),
            up: p.up(),
            total: p.total(),
            judged: p.has_been_judged(),
        };
        snapshot.pools.iter().filter(|p| tracked.contains(&p.config.name)).map(health).collect()
    }

    /// What a successor needs to know of the servers.
    pub fn state(&self) -> Box<RawValue> {
        let snapshot = self.shared.snapshot.load();
        let states: Vec<ServerState> = snapshot.pools.iter().flat_map(|p| p.export()).collect();
        serde_json::value::to_raw_value(&states).unwrap_or_default()
    }

    /// What a successor needs to open the session tickets that this one sealed.
    pub fn ticket_seed(&self) -> TicketSeed {
        self.shared.snapshot.load().tickets.seed()
    }

    /// Counts what another engine has counted from its state `since` to its state `until`.
    pub fn count(&self, since: &RawValue, until: &RawValue) {
        let states = |state: &RawValue| serde_json::from_str::<Vec<ServerState>>(state.get());
        if let (Ok(since), Ok(until)) = (states(since), states(until)) {
            self.shared.snapshot.load().pools.iter().for_each(|pool| pool.count(&since, &until));
        }
    }

    /// Names of servers resolved anew: pools are rebuilt, and what did not change stays.
    pub fn set_addresses(&self, addresses: &Addresses) {
        let current = self.snapshot();
        self.rebuild(&current, Arc::clone(&current.overrides), addresses);
    }

    /// What the operator says of servers is other than it was.
    pub fn set_overrides(&self, overrides: Overrides, addresses: &Addresses) {
        self.rebuild(&self.snapshot(), Arc::new(overrides), addresses);
    }

    fn rebuild(&self, current: &Snapshot, overrides: Arc<Overrides>, addresses: &Addresses) {
        let config = Arc::clone(&current.config);
        let next = Snapshot::build(config, overrides, addresses, &self.sinks, Some(current));
        let ends_at = clock::now().after(current.config.global.drain_timeout);
        self.make_current(next, current, ends_at);
        for w in self.everybody() {
            let _ = w.commands.send(Command::Look(ends_at));
        }
    }

    /// Goes on writing access logs to these descriptors.
    pub fn reopen_logs(&self, files: Vec<(PathBuf, OwnedFd)>) {
        for (path, fd) in files {
            self.sinks.set_file(&path, fd);
        }
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for w in self.everybody() {
            let _ = w.commands.send(Command::Stop);
        }
        for w in self.workers.iter_mut().chain(&mut self.leaving) {
            if let Some(thread) = w.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
