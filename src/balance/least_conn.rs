//! Fewest in flight for its weight; among equals the smooth round robin's choice, as nginx.

use std::cmp::Ordering;

use super::Members;
use super::round_robin::Smooth;

/// `loads` is scratch, one per server: each count is read once, so that the second pass sees what the first saw.
pub(super) fn pick(smooth: &mut Smooth, loads: &mut [Option<u32>], members: &impl Members) -> Option<usize> {
    let mut best: Option<(u32, usize)> = None;
    let mut tied = false;
    for (i, load) in loads.iter_mut().enumerate() {
        *load = members.is_eligible(i).then(|| members.in_flight(i));
        let Some(load) = *load else { continue };
        let order = best.map_or(Ordering::Less, |(least, b)| {
            compare(load, weight(smooth, members, i), least, weight(smooth, members, b))
        });
        match order {
            Ordering::Less => (best, tied) = (Some((load, i)), false),
            Ordering::Equal => tied = true,
            Ordering::Greater => {}
        }
    }
    let (least, best) = best?;
    if !tied {
        return Some(best);
    }
    let of_best = weight(smooth, members, best);
    for (i, load) in loads.iter_mut().enumerate() {
        *load = load.filter(|&load| compare(load, weight(smooth, members, i), least, of_best).is_eq());
    }
    smooth.pick(|i| loads[i].is_some(), |i| members.share(i))
}

/// The weight that server `i` has now, in parts of `FULL_SHARE`.
pub(super) fn weight(smooth: &Smooth, members: &impl Members, i: usize) -> u64 {
    u64::from(smooth.weight(i)) * u64::from(members.share(i))
}

/// Compares `load_a / weight_a` with `load_b / weight_b`, exactly.
pub(super) fn compare(load_a: u32, weight_a: u64, load_b: u32, weight_b: u64) -> Ordering {
    // Weights are below 2^26.
    (u64::from(load_a) * weight_b).cmp(&(u64::from(load_b) * weight_a))
}
