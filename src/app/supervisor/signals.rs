//! The signals that the supervisor answers to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean something.
pub(super) struct Signals {
    stop: [Signal; 3],
    reopen: Signal,
    apply: Signal,
    upgrade: Signal,
}

/// What one of them asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Stop,
    ReopenLogs,
    Reload,
    Upgrade,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?],
            reopen: signal(SignalKind::user_defined1())?,
            apply: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Cancel-safe, as every arm is.
    pub(super) async fn next(&mut self) -> Request {
        let Self { stop: [term, int, quit], reopen, apply, upgrade } = self;
        tokio::select! {
            _ = term.recv() => Request::Stop,
            _ = int.recv() => Request::Stop,
            _ = quit.recv() => Request::Stop,
            _ = reopen.recv() => Request::ReopenLogs,
            _ = apply.recv() => Request::Reload,
            _ = upgrade.recv() => Request::Upgrade,
        }
    }
}
