//! `[pool.NAME]`.

use super::*;

table! {
    /// `[pool.NAME]`
    struct RawPool with settings: RawSettings {
        /// round_robin, least_conn, ip_hash, random_two, hash or first.
        algorithm: AlgorithmName = "round_robin",
        /// What algorithm = "hash" hashes; variables, such as "$request_uri" or "$cookie_session".
        hash_key: String,
        /// How keys move when servers change: "none" (nginx's `hash`), "ketama" (nginx's `consistent`), "maglev", or
        /// "rendezvous" (none but those of a server that goes, or to one that comes; a pick looks at every server).
        consistent: Consistent = "none",
        /// Bits of the address that algorithm = "ip_hash" hashes. Default: nginx's, the first 24 of IPv4, all of IPv6.
        ip_hash_mask: RawIpHashMask,
        /// Servers: "10.0.0.1:80", or a table.
        servers: List<Server>,
        /// `max_fails` of servers that have none of their own.
        max_fails: Int<0, 1_000_000> = 1,
        /// `fail_timeout` of servers that have none of their own.
        fail_timeout: Period = "10s",
        /// `max_conns` of servers that have none of their own.
        max_conns: Int<0, 10_000_000> = 0,
        /// `slow_start` of servers that have none of their own: a server that comes back has its weight and max_conns grow
        /// for so long. Not with algorithm = "hash", "ip_hash" or "first".
        slow_start: OrOff<Period> = "off",
        /// When max_fails would leave no server, failures are ignored instead of answering 502. nginx: false.
        fail_open: bool = true,
        /// Pool that gets what is for this one while none of its servers, backups included, is available: HAProxy's
        /// `use_backend ... if { nbsrv(x) eq 0 }`. It may have one itself. Before fail_open.
        fallback_pool: String,
        /// When fewer of the servers than that are well, such as "50%", health is ignored and all get requests, but for
        /// those that are down by the file or the operator. Backups do not count.
        panic_threshold: OrOff<Percent> = "off",
        /// A client stays with the server that it was first given. "off": it does not, where `[defaults.pool]` says so.
        sticky: OrOff<RawSticky> = "off",
        /// Errors in a row leave a server out for a while. "off": max_fails alone, where `[defaults.pool]` has it.
        ejection: OrOff<RawEjection> = "off",
        /// Bounds on the pool as a whole; and errors that make it be left alone for a while. "off": none, where
        /// `[defaults.pool]` has one.
        circuit_breaker: OrOff<RawCircuitBreaker> = "off",
        /// HTTP towards servers: "1.1", or "2", where many requests share a connection. Over TLS the server is asked for it
        /// (ALPN), otherwise it must speak it from the first byte (h2c). gRPC needs "2". nginx's proxy_http_version.
        http_version: HttpVersion = "1.1",
        /// Servers speak TLS: true, or a table. "off": they do not, where `[defaults.pool]` says so.
        tls: OrOff<PoolTls> = "off",
        /// Idle connections kept per worker; 0: none.
        keepalive: Int<0, 1_000_000> = 32,
        /// How long a connection may be idle; less than what the servers allow.
        keepalive_timeout: Period = "4s",
        /// Requests on one connection.
        keepalive_requests: Int<1, 1_000_000_000> = 1000,
        /// Age of a connection.
        keepalive_time: Period = "1h",
        /// Requests that wait when every server has its max_conns; more get 503. 0: none wait.
        queue: Int<0, 1_000_000> = 0,
        /// How long they wait.
        queue_timeout: Period = "5s",
        /// Local addresses of connections to servers, used in turn. []: the kernel's choice.
        source_addresses: List<IpAddr> = [],
        /// Silence after which the kernel probes whether the server is there; for TCP sessions and tunnels.
        tcp_keepalive: OrOff<Period> = "60s",
        /// Connections to servers begin with a header of the PROXY protocol that names the client: "v1", text, or "v2". TLVs
        /// that the client's own header had go along with "v2". The servers must expect it. Requests do not share
        /// connections then: each opens one, whatever `keepalive` says. Health checks say that they speak for themselves.
        send_proxy_protocol: OrOff<Version> = "off",
        /// Bound on retries under way.
        retry_budget: RawRetryBudget = {},
        /// Probes of every server; one that fails them gets nothing. "off": none, where `[defaults.pool]` has some.
        health_check: OrOff<RawHealthCheck> = "off",
        /// What is done when several servers say that they are the primary: "one": none of them gets anything new until
        /// it is settled; "first": the first in file order is used.
        primaries: Primaries = "one",
        /// With primaries = "first": "always" goes back to an earlier server once it is there; "manual" stays with the
        /// present one until it is gone or drained.
        failback: Failback = "always",
    }
}

