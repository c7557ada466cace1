//! Fixed bit mixing, and the random numbers made of it. Not for anything secret.

use std::net::{IpAddr, SocketAddr};

/// The splitmix64 generator (Steele, Lea, Flood 2014): any seed will do, 64 bits of state.
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`, which is not 0. The bias of the modulo is below 2^-32 for bounds below 2^32.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.any() % bound
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }
}

/// The finaliser of splitmix64, a bijection; the constant keeps 0 from being its own image.
pub(super) fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number for `bytes` that is the same on every box and in every version (FNV-1a, whose upper bits need the mixing).
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash))
}

/// A number for `address` that is the same on every box and in every version.
pub(super) fn address_hash(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => crc32fast::hash(&ip.octets()),
        IpAddr::V6(ip) => crc32fast::hash(&ip.octets()),
    };
    mix(u64::from(ip) << 16 | u64::from(address.port()))
}
