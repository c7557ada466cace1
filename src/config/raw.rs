//! The tables of the file as they are written: keys, types, defaults, documentation.
//!
//! Nothing here knows what a value means; `validate` does. A default is given in the notation of the file.

mod check;
mod vrrp;

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use super::decode::{self, At, Bytes, Decode, Field, Int, Key, Keys, List, Named, OrOff, Several, Shape, table};
use super::diagnostic::Problems;
use super::document::{Item, Place, Table};
use super::model::{Consistent, Freebind, Protocol};
use super::value::{Cidr, Period, Size};
use super::words::{
    AlgorithmName, CheckType, ErrorPage, HeaderCondition, HeaderValue, LogOverride, NameServer, OwnLogFormat, RawNode,
    Redirect, RetryCondition, Server, ServerText, Statuses, Workers,
};

pub(super) use check::{RawHealthCheck, RawHttpCheck};
pub(super) use vrrp::{RawAnnounce, RawTrackInterface, RawVirtualAddress, RawVrrp};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A count of connections.
pub(super) type Connections = Int<1, 10_000_000>;

table! {
    /// The whole file.
    struct RawFile {
        /// More files, relative to the main one; `*` and `?` in the last part of a path; sorted. A table that is in two
        /// files is an error. Only in the main file.
        include: List<String> = [],
        /// The process.
        global: RawGlobal = {},
        /// Where the running program is talked to.
        admin: RawAdmin = {},
        /// How names of servers are resolved.
        dns: RawDns = {},
        /// Log of requests and TCP sessions; without this table there is none.
        access_log: RawAccessLog,
        /// Defaults for all tables of a kind.
        defaults: RawDefaults = {},
        /// Where clients connect to.
        listener: Named<RawListener> = {},
        /// What is done with HTTP requests for some hosts: nginx's `server`.
        site: Named<RawSite> = {},
        /// Servers that share the work: nginx's `upstream`.
        pool: Named<RawPool> = {},
        /// Addresses that move between the boxes: keepalived's `vrrp_instance`.
        vrrp: Named<RawVrrp> = {},
        /// What differs on the box of this name (short hostname, or `--node`): any table of this file. Tables are merged,
        /// everything else replaces. If there is any, the running box must be one of them. Its `address` is here too.
        node: Named<RawNode> = {},
    }
}

table! {
    /// `[defaults]`
    struct RawDefaults {
        /// Keys of all listeners; those for the other protocol are left out.
        listener: RawListener,
        /// Keys of all sites, implicit ones too.
        site: RawSite,
        /// Keys of all pools.
        pool: RawPool,
        /// Keys of all virtual routers; `authentication` is for those of version 2, `v3_checksum` for the others.
        vrrp: RawVrrp,
    }
}

table! {
    /// `[global]`
    struct RawGlobal {
        /// Worker threads. "auto": one per core that the process may run on.
        workers: Workers = "auto",
        /// Whom the proxy becomes when started as root; if there is no such user, nobody.
        user: String = "bascule",
        /// Directory of the lock file; one instance per directory. Default: /run/bascule for root, else
        /// $XDG_RUNTIME_DIR/bascule, else /tmp/bascule-UID.
        run_dir: String,
        /// Where the last generations of the configuration and what was said of servers at run time are kept. Default:
        /// `state` in run_dir if that is given; else /var/lib/bascule for root, else $XDG_STATE_HOME/bascule or
        /// ~/.local/state/bascule.
        state_dir: String,
        /// How long connections under way may go on after SIGTERM.
        shutdown_timeout: Period = "30s",
        /// After a reload or an upgrade: how long connections of what is gone may go on.
        drain_timeout: Period = "10m",
        /// How long a worker may make no progress before the proxy is killed and replaced.
        proxy_watchdog: Period = "2s",
        /// Client connections over all listeners; more are closed at accept.
        max_connections: Connections = 100000,
        /// Whom scripts and notify commands run as when started as root.
        script_user: String = "bascule",
        /// The program's own log, on stderr.
        log: RawLog = {},
    }
}

