//! Where a request would go, and why: asked of a snapshot, of a request that nobody has made. Nothing is sent.

mod gate;
mod https;
mod passthrough;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::config::model::{Action, Algorithm, Listener, Protocol, Route, Share, Sticky, StickyCookie, StickyKey};
use crate::health::Role;
use crate::health::roles::Standing;
use crate::http1::{self, Limits, Parse, RequestHead};
use crate::net::clock;
use crate::pool::{PickInput, Pool, ServerCondition, ServerReport, Stick, Tried, Wanted};
use crate::proxy::http::{chosen, headers::decimal, is_challenge, says_https, stick, write_ip};
use crate::proxy::status::{algorithm_name, protocol_name};
use crate::route::{Found, MAX_HOST, normalise_host};
use crate::snapshot::{Chosen, RouteView, SiteView, Snapshot, SplitView};
use crate::telemetry::reason::Reason;
use crate::template::{Var, Variables};

/// A request that nobody has made.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `http://host[:port]/path?query`, `https://`, `tcp://address:port`, or `tls://host[:port]`.
    pub url: &'a str,
    /// As on the wire.
    pub method: &'a str,
    /// Names and values.
    pub headers: &'a [(String, String)],
    /// Whose request it is.
    pub client: IpAddr,
}

/// Whether servers' states are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The snapshot is at work.
    Live,
    /// It was made from the file just now: no server has a state, no name an address.
    FileOnly,
}

/// Where the request would go.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Explanation {
    /// Servers' states were known.
    pub live: bool,
    /// The listener.
    pub listener: Arc<str>,
    /// Its address, and what else listens on the port.
    pub listener_why: String,
    /// The path that routes are matched against; empty for TCP.
    pub path: String,
    /// The site, if any has the host.
    pub site: Option<Arc<str>>,
    /// Why it has it, or why none does.
    pub site_why: String,
    /// The route.
    pub route: Option<Arc<str>>,
    /// What it matches, or why there is none.
    pub route_why: String,
    /// What `allow` and `deny` say of the client: of the listener, then of the site or route.
    pub access: Vec<String>,
    /// Limits that hold, the listener's first.
    pub limits: Vec<AppliedLimit>,
    /// Routes of the site that have the path too, and why they were not taken.
    pub passed_over: Vec<PassedOver>,
    /// What is done: `pool`, `redirect`, `respond`, `close`, or the status of a refusal.
    pub action: String,
    /// Versions, certificates and what clients must show, if they speak TLS.
    pub tls: Option<String>,
    /// Strict-Transport-Security, if it is sent with answers by https.
    pub hsts: Option<String>,
    /// The pool that may get a copy, and of how many per cent of requests.
    pub mirror: Option<String>,
    /// How the route is shared out to pools, and why the request comes to this one.
    pub split: Option<String>,
    /// The pool.
    pub pool: Option<Arc<str>>,
    /// Its algorithm.
    pub algorithm: Option<&'static str>,
    /// What is known of the client, if the pool is sticky.
    pub sticky: Option<String>,
    /// The server it would pick now.
    pub server: Option<Arc<str>>,
    /// Its address.
    pub server_address: Option<SocketAddr>,
    /// How sure that is, or why there is none.
    pub server_why: String,
    /// Servers that it cannot be, and why.
    pub not_eligible: Vec<PassedOver>,
}

/// A limit that holds for the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppliedLimit {
    /// Its name.
    pub name: Arc<str>,
    /// What it allows, for which key, and whether it counts only.
    pub why: String,
}

/// What was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Its name.
    pub name: Arc<str>,
    /// Why not.
    pub why: String,
}

/// Explains `query` on `snapshot`.
///
/// # Errors
/// What is wrong with the query, for the operator.
pub fn explain(snapshot: &Snapshot, query: &Query<'_>, liveness: Liveness) -> Result<Explanation, String> {
    let explanation = Explanation { live: liveness == Liveness::Live, ..Explanation::default() };
    match query.url.split_once("://") {
        Some(("tcp", address)) => explain_tcp(snapshot, query, address, explanation),
        Some(("tls", rest)) => passthrough::explain(snapshot, query, rest, explanation),
        Some((scheme @ ("http" | "https"), rest)) => explain_http(snapshot, query, scheme, rest, explanation),
        _ => Err(format!("{}: not a URL such as http://shop.example.com/path or tcp://192.0.2.100:3306", query.url)),
    }
}

