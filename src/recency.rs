//! A map that knows in which order its entries were used last: how a table that is bounded forgets. Pure.

use std::ops::{Index, IndexMut};

use hashbrown::HashTable;

/// No entry.
const NONE: u32 = u32::MAX;

/// What entries are known by.
pub trait Key: Copy + Eq {
    /// Good enough as it is: a part of the key that nobody outside can choose.
    fn hash(self) -> u64;
}

/// See the module's documentation. An entry has a number from when it is put in until it is removed, by which everything but
/// [`Recency::find`] goes.
#[derive(Debug)]
pub struct Recency<K, V> {
    index: HashTable<u32>,
    slots: Vec<Slot<K, V>>,
    /// Slots that are in no list, linked by `older`.
    free: u32,
    newest: u32,
    oldest: u32,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    newer: u32,
    older: u32,
}

impl<K: Key, V> Recency<K, V> {
    /// An empty one.
    pub fn new() -> Self {
        Self { index: HashTable::new(), slots: Vec::new(), free: NONE, newest: NONE, oldest: NONE }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The entry of a key.
    pub fn find(&self, key: K) -> Option<u32> {
        self.index.find(key.hash(), |&at| self.slots[at as usize].key == key).copied()
    }

    /// The one that was used least recently.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Puts in a key that is not there; it is the one used last.
    ///
    /// # Panics
    /// With 2^32 - 1 entries, which is beyond what tables hold.
    pub fn insert(&mut self, key: K, value: V) -> u32 {
        let slot = Slot { key, value, newer: NONE, older: NONE };
        let at = match self.slots.get_mut(self.free as usize) {
            Some(spare) => {
                let at = std::mem::replace(&mut self.free, spare.older);
                *spare = slot;
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("invariant: tables hold fewer than 2^32 entries")
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(key.hash(), at, |&other| slots[other as usize].key.hash());
        self.link_newest(at);
        at
    }

    /// Removes an entry; its number may be given to another.
    pub fn remove(&mut self, at: u32) {
        self.unlink(at);
        let hash = self.slots[at as usize].key.hash();
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.slots[at as usize].older = self.free;
        self.free = at;
    }

    /// Makes it the one that was used last.
    pub fn touch(&mut self, at: u32) {
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let slot = &mut self.slots[at as usize];
        (slot.older, slot.newer) = (before, NONE);
        match self.slots.get_mut(before as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }
}

impl<K: Key, V> Default for Recency<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Index<u32> for Recency<K, V> {
    type Output = V;

    fn index(&self, at: u32) -> &V {
        &self.slots[at as usize].value
    }
}

impl<K, V> IndexMut<u32> for Recency<K, V> {
    fn index_mut(&mut self, at: u32) -> &mut V {
        &mut self.slots[at as usize].value
    }
}

/// One that is a hash itself.
impl Key for u64 {
    fn hash(self) -> u64 {
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list in the order of use, the oldest first.
        #[test]
        fn it_is_a_list_in_the_order_of_use(ops in vec((0_u8..4, 0_u64..12), 1..200)) {
            let mut map: Recency<u64, u64> = Recency::new();
            let mut model: Vec<u64> = Vec::new();
            for (op, key) in ops {
                let found = map.find(key);
                prop_assert_eq!(found.is_some(), model.contains(&key));
                match (op, found) {
                    (0 | 1, None) => {
                        map.insert(key, key * 7);
                        model.push(key);
                    }
                    (0 | 1, Some(at)) => {
                        prop_assert_eq!(map[at], key * 7);
                        map.touch(at);
                        model.retain(|other| *other != key);
                        model.push(key);
                    }
                    (2, Some(at)) => {
                        map.remove(at);
                        model.retain(|other| *other != key);
                    }
                    _ => {
                        prop_assert_eq!(map.oldest().map(|at| map[at]), model.first().map(|key| key * 7));
                        if let Some(at) = map.oldest() {
                            map.remove(at);
                            model.remove(0);
                        }
                    }
                }
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
            for key in model {
                let oldest = map.oldest().unwrap();
                prop_assert_eq!(map[oldest], key * 7);
                map.remove(oldest);
            }
        }
    }
}
