//! One server and what is counted of it, over all workers and snapshots.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::health::Verdict;
use crate::time::Millis;

use super::active::Active;
use super::circuit::{Pass, Share};
use super::ejection::Ejection;
use super::election::{Election, Part};
use super::latency::Latency;
use super::note::LastNote;
use super::passive::Passive;
use super::queue::Queue;
use super::slow_start::{Growing, Ramp};

/// A server of a pool: an address, and live counters that survive reloads. Limits and weight belong to the snapshot.
#[derive(Debug)]
pub struct Server {
    /// Unique in this process, never used again.
    pub id: u32,
    /// Name of its pool.
    pub pool: Arc<str>,
    /// Its name in the pool; the addresses of one host name share it.
    pub name: Arc<str>,
    /// Where to connect to.
    pub address: SocketAddr,
    /// How long it took to answer: HTTP, from its pick to its response head, connecting included (nginx:
    /// `$upstream_header_time`); TCP, to connect.
    pub latency: Latency,
    load: Padded<Load>,
    pub(super) health: Padded<Health>,
    /// The last verdict of its checks.
    pub(super) judged: LastNote,
    /// The last time that failures made it unavailable.
    pub(super) failed: LastNote,
    /// The last time that a success made it available again.
    pub(super) recovered: LastNote,
    /// The last ejection.
    pub(super) ejected: LastNote,
    pub(super) ramp: Ramp,
    /// Set after `ramp`.
    pub(super) growing: Arc<Growing>,
    pub(super) queue: Arc<Queue>,
    pub(super) election: Arc<Election>,
    pub(super) role: Part,
    /// See [`Server::end_at`].
    ends_at: AtomicU64,
}

/// A request or connection on a server; counted in flight until dropped.
#[derive(Debug)]
#[must_use = "the server counts the request only while the lease lives"]
pub struct Lease {
    server: Arc<Server>,
    max_fails: u32,
    pub(super) pass: Option<Pass>,
    pub(super) share: Option<Share>,
}

/// What counting a failure came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// This failure has made the server unavailable: true once until it recovers, so that one log line is written.
    pub became_unavailable: bool,
    /// `max_fails` as written is reached in a row; also of a single server, which nothing makes unavailable.
    pub is_failed: bool,
}

/// What is known of its health; a pick looks at both, so they share a cache line.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Of the requests it gets.
    pub(super) passive: Passive,
    /// Of the checks, if its pool has any.
    pub(super) active: Active,
    /// Of errors in a row.
    pub(super) ejection: Ejection,
}

/// Two counters that only grow: the difference is what is in flight, and no third one is needed for the total.
#[derive(Debug, Default)]
struct Load {
    started: AtomicU64,
    finished: AtomicU64,
}

/// Keeps a value on cache lines of its own: the load is written by every request, the failures are mostly read.
/// 128: x86 fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(T);

/// No end in sight.
const NEVER: u64 = u64::MAX;