fn explain_tcp(
    snapshot: &Snapshot,
    query: &Query<'_>,
    address: &str,
    mut to: Explanation,
) -> Result<Explanation, String> {
    let address: SocketAddr = address.trim_end_matches('/').parse().map_err(|_| {
        format!("tcp://{address}: not an address and port such as tcp://192.0.2.100:3306 or tcp://[2001:db8::1]:3306")
    })?;
    let (index, _) = listener(snapshot, Protocol::Tcp, Some(address.ip()), address.port(), &mut to)?;
    "every connection of the listener goes to its pool".clone_into(&mut to.route_why);
    if !connects(snapshot, index, query.client, &mut to) {
        return Ok(to);
    }
    if let Some(pool) = snapshot.listeners[index].pool {
        session(snapshot, index, pool, query, &mut to);
    }
    Ok(to)
}

/// What becomes of a session of listener `index` that goes to `pool`.
fn session(snapshot: &Snapshot, index: usize, pool: usize, query: &Query<'_>, to: &mut Explanation) {
    let nothing = RequestHead::default();
    let listener = &to.listener.clone();
    let vars = ImaginedVars { head: &nothing, bytes: b"", path: b"", scheme: "", client: query.client, listener };
    gate::pass(snapshot.listeners[index].gate.as_deref(), query.client, "", &vars, to);
    let tcp = snapshot.config.listeners[index].tcp.as_ref();
    let wanted = tcp.and_then(|tcp| tcp.roles).map(Wanted::from);
    pick(snapshot, pool, query.client, wanted, &vars, to);
}

fn explain_http(
    snapshot: &Snapshot,
    query: &Query<'_>,
    scheme: &str,
    rest: &str,
    mut to: Explanation,
) -> Result<Explanation, String> {
    let by_tls = scheme == "https";
    let (authority, target) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
    let slash = if target.starts_with('?') { "/" } else { "" };
    let (host, port) = split_port(authority, if by_tls { 443 } else { 80 })?;
    let ip = host.trim_matches(['[', ']']).parse().ok();
    let (index, http) = listener(snapshot, Protocol::Http, ip, port, &mut to)?;
    if !connects(snapshot, index, query.client, &mut to) || !tls::handshake(snapshot, http, by_tls, host, &mut to) {
        return Ok(to);
    }

    let mut text = format!("{} {slash}{target} HTTP/1.1\r\n", query.method);
    if !query.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("Host: {authority}\r\n"));
    }
    query.headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    text.push_str("\r\n");
    let limits = Limits {
        max_size: http.http.max_header_size,
        max_fields: http.http.max_header_count,
        max_uri: http.http.max_uri_size,
        underscores: http.http.underscores_in_headers,
    };
    let mut head = RequestHead::default();
    match head.parse(text.as_bytes(), &limits) {
        Ok(Parse::Complete) if head.len == text.len() => {}
        Ok(Parse::Complete | Parse::Partial) => return Err("a line end inside of a header or the URL".to_owned()),
        Err(error) => return Ok(refused(to, error.status(), &error.to_string())),
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let path = match http1::path::normalise(head.path.of(bytes), &mut decoded) {
        Ok(true) => &decoded[..],
        Ok(false) => head.path.of(bytes),
        Err(error) => return Ok(refused(to, 400, &error.to_string())),
    };
    to.path = String::from_utf8_lossy(path).into_owned();
    if let Some(dir) = http.http.acme_challenge_dir.as_ref().filter(|_| is_challenge(head.path.of(bytes))) {
        to.action = format!("challenge from acme_challenge_dir = {}", dir.display());
        return Ok(to);
    }
    let header = |name: &str| head.values(bytes, name).next();
    let (host, method) = (head.host.of(bytes), head.method_span.of(bytes));
    let view = &snapshot.listeners[index];
    let found = view.routes.find(host, method, path, &header);
    let (gate, https, place) = match &found {
        Found::Route(hit) => (&hit.gate, &hit.https, format!("route {}", hit.route.name)),
        Found::NoRoute(Some(site)) => (&site.gate, &site.https, format!("site {}", site.name)),
        Found::NoRoute(None) => (&view.gate, &view.https, String::new()),
    };
    let hit = name_route(snapshot, found, host, &mut to);
    let site = to.site.as_ref().and_then(|name| snapshot.config.sites.iter().find(|site| site.name == *name));
    for route in site.iter().flat_map(|site| &site.routes).filter(|route| route.path.takes(path)) {
        if hit.is_some_and(|hit| Arc::ptr_eq(&hit.route, route)) {
            continue;
        }
        let unmet = route.unmet(method, &header).map(|unmet| unmet.to_string());
        let why = unmet.unwrap_or_else(|| format!("{}: the other one goes before it", route.path));
        to.passed_over.push(PassedOver { name: Arc::clone(&route.name), why });
    }
    if let Some(https) = https {
        let trusted = http.http.trusted_proxies.iter().any(|network| network.contains(query.client));
        if https::redirects(https, by_tls || trusted && says_https(&head, bytes), &head, bytes, &mut to) {
            return Ok(to);
        }
    }
    let vars = ImaginedVars { head: &head, bytes, path, scheme, client: query.client, listener: &http.name };
    if !gate::pass(gate.as_deref(), query.client, &place, &vars, &mut to) {
        to.action = format!("403 {}", Reason::Denied);
        return Ok(to);
    }
    let Some(hit) = hit else { return Ok(to) };
    to.action = action(&hit.route);
    to.mirror =
        hit.route.mirror.as_ref().map(|mirror| format!("{} % of requests, to pool {}", mirror.share, mirror.pool));
    let hit = match &hit.split {
        None => hit,
        Some(split) => share(split, &vars, &mut to),
    };
    if let Some(pool) = hit.pool {
        let wanted = hit.route.action.roles().map(Wanted::from);
        pick(snapshot, pool, query.client, wanted, &vars, &mut to);
    }
    Ok(to)
}

