//! What a router has heard: counters, who its peers are, and what the operator was told of it already.

use std::collections::HashMap;
use std::time::Duration;

use crate::time::Micros;
use crate::vrrp::judge::{Mismatch, REASON_NAMES, REASONS, Reason, Said};
use crate::vrrpd::report::{Finding, PeerStatus};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Tally {
    /// Advertisements sent.
    pub sent: u64,
    /// Advertisements of peers understood.
    pub received: u64,
    drops: [u64; REASONS],
    mismatches: [u64; Mismatch::ALL.len()],
    lists: u64,
    peers: Vec<(Said, bool, Micros)>,
    told: Told,
}

/// Peers that are remembered; more are somebody's joke.
const MOST_PEERS: usize = 16;

impl Tally {
    /// Something was dropped.
    pub fn dropped(&mut self, reason: Reason) {
        if let Some(count) = self.drops.get_mut(reason.index()) {
            *count += 1;
        }
    }

    /// A peer was heard; whether its configuration is ours.
    pub fn heard(&mut self, said: Said, mismatch: Option<Mismatch>, at: Micros) {
        match mismatch.and_then(|m| Mismatch::ALL.iter().position(|other| *other == m)) {
            Some(i) => self.mismatches[i] += 1,
            None => self.received += 1,
        }
        if !said.same_addresses {
            self.lists += 1;
        }
        let agrees = mismatch.is_none() && said.same_addresses;
        let full = self.peers.len() >= MOST_PEERS;
        let known = self.peers.iter().position(|(known, ..)| known.source == said.source);
        let oldest = || (0..self.peers.len()).filter(|_| full).min_by_key(|i| self.peers[*i].2);
        match known.or_else(oldest) {
            Some(i) => self.peers[i] = (said, agrees, at),
            None => self.peers.push((said, agrees, at)),
        }
    }

    /// Whether `finding` is news.
    pub fn is_news(&mut self, finding: Finding, now: Micros) -> bool {
        self.told.is_news(finding, now)
    }

    /// Who was heard.
    pub fn peers(&self, now: Micros) -> Vec<PeerStatus> {
        let peer = |(said, agrees, at): &(Said, bool, Micros)| PeerStatus {
            address: said.source,
            priority: said.priority.0,
            heard_ms_ago: u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX),
            agrees: *agrees,
        };
        self.peers.iter().map(peer).collect()
    }

    /// The counters that are not zero, by name.
    pub fn drops(&self) -> Vec<(String, u64)> {
        let drops = REASON_NAMES.iter().copied().zip(self.drops);
        let mismatches = Mismatch::ALL.iter().map(|m| m.name()).zip(self.mismatches);
        let all = drops.chain(mismatches).chain([("list_differs", self.lists)]);
        all.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// What was said, and when.
#[derive(Debug, Default)]
pub struct Told(HashMap<Finding, Micros>);

impl Told {
    /// Whether `finding` was not said for long; it is taken as said now.
    pub fn is_news(&mut self, finding: Finding, now: Micros) -> bool {
        /// What goes on is said again.
        const AGAIN: Duration = Duration::from_secs(600);
        /// A flood of different senders is one piece of news.
        const MOST: usize = 64;
        if self.0.get(&finding).is_some_and(|at| now.since(*at) < AGAIN) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, at| now.since(*at) < AGAIN);
        }
        if self.0.len() >= MOST {
            return false;
        }
        self.0.insert(finding, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn what_goes_on_is_said_once_in_ten_minutes_and_a_flood_is_bounded() {
        let mut told = Told::default();
        let finding = |n: u32| Finding::Stranger(IpAddr::from(n.to_be_bytes()));
        let at = |secs: u64| Micros(secs * 1_000_000);
        assert!(told.is_news(finding(1), at(0)));
        assert!(!told.is_news(finding(1), at(599)));
        assert!(told.is_news(finding(1), at(600)));
        let said = (2..1000).filter(|n| told.is_news(finding(*n), at(601))).count();
        assert_eq!(said, 63);
        assert!(told.is_news(finding(5000), at(1300)));
    }
}
