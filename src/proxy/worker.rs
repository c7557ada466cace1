//! One worker: a thread with its own runtime, its own accept sockets and its own idle connections to servers.
//!
//! Everything here is used by one thread only; what workers share is in [`Shared`] and is atomic.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::health::breaker::Turn;
use crate::net::buffer::BufferPool;
use crate::net::clock;
use crate::net::pipe::PipePool;
use crate::net::wheel::Wheel;
use crate::pool::{
    CircuitOpen, Lease, News, Outcome, Overflow, Pass, PickError, PickInput, PickState, Pool, Tried, Wanted,
};
use crate::proxy::clients::Clients;
use crate::proxy::errors::Recent;
use crate::proxy::http::scratch::ScratchPool;
use crate::proxy::idle::IdleList;
use crate::proxy::listen::{ListenerCtx, Shard};
use crate::proxy::pump::Means;
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::LogBuffer;
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// Longest time an access log line waits for others, milliseconds.
const LOG_EVERY_MS: u64 = 100;

/// What all workers and the control runtime share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What new requests and sessions run on.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Generation of `snapshot`; workers compare it with their cached one, which costs a load of a line nobody writes.
    pub(crate) generation: AtomicU64,
    /// No new connections; those there are end after what they do now.
    pub(crate) draining: AtomicBool,
    /// Exchanges of snapshots before this one are cut: too many old configurations are kept by them.
    pub(crate) oldest: AtomicU64,
    /// Another process takes what is queued from the listening sockets.
    pub(crate) retired: AtomicBool,
    /// Client connections open.
    pub(crate) connections: AtomicUsize,
    /// Listening sockets that connections are still taken from.
    pub(crate) accepting: AtomicUsize,
    /// Client connections accepted so far; `$connection`.
    pub(crate) accepted: AtomicU64,
    /// Name of the machine; `$hostname`.
    pub(crate) hostname: String,
    /// Name of this box in the configuration; `$node`.
    pub(crate) node: Arc<str>,
    /// Wakes whoever waits for `connections` to become 0.
    pub(crate) none_left: Notify,
    /// The last exchanges and sessions that failed.
    pub(crate) errors: Recent,
}

/// The per-worker half of a snapshot.
#[derive(Debug)]
pub(crate) struct View {
    /// The shared half.
    pub(crate) snapshot: Arc<Snapshot>,
    /// By index of the pool in the snapshot.
    pub(crate) pools: Vec<Rc<PoolLocal>>,
}

/// What a worker keeps of a pool.
#[derive(Debug)]
pub(crate) struct PoolLocal {
    /// Weights under way of the balancing algorithm.
    pub(crate) pick: RefCell<PickState>,
    /// Idle connections; they outlive a snapshot.
    pub(crate) idle: Rc<RefCell<IdleList>>,
    /// Turn of `source_addresses`.
    pub(crate) source: Cell<usize>,
}

/// One worker's own things.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The rest of the process.
    pub(crate) shared: Arc<Shared>,
    /// Deadlines.
    pub(crate) wheel: Rc<Wheel>,
    /// Connections of its clients.
    pub(crate) clients: Clients,
    /// Parsed heads and work space.
    pub(crate) scratch: ScratchPool,
    /// Access log lines not yet handed to the writer.
    pub(crate) log: RefCell<LogBuffer>,
    /// What it accepts from.
    pub(super) shards: RefCell<Vec<Rc<Shard>>>,
    /// What its connections were accepted with.
    pub(super) contexts: RefCell<Vec<Weak<ListenerCtx>>>,
    /// When connections of what a reload has removed are cut.
    ends: RefCell<Vec<Millis>>,
    /// [`Shared::oldest`] as last looked at.
    oldest: Cell<u64>,
    buffers: Rc<BufferPool>,
    pipes: Rc<PipePool>,
    now: Cell<Millis>,
    flushed: Cell<Millis>,
    view: RefCell<Rc<View>>,
    random: Cell<u64>,
}

impl Worker {
    /// A worker that runs on the current snapshot.
    pub(crate) fn new(shared: Arc<Shared>, log: LogBuffer, seed: u64) -> Rc<Self> {
        let now = clock::now();
        let view = Rc::new(View::new(shared.snapshot.load_full(), None, seed));
        Rc::new(Self {
            shared,
            wheel: Wheel::new(now),
            clients: Clients::default(),
            scratch: ScratchPool::default(),
            log: RefCell::new(log),
            shards: RefCell::default(),
            contexts: RefCell::default(),
            ends: RefCell::default(),
            oldest: Cell::new(0),
            buffers: BufferPool::new(),
            pipes: PipePool::new(),
            now: Cell::new(now),
            flushed: Cell::new(now),
            view: RefCell::new(view),
            random: Cell::new(seed | 1),
        })
    }

    /// The time of the last tick: right to within [`crate::net::wheel::TICK`], and free.
    pub(crate) fn now(&self) -> Millis {
        self.now.get()
    }

