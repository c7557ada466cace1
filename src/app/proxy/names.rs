//! The names of servers, kept current.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::warn;

use crate::config::model::{Config, Dns, ServerAddress};
use crate::dns::{Resolver, Table, Watcher};
use crate::snapshot::Addresses;

/// How long a start, or a reload, waits for names that are not known yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// The names that a configuration uses, and their addresses.
pub(super) struct Names {
    table: Table,
    changed: Arc<Notify>,
    dns: Dns,
    /// Looks them up for as long as it lives.
    watcher: Option<Watcher>,
}

impl Names {
    /// Starts with what is known already; waits a moment for names that are not, so that the first requests find servers. A
    /// name that does not resolve costs its servers until it does.
    pub(super) async fn resolve(config: &Config, known: &Addresses) -> Self {
        let names = names_in(config);
        let unknown = names.iter().any(|name| !known.contains_key(name));
        let mut this =
            Self { table: Table::new(known.clone()), changed: Arc::default(), dns: config.dns.clone(), watcher: None };
        this.watch(names);
        if unknown && let Some(watcher) = &this.watcher {
            settle(watcher).await;
        }
        this
    }

    /// All addresses there are now.
    pub(super) fn addresses(&self) -> Arc<Addresses> {
        self.table.load()
    }

    /// Resolves when a name has other addresses. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What finds the names of another configuration.
    pub(super) fn finder(&self) -> Finder {
        Finder { known: self.addresses() }
    }

    /// From now on the names are those of `config`, some of which were `found` meanwhile.
    pub(super) fn follow(&mut self, config: &Config, found: Addresses) {
        self.table.learn(found);
        if self.dns != config.dns {
            (self.dns, self.watcher) = (config.dns.clone(), None);
        }
        self.watch(names_in(config));
    }

    fn watch(&mut self, names: Vec<Arc<str>>) {
        match &mut self.watcher {
            Some(watcher) => watcher.set_names(names),
            None if names.is_empty() => {}
            None => {
                let (table, changed) = (self.table.clone(), Arc::clone(&self.changed));
                self.watcher = Some(Watcher::start(Resolver::new(&self.dns), names, table, changed));
            }
        }
    }
}

/// See [`Names::finder`].
pub(super) struct Finder {
    known: Arc<Addresses>,
}

impl Finder {
    /// Looks the names of `config` up that are not known yet, for a moment; what is known then. Nothing else is changed.
    pub(super) async fn look_up(&self, config: &Config) -> Addresses {
        let new: Vec<_> = names_in(config).into_iter().filter(|name| !self.known.contains_key(name)).collect();
        let mut all = Addresses::clone(&self.known);
        if !new.is_empty() {
            let table = Table::default();
            settle(&Watcher::start(Resolver::new(&config.dns), new, table.clone(), Arc::default())).await;
            all.extend(Addresses::clone(&table.load()));
        }
        all
    }
}

async fn settle(watcher: &Watcher) {
    if timeout(PATIENCE, watcher.settled()).await.is_err() {
        warn!("not all names of servers resolve yet; going on without them");
    }
}

/// Each once.
fn names_in(config: &Config) -> Vec<Arc<str>> {
    let servers = config.pools.iter().flat_map(|pool| &pool.servers);
    let names: HashSet<Arc<str>> = servers
        .filter_map(|server| match &server.address {
            ServerAddress::Name { host, .. } => Some(Arc::clone(host)),
            ServerAddress::Ip(_) => None,
        })
        .collect();
    names.into_iter().collect()
}
