//! Decides whether a request or a connection goes on: the limits of its gate, one after the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{Key, Seat, Verdict};
use crate::config::model::LimitKey;
use crate::net::clock;
use crate::snapshot::{Gate, Limiter};
use crate::telemetry::reason::Reason;
use crate::template::Variables;

/// What a gate has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For the client.
    pub(crate) status: u16,
    /// Why.
    pub(crate) reason: Reason,
    /// A request that comes so much later goes on.
    pub(crate) retry_after: Option<Duration>,
}

impl Gate {
    /// Whether a request of `client` goes on, and after how long. What it then has in flight is in `seats`; `text` is work
    /// space. What a limit refuses is charged to none.
    pub(crate) fn admit(
        &self,
        client: IpAddr,
        vars: &dyn Variables,
        text: &mut Vec<u8>,
        seats: &mut Vec<Seat>,
    ) -> Result<Duration, Refused> {
        if self.access.as_ref().is_some_and(|list| !list.allows(client)) {
            return Err(Refused { status: 403, reason: Reason::Denied, retry_after: None });
        }
        if self.limits.is_empty() {
            return Ok(Duration::ZERO);
        }
        // The worker's time is too coarse for rates.
        let now = clock::micros();
        let mut wait = Duration::ZERO;
        let mut charged: Vec<(&Limiter, Key)> = Vec::new();
        for limiter in &self.limits {
            let limit = &limiter.config;
            let Some(key) = limiter.key(client, vars, text) else { continue };
            let verdict = limiter.table.decide(key, &limit.bounds, now);
            let (reason, retry_after) = match verdict {
                Verdict::Pass(own) => {
                    if limit.bounds.concurrent.is_some() {
                        seats.push(Seat::new(Arc::clone(&limiter.table), key));
                    }
                    if !limit.dry_run {
                        wait = wait.max(own);
                    }
                    if self.limits.len() > 1 {
                        charged.push((limiter, key));
                    }
                    continue;
                }
                Verdict::TooFast(by) => (Reason::RateLimited, Some(by)),
                Verdict::TooMany => (Reason::TooManyConcurrent, None),
            };
            if !limit.dry_run {
                seats.clear();
                charged.iter().for_each(|(limiter, key)| limiter.table.take_back(*key, &limiter.config.bounds));
                return Err(Refused { status: limit.status, reason, retry_after });
            }
        }
        Ok(wait)
    }
}

impl Limiter {
    /// What a request is counted as; `None`: it is not limited.
    fn key(&self, client: IpAddr, vars: &dyn Variables, text: &mut Vec<u8>) -> Option<Key> {
        match &self.config.key {
            LimitKey::Address { v4, v6 } => Some(match client.to_canonical() {
                IpAddr::V4(ip) => self.table.key(&leading(ip.octets(), *v4)),
                IpAddr::V6(ip) => self.table.key(&leading(ip.octets(), *v6)),
            }),
            LimitKey::Text(template) => {
                text.clear();
                template.expand(vars, text);
                (!text.is_empty()).then(|| self.table.key(text))
            }
        }
    }
}

/// So many leading bits; the others are 0.
fn leading<const N: usize>(mut octets: [u8; N], bits: u8) -> [u8; N] {
    for (i, octet) in octets.iter_mut().enumerate() {
        let kept = usize::from(bits).saturating_sub(8 * i).min(8);
        *octet &= !u8::MAX.checked_shr(kept as u32).unwrap_or(0);
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_keeps_leading_bits() {
        assert_eq!(leading([192, 0, 2, 255], 32), [192, 0, 2, 255]);
        assert_eq!(leading([192, 0, 2, 255], 24), [192, 0, 2, 0]);
        assert_eq!(leading([192, 0, 2, 255], 26), [192, 0, 2, 192]);
        assert_eq!(leading([192, 0, 2, 255], 1), [128, 0, 0, 0]);
        assert_eq!(leading([0xff; 16], 68)[7..10], [0xff, 0xf0, 0]);
    }
}
