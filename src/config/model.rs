//! The validated configuration: what the rest of the program runs on.
//!
//! Values of these types come only from `validate` (or from tests): every reference is resolved to a name that exists,
//! every default is filled in, every inherited setting (pool, site, route) is already merged, so that no user of a value
//! has to ask where it came from. Durations are never zero unless the field says what zero means.

mod check;
mod overrides;
mod vrrp;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use crate::config::value::Cidr;
use crate::template::Template;

pub use check::{HealthCheck, HttpProbe, Probe};
pub use overrides::{Duty, Override, Overrides};
pub use vrrp::{
    Announce, Arbiter, Command, Preempt, TrackedFile, TrackedInterface, TrackedPools, TrackedScript, VirtualAddress,
    VirtualRouter, Weight,
};

/// One whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[global]`.
    pub global: Global,
    /// `[admin]`.
    pub admin: Admin,
    /// Name of this box: `--node` or the short hostname.
    pub node: Arc<str>,
    /// `[dns]`.
    pub dns: Dns,
    /// `[listener.*]`, by name.
    pub listeners: Vec<Listener>,
    /// `[site.*]`, by name, then the implicit sites of listeners with a short form (named as the listener).
    pub sites: Vec<Site>,
    /// `[pool.*]`, by name.
    pub pools: Vec<Arc<Pool>>,
    /// `[vrrp.*]`, by name.
    pub routers: Vec<Arc<VirtualRouter>>,
}

impl Config {
    /// Whether `ip` is an address of a virtual router, so that this box need not hold it.
    pub fn is_virtual(&self, ip: IpAddr) -> bool {
        self.routers.iter().flat_map(|router| router.all_addresses()).any(|address| address.ip == ip)
    }

    /// Whether an address of a virtual router leads to what is bound to `ip`.
    pub fn is_reached_virtually(&self, ip: IpAddr) -> bool {
        if ip.is_unspecified() { !self.routers.is_empty() } else { self.is_virtual(ip) }
    }
}

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct Admin {
    /// A Unix socket; what the command line talks to.
    pub socket: PathBuf,
    /// Whose members may use it too.
    pub group: Option<String>,
}

/// `[global]`.
#[derive(Debug, Clone)]
pub struct Global {
    /// Worker threads; `None` is `"auto"`: one per core this process may run on.
    pub workers: Option<NonZeroU32>,
    /// Whom the proxy becomes when started as root.
    pub user: String,
    /// Where the lock file lives; one instance per directory.
    pub run_dir: PathBuf,
    /// Where generations and overrides are kept.
    pub state_dir: PathBuf,
    /// How long connections under way may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// After a reload or an upgrade: how long connections of what is gone may go on.
    pub drain_timeout: Duration,
    /// How long a worker may make no progress before the proxy is killed and replaced.
    pub proxy_watchdog: Duration,
    /// Client connections in all, over all listeners; more are closed at accept.
    pub max_connections: u32,
    /// Whom checks, scripts and notify commands run as when started as root.
    pub script_user: String,
    /// Our own log, to stderr.
    pub log: Log,
}

/// `[global.log]`: our own log on stderr.
#[derive(Debug, Clone)]
pub struct Log {
    /// `error | warn | info | debug | trace`, or a `tracing` filter such as `info,bascule::proxy=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

/// `[dns]`: how names of servers are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// A whole query, with its retries.
    pub timeout: Duration,
    /// TTLs shorter than this are taken as this.
    pub min_ttl: Duration,
    /// TTLs longer than this are taken as this.
    pub max_ttl: Duration,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http,
    /// Bytes.
    Tcp,
}

/// Whether sockets may be bound to an address this box does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freebind {
    /// Only for addresses of `[vrrp.*]`.
    Auto,
    /// For every address of the listener.
    Always,
    /// Never.
    Never,
}

/// `[listener.NAME]`.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The table's name.
    pub name: Arc<str>,
    /// Addresses, at least one, no duplicates over all listeners.
    pub bind: Vec<SocketAddr>,
    /// What is spoken.
    pub protocol: Protocol,
    /// `freebind`.
    pub freebind: Freebind,
    /// Length of each socket's accept queue.
    pub backlog: u32,
    /// Client connections on this listener; `None`: only the global bound.
    pub max_connections: Option<u32>,
    /// SO_KEEPALIVE idle time on client sockets; `None`: off.
    pub tcp_keepalive: Option<Duration>,
    /// Access log of connections and requests that reach no site, and of TCP sessions.
    pub access_log: Option<Arc<AccessLog>>,
    /// Settings of `protocol = "http"`.
    pub http: HttpListener,
    /// Settings of `protocol = "tcp"`; `None` for HTTP.
    pub tcp: Option<TcpListener>,
}

