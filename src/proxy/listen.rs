//! Accepting: each worker takes connections from its own shard of every listening socket.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::sync::Notify;

use crate::config::model;
use crate::net::{Sock, Transport};
use crate::proxy::http::Conn;
use crate::proxy::tcp;
use crate::proxy::worker::{Shared, Worker};
use crate::sys::watched::Watched;

/// Connections taken in a row before other tasks get their turn.
const BATCH: usize = 64;

/// Pause after descriptors ran out; connections wait in the backlog meanwhile.
const STARVED: Duration = Duration::from_millis(100);

/// What connections of a listener share on one worker. Fixed when they are accepted.
#[derive(Debug)]
pub(crate) struct ListenerCtx {
    /// The table's name.
    pub(crate) name: Arc<str>,
    /// Its place in [`crate::snapshot::Snapshot::listeners`].
    pub(crate) index: usize,
    /// The address it is bound to.
    pub(crate) address: SocketAddr,
    /// HTTP settings.
    pub(crate) http: model::HttpListener,
    /// TCP settings.
    pub(crate) tcp: Option<model::TcpListener>,
    /// Connections at most.
    pub(crate) max_connections: Option<u32>,
    /// Connections over all workers.
    pub(crate) counters: Arc<ListenerCounters>,
    /// Over all listeners.
    pub(crate) max_total: usize,
}

/// Counters of a listener over all workers.
#[derive(Debug, Default)]
pub(crate) struct ListenerCounters {
    /// Open now.
    pub(crate) open: AtomicU32,
    /// Accepted so far.
    pub(crate) accepted: AtomicU64,
    /// Turned away at a limit so far.
    pub(crate) rejected: AtomicU64,
}

/// Counts a client connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open {
    shared: Arc<Shared>,
    counters: Arc<ListenerCounters>,
}

impl Open {
    /// Counts one more; `None` when a limit is reached.
    fn new(shared: &Arc<Shared>, ctx: &ListenerCtx) -> Option<Self> {
        let this = Self { shared: Arc::clone(shared), counters: Arc::clone(&ctx.counters) };
        let here = ctx.counters.open.fetch_add(1, Ordering::Relaxed);
        let all = shared.connections.fetch_add(1, Ordering::Relaxed);
        let over = ctx.max_connections.is_some_and(|max| here >= max) || all >= ctx.max_total;
        if over { None } else { Some(this) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if self.shared.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.none_left.notify_waiters();
        }
    }
}

/// Counts an accept loop until it ends.
struct Accepting(Arc<Shared>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::AcqRel);
        self.0.none_left.notify_waiters();
    }
}

/// Accepts until draining and the backlog is empty.
///
/// The socket stays open: closing a shard would reset what the kernel still queues on it.
pub(super) async fn accept_loop(worker: Rc<Worker>, ctx: Rc<ListenerCtx>, socket: TcpListener, drain: Rc<Notify>) {
    let socket = Watched::new(OwnedFd::from(socket));
    let _accepting = Accepting(Arc::clone(&worker.shared));
    let watch = match socket.watch() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(listener = %ctx.name, %error, "cannot watch a listening socket");
            return;
        }
    };
    let mut limit_log = Quiet::default();
    let mut starved_log = Quiet::default();
    loop {
        let mut drained = std::pin::pin!(drain.notified());
        drained.as_mut().enable();
        let draining = worker.draining();
        let mut guard = None;
        if !draining {
            tokio::select! {
                // Both arms only wait: nothing is lost when the other wins.
                ready = watch.readable() => match ready {
                    Ok(ready) => guard = Some(ready),
                    Err(_) => return,
                },
                () = drained => continue,
            }
        }
        for _ in 0..BATCH {
            match acceptfrom_with(socket.fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|p| SocketAddr::try_from(p).ok()).unwrap_or(ctx.address);
                    admit(&worker, &ctx, fd, peer, &mut limit_log);
                }
                Err(Errno::AGAIN) => {
                    if draining {
                        return;
                    }
                    if let Some(guard) = &mut guard {
                        guard.clear_ready();
                    }
                    break;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    worker.close_idle();
                    if let Some(times) = starved_log.speak(worker.now().0) {
                        tracing::error!(listener = %ctx.name, times,
                            "out of file descriptors: new connections wait; raise LimitNOFILE or lower max_connections");
                    }
                    tokio::time::sleep(STARVED).await;
                    break;
                }
                // The client left while it was queued.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

fn admit(worker: &Rc<Worker>, ctx: &Rc<ListenerCtx>, fd: OwnedFd, peer: SocketAddr, log: &mut Quiet) {
    let Some(open) = Open::new(&worker.shared, ctx) else {
        ctx.counters.rejected.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = log.speak(worker.now().0) {
            tracing::warn!(listener = %ctx.name, times, "max_connections reached: connections are closed at accept");
        }
        return;
    };
    ctx.counters.accepted.fetch_add(1, Ordering::Relaxed);
    let serial = worker.shared.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let sock = Sock::new(fd);
    let (worker, ctx) = (Rc::clone(worker), Rc::clone(ctx));
    // A panic ends this task and the connection with it; the runtime contains it, `open` counts it out.
    if ctx.tcp.is_some() {
        tokio::task::spawn_local(async move {
            tcp::serve(sock, worker, ctx, peer, serial).await;
            drop(open);
        });
    } else {
        spawn_http(Conn::new(sock, worker, ctx, peer, serial), open);
    }
}

fn spawn_http<C: Transport + 'static>(conn: Conn<C>, open: Open) {
    tokio::task::spawn_local(async move {
        conn.serve().await;
        drop(open);
    });
}

/// Says something once a second at most, and how often it was the case.
#[derive(Debug, Default)]
struct Quiet {
    last: Option<u64>,
    times: u64,
}

impl Quiet {
    fn speak(&mut self, now_ms: u64) -> Option<u64> {
        self.times += 1;
        if self.last.is_some_and(|l| now_ms < l + 1000) {
            return None;
        }
        self.last = Some(now_ms);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests;
