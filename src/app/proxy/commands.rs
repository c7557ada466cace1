//! Health checks by command: the supervisor is told when one is due, and what it says of the server is passed on.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::ipc::{CheckOutcome, FromProxy};
use crate::probe::{Failure, Order};

/// Orders on their way, and those that wait for the supervisor.
pub(super) struct Commands {
    orders: mpsc::UnboundedReceiver<Order>,
    waiting: HashMap<u64, Waiting>,
    token: u64,
}

struct Waiting {
    reply: oneshot::Sender<Result<(), Failure>>,
    until: Instant,
}

/// Beside what the supervisor may take by the configuration.
const PATIENCE: Duration = Duration::from_secs(5);

impl Commands {
    /// And where to order. Without a bound: there is one order a server at most.
    pub(super) fn new() -> (mpsc::UnboundedSender<Order>, Self) {
        let (sender, orders) = mpsc::unbounded_channel();
        (sender, Self { orders, waiting: HashMap::new(), token: 0 })
    }

    /// What to say to the supervisor next; never without a checker. Cancel-safe.
    pub(super) async fn next(&mut self) -> FromProxy {
        let Some(Order { target, reply }) = self.orders.recv().await else { return std::future::pending().await };
        self.token += 1;
        // It waits for the one before, for its turn, and for the command.
        let until = Instant::now() + target.check.timeout * 3 + PATIENCE;
        self.waiting.insert(self.token, Waiting { reply, until });
        FromProxy::CheckDue { token: self.token, pool: target.pool, server: target.server, address: target.address }
    }

    /// The supervisor's answer; one that comes too late is of no interest.
    pub(super) fn answered(&mut self, token: u64, outcome: CheckOutcome) {
        let Some(Waiting { reply, .. }) = self.waiting.remove(&token) else { return };
        let result = match outcome {
            CheckOutcome::Good => Ok(()),
            CheckOutcome::Bad(why) => Err(Failure::Exec(why)),
            CheckOutcome::NotRun(why) => Err(Failure::Local(io::Error::other(why))),
        };
        // Who asked may be gone with a reload.
        let _ = reply.send(result);
    }

    /// Forgets what a supervisor that has become another program since, or is gone, does not answer.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.waiting.retain(|_, waiting| waiting.until > now);
    }
}
