//! Whether this box may hold the addresses of a virtual router: what the supervisor knows, put together. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::model::{TrackedPools, VirtualRouter};
use crate::vrrpd::report::Fitness;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Condition {
    /// A proxy serves.
    pub(super) serving: bool,
    /// Since when none does.
    pub(super) away_since: Option<Instant>,
    /// Servers of tracked pools: up, and all. A pool that is not here is unknown.
    pub(super) pools: HashMap<Arc<str>, (u32, u32)>,
    /// What scripts and files say, by router.
    pub(super) tracked: Vec<Fitness>,
    /// The operator does not want this box to hold anything.
    pub(super) maintenance: bool,
}

impl Condition {
    /// Nothing is known yet.
    pub(super) fn new(routers: usize) -> Self {
        Self {
            serving: false,
            away_since: None,
            pools: HashMap::new(),
            tracked: vec![Fitness::good(); routers],
            maintenance: false,
        }
    }

    /// When a proxy that is away is given up for `router`.
    pub(super) fn grace_over_at(&self, router: &VirtualRouter) -> Option<Instant> {
        self.away_since.map(|since| since + router.proxy_grace)
    }

    /// What all of it says of the router of number `index`.
    pub(super) fn fitness(&self, index: usize, router: &VirtualRouter, now: Instant) -> Fitness {
        let against = |why: &str| Fitness { fit: false, ready: false, why: vec![why.to_owned()], ..Fitness::good() };
        let mut all = self.tracked.get(index).cloned().unwrap_or_else(Fitness::good);
        if let Some(tracked) = &router.track_pools {
            all = all.and(&fitness_of_pools(tracked, &self.pools));
        }
        if self.maintenance {
            all = all.and(&against("maintenance"));
        }
        if !self.serving {
            let patient = self.grace_over_at(router).is_some_and(|at| now < at);
            let away = against("the proxy does not serve");
            all = all.and(&Fitness { fit: patient, ..away });
        }
        all
    }
}

/// What the servers of tracked pools say. A pool of which nothing is known never makes a box resign.
pub(super) fn fitness_of_pools(tracked: &TrackedPools, pools: &HashMap<Arc<str>, (u32, u32)>) -> Fitness {
    let empty: Vec<&str> = tracked
        .pools
        .iter()
        .filter(|name| pools.get(*name).is_some_and(|(up, _)| *up == 0))
        .map(|name| &**name)
        .collect();
    let against = if tracked.any { !empty.is_empty() } else { empty.len() == tracked.pools.len() };
    if !against || empty.is_empty() {
        return Fitness::good();
    }
    let why = format!("no server is up of pool {}", empty.join(", "));
    Fitness { fit: false, ready: false, why: vec![why], ..Fitness::good() }
}
