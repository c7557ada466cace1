//! VRRP, the pure half: packets, timers, states, who owns the address. Drives nothing and reads no clock.
//!
//! ```text
//!  bytes ──decode──▶ Advert ──judge──▶ Peer | Alive | Drop ──▶ VirtualRouter ──▶ Action
//!         packet.rs           judge.rs                         machine.rs        what is to be sent, taken, let go of
//!                                                              in a Cluster, which moves sync groups together
//! ```
//!
//! [`crate::vrrpd`] has the sockets and the clock. Names are those of RFC 9568: Active and Backup; keepalived's users say
//! MASTER and BACKUP.
//!
//! # What the RFC demands, and where it is tested
//!
//! | RFC 9568 | demand | test |
//! |---|---|---|
//! | 5.1.1.3, 7.1 | TTL or hop limit 255, else dropped | `judge`: what came through a router is not believed |
//! | 5.2.8, 7.1 | the checksum is right | `packet`: each flaw has its name; golden packets of keepalived |
//! | 7.1 | version and length are right | `packet`: each flaw has its name |
//! | 7.1 | the virtual router is configured here | `tests/vrrp.rs`: forged advertisements |
//! | 6.4.1 (100) | the owner becomes Active at once | `machine`: the owner asks nobody |
//! | 6.4.1 (150) | everybody else becomes Backup | `machine`: silence makes a backup active |
//! | 6.4.2 (405) | advertisement, then the addresses, then gratuitous ARP or NA | `machine`: silence makes a backup active |
//! | 6.4.2 (430) | priority 0: Skew_Time | `machine`: a resignation is followed after the skew |
//! | 6.4.2 (450) | equal or higher, or no preemption: the timer starts anew, the interval is learnt | `machine`: equal or higher priorities are respected |
//! | 6.4.2 (460) | lower: discarded, the timer runs on | the same |
//! | 6.4.3 (705) | priority 0: an advertisement at once | `machine`: a resignation of somebody else |
//! | 6.4.3 (725) | higher, or equal from a higher address: Backup | `machine`: a better advertisement ends it |
//! | 6.4.3 (760) | else: an advertisement at once | `machine`: a worse advertisement is answered at once |
//! | 6.4.3 (630) | shutdown: priority 0 | `machine`: a stop hands over if it can |
//! | errata 8299, 8301 | no addresses, no interval: dropped | `packet`: each flaw has its name |
//!
//! # Where it differs, on purpose
//!
//! - A peer that is configured otherwise, and shares an address, is a sign of life (7.1 drops it): [`judge`].
//! - Whoever resigns keeps the addresses until a peer speaks, and then lingers: [`machine`].
//! - Who cannot serve resigns, and holds the addresses at priority 1 when nobody else does. There is no state in which two
//!   healthy links leave an address nowhere.
//! - Who yields says a last word of priority 1, so that a winner that never heard it announces the addresses (keepalived's
//!   `higher_prio_send_advert`).
//!
//! # What is not there
//!
//! Virtual MAC addresses (keepalived's `use_vmac`; like keepalived's default, the card's own address is announced), accept
//! mode off, AH and HMAC authentication, a second heartbeat link, BFD.

pub mod announce;
pub mod cluster;
pub mod event;
pub mod judge;
pub mod machine;
pub mod packet;
pub mod timing;
pub mod types;

pub use types::{Checksum, Family, Interval, Password, Priority, Version, Vrid};
