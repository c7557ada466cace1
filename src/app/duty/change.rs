//! Another configuration of virtual routers: what is held of those that stay is held on, by a vrrp process that is told the new
//! configuration and goes on where the one before it stops.
//!
//! A router that is gone, or that is another one to its peers, gives its addresses away first.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use super::{Duty, DutyEvent, Stage, Then};
use crate::app::child::{Program, descriptors};
use crate::app::supervisor::identity;
use crate::app::tracker::Tracker;
use crate::app::vrrp::messages::ToVrrp;
use crate::config::Loaded;
use crate::config::model::{Config, VirtualRouter};
use crate::net::listen::inode;
use crate::proxy::BoundListener;
use crate::sys::user::Identity;
use crate::vrrpd::report::Status;

/// What the routers are to be.
#[derive(Debug)]
pub(super) struct Next {
    routers: Vec<Arc<VirtualRouter>>,
    config: String,
    identity: Option<Identity>,
}

impl Duty {
    /// Goes over to the routers of `loaded`, and to what listens now. To be called by the main thread in its runtime.
    ///
    /// # Errors
    /// No free descriptor: what listens stays as it was for handovers, and everything else is done.
    pub(in crate::app) async fn follow(
        &mut self,
        loaded: &Loaded,
        listeners: &[BoundListener],
        program: &Program,
    ) -> io::Result<DutyEvent> {
        let config = &loaded.config;
        let doors = doors(config, listeners);
        let same = |(a, b): (&Arc<VirtualRouter>, &Arc<VirtualRouter>)| a == b;
        // A change may be on its way already.
        let (now, routers) = (self.change.as_ref().map_or(&self.routers, |next| &next.routers), &config.routers);
        let unchanged = now.len() == routers.len() && now.iter().zip(routers).all(same);
        let event = if unchanged { DutyEvent::None } else { self.go_over(loaded, program).await };
        let doors = doors?;
        if numbers(&doors) != numbers(&self.doors) {
            self.doors = doors;
            self.show_doors().await;
        }
        Ok(event)
    }

    async fn go_over(&mut self, loaded: &Loaded, program: &Program) -> DutyEvent {
        let config = &loaded.config;
        info!(routers = config.routers.len(), "virtual routers change");
        let identity = runner(config);
        let next = Next { routers: config.routers.clone(), config: loaded.effective.clone(), identity };
        let stays = |old: &Arc<VirtualRouter>| next.routers.iter().find(|new| is_same(old, new));
        let lost: BTreeSet<usize> = self.held().filter(|i| stays(&self.routers[*i]).is_none()).collect();
        let gone: Vec<IpAddr> = self
            .held()
            .filter_map(|i| Some((&self.routers[i], stays(&self.routers[i])?)))
            .flat_map(|(old, new)| {
                let ips = |router: &VirtualRouter| router.all_addresses().map(|a| a.ip).collect::<BTreeSet<_>>();
                ips(old).difference(&ips(new)).copied().collect::<Vec<_>>()
            })
            .collect();
        self.change = Some(next);
        if !lost.is_empty() {
            return self.drain(lost, Then::HandOver).await;
        }
        self.change_now(program).await;
        if gone.is_empty() { DutyEvent::None } else { DutyEvent::Abort { addresses: gone, token: super::NO_TOKEN } }
    }

    /// Has a new process take over what is to change, once addresses that were to be given away first are.
    pub(in crate::app) async fn change_now(&mut self, program: &Program) {
        match &self.change {
            None => {}
            Some(_) if self.child.is_some() => self.succeed(program).await,
            Some(_) => {
                self.take_change();
                if self.condition.serving && !self.routers.is_empty() {
                    self.start_at.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// From here on the routers are the new ones.
    pub(super) fn take_change(&mut self) {
        let Some(Next { routers, config, identity }) = self.change.take() else { return };
        let before = std::mem::replace(&mut self.routers, routers);
        self.config = config;
        let known = |name: &str| before.iter().position(|old| *old.name == *name);
        let stays = |name: &str| self.routers.iter().any(|new| known(name).is_some_and(|i| is_same(&before[i], new)));
        self.memories.retain(|(name, _)| stays(name));
        self.condition.follow(&self.routers, |router| known(&router.name));
        let tracks = |router: &Arc<VirtualRouter>| (router.track_scripts.clone(), router.track_files.clone());
        if before.len() != self.routers.len()
            || before.iter().zip(&self.routers).any(|(old, new)| old.name != new.name || tracks(old) != tracks(new))
        {
            self.tracker = Tracker::start(&self.routers, identity);
        }
        self.status.routers.retain(|status| self.routers.iter().any(|router| router.name == status.name));
        if let Stage::Stopped = self.stage {
            self.stage = Stage::Steady;
        }
    }

    /// There are no routers any more: nothing is left but what proxies watch.
    pub(in crate::app) async fn dissolve(&mut self) {
        if let Some(child) = self.child.take() {
            child.end(super::LEAVE_LIMIT).await;
        }
        (self.stage, self.change, self.start_at, self.mute_since) = (Stage::Stopped, None, None, None);
        (self.routers, self.doors) = (Vec::new(), Vec::new());
        self.status = Status::default();
        self.memories.clear();
        self.condition.follow(&[], |_| None);
        self.tracker = Tracker::start(&[], None);
    }

    async fn show_doors(&mut self) {
        if let Some(child) = &self.child {
            let fds = descriptors(self.doors.iter());
            if let Err(lost) = child.send(&ToVrrp::Doors, &fds).await {
                self.lost(lost).await;
            }
        }
    }
}

/// Whether a router is still the same to its peers.
fn is_same(old: &VirtualRouter, new: &VirtualRouter) -> bool {
    let key = |router: &VirtualRouter| (router.name.clone(), router.vrid, router.interface.clone(), router.family);
    key(old) == key(new)
}

/// Whom commands run as, if there are any.
pub(super) fn runner(config: &Config) -> Option<Identity> {
    let runs = |r: &Arc<VirtualRouter>| !r.track_scripts.is_empty() || r.notify.is_some() || r.webhook.is_some();
    config.routers.iter().any(runs).then(|| identity(&config.global.script_user)).flatten()
}

/// The sockets that take connections to virtual addresses.
pub(super) fn doors(config: &Config, listeners: &[BoundListener]) -> io::Result<Vec<TcpListener>> {
    let reached = listeners.iter().filter(|l| config.is_reached_virtually(l.addr.ip()));
    reached.flat_map(|l| &l.shards).map(TcpListener::try_clone).collect()
}

/// What tells sockets apart, whoever has descriptors of them.
fn numbers(doors: &[TcpListener]) -> Vec<u64> {
    doors.iter().filter_map(|door| inode(door).ok()).collect()
}
