//! nginx's `hash KEY`: CRC-32 of the key modulo the weights. Most keys move when a server is added or removed.

use super::weights::Weights;
use super::{ATTEMPTS, Members};

pub(super) fn pick(weights: &Weights, members: &impl Members, key: &[u8]) -> Option<usize> {
    if key.is_empty() || weights.total() == 0 {
        return None;
    }
    let mut sum = 0;
    (0..ATTEMPTS).find_map(|attempt| {
        // Cache::Memcached's rule: a rehash puts the number of the attempt, in decimal, before the key.
        let mut crc = crc32fast::Hasher::new();
        if attempt > 0 {
            crc.update(attempt.to_string().as_bytes());
        }
        crc.update(key);
        sum += u64::from((crc.finalize() >> 16) & 0x7fff);
        let i = weights.at(sum % weights.total());
        members.is_eligible(i).then_some(i)
    })
}
