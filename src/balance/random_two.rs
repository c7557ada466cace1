//! Two different servers drawn by weight; the one with fewer in flight for its weight wins, as nginx's `random two`.

use super::mix::{Random, mix};
use super::round_robin::Smooth;
use super::weights::Weights;
use super::{ATTEMPTS, FULL_SHARE, Members, least_conn};

/// `None` when the draws met no eligible server; with one only, that one.
pub(super) fn pick(weights: &Weights, smooth: &Smooth, random: &mut Random, members: &impl Members) -> Option<usize> {
    if weights.total() == 0 {
        return None;
    }
    let mut first: Option<usize> = None;
    let mut toss: Option<u64> = None;
    for _ in 0..ATTEMPTS {
        let i = weights.at(random.below(weights.total()));
        if first == Some(i) || !members.is_eligible(i) {
            continue;
        }
        // A server with part of its weight takes part in that part of the picks: decided once per pick, or it would be
        // drawn in the end as long as another one is looked for.
        let share = members.share(i);
        if share < FULL_SHARE {
            let toss = *toss.get_or_insert_with(|| random.below(u64::MAX));
            if mix(toss ^ i as u64) % u64::from(FULL_SHARE) >= u64::from(share) {
                continue;
            }
        }
        let Some(a) = first else {
            first = Some(i);
            continue;
        };
        let weight = |i| least_conn::weight(smooth, members, i);
        let order = least_conn::compare(members.in_flight(i), weight(i), members.in_flight(a), weight(a));
        return Some(if order.is_gt() { a } else { i });
    }
    first
}
