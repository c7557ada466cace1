//! Copies of requests that a pool gets beside the pool that answers (nginx: `mirror`): how many there are at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Pool;

/// Copies that a pool got; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Copies {
    running: AtomicU32,
    sent: AtomicU64,
    left_out: AtomicU64,
}

/// One copy on its way; dropping it ends it.
#[derive(Debug)]
#[must_use = "the copy ends when the permit is dropped"]
pub struct CopyPermit(Arc<Copies>);

/// How many copies a pool got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyReport {
    /// On their way now.
    pub running: u32,
    /// So far.
    pub sent: u64,
    /// Not sent: too many were on their way, or the request could not be copied.
    pub left_out: u64,
}

impl Pool {
    /// Leave to send this pool a copy of a request, unless `max` are on their way already; that is counted.
    pub fn try_copy(&self, max: u32) -> Option<CopyPermit> {
        let copies = &self.copies;
        let one_more = |running| (running < max).then_some(running + 1);
        if copies.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            self.leave_out_copy();
            return None;
        }
        copies.sent.fetch_add(1, Ordering::Relaxed);
        Some(CopyPermit(Arc::clone(copies)))
    }

    /// Counts a request that could not be copied.
    pub fn leave_out_copy(&self) {
        self.copies.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// How many copies this pool got.
    pub fn copies(&self) -> CopyReport {
        let Copies { running, sent, left_out } = &*self.copies;
        CopyReport {
            running: running.load(Ordering::Relaxed),
            sent: sent.load(Ordering::Relaxed),
            left_out: left_out.load(Ordering::Relaxed),
        }
    }
}

impl Drop for CopyPermit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
