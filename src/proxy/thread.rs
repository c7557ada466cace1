//! Worker threads: how one starts, what it is told, and its life.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder as Runtime, LocalOptions};
use tokio::sync::mpsc;

use crate::net::{clock, wheel};
use crate::proxy::abort::{Order, abort_loop};
use crate::proxy::clients::Part;
use crate::proxy::listen::{Posts, accept_waiting, serve};
use crate::proxy::worker::{Shared, Worker};
use crate::telemetry::access_log::{LogBuffer, Sinks};
use crate::time::Millis;

/// How often idle connections to servers are looked through.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) progress: Arc<Progress>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) aborts: mpsc::UnboundedSender<Order>,
    pub(super) thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) tid: AtomicI32,
    pub(super) ticks: AtomicU64,
}

/// What the engine tells a worker; everything else it sees in [`Shared`].
#[derive(Debug)]
pub(super) enum Command {
    /// Accepts from these sockets, and looks at the snapshot.
    Serve(Posts),
    /// Looks at the snapshot: what is gone from it is cut at that time.
    Look(Millis),
    /// Roles have moved: sessions and exchanges look whether they are to end.
    Wake,
    Drain,
    /// Says when none is left of the connections there are.
    BeQuiet(Part),
    Resume,
    /// There are to be fewer workers: ends with its last connection.
    Leave,
    /// Another process takes over.
    Retire(Part),
    Stop,
}

/// What a worker hears: its commands, and addresses that leave.
type Inboxes = (mpsc::UnboundedReceiver<Command>, mpsc::UnboundedReceiver<Order>);

impl WorkerHandle {
    pub(super) fn spawn(id: usize, shared: &Arc<Shared>, sinks: &Sinks) -> io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let (commands, command_inbox) = mpsc::unbounded_channel();
        let (aborts, abort_inbox) = mpsc::unbounded_channel();
        let inboxes = (command_inbox, abort_inbox);
        let (shared, log, noted) = (Arc::clone(shared), sinks.buffer(), Arc::clone(&progress));
        // A local runtime cannot move to its thread; whether there is one is told from there.
        let (tell, built) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            noted.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            // The one blocking thread reads challenges, for which nothing else waits.
            let mut runtime = Runtime::new_current_thread();
            let runtime = match runtime.enable_all().max_blocking_threads(1).build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(e) => return drop(tell.send(e)),
            };
            drop(tell);
            runtime.block_on(run(id, shared, log, noted, inboxes));
            runtime.shutdown_background();
        })?;
        if let Ok(error) = built.recv() {
            return Err(error);
        }
        Ok(Self { progress, commands, aborts, thread: Some(thread) })
    }
}

/// The life of a worker.
async fn run(id: usize, shared: Arc<Shared>, log: LogBuffer, progress: Arc<Progress>, (mut commands, aborts): Inboxes) {
    let worker = Worker::new(shared, log, seed(id));
    let mut retiring = false;
    tokio::task::spawn_local(abort_loop(Rc::clone(&worker), aborts));
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
                if retiring && worker.clients.open() == 0 {
                    break;
                }
            }
            command = commands.recv() => match command {
                Some(Command::Serve(posts)) => serve(&worker, posts),
                Some(Command::Look(ends_at)) => {
                    drop(worker.view());
                    worker.end_the_gone_at(ends_at);
                }
                Some(Command::Wake) => {
                    worker.close_lost();
                    worker.wheel.wake_all();
                }
                Some(Command::Drain) => {
                    worker.shards.borrow().iter().for_each(|shard| shard.wake());
                    worker.wheel.wake_all();
                }
                Some(Command::Leave) => {
                    retiring = true;
                    worker.clients.retire();
                    worker.wheel.wake_all();
                }
                Some(Command::BeQuiet(old_gone)) => {
                    // What the kernel still queues has begun too.
                    accept_waiting(&worker);
                    worker.clients.become_quiet(worker.shared.accepted.load(Ordering::Relaxed), old_gone);
                    worker.wheel.wake_all();
                }
                Some(Command::Resume) if worker.retired() => {}
                Some(Command::Resume) => worker.clients.resume(),
                Some(Command::Retire(old_gone)) => {
                    worker.shards.borrow().iter().for_each(|shard| shard.wake());
                    worker.clients.become_quiet(worker.shared.accepted.load(Ordering::Relaxed), old_gone);
                    worker.wheel.wake_all();
                }
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
