//! VRRP, the pure half: packets, timers, states, who owns the address. Drives nothing and reads no clock.

pub mod announce;
pub mod cluster;
pub mod event;
pub mod judge;
pub mod machine;
pub mod packet;
pub mod timing;
pub mod types;

pub use types::{Checksum, Family, Interval, Password, Priority, Version, Vrid};
