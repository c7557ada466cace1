//! Decides when the proxy is hung: a pure core, driven by the supervisor's timer and the proxy's heartbeats.
//!
//! Call order: [`Watchdog::heartbeat`] for each heartbeat, [`Watchdog::check`] at every [`Watchdog::interval`]; `now` never
//! goes back. A deadline counts only time in which the watcher itself ran: a check that comes late shows that the whole
//! machine (or the supervisor) stood still, and then a full period starts anew for everybody.

use std::collections::HashMap;
use std::time::Duration;

use crate::ipc::Progress;
use crate::time::{Millis, to_millis};

/// Who made no progress for a whole period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No heartbeat came.
    Silent,
    /// Heartbeats come, but this worker's event loop does not turn.
    Stuck {
        /// Its thread id.
        tid: i32,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    period: Duration,
    checked: Millis,
    /// When the silence may be held against the proxy.
    silent_at: Millis,
    workers: HashMap<i32, Worker>,
}

#[derive(Debug)]
struct Worker {
    ticks: u64,
    stuck_at: Millis,
}

/// Heartbeats in a period: one lost to a busy moment is not noticed.
const HEARTBEATS: u32 = 8;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// Time between two heartbeats of a proxy that is watched with `period`.
pub(super) fn heartbeat_interval(period: Duration) -> Duration {
    (period / HEARTBEATS).max(SHORTEST_INTERVAL)
}

impl Watchdog {
    /// Watches a proxy that was just started: `start` long its silence means nothing.
    pub(super) fn new(period: Duration, start: Duration, now: Millis) -> Self {
        Self { period, checked: now, silent_at: now.after(start.max(period)), workers: HashMap::new() }
    }

    /// Time between two calls of [`Self::check`].
    pub(super) fn interval(&self) -> Duration {
        heartbeat_interval(self.period)
    }

    /// The proxy said how far its workers are.
    pub(super) fn heartbeat(&mut self, progress: &[Progress], now: Millis) {
        let deadline = now.after(self.period);
        self.silent_at = deadline;
        // A worker that is gone from the list is not watched any more.
        let mut workers = HashMap::with_capacity(progress.len());
        for &Progress { tid, ticks } in progress {
            let stuck_at = match self.workers.get(&tid) {
                Some(known) if known.ticks == ticks => known.stuck_at,
                _ => deadline,
            };
            workers.insert(tid, Worker { ticks, stuck_at });
        }
        self.workers = workers;
    }

    /// Whether the proxy is hung.
    pub(super) fn check(&mut self, now: Millis) -> Option<Verdict> {
        let stalled = now.since(self.checked) > 2 * to_millis(self.interval());
        self.checked = now;
        if stalled {
            let deadline = now.after(self.period);
            self.silent_at = self.silent_at.max(deadline);
            self.workers.values_mut().for_each(|w| w.stuck_at = deadline);
            return None;
        }
        if now >= self.silent_at {
            return Some(Verdict::Silent);
        }
        let stuck = self.workers.iter().filter(|(_, w)| now >= w.stuck_at).min_by_key(|(tid, w)| (w.stuck_at, **tid));
        stuck.map(|(&tid, _)| Verdict::Stuck { tid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(2);
    const START: Duration = Duration::from_secs(10);

    fn beat(ticks: [u64; 2]) -> Vec<Progress> {
        ticks.into_iter().zip([10, 11]).map(|(ticks, tid)| Progress { tid, ticks }).collect()
    }

    /// Checks at every interval in `from..=to`; when and what the first verdict was.
    fn run(dog: &mut Watchdog, from: u64, to: u64, mut each: impl FnMut(&mut Watchdog, u64)) -> Option<(u64, Verdict)> {
        (from..=to).step_by(250).find_map(|t| {
            each(dog, t);
            dog.check(Millis(t)).map(|v| (t, v))
        })
    }

    fn ready(now: u64) -> Watchdog {
        let mut dog = Watchdog::new(PERIOD, START, Millis(now));
        dog.heartbeat(&beat([1, 1]), Millis(now));
        dog
    }

    #[test]
    fn a_proxy_that_makes_progress_is_left_alone() {
        let mut dog = ready(0);
        assert_eq!(run(&mut dog, 0, 60_000, |d, t| d.heartbeat(&beat([t + 2, t + 2]), Millis(t))), None);
    }

    #[test]
    fn silence_is_a_verdict_after_one_period() {
        let mut dog = ready(0);
        assert_eq!(run(&mut dog, 0, 5_000, |_, _| ()), Some((2_000, Verdict::Silent)));
    }

    #[test]
    fn a_start_may_take_longer() {
        let mut dog = Watchdog::new(PERIOD, START, Millis(0));
        assert_eq!(run(&mut dog, 0, 20_000, |_, _| ()), Some((10_000, Verdict::Silent)));
        let mut slow = Watchdog::new(Duration::from_secs(20), START, Millis(0));
        assert_eq!(run(&mut slow, 0, 19_750, |_, _| ()), None);
    }

    #[test]
    fn one_worker_that_does_not_tick_is_named() {
        let mut dog = ready(0);
        let verdict = run(&mut dog, 0, 5_000, |d, t| d.heartbeat(&beat([t + 2, 1]), Millis(t)));
        assert_eq!(verdict, Some((2_000, Verdict::Stuck { tid: 11 })));
    }

    #[test]
    fn the_stall_of_the_watcher_starts_a_full_period_anew() {
        let mut dog = ready(0);
        assert_eq!(run(&mut dog, 0, 1_750, |_, _| ()), None);
        // Ten seconds in which nobody ran; then both run again, the proxy hung in truth.
        assert_eq!(run(&mut dog, 11_750, 30_000, |_, _| ()), Some((13_750, Verdict::Silent)));
    }

    #[test]
    fn old_heartbeats_that_waited_through_a_stall_are_not_held_against_a_worker() {
        let mut dog = ready(0);
        assert_eq!(dog.check(Millis(0)), None);
        dog.heartbeat(&beat([1, 1]), Millis(10_000));
        assert_eq!(dog.check(Millis(10_000)), None);
        assert_eq!(run(&mut dog, 10_250, 11_750, |d, t| d.heartbeat(&beat([1, 1]), Millis(t))), None);
        assert_eq!(dog.check(Millis(12_000)), Some(Verdict::Stuck { tid: 10 }));
    }

    #[test]
    fn a_check_that_is_a_little_late_counts() {
        let mut dog = ready(0);
        let late = [0, 450, 900, 1_400, 1_900, 2_100].into_iter().find_map(|t| dog.check(Millis(t)).map(|v| (t, v)));
        assert_eq!(late, Some((2_100, Verdict::Silent)));
    }

    #[test]
    fn a_stall_while_starting_does_not_shorten_the_start() {
        let mut dog = Watchdog::new(PERIOD, START, Millis(0));
        assert_eq!(dog.check(Millis(1_000)), None);
        assert_eq!(run(&mut dog, 1_250, 9_750, |_, _| ()), None);
    }

    #[test]
    fn a_worker_that_left_is_forgotten() {
        let mut dog = ready(0);
        let verdict = run(&mut dog, 0, 10_000, |d, t| d.heartbeat(&[Progress { tid: 10, ticks: t + 2 }], Millis(t)));
        assert_eq!(verdict, None);
    }

    #[test]
    fn heartbeats_are_never_closer_than_fifty_milliseconds() {
        assert_eq!(heartbeat_interval(Duration::from_millis(100)), Duration::from_millis(50));
        assert_eq!(heartbeat_interval(PERIOD), Duration::from_millis(250));
    }
}
