//! Requests shared out between pools by weight: nginx's `split_clients`.
//!
//! With a key, the best weighted score wins (see [`super::rendezvous`]): the same key comes to the same pool on every box, and
//! when weights change a key leaves its pool only if that lost weight, or for one that gained some. Without, the lot decides.

use super::mix::mix;
use super::rendezvous::score;
use super::stable_hash;

/// Weights of pools, in file order; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Split {
    /// Hash of the pool's name, and weight.
    shares: Box<[(u64, u32)]>,
    total: u64,
}

impl Split {
    /// Over pools of these names and weights. One of weight 0 gets nothing, unless all have it: then the first gets all.
    pub fn new<'n>(shares: impl Iterator<Item = (&'n str, u32)>) -> Self {
        let shares: Box<[_]> = shares.map(|(name, weight)| (stable_hash(name.as_bytes()), weight)).collect();
        Self { total: shares.iter().map(|(_, weight)| u64::from(*weight)).sum(), shares }
    }

    /// The pool of a key.
    pub fn by_key(&self, key: &[u8]) -> usize {
        let key = stable_hash(key);
        let scored = self.shares.iter().map(|&(hash, weight)| score(mix(hash ^ key), f64::from(weight))).enumerate();
        // Equal scores, which are those of weight 0: the first.
        scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |(i, _)| i)
    }

    /// The pool that the lot `random` falls to, when any number is as likely as any other.
    pub fn by_lot(&self, random: u64) -> usize {
        // The upper 64 bits of the product: below `total`, with a bias of less than 2^-31 for the weights that there are.
        let mut at = ((u128::from(random) * u128::from(self.total)) >> 64) as u64;
        for (i, &(_, weight)) in self.shares.iter().enumerate() {
            match at.checked_sub(u64::from(weight)) {
                Some(rest) => at = rest,
                None => return i,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::mix::Random;
    use super::*;

    fn split(shares: &[(&str, u32)]) -> Split {
        Split::new(shares.iter().copied())
    }

    /// The pools of so many keys.
    fn of_keys(split: &Split, keys: u32) -> Vec<usize> {
        (0..keys).map(|key| split.by_key(format!("192.0.2.{key}").as_bytes())).collect()
    }

    fn count(chosen: &[usize], pool: usize) -> usize {
        chosen.iter().filter(|&&i| i == pool).count()
    }

    /// Whether `count` of `n` is what the probability `p` makes, within five standard deviations.
    fn is_near(count: usize, n: u32, p: f64) -> bool {
        let n = f64::from(n);
        (count as f64 - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        const N: u32 = 100_000;
        let split = split(&[("stable", 94), ("canary", 5), ("beta", 1), ("off", 0)]);
        let mut random = Random::new(7);
        let lots: Vec<usize> = (0..N).map(|_| split.by_lot(random.any())).collect();
        for chosen in [lots, of_keys(&split, N)] {
            for (pool, share) in [(0, 0.94), (1, 0.05), (2, 0.01)] {
                assert!(is_near(count(&chosen, pool), N, share), "{pool}: {}", count(&chosen, pool));
            }
            assert_eq!(count(&chosen, 3), 0);
        }
    }

    #[test]
    fn every_lot_falls_to_a_pool_and_the_borders_are_exact() {
        let split = split(&[("a", 1), ("none", 0), ("b", 3)]);
        let quarter = u64::MAX / 4;
        let found = [0, quarter, quarter + 1, u64::MAX].map(|lot| split.by_lot(lot));
        assert_eq!(found, [0, 0, 2, 2]);
    }

    #[test]
    fn more_for_the_canary_moves_only_who_must_move() {
        const N: u32 = 20_000;
        let with = |canary: u32| of_keys(&split(&[("stable", 100 - canary), ("canary", canary)]), N);
        let (five, ten) = (with(5), with(10));
        let moved = five.iter().zip(&ten).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(&from, &to)| (from, to) == (0, 1)), "who was on the canary stays on it");
        assert!(is_near(moved.count(), N, 0.05));
        // Where the file has it makes no difference, nor does the scale of the weights.
        let other_way = of_keys(&split(&[("canary", 5), ("stable", 95)]), N);
        assert!(five.iter().zip(&other_way).all(|(a, b)| *a == 1 - *b));
        let scaled = of_keys(&split(&[("stable", 950), ("canary", 50)]), N);
        assert_eq!(five, scaled);
    }

    proptest! {
        #[test]
        fn a_key_moves_only_from_who_loses_or_to_who_gains(
            before in proptest::collection::vec(0u32..100, 2..6),
            changed in 0usize..6,
            weight in 0u32..100,
            key in any::<u64>(),
        ) {
            let changed = changed % before.len();
            let mut after = before.clone();
            after[changed] = weight;
            let names = ["a", "b", "c", "d", "e", "f"];
            let of = |weights: &[u32]| split(&names.into_iter().zip(weights.iter().copied()).collect::<Vec<_>>());
            let [from, to] = [&before, &after].map(|weights| of(weights).by_key(&key.to_be_bytes()));
            if before.iter().all(|w| *w == 0) || after.iter().all(|w| *w == 0) {
                return Ok(());
            }
            prop_assert!(before[from] > 0 && after[to] > 0);
            if weight >= before[changed] {
                prop_assert!(from == to || to == changed);
            } else {
                prop_assert!(from == to || from == changed);
            }
        }
    }
}
