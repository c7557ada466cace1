//! The panic threshold: when too few servers are left to carry the load, those that seem ill are used too.
//!
//! Checks and failures can be wrong about all servers at once, and the few that are left would fall one after the other.
//! As in Envoy, below the threshold health is ignored. What the file or the operator takes out stays out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Millis;

use super::Pool;

/// Whether the pool is in panic; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Panic {
    /// 0: not.
    since: AtomicU64,
    times: AtomicU64,
}

/// What status says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanicReport {
    /// Since when health is ignored; `None`: it is not.
    pub since: Option<Millis>,
    /// How often that began.
    pub times: u64,
}

impl Panic {
    pub(super) fn is_on(&self) -> bool {
        self.since.load(Ordering::Relaxed) != 0
    }

    /// True for the one caller that changes it.
    fn turn(&self, on: bool, now: Millis) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        if (since != 0) == on {
            return false;
        }
        let next = if on { now.0.max(1) } else { 0 };
        let changed = self.since.compare_exchange(since, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if changed && on {
            self.times.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }
}

/// Whether `well` of `all` are fewer than `percent`.
fn is_below(well: usize, all: usize, percent: u32) -> bool {
    let (well, all) = (well as u128, all as u128);
    all > 0 && well * 100 < all * u128::from(percent)
}

impl Pool {
    /// Enters or leaves panic by how the servers are now; says what changed, once.
    pub(super) fn watch_panic(&self, now: Millis) -> Option<super::News> {
        let percent = self.config.panic_threshold.unwrap_or(0);
        let members = self.tiers[0].members.iter().filter(|member| member.may_panic());
        let (well, all) = members.fold((0, 0), |(w, n), member| (w + usize::from(member.is_available(now)), n + 1));
        let on = is_below(well, all, percent);
        self.panic.turn(on, now).then_some(super::News::Panic { on, well, all })
    }

    /// Whether health is ignored now.
    pub fn is_in_panic(&self) -> bool {
        self.config.panic_threshold.is_some() && self.panic.is_on()
    }

    /// For status.
    pub fn panic_report(&self) -> PanicReport {
        let since = self.panic.since.load(Ordering::Relaxed);
        PanicReport { since: (since != 0).then_some(Millis(since)), times: self.panic.times.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_itself_is_enough() {
        assert!(is_below(1, 3, 50) && is_below(0, 1, 1) && is_below(99, 100, 100));
        assert!(!is_below(2, 4, 50) && !is_below(0, 0, 50) && !is_below(0, 4, 0) && !is_below(4, 4, 100));
    }
}
