//! Clients and their servers: a bounded table from which the client goes that was not seen for longest.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::recency::Recency;
use crate::time::Millis;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Forgotten at a time: more than come, and so few that no request waits for many.
const FEW: usize = 4;

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

/// By hash, in the order in which their clients were seen.
type Shard = Recency<u64, Place>;

#[derive(Debug, Clone, Copy)]
struct Place {
    server: u32,
    seen: Millis,
}

impl Table {
    /// The server of a client.
    pub(super) fn get(&self, key: u64, bounds: Bounds, now: Millis) -> Option<u32> {
        let (shard, hash) = self.of(key);
        let place = shard[shard.find(hash)?];
        place.is_fresh(bounds, now).then_some(place.server)
    }

    /// A client was seen, on this server.
    pub(super) fn set(&self, key: u64, server: u32, bounds: Bounds, now: Millis) {
        let (mut shard, hash) = self.of(key);
        if let Some(at) = shard.find(hash) {
            let seen = shard[at].seen.max(now);
            shard[at] = Place { server, seen };
            shard.touch(at);
        } else {
            shard.insert(hash, Place { server, seen: now });
        }
        shrink(&mut shard, bounds, now, FEW);
    }

    /// Clients that are remembered.
    pub(super) fn len(&self, bounds: Bounds, now: Millis) -> u64 {
        let len = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            shrink(&mut shard, bounds, now, usize::MAX);
            shard.len() as u64
        };
        self.shards.iter().map(len).sum()
    }

    /// Where a client is, if anywhere, and under which hash.
    fn of(&self, key: u64) -> (MutexGuard<'_, Shard>, u64) {
        let hash = self.seed.hash_one(key);
        // The map uses the upper and the lower bits.
        (lock(&self.shards[(hash >> 32) as usize % SHARDS]), hash)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets who is too old or too many, `limit` at most.
fn shrink(shard: &mut Shard, bounds: Bounds, now: Millis, limit: usize) {
    let most = (bounds.entries as usize).div_ceil(SHARDS);
    for _ in 0..limit {
        match shard.oldest() {
            Some(oldest) if shard.len() > most || !shard[oldest].is_fresh(bounds, now) => shard.remove(oldest),
            _ => return,
        }
    }
}

impl Place {
    fn is_fresh(&self, bounds: Bounds, now: Millis) -> bool {
        now.since(self.seen) < bounds.ttl
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
