//! Upgrades: what a new program gets of the virtual routers, and how it replaces the vrrp process without an election.
//!
//! ```text
//! supervisor ── spawn ──▶ the new process: Here, waits
//!     ├── Retire ──▶ the old one: last status, Retired, leaves; the addresses stay
//!     └── Start, with the memories of that status ──▶ the new one resumes
//! ```
//! From the last advertisement of the one to the first of the other there is no more than the new one's start.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{error, info};

use super::{Duty, Stage};
use crate::app::child::{Lost, Program, Spawned};
use crate::app::notifier::Notifier;
use crate::app::upgrade::{Bequest, HandedDuty, HandedProcess};
use crate::app::vrrp::child::VrrpChild;
use crate::app::vrrp::messages::{FromVrrp, ToVrrp};
use crate::config::Loaded;
use crate::ipc;
use crate::proxy::BoundListener;
use crate::sys::exec::Inherited;
use crate::vrrp::event::{State, Why};
use crate::vrrpd::report::Status;

/// What is under way, and what is left of it.
#[derive(Default)]
pub(super) struct Succession {
    /// It was started, and is not there yet; since when.
    next: Option<(VrrpChild, Instant)>,
    /// The process speaks another version: it is not told, but ended.
    foreign: Option<Foreign>,
    /// Of processes before, whose counts go on.
    before: Status,
    /// By router: what it was, until its successor says so.
    resumed: Vec<(Arc<str>, State)>,
    /// Why there is no other process.
    complaint: Option<String>,
}

struct Foreign {
    process: Spawned,
    /// Until its end: it is not to take us for dead.
    _channel: OwnedFd,
}

/// For the old process to leave, which takes it a moment; then it is ended.
const RETIRE_LIMIT: Duration = Duration::from_millis(500);
/// For the new process to be there.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

impl Succession {
    /// What the new process says. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<FromVrrp, Lost> {
        match &mut self.next {
            Some((child, since)) => {
                let arrival = tokio::time::timeout_at(*since + ARRIVAL_LIMIT, child.next());
                arrival.await.unwrap_or_else(|_| Err(Lost::Deaf(io::ErrorKind::TimedOut.into())))
            }
            None => std::future::pending().await,
        }
    }

    /// Whether a process is there that cannot be spoken to.
    pub(super) fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// A status with what processes before have counted.
    pub(super) fn complete(&self, status: Status) -> Status {
        status.after(&self.before)
    }

    /// Whether a change is what a process says that goes on as the one before it.
    pub(super) fn is_no_change(&mut self, router: &str, to: State, why: Why) -> bool {
        let Some(at) = self.resumed.iter().position(|(name, _)| **name == *router) else { return false };
        let (_, was) = self.resumed.swap_remove(at);
        was == to && matches!(why, Why::Resumed | Why::Started)
    }
}

