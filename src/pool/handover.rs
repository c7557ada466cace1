//! What a proxy leaves to the one that replaces it after a crash: failures and counters of every server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::health::roles::Observation;
use crate::health::{Role, Verdict};
use crate::time::Millis;

use super::passive::Record;
use super::{CircuitState, EjectionState, Note, Pool};

/// State of one server, keyed as servers are carried over reloads: pool, server, address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Name in the pool.
    pub name: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// Failures in the present window.
    pub fails: u32,
    /// The last failure.
    pub accessed: u64,
    /// The last failure, or the pick that began the present window.
    pub checked: u64,
    /// Requests and connections ever.
    pub requests: u64,
    /// Failures ever.
    pub failures: u64,
    /// Failures since the last success.
    #[serde(default)]
    pub row: u32,
    /// Of its checks.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// What it said it is.
    #[serde(default)]
    pub role: Option<Role>,
    /// Why, and since when.
    #[serde(default)]
    pub judged: Option<Note>,
    /// Why failures made it unavailable, and when.
    #[serde(default)]
    pub failed: Option<Note>,
    /// When a success made it available again.
    #[serde(default)]
    pub recovered: Option<Note>,
    /// Since when its weight grows; 0: it has all of it.
    #[serde(default)]
    pub slow_start: u64,
    /// Of errors in a row.
    #[serde(default)]
    pub ejection: EjectionState,
    /// Why it was ejected, and when.
    #[serde(default)]
    pub ejected: Option<Note>,
    /// Of its pool, the same with every server of it: what older versions read is a list of servers.
    #[serde(default)]
    pub circuit: Option<CircuitState>,
}

impl Pool {
    /// The state of every server now.
    pub fn export(&self) -> Vec<ServerState> {
        let circuit = self.export_circuit();
        let state = |server: &Arc<super::Server>| {
            let Record { fails, accessed, checked, failures, row } = server.health.passive.export();
            ServerState {
                pool: server.pool.clone(),
                name: server.name.clone(),
                address: server.address,
                fails,
                accessed,
                checked,
                requests: server.requests(),
                failures,
                row,
                // One that is presumed is presumed again.
                verdict: server.verdict().filter(|_| !server.is_presumed()),
                role: server.claim(),
                judged: server.judged.get(),
                failed: server.failed.get(),
                recovered: server.recovered.get(),
                slow_start: server.ramp.export(),
                ejection: server.health.ejection.export(),
                ejected: server.ejected.get(),
                circuit,
            }
        };
        self.servers().map(state).collect()
    }

    /// Takes over the states of those servers that are in this pool, once, before it serves; others are ignored. Times
    /// are of the machine's clock, so they hold in a new process; one in the future is taken as `now`, so that a broken
    /// state cannot lock a server out for longer than its `fail_timeout`.
    pub fn import(&self, states: &[ServerState], now: Millis) {
        self.settle_roles();
        let states = states.iter().filter(|state| state.pool == self.config.name);
        let states: HashMap<(&str, SocketAddr), &ServerState> =
            states.map(|state| ((&*state.name, state.address), state)).collect();
        if let Some(circuit) = states.values().find_map(|state| state.circuit) {
            self.import_circuit(circuit, now);
        }
        for server in self.servers() {
            if let Some(state) = states.get(&(&*server.name, server.address)) {
                let ServerState { fails, accessed, checked, failures, row, .. } = **state;
                server.health.passive.import(Record { fails, accessed, checked, failures, row }, now);
                server.add_requests(state.requests);
                server.failed.restore(state.failed.clone());
                server.recovered.restore(state.recovered.clone());
                server.ejected.restore(state.ejected.clone());
                server.restore_slow_start(state.slow_start, now);
                self.restore_ejection(server, state.ejection, now);
                if self.config.health_check.is_some() {
                    // Not a change of it: nothing comes of that.
                    if state.verdict.is_some() {
                        server.health.active.set(state.verdict);
                    }
                    if let Some(role) = state.role {
                        server.observe_role(Observation::Says(role));
                    }
                    server.judged.restore(state.judged.clone());
                }
            }
        }
    }

    /// Adds what another process counted for the servers of this pool from its states `since` to `until`. A server that is
    /// not in `since` had no counts then.
    pub fn count(&self, since: &[ServerState], until: &[ServerState]) {
        let of = |states: &[ServerState], server: &super::Server| {
            let same = |s: &&ServerState| s.pool == server.pool && s.name == server.name && s.address == server.address;
            states.iter().find(same).map_or((0, 0), |state| (state.requests, state.failures))
        };
        for server in self.servers() {
            let ((requests, failures), (more_requests, more_failures)) = (of(since, server), of(until, server));
            server.add_requests(more_requests.saturating_sub(requests));
            server.health.passive.add_failures(more_failures.saturating_sub(failures));
        }
    }
}
