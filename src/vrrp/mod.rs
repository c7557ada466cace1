//! VRRP, the pure half: packets, timers, states, who owns the address. Drives nothing and reads no clock.

pub mod announce;
pub mod types;

pub use types::{Checksum, Family, Interval, Password, Priority, Version, Vrid};
