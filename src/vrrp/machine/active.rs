//! The Active Router: speaks, answers rivals, gives the addresses away. RFC 9568 section 6.4.3.

use std::time::Duration;

use super::{Action, Active, Cause, Phase, Role, SETTLE, VirtualRouter};
use crate::time::Micros;
use crate::vrrp::event::{Event, Why};
use crate::vrrp::judge::Said;
use crate::vrrp::timing::{AGAIN, Due, down_interval, skew};
use crate::vrrp::types::{Interval, Priority, Version};

/// Beyond the longest skew, for a peer that is busy.
const OFFER_MARGIN: Duration = Duration::from_millis(250);
/// Between two offers of a box that cannot serve.
pub(super) const OFFER_AGAIN: Duration = Duration::from_secs(10);
/// Extra advertisements are at least so far apart, whoever provokes them.
const EXTRA_GAP: Duration = Duration::from_millis(10);

/// So many unplanned losses within the window, and this box does not preempt for as long.
const LOSSES: usize = 3;
const LOSS_WINDOW: Duration = Duration::from_secs(600);

/// How long an offer stands: whoever is there has answered by then, whatever its priority.
pub(super) fn longest_offer(version: Version, interval: Interval) -> Duration {
    skew(version, Priority::LAST, interval) + OFFER_MARGIN
}

impl Active {
    /// Begin of the silence that is not meant.
    fn silent_since(&self, last_sent: Micros, interval: Duration) -> Micros {
        last_sent.max(self.next_advert.before(interval))
    }
}

impl VirtualRouter {
    /// The addresses are on this box.
    pub fn acquired(&mut self, now: Micros) {
        let Role::Active(active) = &mut self.role else { return };
        active.acquired = true;
        let settle = active.inherited;
        let repeat = self.settings.repeat.iter().copied();
        let again = AGAIN.into_iter().filter(|_| !settle.is_zero());
        self.announcements.begin(now, settle, again.chain(repeat), self.settings.refresh);
        self.announce_due(now);
    }

    /// The addresses are off this box.
    pub fn released(&mut self) {
        if let Role::Backup(backup) = &mut self.role
            && let Some(word) = backup.last_word.take()
        {
            self.push(Action::Advertise(word));
        }
    }

    /// What was under way when a peer took over has been answered: it need not wait with its announcement.
    pub fn finished(&mut self) {
        if let Role::Active(Active { phase: Phase::Lingering { .. }, .. }) = &self.role {
            self.push(Action::Advertise(Priority::RESIGN));
        }
    }

    /// Something else took the addresses off this box, and they are back.
    pub fn restored(&mut self, now: Micros) {
        if let Role::Active(_) = self.role {
            self.announcements.contest(now);
            self.announce_due(now);
        }
    }

    pub(super) fn active_heard(&mut self, said: Said, at: Micros, now: Micros) {
        let loses = self.loses_to(&said);
        let resigns = said.priority == Priority::RESIGN;
        let linger = self.settings.linger;
        // We were silent for so long that a peer may have taken over: then it holds the addresses by right.
        let interval = self.settings.interval.get();
        let Role::Active(active) = &mut self.role else { return };
        let overdue = at > active.silent_since(self.last_sent, interval).after(3 * interval);
        match active.phase {
            Phase::Lingering { cause, .. } if resigns => {
                // Who took over could not keep them.
                active.phase = Phase::Holding;
                self.push(Action::Unhold);
                self.advertise(now);
                self.announcements.contest(now);
                self.announce_due(now);
                if cause == Cause::Stop {
                    self.offer(Cause::Stop, now);
                }
            }
            Phase::Lingering { .. } => {}
            Phase::Offering { .. } if resigns => {}
            Phase::Offering { cause: Cause::Unfit, .. } if loses => self.yield_to(said, Why::Unfit, now),
            // As unable as we are, and worse.
            Phase::Offering { cause: Cause::Unfit, .. } => self.keep(now),
            Phase::Offering { cause, .. } if linger.is_zero() => self.leave(cause, Some(said), now),
            Phase::Offering { cause, .. } => {
                active.phase = Phase::Lingering { until: now.after(linger), cause };
                self.announcements.end();
                self.push(Action::Hold);
            }
            // RFC 9568 6.4.3 (705). It may be the one that we have inherited from, done with what it had accepted.
            Phase::Holding | Phase::Listening { .. } if resigns => {
                active.inherited = Duration::ZERO;
                self.advertise(now);
                self.announcements.contest(now);
                self.announce_due(now);
            }
            Phase::Listening { .. } => self.overtaken(said, now),
            Phase::Holding if loses => {
                let why = if said.priority == self.priority() { Why::Tie } else { Why::HigherPriority };
                self.yield_to(said, why, now);
            }
            Phase::Holding if overdue => self.overtaken(said, now),
            Phase::Holding => self.rival(said, at, now),
        }
    }

