//! Children that the program before us in this process started and did not hand over: commands that it had run. They are
//! let finish, and their statuses are taken.

use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tracing::warn;

use crate::net::clock;
use crate::time::Millis;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Strays {
    pids: Vec<Pid>,
    until: Millis,
}

/// The longest that any of them may run; then it is killed.
const LIMIT: Duration = Duration::from_secs(35);

impl Strays {
    /// All children but `adopted`. To be called before any is started.
    pub(super) fn find(adopted: &[u32]) -> Self {
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        let pids = pids.filter(|pid| !adopted.contains(pid)).filter_map(|pid| Pid::from_raw(pid.cast_signed()));
        Self { pids: pids.collect(), until: clock::now().after(LIMIT) }
    }

    /// Takes the statuses of those that have ended.
    pub(super) fn reap(&mut self) {
        self.pids.retain(|&pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)));
        if !self.pids.is_empty() && self.until <= clock::now() {
            for &pid in &self.pids {
                warn!(pid = pid.as_raw_nonzero().get(), "a command from before the upgrade does not end: killed");
                // Nobody but us reaps it: the number is its own.
                let _ = kill_process(pid, Signal::KILL);
            }
            self.until = clock::now().after(LIMIT);
        }
    }
}