table! {
    /// `[global.log]`
    struct RawLog {
        /// error, warn, info, debug, trace, or a filter such as "info,bascule::proxy=debug".
        level: String = "info",
        /// "text", or "json" for one object a line.
        format: OwnLogFormat = "text",
    }
}

table! {
    /// `[admin]`
    struct RawAdmin {
        /// A Unix socket with its whole path; what the command line talks to. Default: admin.sock in run_dir.
        socket: String,
        /// A group whose members may use the socket too, beside root and the user that runs bascule.
        group: String,
    }
}

table! {
    /// `[node.NAME]`, beside tables of the file
    struct RawOwnNode {
        /// Of this box, for `unicast_peers = "nodes"` of the others.
        address: IpAddr,
    }
}

table! {
    /// `[dns]`
    struct RawDns {
        /// Name servers, with or without a port. []: those of /etc/resolv.conf. /etc/hosts is asked first.
        resolvers: List<NameServer> = [],
        /// A whole query with its retries.
        timeout: Period = "5s",
        /// A TTL shorter than this is taken as this.
        min_ttl: Period = "1s",
        /// A TTL longer than this is taken as this.
        max_ttl: Period = "1h",
    }
}

table! {
    /// `[access_log]`, and `access_log` of a listener, a site or a route
    struct RawAccessLog {
        /// A file with its whole path (reopened on SIGUSR1), "stdout", "journald", "syslog:/dev/log" or
        /// "syslog:udp://192.0.2.1:514". Inside a listener, site or route: default as around it.
        path: String,
        /// "common", "combined", "detailed", "json", or a template with nginx's variables. Default: as around it, at
        /// last "detailed".
        format: String,
    }
}

table! {
    /// `[listener.NAME]`
    struct RawListener with http: RawHttpListener, tcp: RawTcpListener {
        /// Addresses with ports; a box need not hold an address that is in a virtual router.
        bind: List<SocketAddr>,
        /// "http" or "tcp".
        protocol: Protocol = "http",
        /// Short form without sites: where everything goes that no route of the listener takes.
        pool: String,
        /// Bind addresses that this box does not have. "auto": only those of virtual routers.
        freebind: Freebind = "auto",
        /// Length of each socket's accept queue; the kernel cuts it to net.core.somaxconn.
        backlog: Int<1, 65_535> = 4096,
        /// Client connections on this listener; more are closed at accept. "off": only global.max_connections counts.
        max_connections: OrOff<Connections> = "off",
        /// Silence after which the kernel probes whether the client is there. Default "off" for http, whose timeouts do
        /// as much, and "60s" for tcp.
        tcp_keepalive: OrOff<Period>,
        /// false, or { path, format }: for what reaches no site, and for sites on this listener only.
        access_log: LogOverride,
    }
}

table! {
    /// Keys of listeners with `protocol = "http"`
    struct RawHttpListener {
        /// Short form: routes as those of a site that takes every host.
        route: List<RawRoute> = [],
        /// From the first byte of a request head, or from accept, to its end; then 408.
        header_timeout: Period = "60s",
        /// Between two reads of a request body; then 408.
        body_timeout: Period = "60s",
        /// Between two writes to the client that made progress.
        send_timeout: Period = "60s",
        /// How long a connection may be idle between requests. "off": it is closed after each response.
        keepalive_timeout: OrOff<Period> = "75s",
        /// Requests on one connection before it is closed.
        keepalive_requests: Int<1, 1_000_000_000> = 1000,
        /// Request line and all fields together; above, 431. 1KiB to 1MiB.
        max_header_size: Bytes<KIB, MIB> = "32KiB",
        /// Number of fields; above, 431.
        max_header_count: Int<1, 10_000> = 100,
        /// Request target; above, 414. At most max_header_size.
        max_uri_size: Bytes<64, MIB> = "8KiB",
        /// Keep fields whose name has an underscore; nginx's name and default. Without, they are dropped.
        underscores_in_headers: bool = false,
        /// Networks of proxies in front, whose X-Forwarded-*, Forwarded and X-Request-Id are believed.
        trusted_proxies: List<Cidr> = [],
    }
}