    /// Somebody worse speaks for the addresses. RFC 9568 6.4.3 (760): answered at once, so that it learns.
    pub(super) fn rival(&mut self, said: Said, at: Micros, now: Micros) {
        let quiet = 3 * self.settings.interval.max(said.interval).get();
        // Who is being preempted says a last word; only who goes on after that is a rival.
        let fresh = now.since(self.since) <= self.settings.interval.get() + SETTLE;
        let Role::Active(active) = &mut self.role else { return };
        match &mut active.rival {
            Some((_, last)) if at.since(*last) <= quiet => *last = at,
            _ if fresh => {}
            rival => {
                *rival = Some((at, at));
                self.push(Action::Report(Event::Rival { source: said.source, priority: said.priority }));
            }
        }
        if said.same_addresses {
            self.answer(now);
        } else {
            self.doubt(said, at, now);
        }
        self.announcements.contest(now);
        self.announce_due(now);
    }

    /// Somebody who loses to us speaks for the addresses, and may drop what we say: it is configured otherwise. One that
    /// hears us yields to our answer. keepalived 2.2 does not, and what it drops keeps it from speaking all the same, if it
    /// comes as often as it would speak itself; so it is waited for, almost as long as other backups have patience with us,
    /// and if it goes on for three intervals, yielded to.
    pub(super) fn doubt(&mut self, said: Said, at: Micros, now: Micros) {
        let interval = self.settings.interval.max(said.interval).get();
        let Role::Active(active) = &mut self.role else { return };
        let since = match active.deaf {
            Some((since, last)) if at.since(last) <= 3 * interval => since,
            _ => at,
        };
        active.deaf = Some((since, at));
        // Its clock is not ours.
        if at.since(since) >= 3 * interval - interval / 4 {
            return self.yield_to(said, Why::Deaf, now);
        }
        self.answer(now);
        if let Role::Active(active) = &mut self.role {
            active.next_advert = now.after(interval * 5 / 2);
        }
    }

    /// Speaks out of turn.
    fn answer(&mut self, now: Micros) {
        if now.since(self.last_sent) >= EXTRA_GAP {
            self.advertise(now);
        }
    }

    pub(super) fn overtaken(&mut self, said: Said, now: Micros) {
        self.lost(now);
        self.yield_to(said, Why::Overtaken, now);
    }

    pub(super) fn active_due(&mut self, now: Micros) {
        // The longest that any peer waits.
        let patience = down_interval(self.settings.version, Priority::LAST, self.settings.interval);
        let interval = self.settings.interval.get();
        let Role::Active(active) = &mut self.role else { return };
        match active.phase {
            Phase::Holding if active.silent_since(self.last_sent, interval).after(patience) < now => {
                // Stalled for so long that a peer, if there is one, has taken over. Its next advertisement comes within an interval.
                let late = now.since(active.next_advert);
                active.phase = Phase::Listening { until: now.after(interval + interval / 8) };
                self.push(Action::Report(Event::Stalled { late }));
                return;
            }
            Phase::Holding if active.next_advert <= now => self.advertise_in_time(now),
            Phase::Offering { until, cause } if until <= now => self.nobody_took(cause, now),
            Phase::Lingering { until, cause } if until <= now => {
                self.leave(cause, None, now);
                return;
            }
            Phase::Listening { until } if until <= now => {
                self.keep(now);
                self.announcements.contest(now);
            }
            Phase::Holding | Phase::Offering { .. } | Phase::Lingering { .. } | Phase::Listening { .. } => {}
        }
        let quiet = 3 * interval;
        if let Role::Active(active) = &mut self.role
            && active.phase == Phase::Holding
        {
            if active.rival.is_some_and(|(_, last)| now.since(last) > quiet) {
                active.rival = None;
                self.push(Action::Report(Event::RivalGone));
            } else if active.offer_at.is_some_and(|at| at <= now) {
                self.offer(Cause::Unfit, now);
            }
        }
        self.announce_due(now);
    }

    /// Sends an advertisement because it is time.
    pub(super) fn advertise_in_time(&mut self, now: Micros) {
        let interval = self.settings.interval.get();
        let Role::Active(active) = &mut self.role else { return };
        let due = active.next_advert;
        self.advertise(now);
        if let Role::Active(active) = &mut self.role {
            // In step with the last one, unless that is past already.
            let next = due.after(interval);
            active.next_advert = if next > now { next } else { now.after(interval) };
        }
    }

