//! A Backup: hears the Active Router, and takes over when there is none. RFC 9568 section 6.4.2.

use std::time::Duration;

use super::active::longest_offer;
use super::{INSISTENT, Preemption, Role, SETTLE, SETTLE_OURS, VirtualRouter, Wait};
use crate::time::Micros;
use crate::vrrp::event::{Event, Why};
use crate::vrrp::judge::Said;
use crate::vrrp::machine::Action;
use crate::vrrp::timing::{down_interval, skew};
use crate::vrrp::types::{Priority, Version};

/// For the answers of arbitration.
const ARBITRATION: Duration = Duration::from_secs(1);

impl VirtualRouter {
    /// Whether any of the hosts that decide answered.
    pub fn arbitrated(&mut self, reachable: bool, now: Micros) {
        let down = self.down_at();
        let Role::Backup(backup) = &mut self.role else { return };
        if backup.arbitrating.take().is_none() || down.is_none_or(|at| at > now) {
            return;
        }
        if reachable {
            self.promote(Why::PeerSilent, now);
        } else {
            // Cut off from everybody, it would hold an address that nobody reaches.
            backup.basis = now;
            self.push(Action::Report(Event::Isolated));
        }
    }

    pub(super) fn backup_heard(&mut self, said: Said, at: Micros, now: Micros) {
        let (fit, version) = (self.condition.fit, self.settings.version);
        // Nobody is preempted who has another list: it may be one that drops ours for that, and there would be two masters.
        let stays = said.priority >= self.priority() || !said.same_addresses || !self.may_preempt(now);
        let Role::Backup(backup) = &mut self.role else { return };
        if said.priority == Priority::RESIGN {
            backup.resignations = backup.resignations.saturating_add(1);
            // RFC 9568 6.4.2 (430). Someone who cannot serve leaves it to others.
            let wait = if fit { Wait::Resigned } else { Wait::Unable };
            if backup.wait != Wait::Resigned {
                (backup.basis, backup.wait) = (backup.basis.max(at), wait);
            }
            backup.master = None;
        } else if stays {
            // (450), and the same for a lower one that may not be preempted.
            (backup.basis, backup.wait, backup.resignations) = (backup.basis.max(at), Wait::Silence, 0);
            if version == Version::V3 {
                backup.interval = said.interval;
            }
            backup.arbitrating = None;
            (backup.master, backup.heard) = (Some(said), at);
        } else {
            // (460): discarded, and the timer runs on.
            (backup.master, backup.heard) = (Some(said), at);
        }
    }

    pub(super) fn backup_due(&mut self, now: Micros) {
        if self.down_at().is_none_or(|at| at > now) {
            return;
        }
        let (arbitrate, ours) = (self.settings.arbitrate, self.priority());
        let Role::Backup(backup) = &mut self.role else { return };
        let resigned = backup.wait == Wait::Resigned;
        match backup.arbitrating {
            None if arbitrate && !resigned => {
                backup.arbitrating = Some(now.after(ARBITRATION));
                self.push(Action::Arbitrate);
            }
            Some(until) if until > now => {}
            Some(_) => self.arbitrated(false, now),
            None => {
                let why = match (resigned, &backup.master) {
                    (true, _) => Why::PeerResigned,
                    // It speaks still.
                    (false, Some(master)) if master.priority < ours && backup.heard > backup.basis => Why::Preempting,
                    (false, _) => Why::PeerSilent,
                };
                self.promote(why, now);
            }
        }
    }

    /// When a Backup takes over if it hears nothing.
    pub(super) fn down_at(&self) -> Option<Micros> {
        self.silent_at().map(|at| at.max(self.claims_from).max(self.group_until))
    }

    /// When a Backup takes the Active Router for gone.
    pub fn silent_at(&self) -> Option<Micros> {
        let Role::Backup(backup) = &self.role else { return None };
        let (version, priority) = (self.settings.version, self.priority());
        let patience = match backup.wait {
            Wait::Silence => down_interval(version, priority, backup.interval),
            Wait::Resigned => skew(version, priority, backup.interval),
            Wait::Unable => down_interval(version, priority, backup.interval) + longest_offer(version, backup.interval),
        };
        Some(backup.basis.after(patience))
    }

    pub(super) fn may_preempt(&self, now: Micros) -> bool {
        let since = match self.settings.preemption {
            Preemption::Never => return false,
            Preemption::WhenReady if !self.condition.ready => return false,
            Preemption::WhenReady => self.ready_since.max(self.since),
            Preemption::Immediate => self.since,
        };
        self.condition.fit && !self.yielded && now >= self.held_until && now >= since.after(self.settings.preempt_delay)
    }

    /// How long a predecessor that resigned is to be waited for.
    pub(super) fn settle(&self) -> Duration {
        match &self.role {
            Role::Backup(backup) if backup.wait != Wait::Resigned => Duration::ZERO,
            Role::Backup(backup) if backup.resignations >= INSISTENT => SETTLE_OURS,
            Role::Backup(_) => SETTLE,
            Role::Initialize | Role::Active(_) | Role::Fault { .. } => Duration::ZERO,
        }
    }
}
