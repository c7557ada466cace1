//! Accepting: each worker takes connections from its own shard of every listening socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

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
    /// It leads to an address of a virtual router: its connections must be found when the address leaves.
    pub(crate) tracked: bool,
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

impl ListenerCtx {
    /// Whether connections to one of `addresses` may come from here.
    pub(super) fn leads_to(&self, addresses: &[IpAddr]) -> bool {
        let ip = self.address.ip();
        ip.is_unspecified() || addresses.contains(&ip)
    }

    /// The local address of a connection just accepted.
    fn local_address(&self, fd: &OwnedFd) -> IpAddr {
        let bound = self.address.ip();
        if !bound.is_unspecified() {
            return bound;
        }
        getsockname(fd).ok().and_then(|a| SocketAddr::try_from(a).ok()).map_or(bound, |a| a.ip())
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
pub(super) async fn accept_loop(worker: Rc<Worker>, ctx: Rc<ListenerCtx>, socket: Rc<Watched>, drain: Rc<Notify>) {
    let _accepting = Accepting(Arc::clone(&worker.shared));
    let watch = match socket.watch() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(listener = %ctx.name, %error, "cannot watch a listening socket");
            return;
        }
    };
    let mut admission = Admission::default();
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
            match admission.accept(&worker, &ctx, &socket) {
                Ok(()) => {}
                Err(Errno::AGAIN) => {
                    if draining {
                        return;
                    }
                    if let Some(guard) = &mut guard {
                        guard.clear_ready();
                    }
                    break;
                }
                // Descriptors or memory.
                Err(_) => {
                    worker.close_idle();
                    if let Some(times) = starved_log.speak(worker.now().0) {
                        tracing::error!(listener = %ctx.name, times,
                            "out of file descriptors: new connections wait; raise LimitNOFILE or lower max_connections");
                    }
                    tokio::time::sleep(STARVED).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Takes connections from a listening socket and starts them.
#[derive(Debug, Default)]
pub(super) struct Admission {
    limit_log: Quiet,
}

impl Admission {
    /// Takes one, if it has not left while it was queued.
    ///
    /// # Errors
    /// `AGAIN`: none waits. Else this box has run out of descriptors or memory.
    pub(super) fn accept(&mut self, worker: &Rc<Worker>, ctx: &Rc<ListenerCtx>, socket: &Watched) -> Result<(), Errno> {
        match acceptfrom_with(socket.fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                let peer = peer.and_then(|p| SocketAddr::try_from(p).ok()).unwrap_or(ctx.address);
                self.admit(worker, ctx, fd, peer);
                Ok(())
            }
            Err(e @ (Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => Err(e),
            Err(_) => Ok(()),
        }
    }

    fn admit(&mut self, worker: &Rc<Worker>, ctx: &Rc<ListenerCtx>, fd: OwnedFd, peer: SocketAddr) {
        let local = ctx.tracked.then(|| ctx.local_address(&fd));
        let sock = Sock::new(fd);
        if local.is_some_and(|local| worker.clients.is_leaving(local)) {
            sock.set_abort();
            return;
        }
        let Some(open) = Open::new(&worker.shared, ctx) else {
            ctx.counters.rejected.fetch_add(1, Ordering::Relaxed);
            if let Some(times) = self.limit_log.speak(worker.now().0) {
                tracing::warn!(listener = %ctx.name, times, "max_connections reached: connections are closed at accept");
            }
            return;
        };
        ctx.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let serial = worker.shared.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        // A panic ends this task and the connection with it; the runtime contains it, `open` counts it out.
        let task = if ctx.tcp.is_some() {
            let conn = tcp::Conn::new(sock, Rc::clone(worker), Rc::clone(ctx), peer, serial);
            tokio::task::spawn_local(async move {
                conn.serve().await;
                drop((conn, open));
            })
        } else {
            spawn_http(Conn::new(sock, Rc::clone(worker), Rc::clone(ctx), peer, serial), open)
        };
        if let Some(local) = local {
            worker.clients.track(serial, local, task.abort_handle());
        }
    }
}

fn spawn_http<C: Transport + 'static>(conn: Conn<C>, open: Open) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        conn.serve().await;
        drop(open);
    })
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