table! {
    /// `ip_hash_mask`
    struct RawIpHashMask {
        /// Bits of an IPv4 address; 32: all.
        ipv4: Int<1, 32> = 24,
        /// Bits of an IPv6 address; 128: all.
        ipv6: Int<1, 128> = 128,
    }
}

table! {
    /// `retry_budget` of a pool: so many retries at the same time, so that they do not add to an outage
    struct RawRetryBudget {
        /// Of the requests under way.
        percent: Int<0, 100> = 20,
        /// As many are always allowed.
        min: Int<0, 1_000_000> = 3,
    }
}

table! {
    /// `[pool.NAME.ejection]`: a server that answers with errors in a row is left out for a while
    struct RawEjection {
        /// Responses of 500 to 599, or no answer at all, in a row; 0: not looked at.
        consecutive_5xx: Int<0, 1_000_000> = 5,
        /// 502, 503, 504, or no answer at all, in a row; 0: not looked at.
        consecutive_gateway_errors: Int<0, 1_000_000> = 5,
        /// How long it is left out the first time; then twice, three times as long, until it behaves again.
        ejection_time: Period = "30s",
        /// At most so long.
        max_ejection_time: Period = "300s",
        /// Share of the servers that may be left out at a time; one always may, but never the last.
        max_ejected: Percent = "10%",
    }
}

table! {
    /// `[pool.NAME.circuit_breaker]`: bounds on the pool as a whole, over all workers; above, 503
    struct RawCircuitBreaker {
        /// Connections to servers in use at a time: requests, tunnels and TCP sessions. Idle ones do not count. 0: no limit.
        max_connections: Int<0, 10_000_000> = 0,
        /// Requests and sessions at a time that wait in the queue or for their connection to a server. 0: no limit.
        max_pending: Int<0, 10_000_000> = 0,
        /// HTTP requests at a time that servers work on. 0: no limit.
        max_requests: Int<0, 10_000_000> = 0,
        /// Retries at a time; the smaller of this and the retry budget counts. 0: only that counts.
        max_retries: Int<0, 1_000_000> = 0,
        /// Such a part of the tries, such as "50%", that got 500 to 599 or no answer opens the circuit: requests get 503
        /// at once, or go to the fallback pool.
        error_rate: OrOff<Percent> = "off",
        /// Over how long the tries are counted.
        window: Period = "10s",
        /// Fewer tries in the window never open it.
        min_requests: Int<1, 10_000_000> = 20,
        /// How long it is open before trials pass.
        open_time: Period = "10s",
        /// Trials that pass then: it closes when all of them are good, and opens again with the first that is not.
        half_open_requests: Int<1, 1_000_000> = 3,
    }
}

table! {
    /// One of `servers` of a pool
    struct RawServer {
        /// Address or name, with port. A name is resolved again as its TTL says, and all its addresses are used.
        address: ServerText,
        /// For logs, status and runtime control. Default: the address as written.
        name: String,
        /// Share of the work.
        weight: Int<1, 65_535> = 1,
        /// Failures within fail_timeout that make it unavailable; 0: never. Default: the pool's.
        max_fails: Int<0, 1_000_000>,
        /// Window of max_fails, and time between trial requests. Default: the pool's.
        fail_timeout: Period,
        /// Requests or sessions at a time, over all workers; 0: no limit. Default: the pool's.
        max_conns: Int<0, 10_000_000>,
        /// How long its weight and max_conns grow when it comes back. Default: the pool's.
        slow_start: OrOff<Period>,
        /// Used only when no other is available.
        backup: bool = false,
        /// Not used.
        down: bool = false,
    }
}
