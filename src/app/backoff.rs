//! How long to wait before the next proxy is started: pure.

use std::time::Duration;

use crate::time::Millis;

/// Delay that doubles with each death, and is forgotten after a healthy time.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
    healthy_since: Option<Millis>,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
const HEALTHY: Duration = Duration::from_secs(10);

impl Backoff {
    /// The proxy serves from `now` on.
    pub(super) fn ready(&mut self, now: Millis) {
        self.healthy_since = Some(now);
    }

    /// The proxy died; how long to wait before the next one: not at all the first time.
    pub(super) fn died(&mut self, now: Millis) -> Duration {
        if self.healthy_since.take().is_some_and(|since| since.after(HEALTHY) <= now) {
            self.next = Duration::ZERO;
        }
        let delay = self.next;
        self.next = (delay * 2).clamp(FIRST, LONGEST);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: &mut Backoff, n: usize, healthy_for: u64) -> Vec<u128> {
        (0..n)
            .map(|_| {
                backoff.ready(Millis(1_000));
                backoff.died(Millis(1_000 + healthy_for)).as_millis()
            })
            .collect()
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000];
        assert_eq!(delays(&mut Backoff::default(), 9, 9_999), expected);
    }

    #[test]
    fn a_healthy_time_starts_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(delays(&mut backoff, 3, 0), [0, 100, 200]);
        assert_eq!(delays(&mut backoff, 2, 10_000), [0, 0]);
    }

    #[test]
    fn a_proxy_that_never_got_ready_is_not_healthy() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.died(Millis(20_000)), Duration::ZERO);
        assert_eq!(backoff.died(Millis(40_000)), FIRST);
    }
}
