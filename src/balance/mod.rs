//! Choosing a server: the algorithms, pure.
//!
//! A [`Balancer`] is built once from the servers of one tier (the ordinary servers of a pool, or its backups) and never
//! changes; a [`State`] is what one worker remembers between picks (smooth weights, effective weights, random numbers).
//! Who may be picked at all, and how loaded each one is, comes through [`Members`]. Nothing here knows a socket, a clock,
//! a counter shared between threads or the rules of failure; `pool` does.
//!
//! Servers are indices `0..n` in file order. Every algorithm that hashes, but for rendezvous, gives up after nginx's number of attempts and
//! then takes the smooth round robin's choice, so that a key always finds a server when one is eligible.

mod first;
mod hash;
mod ip_hash;
mod ketama;
mod least_conn;
mod maglev;
mod mix;
mod random_two;
mod rendezvous;
mod round_robin;
mod split;
#[cfg(test)]
mod tests;
mod weights;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::config::model::{Algorithm, Consistent};

use self::ip_hash::IpHash;
use self::ketama::Ketama;
use self::maglev::Maglev;
use self::mix::Random;
use self::rendezvous::Rendezvous;
use self::round_robin::Smooth;
use self::weights::Weights;

pub use self::mix::stable_hash;
pub use self::split::Split;

/// Lookups before a hashing algorithm falls back to round robin: one, and nginx's 20 further tries.
const ATTEMPTS: usize = 21;

/// The whole of a weight; see [`Members::share`].
pub const FULL_SHARE: u32 = 1024;

/// What a pick sees of the servers of a tier.
pub trait Members {
    /// Whether server `i` may be picked now.
    fn is_eligible(&self, i: usize) -> bool;
    /// Requests and connections server `i` has now, over all workers.
    fn in_flight(&self, i: usize) -> u32;
    /// What part of its weight server `i` has now, 1 to [`FULL_SHARE`]. Looked at by the algorithms that do not hash, but
    /// for `first`: with the others the key decides.
    fn share(&self, i: usize) -> u32 {
        let _ = i;
        FULL_SHARE
    }
}

/// What is fixed about one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Share of the traffic.
    pub weight: NonZeroU32,
    /// Host as the file has it, an IPv6 address in brackets; with `port` the server's name on the ketama ring.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// Where it is; tells the addresses of one host name apart.
    pub address: SocketAddr,
}

/// What is known of the request or connection that needs a server.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// The client's address, for `ip_hash`.
    pub client: IpAddr,
    /// The expanded key, for `hash`; empty: round robin.
    pub key: &'a [u8],
}

/// An algorithm with its tables, shared by all workers.
#[derive(Debug)]
pub struct Balancer(Kind);

#[derive(Debug)]
enum Kind {
    RoundRobin,
    LeastConn,
    IpHash(IpHash),
    RandomTwo(Weights),
    Hash(Weights),
    Ketama(Ketama),
    Maglev(Maglev),
    Rendezvous(Rendezvous),
    First,
}

/// What one worker remembers of one tier between picks.
#[derive(Debug)]
pub struct State {
    smooth: Smooth,
    random: Random,
    /// In-flight counts read by one `least_conn` pick; `None`: not eligible.
    loads: Vec<Option<u32>>,
}

impl Balancer {
    /// Builds the tables of `algorithm` over `nodes`. Depends on nothing else, so that two boxes agree.
    pub fn build(algorithm: &Algorithm, nodes: &[Node]) -> Self {
        Self(match algorithm {
            Algorithm::RoundRobin => Kind::RoundRobin,
            Algorithm::LeastConn => Kind::LeastConn,
            Algorithm::IpHash { mask } => Kind::IpHash(IpHash::build(*mask, nodes)),
            Algorithm::RandomTwo => Kind::RandomTwo(Weights::build(nodes)),
            Algorithm::Hash { consistent: Consistent::None, .. } => Kind::Hash(Weights::build(nodes)),
            Algorithm::Hash { consistent: Consistent::Ketama, .. } => Kind::Ketama(Ketama::build(nodes)),
            Algorithm::Hash { consistent: Consistent::Maglev, .. } => Kind::Maglev(Maglev::build(nodes)),
            Algorithm::Hash { consistent: Consistent::Rendezvous, .. } => Kind::Rendezvous(Rendezvous::build(nodes)),
            Algorithm::First => Kind::First,
        })
    }

    /// One that chooses by the key alone; an empty one: round robin.
    pub fn rendezvous(nodes: &[Node]) -> Self {
        Self(Kind::Rendezvous(Rendezvous::build(nodes)))
    }

    /// Picks an eligible server; `None` only when there is none. `state` was made from the same nodes.
    pub fn pick(&self, state: &mut State, members: &impl Members, flow: Flow<'_>) -> Option<usize> {
        let hashed = match &self.0 {
            Kind::LeastConn => return least_conn::pick(&mut state.smooth, &mut state.loads, members),
            Kind::First => return first::pick(state.smooth.len(), members),
            Kind::RandomTwo(weights) => random_two::pick(weights, &state.smooth, &mut state.random, members),
            Kind::IpHash(ip_hash) => ip_hash.pick(members, flow.client),
            Kind::Hash(weights) => hash::pick(weights, members, flow.key),
            Kind::Ketama(ketama) => ketama.pick(members, flow.key),
            Kind::Maglev(maglev) => maglev.pick(members, flow.key),
            Kind::Rendezvous(rendezvous) => rendezvous.pick(members, flow.key),
            Kind::RoundRobin => None,
        };
        hashed.or_else(|| state.smooth.pick(|i| members.is_eligible(i), |i| members.share(i)))
    }
}

impl State {
    /// A fresh state; `seed` is only for the random numbers of `random_two`.
    pub fn new(nodes: &[Node], seed: u64) -> Self {
        Self { smooth: Smooth::new(nodes), random: Random::new(seed), loads: vec![None; nodes.len()] }
    }

    /// A failure of server `i` was counted: its share shrinks by `weight / max_fails` (integers) and recovers by one
    /// with each pick that considers it, as nginx does. With `max_fails` 0 nothing happens.
    pub fn on_failure(&mut self, i: usize, max_fails: u32) {
        self.smooth.on_failure(i, max_fails);
    }
}
