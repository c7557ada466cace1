//! Who comes in where: access lists and limits, each limit with the table that outlives the configuration.

use std::sync::Arc;

use crate::admission::{AccessList, Table};
use crate::config::model::{Admission, Config, Limit};

/// A limit at work.
#[derive(Debug)]
pub struct Limiter {
    /// As configured.
    pub config: Arc<Limit>,
    /// What is known of its keys; shared with the generations before and after.
    pub table: Arc<Table>,
}

/// What stands before a listener, a site or a route. Where nothing does there is none, so that a request which meets no
/// limit and no list looks at one pointer.
#[derive(Debug)]
pub struct Gate {
    /// Whose requests go on; `None`: everybody's.
    pub access: Option<Arc<AccessList>>,
    /// All of them hold, in this order; each once.
    pub limits: Box<[Arc<Limiter>]>,
}

/// The limits of `config`; one that `before` has too, with the same key, goes on with what it knows.
pub(super) fn limiters(config: &Config, before: &[Arc<Limiter>]) -> Vec<Arc<Limiter>> {
    let limiter = |config: &Arc<Limit>| {
        let known = before.iter().find(|b| b.config.name == config.name && b.config.key == config.key);
        let table =
            known.map_or_else(|| Arc::new(Table::new(config.bounds.max_keys)), |known| Arc::clone(&known.table));
        Arc::new(Limiter { config: Arc::clone(config), table })
    };
    config.limits.iter().map(limiter).collect()
}

impl Gate {
    /// That of a place whose outer one, which holds as well and first, has the limits `outer`.
    pub(super) fn new(
        outer: &[Arc<Limit>],
        limits: &[Arc<Limit>],
        access: Option<&Arc<AccessList>>,
        limiters: &[Arc<Limiter>],
    ) -> Option<Box<Self>> {
        let mut found: Vec<Arc<Limiter>> = Vec::new();
        for limit in outer.iter().chain(limits) {
            if found.iter().all(|known| known.config.name != limit.name) {
                found.extend(limiters.iter().find(|limiter| limiter.config.name == limit.name).cloned());
            }
        }
        let is_open = found.is_empty() && access.is_none();
        (!is_open).then(|| Box::new(Self { access: access.cloned(), limits: found.into() }))
    }

    /// That of a site or a route of a listener.
    pub(super) fn inside(outer: &Admission, own: &Admission, limiters: &[Arc<Limiter>]) -> Option<Box<Self>> {
        Self::new(&outer.limits, &own.limits, own.access.as_ref(), limiters)
    }
}
