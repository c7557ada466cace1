//! The immutable view that requests run on: routes and pools of one generation of the configuration.

mod gate;
mod https;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::balance::Split;
use crate::config::model::{self, Action, Config, Overrides, Route, ServerAddress, Share, Site, SiteTls};
use crate::pool::{CircuitOpen, Pass, Pool, Wanted};
use crate::route::{RouteTable, TlsRouteTable};
use crate::telemetry::access_log::{Log, Sinks};
use crate::template::Template;
use crate::time::Millis;
use crate::tls::{self, ClientAuthMode, Servers, Terms, Tickets};

pub use gate::{Gate, Limiter};
pub use https::Https;

/// Addresses of the names of servers, as last resolved.
pub type Addresses = HashMap<Arc<str>, Vec<IpAddr>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// What it was built from.
    pub config: Arc<Config>,
    /// What wins over `config`.
    pub overrides: Arc<Overrides>,
    /// By index; live state of servers is shared with the generations before and after.
    pub pools: Vec<Arc<Pool>>,
    /// By index of a pool, that of its fallback.
    fallbacks: Vec<Option<usize>>,
    /// In the order of `config.listeners`.
    pub listeners: Vec<ListenerView>,
    /// In the order of `config.limits`; what they know is shared with the generations before and after.
    pub limiters: Vec<Arc<Limiter>>,
    /// Keys of session tickets, the same in every generation.
    pub tickets: Arc<Tickets>,
    servers: Servers,
    logs: Logs,
}

/// What a listener leads to.
#[derive(Debug)]
pub struct ListenerView {
    /// Sites and routes; empty for TCP.
    pub routes: RouteTable<RouteView, SiteView>,
    /// Pool of a TCP listener.
    pub pool: Option<usize>,
    /// Where TLS goes that is passed through.
    pub passthrough: Option<PassthroughView>,
    /// Access log of what reaches no site, and of TCP sessions.
    pub log: Option<Arc<Log>>,
    /// What stands before those; whom it lets connect is decided at accept.
    pub gate: Option<Box<Gate>>,
    /// For clients of no site with TLS of its own; `None`: they are refused, or the listener does not speak TLS.
    pub tls: Option<Arc<tls::Server>>,
    /// Clients are asked for certificates, by the listener or a site: each request must be for a site that asks for what the
    /// handshake did.
    pub asks_clients: bool,
    /// What it says of https where no site does.
    pub https: Option<Arc<Https>>,
}

/// Where TLS goes that is passed through; what no route takes goes to the listener's pool.
#[derive(Debug)]
pub struct PassthroughView {
    /// Which route.
    table: TlsRouteTable,
    /// Of each route.
    pools: Vec<Option<usize>>,
}

impl PassthroughView {
    /// The number of the route of a client that wants `name` and offers the protocols `alpn`, and its pool.
    pub fn find(&self, name: Option<&str>, alpn: &[Vec<u8>]) -> Option<(usize, Option<usize>)> {
        let route = self.table.find(name, alpn)?;
        Some((route, self.pools.get(route).copied().flatten()))
    }
}

/// A route and what its names stand for.
#[derive(Debug)]
pub struct RouteView {
    /// As configured.
    pub route: Arc<Route>,
    /// Its pool, if that is what it does.
    pub pool: Option<usize>,
    /// The pool that gets copies of its requests.
    pub mirror: Option<usize>,
    /// Its access log.
    pub log: Option<Arc<Log>>,
    /// What stands before it, its listener's limits first.
    pub gate: Option<Box<Gate>>,
    /// What its site says of https.
    pub https: Option<Arc<Https>>,
    /// The routes to its pools, if it has several.
    pub split: Option<Box<SplitView>>,
}

/// A route that is shared out to several pools.
#[derive(Debug)]
pub struct SplitView {
    /// As configured, in file order.
    pub shares: Arc<[Share]>,
    /// What a request takes instead of the route, in the same order.
    pub routes: Vec<RouteView>,
    /// Their weights.
    pub split: Split,
    /// What is hashed; `None`, or empty: by lot.
    pub key: Option<Template>,
}

/// Why a request comes to a pool of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// It meets the conditions of this one.
    Condition(usize),
    /// It meets none: key or lot shall decide.
    Weight,
}

/// What is left of a site when no route matches.
#[derive(Debug)]
pub struct SiteView {
    /// Its name.
    pub name: Arc<str>,
    /// Its access log.
    pub log: Option<Arc<Log>>,
    /// Its error pages.
    pub error_pages: Arc<[model::ErrorPage]>,
    /// What stands before it, its listener's limits first.
    pub gate: Option<Box<Gate>>,
    /// For clients that ask for one of its hosts, where that is other than the listener's.
    pub tls: Option<Arc<tls::Server>>,
    /// What it says of https.
    pub https: Option<Arc<Https>>,
}

