//! A command that says how a server is. This process runs none: whoever may is asked, and what it says is waited for.

use std::io;

use tokio::sync::{mpsc, oneshot};

use super::attempt::{Failure, Target};

/// A check of one server is due.
#[derive(Debug)]
pub struct Order {
    /// Whose check, and where.
    pub target: Target,
    /// What came of it; dropped: nothing that says anything of the server.
    pub reply: oneshot::Sender<Result<(), Failure>>,
}

/// The way to whoever runs commands; there is at most one order of a server at a time.
#[derive(Debug, Clone)]
pub(super) struct Runner(mpsc::UnboundedSender<Order>);

impl Runner {
    pub(super) fn new(orders: mpsc::UnboundedSender<Order>) -> Self {
        Self(orders)
    }

    /// Has it run, and waits for the outcome, which whoever runs it bounds.
    pub(super) async fn run(&self, target: &Target) -> Result<(), Failure> {
        let (reply, outcome) = oneshot::channel();
        let silent = || Failure::Local(io::Error::other("the supervisor has run no command"));
        self.0.send(Order { target: target.clone(), reply }).map_err(|_| silent())?;
        outcome.await.map_err(|_| silent())?
    }
}
