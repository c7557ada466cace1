//! The generic cell rate algorithm (ITU-T I.371, virtual scheduling): a leaky bucket whose level is one point in time.
//!
//! It is written out here because the `governor` crate cannot say by how much a request that it lets through is early,
//! which a delay needs, reads a clock of its own, and ties the state of a key to the rate it began with, which a reload
//! changes; tests hold every decision against it.

use std::num::NonZeroU32;
use std::time::Duration;

/// Requests of one key that are let through: one per interval, and some that come too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds from one request to the next.
    interval: u64,
    /// How early a request may come, nanoseconds.
    tolerance: u64,
    /// How early it may come and go on at once, nanoseconds.
    undelayed: u64,
}

/// Which of the requests that come too early go on at once, and do not wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelayed {
    /// Every one: nginx's `nodelay`.
    All,
    /// So many: nginx's `delay=N`; 0 is its default.
    First(u32),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes on after `wait` nanoseconds; the next one of the key is due at `due`.
    Taken { due: u64, wait: u64 },
    /// It is refused; one that comes so many nanoseconds later is not.
    Early(u64),
}

impl Rate {
    /// `count` requests per `period`, at most 10^9, and `burst` more that come too early.
    pub fn new(count: NonZeroU32, period: Duration, burst: u32, undelayed: Undelayed) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let count = u64::from(count.get());
        let interval = (period.saturating_add(count / 2) / count).max(1);
        let tolerance = interval.saturating_mul(burst.into());
        let undelayed = match undelayed {
            Undelayed::All => tolerance,
            Undelayed::First(n) => interval.saturating_mul(n.into()).min(tolerance),
        };
        Self { interval, tolerance, undelayed }
    }

    /// Nanoseconds from one request to the next.
    pub(super) fn interval(&self) -> u64 {
        self.interval
    }

    /// What becomes of a request at `now` of a key whose next request is due at `due`; both nanoseconds.
    pub(super) fn take(&self, due: u64, now: u64) -> Turn {
        let early = due.saturating_sub(now);
        if early > self.tolerance {
            return Turn::Early(early - self.tolerance);
        }
        Turn::Taken { due: due.max(now).saturating_add(self.interval), wait: early.saturating_sub(self.undelayed) }
    }
}

/// `due` as it is at another interval: a key that owed the time of three requests still owes that of three.
pub(super) fn rescale(due: u64, now: u64, from: u64, to: u64) -> u64 {
    let owed = u128::from(due.saturating_sub(now)) * u128::from(to) / u128::from(from.max(1));
    now.saturating_add(u64::try_from(owed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use governor::clock::{Clock as _, FakeRelativeClock};
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn per_second(count: u32, burst: u32, undelayed: Undelayed) -> Rate {
        Rate::new(NonZeroU32::new(count).unwrap(), Duration::from_secs(1), burst, undelayed)
    }

    /// What becomes of requests at these milliseconds: how long each waits, `None` when it is refused.
    fn run(rate: Rate, at: &[u64]) -> Vec<Option<u64>> {
        let mut due = 0;
        let mut one = |&at: &u64| match rate.take(due, SECOND + at * 1_000_000) {
            Turn::Taken { due: next, wait } => {
                due = next;
                Some(wait / 1_000_000)
            }
            Turn::Early(_) => None,
        };
        at.iter().map(&mut one).collect()
    }

    #[test]
    fn without_a_burst_requests_come_at_intervals_of_the_rate() {
        let rate = per_second(10, 0, Undelayed::All);
        assert_eq!(run(rate, &[0, 99, 100, 150, 201]), [Some(0), None, Some(0), None, Some(0)]);
    }

    #[test]
    fn a_burst_goes_on_at_once_or_waits_as_in_nginx() {
        let at = [0, 0, 0, 0, 0];
        assert_eq!(run(per_second(10, 3, Undelayed::All), &at), [Some(0), Some(0), Some(0), Some(0), None]);
        assert_eq!(run(per_second(10, 3, Undelayed::First(0)), &at), [Some(0), Some(100), Some(200), Some(300), None]);
        assert_eq!(run(per_second(10, 3, Undelayed::First(2)), &at), [Some(0), Some(0), Some(0), Some(100), None]);
    }

    #[test]
    fn what_was_refused_costs_nothing_and_says_when_to_come_again() {
        let rate = per_second(1, 1, Undelayed::All);
        let Turn::Taken { due, .. } = rate.take(0, SECOND) else { panic!() };
        let Turn::Taken { due, .. } = rate.take(due, SECOND) else { panic!() };
        for _ in 0..100 {
            assert_eq!(rate.take(due, SECOND + SECOND / 4), Turn::Early(3 * SECOND / 4));
        }
        assert!(matches!(rate.take(due, 2 * SECOND), Turn::Taken { .. }));
    }

    #[test]
    fn debts_are_in_requests_when_the_rate_changes() {
        let now = 5 * SECOND;
        assert_eq!(rescale(now + 3 * SECOND, now, SECOND, SECOND / 10), now + 3 * SECOND / 10);
        assert_eq!(rescale(now - 1, now, SECOND, SECOND / 10), now);
    }

    proptest! {
        #[test]
        fn governor_decides_alike(
            count in proptest::sample::select(vec![1_u32, 2, 5, 10, 100, 1000]),
            burst in 0_u32..6,
            pauses in proptest::collection::vec(0_u64..2_500, 1..200),
        ) {
            let ours = per_second(count, burst, Undelayed::All);
            let interval = Duration::from_nanos(ours.interval());
            let quota = Quota::with_period(interval).unwrap().allow_burst(NonZeroU32::new(burst + 1).unwrap());
            let clock = FakeRelativeClock::default();
            let theirs = RateLimiter::direct_with_clock(quota, clock.clone());
            let (mut due, mut now) = (0, SECOND);
            for pause in pauses {
                // Up to 2.5 intervals.
                let pause = pause * ours.interval() / 1000;
                now += pause;
                clock.advance(Duration::from_nanos(pause));
                let expected = theirs.check().map_err(|not_until| not_until.wait_time_from(clock.now()));
                match ours.take(due, now) {
                    Turn::Taken { due: next, .. } => {
                        due = next;
                        prop_assert_eq!(expected, Ok(()));
                    }
                    Turn::Early(by) => prop_assert_eq!(expected, Err(Duration::from_nanos(by))),
                }
            }
        }
    }
}
