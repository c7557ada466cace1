//! The data path: workers that accept, route, balance and relay.
//!
//! ```text
//! Engine (control runtime) -- one thread each --> Worker: accept loops (listen.rs)
//!                                                   -> http::Conn, one task a connection
//!                                                   -> tcp::Conn, one task a session
//! ```
//! Workers share only atomics and the current snapshot; the engine talks to them through those and a channel each.

mod abort;
mod clients;
mod http;
mod idle;
mod listen;
mod pump;
mod session;
mod tcp;
mod tunnel;
mod worker;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};

use crate::config::model::Config;
use crate::net::{clock, wheel};
use crate::pool::{Pool, ServerState};
use crate::proxy::abort::{Order, Shard, abort_loop};
use crate::proxy::clients::Part;
use crate::proxy::listen::{ListenerCounters, ListenerCtx, accept_loop};
use crate::proxy::worker::{Shared, Worker};
use crate::snapshot::{Addresses, Snapshot};
use crate::sys::watched::Watched;
use crate::telemetry::access_log::Sinks;

pub use crate::proxy::clients::Done;

/// How often idle connections to servers are looked through.
const SWEEP: Duration = Duration::from_secs(1);

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

#[derive(Debug)]
struct WorkerHandle {
    progress: Arc<Progress>,
    commands: mpsc::UnboundedSender<Command>,
    aborts: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    tid: AtomicI32,
    ticks: AtomicU64,
}

/// What the engine tells a worker; everything else it sees in [`Shared`].
#[derive(Debug)]
enum Command {
    Drain,
    /// Says when none is left of the connections there are.
    BeQuiet(Part),
    Resume,
    Stop,
}

/// What a worker hears: its commands, and addresses that leave.
type Inboxes = (mpsc::UnboundedReceiver<Command>, mpsc::UnboundedReceiver<Order>);

/// The running data path.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    sinks: Sinks,
    workers: Vec<WorkerHandle>,
    counters: HashMap<Arc<str>, Arc<ListenerCounters>>,
}

impl Engine {
    /// Starts the workers; they accept when this returns.
    ///
    /// `log_files` are the descriptors of the access logs' files, `state` what a predecessor said of the servers
    /// ([`Engine::state`]; null: nothing), `addresses` what is known of the servers' names.
    ///
    /// # Errors
    /// When a thread, a runtime or the log writer cannot be made.
    pub fn start(
        config: Config,
        listeners: Vec<BoundListener>,
        log_files: Vec<(PathBuf, OwnedFd)>,
        addresses: &Addresses,
        state: serde_json::Value,
    ) -> io::Result<Self> {
        let sinks = Sinks::start()?;
        for (path, fd) in log_files {
            sinks.set_file(&path, fd);
        }
        let count = config.global.workers.map_or_else(default_workers, |n| n.get() as usize);
        let snapshot = Snapshot::build(Arc::new(config), addresses, &sinks, None);
        if let Ok(states) = serde_json::from_value::<Vec<ServerState>>(state) {
            for pool in &snapshot.pools {
                pool.import(&states, clock::now());
            }
        }
        let config = Arc::clone(&snapshot.config);
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(snapshot.generation),
            snapshot: ArcSwap::from_pointee(snapshot),
            draining: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            accepting: AtomicUsize::new(listeners.iter().map(|l| l.shards.len()).sum()),
            accepted: AtomicU64::new(0),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            node: Arc::clone(&config.node),
            none_left: Notify::new(),
        });
        let counters: HashMap<_, _> =
            config.listeners.iter().map(|l| (Arc::clone(&l.name), Arc::<ListenerCounters>::default())).collect();
        let mut shares: Vec<Vec<(ListenerSeed, TcpListener)>> = (0..count).map(|_| Vec::new()).collect();
        for bound in listeners {
            let Some(index) = config.listeners.iter().position(|l| l.name == bound.name) else { continue };
            for (i, socket) in bound.shards.into_iter().enumerate() {
                socket.set_nonblocking(true)?;
                let seed = ListenerSeed {
                    config: Arc::clone(&config),
                    index,
                    address: bound.addr,
                    counters: Arc::clone(&counters[&bound.name]),
                };
                // More shards than workers: some workers serve several, so that no shard is without one.
                shares[i % count].push((seed, socket));
            }
        }
        let workers = shares
            .into_iter()
            .enumerate()
            .map(|(id, share)| WorkerHandle::spawn(id, share, &shared, &sinks))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { shared, sinks, workers, counters })
    }

    /// How far each worker has come.
    pub fn progress(&self) -> Vec<WorkerProgress> {
        self.workers
            .iter()
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

    /// Accepts what is queued, then nothing more; ends idle connections, and the others after their response.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        for w in &self.workers {
            let _ = w.commands.send(Command::Drain);
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
        for w in &self.workers {
            let _ = w.commands.send(Command::BeQuiet(part.clone()));
        }
        done
    }

    /// Ends what [`Engine::quiet`] began.
    pub fn resume(&self) {
        for w in &self.workers {
            let _ = w.commands.send(Command::Resume);
        }
    }

    /// Resets the client connections whose local address is one of `addresses`, those included that wait to be accepted,
    /// and takes what they hold of servers back. Done when their sockets are closed.
    ///
    /// Only addresses of virtual routers count.
    pub fn abort(&self, addresses: &[IpAddr]) -> Done {
        let (done, part) = Done::new();
        for w in &self.workers {
            let _ = w.aborts.send(Order { addresses: addresses.to_vec(), done: part.clone() });
        }
        done
    }

    /// The pools that virtual routers track, by name.
    pub fn pools(&self) -> Vec<PoolHealth> {
        let snapshot = self.shared.snapshot.load();
        let tracked: HashSet<_> =
            snapshot.config.routers.iter().filter_map(|r| r.track_pools.as_ref()).flat_map(|t| &t.pools).collect();
        let health = |p: &Arc<Pool>| PoolHealth {
            name: Arc::clone(&p.config.name),
            up: p.up(),
            total: p.total(),
            judged: p.has_been_judged(),
        };
        snapshot.pools.iter().filter(|p| tracked.contains(&p.config.name)).map(health).collect()
    }

    /// What a successor needs to know of the servers.
    pub fn state(&self) -> serde_json::Value {
        let snapshot = self.shared.snapshot.load();
        let states: Vec<ServerState> = snapshot.pools.iter().flat_map(|p| p.export()).collect();
        serde_json::to_value(states).unwrap_or_default()
    }

    /// Names of servers resolved anew: pools are rebuilt, and what did not change stays.
    pub fn set_addresses(&self, addresses: &Addresses) {
        let current = self.shared.snapshot.load_full();
        let next = Snapshot::build(Arc::clone(&current.config), addresses, &self.sinks, Some(&current));
        let generation = next.generation;
        self.shared.snapshot.store(Arc::new(next));
        self.shared.generation.store(generation, Ordering::Release);
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
        for w in &self.workers {
            let _ = w.commands.send(Command::Stop);
        }
        for w in &mut self.workers {
            if let Some(thread) = w.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a worker makes its [`ListenerCtx`] from.
struct ListenerSeed {
    config: Arc<Config>,
    index: usize,
    address: SocketAddr,
    counters: Arc<ListenerCounters>,
}

impl ListenerSeed {
    fn context(self) -> ListenerCtx {
        let listener = &self.config.listeners[self.index];
        ListenerCtx {
            name: Arc::clone(&listener.name),
            index: self.index,
            address: self.address,
            http: listener.http.clone(),
            tcp: listener.tcp.clone(),
            max_connections: listener.max_connections,
            counters: self.counters,
            max_total: self.config.global.max_connections as usize,
            tracked: self.config.is_reached_virtually(self.address.ip()),
        }
    }
}

impl WorkerHandle {
    fn spawn(
        id: usize,
        share: Vec<(ListenerSeed, TcpListener)>,
        shared: &Arc<Shared>,
        sinks: &Sinks,
    ) -> io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let (commands, command_inbox) = mpsc::unbounded_channel();
        let (aborts, abort_inbox) = mpsc::unbounded_channel();
        let inboxes = (command_inbox, abort_inbox);
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        // Built here only to fail here; a local runtime cannot move to its thread.
        drop(runtime?);
        let (shared, log, noted) = (Arc::clone(shared), sinks.buffer(), Arc::clone(&progress));
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            noted.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            let Ok(runtime) = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) else {
                // The ticks stand still: the supervisor sees it.
                tracing::error!(worker = id, "no runtime: out of descriptors?");
                return;
            };
            runtime.block_on(run(id, share, shared, log, noted, inboxes));
            runtime.shutdown_background();
        })?;
        Ok(Self { progress, commands, aborts, thread: Some(thread) })
    }
}

