//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a table in which each server owns slots in proportion to
//! its weight; one lookup whatever the number of servers, a more even spread than a ring, and few keys moved by a change.

use super::mix::{address_hash, mix};
use super::{ATTEMPTS, Members, Node};

/// Slots; a prime, so that every step width reaches every slot. Fixed: a size that followed the number of servers would
/// move nearly every key when it changes.
const SLOTS: usize = 65_537;

#[derive(Debug)]
pub(super) struct Maglev {
    /// Empty without servers, else `SLOTS` indices of servers.
    slots: Box<[u32]>,
}

/// A server's own order of preference over the slots: `next`, `next + step`, and so on.
struct Preference {
    next: usize,
    step: usize,
    weight: u64,
    credit: u64,
}

impl Maglev {
    pub(super) fn build(nodes: &[Node]) -> Self {
        let Some(heaviest) = nodes.iter().map(|node| u64::from(node.weight.get())).max() else {
            return Self { slots: Box::default() };
        };
        let mut preferences: Vec<Preference> = nodes.iter().map(Preference::of).collect();
        let mut slots: Vec<Option<u32>> = vec![None; SLOTS];
        let mut free = SLOTS;
        // Rounds: the heaviest server takes a slot in each, the others as often as their weight says.
        while free > 0 {
            for (index, preference) in (0..).zip(&mut preferences) {
                preference.credit += preference.weight;
                if preference.credit < heaviest || free == 0 {
                    continue;
                }
                preference.credit -= heaviest;
                let slot = std::iter::repeat_with(|| preference.advance()).find(|&slot| slots[slot].is_none());
                if let Some(slot) = slot {
                    slots[slot] = Some(index);
                    free -= 1;
                }
            }
        }
        Self { slots: slots.into_iter().flatten().collect() }
    }

    pub(super) fn pick(&self, members: &impl Members, key: &[u8]) -> Option<usize> {
        if key.is_empty() || self.slots.is_empty() {
            return None;
        }
        // Every further attempt looks at an unrelated slot, so that the keys of a failed server spread over all others.
        let mut hash = u64::from(crc32fast::hash(key));
        (0..ATTEMPTS).find_map(|_| {
            hash = mix(hash);
            let i = self.slots[(hash % SLOTS as u64) as usize] as usize;
            members.is_eligible(i).then_some(i)
        })
    }
}

impl Preference {
    fn of(node: &Node) -> Self {
        let hash = address_hash(node.address);
        Self {
            next: (hash % SLOTS as u64) as usize,
            step: (mix(hash) % (SLOTS as u64 - 1)) as usize + 1,
            weight: u64::from(node.weight.get()),
            credit: 0,
        }
    }

    fn advance(&mut self) -> usize {
        let slot = self.next;
        self.next = (self.next + self.step) % SLOTS;
        slot
    }
}
