//! Two different servers drawn by weight; the one with fewer in flight for its weight wins, as nginx's `random two`.

use super::mix::Random;
use super::round_robin::Smooth;
use super::weights::Weights;
use super::{ATTEMPTS, Members, least_conn};

/// `None` when the draws met no eligible server; with one only, that one.
pub(super) fn pick(weights: &Weights, smooth: &Smooth, random: &mut Random, members: &impl Members) -> Option<usize> {
    if weights.total() == 0 {
        return None;
    }
    let mut first: Option<usize> = None;
    for _ in 0..ATTEMPTS {
        let i = weights.at(random.below(weights.total()));
        if first == Some(i) || !members.is_eligible(i) {
            continue;
        }
        let Some(a) = first else {
            first = Some(i);
            continue;
        };
        let order = least_conn::compare(members.in_flight(i), smooth.weight(i), members.in_flight(a), smooth.weight(a));
        return Some(if order.is_gt() { a } else { i });
    }
    first
}
