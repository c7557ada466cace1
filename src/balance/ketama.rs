//! nginx's `hash KEY consistent`: each server owns 160 points per weight on a ring of 2^32; a key belongs to the next
//! point. A server added or removed moves only the keys it gains or loses.

use std::collections::HashMap;

use super::mix::{address_hash, mix};
use super::{ATTEMPTS, Members, Node};

const POINTS_PER_WEIGHT: u64 = 160;

/// Weights are scaled down above this total, so that weights in the thousands cannot cost gigabytes: 2.6 million points,
/// 20 MiB. Below it the ring is nginx's, point for point.
const MAX_TOTAL_WEIGHT: u64 = 16_384;

#[derive(Debug)]
pub(super) struct Ketama {
    /// By `hash`, ascending, no duplicates.
    points: Box<[Point]>,
    groups: Box<[Vec<Peer>]>,
}

#[derive(Debug)]
struct Point {
    hash: u32,
    group: u32,
}

/// One address of a group: the servers written with the same host and port share their points.
#[derive(Debug)]
struct Peer {
    index: usize,
    address_hash: u64,
}

impl Ketama {
    pub(super) fn build(nodes: &[Node]) -> Self {
        let total: u64 = nodes.iter().map(|node| u64::from(node.weight.get())).sum();
        let mut groups: Vec<Vec<Peer>> = Vec::new();
        let mut by_name = HashMap::new();
        let mut points = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let group = *by_name.entry((&node.host, node.port)).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(Peer { index, address_hash: address_hash(node.address) });
            let mut weight = u64::from(node.weight.get());
            if total > MAX_TOTAL_WEIGHT {
                weight = (weight * MAX_TOTAL_WEIGHT / total).max(1);
            }
            let group = u32::try_from(group).expect("invariant: a file has fewer than 2^32 servers");
            points.extend(chain(node).take((weight * POINTS_PER_WEIGHT) as usize).map(|hash| Point { hash, group }));
        }
        points.sort_by_key(|point| point.hash);
        points.dedup_by_key(|point| point.hash);
        Self { points: points.into(), groups: groups.into() }
    }

    pub(super) fn pick(&self, members: &impl Members, key: &[u8]) -> Option<usize> {
        if key.is_empty() || self.points.is_empty() {
            return None;
        }
        let hash = crc32fast::hash(key);
        let start = self.points.partition_point(|point| point.hash < hash);
        (start..start + ATTEMPTS).find_map(|at| {
            let peers = &self.groups[self.points[at % self.points.len()].group as usize];
            // Several addresses of one name: nginx goes round them, which would lose the affinity that the ring gives;
            // the highest score keeps it, also when an address comes or goes.
            let eligible = peers.iter().filter(|peer| members.is_eligible(peer.index));
            eligible.max_by_key(|peer| mix(peer.address_hash ^ u64::from(hash))).map(|peer| peer.index)
        })
    }
}

/// The points of one server: CRC-32 of host, NUL, port and the point before (four octets, little endian, first 0).
fn chain(node: &Node) -> impl Iterator<Item = u32> {
    let mut base = crc32fast::Hasher::new();
    base.update(node.host.as_bytes());
    base.update(b"\0");
    base.update(node.port.to_string().as_bytes());
    let next = move |previous: u32| {
        let mut crc = base.clone();
        crc.update(&previous.to_le_bytes());
        crc.finalize()
    };
    std::iter::successors(Some(next(0)), move |&previous| Some(next(previous)))
}
