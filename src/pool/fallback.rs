//! Whether another pool has taken over, so that the log says when that begins and ends, and not at every request.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::health::Role;

use super::{Pool, Wanted};

/// For any server, for a primary, for a replica; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Fallen([AtomicBool; 3]);

impl Pool {
    /// Takes in whether a request or connection went to the fallback pool; true when that is a change.
    pub fn falls_back(&self, wanted: Option<Wanted>, on: bool) -> bool {
        let [any, primary, replica] = &self.fallen.0;
        let fallen = match wanted.map(|wanted| wanted.role) {
            None => any,
            Some(Role::Primary) => primary,
            Some(Role::Replica) => replica,
        };
        // Looked at first: a line that is only read stays in every core's cache.
        fallen.load(Ordering::Relaxed) != on && fallen.swap(on, Ordering::Relaxed) != on
    }
}
