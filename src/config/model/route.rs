//! Sites, routes, and how requests are forwarded.

use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use crate::template::Template;

use super::{AccessLog, Admission, Https, RoleRule, SiteTls};

/// `[site.NAME]`: nginx's `server` block.
#[derive(Debug, Clone)]
pub struct Site {
    /// The table's name.
    pub name: Arc<str>,
    /// Hosts; empty: the default site of its listeners.
    pub hosts: Vec<HostPattern>,
    /// Names of HTTP listeners, never empty (`[]` in the file means all and is expanded).
    pub listeners: Vec<Arc<str>>,
    /// Where its TLS is other than that of the listener.
    pub tls: Vec<SiteTls>,
    /// In file order.
    pub routes: Vec<Arc<Route>>,
    /// Access log of requests of this site that match no route.
    pub access_log: Option<Arc<AccessLog>>,
    /// Pages of responses to requests of this site that match no route.
    pub error_pages: Arc<[ErrorPage]>,
    /// Who comes in with a request that matches no route.
    pub admission: Admission,
    /// What it says itself, its routes in.
    pub https: Https,
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
    /// Who comes in.
    pub admission: Admission,
    /// How to do it, everything inherited.
    pub policy: Policy,
    /// Where copies of its requests go.
    pub mirror: Option<Mirror>,
}

/// `mirror` of a route: nginx's `mirror`.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Name of the pool; exists.
    pub pool: Arc<str>,
    /// Per cent of the requests, 1..=100.
    pub share: u32,
    /// Copies on their way at a time, over all workers.
    pub max_in_flight: u32,
    /// As the route's, with the keys of this pool instead of those of the pool that answers; never a retry, no log.
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
        /// Only some of its servers; `None`: any.
        roles: Option<RoleRule>,
    },
    /// Forward to a server of one of several pools.
    Split {
        /// In file order, at least one; one of them has a weight.
        shares: Arc<[Share]>,
        /// What is hashed; `None`, or empty: by lot.
        key: Option<Template>,
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

impl Action {
    /// Which servers of its pool, or of its pools, for which it is the same.
    pub fn roles(&self) -> Option<RoleRule> {
        match self {
            Self::Pool { roles, .. } => *roles,
            Self::Split { shares, .. } => shares.first().and_then(|share| share.route.action.roles()),
            Self::Redirect { .. } | Self::Respond { .. } | Self::Close => None,
        }
    }
}

/// One pool of several that requests of a route are shared out to.
#[derive(Debug, Clone)]
pub struct Share {
    /// Name of the pool; exists.
    pub pool: Arc<str>,
    /// The route as it would be with this pool alone: its action is [`Action::Pool`].
    pub route: Arc<Route>,
    /// Of those that meet no conditions; 0: none.
    pub weight: u32,
    /// With `cookies`, all must match for a request to come here whatever the weights; both empty: no conditions.
    pub headers: Vec<HeaderMatch>,
    /// On values of cookies, whose names are as written.
    pub cookies: Vec<HeaderMatch>,
}

impl Share {
    /// Whether some requests come here whatever the weights.
    pub fn has_conditions(&self) -> bool {
        !self.headers.is_empty() || !self.cookies.is_empty()
    }
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
