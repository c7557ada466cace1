//! Ejection: a server whose answers are errors in a row is left out for a while (Envoy's outlier detection).
//!
//! Unlike `max_fails`, which counts what `retry_on` lists, this looks at every outcome, responses that went to the client
//! included. Each ejection that follows another soon lasts longer; good time takes that back.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::model;
use crate::time::{Millis, to_millis};

use super::{Lease, Member, News, Pool, Server};

/// How a request or connection went, as ejection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is no server error.
    Good,
    /// A 5xx of the server itself.
    ServerError,
    /// 502, 503 or 504, or no answer: not reached, closed, too late.
    GatewayError,
}

impl Outcome {
    /// Of a response.
    pub fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Good,
        }
    }
}

/// What is known of one server; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Ejections that count for how long the next one is.
    times: AtomicU32,
    total: AtomicU64,
    /// 0: it has not been ejected, or is back.
    until: AtomicU64,
    /// When the last ejection ended, or ends.
    last_end: AtomicU64,
}

/// What a proxy leaves to its successor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EjectionState {
    times: u32,
    total: u64,
    until: u64,
    last_end: u64,
}

/// Shared by the servers of a pool; survives reloads.
#[derive(Debug)]
pub(super) struct Ejections {
    /// When the next one comes back; `u64::MAX`: none is out.
    next_return: AtomicU64,
    /// Held while one is ejected or taken back, so that two workers do not eject more than `max_ejected` together.
    turn: Mutex<()>,
}

impl Default for Ejections {
    fn default() -> Self {
        Self { next_return: AtomicU64::new(u64::MAX), turn: Mutex::default() }
    }
}

/// A server has been ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// Milliseconds it stays out.
    pub time: u64,
    /// What reached its limit, in a row.
    pub errors: u32,
    /// Only 502, 503, 504 and missing answers were counted.
    pub gateway: bool,
}

impl Ejection {
    /// Whether it gets nothing now.
    pub(super) fn is_out(&self, now: Millis) -> bool {
        self.until.load(Ordering::Relaxed) > now.0
    }

