//! The keys of one limit, for all workers: bounded in number, each with the time of its next turn and what it has in flight.
//!
//! A key is 128 bits of a keyed hash of its text, so that a long one takes no more room than a short one, nothing is
//! allocated for one by itself, and nobody outside can make two that meet. Keys are spread over shards, each a list in the
//! order of last use behind a lock that is held for the time of one decision. The number of keys is bounded over all
//! shards, not in each, so that a table which is to hold 100,000 holds any 100,000.
//!
//! A new key first takes the place of old ones that owe nothing, which is as if they had never come. When there is none
//! and the table is full, the one that was used least recently goes, and is counted as evicted. One with something in
//! flight never goes.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate::{Rate, Turn, rescale};
use crate::recency::{self, Recency};
use crate::time::Micros;

/// Keys of a full shard, as long as there are fewer shards than [`MOST_SHARDS`].
const PER_SHARD: usize = 2048;

/// Enough that two workers of a large box seldom meet at one.
const MOST_SHARDS: usize = 64;

/// Old keys that a new one looks at, to take their place.
const LOOKED_AT: usize = 2;

/// Keys that are looked at, to make one go: those before it have something in flight.
const SEARCHED: usize = 64;

/// What is known of the keys of one limit; survives reloads.
#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    /// In all shards.
    keys: AtomicUsize,
    hashes: [RandomState; 2],
}

/// What the configuration of the day allows each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How often.
    pub rate: Option<Rate>,
    /// How many in flight.
    pub concurrent: Option<NonZeroU32>,
    /// Keys that the table holds at most.
    pub max_keys: usize,
}

/// A key of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64, u64);

/// What becomes of a request or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on after so long.
    Pass(Duration),
    /// It came too early; one that comes so much later does not.
    TooFast(Duration),
    /// So many of the key are in flight already, or so many keys.
    TooMany,
}

/// What has been decided so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Keys that are known now.
    pub keys: usize,
    /// In flight now, of limits with a bound of concurrency.
    pub in_flight: u64,
    /// Let through, those that were delayed too.
    pub passed: u64,
    /// Let through after a while.
    pub delayed: u64,
    /// Refused.
    pub rejected: u64,
    /// Keys that were forgotten though they owed something, for there were too many.
    pub evicted: u64,
}

/// Something in flight, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    table: Arc<Table>,
    key: Key,
}

#[derive(Debug, Default)]
struct Shard {
    entries: Recency<Key, Entry>,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    /// When the next request is due, nanoseconds.
    due: u64,
    /// The interval that `due` was reckoned with.
    interval: u64,
    in_flight: u32,
}

impl recency::Key for Key {
    fn hash(self) -> u64 {
        // The other half chooses the shard.
        self.0
    }
}

impl Table {
    /// An empty one, made for `max_keys`.
    pub fn new(max_keys: usize) -> Self {
        let shards = (max_keys / PER_SHARD).next_power_of_two().min(MOST_SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            keys: AtomicUsize::new(0),
            hashes: [RandomState::new(), RandomState::new()],
        }
    }

    /// The key of a text.
    pub fn key(&self, text: &[u8]) -> Key {
        Key(self.hashes[0].hash_one(text), self.hashes[1].hash_one(text))
    }

    /// Decides about a request or a connection at `now`. One that passes under a bound of concurrency is in flight until
    /// [`Table::leave`].
    pub fn decide(&self, key: Key, bounds: &Bounds, now: Micros) -> Verdict {
        let home = self.home(key);
        let mut shard = self.lock(home);
        let at = match shard.entries.find(key) {
            Some(at) => at,
            None => match self.insert(home, shard, key, bounds, now) {
                Ok((locked, at)) => {
                    shard = locked;
                    at
                }
                Err(()) => {
                    self.lock(home).counts.rejected += 1;
                    return Verdict::TooMany;
                }
            },
        };
        shard.decide(at, bounds, now)
    }

    /// Takes back what a request was charged that was refused elsewhere.
    pub fn take_back(&self, key: Key, bounds: &Bounds) {
        let Some(rate) = bounds.rate else { return };
        let mut shard = self.lock(self.home(key));
        if let Some(at) = shard.entries.find(key) {
            let entry = &mut shard.entries[at];
            entry.due = entry.due.saturating_sub(rate.interval());
        }
    }

    /// What passed under a bound of concurrency is over; see [`Seat`].
    pub fn leave(&self, key: Key) {
        let mut shard = self.lock(self.home(key));
        if let Some(at) = shard.entries.find(key) {
            let entry = &mut shard.entries[at];
            let left = entry.in_flight.min(1);
            entry.in_flight -= left;
            shard.counts.in_flight -= u64::from(left);
        }
    }

