//! Accepting: each worker takes connections from its own shard of every listening socket.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
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

use crate::admission::AccessList;
use crate::config::model;
use crate::net::TlsStream;
use crate::net::{Sock, Transport};
use crate::proxy::http::Conn;
use crate::proxy::preface::Expected;
use crate::proxy::tcp;
use crate::proxy::worker::{Shared, View, Worker};
use crate::sys::watched::Watched;
use crate::time::Millis;

/// Connections taken in a row before other tasks get their turn.
const BATCH: usize = 64;

/// Connections of one socket that are taken at most before a worker is quiet.
const AT_ONCE: usize = 1024;

/// Pause after descriptors ran out; connections wait in the backlog meanwhile.
const STARVED: Duration = Duration::from_millis(100);

/// From the moment new connection attempts on a listener are dropped until its accept queue is left: handshakes under way
/// take a round trip to arrive there.
pub const HANDSHAKES: Duration = Duration::from_millis(200);

/// What connections of a listener share on one worker. Fixed when they are accepted.
#[derive(Debug)]
pub(crate) struct ListenerCtx {
    /// The table's name.
    pub(crate) name: Arc<str>,
    /// What leads on from here.
    pub(crate) place: Place,
    /// The address it is bound to.
    pub(crate) address: SocketAddr,
    /// HTTP settings.
    pub(crate) http: model::HttpListener,
    /// TCP settings.
    pub(crate) tcp: Option<model::TcpListener>,
    /// Whose connections are taken; `None`: everybody's, or what they begin with tells.
    pub(crate) access: Option<Arc<AccessList>>,
    /// What stands before the client's own bytes; `None`: nothing.
    pub(crate) expected: Option<Expected>,
    /// How long a TLS handshake may take; `None`: there is none.
    pub(crate) handshake_timeout: Option<Duration>,
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
    /// Turned away because of their address so far.
    pub(crate) denied: AtomicU64,
    /// TLS handshakes that were made so far.
    pub(crate) handshakes: AtomicU64,
    /// Those that failed.
    pub(crate) failed_handshakes: AtomicU64,
    /// When clients that are turned away may be told of again, milliseconds.
    warn_at: AtomicU64,
}

impl ListenerCounters {
    /// Whether there has been no warning about a client for a second; if so, this is one.
    pub(crate) fn may_warn(&self, now: Millis) -> bool {
        let at = self.warn_at.load(Ordering::Relaxed);
        let next = now.after(Duration::from_secs(1)).0;
        now.0 >= at && self.warn_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
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

/// Where a listener is in the configuration of the day.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// In [`crate::snapshot::Snapshot::listeners`] of the worker's view.
    index: Cell<usize>,
    /// The last view that had it, once it is gone from the configuration: its connections end by that.
    last: RefCell<Option<Rc<View>>>,
    /// When what is left of them is cut.
    ends_at: Cell<Option<Millis>>,
}

/// A listening socket of this process as a worker is given it.
#[derive(Debug)]
pub(super) struct Post {
    /// The number of its inode, which no other open socket has.
    pub(super) ino: u64,
    pub(super) socket: OwnedFd,
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) counters: Arc<ListenerCounters>,
}

/// What a worker accepts from, from now on.
#[derive(Debug)]
pub(super) struct Posts {
    pub(super) posts: Vec<Post>,
    /// Every socket that anybody accepts from, and its listener. One of a worker's that is not here is left.
    pub(super) all: Arc<HashMap<u64, (Arc<str>, SocketAddr)>>,
    /// When the connections of listeners and servers that are gone are cut.
    pub(super) ends_at: Millis,
}

/// A worker's listening socket.
#[derive(Debug)]
pub(super) struct Shard {
    ino: u64,
    pub(super) socket: Watched,
    ctx: RefCell<Rc<ListenerCtx>>,
    standing: Cell<Standing>,
    /// Its standing, or the worker's, has changed.
    turn: Notify,
}

/// What becomes of a worker's listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    /// Its listener is gone; what is on the way to its queue may still arrive. The number tells this time from others.
    Leaving(u64),
    /// Accepted from until it is empty.
    Closing,
    /// Another worker's.
    Elsewhere,
}

impl Shard {
    pub(super) fn new(ino: u64, socket: OwnedFd, ctx: Rc<ListenerCtx>) -> Rc<Self> {
        let (socket, ctx) = (Watched::new(socket), RefCell::new(ctx));
        Rc::new(Self { ino, socket, ctx, standing: Cell::new(Standing::Open), turn: Notify::new() })
    }

    /// What connections from here share.
    pub(super) fn ctx(&self) -> Rc<ListenerCtx> {
        Rc::clone(&self.ctx.borrow())
    }

