//! What a change of the configuration means for connections, servers and addresses, in words. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::model::{Config, Pool, VirtualRouter};

/// A line for each thing that somebody may notice.
pub(super) fn of(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    listeners(before, after, &mut lines);
    servers(before, after, &mut lines);
    addresses(before, after, &mut lines);
    lines
}

fn listeners(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let bound = |config: &Config| -> BTreeSet<(String, SocketAddr)> {
        config.listeners.iter().flat_map(|l| l.bind.iter().map(|addr| (l.name.to_string(), *addr))).collect()
    };
    let (before_bound, after_bound) = (bound(before), bound(after));
    let limit = after.global.drain_timeout;
    for (name, addr) in before_bound.difference(&after_bound) {
        lines.push(format!(
            "! listener {name} takes no new connections at {addr}; those it has end after their request, or are cut after \
             {limit:?}"
        ));
    }
}

fn servers(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let limit = after.global.drain_timeout;
    for old in &before.pools {
        let new = after.pools.iter().find(|pool| pool.name == old.name);
        let is_gone = |server: &&std::sync::Arc<str>| !new.is_some_and(|new| has(new, old, server));
        let gone: Vec<&str> = old.servers.iter().map(|s| &s.name).filter(is_gone).map(|name| &**name).collect();
        match (gone.len(), new) {
            (0, _) => {}
            (_, None) => {
                lines.push(format!("! pool {} is gone; what its servers have is cut after {limit:?}", old.name))
            }
            (_, Some(_)) => lines.push(format!(
                "! pool {}: {} get nothing new; what they have is cut after {limit:?}",
                old.name,
                gone.join(", ")
            )),
        }
    }
}

/// Whether `new` has the server of `old` at the same address.
fn has(new: &Pool, old: &Pool, name: &str) -> bool {
    let address = |pool: &Pool| pool.servers.iter().find(|s| *s.name == *name).map(|s| s.address.clone());
    address(new) == address(old)
}

fn addresses(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let of = |router: &VirtualRouter| -> BTreeSet<IpAddr> { router.all_addresses().map(|a| a.ip).collect() };
    for old in &before.routers {
        let Some(new) = after.routers.iter().find(|router| router.name == old.name) else {
            lines.push(format!("! vrrp {}: its addresses are given to a peer, and taken off this box", old.name));
            continue;
        };
        for ip in of(old).difference(&of(new)) {
            lines.push(format!("! vrrp {}: {ip} is taken off; its connections are reset", old.name));
        }
        for ip in of(new).difference(&of(old)) {
            lines.push(format!("! vrrp {}: {ip} is added; the peers need it too", old.name));
        }
    }
}