/// Whether the listener lets the client connect.
fn connects(snapshot: &Snapshot, index: usize, client: IpAddr, to: &mut Explanation) -> bool {
    let listener = &snapshot.config.listeners[index];
    let place = format!("listener {}", listener.name);
    let comes_in = gate::judge(listener.admission.access.as_ref(), client, &place, to);
    if !comes_in {
        let when = if listener.proxy_header.is_some() { "after its PROXY header" } else { "at accept" };
        to.action = format!("closed {when}: {}", Reason::Denied);
    }
    comes_in
}

/// Host and port of `host[:port]`.
fn split_port(authority: &str, default: u16) -> Result<(&str, u16), String> {
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_bracket..].rfind(':') {
        None => Ok((authority, default)),
        Some(colon) => {
            let (host, port) = authority.split_at(after_bracket + colon);
            let port = port[1..].parse().map_err(|_| format!("{authority}: the port is not a number up to 65535"))?;
            Ok((host, port))
        }
    }
}

/// The listener of an address, or of a port when the address is to be found by name; the first of several.
fn listener<'s>(
    snapshot: &'s Snapshot,
    protocol: Protocol,
    ip: Option<IpAddr>,
    port: u16,
    to: &mut Explanation,
) -> Result<(usize, &'s Listener), String> {
    let takes = |bound: &SocketAddr| {
        bound.port() == port && ip.is_none_or(|ip| bound.ip().to_canonical() == ip || bound.ip().is_unspecified())
    };
    let of_protocol = |l: &&Listener| l.protocol == protocol;
    let all = || snapshot.config.listeners.iter().filter(of_protocol);
    let mut matching = all().filter(|l| l.bind.iter().any(takes));
    let Some(first) = matching.next() else {
        let known: Vec<_> = all().flat_map(|l| l.bind.iter().map(|a| format!("{a} ({})", l.name))).collect();
        let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
        let place = ip.map_or_else(|| format!("port {port}"), |ip| SocketAddr::new(ip, port).to_string());
        let protocol = protocol_name(protocol);
        let other = snapshot.config.listeners.iter().find(|l| l.bind.iter().any(takes));
        let other = other.map(|l| format!("; listener {} has it, with protocol {}", l.name, protocol_name(l.protocol)));
        let other = other.unwrap_or_default();
        return Err(format!("no {protocol} listener on {place}{other}; those there are: {known}"));
    };
    to.listener = Arc::clone(&first.name);
    let bound: Vec<_> = first.bind.iter().filter(|a| takes(a)).map(ToString::to_string).collect();
    to.listener_why = format!("bound to {}", bound.join(", "));
    match &first.proxy_header {
        Some(header) if header.required => to.listener_why.push_str("; behind a PROXY header, which is required"),
        Some(_) => to.listener_why.push_str("; behind a PROXY header, if there is one"),
        None => {}
    }
    for other in matching {
        to.listener_why.push_str(&format!("; listener {} has the port too, on another address", other.name));
    }
    let index = snapshot.config.listeners.iter().position(|l| l.name == first.name).unwrap_or_default();
    Ok((index, first))
}

