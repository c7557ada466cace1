//! nginx's smooth weighted round robin: 5:1:1 gives a a b a c a a, not five a in a row.

use super::Node;

/// Current and effective weights of a tier's servers.
#[derive(Debug)]
pub(super) struct Smooth {
    slots: Box<[Slot]>,
}

#[derive(Debug)]
struct Slot {
    /// How far this server is ahead of its share, in parts of `FULL_SHARE`.
    current: i64,
    /// `weight`, less what failures have taken.
    effective: u32,
    weight: u32,
}

impl Smooth {
    pub(super) fn new(nodes: &[Node]) -> Self {
        let slot = |node: &Node| Slot { current: 0, effective: node.weight.get(), weight: node.weight.get() };
        Self { slots: nodes.iter().map(slot).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn weight(&self, i: usize) -> u32 {
        self.slots[i].weight
    }

    /// Every eligible server gains its effective weight; the one furthest ahead (the first of equals) is picked and
    /// pays what all have gained. `share` is what part of its weight a server has.
    pub(super) fn pick(&mut self, eligible: impl Fn(usize) -> bool, share: impl Fn(usize) -> u32) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if !eligible(i) {
                continue;
            }
            let gain = i64::from(slot.effective) * i64::from(share(i));
            slot.current += gain;
            total += gain;
            if slot.effective < slot.weight {
                slot.effective += 1;
            }
            if best.is_none_or(|(_, current)| slot.current > current) {
                best = Some((i, slot.current));
            }
        }
        let (best, _) = best?;
        self.slots[best].current -= total;
        Some(best)
    }

    pub(super) fn on_failure(&mut self, i: usize, max_fails: u32) {
        let slot = &mut self.slots[i];
        if let Some(loss) = slot.weight.checked_div(max_fails) {
            slot.effective = slot.effective.saturating_sub(loss);
        }
    }
}