impl Duty {
    /// What a successor of this program needs.
    pub(in crate::app) fn hand<'a>(&'a self, bequest: &mut Bequest<'a>) -> HandedDuty {
        let (read, write) = &self.guard;
        HandedDuty {
            guard: [bequest.give(read.as_fd()), bequest.give(write.as_fd())],
            process: self
                .child
                .as_ref()
                .map(|child| HandedProcess { pid: child.pid(), channel: bequest.give(child.channel()) }),
            status: self.status.clone(),
            before: self.succession.before.clone(),
            memories: self.memories.clone(),
            scheduling: self.scheduling.clone(),
            maintenance: self.condition.maintenance,
            pools: self.condition.pools.values().cloned().collect(),
            tracked: self.condition.tracked.clone(),
        }
    }

    /// Goes on as the program before us in this process, whose messages are of version `theirs`. To be called by the main
    /// thread in its runtime.
    pub(in crate::app) fn adopt(
        loaded: &Loaded,
        listeners: &[BoundListener],
        program: &Program,
        handed: HandedDuty,
        inherited: &mut Inherited,
        theirs: u8,
    ) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let mut this = Self::build(loaded, listeners, program)?;
        let [read, write] = handed.guard.map(|n| inherited.take(n));
        this.guard = (read.ok_or_else(missing)?, write.ok_or_else(missing)?);
        if let Some(HandedProcess { pid, channel }) = handed.process {
            let channel = inherited.take(channel).ok_or_else(missing)?;
            if theirs == ipc::VERSION {
                this.child = Some(VrrpChild::adopt(pid, channel)?);
            } else {
                let process = Spawned::adopt(pid)?;
                this.succession.foreign = Some(Foreign { process, _channel: channel });
            }
        }
        this.condition.serving = true;
        this.condition.maintenance = handed.maintenance;
        this.condition.pools = handed.pools.into_iter().map(|pool| (Arc::clone(&pool.name), pool)).collect();
        if handed.tracked.len() == this.routers.len() {
            this.condition.tracked = handed.tracked;
        }
        // The process was told the same by the program before us.
        this.said = this.fitness();
        (this.status, this.memories, this.scheduling) = (handed.status, handed.memories, handed.scheduling);
        this.succession.before = handed.before;
        Ok(this)
    }

    /// Whether nothing is under way that a successor of this program would not know of.
    pub(in crate::app) fn is_settled(&self) -> bool {
        let told = self.notifier.as_ref().is_none_or(Notifier::is_idle);
        let runs = self.child.is_some() || self.is_stopped();
        told && runs && self.status.routers.iter().all(|router| !router.leaving)
    }

    /// Whether no address moves on request.
    pub(in crate::app) fn is_steady(&self) -> bool {
        matches!(self.stage, Stage::Steady | Stage::Stopped)
    }

    /// Begins to replace the process by one of `program`.
    pub(in crate::app) async fn succeed(&mut self, program: &Program) {
        if self.child.is_none() && !self.succession.is_foreign() {
            // One is to be started anyway.
            return;
        }
        if self.succession.next.is_some() {
            // It is told what there is when it arrives.
            return;
        }
        match VrrpChild::spawn(program) {
            Ok(child) => self.succession.next = Some((child, Instant::now())),
            Err(e) => self.no_successor(&Lost::Unborn(e)).await,
        }
    }

    pub(in crate::app) fn is_succeeding(&self) -> bool {
        self.succession.next.is_some() || self.succession.is_foreign() || (self.child.is_none() && !self.is_stopped())
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped)
    }

    /// Why the process is still the old one, if it is.
    pub(in crate::app) fn take_complaint(&mut self) -> Option<String> {
        self.succession.complaint.take()
    }

    /// Ends a process that was to take over.
    pub(super) async fn abandon_succession(&mut self) {
        if let Some((next, _)) = self.succession.next.take() {
            next.kill().await;
        }
    }

    /// The new process is there, or is not to be had.
    pub(super) async fn on_successor(&mut self, said: Result<FromVrrp, Lost>) {
        match said {
            Ok(FromVrrp::Here) => {}
            Ok(_) => return,
            Err(lost) => {
                self.abandon_succession().await;
                return self.no_successor(&lost).await;
            }
        }
        let Some((next, _)) = self.succession.next.take() else { return };
        if let Some(old) = self.child.take() {
            self.retire(old).await;
        }
        if let Some(mut foreign) = self.succession.foreign.take() {
            // As if it had died: the memories are a quarter of a second old at most, and newer than its last change.
            foreign.process.signal();
            foreign.process.reap().await;
        }
        self.mute_since.get_or_insert_with(Instant::now);
        self.take_change();
        self.succession.before = self.status.clone();
        self.succession.resumed =
            self.status.routers.iter().map(|router| (Arc::clone(&router.name), router.state)).collect();
        info!(pid = next.pid(), "vrrp process replaced");
        if let Err(lost) = self.introduce(next).await {
            self.lost(lost).await;
        }
    }

    /// Hears the last words of a process, which ends.
    async fn retire(&mut self, mut old: VrrpChild) {
        let retired = async {
            old.send(&ToVrrp::Retire, &[]).await?;
            loop {
                match old.next().await? {
                    FromVrrp::Retired => return Ok::<(), Lost>(()),
                    // What it leads to: connections of an address that just leaves are reset by the next process, which
                    // finishes that.
                    message => drop(self.on_message(message).await),
                }
            }
        };
        if !matches!(timeout(RETIRE_LIMIT, retired).await, Ok(Ok(()))) {
            error!(pid = old.pid(), "the vrrp process does not leave: ended");
        }
        // Its memory is locked and its threads are done: nothing is to be waited for.
        old.kill().await;
    }

    async fn no_successor(&mut self, lost: &Lost) {
        error!(reason = %lost, "no new vrrp process");
        if self.change.is_some() {
            // As if the old one had died.
            if let Some(old) = self.child.take() {
                old.kill().await;
            }
            self.take_change();
            self.mute_since.get_or_insert_with(Instant::now);
            self.start_at = Some(Instant::now());
            return;
        }
        if let Some(mut foreign) = self.succession.foreign.take() {
            // It cannot be spoken to: another is tried until there is one.
            foreign.process.signal();
            foreign.process.reap().await;
            self.mute_since.get_or_insert_with(Instant::now);
            self.start_at = Some(Instant::now());
        } else {
            self.succession.complaint = Some(lost.to_string());
        }
    }
}
