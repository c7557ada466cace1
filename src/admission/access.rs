//! Lists of networks that are allowed and denied.

use std::net::IpAddr;

use prefix_trie::PrefixMap;

use crate::config::value::Cidr;

/// `allow` and `deny` of one table of the file: the longest network that holds an address decides, and `deny` where both
/// have it. An address in neither is allowed exactly when nothing is allowed by name.
#[derive(Debug, Clone)]
pub struct AccessList {
    v4: PrefixMap<(u32, u8), Entry>,
    v6: PrefixMap<(u128, u8), Entry>,
    otherwise: bool,
}

/// A network of a list.
#[derive(Debug, Clone, Copy)]
struct Entry {
    network: Cidr,
    allowed: bool,
}

/// What a list says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// It may come in.
    pub allowed: bool,
    /// The network that decided; `None`: no network has it.
    pub by: Option<Cidr>,
}

impl AccessList {
    /// Of the networks of both keys; `None`: there are none, and everybody may come in.
    pub fn new(allow: &[Cidr], deny: &[Cidr]) -> Option<Self> {
        if allow.is_empty() && deny.is_empty() {
            return None;
        }
        let mut list = Self { v4: PrefixMap::new(), v6: PrefixMap::new(), otherwise: allow.is_empty() };
        // What is denied comes last, and so wins over the same network.
        let allowed = allow.iter().map(|&network| Entry { network, allowed: true });
        for entry in allowed.chain(deny.iter().map(|&network| Entry { network, allowed: false })) {
            match entry.network.address() {
                IpAddr::V4(ip) => drop(list.v4.insert((ip.to_bits(), entry.network.prefix()), entry)),
                IpAddr::V6(ip) => drop(list.v6.insert((ip.to_bits(), entry.network.prefix()), entry)),
            }
        }
        Some(list)
    }

    /// What it says of `ip`; an IPv4-mapped IPv6 address is taken as IPv4.
    pub fn judge(&self, ip: IpAddr) -> Judgement {
        let found = match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.get_lpm(&(ip.to_bits(), 32)).map(|(_, entry)| entry),
            IpAddr::V6(ip) => self.v6.get_lpm(&(ip.to_bits(), 128)).map(|(_, entry)| entry),
        };
        match found {
            Some(entry) => Judgement { allowed: entry.allowed, by: Some(entry.network) },
            None => Judgement { allowed: self.otherwise, by: None },
        }
    }

    /// Whether `ip` may come in.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.judge(ip).allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_longest_network_decides_and_deny_a_tie() {
        // allow, deny, address, whether it may come in
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&["10.0.0.0/8"], &[], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "192.0.2.1", false),
            (&["10.0.0.0/8"], &[], "2001:db8::1", false),
            (&[], &["10.0.0.0/8"], "10.1.2.3", false),
            (&[], &["10.0.0.0/8"], "192.0.2.1", true),
            (&[], &["10.0.0.0/8"], "2001:db8::1", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.2.2.3", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "192.0.2.1", false),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.1.2.3", true),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.2.2.3", false),
            (&["10.1.2.3", "10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", true),
            (&["10.0.0.0/8"], &["10.0.0.0/8"], "10.1.2.3", false),
            (&["0.0.0.0/0"], &["10.0.0.0/8"], "192.0.2.1", true),
            (&["0.0.0.0/0"], &["10.0.0.0/8"], "2001:db8::1", false),
            (&[], &["10.0.0.0/8"], "::ffff:10.1.2.3", false),
            (&["2001:db8::/32"], &["2001:db8:1::/48"], "2001:db8:1::9", false),
            (&["2001:db8::/32"], &["2001:db8:1::/48"], "2001:db8:2::9", true),
            (&["::/0"], &[], "192.0.2.1", false),
        ];
        for (allow, deny, ip, allowed) in table {
            let list = AccessList::new(&networks(allow), &networks(deny)).unwrap();
            assert_eq!(list.allows(ip.parse().unwrap()), *allowed, "allow {allow:?} deny {deny:?} {ip}");
        }
        assert!(AccessList::new(&[], &[]).is_none());
    }

    proptest! {
        /// Against a model that looks at every network.
        #[test]
        fn a_list_says_what_its_networks_say(
            allow in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            deny in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            asked in any::<u32>(),
            near in any::<bool>(),
        ) {
            // Few high bits, so that networks overlap.
            let network = |&(bits, prefix): &(u32, u8)| -> Cidr {
                let kept = (bits & 0x0303_0303) & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(kept)).parse().unwrap()
            };
            let (allow, deny): (Vec<Cidr>, Vec<Cidr>) =
                (allow.iter().map(network).collect(), deny.iter().map(network).collect());
            let ip: IpAddr = std::net::Ipv4Addr::from_bits(if near { asked & 0x0303_0303 } else { asked }).into();
            let longest = |list: &[Cidr]| list.iter().filter(|net| net.contains(ip)).map(|net| net.prefix()).max();
            let expected = match (longest(&allow), longest(&deny)) {
                (Some(a), Some(d)) => a > d,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => allow.is_empty(),
            };
            let list = AccessList::new(&allow, &deny);
            prop_assert_eq!(list.is_none_or(|list| list.allows(ip)), expected);
        }
    }
}
