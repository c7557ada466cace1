//! Which route a request takes: host, then path, then conditions.
//!
//! Pure: built from the model once per configuration and listener, asked once per request, no clock, no I/O.
//!
//! Order of precedence, nginx's `server` and `location` rules:
//! 1. site: exact host, then the longest `*.` suffix, then the listener's default site;
//! 2. exact path;
//! 3. the longest prefix, when it says `before_regex`;
//! 4. regular expressions in file order;
//! 5. the longest prefix.
//!
//! A route whose method or header conditions do not hold counts as not there; among routes with the same path the
//! first in file order whose conditions hold is taken.

mod explain;
mod host;
mod path;
mod sni;

use std::sync::Arc;

pub use explain::{Claim, Unmet};
pub use host::{MAX_HOST, normalise_host};
pub use sni::TlsRouteTable;

use crate::config::model::{HeaderMatch, Route, Site};
use host::Hosts;
use path::Paths;

/// The routes that requests of one listener may take.
///
/// `R` and `S` are what a match yields, by default the model's own route and site. A clone has caches of its own for
/// its regular expressions, so that workers with a clone each share nothing.
#[derive(Debug, Clone)]
pub struct RouteTable<R = Arc<Route>, S = Arc<Site>> {
    hosts: Hosts,
    sites: Vec<SiteTable<R, S>>,
}

/// What [`RouteTable::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'t, R = Arc<Route>, S = Arc<Site>> {
    /// The route to take.
    Route(&'t R),
    /// No route matches; the site, when the host at least has one.
    NoRoute(Option<&'t S>),
}

#[derive(Debug, Clone)]
struct SiteTable<R, S> {
    site: S,
    routes: Vec<Entry<R>>,
    paths: Paths,
}

#[derive(Debug, Clone)]
struct Entry<R> {
    methods: Vec<Box<str>>,
    headers: Vec<HeaderMatch>,
    yields: R,
}

impl RouteTable {
    /// The table of the listener called `listener`, over all sites that name it.
    pub fn build(sites: &[Site], listener: &str) -> Self {
        Self::build_with(sites, listener, Arc::clone, |site| Arc::new(site.clone()))
    }
}

impl<R, S> RouteTable<R, S> {
    /// As [`RouteTable::build`]; a match yields what `route` and `site` make of the model's.
    pub fn build_with(
        sites: &[Site],
        listener: &str,
        mut route: impl FnMut(&Arc<Route>) -> R,
        mut site: impl FnMut(&Site) -> S,
    ) -> Self {
        let sites: Vec<&Site> = sites.iter().filter(|s| s.listeners.iter().any(|l| **l == *listener)).collect();
        let hosts = Hosts::new(sites.iter().map(|site| &*site.hosts));
        let mut table = |from: &Site| SiteTable {
            site: site(from),
            paths: Paths::new(from.routes.iter().map(|r| &r.path)),
            routes: (from.routes.iter())
                .map(|r| Entry { methods: r.methods.clone(), headers: r.headers.clone(), yields: route(r) })
                .collect(),
        };
        let sites = sites.into_iter().map(&mut table).collect();
        Self { hosts, sites }
    }

    /// The route of a request.
    ///
    /// `host` as received: with or without port, in any case. `path` must be normalised. `header` gives the first
    /// value of the field of a lower case name; it is called only for routes that have conditions on headers.
    pub fn find<'h>(
        &self,
        host: &[u8],
        method: &[u8],
        path: &[u8],
        header: &dyn Fn(&str) -> Option<&'h [u8]>,
    ) -> Found<'_, R, S> {
        let Some(site) = self.hosts.find(host).and_then(|index| self.sites.get(index)) else {
            return Found::NoRoute(None);
        };
        let holds = |route: usize| site.routes[route].holds(method, header);
        match site.paths.find(path, holds) {
            Some(route) => Found::Route(&site.routes[route].yields),
            None => Found::NoRoute(Some(&site.site)),
        }
    }
}

impl<R, S> RouteTable<R, S> {
    /// The site of a host as received, if there is one.
    pub fn site(&self, host: &[u8]) -> Option<&S> {
        self.hosts.find(host).and_then(|index| self.sites.get(index)).map(|table| &table.site)
    }
}

impl<R> Entry<R> {
    fn holds<'h>(&self, method: &[u8], header: &dyn Fn(&str) -> Option<&'h [u8]>) -> bool {
        let method_holds = self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == method);
        method_holds && self.headers.iter().all(|m| header(&m.name).is_some_and(|value| m.value.holds(value)))
    }
}

#[cfg(test)]
mod tests;