    /// Moves the worker's time on: deadlines fire, log lines go out.
    pub(crate) fn tick(&self) {
        let now = clock::now();
        self.now.set(now);
        self.wheel.advance(now);
        if self.ends.borrow().iter().any(|at| *at <= now) {
            self.ends.borrow_mut().retain(|at| *at > now);
            self.wheel.wake_all();
        }
        if now.since(self.flushed.get()) >= LOG_EVERY_MS {
            self.flushed.set(now);
            self.log.borrow_mut().flush();
        }
    }

    /// The snapshot for a new request or session.
    pub(crate) fn view(&self) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        if view.snapshot.generation != self.shared.generation.load(Ordering::Acquire) {
            let next = Rc::new(View::new(self.shared.snapshot.load_full(), Some(&view), self.random()));
            let old = std::mem::replace(&mut *view, Rc::clone(&next));
            self.contexts.borrow_mut().retain(|context| {
                let context = context.upgrade();
                context.inspect(|context| context.enter(&old, &next)).is_some()
            });
        }
        Rc::clone(&view)
    }

    /// What connections that are still there, or may come, were accepted with.
    pub(super) fn live_contexts(&self) -> Vec<Rc<ListenerCtx>> {
        self.contexts.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Connections of listeners that are gone end after what they do now, and are cut at `at`; those of servers that are
    /// gone look then.
    pub(super) fn end_the_gone_at(&self, at: Millis) {
        let contexts = self.live_contexts();
        contexts.iter().for_each(|context| context.end_at(at));
        // In whole seconds, so that any number of reloads makes no more than so many.
        let look_at = Millis(at.0.saturating_add(999) / 1000 * 1000);
        let mut ends = self.ends.borrow_mut();
        if !ends.contains(&look_at) {
            ends.push(look_at);
        }
        drop(ends);
        let oldest = self.shared.oldest.load(Ordering::Relaxed);
        if self.oldest.replace(oldest) != oldest {
            self.wheel.wake_all();
        }
        if contexts.iter().any(|context| context.is_gone()) {
            self.wheel.wake_all();
        }
    }

    /// Picks a server; waits in the pool's queue, if it has one, while all are busy. `queued` gets the microseconds spent
    /// there.
    pub(crate) async fn pick(
        &self,
        pool: &Pool,
        local: &PoolLocal,
        input: &PickInput<'_>,
        tried: &mut Tried,
        queued: &mut Option<u64>,
    ) -> Result<Lease, Reason> {
        watch(pool, self.now());
        let picked = pool.pick(&mut local.pick.borrow_mut(), input, tried, self.now());
        let picked = match picked {
            Err(PickError::AllBusy) if pool.config.queue > 0 => {
                let _pending = pool.wait_for_connection().map_err(|Overflow| Reason::Overflow)?;
                let since = clock::now_micros();
                let waited = pool.pick_or_wait(&local.pick, input, tried, || self.now()).await;
                *queued = Some(clock::now_micros() - since);
                waited
            }
            picked => picked,
        };
        picked.map_err(|e| match e {
            PickError::NoServer if pool.lacks_role(tried.wanted()) => Reason::NoRole,
            PickError::QueueFull => Reason::QueueFull,
            PickError::QueueTimeout => Reason::QueueTimeout,
            PickError::AllBusy | PickError::NoServer => Reason::NoServer,
        })
    }

    /// Counts a failure of the lease's server, and notes why when that makes it unavailable.
    pub(crate) fn count_failure(&self, pool: &Pool, local: &PoolLocal, lease: &Lease, reason: impl Display) {
        let server = lease.server();
        let failure = pool.on_failure(&mut local.pick.borrow_mut(), lease, self.now());
        if failure.is_failed {
            let (pool, server_name, address) = (&server.pool, &server.name, server.address);
            tracing::warn!(%pool, server = %server_name, %address, %reason, "server has failed max_fails times");
            server.note_failures(format!("max_fails reached, the last: {reason}"), self.now());
        }
    }

    /// Counts a success of the lease's server, and notes when that makes it available again.
    pub(crate) fn count_success(&self, lease: &Lease) {
        if lease.succeeded() {
            let server = lease.server();
            tracing::info!(pool = %server.pool, server = %server.name, address = %server.address, "server answers again");
            server.note_recovery(self.now());
        }
    }

    /// Counts how the lease's server answered, for ejection and the circuit; a pool without them does nothing here.
    pub(crate) fn count_outcome(&self, pool: &Pool, lease: &Lease, outcome: Outcome) {
        let ejected = pool.note_outcome(lease, outcome, self.now());
        if pool.has_news() {
            watch(pool, self.now());
        }
        let Some(ejected) = ejected else { return };
        let server = lease.server();
        let kind = if ejected.gateway { "gateway errors" } else { "errors" };
        let why = format!("{} {kind} in a row", ejected.errors);
        let (pool, server_name, address, ms) = (&server.pool, &server.name, server.address, ejected.time);
        tracing::warn!(%pool, server = %server_name, %address, reason = %why, ms, "server is ejected");
        server.note_ejection(why, self.now());
    }

    /// Closes idle connections to servers that are too old or that the server closed.
    pub(crate) fn sweep(&self) {
        let view = self.view();
        for (local, pool) in view.pools.iter().zip(&view.snapshot.pools) {
            local.idle.borrow_mut().sweep(&pool.config, self.now());
        }
    }

    /// Closes idle connections that carried writes to servers that have ceased to be the primary.
    pub(super) fn close_lost(&self) {
        let view = self.view();
        for (local, pool) in view.pools.iter().zip(&view.snapshot.pools) {
            let losses = |id| pool.servers().find(|server| server.id == id).map(|server| server.role_losses());
            local.idle.borrow_mut().close_lost(losses);
        }
    }

    /// Gives up every idle connection to a server: descriptors have run out.
    pub(crate) fn close_idle(&self) {
        for local in &self.view().pools {
            local.idle.borrow_mut().clear();
        }
    }

    /// Buffers and pipes of this worker, for a pump that may hold `read_ahead` bytes.
    pub(crate) fn means(&self, read_ahead: usize) -> Means {
        Means { buffers: Rc::clone(&self.buffers), pipes: Rc::clone(&self.pipes), read_ahead }
    }

    /// Buffers of this worker.
    pub(crate) fn buffers(&self) -> &Rc<BufferPool> {
        &self.buffers
    }

    /// The next of a sequence that is good enough for ids and jitter, not for secrets (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Whether the process is about to leave: nothing new is accepted, and idle connections end.
    pub(crate) fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Whether another process has taken over: nothing new is accepted here, and connections end after what they do.
    pub(crate) fn retired(&self) -> bool {
        self.shared.retired.load(Ordering::Acquire)
    }
}

