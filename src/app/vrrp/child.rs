//! The vrrp process as the supervisor sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::time::timeout;

use crate::app::child::{self, Lost, Program, START_LIMIT, Spawned};
use crate::app::vrrp::messages::{FromVrrp, ToVrrp, ToVrrpChannel};
use crate::app::watchdog::{Verdict, Watchdog};
use crate::ipc::{self, Limits};
use crate::net::clock;

/// A running vrrp process.
pub(in crate::app) struct VrrpChild {
    process: Spawned,
    channel: ToVrrpChannel,
    watchdog: Watchdog,
}

/// Its urgent thread says something four times a second.
const SILENCE: Duration = Duration::from_secs(2);

impl VrrpChild {
    /// Starts one.
    pub(in crate::app) fn spawn(program: &Program) -> io::Result<Self> {
        let (ours, theirs) = ipc::socketpair()?;
        // It outlives us, to hand the addresses over.
        let process = Spawned::start(program.command("bascule-vrrp", "vrrp-process", None), theirs, false)?;
        let channel = ToVrrpChannel::new(ours, Limits::OF_PROXY)?;
        Ok(Self { process, channel, watchdog: Watchdog::new(SILENCE, START_LIMIT, clock::now()) })
    }

    /// Takes over one that the program before us in this process started.
    pub(in crate::app) fn adopt(pid: u32, channel: OwnedFd) -> io::Result<Self> {
        let process = Spawned::adopt(pid)?;
        let channel = ToVrrpChannel::new(channel, Limits::OF_PROXY)?;
        Ok(Self { process, channel, watchdog: Watchdog::new(SILENCE, START_LIMIT, clock::now()) })
    }

    /// Our end of the channel.
    pub(in crate::app) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    pub(in crate::app) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The next message. Cancel-safe.
    pub(in crate::app) async fn next(&mut self) -> Result<FromVrrp, Lost> {
        let message = child::hear(&mut self.channel).await?;
        self.watchdog.heartbeat(&[], clock::now());
        Ok(message)
    }

    /// Whether it still runs well; to be called several times a second.
    pub(in crate::app) fn check(&mut self) -> Result<(), Lost> {
        self.watchdog.check(clock::now()).map_or(Ok(()), |_| Err(Lost::Hung(Verdict::Silent)))
    }

    /// Sends a message.
    pub(in crate::app) async fn send(&self, message: &ToVrrp, descriptors: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        child::tell(&self.channel, message, descriptors).await
    }

    /// Lets it leave for `limit`, then ends it.
    pub(in crate::app) async fn end(mut self, limit: Duration) {
        if self.channel.try_send(&ToVrrp::End).is_ok() {
            let _ = timeout(limit, async { while self.next().await.is_ok() {} }).await;
        }
        self.kill().await;
    }

    /// Ends it at once; how it ended.
    pub(in crate::app) async fn kill(self) -> String {
        let Self { mut process, channel, .. } = self;
        // Killed before its channel ends: it is not to take us for dead.
        process.signal();
        let how = process.reap().await;
        drop(channel);
        how
    }
}
