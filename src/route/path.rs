//! Paths: from a normalised path to the number of a route.
//!
//! One table holds every path that is written out. A request hashes its path once, byte by byte, and looks into the
//! table only where a written path can end: at borders of segments, and at the lengths of raw prefixes. So the work
//! depends on the request's path, not on the number of routes.

use hashbrown::HashTable;
use regex::bytes::Regex;

use crate::config::model::PathMatch;

/// Maps paths to numbers of routes.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    /// Numbers of nodes by the hash of their text.
    table: HashTable<usize>,
    /// For each length up to the longest text: what ends there.
    lengths: Vec<Ends>,
    regexes: Vec<(Regex, usize)>,
}

/// One path as written in the file, with all routes that have it.
#[derive(Debug, Clone)]
struct Node {
    text: Box<[u8]>,
    /// Next shorter text that this one starts with.
    parent: Option<usize>,
    exact: Vec<usize>,
    prefix: Vec<Prefix>,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    route: usize,
    /// Must end at a border of segments.
    segments: bool,
    before_regex: bool,
}

/// What kind of texts have a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Ends {
    #[default]
    Nowhere,
    /// Only such that match at a border of segments.
    AtBorder,
    /// Also raw prefixes.
    Anywhere,
}

impl Paths {
    /// Of routes in file order, numbered from 0.
    pub(super) fn new<'a>(routes: impl Iterator<Item = &'a PathMatch>) -> Self {
        let mut paths = Self::default();
        for (route, path) in routes.enumerate() {
            match path {
                PathMatch::Regex(regex) => paths.regexes.push((regex.clone(), route)),
                PathMatch::Exact(text) => paths.node(text, Ends::AtBorder).exact.push(route),
                PathMatch::Segments(text) => {
                    let prefix = Prefix { route, segments: true, before_regex: false };
                    paths.node(text, Ends::AtBorder).prefix.push(prefix);
                }
                PathMatch::Prefix { prefix: text, before_regex } => {
                    let ends = if text.ends_with('/') { Ends::AtBorder } else { Ends::Anywhere };
                    let prefix = Prefix { route, segments: false, before_regex: *before_regex };
                    paths.node(text, ends).prefix.push(prefix);
                }
            }
        }
        for index in 0..paths.nodes.len() {
            let text = &paths.nodes[index].text;
            paths.nodes[index].parent = paths.longest_prefix(text, text.len().saturating_sub(1));
        }
        paths
    }

    /// The best route for `path` among those for which `holds` is true.
    pub(super) fn find(&self, path: &[u8], holds: impl Fn(usize) -> bool) -> Option<usize> {
        let longest = self.longest_prefix(path, path.len());
        let exact = longest.map(|index| &self.nodes[index]).filter(|node| node.text.len() == path.len());
        if let Some(route) = exact.and_then(|node| node.exact.iter().copied().find(|&route| holds(route))) {
            return Some(route);
        }
        let prefix = self.prefix(longest, path, &holds);
        if !prefix.is_some_and(|prefix| prefix.before_regex) {
            let matching = |(regex, route): &&(Regex, usize)| holds(*route) && regex.is_match(path);
            if let Some((_, route)) = self.regexes.iter().find(matching) {
                return Some(*route);
            }
        }
        prefix.map(|prefix| prefix.route)
    }

    /// The first prefix that matches `path` and holds, from node `longest` to shorter ones.
    fn prefix(&self, longest: Option<usize>, path: &[u8], holds: &impl Fn(usize) -> bool) -> Option<Prefix> {
        let nodes = std::iter::successors(longest.map(|i| &self.nodes[i]), |n| n.parent.map(|i| &self.nodes[i]));
        nodes.into_iter().find_map(|node| {
            let border = is_border(path, node.text.len());
            node.prefix.iter().copied().find(|prefix| (border || !prefix.segments) && holds(prefix.route))
        })
    }

    /// The node with the longest text of at most `limit` bytes that `path` starts with, where one may match.
    fn longest_prefix(&self, path: &[u8], limit: usize) -> Option<usize> {
        let mut found = None;
        let mut hash = HASH_START;
        for (i, &byte) in path.iter().enumerate().take(limit.min(self.lengths.len())) {
            hash = hash_step(hash, byte);
            let here = match self.lengths[i] {
                Ends::Nowhere => false,
                Ends::AtBorder => is_border(path, i + 1),
                Ends::Anywhere => true,
            };
            if here {
                let same = |&node: &usize| *self.nodes[node].text == path[..=i];
                found = self.table.find(hash_end(hash), same).copied().or(found);
            }
        }
        found
    }

    /// The node of `text`, made when there is none.
    fn node(&mut self, text: &str, ends: Ends) -> &mut Node {
        let text = text.as_bytes();
        if let Some(last) = text.len().checked_sub(1) {
            self.lengths.resize(self.lengths.len().max(text.len()), Ends::Nowhere);
            self.lengths[last] = self.lengths[last].max(ends);
        }
        let hash = hash(text);
        let found = self.table.find(hash, |&node| *self.nodes[node].text == *text).copied();
        let index = found.unwrap_or_else(|| {
            let index = self.nodes.len();
            self.nodes.push(Node { text: text.into(), parent: None, exact: Vec::new(), prefix: Vec::new() });
            self.table.insert_unique(hash, index, |&node| self::hash(&self.nodes[node].text));
            index
        });
        &mut self.nodes[index]
    }
}

/// Whether the first `len` bytes of `path` are whole segments.
pub(super) fn is_border(path: &[u8], len: usize) -> bool {
    len == path.len() || path[len] == b'/' || path[len - 1] == b'/'
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: extends the hash of a path by one byte, which is what makes one pass enough for all its prefixes. Who can
/// choose requests gains nothing by collisions: only configured paths are in the table.
fn hash_step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

/// The table takes its bits from both ends of the hash, and those of FNV-1a mix upwards only.
fn hash_end(hash: u64) -> u64 {
    hash ^ (hash >> 32)
}

fn hash(text: &[u8]) -> u64 {
    hash_end(text.iter().fold(HASH_START, |hash, &byte| hash_step(hash, byte)))
}
