//! VRRP, the half that touches the box: raw sockets, ARP and neighbour discovery, addresses by netlink, and a note of
//! which addresses are ours. Synchronous, for threads that poll descriptors; it decides nothing.

pub mod ether;
pub mod journal;
pub mod netlink;
pub mod syn;
pub mod wire;

pub use ether::{Ether, SolicitedGroups};
pub use journal::Journal;
pub use netlink::{Monitor, Netlink};
pub use syn::SynTrap;
pub use wire::{Receiver, Sender};

#[cfg(test)]
pub(crate) mod lab;
