//! Proxies that were replaced and still have connections: watched, told what concerns their connections, and ended when
//! they have none, or their time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde_json::value::RawValue;
use tracing::{error, info, warn};

use super::{Flow, LEAVE_LIMIT, RunError, Supervisor};
use crate::app::child::{Child, Lost, Spawned};
use crate::app::duty::{NO_TOKEN, Quiet};
use crate::app::logs;
use crate::app::upgrade::{Bequest, HandedRetired};
use crate::ipc::{self, FromProxy, ToProxy};
use crate::net::clock;
use crate::sys::exec::Inherited;
use crate::time::Millis;

/// All of them, and answers that are waited for.
#[derive(Default)]
pub(super) struct Retired {
    proxies: Vec<Retiree>,
    /// Who is not quiet yet.
    quieting: BTreeSet<u32>,
    /// By token: who has not reset its connections yet.
    aborting: BTreeMap<u64, BTreeSet<u32>>,
}

struct Retiree {
    link: Link,
    until: Millis,
    /// The state of it that the proxy knows the counts of.
    counted: Option<Box<RawValue>>,
}

enum Link {
    Spoken(Child),
    /// Its messages are of another version. It leaves by itself.
    Silent {
        process: Spawned,
        ipc: u8,
        connections: u64,
    },
}

impl Link {
    fn pid(&self) -> u32 {
        match self {
            Self::Spoken(child) => child.pid(),
            Self::Silent { process, .. } => process.pid(),
        }
    }

    fn connections(&self) -> u64 {
        match self {
            Self::Spoken(child) => child.connections,
            Self::Silent { connections, .. } => *connections,
        }
    }

    /// The next message, or its end. Cancel-safe.
    async fn next(&mut self) -> Result<FromProxy, Lost> {
        match self {
            Self::Spoken(child) => child.next().await,
            Self::Silent { process, .. } => {
                let _ = process.ended().await;
                Err(Lost::Closed)
            }
        }
    }

    async fn kill(self) -> String {
        match self {
            Self::Spoken(child) => child.kill().await,
            Self::Silent { mut process, .. } => {
                process.signal();
                process.reap().await
            }
        }
    }
}

impl Retired {
    pub(super) fn is_empty(&self) -> bool {
        self.proxies.is_empty()
    }

    /// Process ids and client connections.
    pub(super) fn list(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.proxies.iter().map(|retiree| (retiree.link.pid(), retiree.link.connections()))
    }

