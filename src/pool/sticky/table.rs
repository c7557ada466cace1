//! Clients and their servers: a bounded table from which the client goes that was not seen for longest.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;

use crate::time::Millis;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Forgotten at a time: more than come, and so few that no request waits for many.
const FEW: usize = 4;

/// No slot.
const NONE: u32 = u32::MAX;

/// What bounds the table; a reload may change it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Clients at most, over all shards.
    pub(super) entries: u32,
    /// Milliseconds since a client was last seen.
    pub(super) ttl: u64,
}

/// See the module's documentation. A client is known by a hash: two that share one share a server, which harms nobody.
#[derive(Debug, Default)]
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    /// Keeps who chooses the keys from filling one bucket with them.
    seed: RandomState,
}

#[derive(Debug)]
struct Shard {
    /// Indices of slots by key.
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The ends of the list of the slots in use, which is sorted by when their clients were seen.
    newest: u32,
    oldest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: u64,
    server: u32,
    seen: Millis,
    newer: u32,
    older: u32,
}

impl Table {
    /// The server of a client.
    pub(super) fn get(&self, key: u64, bounds: Bounds, now: Millis) -> Option<u32> {
        self.with(key, |shard, hash| {
            let slot = shard.slots[shard.find(hash, key)? as usize];
            slot.is_fresh(bounds, now).then_some(slot.server)
        })
    }

    /// A client was seen, on this server.
    pub(super) fn set(&self, key: u64, server: u32, bounds: Bounds, now: Millis) {
        let hasher = |key: u64| self.seed.hash_one(key);
        self.with(key, |shard, hash| {
            if let Some(i) = shard.find(hash, key) {
                shard.unlink(i);
                let seen = shard.slots[i as usize].seen.max(now);
                shard.slots[i as usize] = Slot { server, seen, ..shard.slots[i as usize] };
                shard.push(i);
            } else {
                shard.insert(hash, Slot { key, server, seen: now, newer: NONE, older: NONE }, hasher);
            }
            shard.shrink(bounds, now, hasher, FEW);
        });
    }

    /// Clients that are remembered.
    pub(super) fn len(&self, bounds: Bounds, now: Millis) -> u64 {
        let len = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.shrink(bounds, now, |key| self.seed.hash_one(key), usize::MAX);
            shard.index.len() as u64
        };
        self.shards.iter().map(len).sum()
    }

    fn with<T>(&self, key: u64, f: impl FnOnce(&mut Shard, u64) -> T) -> T {
        let hash = self.seed.hash_one(key);
        // The map uses the upper and the lower bits.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        f(&mut shard.lock().unwrap_or_else(PoisonError::into_inner), hash)
    }
}

impl Shard {
    fn find(&self, hash: u64, key: u64) -> Option<u32> {
        self.index.find(hash, |&i| self.slots[i as usize].key == key).copied()
    }

    fn insert(&mut self, hash: u64, slot: Slot, hasher: impl Fn(u64) -> u64) {
        let i = self.free.pop().unwrap_or_else(|| {
            self.slots.push(slot);
            // `max_entries` is far below.
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        });
        self.slots[i as usize] = slot;
        let Self { index, slots, .. } = self;
        index.insert_unique(hash, i, |&i| hasher(slots[i as usize].key));
        self.push(i);
    }

    /// Forgets who is too old or too many, `limit` at most.
    fn shrink(&mut self, bounds: Bounds, now: Millis, hasher: impl Fn(u64) -> u64, limit: usize) {
        let most = (bounds.entries as usize).div_ceil(SHARDS);
        for _ in 0..limit {
            let i = self.oldest;
            let Some(&slot) = self.slots.get(i as usize) else { return };
            if self.index.len() <= most && slot.is_fresh(bounds, now) {
                return;
            }
            self.unlink(i);
            if let Ok(found) = self.index.find_entry(hasher(slot.key), |&other| other == i) {
                found.remove();
            }
            self.free.push(i);
        }
    }

    /// Makes a slot the newest.
    fn push(&mut self, i: u32) {
        let before = self.newest;
        self.slots[i as usize].older = before;
        self.slots[i as usize].newer = NONE;
        match before {
            NONE => self.oldest = i,
            _ => self.slots[before as usize].newer = i,
        }
        self.newest = i;
    }

    fn unlink(&mut self, i: u32) {
        let Slot { newer, older, .. } = self.slots[i as usize];
        match newer {
            NONE => self.newest = older,
            _ => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            _ => self.slots[older as usize].newer = newer,
        }
    }
}

impl Slot {
    fn is_fresh(&self, bounds: Bounds, now: Millis) -> bool {
        now.since(self.seen) < bounds.ttl
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: HashTable::new(), slots: Vec::new(), free: Vec::new(), newest: NONE, oldest: NONE }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { entries: 160, ttl: 1000 };

    #[test]
    fn a_client_is_remembered_for_the_ttl_since_it_was_seen() {
        let table = Table::default();
        table.set(1, 7, BOUNDS, Millis(0));
        assert_eq!(table.get(1, BOUNDS, Millis(999)), Some(7));
        table.set(1, 8, BOUNDS, Millis(999));
        assert_eq!(table.get(1, BOUNDS, Millis(1998)), Some(8));
        assert_eq!(table.get(1, BOUNDS, Millis(1999)), None);
        assert_eq!(table.len(BOUNDS, Millis(1999)), 0);
        assert_eq!(table.get(2, BOUNDS, Millis(0)), None);
    }

    #[test]
    fn the_one_not_seen_for_longest_makes_room() {
        let table = Table::default();
        for key in 0..1000 {
            table.set(key, 1, BOUNDS, Millis(key / 10));
            // One that comes again and again stays.
            table.set(0, 2, BOUNDS, Millis(key / 10));
        }
        assert_eq!(table.get(0, BOUNDS, Millis(99)), Some(2));
        assert_eq!(table.len(BOUNDS, Millis(99)), 160, "all shards are full");
        assert!((960..1000).filter(|&key| table.get(key, BOUNDS, Millis(99)).is_some()).count() > 30);
        assert!((1..200).all(|key| table.get(key, BOUNDS, Millis(99)).is_none()));
        // A reload with less room.
        let less = Bounds { entries: 32, ..BOUNDS };
        assert_eq!(table.len(less, Millis(99)), 32);
        assert_eq!(table.get(0, less, Millis(99)), Some(2));
    }

    proptest! {
        /// Against a plain map, as long as there is room for all.
        #[test]
        fn it_is_a_map_with_times(ops in vec((0u64..40, 0u32..5, 0u64..400), 1..200)) {
            let table = Table::default();
            let mut model: HashMap<u64, (u32, u64)> = HashMap::new();
            let mut now = 0;
            let bounds = Bounds { entries: 1600, ttl: 1000 };
            for (key, server, step) in ops {
                now += step;
                let known = model.get(&key).filter(|(_, seen)| now - seen < 1000).map(|(server, _)| *server);
                prop_assert_eq!(table.get(key, bounds, Millis(now)), known);
                table.set(key, server, bounds, Millis(now));
                model.insert(key, (server, now));
                let fresh = model.values().filter(|(_, seen)| now - seen < 1000).count() as u64;
                prop_assert_eq!(table.len(bounds, Millis(now)), fresh);
            }
        }
    }
}
