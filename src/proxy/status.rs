//! What the engine says of itself: `bascule status`, but for what only the supervisor knows.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::admission::Counts;
use crate::config::model::{Algorithm, Consistent, HttpVersion, Protocol, Sticky};
use crate::net::clock;
use crate::pool::{OverflowCounts, Percentiles, ServerReport};
use crate::proxy::errors::FailedExchange;
use crate::proxy::{Engine, worker};
use crate::snapshot::{Limiter, Snapshot};
use crate::time::Millis;

/// How the engine is.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    /// In file order.
    pub listeners: Vec<ListenerStatus>,
    /// By name.
    pub limits: Vec<LimitStatus>,
    /// In file order.
    pub pools: Vec<PoolStatus>,
    /// Access log lines that were lost.
    pub dropped_log_lines: u64,
}

/// How a listener is.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// What it is bound to.
    pub addresses: Vec<SocketAddr>,
    /// Client connections open.
    pub open: u32,
    /// Accepted so far.
    pub accepted: u64,
    /// Closed at a limit so far.
    pub rejected: u64,
    /// Closed because of `allow` and `deny` so far.
    pub denied: u64,
    /// Accepted in the last second.
    pub accepted_per_second: u64,
    /// With TLS.
    pub tls: Option<HandshakeCounts>,
}

/// TLS handshakes of a listener so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HandshakeCounts {
    /// Made.
    pub handshakes: u64,
    /// Failed.
    pub failed: u64,
}

/// What a limit has decided since its table was made; a reload keeps it.
#[derive(Debug, Clone, Serialize)]
pub struct LimitStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it allows, in the words of the file.
    pub allows: Arc<str>,
    /// It counts, and refuses nobody.
    pub dry_run: bool,
    /// Keys that are remembered.
    pub keys: usize,
    /// Requests or connections in flight, with `concurrent` only.
    pub in_flight: u64,
    /// Let through, those that were delayed too.
    pub passed: u64,
    /// Let through later than they came.
    pub delayed: u64,
    /// Refused, or with `dry_run` what would have been.
    pub rejected: u64,
    /// Keys that were forgotten before their time, for there were `max_keys`.
    pub evicted: u64,
}

/// How a pool is.
#[derive(Debug, Clone, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: Arc<str>,
    /// As in the file.
    pub algorithm: String,
    /// What requests are sent in: `1.1` or `2`.
    pub http_version: &'static str,
    /// Whether its servers speak TLS.
    pub tls: bool,
    /// Several servers say that they are the primary, so that none gets anything new as such.
    pub role_conflict: bool,
    /// How often that has been.
    pub role_conflicts: u64,
    /// Servers that get requests.
    pub up: usize,
    /// All servers.
    pub total: usize,
    /// Requests and connections on them now.
    pub in_flight: u64,
    /// The pool that gets its requests now, for none of its servers is available or its circuit is open; null: itself.
    pub fallback: Option<Arc<str>>,
    /// Since how many seconds health is ignored because of `panic_threshold`; null: it is heeded.
    pub panic_for_seconds: Option<u64>,
    /// How often that has begun.
    pub panics: u64,
    /// Copies of requests that it got as a `mirror`.
    pub mirrored: u64,
    /// Copies that it did not get: `max_in_flight` were on their way, or the request could not be copied.
    pub mirrored_left_out: u64,
    /// Null without `circuit_breaker`.
    pub circuit: Option<CircuitStatus>,
    /// What its clients stay with their server by: `cookie`, `source` or `header`; null: they do not.
    pub sticky: Option<&'static str>,
    /// Requests and sessions that came to the server that they were on before.
    pub sticky_followed: u64,
    /// Those that came to another, because theirs could not be used or is not known.
    pub sticky_missed: u64,
    /// Clients that are remembered, by `source` or `header`.
    pub sticky_entries: u64,
    /// Backups last.
    pub servers: Vec<ServerStatus>,
    /// Names of servers that have no address: they did not resolve.
    pub unresolved: Vec<Arc<str>>,
}

/// How the circuit of a pool is.
#[derive(Debug, Clone, Serialize)]
pub struct CircuitStatus {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// For how long; null: since the start.
    pub for_seconds: Option<u64>,
    /// How often it has opened.
    pub opened: u64,
    /// What was refused at the limits.
    pub overflows: OverflowCounts,
}

/// How a server is.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// `up`, `unknown`, `failed`, `ejected`, `down`, `disabled`, `draining` or `maintenance`.
    pub state: &'static str,
    /// `primary`, `replica` or `claimant`, which says that it is the primary and is not taken for it; null: not known.
    pub role: Option<&'static str>,
    /// Why; null when nothing has happened yet.
    pub why: Option<String>,
    /// For how long; null with `why`.
    pub for_seconds: Option<u64>,
    /// As in the file.
    pub weight: u32,
    /// Of that weight, in per cent: below 100 in its slow start.
    pub weight_percent: u32,
    /// It is used only when no other is available.
    pub backup: bool,
    /// Requests and connections on it now.
    pub in_flight: u32,
    /// It was given so far.
    pub requests: u64,
    /// Of which failed.
    pub failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// Of the last one to two minutes; null when there was nothing.
    pub latency_us: Option<Latencies>,
}

/// Microseconds, right to within 7 %.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latencies {
    /// Of 50 of 100 at most.
    pub p50: u64,
    /// Of 90 of 100 at most.
    pub p90: u64,
    /// Of 99 of 100 at most.
    pub p99: u64,
}

/// The exchanges and sessions that failed last.
#[derive(Debug, Clone, Serialize)]
pub struct RecentErrors {
    /// The newest last.
    pub errors: Vec<FailedExchange>,
    /// More that came at the same moment and were not kept.
    pub missed: u64,
}

