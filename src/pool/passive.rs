//! Passive failures: nginx's `max_fails` and `fail_timeout`, counted once for all workers.
//!
//! nginx keeps `fails`, `accessed` (the last failure) and `checked` (the last failure, or the pick that began the present
//! window). A server with `max_fails` failures is left alone for `fail_timeout`; then one request is let through as a
//! trial, which starts a new window. A success clears the failures only when a window has begun since the last of them.
//!
//! Beside nginx's counters there is `row`, the failures since the last success: whether a pool can serve must also be said
//! of a single server, which failures never make unavailable, and must not change with the passing of time alone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::time::Millis;

/// A server's limits in one snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// 0: failures never make it unavailable.
    pub(super) max_fails: u32,
    /// Milliseconds.
    pub(super) fail_timeout: u64,
}

/// Failures of a server, shared by all workers. The times are written before `fails` grows and read after it, so that
/// who sees a failure sees its time.
#[derive(Debug, Default)]
pub(super) struct Passive {
    fails: AtomicU32,
    accessed: AtomicU64,
    checked: AtomicU64,
    failures: AtomicU64,
    row: AtomicU32,
}

/// What a proxy leaves to its successor of a server's failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) fails: u32,
    pub(super) accessed: u64,
    pub(super) checked: u64,
    pub(super) failures: u64,
    pub(super) row: u32,
}

/// What taking a server came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Granted,
    /// Granted as the trial request of this window; `previous` is what `checked` was.
    Trial {
        previous: u64,
    },
    /// Unavailable, or another worker has the trial.
    Denied,
}

impl Passive {
    /// Whether failures keep the server from being picked now. False when a trial is due.
    pub(super) fn is_unavailable(&self, limits: Limits, now: Millis) -> bool {
        limits.max_fails > 0
            && self.fails.load(Ordering::Acquire) >= limits.max_fails
            && now.since(Millis(self.checked.load(Ordering::Acquire))) <= limits.fail_timeout
    }

    /// Whether it has failed `max_fails` (0: never) times and has shown no sign of life since, however long ago that was.
    pub(super) fn has_failed(&self, max_fails: u32) -> bool {
        let fails = self.fails.load(Ordering::Acquire).max(self.row.load(Ordering::Relaxed));
        max_fails > 0 && fails >= max_fails
    }

    /// The same, without the failures before the last sign of life, of which a check is one: those only bound picks.
    pub(super) fn has_failed_lately(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.row.load(Ordering::Relaxed) >= max_fails
    }

    /// Failures since the last success.
    pub(super) fn row(&self) -> u32 {
        self.row.load(Ordering::Relaxed)
    }

    /// Shows a sign of life: the failures in a row are over.
    pub(super) fn calm(&self) {
        // Looked at first: a line that is only read stays in every core's cache.
        if self.row.load(Ordering::Relaxed) > 0 {
            self.row.store(0, Ordering::Relaxed);
        }
    }

    /// Begins anew: no failure counts any more.
    pub(super) fn forgive(&self) {
        self.calm();
        self.fails.store(0, Ordering::Release);
    }

    /// Takes the server for a request that is picked now.
    pub(super) fn claim(&self, limits: Limits, now: Millis) -> Claim {
        if limits.max_fails == 0 {
            return Claim::Granted;
        }
        let fails = self.fails.load(Ordering::Acquire);
        // Without failures the window means nothing: the first failure starts one.
        if fails == 0 {
            return Claim::Granted;
        }
        let previous = self.checked.load(Ordering::Acquire);
        let is_due = now.since(Millis(previous)) > limits.fail_timeout;
        let is_mine =
            is_due && self.checked.compare_exchange(previous, now.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if fails < limits.max_fails {
            Claim::Granted
        } else if is_mine {
            Claim::Trial { previous }
        } else {
            Claim::Denied
        }
    }

    /// Takes the server although it is unavailable. It counts as a trial: a success now shows that the server lives.
    pub(super) fn claim_open(&self, now: Millis) {
        if self.checked.load(Ordering::Relaxed) < now.0 {
            self.checked.fetch_max(now.0, Ordering::AcqRel);
        }
    }

    /// Gives back a trial that was not used after all.
    pub(super) fn release_trial(&self, previous: u64, now: Millis) {
        // Lost to a failure that came in between: that one began its own window.
        let _ = self.checked.compare_exchange(now.0, previous, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Counts a failure; true when it is the one that makes the server unavailable.
    pub(super) fn failed(&self, max_fails: u32, now: Millis) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.row.fetch_add(1, Ordering::Relaxed);
        if max_fails == 0 {
            return false;
        }
        self.accessed.fetch_max(now.0, Ordering::AcqRel);
        self.checked.fetch_max(now.0, Ordering::AcqRel);
        self.fails.fetch_add(1, Ordering::AcqRel).wrapping_add(1) == max_fails
    }

    /// Counts a success; true when it makes an unavailable server available.
    pub(super) fn succeeded(&self, max_fails: u32) -> bool {
        self.calm();
        let fails = self.fails.load(Ordering::Acquire);
        if fails == 0 || self.accessed.load(Ordering::Acquire) >= self.checked.load(Ordering::Acquire) {
            return false;
        }
        // A failure that comes in between stays.
        let cleared = self.fails.compare_exchange(fails, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        cleared && max_fails > 0 && fails >= max_fails
    }

    /// What there is to hand over.
    pub(super) fn export(&self) -> Record {
        let load = |of: &AtomicU64| of.load(Ordering::Acquire);
        Record {
            fails: self.fails.load(Ordering::Acquire),
            accessed: load(&self.accessed),
            checked: load(&self.checked),
            failures: load(&self.failures),
            row: self.row.load(Ordering::Relaxed),
        }
    }

    /// Counts failures of another process, which are no reason to leave the server out here.
    pub(super) fn add_failures(&self, failures: u64) {
        self.failures.fetch_add(failures, Ordering::Relaxed);
    }

    /// Takes over what another process has exported; times in the future become `now`.
    pub(super) fn import(&self, record: Record, now: Millis) {
        self.accessed.store(record.accessed.min(now.0), Ordering::Release);
        self.checked.store(record.checked.min(now.0), Ordering::Release);
        self.failures.fetch_add(record.failures, Ordering::Relaxed);
        self.row.store(record.row, Ordering::Relaxed);
        self.fails.store(record.fails, Ordering::Release);
    }
}