/// The HTTP side of a listener; defaults are nginx's.
#[derive(Debug, Clone)]
pub struct HttpListener {
    /// From the first byte of a head (for a new connection: from accept) to its end; 408. 60 s.
    pub header_timeout: Duration,
    /// Between two reads of a request body; 408. 60 s.
    pub body_timeout: Duration,
    /// Between two writes that made progress to the client. 60 s.
    pub send_timeout: Duration,
    /// An idle keep-alive connection; zero: close after each response. 75 s.
    pub keepalive_timeout: Duration,
    /// Requests on one connection before it is closed. 1000.
    pub keepalive_requests: u32,
    /// Request line and all fields together, bytes; 431. 32 KiB.
    pub max_header_size: usize,
    /// Number of fields; 431. 100.
    pub max_header_count: usize,
    /// Request target, bytes; 414. 8 KiB.
    pub max_uri_size: usize,
    /// Keep fields whose name contains `_` (nginx: `underscores_in_headers`). Default false: dropped.
    pub underscores_in_headers: bool,
    /// Peers whose X-Forwarded-For (and -Proto, -Host, X-Request-Id) are believed.
    pub trusted_proxies: Arc<[Cidr]>,
}

/// The TCP side of a listener.
#[derive(Debug, Clone)]
pub struct TcpListener {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// No byte in either direction for this long ends the session. 1 h.
    pub idle_timeout: Duration,
}

/// `[access_log]` and its overrides; equal values share one `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub target: LogTarget,
    /// How a line is made.
    pub format: LogFormat,
}

/// Destination of access log lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Appended; opened by the supervisor, reopened on SIGUSR1.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// systemd's journal, native protocol.
    Journald,
    /// `syslog:/dev/log`, `syslog:udp://192.0.2.1:514`: RFC 3164 as nginx sends it.
    Syslog(SyslogTarget),
}

/// Where syslog listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SyslogTarget {
    /// A datagram socket, usually /dev/log.
    Unix(PathBuf),
    /// UDP.
    Udp(SocketAddr),
}

/// Format of an access log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// NCSA common.
    Common,
    /// nginx's `combined`.
    Combined,
    /// Combined, then server, tries, times, request id, local port, reason.
    Detailed,
    /// One object a line.
    Json,
    /// The operator's own, in nginx's variable names.
    Template(Template),
}

/// `[site.NAME]`: nginx's `server` block.
#[derive(Debug, Clone)]
pub struct Site {
    /// The table's name.
    pub name: Arc<str>,
    /// Hosts; empty: the default site of its listeners.
    pub hosts: Vec<HostPattern>,
    /// Names of HTTP listeners, never empty (`[]` in the file means all and is expanded).
    pub listeners: Vec<Arc<str>>,
    /// In file order.
    pub routes: Vec<Arc<Route>>,
    /// Access log of requests of this site that match no route.
    pub access_log: Option<Arc<AccessLog>>,
    /// Pages of responses to requests of this site that match no route.
    pub error_pages: Arc<[ErrorPage]>,
}

/// One entry of `hosts`, lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `shop.example.com`
    Exact(Box<str>),
    /// `*.example.com`: holds `.example.com`; matches one label or more in front of it.
    Suffix(Box<str>),
}

/// `[[site.NAME.route]]`: nginx's `location`.
#[derive(Debug, Clone)]
pub struct Route {
    /// `name`, or the path as written; used in logs and status.
    pub name: Arc<str>,
    /// The site it belongs to.
    pub site: Arc<str>,
    /// Which paths.
    pub path: PathMatch,
    /// Only these methods, upper case as on the wire; empty: all.
    pub methods: Vec<Box<str>>,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
    /// What to do.
    pub action: Action,
    /// How to do it, everything inherited.
    pub policy: Policy,
}

/// Matched against the normalised path (percent-decoded, dot segments removed, slashes merged).
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// `path`: prefix on segment borders; `/api` matches `/api` and `/api/x`, not `/apix`. `/` matches all.
    Segments(Box<str>),
    /// `path_prefix`: raw prefix as nginx's `location /x`; with `before_regex`, `^~`.
    Prefix {
        /// The prefix.
        prefix: Box<str>,
        /// Wins over regular expressions when it is the longest prefix.
        before_regex: bool,
    },
    /// `path_exact`: nginx's `location = /x`.
    Exact(Box<str>),
    /// `path_regex`: in file order, first match wins.
    Regex(Regex),
}

/// A condition on a request header.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: Box<str>,
    /// What its value must be.
    pub value: ValueMatch,
}

