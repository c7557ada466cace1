//! Names of servers: resolved at start, again whenever their TTL ends, and never forgotten because a lookup failed.
//!
//! ```text
//! /etc/hosts ─┐
//!             ├─ Resolver ── Watcher (a task per name) ── Table ── snapshot builder
//! DNS ────────┘                    └── Notify: the addresses of some name changed
//! ```
//!
//! - `/etc/hosts` comes first, and both it and `/etc/resolv.conf` are read again when they change.
//! - A name that does not resolve, or no longer does, is tried again with back-off; until then its last addresses stay.
//! - All addresses of a name are used, IPv4 and IPv6. When only one of the two queries fails, the addresses known of that
//!   family stay too.
//!
//! Not here: SRV records, DNS over TLS, and a cache (each name is asked for once per TTL).
//! All of it runs on the control runtime, none on a worker.

mod file;
mod hosts;
mod resolver;
mod watcher;

pub use self::resolver::{Answer, DnsError, Family, Resolver};
pub use self::watcher::{Lookup, Table, Watcher};
