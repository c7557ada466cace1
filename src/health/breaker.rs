//! The circuit breaker: when too large a part of the tries at a pool fails, the pool is left alone, then tried with a few.
//!
//! - Closed: outcomes of the last `window` are counted; `error_rate` of at least `min_requests` opens it.
//! - Open: nothing passes for `open_time`.
//! - Half-open: `half_open_requests` trials pass. When all of them are good it closes, with the first bad one it opens again.
//!   A trial that ends without an outcome makes room for another.
//!
//! Each pass is of a period, and every change of state begins a new one. Outcomes of an earlier period count for nothing:
//! what was under way when it opened neither closes it nor opens it again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Millis, to_millis};

/// Parts of the window: an outcome is forgotten after the window, or up to a tenth of it sooner.
const SLOTS: usize = 10;

/// When it opens, and how it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Per cent of the outcomes, 1 to 100.
    pub error_rate: u32,
    /// Milliseconds, over which outcomes count.
    pub window: u64,
    /// Fewer outcomes in the window never open it; at least 1.
    pub min_requests: u32,
    /// Milliseconds.
    pub open_time: u64,
    /// Trials that must be good; at least 1.
    pub half_open_requests: u32,
}

impl Limits {
    /// In the terms of the file.
    pub fn new(
        error_rate: u32,
        window: Duration,
        min_requests: u32,
        open_time: Duration,
        half_open_requests: u32,
    ) -> Self {
        let [window, open_time] = [window, open_time].map(to_millis);
        Self { error_rate, window, min_requests, open_time, half_open_requests }
    }
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everything passes.
    #[default]
    Closed,
    /// Nothing does.
    Open,
    /// Trials do.
    HalfOpen,
}

impl Phase {
    /// The word in status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// So many of so many failed, of trials or in the window.
    Opened {
        /// Failures.
        errors: u32,
        /// Outcomes.
        of: u32,
    },
    /// Trials pass.
    HalfOpened,
    /// The trials were good.
    Closed,
}

/// What a process leaves to its successor; the window begins anew there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BreakerState {
    phase: Phase,
    since: u64,
    until: u64,
    opened: u64,
}

/// The breaker of one pool.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    phase: Phase,
    /// When that began; 0: it was never otherwise.
    since: Millis,
    /// While open: when trials begin.
    until: Millis,
    period: u32,
    /// Trials without an outcome yet.
    under_way: u32,
    /// Trials that were good.
    passed: u32,
    slots: [Slot; SLOTS],
    opened: u64,
}

/// Outcomes of a part of the window.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which, counted from the clock's zero.
    number: u64,
    all: u32,
    errors: u32,
}

impl Breaker {
    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Since when; `None`: since ever.
    pub fn since(&self) -> Option<Millis> {
        (self.since.0 > 0).then_some(self.since)
    }

    /// When trials begin, while it is open.
    pub fn until(&self) -> Millis {
        self.until
    }

    /// Of the passes that are given now.
    pub fn period(&self) -> u32 {
        self.period
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Does what time alone brings about; to be called before [`Breaker::admit`].
    pub fn tick(&mut self, limits: &Limits, now: Millis) -> Option<Turn> {
        match self.phase {
            Phase::Open if now >= self.until => {
                self.enter(Phase::HalfOpen, now);
                Some(Turn::HalfOpened)
            }
            // Fewer trials are asked for than were good already.
            Phase::HalfOpen if self.passed >= limits.half_open_requests => Some(self.close(now)),
            Phase::Closed | Phase::Open | Phase::HalfOpen => None,
        }
    }

    /// Whether a pass would be given now.
    pub fn has_room(&self, limits: &Limits) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Open => false,
            Phase::HalfOpen => self.under_way + self.passed < limits.half_open_requests,
        }
    }

    /// The period of a pass, which is told by [`Breaker::on_outcome`] or [`Breaker::on_abandoned`], once.
    ///
    /// # Errors
    /// Nothing passes; milliseconds until something may, 0: it depends on the trials.
    pub fn admit(&mut self, limits: &Limits, now: Millis) -> Result<u32, u64> {
        if !self.has_room(limits) {
            return Err(if self.phase == Phase::Open { self.until.since(now) } else { 0 });
        }
        if self.phase == Phase::HalfOpen {
            self.under_way += 1;
        }
        Ok(self.period)
    }

    /// Counts how what had a pass of `period` went.
    pub fn on_outcome(&mut self, limits: &Limits, period: u32, good: bool, now: Millis) -> Option<Turn> {
        if period != self.period {
            return None;
        }
        match self.phase {
            Phase::Closed => {
                let (errors, of) = self.count(limits, good, now);
                let is_too_much = u64::from(errors) * 100 >= u64::from(of) * u64::from(limits.error_rate);
                (of >= limits.min_requests.max(1) && is_too_much).then(|| self.open(limits, errors, of, now))
            }
            Phase::HalfOpen => {
                self.under_way = self.under_way.saturating_sub(1);
                if !good {
                    return Some(self.open(limits, 1, self.passed + 1, now));
                }
                self.passed += 1;
                (self.passed >= limits.half_open_requests).then(|| self.close(now))
            }
            Phase::Open => None,
        }
    }

    /// What had a pass of `period` ended without an outcome: its client left, or this box was to blame.
    pub fn on_abandoned(&mut self, period: u32) {
        if period == self.period {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// What a successor needs to know.
    pub fn export(&self) -> BreakerState {
        BreakerState { phase: self.phase, since: self.since.0, until: self.until.0, opened: self.opened }
    }

    /// Goes on where another process was; an end beyond `open_time` from now is brought forward to it.
    pub fn import(&mut self, limits: &Limits, state: BreakerState, now: Millis) {
        self.enter(state.phase, Millis(state.since.min(now.0)));
        self.until = Millis(state.until.min(now.0.saturating_add(limits.open_time)));
        self.opened = state.opened;
    }

    /// Adds an outcome; errors and outcomes of the window.
    fn count(&mut self, limits: &Limits, good: bool, now: Millis) -> (u32, u32) {
        let current = now.0 / (limits.window / SLOTS as u64).max(1);
        // The remainder is below the number of slots.
        let slot = &mut self.slots[(current % SLOTS as u64) as usize];
        if slot.number != current {
            *slot = Slot { number: current, ..Slot::default() };
        }
        slot.all = slot.all.saturating_add(1);
        slot.errors = slot.errors.saturating_add(u32::from(!good));
        // Those of another length of the window may seem to lie ahead.
        let counts = |slot: &&Slot| slot.number <= current && current - slot.number < SLOTS as u64;
        let slots = self.slots.iter().filter(counts);
        slots.fold((0_u32, 0_u32), |(errors, all), slot| {
            (errors.saturating_add(slot.errors), all.saturating_add(slot.all))
        })
    }

    fn open(&mut self, limits: &Limits, errors: u32, of: u32, now: Millis) -> Turn {
        self.enter(Phase::Open, now);
        self.until = Millis(now.0.saturating_add(limits.open_time));
        self.opened += 1;
        Turn::Opened { errors, of }
    }

    fn close(&mut self, now: Millis) -> Turn {
        self.enter(Phase::Closed, now);
        Turn::Closed
    }

    fn enter(&mut self, phase: Phase, now: Millis) {
        self.phase = phase;
        self.since = now;
        self.period = self.period.wrapping_add(1);
        self.under_way = 0;
        self.passed = 0;
        self.slots = <[Slot; SLOTS]>::default();
    }
}

#[cfg(test)]
mod tests;
