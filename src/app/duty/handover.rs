//! Handovers and stops: what the supervisor does before and while addresses leave on purpose.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Duty, DutyEvent, HANDOVER_LIMIT, LEAVE_LIMIT, NOTIFY_LIMIT, Quiet, Stage, Then};
use crate::app::vrrp::messages::ToVrrp;
use crate::vrrp::event::State;

impl Duty {
    /// Gives the addresses of router `name`, or of all, to a peer; [`DutyEvent::HandedOver`] follows.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub(in crate::app) async fn hand_over(&mut self, name: Option<&str>) -> Result<DutyEvent, String> {
        if !matches!(self.stage, Stage::Steady) {
            return Err("a handover or a stop is under way".to_owned());
        }
        if let Some(name) = name
            && !self.routers.iter().any(|router| *router.name == *name)
        {
            return Err(format!("there is no virtual router \"{name}\""));
        }
        let of: BTreeSet<usize> =
            self.held().filter(|i| name.is_none_or(|name| *self.routers[*i].name == *name)).collect();
        if of.is_empty() {
            return Err("this box does not hold the addresses".to_owned());
        }
        Ok(self.drain(of, Then::HandOver).await)
    }

    /// Begins to stop: [`DutyEvent::Stopped`] follows.
    pub(in crate::app) async fn stop(&mut self) -> DutyEvent {
        self.abandon_succession().await;
        if self.child.is_none() {
            self.stop_without();
            return DutyEvent::None;
        }
        let of = self.held().collect();
        self.drain(of, Then::Stop).await
    }

    /// Lets go without waiting for anybody.
    pub(in crate::app) async fn stop_now(&mut self) {
        self.abandon_succession().await;
        self.stage = Stage::Stopping { until: Instant::now() + HANDOVER_LIMIT };
        match self.child {
            Some(_) => self.tell(ToVrrp::StopNow).await,
            None => self.stop_without(),
        }
    }

    /// Ends the process.
    pub(in crate::app) async fn end(&mut self) {
        self.stage = Stage::Stopped;
        if let Some(child) = self.child.take() {
            child.end(LEAVE_LIMIT).await;
        }
        if let Some(notifier) = self.notifier.take() {
            notifier.finish(NOTIFY_LIMIT).await;
        }
    }

    pub(super) fn held(&self) -> impl Iterator<Item = usize> + '_ {
        self.status.routers.iter().enumerate().filter(|(_, status)| status.state == State::Active).map(|(i, _)| i)
    }

    pub(super) async fn drain(&mut self, of: BTreeSet<usize>, then: Then) -> DutyEvent {
        let longest = of.iter().map(|i| self.routers[*i].handover_drain).max().unwrap_or_default();
        if longest.is_zero() || !self.condition.serving {
            self.give(of, then).await;
            return DutyEvent::None;
        }
        info!(limit = ?longest, "before the addresses go: requests under way are finished");
        self.stage = Stage::Draining { of, until: Instant::now() + longest, then };
        self.quiet(Quiet::Once)
    }

    /// Nothing that was under way when the proxy was last told to be quiet is left.
    pub(in crate::app) async fn quieted(&mut self) -> DutyEvent {
        if self.quiet == Quiet::Twice {
            self.quiet = Quiet::Once;
            self.tell(ToVrrp::Finished).await;
        } else {
            self.drained().await;
        }
        DutyEvent::None
    }

    /// The drain is done, or the time for it is over.
    pub(super) async fn drained(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Steady) {
            Stage::Draining { of, then, .. } => self.give(of, then).await,
            other => self.stage = other,
        }
    }

    /// Has the addresses offered to the peer.
    pub(super) async fn give(&mut self, of: BTreeSet<usize>, then: Then) {
        self.stage = Stage::Steady;
        if self.quiet == Quiet::Twice {
            self.quiet = Quiet::Once;
        }
        match then {
            Then::Stop => {
                self.stage = Stage::Stopping { until: Instant::now() + HANDOVER_LIMIT };
                self.tell(ToVrrp::Stop).await;
            }
            Then::HandOver => {
                // Some may have been lost meanwhile.
                let of: BTreeSet<usize> = self.held().filter(|router| of.contains(router)).collect();
                if of.is_empty() {
                    self.then = Some(DutyEvent::HandedOver(false));
                    return;
                }
                let routers: Vec<usize> = of.iter().copied().collect();
                self.stage = Stage::Handing { of, failed: false, until: Instant::now() + HANDOVER_LIMIT };
                for router in routers {
                    self.tell(ToVrrp::HandOver { router }).await;
                }
            }
        }
    }

    /// A handover is over.
    pub(in crate::app) fn resume(&mut self) -> DutyEvent {
        self.quiet(Quiet::Off)
    }

    /// Tells the proxy to be quiet, or to go on.
    pub(super) fn quiet(&mut self, how: Quiet) -> DutyEvent {
        self.quiet = how;
        DutyEvent::Quiet(how)
    }

    /// A router does not hold its addresses any more, whatever the reason.
    pub(super) fn left(&mut self, router: usize) -> DutyEvent {
        match self.handed(router, true) {
            Some(over) => over,
            // Its sync group moved without us.
            None if self.quiet != Quiet::Off && matches!(self.stage, Stage::Steady) => self.quiet(Quiet::Off),
            None => DutyEvent::None,
        }
    }

    /// A router has given its addresses away, or could not; the event when it was the last.
    pub(super) fn handed(&mut self, router: usize, given: bool) -> Option<DutyEvent> {
        let Stage::Handing { of, failed, .. } = &mut self.stage else { return None };
        if !of.remove(&router) {
            return None;
        }
        *failed |= !given;
        if !of.is_empty() {
            return None;
        }
        let taken = !*failed;
        self.stage = Stage::Steady;
        Some(DutyEvent::HandedOver(taken))
    }

    pub(super) async fn on_stage_over(&mut self) -> DutyEvent {
        match self.stage {
            Stage::Draining { .. } => {
                self.drained().await;
                DutyEvent::None
            }
            Stage::Handing { .. } => {
                self.stage = Stage::Steady;
                DutyEvent::HandedOver(false)
            }
            Stage::Stopping { .. } => {
                error!("the vrrp process does not stop: ended, and its addresses removed");
                if let Some(child) = self.child.take() {
                    child.kill().await;
                }
                self.stop_without();
                DutyEvent::None
            }
            Stage::Steady | Stage::Stopped => DutyEvent::None,
        }
    }
}
