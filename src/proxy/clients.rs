//! The client connections of one worker as a whole: which are older than a moment, and which have a local address that
//! leaves this box. The engine's side of both is [`Done`].
//!
//! It costs a connection two additions and no memory, and a request nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::net::Transport;

/// Tells when every worker has done what it was told.
#[derive(Debug)]
pub struct Done(mpsc::Receiver<Infallible>);

/// What a worker drops once it has done it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    _part: mpsc::Sender<Infallible>,
}

impl Done {
    /// One to wait for, and one for each worker to drop.
    pub(super) fn new() -> (Self, Part) {
        let (part, done) = mpsc::channel(1);
        (Self(done), Part { _part: part })
    }

    /// Resolves then, and at once from then on. Cancel-safe.
    pub async fn wait(&mut self) {
        let None = self.0.recv().await;
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Cell<u32>,
    quiet: Cell<bool>,
    retired: Cell<bool>,
    /// Serial number that no connection was beyond when the worker became quiet the last time.
    boundary: Cell<u64>,
    /// Those of `open` that are not beyond `boundary`.
    old: Cell<u32>,
    /// Dropped when `old` becomes 0.
    old_gone: RefCell<Option<Part>>,
    /// By serial number; those of listeners that an address of a virtual router leads to.
    tracked: RefCell<HashMap<u64, Tracked>>,
    /// Those of `tracked` that are to be reset.
    condemned: Cell<usize>,
    /// Streams of such connections that are not dropped yet.
    orphans: Cell<usize>,
    /// Addresses that are leaving just now.
    leaving: RefCell<Vec<IpAddr>>,
}

/// A connection that can be ended from outside.
#[derive(Debug)]
struct Tracked {
    local: IpAddr,
    task: AbortHandle,
    condemned: bool,
}

impl Clients {
    /// A connection begins; its serial number is greater than those of all before it on this worker.
    pub(crate) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// A connection is about to be closed: with a reset if its address leaves.
    pub(crate) fn closing(&self, serial: u64, is_tracked: bool, io: &impl Transport) {
        self.open.set(self.open.get() - 1);
        if serial <= self.boundary.get() {
            self.old.set(self.old.get() - 1);
            if self.old.get() == 0 {
                self.old_gone.take();
            }
        }
        if is_tracked && self.tracked.borrow_mut().remove(&serial).is_some_and(|t| t.condemned) {
            io.set_abort();
            self.condemned.set(self.condemned.get() - 1);
        }
    }

    /// Connections end after what they do now; `old_gone` is dropped once none is left of those open at this moment,
    /// whose serial numbers are at most `last`.
    pub(super) fn become_quiet(&self, last: u64, old_gone: Part) {
        self.quiet.set(true);
        self.boundary.set(last);
        self.old.set(self.open.get());
        self.old_gone.replace(Some(old_gone).filter(|_| self.old.get() > 0));
    }

    /// Connections may stay again.
    pub(super) fn resume(&self) {
        self.quiet.set(false);
        self.old_gone.take();
    }

    /// Connections there are.
    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    /// Connections end after what they do now, for good.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether connections end after what they do now, though new ones are served.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.get() || self.retired.get()
    }

    /// From now on new connections to `addresses` are reset, see [`Clients::is_leaving`]; those there are end soon, see
    /// [`Clients::condemned`].
    pub(super) fn condemn(&self, addresses: Vec<IpAddr>) {
        for tracked in self.tracked.borrow_mut().values_mut().filter(|t| !t.condemned) {
            if addresses.contains(&tracked.local) {
                tracked.condemned = true;
                self.condemned.set(self.condemned.get() + 1);
                // The runtime drops the connection when its turn comes.
                tracked.task.abort();
            }
        }
        self.leaving.replace(addresses);
    }

    /// Connections that are still to be reset, and streams of those that were.
    pub(super) fn condemned(&self) -> usize {
        self.condemned.get() + self.orphans.get()
    }

    /// So many streams have lost their connection, and are about to be dropped.
    pub(crate) fn orphaned(&self, streams: usize) {
        self.orphans.set(self.orphans.get() + streams);
    }

    /// One of them is.
    pub(crate) fn orphan_gone(&self) {
        self.orphans.set(self.orphans.get() - 1);
    }

    /// New connections are welcome whatever their address.
    pub(super) fn welcome(&self) {
        self.leaving.take();
    }

    /// Whether a new connection with this local address is to be reset.
    pub(super) fn is_leaving(&self, local: IpAddr) -> bool {
        self.leaving.borrow().contains(&local)
    }

    /// Lets a connection be ended by its local address, until [`Clients::closing`].
    pub(super) fn track(&self, serial: u64, local: IpAddr, task: AbortHandle) {
        self.tracked.borrow_mut().insert(serial, Tracked { local, task, condemned: false });
    }
}
