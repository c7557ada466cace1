//! Active health checks, the part that talks to servers.
//!
//! ```text
//! Checker (control runtime) -- one task a server --> wait until due -> Attempt -> verdict
//!                                                                                    |
//!                     every worker's next pick  <-- Server's atomic, one log line <--+
//! ```
//! A check by command is a probe too, of which only the order leaves here: this process executes nothing.
//!
//! When a probe is due and what results mean is decided in `health`. A new kind of check is a variant of
//! `config::model::Probe` and one more attempt of [`Network`]; nothing else here knows of kinds.

mod attempt;
mod bounded;
mod checker;
mod exec;
mod grpc;
mod http;
mod mysql;
mod postgres;
mod redis;
mod tcp;
#[cfg(test)]
mod tests;

pub use self::attempt::{Attempt, Failure, Network, Target};
pub use self::checker::Checker;
pub use self::exec::Order;
