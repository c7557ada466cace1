//! Who may come in, how often, and how many at once: access lists, rate limits and concurrency limits. Pure.
//!
//! [`AccessList`] judges addresses. A [`Table`] keeps what is known of the keys of one limit, for all workers: with a
//! [`Rate`] when each may come next, with a bound of concurrency how many are in flight. The time is handed in.

mod access;
mod rate;
mod table;

pub use access::{AccessList, Judgement};
pub use rate::{Rate, Undelayed};
pub use table::{Bounds, Counts, Key, Seat, Table, Verdict};