fn refused(mut to: Explanation, status: u16, why: &str) -> Explanation {
    to.action = format!("{status}: {why}");
    to
}

/// Writes down site and route; the route, when there is one.
fn name_route<'v>(
    snapshot: &Snapshot,
    found: Found<'v, RouteView, SiteView>,
    host: &[u8],
    to: &mut Explanation,
) -> Option<&'v RouteView> {
    let named: Option<Arc<str>> = match found {
        Found::Route(hit) => Some(Arc::clone(&hit.route.site)),
        Found::NoRoute(site) => site.map(|site| Arc::clone(&site.name)),
    };
    let site = named.as_ref().and_then(|name| snapshot.config.sites.iter().find(|site| site.name == *name));
    let claim = site.and_then(|site| site.claim(host));
    to.site_why = match (&claim, &named) {
        (Some(claim), _) => claim.to_string(),
        (None, Some(_)) => String::new(),
        (None, None) => "no site of the listener has the host, and none takes the others".to_owned(),
    };
    to.site = named;
    match found {
        Found::Route(hit) => {
            to.route = Some(Arc::clone(&hit.route.name));
            to.route_why = hit.route.path.to_string();
            Some(hit)
        }
        Found::NoRoute(_) => {
            to.action = format!("404 {}", Reason::NoRoute);
            if let Some(site) = site {
                to.route_why = format!("none of {} routes of the site takes it", site.routes.len());
            }
            None
        }
    }
}

fn action(route: &Route) -> String {
    match &route.action {
        Action::Pool { pool, .. } => format!("pool {pool}"),
        Action::Split { .. } => "pools".to_owned(),
        Action::Redirect { status, .. } => format!("redirect {status}"),
        Action::Respond { status, .. } => format!("respond {status}"),
        Action::Close => "close".to_owned(),
    }
}

/// Writes down how a route is shared out to pools; the route to the one that the request comes to.
fn share<'v>(split: &'v SplitView, vars: &ImaginedVars<'_>, to: &mut Explanation) -> &'v RouteView {
    let total: u64 = split.shares.iter().map(|share| u64::from(share.weight)).sum();
    let part = |share: &Share| match (share.weight, share.has_conditions()) {
        (0, true) => format!("{} by condition", share.pool),
        (weight, true) => format!("{} by condition and {weight} of {total}", share.pool),
        (weight, false) => format!("{} {weight} of {total}", share.pool),
    };
    let parts = split.shares.iter().map(part).collect::<Vec<_>>().join(", ");
    let mut key = Vec::new();
    if let Some(template) = &split.key {
        template.expand(vars, &mut key);
    }
    let (index, why) = match (chosen(split, vars.head, vars.bytes), &key[..]) {
        (Chosen::Condition(index), _) => (index, "it meets the conditions".to_owned()),
        (Chosen::Weight, b"") => (split.split.by_lot(0), "for example: drawn by lot".to_owned()),
        (Chosen::Weight, key) => (split.split.by_key(key), format!("by the hash of {}", String::from_utf8_lossy(key))),
    };
    to.split = Some(format!("{parts}; here {}, {why}", split.shares[index].pool));
    &split.routes[index]
}

/// What is known of the client of a sticky pool.
fn describe_stick(pool: &Pool, stick: Stick, client: IpAddr) -> Option<String> {
    let named = pool.servers().find(|server| Some(server.id) == stick.server()).map(|server| &server.name);
    Some(match pool.config.sticky.as_ref()? {
        Sticky::Cookie(StickyCookie { name, .. }) => match named {
            Some(server) => format!("cookie {name} names {server}"),
            None if stick.is_known() => format!("cookie {name} names no server of the pool, and is set anew"),
            None => format!("no cookie {name}, which is set"),
        },
        Sticky::Learned(table) => {
            let key = match &table.key {
                StickyKey::Source { .. } => format!("address {client}"),
                StickyKey::Header(name) if !stick.has_key() => {
                    return Some(format!("no header {name}: as the algorithm says"));
                }
                StickyKey::Header(name) => format!("header {name}"),
            };
            match named {
                Some(server) => format!("{key} was on {server}"),
                None => format!("{key} is not remembered: its hash decides"),
            }
        }
    })
}

