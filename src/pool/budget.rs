//! The retry budget: retries may add a share of the active requests, so that a pool in trouble is not buried in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::model;

/// Retries under way in a pool; survives reloads.
#[derive(Debug, Default)]
pub struct RetryBudget {
    running: AtomicU64,
}

/// One retry under way; dropping it ends it.
#[derive(Debug)]
#[must_use = "the retry ends when the permit is dropped"]
pub struct RetryPermit {
    budget: Arc<RetryBudget>,
}

impl RetryBudget {
    /// Starts a retry if fewer than `limits` allows with `active` requests are under way, and fewer than `most` (0: no
    /// limit).
    pub fn try_start(self: &Arc<Self>, limits: model::RetryBudget, most: u32, active: u64) -> Option<RetryPermit> {
        let share = active.saturating_mul(u64::from(limits.percent)) / 100;
        let most = if most == 0 { u64::MAX } else { u64::from(most) };
        let allowed = share.max(u64::from(limits.min)).min(most);
        let one_more = |running| (running < allowed).then_some(running + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(RetryPermit { budget: self.clone() })
    }

    /// Retries under way now.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.budget.running.fetch_sub(1, Ordering::Relaxed);
    }
}
