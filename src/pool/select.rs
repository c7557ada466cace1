//! Picking a server: the tiers, failing open, and waiting.

use std::cell::RefCell;
use std::fmt;

use crate::balance::{FULL_SHARE, Flow, Members, State};
use crate::config::model::Fallback;
use crate::health::Role;
use crate::time::Millis;

use super::passive::Claim;
use super::{Lease, Member, PickInput, PickState, Pool, Tier, Tried, Wanted};

/// Why no server was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickError {
    /// Every server is down, has failed, or has been tried; waiting would not help.
    NoServer,
    /// Only `max_conns` stands in the way, or the line of those who already wait for it.
    AllBusy,
    /// As `AllBusy`, and `queue` requests are waiting already.
    QueueFull,
    /// As `AllBusy`, and `queue_timeout` has passed.
    QueueTimeout,
}

/// Whether passive failures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failures {
    Respected,
    Ignored,
    /// Nor do checks and ejections: the pool is in panic.
    Panic,
}

/// A tier as one pick sees it.
struct View<'a> {
    members: &'a [Member],
    tried: &'a Tried,
    role: Option<Role>,
    failures: Failures,
    /// Some server does not have its full weight.
    growing: bool,
    now: Millis,
}

impl Pool {
    /// Picks a server and starts a request on it; the server joins `tried`. Never waits.
    ///
    /// `state` is this worker's for this pool. `now` never goes back.
    ///
    /// # Errors
    /// `NoServer`; `AllBusy`, also when the pool has a line of waiting requests and this is a first try.
    pub fn pick(
        &self,
        state: &mut PickState,
        input: &PickInput<'_>,
        tried: &mut Tried,
        now: Millis,
    ) -> Result<Lease, PickError> {
        if self.config.queue > 0 && tried.is_empty() && self.queue.has_line() {
            return Err(PickError::AllBusy);
        }
        self.pick_now(state, input, tried, now)
    }

    /// As [`Pool::pick`]; when all servers are busy and the pool has a queue, waits there for at most `queue_timeout`.
    ///
    /// `state` is borrowed only for moments, never over an await. Dropping the future gives up the place.
    ///
    /// # Errors
    /// `NoServer`, `AllBusy` (the pool has no queue), `QueueFull`, `QueueTimeout`.
    pub async fn pick_or_wait(
        &self,
        state: &RefCell<PickState>,
        input: &PickInput<'_>,
        tried: &mut Tried,
        clock: impl Fn() -> Millis,
    ) -> Result<Lease, PickError> {
        let picked = self.pick(&mut state.borrow_mut(), input, tried, clock());
        match picked {
            // Boxed, so that every request's future has room for a pointer only.
            Err(PickError::AllBusy) if self.config.queue > 0 => Box::pin(self.wait(state, input, tried, clock)).await,
            picked => picked,
        }
    }

    async fn wait(
        &self,
        state: &RefCell<PickState>,
        input: &PickInput<'_>,
        tried: &mut Tried,
        clock: impl Fn() -> Millis,
    ) -> Result<Lease, PickError> {
        let place = self.queue.enter(self.config.queue).ok_or(PickError::QueueFull)?;
        let picked = async {
            let _head = if tried.is_empty() { place.head().await } else { None };
            let attempt = || match self.pick_now(&mut state.borrow_mut(), input, tried, clock()) {
                Err(PickError::AllBusy) => None,
                picked => Some(picked),
            };
            place.until(attempt).await
        };
        tokio::time::timeout(self.config.queue_timeout, picked).await.unwrap_or(Err(PickError::QueueTimeout))
    }

    fn pick_now(
        &self,
        state: &mut PickState,
        input: &PickInput<'_>,
        tried: &mut Tried,
        now: Millis,
    ) -> Result<Lease, PickError> {
        let picked = match tried.wanted() {
            None => self.pick_of(None, state, input, tried, now),
            Some(wanted) => match (self.pick_of(Some(wanted.role), state, input, tried, now), wanted.fallback) {
                (Err(PickError::NoServer), Fallback::To(role)) => self.pick_of(role, state, input, tried, now),
                (picked, _) => picked,
            },
        };
        if let (Some(sticky), Ok(lease)) = (&self.sticky, &picked) {
            sticky.count(tried, lease);
        }
        picked
    }

    fn pick_of(
        &self,
        role: Option<Role>,
        state: &mut PickState,
        input: &PickInput<'_>,
        tried: &mut Tried,
        now: Millis,
    ) -> Result<Lease, PickError> {
        let growing = self.is_growing(now);
        for failures in self.rounds() {
            if tried.stick().server().is_some()
                && let Some(lease) = self.follow(role, *failures, tried, now)
            {
                return Ok(lease);
            }
            for (tier, state) in self.tiers.iter().zip(&mut state.tiers) {
                if !self.takes(tier, role, *failures, now) {
                    continue;
                }
                // Every further round means that another worker was quicker to a trial or to the last free place.
                while let Some(i) = tier.pick(state, input, tried, (role, *failures, growing), now) {
                    let member = &tier.members[i];
                    if let Some(lease) = member.lease(*failures, growing, now) {
                        tried.insert(member.server.id);
                        return Ok(lease);
                    }
                }
            }
        }
        // What is usable now and was not picked had no room, even if it has by now.
        Err(if self.has_untried_of(role, tried, now) { PickError::AllBusy } else { PickError::NoServer })
    }