/// Running logs by what they were made from: equal ones share one.
type Logs = Vec<(Arc<model::AccessLog>, Arc<Log>)>;

impl Snapshot {
    /// Builds the view of `config` and `overrides`. Servers that `previous` has too keep their health and their counters.
    pub fn build(
        config: Arc<Config>,
        overrides: Arc<Overrides>,
        addresses: &Addresses,
        sinks: &Sinks,
        previous: Option<&Self>,
    ) -> Self {
        let resolve = |spec: &model::ServerSpec| match &spec.address {
            ServerAddress::Ip(addr) => vec![*addr],
            ServerAddress::Name { host, port } => {
                addresses.get(host).map_or(Vec::new(), |ips| ips.iter().map(|ip| SocketAddr::new(*ip, *port)).collect())
            }
        };
        let pools: Vec<_> = config
            .pools
            .iter()
            .map(|pool| {
                let before = previous.and_then(|p| p.pools.iter().find(|b| b.config.name == pool.name));
                Arc::new(Pool::build(pool, resolve, &overrides, before.map(|b| &**b)))
            })
            .collect();
        let pool_index = |name: &str| pools.iter().position(|p| &*p.config.name == name);

        let fallbacks = pools.iter().map(|pool| pool.config.fallback.as_deref().and_then(pool_index)).collect();

        let limiters = gate::limiters(&config, previous.map_or(&[], |p| &p.limiters));

        let known = previous.map_or(&[][..], |p| &p.logs);
        let logs: RefCell<Logs> = RefCell::default();
        let log_of = |wanted: Option<&Arc<model::AccessLog>>| {
            let wanted = wanted?;
            let mut logs = logs.borrow_mut();
            if let Some((_, log)) = logs.iter().find(|(config, _)| config == wanted) {
                return Some(Arc::clone(log));
            }
            let before = known.iter().find(|(config, _)| config == wanted).map(|(_, log)| Arc::clone(log));
            let log = before.unwrap_or_else(|| sinks.log(wanted));
            logs.push((Arc::clone(wanted), Arc::clone(&log)));
            Some(log)
        };
        let route = |outer: &model::Admission, https: Option<&Arc<Https>>, route: &Arc<Route>| {
            let pool = match &route.action {
                Action::Pool { pool, .. } => pool_index(pool),
                Action::Split { .. } | Action::Redirect { .. } | Action::Respond { .. } | Action::Close => None,
            };
            let mirror = route.mirror.as_ref().and_then(|mirror| pool_index(&mirror.pool));
            let gate = Gate::inside(outer, &route.admission, &limiters);
            let log = log_of(route.policy.access_log.as_ref());
            let https = https.and_then(|https| Https::of_route(https, &route.policy.response_headers));
            RouteView { route: Arc::clone(route), pool, mirror, log, gate, https, split: None }
        };
        let route = |outer: &model::Admission, https: Option<&Arc<Https>>, model: &Arc<Route>| {
            let split = match &model.action {
                Action::Split { shares, key } => Some(SplitView {
                    shares: Arc::clone(shares),
                    key: key.clone(),
                    routes: shares.iter().map(|share| route(outer, https, &share.route)).collect(),
                    split: Split::new(shares.iter().map(|share| (&*share.pool, share.weight))),
                }),
                _ => None,
            };
            RouteView { split: split.map(Box::new), ..route(outer, https, model) }
        };
        let tickets = previous.map_or_else(Tickets::new, |p| Arc::clone(&p.tickets));
        let servers = RefCell::new(Servers::default());
        let server = |tls: &model::Tls, site: Option<&SiteTls>| {
            let terms = terms(tls, site);
            if terms.certificates.is_empty() {
                return None;
            }
            servers.borrow_mut().get(&terms, &tickets, previous.map(|p| &p.servers))
        };
        let site = |listener: &model::Listener, https: Option<&Arc<Https>>, s: &Site| SiteView {
            name: Arc::clone(&s.name),
            log: log_of(s.access_log.as_ref()),
            error_pages: Arc::clone(&s.error_pages),
            gate: Gate::inside(&listener.admission, &s.admission, &limiters),
            tls: (s.tls.iter().find(|tls| tls.listener == listener.name))
                .and_then(|own| server(listener.tls.as_ref()?, Some(own))),
            https: https.cloned(),
        };
        let listeners = config
            .listeners
            .iter()
            .map(|l| {
                let of_site = |s: &Site| Some((Arc::clone(&s.name), Https::new(&s.https, &l.http.https)?));
                let https: HashMap<Arc<str>, Arc<Https>> = config.sites.iter().filter_map(of_site).collect();
                ListenerView {
                    routes: RouteTable::build_with(
                        &config.sites,
                        &l.name,
                        |r: &Arc<Route>| route(&l.admission, https.get(&r.site), r),
                        |s: &Site| site(l, https.get(&s.name), s),
                    ),
                    pool: l.tcp.as_ref().and_then(|t| pool_index(t.pool.as_ref()?)),
                    passthrough: l.tcp.as_ref().and_then(|t| t.passthrough.as_ref()).map(|passthrough| {
                        PassthroughView {
                            table: TlsRouteTable::new(&passthrough.routes),
                            pools: passthrough.routes.iter().map(|route| pool_index(&route.pool)).collect(),
                        }
                    }),
                    log: log_of(l.access_log.as_ref()),
                    gate: Gate::new(&[], &l.admission.limits, None, &limiters),
                    https: Https::new(&model::Https::default(), &l.http.https),
                    tls: l.tls.as_ref().and_then(|tls| server(tls, None)),
                    asks_clients: {
                        let sites =
                            config.sites.iter().flat_map(|site| &site.tls).filter(|site| site.listener == l.name);
                        let asked = l.tls.iter().map(|tls| &tls.client_auth).chain(sites.map(|site| &site.client_auth));
                        asked.into_iter().any(|auth| auth.mode != ClientAuthMode::Off)
                    },
                }
            })
            .collect();
        let generation = previous.map_or(1, |p| p.generation + 1);
        let (logs, servers) = (logs.into_inner(), servers.into_inner());
        Self { generation, config, overrides, pools, fallbacks, listeners, limiters, tickets, servers, logs }
    }