    /// What has been decided so far, in all shards.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts { keys: self.keys.load(Ordering::Relaxed), ..Counts::default() };
        for home in 0..self.shards.len() {
            let Counts { in_flight, passed, delayed, rejected, evicted, .. } = self.lock(home).counts;
            sum.in_flight += in_flight;
            sum.passed += passed;
            sum.delayed += delayed;
            sum.rejected += rejected;
            sum.evicted += evicted;
        }
        sum
    }

    /// Puts in a key that is not there. `Err`: those that would have to go have something in flight.
    fn insert<'t>(
        &'t self,
        home: usize,
        mut shard: MutexGuard<'t, Shard>,
        key: Key,
        bounds: &Bounds,
        now: Micros,
    ) -> Result<(MutexGuard<'t, Shard>, u32), ()> {
        let forgotten = shard.forget_the_idle(now);
        self.keys.fetch_sub(forgotten, Ordering::Relaxed);
        let keys = self.keys.fetch_add(1, Ordering::Relaxed) + 1;
        // Two for one, so that a table shrinks whose bound has become less.
        let surplus = keys.saturating_sub(bounds.max_keys).min(2);
        let mut evicted = shard.evict(surplus);
        if evicted < surplus {
            // Never two locks at once.
            drop(shard);
            for other in (1..self.shards.len()).map(|step| (home + step) % self.shards.len()) {
                if evicted == surplus {
                    break;
                }
                evicted += self.lock(other).evict(surplus - evicted);
            }
            if evicted == 0 {
                self.keys.fetch_sub(1, Ordering::Relaxed);
                return Err(());
            }
            shard = self.lock(home);
        }
        self.keys.fetch_sub(evicted, Ordering::Relaxed);
        // Another worker may have put it in meanwhile.
        if let Some(at) = shard.entries.find(key) {
            self.keys.fetch_sub(1, Ordering::Relaxed);
            return Ok((shard, at));
        }
        let at = shard.entries.insert(key, Entry { due: 0, interval: 1, in_flight: 0 });
        Ok((shard, at))
    }

    fn home(&self, key: Key) -> usize {
        // The other half is for the place inside of the shard.
        usize::try_from(key.1 % self.shards.len() as u64).unwrap_or(0)
    }

    fn lock(&self, home: usize) -> MutexGuard<'_, Shard> {
        self.shards[home].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Of what [`Table::decide`] let through under a bound of concurrency.
    pub fn new(table: Arc<Table>, key: Key) -> Self {
        Self { table, key }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.leave(self.key);
    }
}

impl Shard {
    fn decide(&mut self, at: u32, bounds: &Bounds, now: Micros) -> Verdict {
        self.entries.touch(at);
        let verdict = self.entries[at].decide(bounds, now);
        match verdict {
            Verdict::Pass(wait) => {
                self.counts.passed += 1;
                self.counts.delayed += u64::from(!wait.is_zero());
                self.counts.in_flight += u64::from(bounds.concurrent.is_some());
            }
            Verdict::TooFast(_) | Verdict::TooMany => self.counts.rejected += 1,
        }
        verdict
    }

    /// Removes the least recently used keys that are as if they had never come; how many.
    fn forget_the_idle(&mut self, now: Micros) -> usize {
        let now = nanos(now);
        let mut forgotten = 0;
        for _ in 0..LOOKED_AT {
            match self.entries.oldest() {
                Some(oldest) if self.entries[oldest].in_flight > 0 => self.entries.touch(oldest),
                Some(oldest) if self.entries[oldest].due <= now => {
                    self.entries.remove(oldest);
                    forgotten += 1;
                }
                _ => break,
            }
        }
        forgotten
    }

    /// Removes so many of the least recently used keys that have nothing in flight, as far as they are found; how many.
    fn evict(&mut self, most: usize) -> usize {
        let mut evicted = 0;
        for _ in 0..self.entries.len().min(SEARCHED) {
            let Some(oldest) = self.entries.oldest().filter(|_| evicted < most) else { break };
            // One in flight is in use: further from the end, the next search does not meet it again.
            if self.entries[oldest].in_flight > 0 {
                self.entries.touch(oldest);
            } else {
                self.entries.remove(oldest);
                evicted += 1;
            }
        }
        self.counts.evicted += evicted as u64;
        evicted
    }
}

impl Entry {
    fn decide(&mut self, bounds: &Bounds, now: Micros) -> Verdict {
        if bounds.concurrent.is_some_and(|most| self.in_flight >= most.get()) {
            return Verdict::TooMany;
        }
        let mut wait = 0;
        if let Some(rate) = bounds.rate {
            let now = nanos(now);
            if self.interval != rate.interval() {
                self.due = rescale(self.due, now, self.interval, rate.interval());
                self.interval = rate.interval();
            }
            match rate.take(self.due, now) {
                Turn::Early(by) => return Verdict::TooFast(Duration::from_nanos(by)),
                Turn::Taken { due, wait: nanos } => (self.due, wait) = (due, nanos),
            }
        }
        self.in_flight += u32::from(bounds.concurrent.is_some());
        Verdict::Pass(Duration::from_nanos(wait))
    }
}

fn nanos(at: Micros) -> u64 {
    at.0.saturating_mul(1000)
}

#[cfg(test)]
mod tests;
