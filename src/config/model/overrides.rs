//! What the operator has said of servers while the program runs: it wins over the file until it is taken back, or the file
//! changes the same value.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Whether the operator lets a server have work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// Nothing new; what it has goes on, and it is checked (HAProxy: `drain`).
    Drain,
    /// Nothing new, and no health checks (HAProxy: `maint`).
    Maintenance,
}

/// What is said of one server, or of all addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Name in the pool.
    pub server: Arc<str>,
    /// `None`: as the file has it.
    pub duty: Option<Duty>,
    /// 1..=65535; `None`: as the file has it.
    pub weight: Option<u32>,
}

/// All that is said; a server at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides(pub Vec<Override>);

impl Overrides {
    /// What is said of a server, if anything.
    pub fn of(&self, pool: &str, server: &str) -> Option<&Override> {
        self.0.iter().find(|o| *o.pool == *pool && *o.server == *server)
    }
}
