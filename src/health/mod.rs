//! Active health checks, the part that decides: when a server is probed, and what the results make of it.
//!
//! Pure: time and results are handed in, values come out. Who probes is `probe`; who acts on a verdict is `pool`. Neither
//! type knows what a probe is, so every kind of check has the same rules.

pub mod breaker;
mod hysteresis;
pub mod roles;
mod schedule;

pub use self::hysteresis::{Hysteresis, Quiet, Thresholds, Verdict};
pub use self::roles::Role;
pub use self::schedule::{Pace, Schedule, spread};