impl Server {
    pub(super) fn new(
        pool: Arc<str>,
        name: Arc<str>,
        address: SocketAddr,
        shared: (Arc<Queue>, Arc<Growing>, Arc<Election>),
    ) -> Self {
        let (queue, growing, election) = shared;
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            pool,
            name,
            address,
            latency: Latency::default(),
            load: Padded::default(),
            health: Padded::default(),
            judged: LastNote::default(),
            failed: LastNote::default(),
            recovered: LastNote::default(),
            ejected: LastNote::default(),
            ramp: Ramp::default(),
            growing,
            queue,
            election,
            role: Part::default(),
            ends_at: AtomicU64::new(NEVER),
        }
    }

    /// Requests and connections on it now, over all workers.
    pub fn in_flight(&self) -> u32 {
        // `finished` first: what is finished has started, so the difference is never negative.
        let finished = self.load.finished.load(Ordering::SeqCst);
        let started = self.load.started.load(Ordering::SeqCst);
        u32::try_from(started.wrapping_sub(finished)).unwrap_or(u32::MAX)
    }

    /// Requests and connections it has been given, ever.
    pub fn requests(&self) -> u64 {
        self.load.started.load(Ordering::Relaxed)
    }

    /// Failures counted, ever.
    pub fn failures(&self) -> u64 {
        self.health.passive.export().failures
    }

    /// What active checks say of it, or what is presumed until they do; `None`: nothing yet, or it is not checked.
    pub fn verdict(&self) -> Option<Verdict> {
        self.health.active.verdict()
    }

    /// Whether its checks have had a word on it.
    pub(super) fn has_been_judged(&self) -> bool {
        self.verdict().is_some() && !self.is_presumed()
    }

    /// Whether [`Server::verdict`] is `initial_state`, which no probe has confirmed or disproved yet.
    pub fn is_presumed(&self) -> bool {
        self.health.active.is_presumed()
    }

    /// Makes a verdict of active checks hold for all workers; `None`: there are no checks any more.
    ///
    /// A server that has come up begins anew: what failed before says nothing about it now.
    pub fn judge(&self, verdict: Option<Verdict>) {
        let Health { passive, active, .. } = &*self.health;
        if active.is_down() && verdict == Some(Verdict::Up) {
            passive.forgive();
            // One that was only presumed to be down has not come back from anything.
            if !active.is_presumed() {
                self.begin_slow_start();
            }
        }
        active.set(verdict);
        if verdict.is_none() {
            self.judged.restore(None);
        }
        // Those who wait for a server may have got one, or have none to wait for.
        self.queue.on_release();
    }

    /// Says why the last verdict of its checks is as it is.
    pub fn note_verdict(&self, why: impl Into<String>, now: Millis) {
        self.judged.set(why, now);
    }

    /// Says why failures have made it unavailable.
    pub fn note_failures(&self, why: impl Into<String>, now: Millis) {
        self.failed.set(why, now);
    }

    /// Says why it was ejected.
    pub fn note_ejection(&self, why: impl Into<String>, now: Millis) {
        self.ejected.set(why, now);
    }

    /// Says that its ejection is over.
    pub fn note_return(&self, now: Millis) {
        self.recovered.set("its ejection is over", now);
    }

    /// Says that it has become available again.
    pub fn note_recovery(&self, now: Millis) {
        self.recovered.set("a request succeeded", now);
    }

    /// Checks have found it well for a while in which no request to it has failed: it counts as up again, though only a
    /// request that succeeds, or `fail_timeout`, gives it requests as before.
    pub fn found_well(&self) {
        self.health.passive.calm();
    }

    /// The configuration has it no more: what runs over it is cut at that time, unless that was said before.
    pub fn end_at(&self, at: Millis) {
        self.ends_at.fetch_min(at.0, Ordering::Relaxed);
    }

    /// Whether what runs over it is to be cut.
    pub fn has_ended(&self, now: Millis) -> bool {
        self.ends_at.load(Ordering::Relaxed) <= now.0
    }

    /// Starts a request unless `max_conns` (0: no limit) are in flight.
    pub(super) fn start(self: &Arc<Self>, max_conns: u32, max_fails: u32) -> Option<Lease> {
        let Load { started, finished } = &*self.load;
        if max_conns == 0 {
            started.fetch_add(1, Ordering::SeqCst);
        } else {
            // `finished` may only grow until the update, which errs on the safe side.
            let done = finished.load(Ordering::SeqCst);
            let below = |n: u64| (n.wrapping_sub(done) < u64::from(max_conns)).then_some(n.wrapping_add(1));
            started.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).ok()?;
        }
        Some(Lease { server: self.clone(), max_fails, pass: None, share: None })
    }

    pub(super) fn add_requests(&self, requests: u64) {
        self.load.started.fetch_add(requests, Ordering::SeqCst);
        self.load.finished.fetch_add(requests, Ordering::SeqCst);
    }
}

impl Lease {
    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server has done its part. True when this makes an unavailable server available again.
    pub fn succeeded(&self) -> bool {
        let recovered = self.server.health.passive.succeeded(self.max_fails);
        if recovered {
            self.server.begin_slow_start();
        }
        recovered
    }

    /// Counts a failure for all workers; [`super::Pool::on_failure`] also makes this worker send it less.
    pub fn failed(&self, now: Millis) -> Failure {
        let became_unavailable = self.server.health.passive.failed(self.max_fails, now);
        Failure { became_unavailable, is_failed: became_unavailable }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.load.finished.fetch_add(1, Ordering::SeqCst);
        self.server.queue.on_release();
    }
}

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
