//! Limits, and who comes in.

use std::sync::Arc;

use crate::admission::{AccessList, Bounds};
use crate::template::Template;

/// `[limit.NAME]`.
#[derive(Debug, Clone)]
pub struct Limit {
    /// The table's name.
    pub name: Arc<str>,
    /// What is counted by itself.
    pub key: LimitKey,
    /// How often, how many at once, and of how many keys.
    pub bounds: Bounds,
    /// 400..=599.
    pub status: u16,
    /// Counts, and refuses nobody.
    pub dry_run: bool,
    /// What it allows, in the words of the file.
    pub text: Arc<str>,
}

/// `key` of a limit. What was remembered of one is of no use to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitKey {
    /// `$remote_addr`: the client's address, so many leading bits of it.
    Address {
        /// 1..=32.
        v4: u8,
        /// 1..=128.
        v6: u8,
    },
    /// Anything else.
    Text(Template),
}

/// `limits`, `allow` and `deny` of a listener, a site or a route, inherited ones in.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// All hold, in this order.
    pub limits: Vec<Arc<Limit>>,
    /// `None`: everybody.
    pub access: Option<Arc<AccessList>>,
}