    /// Has its loop look again at what is wanted of it.
    pub(super) fn wake(&self) {
        self.turn.notify_waiters();
    }

    fn set(&self, standing: Standing) {
        self.standing.set(standing);
        self.wake();
    }
}

/// Has `worker` accept from these sockets and from no others. What it accepted before goes on as it was accepted.
pub(super) fn serve(worker: &Rc<Worker>, Posts { posts, all, ends_at }: Posts) {
    let view = worker.view();
    let mut before = worker.shards.take();
    let mut contexts: Vec<Rc<ListenerCtx>> = Vec::new();
    for post in posts {
        let known = contexts.iter().find(|ctx| ctx.name == post.name && ctx.address == post.address).cloned();
        let Some(ctx) = known.or_else(|| ListenerCtx::new(&view, &post).map(Rc::new)) else { continue };
        worker.contexts.borrow_mut().push(Rc::downgrade(&ctx));
        contexts.push(Rc::clone(&ctx));
        let shard = match before.iter().position(|shard| shard.ino == post.ino) {
            Some(at) => {
                let shard = before.swap_remove(at);
                shard.ctx.replace(ctx);
                shard.set(Standing::Open);
                shard
            }
            None => {
                let shard = Shard::new(post.ino, post.socket, ctx);
                tokio::task::spawn_local(accept_loop(Rc::clone(worker), Rc::clone(&shard)));
                shard
            }
        };
        worker.shards.borrow_mut().push(shard);
    }
    for shard in before {
        match shard.standing.get() {
            Standing::Leaving(_) | Standing::Closing => worker.shards.borrow_mut().push(shard),
            _ if all.contains_key(&shard.ino) => shard.set(Standing::Elsewhere),
            _ => {
                worker.shards.borrow_mut().push(Rc::clone(&shard));
                leave(shard, view.snapshot.generation);
            }
        }
    }
    let is_kept = |ctx: &ListenerCtx| all.values().any(|(name, address)| *name == ctx.name && *address == ctx.address);
    for ctx in worker.live_contexts().iter().filter(|ctx| !is_kept(ctx)) {
        ctx.leave(&view);
    }
    worker.end_the_gone_at(ends_at);
}

/// Closes a socket whose listener is gone once everything on the way to it is there, and accepted.
fn leave(shard: Rc<Shard>, time: u64) {
    shard.standing.set(Standing::Leaving(time));
    tokio::task::spawn_local(async move {
        tokio::time::sleep(HANDSHAKES).await;
        if shard.standing.get() == Standing::Leaving(time) {
            shard.set(Standing::Closing);
        }
    });
}

impl Place {
    /// At `index` of a worker's view.
    pub(super) fn at(index: usize) -> Self {
        Self { index: Cell::new(index), ..Self::default() }
    }
}

impl ListenerCtx {
    /// `None`: the view has it no more.
    fn new(view: &View, post: &Post) -> Option<Self> {
        let config = &view.snapshot.config;
        let index = config.listeners.iter().position(|listener| listener.name == post.name)?;
        let listener = &config.listeners[index];
        let mut access = listener.admission.access.clone();
        let expected = listener.proxy_header.clone().map(|header| Expected { header, access: access.take() });
        Some(Self {
            name: Arc::clone(&listener.name),
            place: Place::at(index),
            address: post.address,
            http: listener.http.clone(),
            tcp: listener.tcp.clone(),
            access,
            expected,
            handshake_timeout: listener.tls.as_ref().map(|tls| tls.handshake_timeout),
            max_connections: listener.max_connections,
            counters: Arc::clone(&post.counters),
            max_total: config.global.max_connections as usize,
            tracked: config.is_reached_virtually(post.address.ip()),
        })
    }

    /// What a request or session runs on that begins now, and the listener's place in it.
    pub(crate) fn view(&self, worker: &Worker) -> (Rc<View>, usize) {
        let view = worker.view();
        let last = self.place.last.borrow();
        (last.as_ref().map_or(view, Rc::clone), self.place.index.get())
    }

    /// The worker goes over from one view to the next.
    pub(super) fn enter(&self, old: &Rc<View>, new: &View) {
        if self.is_gone() {
            return;
        }
        let speaks = |l: &model::Listener| (l.tcp.is_some(), l.tls.is_some());
        let spoken = (self.tcp.is_some(), self.handshake_timeout.is_some());
        let is_here = |l: &model::Listener| l.name == self.name && speaks(l) == spoken;
        match new.snapshot.config.listeners.iter().position(is_here) {
            Some(index) => self.place.index.set(index),
            None => self.leave(old),
        }
    }