    /// Whether there is a server that a request which was on `tried` could go to, or wait for.
    pub fn has_untried(&self, tried: &Tried, now: Millis) -> bool {
        Wanted::finds(tried.wanted(), |role| self.has_untried_of(role, tried, now))
    }

    fn has_untried_of(&self, role: Option<Role>, tried: &Tried, now: Millis) -> bool {
        self.tiers.iter().any(|tier| {
            let is_open = self.is_open(tier, role, now);
            let panics = self.takes(tier, role, Failures::Panic, now);
            let is_usable = |member: &Member| {
                (panics && member.may_panic() || !member.is_down() && (is_open || member.is_available(now)))
                    && member.server.has_role(role)
            };
            tier.members.iter().any(|member| is_usable(member) && !tried.contains(member.server.id))
        })
    }

    /// What is tried in turn.
    pub(super) fn rounds(&self) -> &'static [Failures] {
        const USUAL: &[Failures] = &[Failures::Respected, Failures::Ignored];
        const PANIC: &[Failures] = &[Failures::Panic, Failures::Respected, Failures::Ignored];
        if self.is_in_panic() { PANIC } else { USUAL }
    }

    /// Whether a tier has a part in that round.
    pub(super) fn takes(&self, tier: &Tier, role: Option<Role>, failures: Failures, now: Millis) -> bool {
        match failures {
            Failures::Respected => true,
            Failures::Ignored => self.is_open(tier, role, now),
            // Backups are what panic is to spare.
            Failures::Panic => self.is_in_panic() && std::ptr::eq(tier, &raw const self.tiers[0]),
        }
    }

    /// Whether passive failures, which have made every server of the tier unavailable, are to be ignored.
    pub(super) fn is_open(&self, tier: &Tier, role: Option<Role>, now: Millis) -> bool {
        self.config.fail_open && !tier.members.iter().any(|member| member.is_left(role, now))
    }
}

impl Tier {
    /// The algorithm's choice of those that are eligible.
    pub(super) fn pick(
        &self,
        state: &mut State,
        input: &PickInput<'_>,
        tried: &Tried,
        (role, failures, growing): (Option<Role>, Failures, bool),
        now: Millis,
    ) -> Option<usize> {
        let view = View { members: &self.members, tried, role, failures, growing, now };
        match (&self.first, tried.stick().key()) {
            (Some(first), Some(key)) => first.pick(state, &view, Flow { key: &key.to_be_bytes(), ..*input }),
            _ => self.balancer.pick(state, &view, *input),
        }
    }
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoServer => "no server is available",
            Self::AllBusy => "every available server is at its max_conns",
            Self::QueueFull => "every available server is at its max_conns and the queue is full",
            Self::QueueTimeout => "every available server stayed at its max_conns for the whole queue_timeout",
        })
    }
}

impl std::error::Error for PickError {}

impl Member {
    /// Starts a request; `None` when another worker has taken what made this server eligible.
    pub(super) fn lease(&self, failures: Failures, growing: bool, now: Millis) -> Option<Lease> {
        let passive = &self.server.health.passive;
        let claim = match failures {
            Failures::Respected => passive.claim(self.limits, now),
            Failures::Ignored | Failures::Panic => Claim::Granted,
        };
        if claim == Claim::Denied {
            return None;
        }
        let lease = self.server.start(self.max_conns_now(growing, now), self.limits.max_fails);
        match (&lease, claim, failures) {
            (None, Claim::Trial { previous }, _) => passive.release_trial(previous, now),
            (Some(_), _, Failures::Ignored | Failures::Panic) => passive.claim_open(now),
            _ => {}
        }
        lease
    }
}

impl Members for View<'_> {
    fn is_eligible(&self, i: usize) -> bool {
        let member = &self.members[i];
        let is_available = match self.failures {
            Failures::Respected => member.is_available(self.now),
            Failures::Ignored => !member.is_down(),
            Failures::Panic => member.may_panic(),
        };
        let max_conns = member.max_conns_now(self.growing, self.now);
        is_available
            && (max_conns == 0 || member.server.in_flight() < max_conns)
            && member.server.has_role(self.role)
            && (self.tried.is_empty() || !self.tried.contains(member.server.id))
    }

    fn in_flight(&self, i: usize) -> u32 {
        self.members[i].server.in_flight()
    }

    fn share(&self, i: usize) -> u32 {
        if self.growing { self.members[i].share(self.now) } else { FULL_SHARE }
    }
}
