//! nginx's `ip_hash`: a client network stays with a server, with nginx's own constants, so that a move from nginx
//! moves nobody.

use std::net::IpAddr;

use super::weights::Weights;
use super::{ATTEMPTS, Members, Node};

/// Leading bits that nginx hashes: three octets of IPv4, all of IPv6.
const NGINX_MASK: (u8, u8) = (24, 128);

#[derive(Debug)]
pub(super) struct IpHash {
    mask: (u8, u8),
    weights: Weights,
}

impl IpHash {
    /// `mask`: bits for IPv4 and for IPv6; `None`: nginx's.
    pub(super) fn build(mask: Option<(u8, u8)>, nodes: &[Node]) -> Self {
        Self { mask: mask.unwrap_or(NGINX_MASK), weights: Weights::build(nodes) }
    }

    pub(super) fn pick(&self, members: &impl Members, client: IpAddr) -> Option<usize> {
        // A client on a dual-stack socket hashes like the same client on an IPv4 one.
        match client.to_canonical() {
            IpAddr::V4(ip) => self.pick_octets(members, ip.octets(), self.mask.0),
            IpAddr::V6(ip) => self.pick_octets(members, ip.octets(), self.mask.1),
        }
    }

    fn pick_octets<const N: usize>(&self, members: &impl Members, mut octets: [u8; N], bits: u8) -> Option<usize> {
        if self.weights.total() == 0 {
            return None;
        }
        let bits = usize::from(bits);
        let len = bits.div_ceil(8).min(N);
        if let Some(last) = octets.get_mut(bits / 8) {
            *last &= !(0xff >> (bits % 8));
        }
        let mut hash: u32 = 89;
        (0..ATTEMPTS).find_map(|_| {
            hash = octets[..len].iter().fold(hash, |hash, &octet| (hash * 113 + u32::from(octet)) % 6271);
            let i = self.weights.at(u64::from(hash) % self.weights.total());
            members.is_eligible(i).then_some(i)
        })
    }
}
