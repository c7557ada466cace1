//! What a pool says of its servers: their states in words, and which one a request would get.

use std::sync::Arc;

use crate::balance::FULL_SHARE;
use crate::config::model::{Duty, Fallback};
use crate::health::{Role, Verdict};
use crate::time::Millis;

use super::note::Note;
use super::{Member, PickInput, Pool, Server, Standing, Tried, Wanted};

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCondition {
    /// It gets requests.
    Up,
    /// Its checks have not said anything yet; it gets requests.
    Unknown,
    /// Requests failed: it gets none until `fail_timeout` is over, unless `fail_open` says so.
    Failed,
    /// It answered with errors in a row: it gets none until its ejection is over.
    Ejected,
    /// Its checks failed: it gets none.
    Down,
    /// The file says `down = true`.
    Disabled,
    /// The operator gives it nothing new.
    Draining,
    /// The same, and it is not checked.
    Maintenance,
}

/// A server and what there is to say of it.
#[derive(Debug, Clone)]
pub struct ServerReport {
    /// Which.
    pub server: Arc<Server>,
    /// How it is.
    pub condition: ServerCondition,
    /// Why, and since when; `None` when nothing has happened yet.
    pub note: Option<Note>,
    /// In force.
    pub weight: u32,
    /// It is used only when no other is available.
    pub backup: bool,
    /// Its `max_conns` are in flight.
    pub full: bool,
    /// What part of its weight it has, in per cent; below 100 in its slow start.
    pub share: u32,
}

impl ServerCondition {
    /// The word in status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Disabled => "disabled",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }

    /// Whether it gets requests.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Up | Self::Unknown)
    }
}

impl Pool {
    /// All servers, backups last, each tier in file order.
    pub fn report(&self, now: Millis) -> Vec<ServerReport> {
        let [ordinary, backups] = &self.tiers;
        let tiers = [(ordinary, false), (backups, true)];
        let all = tiers.into_iter().flat_map(|(tier, backup)| {
            tier.members.iter().zip(&tier.nodes).map(move |(member, node)| {
                let condition = member.condition(now);
                let server = Arc::clone(&member.server);
                let share = member.share(now) * 100 / FULL_SHARE;
                let full = member.is_full();
                let note = match condition {
                    ServerCondition::Failed => server.failed.get(),
                    ServerCondition::Ejected => server.ejected.get(),
                    ServerCondition::Down | ServerCondition::Unknown => server.judged.get(),
                    // Who said so, and when, is among the overrides.
                    ServerCondition::Disabled | ServerCondition::Draining | ServerCondition::Maintenance => None,
                    // The later of the two made it so.
                    ServerCondition::Up => {
                        let [recovered, judged] = [server.recovered.get(), server.judged.get()];
                        recovered.into_iter().chain(judged).max_by_key(|note| note.since)
                    }
                };
                ServerReport { server, condition, note, weight: node.weight.get(), backup, full, share }
            })
        });
        all.collect()
    }

    /// The server that a request which was on `tried` would get now from a worker that has not picked any yet, without
    /// starting one.
    pub fn preview(&self, input: &PickInput<'_>, tried: &Tried, now: Millis) -> Option<Arc<Server>> {
        let wanted = tried.wanted();
        let picked = self.preview_of(wanted.map(|wanted| wanted.role), input, tried, now);
        match wanted {
            Some(Wanted { fallback: Fallback::To(role), .. }) => {
                picked.or_else(|| self.preview_of(role, input, tried, now))
            }
            _ => picked,
        }
    }

    fn preview_of(&self, role: Option<Role>, input: &PickInput<'_>, tried: &Tried, now: Millis) -> Option<Arc<Server>> {
        let mut state = self.new_state(0);
        let growing = self.is_growing(now);
        for &failures in self.rounds() {
            if let Some(own) = self.own_server(role, failures, tried, now).filter(|own| !own.is_full()) {
                return Some(Arc::clone(&own.server));
            }
            for (tier, state) in self.tiers.iter().zip(&mut state.tiers) {
                if !self.takes(tier, role, failures, now) {
                    continue;
                }
                if let Some(i) = tier.pick(state, input, tried, (role, failures, growing), now) {
                    return Some(Arc::clone(&tier.members[i].server));
                }
            }
        }
        None
    }

    /// Forgets the older half of the latencies of all servers; to be called once a minute.
    pub fn turn_latencies(&self) {
        self.servers().for_each(|server| server.latency.turn());
    }
}

impl Member {
    fn condition(&self, now: Millis) -> ServerCondition {
        let passive = &self.server.health.passive;
        match self.standing {
            Standing::Down => ServerCondition::Disabled,
            Standing::Off(Duty::Drain) => ServerCondition::Draining,
            Standing::Off(Duty::Maintenance) => ServerCondition::Maintenance,
            Standing::Checked if self.is_down() => ServerCondition::Down,
            _ if self.is_out(now) => ServerCondition::Ejected,
            // A single server is never left alone, and still it has failed.
            _ if passive.is_unavailable(self.limits, now) || !self.is_up() => ServerCondition::Failed,
            Standing::Checked if self.server.verdict() != Some(Verdict::Up) => ServerCondition::Unknown,
            Standing::Checked | Standing::Used => ServerCondition::Up,
        }
    }
}