/// [`Snapshot::admit`] of a request or connection; tells when another pool takes over, and when it does no more. For a
/// pool without a fallback that is one look at its configuration.
pub(crate) fn admit(
    snapshot: &Snapshot,
    index: usize,
    wanted: Option<Wanted>,
    now: Millis,
) -> Result<(usize, Option<Pass>), CircuitOpen> {
    let admitted = snapshot.admit(index, wanted, now);
    let pool = &snapshot.pools[index];
    if pool.config.fallback.is_some() {
        let taker = admitted.as_ref().map_or(index, |(taker, _)| *taker);
        if pool.falls_back(wanted, taker != index) {
            let name = &pool.config.name;
            if taker == index {
                tracing::info!(pool = %name, "fallback_pool is not used any more");
            } else {
                let by = &snapshot.pools[taker].config.name;
                let why = if pool.would_admit(now).is_ok() { "no server is available" } else { "the circuit is open" };
                tracing::warn!(pool = %name, by = %by, "{why}: fallback_pool takes over");
            }
        }
    }
    admitted
}

/// Tells what has changed in a pool by itself: a panic, the end of an ejection, the circuit.
pub(crate) fn watch(pool: &Pool, now: Millis) {
    for news in pool.watch(now) {
        let name = &pool.config.name;
        match news {
            News::Panic { on: true, well, all } => {
                tracing::warn!(pool = %name, well, all, "fewer servers than panic_threshold are well: health is ignored");
            }
            News::Panic { on: false, well, all } => {
                tracing::info!(pool = %name, well, all, "panic is over: health is heeded again");
            }
            News::Returned(server) => {
                tracing::info!(pool = %name, server = %server.name, address = %server.address, "ejection is over");
                server.note_return(now);
            }
            News::Circuit(Turn::Opened { errors, of }) => {
                tracing::warn!(pool = %name, errors, of, "circuit is open: nothing is sent to the pool for open_time");
            }
            News::Circuit(Turn::HalfOpened) => tracing::info!(pool = %name, "circuit is half open: trials pass"),
            News::Circuit(Turn::Closed) => tracing::info!(pool = %name, "circuit is closed again"),
        }
    }
}

impl View {
    fn new(snapshot: Arc<Snapshot>, previous: Option<&Self>, seed: u64) -> Self {
        let known = previous.into_iter().flat_map(|p| p.snapshot.pools.iter().zip(&p.pools));
        let mut known: HashMap<&str, _> = known.map(|(pool, local)| (&*pool.config.name, (pool, local))).collect();
        let fresh = |pool: &Pool, idle| {
            Rc::new(PoolLocal { pick: RefCell::new(pool.new_state(seed)), idle, source: Cell::new(0) })
        };
        let local = |pool: &Arc<Pool>| match known.remove(&*pool.config.name) {
            // What is under way there gives its connections back to where they came from.
            Some((before, _)) if !pool.config.connects_as(&before.config) => fresh(pool, Rc::default()),
            Some((before, local)) if pool.picks_as(before) => Rc::clone(local),
            Some((_, local)) => {
                local.idle.borrow_mut().keep_only(|id| pool.servers().any(|server| server.id == id));
                fresh(pool, Rc::clone(&local.idle))
            }
            None => fresh(pool, Rc::default()),
        };
        let pools = snapshot.pools.iter().map(local).collect();
        Self { snapshot, pools }
    }
}
