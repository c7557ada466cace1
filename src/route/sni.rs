//! Which route a TLS connection takes that is passed through, by what its client says first.

use std::collections::HashMap;

use crate::config::model::{HostPattern, TlsRoute};

/// The routes of one listener.
#[derive(Debug, Clone, Default)]
pub struct TlsRouteTable {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Keys start with a dot.
    suffixes: HashMap<Box<str>, Vec<usize>>,
    any_name: Vec<usize>,
    /// Of each route.
    alpn: Vec<Vec<Box<str>>>,
}

impl TlsRouteTable {
    /// Of routes in file order.
    pub fn new(routes: &[TlsRoute]) -> Self {
        let mut table = Self { alpn: routes.iter().map(|route| route.alpn.clone()).collect(), ..Self::default() };
        for (index, route) in routes.iter().enumerate() {
            if route.names.is_empty() {
                table.any_name.push(index);
            }
            for pattern in &route.names {
                let (map, name) = match pattern {
                    HostPattern::Exact(name) => (&mut table.exact, name),
                    HostPattern::Suffix(name) => (&mut table.suffixes, name),
                };
                map.entry(name.clone()).or_default().push(index);
            }
        }
        table
    }

    /// The number of the route of a client that wants `name`, in lower case, and offers the protocols `alpn`.
    ///
    /// Routes with the name itself come before those with the longest wildcard, those before shorter ones, and these before
    /// those for any name; of the same name the first that wants one of the protocols, then the first that wants none.
    pub fn find(&self, name: Option<&str>, alpn: &[Vec<u8>]) -> Option<usize> {
        let name = name.unwrap_or_default();
        let dots = name.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        let suffixes = dots.filter_map(|dot| self.suffixes.get(name.get(dot..)?));
        let groups = self.exact.get(name).into_iter().chain(suffixes).chain([&self.any_name]);
        groups.into_iter().find_map(|group| self.by_protocol(group, alpn))
    }

    fn by_protocol(&self, group: &[usize], offered: &[Vec<u8>]) -> Option<usize> {
        let wanted = |index: &&usize| self.alpn.get(**index).map_or(&[][..], Vec::as_slice);
        let is_offered = |name: &str| offered.iter().any(|offer| offer == name.as_bytes());
        let by_protocol = group.iter().find(|index| wanted(index).iter().any(|name| is_offered(name)));
        by_protocol.or_else(|| group.iter().find(|index| wanted(index).is_empty())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(names: &[&str], alpn: &[&str]) -> TlsRoute {
        let pattern = |name: &&str| match name.strip_prefix('*') {
            Some(suffix) => HostPattern::Suffix(suffix.into()),
            None => HostPattern::Exact((*name).into()),
        };
        let alpn = alpn.iter().map(|name| (*name).into()).collect();
        TlsRoute { names: names.iter().map(pattern).collect(), alpn, pool: "p".into() }
    }

    #[test]
    fn the_most_exact_name_decides_and_then_the_protocol() {
        let table = TlsRouteTable::new(&[
            route(&[], &["acme-tls/1"]),
            route(&["*.example.com", "*.com"], &[]),
            route(&["*.shop.example.com"], &[]),
            route(&["shop.example.com", "other.test"], &[]),
            route(&["shop.example.com"], &["h2", "h3"]),
            route(&["api.example.com"], &["h2"]),
        ]);
        for (name, alpn, expected) in [
            (Some("shop.example.com"), &[][..], Some(3)),
            (Some("shop.example.com"), &["http/1.1"], Some(3)),
            (Some("shop.example.com"), &["http/1.1", "h2"], Some(4)),
            (Some("other.test"), &["h2"], Some(3)),
            (Some("a.shop.example.com"), &["h2"], Some(2)),
            (Some("a.b.shop.example.com"), &[], Some(2)),
            (Some("a.example.com"), &["acme-tls/1"], Some(1)),
            (Some("a.com"), &[], Some(1)),
            (Some("example.com"), &[], Some(1)),
            // A name whose protocols are others is as if it were not there.
            (Some("api.example.com"), &["h2"], Some(5)),
            (Some("api.example.com"), &["http/1.1"], Some(1)),
            (Some("com"), &[], None),
            (Some("elsewhere.test"), &["acme-tls/1"], Some(0)),
            (Some("elsewhere.test"), &["h2"], None),
            (None, &["h2", "acme-tls/1"], Some(0)),
            (None, &[], None),
        ] {
            let offered: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(table.find(name, &offered), expected, "{name:?} {alpn:?}");
        }
        assert_eq!(TlsRouteTable::default().find(Some("a"), &[]), None);
    }
}