    /// What one of them says next. Cancel-safe.
    pub(super) async fn next(&mut self) -> (u32, Result<FromProxy, Lost>) {
        let mut all = Vec::with_capacity(self.proxies.len());
        for retiree in &mut self.proxies {
            let pid = retiree.link.pid();
            let future: Pin<Box<dyn Future<Output = Result<FromProxy, Lost>> + '_>> = Box::pin(retiree.link.next());
            all.push((pid, future));
        }
        poll_fn(|cx| {
            for (pid, future) in &mut all {
                if let Poll::Ready(heard) = future.as_mut().poll(cx) {
                    return Poll::Ready((*pid, heard));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What a successor of this program needs.
    pub(super) fn hand<'a>(&'a self, bequest: &mut Bequest<'a>, theirs: u8) -> Vec<HandedRetired> {
        let hand = |retiree: &'a Retiree| {
            let (channel, ipc) = match &retiree.link {
                Link::Spoken(child) if theirs == ipc::VERSION => (Some(bequest.give(child.channel())), ipc::VERSION),
                // Closed by the exec: it goes on alone.
                Link::Spoken(_) => (None, ipc::VERSION),
                Link::Silent { ipc, .. } => (None, *ipc),
            };
            HandedRetired {
                pid: retiree.link.pid(),
                channel,
                ipc,
                connections: retiree.link.connections(),
                until: retiree.until.0,
                counted: retiree.counted.clone(),
            }
        };
        self.proxies.iter().map(hand).collect()
    }

    /// Takes over those of the program before us in this process.
    pub(super) fn adopt(handed: Vec<HandedRetired>, inherited: &mut Inherited, watchdog: Duration) -> io::Result<Self> {
        let mut this = Self::default();
        for one in handed {
            let HandedRetired { pid, channel, ipc, connections, until, counted } = one;
            let link = match channel.and_then(|n| inherited.take(n)) {
                Some(channel) => Link::Spoken(Child::adopt(pid, channel, watchdog, connections)?),
                None => Link::Silent { process: Spawned::adopt(pid)?, ipc, connections },
            };
            this.proxies.push(Retiree { link, until: Millis(until), counted });
        }
        Ok(this)
    }

    fn find(&mut self, pid: u32) -> Option<&mut Retiree> {
        self.proxies.iter_mut().find(|retiree| retiree.link.pid() == pid)
    }

    fn take(&mut self, pid: u32) -> Option<Link> {
        let at = self.proxies.iter().position(|retiree| retiree.link.pid() == pid)?;
        Some(self.proxies.swap_remove(at).link)
    }

    fn spoken(&self) -> impl Iterator<Item = &Child> {
        self.proxies.iter().filter_map(|retiree| match &retiree.link {
            Link::Spoken(child) => Some(child),
            Link::Silent { .. } => None,
        })
    }

    /// Tells those that understand us; whoever does not take it is found out by its silence.
    pub(super) async fn tell(&self, message: impl Fn() -> ToProxy, fds: &[BorrowedFd<'_>]) {
        for child in self.spoken() {
            if let Err(lost) = child.send(&message(), fds).await {
                warn!(pid = child.pid(), reason = %lost, "a proxy that was replaced takes no messages");
            }
        }
    }

    /// Ends all of them.
    pub(super) async fn end(&mut self) {
        for retiree in self.proxies.drain(..) {
            match retiree.link {
                Link::Spoken(child) => child.stop(LEAVE_LIMIT).await,
                silent @ Link::Silent { .. } => drop(silent.kill().await),
            }
        }
    }
}

impl Supervisor {
    /// Lets a proxy finish what it has; the one that replaces it knows what it counted until `counted`.
    pub(super) async fn retire(&mut self, proxy: Child, counted: Option<Box<RawValue>>) {
        let (pid, limit) = (proxy.pid(), self.loaded.config.global.drain_timeout);
        info!(pid, connections = proxy.connections, ?limit, "proxy replaced: it finishes what it has");
        let told = proxy.send(&ToProxy::Retire, &[]).await;
        let retiree = Retiree { link: Link::Spoken(proxy), until: clock::now().after(limit), counted };
        self.retired.proxies.push(retiree);
        if let Err(lost) = told {
            let _ = self.lose_retired(pid, &lost).await;
        }
    }

    /// The same for one that was told already, and is not understood.
    pub(super) fn retire_silent(&mut self, process: Spawned, ipc: u8, connections: u64) {
        let (pid, limit) = (process.pid(), self.loaded.config.global.drain_timeout);
        info!(pid, connections, ?limit, "proxy of another version replaced: it finishes what it has");
        let link = Link::Silent { process, ipc, connections };
        self.retired.proxies.push(Retiree { link, until: clock::now().after(limit), counted: None });
    }

    pub(super) async fn on_retired(&mut self, pid: u32, heard: Result<FromProxy, Lost>) -> Flow {
        match heard {
            Ok(FromProxy::State(state)) => self.count(pid, state).await,
            Ok(FromProxy::Quieted) => return self.quieted(pid).await,
            Ok(FromProxy::Aborted { token }) => self.aborted(pid, token).await,
            Ok(FromProxy::Drained) => {
                info!(pid, "all connections of the proxy that was replaced are finished");
                if let Some(Link::Spoken(child)) = self.retired.take(pid) {
                    // It writes the rest of its logs meanwhile.
                    tokio::spawn(child.stop(LEAVE_LIMIT));
                }
                return self.forget(pid).await;
            }
            // What was asked of it as the proxy is asked of its successor.
            Ok(
                FromProxy::Ready
                | FromProxy::Heartbeat { .. }
                | FromProxy::Event(_)
                | FromProxy::Pools(_)
                | FromProxy::Prepared { .. }
                | FromProxy::Refused { .. }
                | FromProxy::Committed { .. }
                | FromProxy::Overridden { .. }
                | FromProxy::CheckDue { .. }
                | FromProxy::Answer { .. },
            ) => {}
            Err(lost) => return self.lose_retired(pid, &lost).await,
        }
        ControlFlow::Continue(())
    }

    /// What it has counted since it was replaced counts for the proxy too.
    async fn count(&mut self, pid: u32, until: Box<RawValue>) {
        let Some(retiree) = self.retired.find(pid) else { return };
        let ready = self.proxy.as_ref().is_some_and(|proxy| proxy.ready);
        if !ready {
            return;
        }
        let Some(since) = retiree.counted.replace(until.clone()) else { return };
        let _ = self.tell(ToProxy::Count { since, until }, &[]).await;
    }

    async fn lose_retired(&mut self, pid: u32, lost: &Lost) -> Flow {
        let Some(link) = self.retired.take(pid) else { return ControlFlow::Continue(()) };
        let connections = link.connections();
        match (&link, lost) {
            // Its end was waited for.
            (Link::Silent { .. }, Lost::Closed) => info!(pid, "the proxy of another version has left"),
            _ => {
                let how = link.kill().await;
                error!(pid, connections, reason = %lost, status = how, "proxy that was replaced lost");
            }
        }
        self.forget(pid).await
    }

    /// Ends those that hang, and those whose time is over.
    pub(super) async fn check_retired(&mut self) -> Flow {
        let now = clock::now();
        let mut hung = Vec::new();
        let mut late = Vec::new();
        for retiree in &mut self.retired.proxies {
            let pid = retiree.link.pid();
            if retiree.until <= now {
                late.push(pid);
            } else if let Link::Spoken(child) = &mut retiree.link
                && let Err(lost) = child.check()
            {
                hung.push((pid, lost));
            }
        }
        for (pid, lost) in hung {
            self.lose_retired(pid, &lost).await?;
        }
        for pid in late {
            let Some(link) = self.retired.take(pid) else { continue };
            warn!(pid, connections = link.connections(), "drain_timeout is over: connections are cut");
            link.kill().await;
            self.forget(pid).await?;
        }
        ControlFlow::Continue(())
    }

    /// A proxy is gone: nobody waits for its answers any more.
    pub(super) async fn forget(&mut self, pid: u32) -> Flow {
        let tokens: Vec<u64> = self.retired.aborting.keys().copied().collect();
        for token in tokens {
            self.aborted(pid, token).await;
        }
        if self.drained && self.retired.is_empty() {
            info!("all connections are finished");
            return ControlFlow::Break(Ok::<(), RunError>(()));
        }
        self.quieted(pid).await
    }

    /// Whoever serves clients.
    fn serving(&self) -> BTreeSet<u32> {
        let proxy = self.proxy.iter().filter(|proxy| proxy.ready).map(Child::pid);
        proxy.chain(self.retired.list().map(|(pid, _)| pid)).collect()
    }

    /// Has all proxies finish what they do and keep no connection, or go on.
    pub(super) async fn quiet(&mut self, how: Quiet) -> Flow {
        let (on, twice) = (how != Quiet::Off, how == Quiet::Twice);
        self.retired.quieting = if on { self.serving() } else { BTreeSet::new() };
        if on {
            // Those that were replaced never go on.
            self.retired.tell(|| ToProxy::Quiet { on, twice }, &[]).await;
        }
        self.tell(ToProxy::Quiet { on, twice }, &[]).await
    }

    /// A proxy has none left of the connections that it had when it was told.
    pub(super) async fn quieted(&mut self, pid: u32) -> Flow {
        if !self.retired.quieting.remove(&pid) || !self.retired.quieting.is_empty() {
            return ControlFlow::Continue(());
        }
        let Some(duty) = &mut self.duty else { return ControlFlow::Continue(()) };
        let event = duty.quieted().await;
        Box::pin(self.on_duty(event)).await
    }

    /// Has all proxies reset the connections of addresses that leave.
    pub(super) async fn abort(&mut self, addresses: Vec<IpAddr>, token: u64) -> Flow {
        let waited_for = self.serving();
        if waited_for.is_empty() {
            if let (Some(duty), true) = (&mut self.duty, token != NO_TOKEN) {
                duty.aborted(token).await;
            }
            return ControlFlow::Continue(());
        }
        if token != NO_TOKEN {
            self.retired.aborting.insert(token, waited_for);
        }
        self.retired.tell(|| ToProxy::Abort { addresses: addresses.clone(), token }, &[]).await;
        for retiree in &mut self.retired.proxies {
            if let Link::Silent { process, .. } = &mut retiree.link {
                // It cannot be told, and its connections must not outlive the address.
                process.signal();
            }
        }
        if let Some(next) = &self.next {
            // Nobody waits for one that has just begun to accept.
            let _ = next.send(&ToProxy::Abort { addresses: addresses.clone(), token: NO_TOKEN }, &[]).await;
        }
        if !self.proxy.as_ref().is_some_and(|proxy| proxy.ready) {
            return ControlFlow::Continue(());
        }
        self.tell(ToProxy::Abort { addresses, token }, &[]).await
    }

    /// A proxy has done so.
    pub(super) async fn aborted(&mut self, pid: u32, token: u64) {
        let Some(waited_for) = self.retired.aborting.get_mut(&token) else { return };
        waited_for.remove(&pid);
        if waited_for.is_empty() {
            self.retired.aborting.remove(&token);
            if let Some(duty) = &mut self.duty {
                duty.aborted(token).await;
            }
        }
    }

    /// Has all proxies write to logs opened anew.
    pub(super) async fn reopen_logs(&mut self) -> Flow {
        info!("reopening logs");
        let (files, fds) = logs::open_all(&self.loaded.config);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.retired.tell(|| ToProxy::ReopenLogs { files: files.clone() }, &fds).await;
        self.tell(ToProxy::ReopenLogs { files }, &fds).await
    }

    /// Addresses move, or are about to, on request.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handover.is_some() || self.duty.as_ref().is_some_and(|duty| !duty.is_steady())
    }
}