table! {
    /// Keys of listeners with `protocol = "tcp"`
    struct RawTcpListener {
        /// No byte in either direction for this long ends the session.
        idle_timeout: Period = "1h",
    }
}

table! {
    /// `[site.NAME]`
    struct RawSite with settings: RawSettings {
        /// "shop.example.com" or "*.example.com", without port. []: every host not named elsewhere.
        hosts: List<String> = [],
        /// Names of listeners. []: all http listeners.
        listeners: List<String> = [],
        /// Routes: an exact path wins, then a regular expression in file order, then the longest prefix.
        route: List<RawRoute> = [],
        /// false, or { path, format }.
        access_log: LogOverride,
    }
}

table! {
    /// `[[site.NAME.route]]`
    struct RawRoute with settings: RawSettings {
        /// For logs and status. Default: the path as written.
        name: String,
        /// A prefix that ends at a border of segments: "/api" takes /api and /api/x, not /apix. The path is compared
        /// decoded, without dot segments and double slashes. Without any of the four, every path.
        path: String,
        /// A prefix of any form, as nginx's `location /x`.
        path_prefix: String,
        /// Exactly this path, as nginx's `location = /x`.
        path_exact: String,
        /// A regular expression, found anywhere unless anchored, as nginx's `location ~`.
        path_regex: String,
        /// With path_prefix: regular expressions do not win over it, as nginx's `location ^~`.
        before_regex: bool = false,
        /// Only these methods. []: all.
        methods: List<String> = [],
        /// Request headers that must be there: NAME = "value", true for any value, or { regex = "..." }.
        headers: Named<HeaderCondition> = {},
        /// Forward to a server of this pool. One of pool, redirect, respond, close.
        pool: String,
        /// Answer with a redirect: "https://$host$request_uri" (302), or { status, location }.
        redirect: Redirect,
        /// Answer with a fixed response.
        respond: RawRespond,
        /// true: close the connection without a word, nginx's 444.
        close: bool = false,
        /// Remove this prefix of the path before it is forwarded.
        strip_prefix: String,
        /// Replace what path or path_prefix matched by this before it is forwarded.
        replace_prefix: String,
        /// Replace the whole path by this before it is forwarded; variables.
        replace_path: String,
        /// false, or { path, format }.
        access_log: LogOverride,
    }
}

table! {
    /// `redirect` of a route
    struct RawRedirect {
        /// 301, 302, 303, 307 or 308.
        status: Int<301, 308> = 302,
        /// Where to; variables.
        location: String,
    }
}

table! {
    /// `respond` of a route
    struct RawRespond {
        /// 200 to 599.
        status: Int<200, 599> = 200,
        /// Variables.
        body: String = "",
        /// Content-Type.
        content_type: String = "text/plain; charset=utf-8",
    }
}

table! {
    /// A condition on a header
    struct RawHeaderRegex {
        /// Found anywhere in the value unless anchored.
        regex: String,
    }
}

