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

use rustix::event::Timespec;

use crate::time::Micros;

pub use ether::Ether;
pub use journal::Journal;
pub use netlink::{Monitor, Netlink};
pub use syn::SynTrap;
pub use wire::{Receiver, Sender};

/// How long to wait until `next`; `None`: for ever.
fn timeout_until(next: Option<Micros>, now: Micros) -> Option<Timespec> {
    next.map(|at| Timespec::try_from(at.since(now)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
}
