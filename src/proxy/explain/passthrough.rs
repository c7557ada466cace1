//! Where TLS goes that is passed through.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::model::{HostPattern, Passthrough, Protocol, TlsRoute};
use crate::proxy::explain::{Explanation, Query, connects, listener, session, split_port};
use crate::snapshot::Snapshot;
use crate::telemetry::reason::Reason;

const PORT: u16 = 443;

/// Explains `tls://` and `rest`, which is `host[:port][?alpn=PROTOCOL,...]`.
///
/// # Errors
/// What is wrong with it, for the operator.
pub(super) fn explain(
    snapshot: &Snapshot,
    query: &Query<'_>,
    rest: &str,
    mut to: Explanation,
) -> Result<Explanation, String> {
    let (authority, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let offered = match parameters.strip_prefix("alpn=") {
        Some(names) => names.split(',').map(|name| name.as_bytes().to_vec()).collect(),
        None if parameters.is_empty() => Vec::new(),
        None => {
            return Err(format!("tls://{rest}: after `?` there is only alpn=PROTOCOL,... such as ?alpn=h2,http/1.1"));
        }
    };
    let (host, port) = split_port(authority.trim_end_matches('/'), PORT)?;
    let host = host.to_ascii_lowercase();
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let (index, listener) = listener(snapshot, Protocol::TlsPassthrough, ip, port, &mut to)?;
    if !connects(snapshot, index, query.client, &mut to) {
        return Ok(to);
    }
    // Who connects to an address names no host.
    let name = Some(host.strip_suffix('.').unwrap_or(&host)).filter(|name| ip.is_none() && !name.is_empty());
    let view = &snapshot.listeners[index];
    let found = view.passthrough.as_ref().and_then(|routes| routes.find(name, &offered));
    let routes = listener.tcp.as_ref().and_then(|tcp| tcp.passthrough.as_ref());
    let (route, why) = match found.zip(routes) {
        Some(((number, _), routes)) => (format!("tls_route {}", number + 1), why(routes, number, name, &offered)),
        None => ("none".to_owned(), "no tls_route has the name and the protocols".to_owned()),
    };
    to.route = Some(Arc::from(route));
    to.route_why = why;
    match found.map_or(view.pool, |(_, pool)| pool) {
        Some(pool) => session(snapshot, index, pool, query, &mut to),
        None => to.action = format!("closed with the alert unrecognized_name: {}", Reason::NoRoute),
    }
    Ok(to)
}

fn why(routes: &Passthrough, number: usize, name: Option<&str>, offered: &[Vec<u8>]) -> String {
    let Some(TlsRoute { names, alpn, .. }) = routes.routes.get(number) else { return String::new() };
    let name = name.unwrap_or_default();
    let matches = |pattern: &&HostPattern| match pattern {
        HostPattern::Exact(exact) => **exact == *name,
        HostPattern::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
    };
    let length = |pattern: &&HostPattern| match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Suffix(suffix) => suffix.len(),
    };
    let by_name = match names.iter().filter(matches).max_by_key(length) {
        Some(HostPattern::Exact(exact)) => format!("sni {exact}"),
        Some(HostPattern::Suffix(suffix)) => format!("sni *{suffix}"),
        None => "any name".to_owned(),
    };
    let protocol = alpn.iter().find(|name| offered.iter().any(|offer| offer == name.as_bytes()));
    protocol.map_or_else(|| by_name.clone(), |protocol| format!("{by_name}, alpn {protocol}"))
}
