//! What the boxes that share a file must agree on, and where they must differ.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::Problems;
use super::document::{Item, Place, Table};
use super::model::{Config, VirtualRouter};

/// What one box runs, and where that is written.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) table: Table,
}

/// A virtual router on one box.
struct Member<'n> {
    node: &'n str,
    router: &'n VirtualRouter,
    /// Its table.
    item: &'n Item,
}

impl Member<'_> {
    /// Where the value of `key` is; of a default, the table.
    fn place(&self, key: &str) -> Place {
        self.item.as_table().and_then(|table| table.get(key)).unwrap_or(self.item).place
    }
}

/// Notes what does not fit together. `nodes` are those of `count` that are valid in themselves.
pub(super) fn check(nodes: &[Node], count: usize, problems: &mut Problems) {
    let names: BTreeSet<&str> =
        nodes.iter().flat_map(|node| &node.config.routers).map(|router| &*router.name).collect();
    for name in names {
        let members: Vec<Member<'_>> = nodes.iter().filter_map(|node| member(node, name)).collect();
        if let [one] = &*members
            && nodes.len() == count
            && count > 1
        {
            let message =
                format!("only {} has virtual router \"{name}\": no other box takes over its addresses", one.node);
            problems.warning(one.item.key, message);
        }
        same("virtual_router_id", &members, |router| router.vrid.to_string(), problems);
        same("version", &members, |router| router.version.number().to_string(), problems);
        same("advert_interval", &members, |router| format!("{:?}", router.advert_interval.get()), problems);
        same("virtual_addresses", &members, addresses, problems);
        same("unicast_peers", &members, cast, problems);
        same_authentication(&members, problems);
        distinct_priorities(name, &members, problems);
    }
}

fn member<'n>(node: &'n Node, name: &str) -> Option<Member<'n>> {
    let router = node.config.routers.iter().find(|router| &*router.name == name)?;
    let item = node.table.get("vrrp").and_then(Item::as_table)?.get(name)?;
    Some(Member { node: &node.config.node, router, item })
}

/// Notes every member whose `value` is not that of the first.
fn same(key: &str, members: &[Member<'_>], value: impl Fn(&VirtualRouter) -> String, problems: &mut Problems) {
    let Some((first, others)) = members.split_first() else { return };
    let expected = value(first.router);
    for other in others {
        let found = value(other.router);
        if found != expected {
            let message = format!("`{key}`: {} has {expected}, {} has {found}", first.node, other.node);
            disagree(key, first, other, message, problems);
        }
    }
}

fn same_authentication(members: &[Member<'_>], problems: &mut Problems) {
    let Some((first, others)) = members.split_first() else { return };
    for other in others.iter().filter(|other| other.router.password != first.router.password) {
        let message = format!("{} and {} have different passwords, or only one has any", first.node, other.node);
        disagree("authentication", first, other, message, problems);
    }
}

fn disagree(key: &str, first: &Member<'_>, other: &Member<'_>, message: String, problems: &mut Problems) {
    let (place, at) = (other.place(key), first.place(key));
    let problem = problems.error(place, message).help("a virtual router is the same on every box");
    if at != place {
        problem.note("the other is at", at);
    }
}

/// What is advertised, in the same order everywhere.
fn addresses(router: &VirtualRouter) -> String {
    let mut addresses: Vec<_> = router.addresses.iter().map(|address| (address.ip, address.prefix)).collect();
    addresses.sort_unstable();
    addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect::<Vec<_>>().join(", ")
}

fn cast(router: &VirtualRouter) -> String {
    if router.unicast_peers.is_empty() { "multicast" } else { "unicast" }.to_owned()
}

fn distinct_priorities(name: &str, members: &[Member<'_>], problems: &mut Problems) {
    let mut by_priority: BTreeMap<_, Vec<&Member<'_>>> = BTreeMap::new();
    for member in members {
        by_priority.entry(member.router.priority).or_default().push(member);
    }
    for (priority, members) in by_priority {
        let [some @ .., last] = &*members else { continue };
        if some.is_empty() {
            continue;
        }
        let names: Vec<&str> = some.iter().map(|member| member.node).collect();
        let message = format!(
            "{} and {} have the same priority {priority}: the higher address wins, which is nobody's choice",
            names.join(", "),
            last.node
        );
        problems
            .error(last.place("priority"), message)
            .help(format!("give each box its own: [node.{}.vrrp.{name}] with another `priority`", last.node));
    }
}
