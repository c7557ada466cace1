//! The listening sockets of the instance. They are never closed while their listener exists: closing one resets what waits
//! on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::app::child::descriptors;
use crate::config::model::{Config, Freebind, Listener};
use crate::ipc::ListenerSockets;
use crate::net::listen::{self, BindError, Options};
use crate::proxy::BoundListener;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::app) struct Sockets {
    bound: Vec<BoundListener>,
    /// Of listeners that are gone, until the proxy has certainly accepted what was on the way to them: a listener that comes
    /// back meanwhile gets them again.
    left: Vec<(Instant, BoundListener)>,
}

/// What another configuration listens on.
#[derive(Debug)]
pub(in crate::app) struct Plan {
    /// Of each address, its listener and how its sockets are to be.
    wanted: Vec<(Arc<str>, SocketAddr, Options)>,
    /// Sockets that there were not before, for addresses of `wanted`; they do not listen yet.
    fresh: Vec<BoundListener>,
}

/// Longer than the proxy waits for handshakes under way.
const LEFT_FOR: Duration = Duration::from_secs(2);

impl Sockets {
    /// Listens where `config` says.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub(in crate::app) fn bind(config: &Config) -> Result<Self, BindError> {
        let mut this = Self::default();
        let plan = this.plan(config)?;
        this.listen(&plan)?;
        this.take(plan);
        Ok(this)
    }

    /// Those of the program before this one.
    pub(in crate::app) fn adopt(bound: Vec<BoundListener>) -> Self {
        Self { bound, left: Vec::new() }
    }

    /// What is needed for `config`, and not there yet, is bound; nothing changes for anybody.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub(in crate::app) fn plan(&self, config: &Config) -> Result<Plan, BindError> {
        let mut plan = Plan { wanted: Vec::new(), fresh: Vec::new() };
        for listener in &config.listeners {
            for &addr in &listener.bind {
                let options = options(config, listener, addr);
                let missing = options.shards.get().saturating_sub(self.shards(addr).map_or(0, <[_]>::len));
                if let Some(shards) = NonZeroUsize::new(missing) {
                    let joins = self.all().any(|bound| bound.addr.port() == addr.port() && addr.port() != 0);
                    let options = Options { shards, joins, ..options.clone() };
                    let shards = listen::reserve(&listener.name, addr, &options)?;
                    plan.fresh.push(BoundListener { name: Arc::clone(&listener.name), addr, shards });
                }
                plan.wanted.push((Arc::clone(&listener.name), addr, options));
            }
        }
        Ok(plan)
    }

    /// Takes connections on the sockets of `plan` that did not yet.
    ///
    /// # Errors
    /// Somebody else listens there since the plan was made.
    pub(in crate::app) fn listen(&self, plan: &Plan) -> Result<(), BindError> {
        plan.wanted.iter().try_for_each(|(name, addr, options)| {
            let fresh = plan.fresh.iter().filter(|bound| bound.addr == *addr).flat_map(|bound| &bound.shards);
            fresh.map(std::slice::from_ref).try_for_each(|shard| listen::listen(name, *addr, shard, options))
        })
    }

    /// Goes over to `plan`, which listens already. What was left out by it gets no new connections.
    pub(in crate::app) fn take(&mut self, plan: Plan) {
        let Plan { wanted, fresh } = plan;
        for shard in self.left.iter().flat_map(|(_, bound)| &bound.shards) {
            // Some are had again; the others are refused again below.
            let _ = listen::accept_new(shard);
        }
        let mut before: Vec<BoundListener> = std::mem::take(&mut self.bound);
        before.extend(self.left.drain(..).map(|(_, bound)| bound));
        for (name, addr, options) in wanted {
            let mut shards = Vec::new();
            if let Some(at) = before.iter().position(|bound| bound.addr == addr) {
                let known = before.swap_remove(at);
                if let Err(e) = listen::listen(&name, addr, &known.shards, &options) {
                    warn!(error = %e, "the length of its queue stays as it was");
                }
                shards = known.shards;
            } else {
                info!(listener = %name, %addr, "listening");
            }
            self.bound.push(BoundListener { name, addr, shards });
        }
        for new in fresh {
            if let Some(bound) = self.bound.iter_mut().find(|bound| bound.addr == new.addr) {
                bound.shards.extend(new.shards);
            }
        }
        for bound in before {
            info!(listener = %bound.name, addr = %bound.addr, "not listening any more");
            refuse(&bound);
            self.left.push((Instant::now() + LEFT_FOR, bound));
        }
    }

    /// Closes what was left long enough ago. To be called now and then.
    pub(in crate::app) fn sweep(&mut self) {
        let now = Instant::now();
        self.left.retain(|(until, _)| *until > now);
    }

    /// Takes no new connections any more, and lets go of the sockets: what holds them open yet has accepted what is queued.
    pub(in crate::app) fn close(&mut self) {
        self.bound.iter().for_each(refuse);
        self.bound.clear();
    }

    /// What a proxy is told of them, and their descriptors in that order.
    pub(in crate::app) fn now(&self) -> (Vec<ListenerSockets>, Vec<BorrowedFd<'_>>) {
        told(self.bound.iter().map(|bound| (&bound.name, bound.addr, bound.shards.iter().collect())))
    }

    /// The same as they will be with `plan`.
    pub(in crate::app) fn with<'a>(&'a self, plan: &'a Plan) -> (Vec<ListenerSockets>, Vec<BorrowedFd<'a>>) {
        told(plan.wanted.iter().map(|(name, addr, _)| {
            let fresh = plan.fresh.iter().filter(|bound| bound.addr == *addr).flat_map(|bound| &bound.shards);
            (name, *addr, self.shards(*addr).into_iter().flatten().chain(fresh).collect())
        }))
    }

    /// All of them.
    pub(in crate::app) fn bound(&self) -> &[BoundListener] {
        &self.bound
    }

    fn all(&self) -> impl Iterator<Item = &BoundListener> {
        self.bound.iter().chain(self.left.iter().map(|(_, bound)| bound))
    }

    fn shards(&self, addr: SocketAddr) -> Option<&[TcpListener]> {
        self.all().find(|bound| bound.addr == addr).map(|bound| &bound.shards[..])
    }
}

fn told<'a>(
    all: impl Iterator<Item = (&'a Arc<str>, SocketAddr, Vec<&'a TcpListener>)>,
) -> (Vec<ListenerSockets>, Vec<BorrowedFd<'a>>) {
    let (mut listeners, mut fds) = (Vec::new(), Vec::new());
    for (name, addr, shards) in all {
        listeners.push(ListenerSockets { name: Arc::clone(name), addr, shards: shards.len() });
        fds.extend(descriptors(shards.into_iter()));
    }
    (listeners, fds)
}

fn refuse(bound: &BoundListener) {
    let result: io::Result<()> = bound.shards.iter().try_for_each(listen::refuse_new);
    if let Err(e) = result {
        warn!(listener = %bound.name, error = %e, "connections made from now on may be reset");
    }
}

fn options(config: &Config, listener: &Listener, addr: SocketAddr) -> Options {
    let cores = || available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = config.global.workers.and_then(|n| NonZeroUsize::try_from(n).ok());
    Options {
        backlog: listener.backlog,
        keepalive: listener.tcp_keepalive,
        freebind: match listener.freebind {
            Freebind::Always => true,
            Freebind::Auto => config.is_virtual(addr.ip()),
            Freebind::Never => false,
        },
        shards: workers.unwrap_or_else(cores),
        joins: false,
    }
}