    /// Sends an advertisement now; the next is due an interval later.
    pub(super) fn advertise(&mut self, now: Micros) {
        let (priority, next) = (self.priority(), now.after(self.settings.interval.get()));
        if let Role::Active(active) = &mut self.role {
            active.next_advert = next;
        }
        self.last_sent = now;
        self.push(Action::Advertise(priority));
    }

    pub(super) fn announcements_next(&self, active: &Active) -> Option<Micros> {
        self.announcements.next().filter(|_| active.acquired && !matches!(active.phase, Phase::Listening { .. }))
    }

    pub(super) fn announce_due(&mut self, now: Micros) {
        if let Role::Active(active) = &self.role
            && self.announcements_next(active).is_some()
        {
            match self.announcements.due(now, self.settings.refresh) {
                Some(Due::Burst) => self.push(Action::Announce),
                Some(Due::Single) => self.push(Action::Refresh),
                None => {}
            }
        }
    }

    /// Says priority 0, and waits for a peer with the addresses still here.
    pub(super) fn offer(&mut self, cause: Cause, now: Micros) {
        let longest = longest_offer(self.settings.version, self.settings.interval);
        let Role::Active(active) = &mut self.role else { return };
        active.phase = Phase::Offering { until: now.after(longest), cause };
        active.offer_at = None;
        self.last_sent = now;
        if cause != Cause::Unfit {
            self.push(Action::Prepare);
        }
        self.push(Action::Advertise(Priority::RESIGN));
    }

    pub(super) fn nobody_took(&mut self, cause: Cause, now: Micros) {
        match cause {
            Cause::Stop => self.leave(cause, None, now),
            Cause::Handover | Cause::Group => {
                self.push(Action::Unhold);
                self.push(Action::Report(Event::NoTaker));
                self.keep(now);
            }
            Cause::Unfit => self.keep(now),
        }
    }

    /// Holds the addresses, and says so.
    pub(super) fn keep(&mut self, now: Micros) {
        let again = (!self.condition.fit).then(|| now.after(OFFER_AGAIN));
        let Role::Active(active) = &mut self.role else { return };
        active.phase = Phase::Holding;
        active.offer_at = again;
        self.advertise(now);
    }

    /// Lets go of what was given away.
    pub(super) fn leave(&mut self, cause: Cause, successor: Option<Said>, now: Micros) {
        let why = match cause {
            Cause::Stop => return self.release(Role::Initialize, Why::Stopped, now),
            Cause::Handover => Why::HandedOver,
            Cause::Group => Why::Group,
            Cause::Unfit => Why::Unfit,
        };
        // Or it would take them back in a moment.
        self.yielded = cause == Cause::Handover;
        let backup = self.new_backup(successor, now);
        self.release(Role::Backup(backup), why, now);
    }

    /// Lets go because `said` holds the addresses.
    pub(super) fn yield_to(&mut self, said: Said, why: Why, now: Micros) {
        let mut backup = self.new_backup(Some(said), now);
        backup.last_word = Some(match why {
            // The successor waits until we are done.
            Why::Unfit => Priority::RESIGN,
            // keepalived's `higher_prio_send_advert`, of the least priority, so that nobody yields to it: a winner that never
            // heard us hears a rival now, and announces the addresses that were ours until just now.
            _ => Priority::LAST,
        });
        self.release(Role::Backup(backup), why, now);
    }

    pub(super) fn release(&mut self, role: Role, why: Why, now: Micros) {
        self.announcements.end();
        self.push(Action::Release);
        self.enter(role, why, now);
    }

    /// Whether an advertisement beats ours (RFC 9568 6.4.3 (725)): by priority, then by address.
    pub(super) fn loses_to(&self, said: &Said) -> bool {
        let ours = self.priority();
        said.priority > ours || (said.priority == ours && self.own.is_some_and(|own| said.source > own))
    }

    /// An unplanned loss: a box that loses them again and again had better not take them.
    pub(super) fn lost(&mut self, now: Micros) {
        self.losses.push_back(now);
        while self.losses.len() > LOSSES {
            self.losses.pop_front();
        }
        if self.losses.len() == LOSSES && self.losses.front().is_some_and(|first| now.since(*first) <= LOSS_WINDOW) {
            self.held_until = now.after(LOSS_WINDOW);
            self.push(Action::Report(Event::PreemptionHeld { until: self.held_until }));
        }
    }
}