    /// It is gone; `last` is the last view that had it.
    fn leave(&self, last: &Rc<View>) {
        self.place.last.borrow_mut().get_or_insert_with(|| Rc::clone(last));
    }

    /// The configuration has it no more: its connections end after what they do now.
    pub(crate) fn is_gone(&self) -> bool {
        self.place.last.borrow().is_some()
    }

    /// Once it is gone, its connections are cut at `at`, unless that was said before.
    pub(super) fn end_at(&self, at: Millis) {
        if self.is_gone() && self.place.ends_at.get().is_none() {
            self.place.ends_at.set(Some(at));
        }
    }

    /// Whether what is left of its connections is to be cut.
    pub(crate) fn has_ended(&self, now: Millis) -> bool {
        self.place.ends_at.get().is_some_and(|at| at <= now)
    }

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

impl Accepting {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.accepting.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::AcqRel);
        self.0.none_left.notify_waiters();
    }
}

/// Accepts until the socket is another worker's or another process's, or it is left and its queue is empty.
///
/// The socket stays open until then: closing a shard would reset what the kernel still queues on it, unless the supervisor
/// or a successor holds it too.
pub(super) async fn accept_loop(worker: Rc<Worker>, shard: Rc<Shard>) {
    let _accepting = Accepting::new(&worker.shared);
    accept_until_over(&worker, &shard).await;
    worker.shards.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shard));
}

/// Takes what waits to be accepted just now, instead of when the turn of the accept loops comes.
pub(super) fn accept_waiting(worker: &Rc<Worker>) {
    for shard in worker.shards.borrow().iter().filter(|shard| shard.standing.get() != Standing::Elsewhere) {
        let (mut admission, ctx) = (Admission::default(), shard.ctx());
        // Where connections come faster than they are taken, there is no last one.
        for _ in 0..AT_ONCE {
            if admission.accept(worker, &ctx, &shard.socket).is_err() {
                break;
            }
        }
    }
}

async fn accept_until_over(worker: &Rc<Worker>, shard: &Shard) {
    let watch = match shard.socket.watch() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(listener = %shard.ctx().name, %error, "cannot watch a listening socket");
            return;
        }
    };
    let mut admission = Admission::default();
    let mut starved_log = Quiet::default();
    loop {
        let mut turned = std::pin::pin!(shard.turn.notified());
        turned.as_mut().enable();
        let standing = shard.standing.get();
        if standing == Standing::Elsewhere || worker.retired() {
            return;
        }
        let draining = worker.draining() || standing == Standing::Closing;
        let ctx = shard.ctx();
        let mut guard = None;
        if !draining {
            tokio::select! {
                // Both arms only wait: nothing is lost when the other wins.
                ready = watch.readable() => match ready {
                    Ok(ready) => guard = Some(ready),
                    Err(_) => return,
                },
                () = turned => continue,
            }
        }
        for _ in 0..BATCH {
            match admission.accept(worker, &ctx, &shard.socket) {
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
        if ctx.access.as_ref().is_some_and(|list| !list.allows(peer.ip())) {
            ctx.counters.denied.fetch_add(1, Ordering::Relaxed);
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
        let task = if ctx.handshake_timeout.is_some() {
            let stream = TlsStream::new(sock, Rc::clone(worker.buffers()));
            match ctx.tcp {
                Some(_) => spawn_tcp_tls(tcp::Conn::new(stream, Rc::clone(worker), Rc::clone(ctx), peer, serial), open),
                None => spawn_https(Conn::new(stream, Rc::clone(worker), Rc::clone(ctx), peer, serial), open),
            }
        } else if ctx.tcp.is_some() {
            let mut conn = tcp::Conn::new(sock, Rc::clone(worker), Rc::clone(ctx), peer, serial);
            tokio::task::spawn_local(async move {
                if conn.begin().await {
                    conn.serve().await;
                }
                drop((conn, open));
            })
        } else {
            let conn = Conn::new(sock, Rc::clone(worker), Rc::clone(ctx), peer, serial);
            if ctx.expected.is_some() { spawn_http_behind_header(conn, open) } else { spawn_http(conn, open) }
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

fn spawn_http_behind_header<C: Transport + 'static>(mut conn: Conn<C>, open: Open) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        if conn.begin().await {
            conn.serve().await;
        }
        drop(open);
    })
}

fn spawn_https(mut conn: Conn<TlsStream>, open: Open) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        // The handshake's state goes before requests come.
        if Box::pin(conn.begin_tls()).await {
            conn.serve().await;
        }
        drop((conn, open));
    })
}

fn spawn_tcp_tls(mut conn: tcp::Conn<TlsStream>, open: Open) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        if Box::pin(conn.begin_tls()).await {
            conn.serve().await;
        }
        drop((conn, open));
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
