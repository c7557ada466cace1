//! What tracked pools say: pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::TrackedPools;
use crate::ipc::PoolSummary;
use crate::vrrpd::report::Fitness;

/// What the pools of `tracked` say together. One of which nothing is known, or no server, never speaks against this box; but
/// the box may not take over before the first health checks of each: its network may not be there yet.
pub(in crate::app) fn fitness_of_pools(tracked: &TrackedPools, pools: &HashMap<Arc<str>, PoolSummary>) -> Fitness {
    let is_down = |name: &&Arc<str>| pools.get(*name).is_some_and(|pool| pool.total > 0 && pool.up == 0);
    let down: Vec<_> = tracked.pools.iter().filter(is_down).collect();
    let fit = down.is_empty() || (!tracked.any && down.len() < tracked.pools.len());
    let why = |name: &Arc<str>| format!("no server of pool {name} is up");
    let mut all =
        Fitness { fit, why: if fit { Vec::new() } else { down.into_iter().map(why).collect() }, ..Fitness::good() };
    let is_awaited = |name: &&Arc<str>| pools.get(*name).is_none_or(|pool| !pool.judged);
    for name in tracked.pools.iter().filter(is_awaited) {
        all.ready = false;
        all.why.push(format!("waiting for the first health checks of pool {name}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the pools a and b say in each mode, `all` first; of one that is known: up, all, and whether it was judged.
    fn both_modes(a: Option<(u32, u32, bool)>, b: Option<(u32, u32, bool)>) -> [Fitness; 2] {
        let known = [("a", a), ("b", b)].into_iter().filter_map(|(name, pool)| {
            let (up, total, judged) = pool?;
            Some((name.into(), PoolSummary { name: name.into(), up, total, judged }))
        });
        let pools: HashMap<Arc<str>, _> = known.collect();
        let say = |any| fitness_of_pools(&TrackedPools { pools: vec!["a".into(), "b".into()], any }, &pools);
        [say(false), say(true)]
    }

    #[test]
    fn pools_decide_together() {
        let (no_a, no_b) = ("no server of pool a is up", "no server of pool b is up");
        let of = |up| (up, 3, true);
        // Servers of b that are not known are not down.
        let nothing = (0, 0, true);
        // Up of a and b; what counts against the box with `all`, and with `any`.
        for (a, b, all, any) in [
            (nothing, nothing, &[][..], &[][..]),
            (of(1), of(3), &[], &[]),
            (of(0), of(3), &[], &[no_a]),
            (of(1), of(0), &[], &[no_b]),
            (of(0), of(0), &[no_a, no_b], &[no_a, no_b]),
            (of(0), nothing, &[], &[no_a]),
            (nothing, of(2), &[], &[]),
        ] {
            for (fitness, why) in both_modes(Some(a), Some(b)).into_iter().zip([all, any]) {
                assert_eq!(fitness.why, why, "{a:?} {b:?}");
                assert_eq!((fitness.fit, fitness.ready, fitness.adjust), (why.is_empty(), true, 0));
            }
        }
    }

    #[test]
    fn a_box_is_ready_only_after_the_first_health_checks_of_every_pool() {
        let waits_for = |fitness: &Fitness| {
            assert_eq!((fitness.fit, fitness.ready), (true, fitness.why.is_empty()));
            let name =
                |why: &String| why.strip_prefix("waiting for the first health checks of pool ").unwrap().to_owned();
            fitness.why.iter().map(name).collect::<String>()
        };
        let judged = Some((1, 2, true));
        for (a, b, waiting) in [
            (None, None, "ab"),
            (None, judged, "a"),
            (Some((2, 2, false)), judged, "a"),
            // No name resolves.
            (judged, Some((0, 0, false)), "b"),
            // Without checks, and no name resolves.
            (judged, Some((0, 0, true)), ""),
            (judged, judged, ""),
        ] {
            for fitness in both_modes(a, b) {
                assert_eq!(waits_for(&fitness), waiting, "{a:?} {b:?}");
            }
        }
        let [all, any] = both_modes(Some((0, 2, false)), judged);
        assert_eq!((all.fit, all.ready, any.fit, any.ready), (true, false, false, false));
        assert_eq!(any.why, ["no server of pool a is up", "waiting for the first health checks of pool a"]);
    }
}