/// Writes down which server of the pool it would be, and why not the others.
fn pick(
    snapshot: &Snapshot,
    index: usize,
    client: IpAddr,
    wanted: Option<Wanted>,
    vars: &ImaginedVars<'_>,
    to: &mut Explanation,
) {
    let now = clock::now();
    let first = &snapshot.pools[index].config.name;
    let pool = &snapshot.pools[snapshot.pool_for(index, wanted, now)];
    to.action = format!("pool {}", pool.config.name);
    if pool.config.name != *first {
        let why = match snapshot.pools[index].would_admit(now) {
            Ok(()) => format!("no server of pool {first} is available"),
            Err(_) => format!("the circuit of pool {first} is open"),
        };
        to.action.push_str(&format!(", for {why}"));
    }
    to.pool = Some(Arc::clone(&pool.config.name));
    to.algorithm = Some(algorithm_name(&pool.config.algorithm));
    let mut key = Vec::new();
    if let Algorithm::Hash { key: template, .. } = &pool.config.algorithm {
        template.expand(vars, &mut key);
    }
    let stick = stick(pool, vars.head, vars.bytes, client, now);
    let mut tried = Tried::wanting(wanted);
    tried.stick_to(stick);
    to.sticky = describe_stick(pool, stick, client);
    let picked = pool.preview(&PickInput { client, key: &key }, &tried, now);
    let reports = pool.report(now);
    let ordinary_left = reports.iter().any(|r| !r.backup && r.condition.is_well() && !r.full);
    let is_picked = |report: &ServerReport| picked.as_ref().is_some_and(|picked| Arc::ptr_eq(picked, &report.server));
    // With `fail_open`, failures count for nobody once they would leave nobody.
    let open = reports.iter().any(|report| is_picked(report) && report.condition == ServerCondition::Failed);
    let panic = pool.is_in_panic();
    for report in &reports {
        let is_open = open && report.condition == ServerCondition::Failed;
        let why = not_eligible(report, ordinary_left, panic)
            .or_else(|| other_role(report, wanted))
            .filter(|_| !is_picked(report) && !is_open);
        to.not_eligible.extend(why.map(|why| PassedOver { name: Arc::clone(&report.server.name), why }));
    }
    let unresolved = pool.config.servers.iter().filter(|spec| !reports.iter().any(|r| r.server.name == spec.name));
    let why = if to.live { "its name does not resolve" } else { "its name was not looked up" };
    to.not_eligible.extend(unresolved.map(|spec| PassedOver { name: Arc::clone(&spec.name), why: why.to_owned() }));
    to.server_why = match (&picked, &pool.config.algorithm) {
        (None, _) if pool.lacks_role(wanted) => format!("503 {}: no server of the pool has the role", Reason::NoRole),
        (None, _) => format!("502 {}: no server of the pool is eligible", Reason::NoServer),
        (Some(picked), _) if Some(picked.id) == stick.server() => "the one that the client was on".to_owned(),
        (Some(_), _) if stick.has_key() => "by the hash of what is sticky".to_owned(),
        (Some(_), Algorithm::Hash { .. }) if key.is_empty() => {
            "the hash key is empty: as round_robin, any that is eligible".to_owned()
        }
        (Some(_), Algorithm::Hash { .. }) => format!("by the hash of {}", String::from_utf8_lossy(&key)),
        (Some(_), Algorithm::IpHash { .. }) => format!("by the hash of the client's address {client}"),
        (Some(_), Algorithm::First) => "the first that is eligible".to_owned(),
        (Some(_), Algorithm::LeastConn) => "fewest requests in flight for its weight; among equals any".to_owned(),
        (Some(_), Algorithm::RoundRobin) => {
            "for example: each worker has a turn of its own, so any that is eligible".to_owned()
        }
        (Some(_), Algorithm::RandomTwo) => "for example: drawn by lot, so any that is eligible".to_owned(),
    };
    if let Err(open) = pool.would_admit(now) {
        let (reason, seconds) = (Reason::CircuitOpen, open.retry_after());
        to.server_why = format!("503 {reason}: the circuit of the pool is open, for {seconds} s more at least");
        return;
    }
    if panic {
        to.server_why.push_str("; too few servers are well, so that health is ignored (panic_threshold)");
    }
    if open {
        to.server_why.push_str("; every server has failed, so that all are tried (fail_open)");
    }
    to.server = picked.as_ref().map(|server| Arc::clone(&server.name));
    to.server_address = picked.map(|server| server.address);
}

