//! When the next probe of a server is due.

use std::time::Duration;

use crate::time::{Millis, to_millis};

/// The times of one server's probes: the first somewhere in the first interval, each other one interval after the start of
/// the one before. A probe that outlasts its interval is followed at once by the next: there are never two at a time.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    interval: u64,
    started: Millis,
    due: Millis,
}

/// A place in the interval for the probes of server `n`, as a fraction of 2^64. Any run of successive numbers is spread
/// evenly (a Weyl sequence of the golden ratio), so that probes do not come in bursts; `seed` keeps two boxes with the same
/// file apart.
pub fn spread(seed: u64, n: u32) -> u64 {
    seed.wrapping_add(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Schedule {
    /// Begins at `now`; `fraction` is one of [`spread`].
    pub fn new(now: Millis, interval: Duration, fraction: u64) -> Self {
        let interval = to_millis(interval).max(1);
        let offset = (u128::from(interval) * u128::from(fraction)) >> 64;
        Self { interval, started: now, due: Millis(now.0.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))) }
    }

    /// When the next probe is due.
    pub fn due(&self) -> Millis {
        self.due
    }

    /// A probe starts now.
    pub fn started(&mut self, now: Millis) {
        self.started = now;
        self.due = Millis(now.0.saturating_add(self.interval));
    }

    /// The next probe is due this long after the start of the last, unless it is sooner anyway: HAProxy's fastinter.
    pub fn hurry(&mut self, fast: Duration) {
        self.due = self.due.min(Millis(self.started.0.saturating_add(to_millis(fast).max(1))));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_probe_is_due_an_interval_after_the_start_of_the_last() {
        let mut schedule = Schedule::new(Millis(1000), Duration::from_secs(2), 1 << 63);
        assert_eq!(schedule.due(), Millis(2000), "in the middle of the first interval");
        schedule.started(Millis(2003));
        assert_eq!(schedule.due(), Millis(4003));
        // That one took 5 s: the next is overdue, and the times go on from its start.
        schedule.started(Millis(9003));
        assert_eq!(schedule.due(), Millis(11_003));
        schedule.hurry(Duration::from_millis(500));
        assert_eq!(schedule.due(), Millis(9503));
        schedule.hurry(Duration::from_secs(9));
        assert_eq!(schedule.due(), Millis(9503), "never later");
    }

    proptest! {
        #[test]
        fn the_first_probe_is_within_the_first_interval(now: u32, millis in 1_u64..100_000_000, seed: u64, n: u32) {
            let now = Millis(now.into());
            let due = Schedule::new(now, Duration::from_millis(millis), spread(seed, n)).due();
            prop_assert!(due >= now && due.since(now) < millis);
        }

        #[test]
        fn first_probes_are_spread_evenly(seed: u64, from: u16, count in 8_u32..2000) {
            let mut slots = [0_u32; 8];
            for n in 0..count {
                let due = Schedule::new(Millis(0), Duration::from_millis(8000), spread(seed, u32::from(from) + n)).due();
                slots[usize::try_from(due.0 / 1000).unwrap()] += 1;
            }
            let fair = count / 8;
            prop_assert!(slots.iter().all(|slot| slot.abs_diff(fair) <= 4), "{slots:?}");
        }
    }
}
