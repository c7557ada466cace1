//! Certificates that run out, and files that change under them: what is to be told, and when. The supervisor looks, and does
//! the rest.

mod event;
mod stamps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::notifier::date;
use crate::config::Refused;
use crate::config::model::Config;
use crate::tls::{Certificate, Standing};

pub(super) use event::{CertificateEvent, Happened, seconds};
pub(super) use stamps::Stamps;

/// So often what runs out is told, seconds.
const REMIND_EVERY: i64 = 86_400;

/// A certificate in force, and who has it: `listener web`, `pool api`.
#[derive(Debug)]
pub(super) struct InForce<'c> {
    pub(super) certificate: &'c Arc<Certificate>,
    pub(super) used_by: BTreeSet<String>,
}

/// All certificates in force, each once.
pub(super) fn in_force<'c>(config: &'c Config) -> Vec<InForce<'c>> {
    let of_listeners = config.listeners.iter().filter_map(|l| Some((&l.name, &l.tls.as_ref()?.certificates)));
    let of_sites = config.sites.iter().flat_map(|site| &site.tls).map(|tls| (&tls.listener, &tls.certificates));
    let mut found: BTreeMap<&str, InForce<'_>> = BTreeMap::new();
    let mut add = |certificate: &'c Arc<Certificate>, user: String| {
        let known = found.entry(&certificate.name);
        known.or_insert_with(|| InForce { certificate, used_by: BTreeSet::new() }).used_by.insert(user);
    };
    for (listener, certificates) in of_listeners.chain(of_sites) {
        certificates.iter().for_each(|certificate| add(certificate, format!("listener {listener}")));
    }
    for pool in &config.pools {
        let shown = pool.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        shown.into_iter().for_each(|certificate| add(certificate, format!("pool {}", pool.name)));
    }
    found.into_values().collect()
}

/// Those of `after` that are another than the one of the same file in `before`.
pub(super) fn replaced<'c>(before: &Config, after: &'c Config) -> Vec<&'c Arc<Certificate>> {
    let before: BTreeMap<_, _> =
        in_force(before).into_iter().map(|old| (&old.certificate.name, old.certificate)).collect();
    let is_new = |new: &&Arc<Certificate>| before.get(&new.name).is_some_and(|old| !old.has_chain_of(new));
    in_force(after).into_iter().map(|new| new.certificate).filter(is_new).collect()
}

/// What was told of certificates that run out.
#[derive(Debug, Default)]
pub(super) struct Reminders {
    /// By file: what they were told to be, and when.
    told: BTreeMap<Arc<str>, (Standing, i64)>,
}

impl Reminders {
    /// Those of `config` that are to be told of at `now`, seconds since 1970: what should have been renewed, has expired or has
    /// not begun, once a day, and at once when it becomes that.
    pub(super) fn due<'c>(&mut self, config: &'c Config, now: i64) -> Vec<(&'c Arc<Certificate>, Standing)> {
        let mut due = Vec::new();
        let mut told = BTreeMap::new();
        for InForce { certificate, .. } in in_force(config) {
            let standing = certificate.standing(now);
            if standing == Standing::Valid {
                continue;
            }
            let last = self.told.get(&certificate.name).filter(|(was, _)| *was == standing).map(|(_, at)| *at);
            // A clock that was set back waits no longer than one that was not.
            let at = last.filter(|at| (0..REMIND_EVERY).contains(&now.saturating_sub(*at)));
            if at.is_none() {
                due.push((certificate, standing));
            }
            told.insert(Arc::clone(&certificate.name), (standing, at.unwrap_or(now)));
        }
        self.told = told;
        due
    }
}

/// Files that cannot be used. One is told of when it is so twice in a row: who writes two files one after the other has
/// written half in between.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    known: BTreeMap<String, Refusal>,
}

#[derive(Debug)]
struct Refusal {
    why: String,
    told: bool,
}

impl Refusals {
    /// Notes what was found; what is to be told of it.
    pub(super) fn note(&mut self, found: Vec<Refused>) -> Vec<Refused> {
        let mut tell = Vec::new();
        let mut known = BTreeMap::new();
        for Refused { file, why } in found {
            let told = match self.known.get(&file) {
                Some(before) if before.why == why && before.told => true,
                Some(_) => {
                    tell.push(Refused { file: file.clone(), why: why.clone() });
                    true
                }
                None => false,
            };
            known.insert(file, Refusal { why, told });
        }
        self.known = known;
        tell
    }

    /// Whether something is to be looked at again before it is told.
    pub(super) fn are_fresh(&self) -> bool {
        self.known.values().any(|refusal| !refusal.told)
    }

    /// What was told, by file.
    fn told(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known.iter().filter(|(_, refusal)| refusal.told).map(|(file, refusal)| (&**file, &*refusal.why))
    }
}

/// For the status.
pub(super) fn status(config: &Config, refusals: &Refusals, now: i64) -> Value {
    let certificates = in_force(config).into_iter().map(|InForce { certificate, used_by }| {
        json!({
            "file": certificate.name,
            "names": certificate.names,
            "key": certificate.algorithm(),
            "not_before": date(certificate.not_before),
            "not_after": date(certificate.not_after),
            "days_left": certificate.days_left(now),
            "state": certificate.standing(now).name(),
            "used_by": used_by,
        })
    });
    let refused = refusals.told().map(|(file, why)| json!({ "file": file, "why": why }));
    json!({ "in_force": certificates.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests;
