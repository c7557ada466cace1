//! VRRP, the half that touches the box: raw sockets, ARP and neighbour discovery, addresses by netlink.
//!
//! ```text
//!                 notes                        orders
//!  the process ──────────▶ speaker (urgent) ──────────▶ keeper
//!      ▲                   raw sockets, time   ◀──────── netlink: links, addresses
//!      │  reports          machines             notes    the note of what is ours
//!      └───────────────────────┴─────────────────────────────┘
//! ```

pub mod arbiter;
pub mod ether;
pub mod handover;
pub mod journal;
pub mod keeper;
pub mod mailbox;
pub mod netlink;
pub mod report;
pub mod speaker;
pub mod station;
pub mod syn;
pub mod tally;
pub mod wire;

#[cfg(test)]
pub(crate) mod lab;

use std::path::Path;

use rustix::event::Timespec;

use crate::time::Micros;

pub use ether::Ether;
pub use journal::Journal;
pub use netlink::{Monitor, Netlink};
pub use syn::SynTrap;
pub use wire::{Receiver, Sender};

/// How long to wait until `next`; `None`: for ever.
pub(crate) fn timeout_until(next: Option<Micros>, now: Micros) -> Option<Timespec> {
    next.map(|at| Timespec::try_from(at.since(now)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
}

/// Takes every address off the box that is marked as ours, or named by `note`; which they were. Not while a process of ours
/// keeps any.
///
/// # Errors
/// The kernel refuses, as a sentence.
pub fn sweep(note: &Path) -> Result<Vec<String>, String> {
    let noted = journal::read(note).unwrap_or_default();
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    let (links, addresses) =
        netlink.links().and_then(|links| Ok((links, netlink.addresses()?))).map_err(|e| e.to_string())?;
    let mut removed = Vec::new();
    for stale in journal::stale(&noted, &links, &addresses) {
        netlink.remove(stale.ip, stale.prefix, stale.ifindex).map_err(|e| e.to_string())?;
        let on = links.iter().find(|link| link.index == stale.ifindex).map_or("?", |link| &link.name);
        removed.push(format!("{}/{} from {on}", stale.ip, stale.prefix));
    }
    Ok(removed)
}
