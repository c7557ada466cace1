//! Why a request takes a route: the rules of [`super::RouteTable::find`] one by one, for people. Which route it is, the
//! table alone decides.

use std::fmt;

use crate::config::model::{HostPattern, PathMatch, Route, Site, ValueMatch};

use super::host::{MAX_HOST, normalise_host};
use super::path::is_border;

/// Why a site has a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'s> {
    /// It is one of its hosts.
    Exact,
    /// It ends in this, which starts with a dot.
    Suffix(&'s str),
    /// The site takes what no other has.
    Default,
}

/// A condition that a request does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet<'r> {
    /// The method is none of these.
    Method(&'r [Box<str>]),
    /// There is no such field.
    Missing(&'r str),
    /// The field has another value.
    Value(&'r str),
}

impl Site {
    /// Why this site has `host`, if it does.
    pub fn claim(&self, host: &[u8]) -> Option<Claim<'_>> {
        let mut buffer = [0; MAX_HOST];
        let host = normalise_host(host, &mut buffer).unwrap_or_default();
        let of = |pattern: &'_ HostPattern| match pattern {
            HostPattern::Exact(name) => name.as_bytes() == host,
            HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
        };
        // The longest is the most exact.
        let length = |pattern: &&HostPattern| match pattern {
            HostPattern::Exact(_) => usize::MAX,
            HostPattern::Suffix(suffix) => suffix.len(),
        };
        match self.hosts.iter().filter(|pattern| of(pattern)).max_by_key(length) {
            Some(HostPattern::Exact(_)) => Some(Claim::Exact),
            Some(HostPattern::Suffix(suffix)) => Some(Claim::Suffix(suffix)),
            None => self.hosts.is_empty().then_some(Claim::Default),
        }
    }
}

impl Route {
    /// The first of its conditions that a request does not meet. `header` as for [`super::RouteTable::find`].
    pub fn unmet<'h>(&self, method: &[u8], header: &dyn Fn(&str) -> Option<&'h [u8]>) -> Option<Unmet<'_>> {
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m.as_bytes() == method) {
            return Some(Unmet::Method(&self.methods));
        }
        self.headers.iter().find_map(|wanted| match header(&wanted.name) {
            None => Some(Unmet::Missing(&wanted.name)),
            Some(value) => (!wanted.value.holds(value)).then_some(Unmet::Value(&wanted.name)),
        })
    }
}

impl PathMatch {
    /// Whether a normalised path is one of these, whatever other routes there are.
    pub fn takes(&self, path: &[u8]) -> bool {
        match self {
            Self::Segments(text) => path.starts_with(text.as_bytes()) && is_border(path, text.len()),
            Self::Prefix { prefix, .. } => path.starts_with(prefix.as_bytes()),
            Self::Exact(text) => text.as_bytes() == path,
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl fmt::Display for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("its host, exactly"),
            Self::Suffix(suffix) => write!(f, "its wildcard *{suffix}"),
            Self::Default => f.write_str("it takes every host that no other site has"),
        }
    }
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(methods) => write!(f, "its methods are {}", methods.join(", ")),
            Self::Missing(name) => write!(f, "it wants a header {name}"),
            Self::Value(name) => write!(f, "it wants another value of header {name}"),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segments(text) => write!(f, "path {text} on segment borders"),
            Self::Prefix { prefix, before_regex: false } => write!(f, "path_prefix {prefix}"),
            Self::Prefix { prefix, before_regex: true } => write!(f, "path_prefix {prefix} before regular expressions"),
            Self::Exact(text) => write!(f, "path_exact {text}"),
            Self::Regex(regex) => write!(f, "path_regex {regex}"),
        }
    }
}

impl ValueMatch {
    /// Whether `value`, that of a field which is there, is what is asked for.
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(wanted) => wanted.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