    /// As [`Ejection::is_out`], but until someone has taken it back: does not change by time alone.
    pub(super) fn is_ejected(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// When it ends.
    pub(super) fn until(&self) -> Option<Millis> {
        Some(self.until.load(Ordering::Relaxed)).filter(|&until| until != 0).map(Millis)
    }

    fn calm(&self) {
        for row in [&self.errors, &self.gateway_errors] {
            // Looked at first: a line that is only read stays in every core's cache.
            if row.load(Ordering::Relaxed) > 0 {
                row.store(0, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn export(&self) -> EjectionState {
        EjectionState {
            times: self.times.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            until: self.until.load(Ordering::Relaxed),
            last_end: self.last_end.load(Ordering::Relaxed),
        }
    }
}

/// How long the next ejection is, and what counts for the one after it: `base` times the ejections in a row, of which
/// each `base` of good time takes one away.
fn next_ejection(times: u32, good_for: u64, base: u64, max: u64) -> (u32, u64) {
    let forgotten = u32::try_from(good_for / base.max(1)).unwrap_or(u32::MAX);
    let times = times.saturating_sub(forgotten).saturating_add(1);
    (times, base.saturating_mul(u64::from(times)).min(max.max(base)))
}

/// How many of `all` may be out: the share, but one at least, and never the last one.
fn allowed(all: usize, percent: u32) -> usize {
    let share = all as u128 * u128::from(percent.min(100)) / 100;
    usize::try_from(share).unwrap_or(all).max(1).min(all.saturating_sub(1))
}

impl Pool {
    /// Counts how a request on the lease's server went, once, for the circuit and for ejection; says when that ejects the
    /// server.
    pub fn note_outcome(&self, lease: &Lease, outcome: Outcome, now: Millis) -> Option<Ejected> {
        if let Some(pass) = &lease.pass {
            self.note_pass(pass, outcome, now);
        }
        let limits = self.config.ejection.as_ref()?;
        let server = lease.server();
        let own = &server.health.ejection;
        let add = |row: &AtomicU32| row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let (errors, gateway_errors) = match outcome {
            Outcome::Good => {
                own.calm();
                return None;
            }
            Outcome::ServerError => {
                own.gateway_errors.store(0, Ordering::Relaxed);
                (add(&own.errors), 0)
            }
            Outcome::GatewayError => (add(&own.errors), add(&own.gateway_errors)),
        };
        let reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        let gateway = reached(gateway_errors, limits.consecutive_gateway_errors);
        if !gateway && !reached(errors, limits.consecutive_5xx) {
            return None;
        }
        let time = self.eject(server, limits, now)?;
        Some(Ejected { time, errors: if gateway { gateway_errors } else { errors }, gateway })
    }

    /// Milliseconds it is out for; `None`: it is out already, or as many are as may be.
    fn eject(&self, server: &Arc<Server>, limits: &model::Ejection, now: Millis) -> Option<u64> {
        let _turn = self.ejections.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let own = &server.health.ejection;
        // A server that the next snapshot has no more ejects nobody.
        if own.is_ejected() || !self.members().any(|member| Arc::ptr_eq(&member.server, server)) {
            return None;
        }
        let out = self.members().filter(|member| member.server.health.ejection.is_ejected()).count();
        if out >= allowed(self.total(), limits.max_ejected) {
            return None;
        }
        let good_for = now.since(Millis(own.last_end.load(Ordering::Relaxed)));
        let (base, max) = (to_millis(limits.ejection_time), to_millis(limits.max_ejection_time));
        let (times, time) = next_ejection(own.times.load(Ordering::Relaxed), good_for, base, max);
        let until = now.0.saturating_add(time);
        own.times.store(times, Ordering::Relaxed);
        own.total.fetch_add(1, Ordering::Relaxed);
        own.last_end.store(until, Ordering::Relaxed);
        own.until.store(until, Ordering::Relaxed);
        own.calm();
        self.ejections.next_return.fetch_min(until, Ordering::Relaxed);
        Some(time)
    }

    /// Takes back those whose time is over. One load while none is due.
    pub(super) fn watch_ejections(&self, now: Millis, news: &mut Vec<News>) {
        if self.ejections.next_return.load(Ordering::Relaxed) > now.0 {
            return;
        }
        let _turn = self.ejections.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = u64::MAX;
        for member in self.members() {
            let own = &member.server.health.ejection;
            match own.until() {
                Some(until) if until <= now => {
                    own.calm();
                    own.until.store(0, Ordering::Relaxed);
                    member.server.begin_slow_start();
                    news.push(News::Returned(Arc::clone(&member.server)));
                }
                Some(until) => next = next.min(until.0),
                None => {}
            }
        }
        self.ejections.next_return.store(next, Ordering::Relaxed);
    }

    /// Puts back what another process knew; an end beyond `max_ejection_time` from now is brought forward to it.
    pub(super) fn restore_ejection(&self, server: &Server, state: EjectionState, now: Millis) {
        let own = &server.health.ejection;
        own.total.fetch_add(state.total, Ordering::Relaxed);
        let Some(limits) = &self.config.ejection else { return };
        let latest = now.after(limits.max_ejection_time.max(limits.ejection_time)).0;
        own.times.store(state.times, Ordering::Relaxed);
        own.last_end.store(state.last_end.min(latest), Ordering::Relaxed);
        if state.until != 0 {
            let until = state.until.min(latest);
            own.until.store(until, Ordering::Relaxed);
            self.ejections.next_return.fetch_min(until, Ordering::Relaxed);
        }
    }
}

impl Member {
    /// Left out for errors in a row, now.
    pub(super) fn is_out(&self, now: Millis) -> bool {
        self.ejects && self.server.health.ejection.is_out(now)
    }
}

impl Server {
    /// Ejections, ever.
    pub fn ejections(&self) -> u64 {
        self.health.ejection.total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ejections_in_a_row_last_longer_and_good_time_shortens_them() {
        let next = |times, good_for| next_ejection(times, good_for, 30, 300);
        assert_eq!(next(0, u64::MAX), (1, 30));
        assert_eq!(next(1, 29), (2, 60));
        assert_eq!(next(2, 30), (2, 60));
        assert_eq!(next(9, 0), (10, 300));
        assert_eq!(next(50, 0), (51, 300));
        assert_eq!(next(5, 150), (1, 30));
        assert_eq!(next_ejection(u32::MAX, 0, u64::MAX, u64::MAX), (u32::MAX, u64::MAX));
    }

    #[test]
    fn at_least_one_and_never_the_last() {
        let table = [(0, 10, 0), (1, 100, 0), (2, 10, 1), (10, 10, 1), (20, 10, 2), (29, 10, 2), (4, 100, 3)];
        for (all, percent, expected) in table {
            assert_eq!(allowed(all, percent), expected, "{percent} % of {all}");
        }
    }

    proptest! {
        #[test]
        fn an_ejection_is_between_its_bounds(times: u32, good: u64, base in 1_u64..1_000_000, max in 1_u64..10_000_000) {
            let (next, time) = next_ejection(times, good, base, max);
            prop_assert!(next >= 1 && next <= times.saturating_add(1));
            prop_assert!(time >= base && time <= max.max(base));
        }
    }
}
