//! The line of requests that wait for a server below its `max_conns`; one per pool, shared by all workers.
//!
//! First come, first served: only the head of the line tries to pick, and a newcomer does not pass the line. A retry
//! waits beside the line: it may be waiting for the one server it has not tried, which must not hold up the others.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

#[derive(Debug)]
pub(super) struct Queue {
    /// Requests in the line and beside it.
    waiting: AtomicU32,
    /// One permit: being the head. tokio's semaphore is first in, first out.
    head: Semaphore,
    released: Notify,
}

/// A place among those who wait; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place<'a> {
    queue: &'a Queue,
}

impl Queue {
    /// Whether there is a line; a newcomer joins it.
    pub(super) fn has_line(&self) -> bool {
        self.head.available_permits() == 0
    }

    /// Takes a place unless `limit` are taken.
    pub(super) fn enter(&self, limit: u32) -> Option<Place<'_>> {
        let one_more = |waiting| (waiting < limit).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        Some(Place { queue: self })
    }

    /// A request of the pool has ended.
    ///
    /// No wake-up is lost: who waits counts itself before it looks at the servers, and who releases frees the server
    /// before it looks for those who wait, both sequentially consistent.
    pub(super) fn on_release(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.released.notify_waiters();
        }
    }
}

impl Place<'_> {
    /// Waits to be the head of the line, and remains it until the permit is dropped.
    pub(super) async fn head(&self) -> Option<SemaphorePermit<'_>> {
        self.queue.head.acquire().await.ok()
    }

    /// Tries `attempt` now and after each release, until it gives something.
    pub(super) async fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            // Made before the attempt: a release during the attempt already counts for it.
            let released = self.queue.released.notified();
            match attempt() {
                Some(value) => return value,
                None => released.await,
            }
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: AtomicU32::new(0), head: Semaphore::new(1), released: Notify::new() }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
