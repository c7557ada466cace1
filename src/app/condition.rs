//! Whether this box may hold the addresses of a virtual router: what the supervisor knows, put together. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::app::tracker::pools::fitness_of_pools;
use crate::config::model::VirtualRouter;
use crate::ipc::PoolSummary;
use crate::vrrpd::report::Fitness;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Condition {
    /// A proxy serves.
    pub(super) serving: bool,
    /// Since when none does.
    pub(super) away_since: Option<Instant>,
    /// Tracked pools by name. One that is not here, or of which no server is known, is unknown.
    pub(super) pools: HashMap<Arc<str>, PoolSummary>,
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

    /// There are other routers; `before` gives the number that one had.
    pub(super) fn follow(&mut self, routers: &[Arc<VirtualRouter>], before: impl Fn(&VirtualRouter) -> Option<usize>) {
        let known = |router: &Arc<VirtualRouter>| before(router).and_then(|i| self.tracked.get(i).cloned());
        self.tracked = routers.iter().map(|router| known(router).unwrap_or_else(Fitness::good)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// A router that tracks pool `web`, which has checks.
    fn router() -> Arc<VirtualRouter> {
        let text = "[global]\nrun_dir = \"/nowhere\"\n[pool.web]\nservers = [\"10.0.0.1:80\"]\nhealth_check = {}\n\
                    [vrrp.a]\ninterface = \"eth0\"\nvirtual_router_id = 1\nversion = 3\n\
                    virtual_addresses = [\"192.0.2.100/24\"]\ntrack_pools = [\"web\"]\n";
        let config = config::parse_effective(text, "box").unwrap_or_else(|errors| panic!("{errors}"));
        Arc::clone(&config.routers[0])
    }

    #[tokio::test]
    async fn a_box_is_fit_but_not_ready_before_the_first_health_checks() {
        let (router, now) = (router(), Instant::now());
        let mut condition = Condition { serving: true, ..Condition::new(1) };
        let mut say = |up, judged| {
            let summary = PoolSummary { name: "web".into(), up, total: 2, judged };
            condition.pools = HashMap::from([("web".into(), summary)]);
            let Fitness { fit, ready, why, .. } = condition.fitness(0, &router, now);
            (fit, ready, why.join("; "))
        };
        let waiting = "waiting for the first health checks of pool web";
        assert_eq!(say(2, false), (true, false, waiting.to_owned()));
        assert_eq!(say(2, true), (true, true, String::new()));
        let (fit, ready, why) = say(0, false);
        assert_eq!((fit, ready), (false, false));
        assert!(why.contains(waiting) && why.contains("no server of pool web is up"), "{why}");
    }
}