impl Engine {
    /// How everything is. `rate` says how many connections a listener accepted in the last second.
    pub fn status(&self, rate: impl Fn(&str) -> u64) -> EngineStatus {
        let (snapshot, now) = (self.snapshot(), clock::now());
        let listeners = snapshot.config.listeners.iter().map(|l| {
            let (open, accepted, rejected) = self.listener_connections(&l.name).unwrap_or_default();
            ListenerStatus {
                name: Arc::clone(&l.name),
                protocol: protocol_name(l.protocol),
                addresses: l.bind.clone(),
                open,
                accepted,
                rejected,
                denied: self.listener_denied(&l.name),
                tls: l.tls.as_ref().map(|_| self.listener_handshakes(&l.name)),
                accepted_per_second: rate(&l.name),
            }
        });
        EngineStatus {
            listeners: listeners.collect(),
            limits: snapshot.limiters.iter().map(|limiter| limit_status(limiter)).collect(),
            pools: (0..snapshot.pools.len()).map(|index| pool_status(&snapshot, index, now)).collect(),
            dropped_log_lines: self.sinks.dropped(),
        }
    }

    /// What failed last.
    pub fn errors(&self) -> RecentErrors {
        let errors = &self.shared.errors;
        RecentErrors { errors: errors.all(), missed: errors.missed() }
    }

    /// Forgets latencies that are older than a minute; to be called once a minute.
    pub fn turn_latencies(&self) {
        self.snapshot().pools.iter().for_each(|pool| pool.turn_latencies());
    }
}

fn limit_status(limiter: &Limiter) -> LimitStatus {
    let Counts { keys, in_flight, passed, delayed, rejected, evicted } = limiter.table.counts();
    let limit = &limiter.config;
    LimitStatus {
        name: Arc::clone(&limit.name),
        allows: Arc::clone(&limit.text),
        dry_run: limit.dry_run,
        keys,
        in_flight,
        passed,
        delayed,
        rejected,
        evicted,
    }
}

fn pool_status(snapshot: &Snapshot, index: usize, now: Millis) -> PoolStatus {
    let pool = &snapshot.pools[index];
    let taker = snapshot.pool_for(index, None, now);
    worker::watch(pool, now);
    let reports = pool.report(now);
    let panic = pool.panic_report();
    let copies = pool.copies();
    let has_address = |name: &str| reports.iter().any(|report| *report.server.name == *name);
    let specs = pool.config.servers.iter().map(|spec| &spec.name);
    let (role_conflict, role_conflicts) = pool.conflicts();
    let circuit = pool.circuit_report().map(|report| CircuitStatus {
        state: report.phase.name(),
        for_seconds: report.since.map(|since| now.since(since) / 1000),
        opened: report.opened,
        overflows: report.overflows,
    });
    let sticky = pool.sticky_report(now).unwrap_or_default();
    PoolStatus {
        circuit,
        role_conflict,
        role_conflicts,
        name: Arc::clone(&pool.config.name),
        algorithm: algorithm_name(&pool.config.algorithm).to_owned(),
        http_version: match pool.config.http_version {
            HttpVersion::Http1 => "1.1",
            HttpVersion::Http2 => "2",
        },
        tls: pool.config.tls.is_some(),
        up: reports.iter().filter(|report| report.condition.is_well()).count(),
        total: reports.len(),
        in_flight: pool.in_flight(),
        fallback: (taker != index).then(|| Arc::clone(&snapshot.pools[taker].config.name)),
        panic_for_seconds: panic.since.map(|since| now.since(since) / 1000),
        panics: panic.times,
        mirrored: copies.sent,
        mirrored_left_out: copies.left_out,
        sticky: pool.config.sticky.as_ref().map(Sticky::name),
        sticky_followed: sticky.followed,
        sticky_missed: sticky.missed,
        sticky_entries: sticky.entries,
        unresolved: specs.filter(|name| !has_address(name)).cloned().collect(),
        servers: reports.iter().map(|report| server_status(report, now)).collect(),
    }
}

fn server_status(report: &ServerReport, now: Millis) -> ServerStatus {
    let ServerReport { server, condition, note, weight, backup, share, .. } = report;
    let latencies = |Percentiles { p50, p90, p99 }| Latencies { p50, p90, p99 };
    ServerStatus {
        name: Arc::clone(&server.name),
        address: server.address,
        state: condition.name(),
        role: server.standing().name(),
        why: note.as_ref().map(|note| note.why.clone()),
        for_seconds: note.as_ref().map(|note| now.since(Millis(note.since)) / 1000),
        weight: *weight,
        weight_percent: *share,
        backup: *backup,
        in_flight: server.in_flight(),
        requests: server.requests(),
        failures: server.failures(),
        ejections: server.ejections(),
        latency_us: server.latency.percentiles().map(latencies),
    }
}

/// As it is written in the file.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
        Protocol::TlsPassthrough => "tls_passthrough",
    }
}

/// As it is written in the file.
pub(crate) fn algorithm_name(algorithm: &Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "round_robin",
        Algorithm::LeastConn => "least_conn",
        Algorithm::IpHash { .. } => "ip_hash",
        Algorithm::RandomTwo => "random_two",
        Algorithm::Hash { consistent: Consistent::None, .. } => "hash",
        Algorithm::Hash { consistent: Consistent::Ketama, .. } => "hash, consistent = ketama",
        Algorithm::Hash { consistent: Consistent::Maglev, .. } => "hash, consistent = maglev",
        Algorithm::Hash { consistent: Consistent::Rendezvous, .. } => "hash, consistent = rendezvous",
        Algorithm::First => "first",
    }
}
