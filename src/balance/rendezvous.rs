//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005): every server
//! has a score for a key, and the best eligible one is taken. Without a server only its own keys move, each to its second
//! choice, and back when it returns; nothing is remembered, so that two boxes agree. A pick looks at all servers.

use std::cmp::Ordering;

use super::mix::{address_hash, mix};
use super::{Members, Node};

#[derive(Debug)]
pub(super) struct Rendezvous {
    /// Hash of the address, which tells the addresses of one name apart, and weight.
    servers: Box<[(u64, f64)]>,
}

impl Rendezvous {
    pub(super) fn build(nodes: &[Node]) -> Self {
        let server = |node: &Node| (address_hash(node.address), f64::from(node.weight.get()));
        Self { servers: nodes.iter().map(server).collect() }
    }

    pub(super) fn pick(&self, members: &impl Members, key: &[u8]) -> Option<usize> {
        if key.is_empty() {
            return None;
        }
        let key = mix(u64::from(crc32fast::hash(key)));
        let eligible = self.servers.iter().enumerate().filter(|(i, _)| members.is_eligible(*i));
        let scored = eligible.map(|(i, &(hash, weight))| (i, score(mix(hash ^ key), weight)));
        // Equal scores: the first in file order.
        scored
            .reduce(|best, next| if next.1.total_cmp(&best.1) == Ordering::Greater { next } else { best })
            .map(|(i, _)| i)
    }
}

/// `weight / -ln(u)` for a `u` between 0 and 1 made of `hash`: the largest is that of a server as often as its weight says.
pub(super) fn score(hash: u64, weight: f64) -> f64 {
    // The upper 53 bits are what a f64 holds exactly; the half keeps 0, and with it an infinite logarithm, out.
    let u = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    weight / -u.ln()
}
