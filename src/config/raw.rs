//! The tables of the file as they are written: keys, types, defaults, documentation.
//!
//! Nothing here knows what a value means; `validate` does. A default is given in the notation of the file.

mod check;
mod https;
mod limit;
mod passthrough;
mod pool;
mod route;
mod sticky;
mod tls;
mod vrrp;

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use super::decode::{self, At, Bytes, Decode, Field, Int, Key, Keys, List, Named, OrOff, Several, Shape, table};
use super::diagnostic::Problems;
use super::document::{Item, Place, Table};
use super::model::{Consistent, Freebind, HttpVersion, Protocol, ProxyProtocol};
use super::value::{Cidr, Period, Size};
use super::words::{
    AlgorithmName, Certificate, CheckType, ClientAuthMode, Delay, ErrorPage, ExpectText, Failback, HeaderCondition,
    HeaderValue, InitialState, LogOverride, NameServer, OnRoleLoss, OwnLogFormat, Password, Percent, PoolTls,
    Primaries, RateText, RawNode, Redirect, RedirectHttps, RetryCondition, SameSite, Server, ServerText, Statuses,
    StickyType, StrictTransport, TlsProfile, WantedRole, Workers,
};

use crate::proxy_protocol::Version;

pub(super) use check::{RawDatabaseCheck, RawHealthCheck, RawHttpCheck, RawTextRegex};
pub(super) use https::{RawHsts, RawHttps, RawRedirectHttps};
pub(super) use limit::{RawAdmission, RawLimit};
pub(super) use passthrough::{RawPassthrough, RawTlsRoute};
pub(super) use pool::{RawPool, RawServer};
pub(super) use route::{
    RawErrorPage, RawHeaderEdits, RawHeaderRegex, RawRedirect, RawRoles, RawRoute, RawSettings, RawShare, RawSite,
};
pub(super) use sticky::{RawSticky, RawStickyCookie, RawStickyLearned};
pub(super) use tls::{RawCertificate, RawClientAuth, RawPoolTls, RawSiteTls, RawTls};
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
        /// Limits of clients, for `limits` of listeners, sites and routes: nginx's `limit_req_zone` and `limit_conn_zone`.
        limit: Named<RawLimit> = {},
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
        /// Whom scripts, notify commands and those of health checks run as when started as root.
        script_user: String = "bascule",
        /// How often the files of certificates, of their keys and responses, of authorities, lists of revoked ones and ticket
        /// keys are looked at. What has changed and can be used is in force at once, without a reload; what cannot be used is
        /// told, and stays as it was. "off": only at a reload.
        certificate_check_interval: OrOff<Period> = "30s",
        /// A program with its whole path and arguments, run as script_user when something happens to a certificate, one at a
        /// time; CERTIFICATE, its file, what happened and why are added. []: none.
        notify: List<String> = [],
        /// "http://host:port/path" that the same is posted to, as JSON: event, certificate, names, not_after, days_left, why,
        /// node, time. The events are certificate_replaced, certificate_refused, certificate_expiring and certificate_expired.
        webhook: String,
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
    struct RawListener with http: RawHttpListener, https: RawHttps, tcp: RawTcpListener, passthrough: RawPassthrough, admission: RawAdmission, roles: RawRoles {
        /// Addresses with ports; a box need not hold an address that is in a virtual router.
        bind: List<SocketAddr>,
        /// "http", "tcp", or "tls_passthrough": tcp to a pool that the client's first TLS message chooses.
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
        /// Whether connections begin with a header of the PROXY protocol, version 1 or 2: "required", or "optional" for
        /// those that may and may not. Only of `trusted_proxies`: others are closed, or with "optional" taken as they are.
        proxy_protocol: ProxyProtocol = "off",
        /// Networks of proxies in front, whose X-Forwarded-*, Forwarded and X-Request-Id are believed, and whose PROXY
        /// headers are with `proxy_protocol`, for which tcp has it too.
        trusted_proxies: List<Cidr> = [],
        /// From the first byte of a request head, or from accept, to its end; then 408. Also from accept to the end of a
        /// PROXY header, for which tcp has it too, and of the client's first TLS message with tls_passthrough.
        header_timeout: Period = "60s",
        /// Clients speak TLS, and what is inside goes on as `protocol` says. "off": they do not.
        tls: OrOff<RawTls> = "off",
    }
}

/// Bounds of HTTP/2's windows: the least is what a window is before anything is said.
const WINDOW: u64 = 64 * KIB;
const MOST_WINDOW: u64 = 16 * MIB;

table! {
    /// Keys of listeners with `protocol = "http"`
    struct RawHttpListener {
        /// Short form: routes as those of a site that takes every host.
        route: List<RawRoute> = [],
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
        /// Speak HTTP/2 with clients that do: over TLS with those that choose it (ALPN), without TLS with those that
        /// begin with it (prior knowledge). Default: true with TLS, false without.
        http2: bool,
        /// Requests that an HTTP/2 client may have under way on one connection.
        http2_max_concurrent_streams: Int<1, 10_000> = 128,
        /// Bytes of a request body that an HTTP/2 client may send before any of them has been passed on. 64KiB to 16MiB.
        http2_stream_window: Bytes<WINDOW, MOST_WINDOW> = "256KiB",
        /// The same for all requests of a connection together; at least http2_stream_window. 64KiB to 16MiB.
        http2_connection_window: Bytes<WINDOW, MOST_WINDOW> = "1MiB",
        /// Frames that do nothing or undo a request (resets, pings, empty ones) that an HTTP/2 client may send at once;
        /// ten a second, and one for each answer, are forgiven. Above, the connection ends with ENHANCE_YOUR_CALM.
        http2_max_glitches: Int<10, 1_000_000> = 500,
        /// Webroot of an ACME client such as `certbot --webroot`, a whole path: /.well-known/acme-challenge/TOKEN is answered
        /// from the file of that name in it, before redirect_https, sites and routes, on listeners with and without TLS. The
        /// proxy's user must be able to read it.
        acme_challenge_dir: String,
    }
}

table! {
    /// Keys of listeners with `protocol = "tcp"` or `"tls_passthrough"`
    struct RawTcpListener {
        /// No byte in either direction for this long ends the session.
        idle_timeout: Period = "1h",
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
