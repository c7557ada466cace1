//! What tracked pools say: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::TrackedPools;
use crate::vrrpd::report::Fitness;

/// What the pools of `tracked` say together. `pools` has, of those that are known, how many servers are up, and how many
/// there are; one that is not known never speaks against this box.
pub(in crate::app) fn fitness_of_pools(tracked: &TrackedPools, pools: &HashMap<Arc<str>, (u32, u32)>) -> Fitness {
    let is_down = |name: &&Arc<str>| pools.get(*name).is_some_and(|&(up, _)| up == 0);
    let down: Vec<_> = tracked.pools.iter().filter(is_down).collect();
    let fit = down.is_empty() || (!tracked.any && down.len() < tracked.pools.len());
    let why = |name: &Arc<str>| format!("no server of pool {name} is up");
    Fitness { fit, why: if fit { Vec::new() } else { down.into_iter().map(why).collect() }, ..Fitness::good() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_decide_together() {
        let (no_a, no_b) = ("no server of pool a is up", "no server of pool b is up");
        // Up of a and b, where known; what counts against the box with `all`, and with `any`.
        for (a, b, all, any) in [
            (None, None, &[][..], &[][..]),
            (Some(1), Some(3), &[], &[]),
            (Some(0), Some(3), &[], &[no_a]),
            (Some(1), Some(0), &[], &[no_b]),
            (Some(0), Some(0), &[no_a, no_b], &[no_a, no_b]),
            // Not known is not down.
            (Some(0), None, &[], &[no_a]),
            (None, Some(2), &[], &[]),
        ] {
            let known = [("a", a), ("b", b)].into_iter().filter_map(|(name, up)| Some((name.into(), (up?, 3))));
            let pools: HashMap<Arc<str>, _> = known.collect();
            for (is_any, why) in [(false, all), (true, any)] {
                let tracked = TrackedPools { pools: vec!["a".into(), "b".into()], any: is_any };
                let fitness = fitness_of_pools(&tracked, &pools);
                assert_eq!(fitness.why, why, "{a:?} {b:?} {is_any}");
                assert_eq!((fitness.fit, fitness.ready, fitness.adjust), (why.is_empty(), true, 0));
            }
        }
    }
}
