//! Keeps the addresses of all names current: a task per name that looks it up, sleeps for its TTL, and looks again.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{info, warn};

use super::resolver::{Answer, DnsError, Resolver};
use crate::snapshot::Addresses;

/// The last good answer for every name. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<ArcSwap<Addresses>>);

impl Table {
    /// A table that starts with these answers.
    pub fn new(known: Addresses) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(known)))
    }

    /// All answers there are now. A name that never resolved is not in it.
    pub fn load(&self) -> Arc<Addresses> {
        self.0.load_full()
    }

    /// Takes an answer in; returns the new addresses if they are not those that were known.
    fn update(&self, name: &Arc<str>, answer: Answer) -> Option<Vec<IpAddr>> {
        let known = self.0.load();
        let known = known.get(name).map_or(&[][..], Vec::as_slice);
        let mut addrs = answer.addrs;
        if let Some(family) = answer.unknown {
            addrs.extend(known.iter().filter(|addr| family.contains(**addr)));
            addrs.sort_unstable();
        }
        if addrs == known {
            return None;
        }
        self.0.rcu(|all| {
            let mut all = Addresses::clone(all);
            all.insert(Arc::clone(name), addrs.clone());
            all
        });
        Some(addrs)
    }

    /// Takes in addresses of names that it does not know.
    pub fn learn(&self, found: Addresses) {
        self.0.rcu(|all| {
            let mut all = Addresses::clone(all);
            for (name, addresses) in &found {
                all.entry(Arc::clone(name)).or_insert_with(|| addresses.clone());
            }
            all
        });
    }

    fn retain(&self, names: &HashSet<Arc<str>>) {
        self.0.rcu(|all| {
            let mut all = Addresses::clone(all);
            all.retain(|name, _| names.contains(name));
            all
        });
    }
}

/// Where answers come from: a [`Resolver`], or a script in tests.
pub trait Lookup: Send + Sync + 'static {
    /// As [`Resolver::lookup`].
    fn lookup(&self, host: &str) -> impl Future<Output = Result<Answer, DnsError>> + Send;
}

impl Lookup for Resolver {
    async fn lookup(&self, host: &str) -> Result<Answer, DnsError> {
        self.lookup(host).await
    }
}

/// Watches a set of names until it is dropped.
#[derive(Debug)]
pub struct Watcher<L = Resolver> {
    watch: Watch<L>,
    tasks: HashMap<Arc<str>, AbortHandle>,
    /// How many names have not been looked up once.
    untried: Arc<watch::Sender<usize>>,
}

/// What every task needs.
#[derive(Debug)]
struct Watch<L> {
    source: Arc<L>,
    table: Table,
    changed: Arc<Notify>,
}

impl<L: Lookup> Watcher<L> {
    /// Looks all `names` up at once. `changed` is notified whenever the addresses of some name in `table` are others than
    /// before; answers that `table` has already are kept.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(source: L, names: Vec<Arc<str>>, table: Table, changed: Arc<Notify>) -> Self {
        let watch = Watch { source: Arc::new(source), table, changed };
        let mut watcher = Self { watch, tasks: HashMap::new(), untried: Arc::new(watch::Sender::new(0)) };
        watcher.set_names(names);
        watcher
    }

    /// Replaces the set of names. Those that stay are not looked up again before their time; those that go are forgotten.
    pub fn set_names(&mut self, names: Vec<Arc<str>>) {
        let names: HashSet<_> = names.into_iter().collect();
        self.tasks.retain(|name, task| {
            let stays = names.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        self.watch.table.retain(&names);
        for name in names {
            self.tasks.entry(name).or_insert_with_key(|name| {
                let (watch, untried) = (self.watch.clone(), Untried::new(&self.untried));
                tokio::spawn(watch.keep_current(Arc::clone(name), untried)).abort_handle()
            });
        }
    }

    /// Ends when every name has been looked up once, with whatever result. A start that waits for it, with a limit, begins
    /// with addresses instead of with errors.
    pub async fn settled(&self) {
        // Fails only without a sender, and `self` has one.
        let _ = self.untried.subscribe().wait_for(|untried| *untried == 0).await;
    }
}

impl<L> Drop for Watcher<L> {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

/// Counts a name as untried until dropped, which an aborted task does too.
struct Untried(Arc<watch::Sender<usize>>);

impl Untried {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|untried| *untried += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Untried {
    fn drop(&mut self) {
        self.0.send_modify(|untried| *untried -= 1);
    }
}

impl<L> Clone for Watch<L> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), table: self.table.clone(), changed: Arc::clone(&self.changed) }
    }
}

impl<L: Lookup> Watch<L> {
    async fn keep_current(self, name: Arc<str>, untried: Untried) {
        let mut untried = Some(untried);
        let mut failures = 0;
        loop {
            let wait = match self.source.lookup(&name).await {
                Ok(answer) => {
                    if failures > 0 {
                        info!(%name, failures, "the name resolves again");
                    }
                    failures = 0;
                    let ttl = answer.ttl;
                    if let Some(addresses) = self.table.update(&name, answer) {
                        info!(%name, ?addresses, "the name has new addresses");
                        self.changed.notify_one();
                    }
                    ttl
                }
                Err(error) => {
                    if failures == 0 {
                        let kept = self.table.load().get(&name).map_or(0, Vec::len);
                        warn!(%name, error = chain(&error), kept, "the name does not resolve; known addresses stay in use");
                    }
                    failures += 1;
                    back_off(failures)
                }
            };
            drop(untried.take());
            sleep(wait).await;
        }
    }
}

/// 1 s after the first failure, then twice as long each time, up to 30 s.
fn back_off(failures: u32) -> Duration {
    Duration::from_secs(1 << (failures - 1).min(5)).min(Duration::from_secs(30))
}

/// An error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
