//! Listeners with `protocol = "tls_passthrough"`.

use super::{Context, site, sticky, tls};
use crate::config::decode::{At, Field};
use crate::config::model::{HostPattern, Passthrough, TcpListener, TlsRoute};
use crate::config::raw::{RawListener, RawTlsRoute};

pub(super) fn passthrough(raw: &At<RawListener>, cx: &mut Context<'_>) -> Option<TcpListener> {
    let written = &raw.passthrough.tls_route;
    if raw.pool.is_absent() && written.is_empty() && written.complete {
        cx.problems
            .error(raw.place, "a listener that passes TLS through needs `tls_route`, `pool` or both")
            .help("[[listener.NAME.tls_route]] with sni = [\"shop.example.com\"] and pool = \"shop\"");
    }
    let mut routes: Vec<(&At<RawTlsRoute>, TlsRoute)> = Vec::new();
    for raw in written.iter() {
        let Some(route) = route(raw, cx) else { continue };
        let before = routes.iter().find_map(|(other, before)| Some((other, same_claim(before, &route)?)));
        if let Some((other, what)) = before {
            cx.problems.error(raw.place, format!("{what} is taken already")).note("by the route at", other.place);
        }
        routes.push((raw, route));
    }
    let pool = pool_of(&raw.pool, cx);
    Some(TcpListener {
        pool: pool.map(|pool| pool.as_str().into()),
        idle_timeout: raw.tcp.idle_timeout.get(),
        roles: None,
        passthrough: Some(Passthrough {
            routes: routes.into_iter().map(|(_, route)| route).collect(),
            timeout: raw.header_timeout.get(),
        }),
    })
}

fn route(raw: &At<RawTlsRoute>, cx: &mut Context<'_>) -> Option<TlsRoute> {
    if raw.sni.is_empty() && raw.sni.complete && raw.alpn.is_empty() && raw.alpn.complete {
        cx.problems
            .error(raw.place, "a route without `sni` and `alpn` takes everything")
            .help("write its pool in the listener: pool = \"...\"");
    }
    let names = raw.sni.iter().filter_map(|name| pattern(name, cx)).collect();
    for name in raw.alpn.iter().filter(|name| !(1..=tls::LONGEST_ALPN).contains(&name.len())) {
        cx.problems.error(name.place, format!("not the name of a protocol: 1 to {} bytes", tls::LONGEST_ALPN));
    }
    raw.pool.required("pool", raw.place, cx.problems);
    let pool = pool_of(&raw.pool, cx)?;
    let alpn = raw.alpn.iter().map(|name| name.as_str().into()).collect();
    Some(TlsRoute { names, alpn, pool: pool.as_str().into() })
}

fn pattern(name: &At<String>, cx: &mut Context<'_>) -> Option<HostPattern> {
    let pattern = site::host_pattern(name, cx)?;
    if matches!(&pattern, HostPattern::Exact(name) if name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok())
    {
        cx.problems.error(name.place, "clients name no addresses").help("what comes without a name goes to `pool`");
    }
    Some(pattern)
}

/// The pool of a session.
fn pool_of<'f>(name: &'f Field<String>, cx: &mut Context<'_>) -> Option<&'f At<String>> {
    let name = name.get()?;
    let found = cx.pool(name)?;
    sticky::check_tcp(name, found, cx);
    Some(name)
}

/// What two routes both claim, so that the second never gets it.
fn same_claim(one: &TlsRoute, other: &TlsRoute) -> Option<String> {
    let protocol = match (&one.alpn[..], &other.alpn[..]) {
        ([], []) => String::new(),
        (ours, theirs) => format!(" with protocol \"{}\"", ours.iter().find(|name| theirs.contains(name))?),
    };
    match (&one.names[..], &other.names[..]) {
        ([], []) => Some(format!("what has no route of its own{protocol}")),
        (ours, theirs) => {
            let name = ours.iter().find(|name| theirs.contains(name))?;
            Some(format!("\"{}\"{protocol}", site::host_text(name)))
        }
    }
}
