//! Ends the client connections of addresses that leave this box, also those that wait in accept queues.
//!
//! The order is acknowledged when the sockets are closed, not before: a reset goes out only while its source address is
//! still there.

use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::net::clock;
use crate::proxy::clients::Part;
use crate::proxy::listen::{Admission, ListenerCtx};
use crate::proxy::worker::Worker;
use crate::sys::watched::Watched;

/// What a worker is told.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) done: Part,
}

/// A listening socket that leads to addresses of virtual routers.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) ctx: Rc<ListenerCtx>,
    /// Its accept loop owns it, and closes it when it has drained.
    pub(super) socket: Weak<Watched>,
}

/// Longest that an order waits for connections to be dropped. A hundred thousand take about a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Carries out orders one after another, for as long as the engine runs.
pub(super) async fn abort_loop(worker: Rc<Worker>, shards: Vec<Shard>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(Order { addresses, done }) = orders.recv().await {
        // What is accepted meanwhile is reset by `admit`.
        worker.clients.condemn(addresses.clone());
        wait_for_condemned(&worker).await;
        for shard in shards.iter().filter(|s| s.ctx.leads_to(&addresses)) {
            take_queue(&worker, shard);
        }
        worker.clients.welcome();
        drop(done);
    }
}

/// Lets the runtime drop the connections.
async fn wait_for_condemned(worker: &Worker) {
    let (all, end) = (worker.clients.condemned(), clock::now().after(LIMIT));
    while worker.clients.condemned() > 0 {
        if clock::now() >= end {
            tracing::error!(left = worker.clients.condemned(), "connections of a leaving address do not end");
            return;
        }
        tokio::task::yield_now().await;
    }
    if all > 0 {
        tracing::debug!(connections = all, "reset: their address leaves");
    }
}

/// Accepts all that waits now.
fn take_queue(worker: &Rc<Worker>, shard: &Shard) {
    let Some(socket) = shard.socket.upgrade() else { return };
    let mut admission = Admission::default();
    let mut freed = false;
    // A queue holds one more than its backlog; what comes after so many came later.
    for _ in 0..=worker.view().snapshot.config.listeners[shard.ctx.index].backlog {
        match admission.accept(worker, &shard.ctx, &socket) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return,
            Err(_) if !freed => {
                worker.close_idle();
                freed = true;
            }
            Err(error) => {
                tracing::error!(listener = %shard.ctx.name, %error, "waiting connections of a leaving address stay");
                return;
            }
        }
    }
}
