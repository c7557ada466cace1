//! Slow start: a server that comes back gets a share of its weight that grows in a straight line (HAProxy's `slowstart`,
//! nginx Plus' `slow_start`), so that cold caches and empty connection pools do not meet the full load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::balance::FULL_SHARE;
use crate::time::Millis;

use super::{Member, Pool, Server};

/// It has its full weight.
const DONE: u64 = 0;
/// It has come back, and no pick has seen that yet: the first one that does starts its clock.
const DUE: u64 = u64::MAX;

/// Since when a server grows; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Ramp(AtomicU64);

impl Ramp {
    /// What there is to hand over.
    pub(super) fn export(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Its part of the full weight after `now`, in parts of [`FULL_SHARE`]; at least 1.
    fn share(&self, duration: u64, now: Millis) -> u32 {
        let since = match self.0.load(Ordering::SeqCst) {
            DONE => return FULL_SHARE,
            DUE => {
                let started = now.0.max(1);
                match self.0.compare_exchange(DUE, started, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => started,
                    Err(DONE | DUE) => return FULL_SHARE,
                    Err(other) => other,
                }
            }
            since => since,
        };
        let share = share_after(now.since(Millis(since)), duration);
        if share == FULL_SHARE {
            // Lost to one that has come back again: that one begins anew.
            let _ = self.0.compare_exchange(since, DONE, Ordering::SeqCst, Ordering::SeqCst);
        }
        share
    }
}

/// The line: 1 at first, [`FULL_SHARE`] from `duration` on.
fn share_after(elapsed: u64, duration: u64) -> u32 {
    if elapsed >= duration {
        return FULL_SHARE;
    }
    let share = u128::from(elapsed) * u128::from(FULL_SHARE) / u128::from(duration);
    u32::try_from(share).unwrap_or(FULL_SHARE).clamp(1, FULL_SHARE)
}

impl Server {
    /// It has come back: where there is a slow start, it gets its weight bit by bit from the next pick on.
    pub fn begin_slow_start(&self) {
        self.ramp.0.store(DUE, Ordering::SeqCst);
        self.growing.store(true, Ordering::SeqCst);
    }

    /// It has its full weight.
    pub(super) fn end_slow_start(&self) {
        self.ramp.0.store(DONE, Ordering::SeqCst);
    }

    /// Takes over what another process has exported; a start in the future is none.
    pub(super) fn restore_slow_start(&self, since: u64, now: Millis) {
        if since == DUE || (since != DONE && since <= now.0) {
            self.ramp.0.store(since, Ordering::SeqCst);
            self.growing.store(true, Ordering::SeqCst);
        }
    }
}

impl Member {
    /// Its part of its weight and of its `max_conns`, in parts of [`FULL_SHARE`].
    pub(super) fn share(&self, now: Millis) -> u32 {
        if self.slow_start == 0 { FULL_SHARE } else { self.server.ramp.share(self.slow_start, now) }
    }

    /// `max_conns` as it is now: it grows with the weight, as HAProxy's `maxconn` does; 0: no limit.
    pub(super) fn max_conns_now(&self, growing: bool, now: Millis) -> u32 {
        if self.max_conns == 0 || !growing {
            return self.max_conns;
        }
        let part = u64::from(self.max_conns) * u64::from(self.share(now));
        u32::try_from(part.div_ceil(u64::from(FULL_SHARE))).unwrap_or(self.max_conns)
    }
}

impl Pool {
    /// Whether some server does not have its full weight. One load of a flag while nothing grows.
    pub(super) fn is_growing(&self, now: Millis) -> bool {
        if !self.has_slow_start || !self.growing.load(Ordering::Relaxed) {
            return false;
        }
        let any = || self.members().any(|member| member.share(now) < FULL_SHARE);
        if any() {
            return true;
        }
        self.growing.store(false, Ordering::SeqCst);
        // One may have come back between the look and the store; it sets the flag after its own state.
        let any = any();
        if any {
            self.growing.store(true, Ordering::SeqCst);
        }
        any
    }
}

/// Whether a server of the pool may be growing; one per pool, survives reloads.
pub(super) type Growing = AtomicBool;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_a_straight_line() {
        let table = [(0, 1), (1, 1), (250, 256), (500, 512), (999, 1022), (1000, FULL_SHARE), (u64::MAX, FULL_SHARE)];
        for (elapsed, share) in table {
            assert_eq!(share_after(elapsed, 1000), share, "{elapsed}");
        }
        assert_eq!(share_after(0, 0), FULL_SHARE);
        assert_eq!(share_after(u64::MAX - 1, u64::MAX), FULL_SHARE - 1);
    }
}