/// What a header's value must be.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// There at all.
    Present,
    /// Equal, byte for byte.
    Exact(Box<str>),
    /// Matches anywhere.
    Regex(Regex),
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Forward to a server of a pool.
    Pool {
        /// Name of the pool; exists.
        pool: Arc<str>,
        /// `strip_prefix` / `replace_path`.
        rewrite: Option<PathRewrite>,
    },
    /// `redirect = { status, location }`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// May hold variables.
        location: Template,
    },
    /// `respond = { status, body, content_type }`.
    Respond {
        /// 200..=599.
        status: u16,
        /// May hold variables.
        body: Template,
        /// Default text/plain.
        content_type: Arc<str>,
    },
    /// Close the connection without a word (nginx's 444).
    Close,
}

/// How the path is changed before it is forwarded; the query string stays.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// Remove this prefix of the path (a leading slash always stays).
    StripPrefix(Box<str>),
    /// Replace the matched prefix by this.
    ReplacePrefix {
        /// What the route matched.
        prefix: Box<str>,
        /// What is forwarded instead.
        with: Box<str>,
    },
    /// Replace the whole path.
    Replace(Template),
}

/// Changes to header fields, in this order: remove, set, add.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    /// Names, lower case.
    pub remove: Vec<Box<str>>,
    /// Replaces every field of the name; an empty value removes it (as nginx's proxy_set_header).
    pub set: Vec<(Box<str>, Template)>,
    /// Appended.
    pub add: Vec<(Box<str>, Template)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Everything that decides how a request is forwarded. Route over site over pool over defaults.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Host towards the server; `None`: the client's.
    pub host: Option<Template>,
    /// Changes to the request.
    pub request_headers: HeaderEdits,
    /// Changes to the response.
    pub response_headers: HeaderEdits,
    /// Send X-Forwarded-For, -Proto and -Host.
    pub x_forwarded: bool,
    /// Send RFC 7239 Forwarded.
    pub forwarded: bool,
    /// Send X-Request-Id: the one received from a trusted proxy, else a new one.
    pub request_id: bool,
    /// Body size limit, bytes; `None`: no limit. 413. Default 1 MiB as nginx.
    pub max_body_size: Option<u64>,
    /// A body whose Content-Length is at most this is read before a server is taken; 0: off.
    pub request_buffering: usize,
    /// Read-ahead from the server while the client is slow, bytes; at least one read buffer.
    pub response_buffering: usize,
    /// TCP connect to one server.
    pub connect_timeout: Duration,
    /// Between two reads from the server.
    pub read_timeout: Duration,
    /// Between two writes that made progress to the server.
    pub send_timeout: Duration,
    /// Idle bound of an upgraded connection.
    pub tunnel_timeout: Duration,
    /// When and how often other servers are tried.
    pub retry: Retry,
    /// Bodies of locally made error responses by status; variables allowed.
    pub error_pages: Arc<[ErrorPage]>,
    /// `None`: off.
    pub access_log: Option<Arc<AccessLog>>,
}

/// One `error_pages` entry, read at load time.
#[derive(Debug, Clone)]
pub struct ErrorPage {
    /// 400..=599.
    pub status: u16,
    /// The body.
    pub body: Arc<str>,
    /// From the file's ending, or given.
    pub content_type: Arc<str>,
}

/// When a request is tried on another server.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Other servers tried at most.
    pub retries: u32,
    /// Conditions that may be retried.
    pub on: RetryOn,
    /// No new try starts after this long since the first; `None`: no bound.
    pub timeout: Option<Duration>,
    /// Retry POST, PATCH, LOCK and unknown methods too (nginx: `non_idempotent`).
    pub non_idempotent: bool,
}

/// Set of conditions; also the set that counts as failures of a server, as nginx (403 and 404 never count).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// No connection: refused, unreachable, timed out.
    pub connect: bool,
    /// Connection closed or reset before a response head.
    pub reset: bool,
    /// The response head is not HTTP.
    pub invalid_header: bool,
    /// `read_timeout` before a response head.
    pub timeout: bool,
    /// Response statuses, of 403, 404, 429, 500, 502, 503, 504.
    pub statuses: Vec<u16>,
}

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
    /// Connect and retry rules for TCP listeners (HTTP routes carry their own in `Policy`).
    pub connect_timeout: Duration,
    /// As above.
    pub retry: Retry,
    /// Bound on retries in flight.
    pub retry_budget: RetryBudget,
    /// Active checks; `None`: none.
    pub health_check: Option<Arc<HealthCheck>>,
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

/// Kind of hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistent {
    /// nginx's `hash KEY`.
    None,
    /// nginx's `hash KEY consistent`.
    Ketama,
    /// Maglev table.
    Maglev,
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
