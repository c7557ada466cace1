//! Weights laid end to end: server `i` covers `weight` consecutive numbers.

use super::Node;

/// Running totals of the weights, in file order.
#[derive(Debug)]
pub(super) struct Weights {
    ends: Box<[u64]>,
}

impl Weights {
    pub(super) fn build(nodes: &[Node]) -> Self {
        let mut end = 0;
        let ends = nodes.iter().map(|node| {
            end += u64::from(node.weight.get());
            end
        });
        Self { ends: ends.collect() }
    }

    /// All weights together; 0 without servers.
    pub(super) fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The server that covers `number`, which is below the total.
    pub(super) fn at(&self, number: u64) -> usize {
        self.ends.partition_point(|&end| end <= number)
    }
}
