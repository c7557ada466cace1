//! Pools and their servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::health::breaker::Limits;
use crate::health::roles::Policy;
use crate::proxy_protocol::Version;
use crate::template::Template;

use super::{HealthCheck, PoolTls, Retry, Sticky};

/// `[pool.NAME]`: nginx's `upstream`.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The table's name.
    pub name: Arc<str>,
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// At least one.
    pub servers: Vec<ServerSpec>,
    /// Passive failures alone never empty a tier.
    pub fail_open: bool,
    /// Name of the pool that takes over while no server is available; exists, and never leads back here.
    pub fallback: Option<Arc<str>>,
    /// What requests are sent in; TCP sessions do not care.
    pub http_version: HttpVersion,
    /// Servers speak TLS; `None`: they do not.
    pub tls: Option<PoolTls>,
    /// Idle connections kept per worker; 0: none.
    pub keepalive: usize,
    /// Age of an idle connection. 4 s.
    pub keepalive_timeout: Duration,
    /// Requests on one connection. 1000.
    pub keepalive_requests: u32,
    /// Age of a connection. 1 h.
    pub keepalive_time: Duration,
    /// Requests that may wait for a server at its `max_conns`; 0: none.
    pub queue: u32,
    /// How long they wait; then 503.
    pub queue_timeout: Duration,
    /// Local addresses for connections to servers, used in turn.
    pub source_addresses: Vec<IpAddr>,
    /// SO_KEEPALIVE idle time on server sockets; `None`: off.
    pub tcp_keepalive: Option<Duration>,
    /// What connections to servers begin with; `None`: nothing. With it `keepalive` is 0.
    pub send_proxy_protocol: Option<Version>,
    /// Connect and retry rules for TCP listeners (HTTP routes carry their own in `Policy`).
    pub connect_timeout: Duration,
    /// As above.
    pub retry: Retry,
    /// Bound on retries in flight.
    pub retry_budget: RetryBudget,
    /// Per cent of the servers that must be well for health to be heeded; `None`: it always is.
    pub panic_threshold: Option<u32>,
    /// Clients stay with their server; `None`: they do not.
    pub sticky: Option<Sticky>,
    /// Errors in a row leave a server out; `None`: they do not.
    pub ejection: Option<Ejection>,
    /// What bounds the pool as a whole; `None`: nothing.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Active checks; `None`: none.
    pub health_check: Option<Arc<HealthCheck>>,
    /// What is done with several primaries.
    pub primaries: Policy,
}

impl Pool {
    /// Whether a connection to a server that was made for `other` does for this one.
    pub fn connects_as(&self, other: &Self) -> bool {
        self.http_version == other.http_version
            && self.tls == other.tls
            && self.send_proxy_protocol == other.send_proxy_protocol
    }
}

/// When a server is ejected, and for how long: Envoy's outlier detection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// Responses of 500 to 599 and missing answers in a row; 0: not looked at.
    pub consecutive_5xx: u32,
    /// Of those, 502, 503, 504 and missing answers in a row; 0: not looked at.
    pub consecutive_gateway_errors: u32,
    /// Times the ejections in a row.
    pub ejection_time: Duration,
    /// At most.
    pub max_ejection_time: Duration,
    /// Per cent of the servers that may be out at a time; one always may, but never the last.
    pub max_ejected: u32,
}

/// What bounds a pool as a whole: Envoy's thresholds, and errors that open the circuit. 0: no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Connections to servers that are in use, of requests, tunnels and TCP sessions.
    pub max_connections: u32,
    /// Requests and sessions that wait for a server or for their connection to it.
    pub max_pending: u32,
    /// HTTP requests under way.
    pub max_requests: u32,
    /// Retries under way, beside the retry budget.
    pub max_retries: u32,
    /// When errors open it; `None`: never.
    pub errors: Option<Limits>,
}

/// Retries in flight may be at most `percent` of active requests, and `min` at least are always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// 0..=100. Default 20.
    pub percent: u32,
    /// Default 3.
    pub min: u32,
}

/// How a server is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// nginx's smooth weighted round robin.
    RoundRobin,
    /// Fewest in flight by weight.
    LeastConn,
    /// nginx's `ip_hash`; `mask` bits of the address, `None`: nginx's (24 for IPv4, 128 for IPv6).
    IpHash {
        /// Bits for IPv4 and for IPv6.
        mask: Option<(u8, u8)>,
    },
    /// Two weighted draws, the less loaded wins.
    RandomTwo,
    /// Hash of a key.
    Hash {
        /// The key; empty result: round robin.
        key: Template,
        /// How keys move when servers change.
        consistent: Consistent,
    },
    /// First available in file order.
    First,
}

/// Version of HTTP towards servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// One request at a time on a connection.
    Http1,
    /// Many.
    Http2,
}

/// Kind of hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistent {
    /// nginx's `hash KEY`.
    None,
    /// nginx's `hash KEY consistent`.
    Ketama,
    /// Maglev table.
    Maglev,
    /// Best score among the servers at hand.
    Rendezvous,
}

/// One server of a pool as written.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// Where.
    pub address: ServerAddress,
    /// `name`, or the address as written. Unique in the pool.
    pub name: Arc<str>,
    /// 1..=65535.
    pub weight: u32,
    /// Failures within `fail_timeout` that make it unavailable; 0: never.
    pub max_fails: u32,
    /// Window, and time between trial requests. nginx counts in whole seconds, we in milliseconds.
    pub fail_timeout: Duration,
    /// In flight at most; 0: no limit.
    pub max_conns: u32,
    /// How long its weight grows when it comes back; `None`: it has all of it at once.
    pub slow_start: Option<Duration>,
    /// Used only when no other is available.
    pub backup: bool,
    /// Never used.
    pub down: bool,
}

/// Address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// Fixed.
    Ip(SocketAddr),
    /// Resolved, all its addresses used.
    Name {
        /// Lower case, no trailing dot.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
}