table! {
    /// Keys of pools, sites and routes: how requests are forwarded. A route's win over its site's over its pool's.
    struct RawSettings {
        /// Host sent to the server; variables. Default: the client's.
        host: String,
        /// Changes to the request: `{ remove = ["A"], set = { B = "value" }, add = { C = "value" } }`, in this
        /// order; variables. Those of pool, site and route are all made.
        request_headers: RawHeaderEdits = {},
        /// Changes to the response, as request_headers.
        response_headers: RawHeaderEdits = {},
        /// Send X-Forwarded-For, -Proto and -Host. The client's own are replaced unless it is in trusted_proxies.
        x_forwarded: bool = true,
        /// Send Forwarded (RFC 7239).
        forwarded: bool = false,
        /// Send X-Request-Id: the one of a trusted proxy, else a new one.
        request_id: bool = true,
        /// Largest request body; above, 413. "off" or 0: no limit.
        max_body_size: OrOff<Size> = "1MiB",
        /// A body whose Content-Length is at most this is read before a server is taken, and can be sent again. Larger
        /// and chunked ones stream. "off" or 0: all stream at once. Memory per request; at most 64MiB.
        request_buffering: OrOff<Bytes<0, {64 * MIB}>> = "64KiB",
        /// How far the server is read ahead of a slow client; never delays a byte that the client can take. Memory per
        /// request; 4KiB to 64MiB.
        response_buffering: Bytes<{4 * KIB}, {64 * MIB}> = "64KiB",
        /// TCP connect to one server.
        connect_timeout: Period = "5s",
        /// Between two reads from the server; then 504. Not in tunnels and TCP sessions.
        read_timeout: Period = "60s",
        /// Between two writes to the server that made progress; then 504.
        send_timeout: Period = "60s",
        /// No byte in either direction of an upgraded connection (WebSocket) for this long ends it.
        tunnel_timeout: Period = "1h",
        /// Other servers tried after a failure.
        retries: Int<0, 100> = 2,
        /// What is tried again, and counts as a failure of the server: "connect", "reset", "invalid_header",
        /// "timeout", "http_403", "http_404", "http_429", "http_500", "http_502", "http_503", "http_504". 403 and 404
        /// never count.
        retry_on: List<RetryCondition> = ["connect", "reset", "invalid_header"],
        /// No new try starts this long after the first. "off": no bound.
        retry_timeout: OrOff<Period> = "off",
        /// Try POST, PATCH, LOCK and unknown methods again even when the request was sent already. Such a request may
        /// then be carried out twice.
        retry_non_idempotent: bool = false,
        /// Bodies of our own error responses: { "502" = "text" }, or { file, content_type }, or { body, content_type }.
        error_pages: Named<ErrorPage> = {},
    }
}

table! {
    /// `request_headers` and `response_headers`
    struct RawHeaderEdits {
        /// Names of fields to remove.
        remove: List<String> = [],
        /// Replaces all fields of the name; an empty value removes them. A value may be { file = "..." },
        /// { env = "..." } or { credential = "..." }: a secret, taken as it is and never shown.
        set: Named<HeaderValue> = {},
        /// Adds a field, or several for a list of values.
        add: Named<Several<HeaderValue>> = {},
    }
}

table! {
    /// A secret that is not in the file; one of the three
    struct RawSecret {
        /// A file, relative to the main one; a line end after it is left out.
        file: String,
        /// A variable of the supervisor's environment.
        env: String,
        /// A credential of the systemd unit (LoadCredential=, SetCredential=).
        credential: String,
    }
}

table! {
    /// An error page
    struct RawErrorPage {
        /// The text; taken as it is.
        body: String,
        /// Read when the configuration is loaded, at most 64KiB; relative to the main file.
        file: String,
        /// Content-Type. Default: by the file's ending, else text/html if the text starts with `<`, else text/plain.
        content_type: String,
    }
}

table! {
    /// `[pool.NAME]`
    struct RawPool with settings: RawSettings {
        /// round_robin, least_conn, ip_hash, random_two, hash or first.
        algorithm: AlgorithmName = "round_robin",
        /// What algorithm = "hash" hashes; variables, such as "$request_uri" or "$cookie_session".
        hash_key: String,
        /// How keys move when servers change: "none" (nginx's `hash`), "ketama" (nginx's `consistent`) or "maglev".
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
        /// When max_fails would leave no server, failures are ignored instead of answering 502. nginx: false.
        fail_open: bool = true,
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
        /// Bound on retries under way.
        retry_budget: RawRetryBudget = {},
        /// Probes of every server; one that fails them gets nothing. "off": none, where `[defaults.pool]` has some.
        health_check: OrOff<RawHealthCheck> = "off",
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
        /// Used only when no other is available.
        backup: bool = false,
        /// Not used.
        down: bool = false,
    }
}