    /// The pool that takes what is for pool `index` now: that one, or the first on the way of its fallbacks that has an
    /// available server and no open circuit. When none has, the first says what is wrong, and may fail open.
    pub fn pool_for(&self, index: usize, wanted: Option<Wanted>, now: Millis) -> usize {
        let takes = |at: usize| self.pools[at].has_available(wanted, now) && self.pools[at].would_admit(now).is_ok();
        let mut at = index;
        while let Some(next) = self.fallbacks.get(at).copied().flatten() {
            if takes(at) {
                return at;
            }
            at = next;
        }
        if at == index || takes(at) { at } else { index }
    }

    /// [`Snapshot::pool_for`], and leave to use that pool.
    ///
    /// # Errors
    /// The circuit of the pool is open, and no fallback takes it.
    pub fn admit(
        &self,
        index: usize,
        wanted: Option<Wanted>,
        now: Millis,
    ) -> Result<(usize, Option<Pass>), CircuitOpen> {
        let mut refused = None;
        loop {
            let at = self.pool_for(index, wanted, now);
            match self.pools[at].admit(now) {
                Ok(pass) => return Ok((at, pass)),
                // Another worker had the last trial just before: the pool it leaves this to is asked, once.
                Err(_) if refused != Some(at) => refused = Some(at),
                Err(open) => return Err(open),
            }
        }
    }
}

impl ListenerView {
    /// What a client of a TLS listener is served with that asks for `host`, or for none.
    pub fn server(&self, host: Option<&[u8]>) -> Option<&Arc<tls::Server>> {
        let site = self.routes.site(host.unwrap_or_default());
        site.and_then(|site| site.tls.as_ref()).or(self.tls.as_ref())
    }
}

fn terms<'t>(tls: &'t model::Tls, site: Option<&'t SiteTls>) -> Terms<'t> {
    Terms {
        certificates: site.map_or(&tls.certificates, |site| &site.certificates),
        profile: tls.profile,
        alpn: &tls.alpn,
        tickets: tls.session_tickets,
        ticket_keys: &tls.ticket_keys,
        client_auth: site.map_or(&tls.client_auth, |site| &site.client_auth),
    }
}

impl SplitView {
    /// What of the conditions a request meets, which has these headers and cookies: the first that holds decides.
    pub fn choose<'h>(
        &self,
        header: &dyn Fn(&str) -> Option<&'h [u8]>,
        cookie: &dyn Fn(&str) -> Option<&'h [u8]>,
    ) -> Chosen {
        let meets = |share: &Share| {
            let headers = || share.headers.iter().all(|m| header(&m.name).is_some_and(|value| m.value.holds(value)));
            let cookies = || share.cookies.iter().all(|m| cookie(&m.name).is_some_and(|value| m.value.holds(value)));
            share.has_conditions() && headers() && cookies()
        };
        self.shares.iter().position(meets).map_or(Chosen::Weight, Chosen::Condition)
    }
}
