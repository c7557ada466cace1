//! Ends the client connections of addresses that leave this box, also those that wait in accept queues.
//!
//! The order is acknowledged when the sockets are closed, not before: a reset goes out only while its source address is
//! still there.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::net::clock;
use crate::proxy::clients::Part;
use crate::proxy::listen::{Admission, Shard};
use crate::proxy::worker::Worker;

/// What a worker is told.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) done: Part,
}

/// Longest that an order waits for connections to be dropped. A hundred thousand take about a second.
const LIMIT: Duration = Duration::from_secs(10);

/// A queue holds one more than its backlog, which is no longer than this; what comes after so many came later.
const LONGEST_QUEUE: usize = 1 << 16;

/// Carries out orders one after another, for as long as the engine runs.
pub(super) async fn abort_loop(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(Order { addresses, done }) = orders.recv().await {
        // What is accepted meanwhile is reset by `admit`.
        worker.clients.condemn(addresses.clone());
        wait_for_condemned(&worker).await;
        let shards = worker.shards.borrow().clone();
        for shard in shards.iter().filter(|s| s.ctx().tracked && s.ctx().leads_to(&addresses)) {
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
    let ctx = shard.ctx();
    let mut admission = Admission::default();
    let mut freed = false;
    for _ in 0..LONGEST_QUEUE {
        match admission.accept(worker, &ctx, &shard.socket) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return,
            Err(_) if !freed => {
                worker.close_idle();
                freed = true;
            }
            Err(error) => {
                tracing::error!(listener = %ctx.name, %error, "waiting connections of a leaving address stay");
                return;
            }
        }
    }
}