/// Why a server is not of the role that is wanted, if it is not.
fn other_role(report: &ServerReport, wanted: Option<Wanted>) -> Option<String> {
    let (standing, wanted) = (report.server.standing(), wanted?.role);
    let word = match wanted {
        Role::Primary => "primary",
        Role::Replica => "replica",
    };
    match (standing, wanted) {
        (Standing::Primary, Role::Primary) | (Standing::Replica, Role::Replica) => None,
        (Standing::Unknown, _) => Some(format!("its checks have not said what it is, and role = \"{word}\"")),
        (Standing::Claimant, Role::Primary) => Some("it says that it is the primary, and so does another".to_owned()),
        (standing, _) => Some(format!("{}, and role = \"{word}\"", standing.name().unwrap_or_default())),
    }
}

/// Why a server cannot be picked, if it cannot.
fn not_eligible(report: &ServerReport, ordinary_left: bool, panic: bool) -> Option<String> {
    let note = report.note.as_ref().map_or(String::new(), |note| format!(": {}", note.why));
    match report.condition {
        ServerCondition::Disabled => Some("down = true in the file".to_owned()),
        ServerCondition::Draining | ServerCondition::Maintenance => {
            Some(format!("{}: `bascule server ready` gives it work again", report.condition.name()))
        }
        ServerCondition::Down | ServerCondition::Failed | ServerCondition::Ejected if !panic => {
            Some(format!("{}{note}", report.condition.name()))
        }
        ServerCondition::Up | ServerCondition::Unknown if report.full => Some("max_conns are in flight".to_owned()),
        ServerCondition::Up | ServerCondition::Unknown if report.backup && ordinary_left => {
            Some("a backup, and others are up".to_owned())
        }
        _ => None,
    }
}

/// What is known of a request that nobody has made; other variables have no value.
struct ImaginedVars<'a> {
    head: &'a RequestHead,
    bytes: &'a [u8],
    path: &'a [u8],
    scheme: &'a str,
    client: IpAddr,
    listener: &'a str,
}

impl Variables for ImaginedVars<'_> {
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let Self { head, bytes, .. } = *self;
        let query = head.query.map_or(&[][..], |query| query.of(bytes));
        match var {
            Var::RemoteAddr | Var::RealipRemoteAddr => write_ip(out, self.client),
            Var::Host => {
                let mut lower = [0; MAX_HOST];
                out.extend_from_slice(normalise_host(head.host.of(bytes), &mut lower).unwrap_or_default());
            }
            Var::RequestMethod => out.extend_from_slice(head.method_span.of(bytes)),
            Var::RequestUri => out.extend_from_slice(head.target.of(bytes)),
            Var::Uri => out.extend_from_slice(self.path),
            Var::Args => out.extend_from_slice(query),
            Var::IsArgs if !query.is_empty() => out.push(b'?'),
            Var::Scheme => out.extend_from_slice(self.scheme.as_bytes()),
            Var::Https if self.scheme == "https" => out.extend_from_slice(b"on"),
            Var::Listener => out.extend_from_slice(self.listener.as_bytes()),
            Var::ConnectionRequests => decimal(out, 1),
            Var::Http(name) => {
                for (i, value) in head.values(bytes, name).enumerate() {
                    out.extend_from_slice(if i > 0 { b", " } else { b"" });
                    out.extend_from_slice(value);
                }
            }
            Var::Arg(name) => out.extend_from_slice(pair(query.split(|&b| b == b'&'), name)),
            Var::Cookie(name) => {
                let cookies = head.fields.iter().filter(|f| f.name.of(bytes).eq_ignore_ascii_case(b"cookie"));
                let parts = cookies.flat_map(|f| f.value.of(bytes).split(|&b| b == b';')).map(<[u8]>::trim_ascii);
                out.extend_from_slice(pair(parts, name));
            }
            _ => {}
        }
        out.len() > start
    }
}

/// The value of the first `name=value` in `parts`, compared without regard to case.
fn pair<'a>(mut parts: impl Iterator<Item = &'a [u8]>, name: &str) -> &'a [u8] {
    let value = |part: &'a [u8]| {
        let equals = part.iter().position(|&b| b == b'=')?;
        part[..equals].eq_ignore_ascii_case(name.as_bytes()).then(|| &part[equals + 1..])
    };
    parts.find_map(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
