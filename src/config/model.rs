//! The validated configuration: what the rest of the program runs on.
//!
//! Values of these types come only from `validate` (or from tests): every reference is resolved to a name that exists,
//! every default is filled in, every inherited setting (pool, site, route) is already merged, so that no user of a value
//! has to ask where it came from. Durations are never zero unless the field says what zero means.

mod attachments;
mod check;
mod https;
mod limit;
mod overrides;
mod passthrough;
mod pool;
mod route;
mod sticky;
mod tls;
mod vrrp;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::value::Cidr;
use crate::health::Role;
use crate::template::Template;

pub use attachments::{Attachment, Attachments};
pub use check::{DatabaseProbe, Expected, GrpcProbe, HealthCheck, HttpProbe, Probe, TcpProbe};
pub use https::{Hsts, Https, HttpsRedirect};
pub use limit::{Admission, Limit, LimitKey};
pub use overrides::{Duty, Override, Overrides};
pub use passthrough::{Passthrough, TlsRoute};
pub use pool::{
    Algorithm, CircuitBreaker, Consistent, Ejection, HttpVersion, Pool, RetryBudget, ServerAddress, ServerSpec,
};
pub use route::{
    Action, ErrorPage, HeaderEdits, HeaderMatch, HostPattern, Mirror, PathMatch, PathRewrite, Policy, Retry, RetryOn,
    Route, Share, Site, ValueMatch,
};
pub use sticky::{Sticky, StickyCookie, StickyKey, StickyTable};
pub use tls::{PoolTls, SiteTls, Tls};
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
    /// `[limit.*]`, by name.
    pub limits: Vec<Arc<Limit>>,
    /// `[pool.*]`, by name.
    pub pools: Vec<Arc<Pool>>,
    /// `[vrrp.*]`, by name.
    pub routers: Vec<Arc<VirtualRouter>>,
}

impl Config {
    /// Whether anything is cut when its server is the primary no more.
    pub fn ends_with_roles(&self) -> bool {
        let routes = self.sites.iter().flat_map(|site| &site.routes).filter_map(|route| route.action.roles());
        let sessions = self.listeners.iter().filter_map(|listener| listener.tcp.as_ref()?.roles);
        routes.chain(sessions).any(|roles| roles.ends_with_role)
    }

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
    /// How often files of certificates are looked at; `None`: at reloads only.
    pub certificate_check_interval: Option<Duration>,
    /// Run when something happens to a certificate.
    pub notify: Option<Command>,
    /// The same is posted to it.
    pub webhook: Option<Arc<str>>,
    /// Our own log, to stderr.
    pub log: Log,
}

impl Global {
    /// Descriptors that a proxy may need: two a connection, the client's and the server's, and some for listeners, logs, epoll,
    /// probes and pipes.
    pub fn descriptors(&self) -> u64 {
        u64::from(self.max_connections) * 2 + 4096
    }
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
    /// TLS, of which only the client's first message is looked at.
    TlsPassthrough,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does.
    Off,
    /// Those of trusted proxies may.
    Optional,
    /// All do, and come from trusted proxies.
    Required,
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
    /// Who comes in: peers, and for HTTP every request.
    pub admission: Admission,
    /// What stands before the client's own bytes; `None`: nothing.
    pub proxy_header: Option<ProxyHeader>,
    /// Settings of `protocol = "http"`.
    pub http: HttpListener,
    /// Settings of `protocol = "tcp"` and `"tls_passthrough"`; `None` for HTTP.
    pub tcp: Option<TcpListener>,
    /// What is spoken is inside TLS.
    pub tls: Option<Tls>,
}

/// The header of the PROXY protocol that connections of a listener begin with.
#[derive(Debug, Clone)]
pub struct ProxyHeader {
    /// A connection without is closed.
    pub required: bool,
    /// Who is believed; at least one.
    pub trusted: Arc<[Cidr]>,
    /// From accept to its end.
    pub timeout: Duration,
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
    /// HTTP/2.
    pub http2: Http2,
    /// For sites that do not say it themselves.
    pub https: Https,
    /// Webroot of ACME's http-01 (RFC 8555 section 8.3); a whole path.
    pub acme_challenge_dir: Option<Arc<Path>>,
}

/// HTTP/2 with the clients of a listener.
#[derive(Debug, Clone)]
pub struct Http2 {
    /// Spoken with those that want it.
    pub is_on: bool,
    /// Streams at a time. 128.
    pub max_concurrent_streams: u32,
    /// Flow control window of a stream, bytes. 256 KiB.
    pub stream_window: u32,
    /// Flow control window of the connection, bytes. 1 MiB.
    pub connection_window: u32,
    /// Strange frames that are let pass at once. 500.
    pub max_glitches: u32,
}

/// The TCP side of a listener.
#[derive(Debug, Clone)]
pub struct TcpListener {
    /// Name of the pool; `None`: only routes of `passthrough` lead on.
    pub pool: Option<Arc<str>>,
    /// No byte in either direction for this long ends the session. 1 h.
    pub idle_timeout: Duration,
    /// Only some of the pool's servers; `None`: any.
    pub roles: Option<RoleRule>,
    /// TLS is passed through; `None`: whatever it is.
    pub passthrough: Option<Passthrough>,
}

/// `role` of a listener or a route: only servers that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleRule {
    /// Only servers of this role.
    pub role: Role,
    /// When no server of `role` can be used.
    pub fallback: Fallback,
    /// What runs over a server is cut when that is the primary no more.
    pub ends_with_role: bool,
}

/// What a listener or a route with a `role` does when no server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Refuses.
    None,
    /// Uses servers of that role; `None`: any.
    To(Option<Role>),
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
