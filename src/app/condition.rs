//! Whether this box may hold the addresses of a virtual router: what the supervisor knows, put together. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::app::tracker::pools::fitness_of_pools;
use crate::config::model::VirtualRouter;
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