/// The life of a worker.
async fn run(
    id: usize,
    share: Vec<(ListenerSeed, TcpListener)>,
    shared: Arc<Shared>,
    log: crate::telemetry::access_log::LogBuffer,
    progress: Arc<Progress>,
    (mut commands, aborts): Inboxes,
) {
    let worker = Worker::new(shared, log, seed(id));
    let drain = Rc::new(Notify::new());
    let mut tracked = Vec::new();
    for (seed, socket) in share {
        let ctx = Rc::new(seed.context());
        let socket = Rc::new(Watched::new(socket.into()));
        if ctx.tracked {
            tracked.push(Shard { ctx: Rc::clone(&ctx), socket: Rc::downgrade(&socket) });
        }
        tokio::task::spawn_local(accept_loop(Rc::clone(&worker), ctx, socket, Rc::clone(&drain)));
    }
    tokio::task::spawn_local(abort_loop(Rc::clone(&worker), tracked, aborts));
    let mut tick = tokio::time::interval(wheel::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut swept = worker.now();
    loop {
        // Both arms only wait: nothing is lost when the other wins.
        tokio::select! {
            _ = tick.tick() => {
                worker.tick();
                progress.ticks.fetch_add(1, Ordering::Relaxed);
                if worker.now() >= swept.after(SWEEP) {
                    swept = worker.now();
                    worker.sweep();
                }
            }
            command = commands.recv() => match command {
                Some(Command::Drain) => {
                    drain.notify_waiters();
                    worker.wheel.wake_all();
                }
                Some(Command::BeQuiet(old_gone)) => {
                    worker.clients.become_quiet(worker.shared.accepted.load(Ordering::Relaxed), old_gone);
                    worker.wheel.wake_all();
                }
                Some(Command::Resume) => worker.clients.resume(),
                Some(Command::Stop) | None => break,
            }
        }
    }
    worker.log.borrow_mut().flush();
}

/// Differs from worker to worker and from start to start.
fn seed(id: usize) -> u64 {
    let mut bytes = [0u8; 8];
    // Fails only before the kernel has entropy; the clock differs enough then.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_le_bytes(bytes) ^ clock::now_micros().rotate_left(32) ^ (id as u64)
}
