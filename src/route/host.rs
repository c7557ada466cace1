//! Hosts: from what the client wrote to the number of a site.

use std::collections::HashMap;

use crate::config::model::HostPattern;

/// Longest host that can name a site: a domain name has at most 253 characters (RFC 1035 2.3.4).
pub const MAX_HOST: usize = 255;

/// Maps hosts to numbers of sites.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    exact: HashMap<Box<[u8]>, usize>,
    /// Keys start with a dot.
    suffixes: HashMap<Box<[u8]>, usize>,
    longest_suffix: usize,
    default: Option<usize>,
}

impl Hosts {
    /// Of sites in file order; the first to claim a host has it.
    pub(super) fn new<'a>(sites: impl Iterator<Item = &'a [HostPattern]>) -> Self {
        let mut hosts = Self::default();
        for (site, patterns) in sites.enumerate() {
            if patterns.is_empty() {
                hosts.default.get_or_insert(site);
            }
            for pattern in patterns {
                let (map, name) = match pattern {
                    HostPattern::Exact(name) => (&mut hosts.exact, name),
                    HostPattern::Suffix(name) => (&mut hosts.suffixes, name),
                };
                map.entry(name.as_bytes().into()).or_insert(site);
            }
        }
        hosts.longest_suffix = hosts.suffixes.keys().map(|name| name.len()).max().unwrap_or(0);
        hosts
    }

    /// The site of a host as received.
    pub(super) fn find(&self, host: &[u8]) -> Option<usize> {
        let mut buffer = [0; MAX_HOST];
        normalise_host(host, &mut buffer).and_then(|host| self.named(host)).or(self.default)
    }

    fn named(&self, host: &[u8]) -> Option<usize> {
        self.exact.get(host).or_else(|| self.longest_matching_suffix(host)).copied()
    }

    fn longest_matching_suffix(&self, host: &[u8]) -> Option<&usize> {
        let earliest = host.len().saturating_sub(self.longest_suffix).max(1);
        let dots = (earliest..host.len()).filter(|&i| host[i] == b'.');
        dots.into_iter().find_map(|dot| self.suffixes.get(&host[dot..]))
    }
}

/// The host alone: without port and final dot, lower case, an IPv6 address in its brackets, written to `buffer`.
///
/// Nothing when the host is empty or longer than any domain name. Whether the characters may be in a host is not
/// looked at here: one with others equals no configured name.
pub fn normalise_host<'b>(host: &[u8], buffer: &'b mut [u8; MAX_HOST]) -> Option<&'b [u8]> {
    let end = match host.first() {
        Some(b'[') => host.iter().position(|&b| b == b']').map_or(host.len(), |bracket| bracket + 1),
        _ => host.iter().position(|&b| b == b':').unwrap_or(host.len()),
    };
    let name = &host[..end];
    let name = name.strip_suffix(b".").unwrap_or(name);
    let lower = buffer.get_mut(..name.len()).filter(|b| !b.is_empty())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(lower)
}
