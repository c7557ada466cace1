//! When the next probe of a server is due.

use std::time::Duration;

use crate::time::{Millis, to_millis};

/// The times of one server's probes: the first somewhere in the first interval, each other one interval after the start of
/// the one before, or sooner by as much of the jitter as chance has it. A probe that outlasts its interval is followed at
/// once by the next: there are never two at a time.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pace: Pace,
    /// Of the generator: a Weyl sequence, mixed as splitmix64 does.
    seed: u64,
    started: Millis,
    due: Millis,
}

/// How often a server is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// The same while results speak against what is believed.
    pub fast_interval: Duration,
    /// Per cent of the interval by which a probe may come sooner: never later, so that the time in which a dead server is
    /// found out has a bound. 0: none.
    pub jitter: u32,
}

/// A place in the interval for the probes of server `n`, as a fraction of 2^64. Any run of successive numbers is spread
/// evenly (a Weyl sequence of the golden ratio), so that probes do not come in bursts; `seed` keeps two boxes with the same
/// file apart.
pub fn spread(seed: u64, n: u32) -> u64 {
    seed.wrapping_add(u64::from(n).wrapping_mul(GOLDEN))
}

impl Schedule {
    /// Begins at `now`; `fraction` is one of [`spread`], and the seed of the jitter.
    pub fn new(now: Millis, pace: Pace, fraction: u64) -> Self {
        let offset = part(to_millis(pace.interval).max(1), fraction);
        Self { pace, seed: fraction, started: now, due: Millis(now.0.saturating_add(offset)) }
    }

    /// When the next probe is due.
    pub fn due(&self) -> Millis {
        self.due
    }

    /// A probe starts now.
    pub fn started(&mut self, now: Millis) {
        self.started = now;
        self.seed = self.seed.wrapping_add(GOLDEN);
        self.due = self.after(self.pace.interval);
    }

    /// The next probe is due `fast_interval` after the start of the last, unless it is sooner anyway: HAProxy's fastinter.
    pub fn hurry(&mut self) {
        self.due = self.due.min(self.after(self.pace.fast_interval));
    }

    fn after(&self, interval: Duration) -> Millis {
        let interval = to_millis(interval).max(1);
        let most = interval.saturating_mul(self.pace.jitter.min(100).into()) / 100;
        // Up to `most` itself.
        let sooner = part(most.saturating_add(1), mixed(self.seed));
        Millis(self.started.0.saturating_add(interval.saturating_sub(sooner).max(1)))
    }
}

/// The fraction of a Weyl sequence that spreads best: 2^64 by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A fraction of 2^64 of `whole`.
fn part(whole: u64, fraction: u64) -> u64 {
    u64::try_from((u128::from(whole) * u128::from(fraction)) >> 64).unwrap_or(u64::MAX)
}

/// The output function of splitmix64.
fn mixed(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(interval: u64, fast: u64, jitter: u32) -> Pace {
        Pace { interval: Duration::from_millis(interval), fast_interval: Duration::from_millis(fast), jitter }
    }

    #[test]
    fn the_next_probe_is_due_an_interval_after_the_start_of_the_last() {
        let mut schedule = Schedule::new(Millis(1000), pace(2000, 500, 0), 1 << 63);
        assert_eq!(schedule.due(), Millis(2000), "in the middle of the first interval");
        schedule.started(Millis(2003));
        assert_eq!(schedule.due(), Millis(4003));
        // That one took 5 s: the next is overdue, and the times go on from its start.
        schedule.started(Millis(9003));
        assert_eq!(schedule.due(), Millis(11_003));
        schedule.hurry();
        assert_eq!(schedule.due(), Millis(9503));
        let mut schedule = Schedule::new(Millis(0), pace(2000, 9000, 0), 0);
        schedule.started(Millis(0));
        schedule.hurry();
        assert_eq!(schedule.due(), Millis(2000), "never later");
    }

    /// How long after each start the next probe is due.
    fn gaps(pace: Pace, seed: u64, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(Millis(0), pace, seed);
        let gap = |_| {
            let now = schedule.due();
            schedule.started(now);
            schedule.due().since(now)
        };
        (0..count).map(gap).collect()
    }

    #[test]
    fn jitter_takes_every_value_that_it_may_and_two_boxes_drift_apart() {
        let mut seen = gaps(pace(100, 100, 10), 1, 2000);
        assert_ne!(seen, gaps(pace(100, 100, 10), 2, 2000));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (90..=100).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn no_probe_is_late_and_none_comes_sooner_than_the_jitter_lets_it(
            interval in 1_u64..100_000, fast in 1_u64..100_000, jitter in 0_u32..=50, seed: u64,
        ) {
            let least = |interval: u64| (interval - interval * u64::from(jitter) / 100).max(1);
            for gap in gaps(pace(interval, fast, jitter), seed, 20) {
                prop_assert!((least(interval)..=interval).contains(&gap), "{gap}");
            }
            let mut schedule = Schedule::new(Millis(0), pace(interval, fast, jitter), seed);
            schedule.started(Millis(7));
            schedule.hurry();
            let gap = schedule.due().since(Millis(7));
            prop_assert!((least(interval.min(fast))..=interval.min(fast)).contains(&gap), "{gap}");
        }

        #[test]
        fn the_first_probe_is_within_the_first_interval(now: u32, millis in 1_u64..100_000_000, seed: u64, n: u32) {
            let now = Millis(now.into());
            let due = Schedule::new(now, pace(millis, millis, 10), spread(seed, n)).due();
            prop_assert!(due >= now && due.since(now) < millis);
        }

        #[test]
        fn first_probes_are_spread_evenly(seed: u64, from: u16, count in 8_u32..2000) {
            let mut slots = [0_u32; 8];
            for n in 0..count {
                let due = Schedule::new(Millis(0), pace(8000, 8000, 0), spread(seed, u32::from(from) + n)).due();
                slots[usize::try_from(due.0 / 1000).unwrap()] += 1;
            }
            let fair = count / 8;
            prop_assert!(slots.iter().all(|slot| slot.abs_diff(fair) <= 4), "{slots:?}");
        }
    }
}
