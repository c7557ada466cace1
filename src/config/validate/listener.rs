//! `[listener.*]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Context, admission, check_name, https, passthrough, role, sticky, tls};
use crate::config::decode::{At, Keys};
use crate::config::document::Place;
use crate::config::model::{Http2, HttpListener, Listener, Protocol, ProxyHeader, ProxyProtocol, TcpListener};
use crate::config::raw::{RawHttpListener, RawListener};

/// How long a TCP session may be silent before the kernel asks whether the client is there: a lost one would otherwise
/// hold a connection to a server for the whole `idle_timeout`.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

pub(super) fn listeners(cx: &mut Context<'_>) -> Vec<Listener> {
    let file = cx.file;
    check_addresses(cx);
    file.listener.iter().filter_map(|(name, raw)| listener(name, raw, cx)).collect()
}

fn listener(name: &str, raw: &At<RawListener>, cx: &mut Context<'_>) -> Option<Listener> {
    check_name("listener", name, raw.key, cx.problems);
    let protocol = *raw.protocol;
    foreign_keys(raw, protocol, cx);
    let bind = raw.bind.required("bind", raw.place, cx.problems);
    if let Some(bind) = bind.filter(|bind| bind.is_empty() && bind.complete) {
        cx.problems.error(bind.place, "a listener needs an address").help("bind = [\"0.0.0.0:80\"]");
    }
    let tcp = match protocol {
        Protocol::Http => None,
        Protocol::Tcp => {
            let pool = raw.pool.required("pool", raw.place, cx.problems);
            let found = pool.and_then(|pool| cx.pool(pool));
            pool.zip(found).map(|(pool, found)| {
                sticky::check_tcp(pool, found, cx);
                TcpListener {
                    pool: Some(pool.as_str().into()),
                    idle_timeout: raw.tcp.idle_timeout.get(),
                    roles: role::roles(&raw.roles, pool, found, cx),
                    passthrough: None,
                }
            })
        }
        Protocol::TlsPassthrough => passthrough::passthrough(raw, cx),
    };
    let top = cx.top_log();
    let http = http(raw, cx);
    let tls = tls::listener(raw, protocol, http.http2.is_on, cx);
    Some(Listener {
        name: name.into(),
        bind: bind?.iter().map(|address| **address).collect(),
        protocol,
        freebind: *raw.freebind,
        backlog: raw.backlog.0,
        max_connections: raw.max_connections.0.map(|n| n.0),
        tcp_keepalive: match raw.tcp_keepalive.get() {
            Some(period) => period.0.map(|period| period.get()),
            None => (protocol != Protocol::Http).then_some(TCP_KEEPALIVE),
        },
        access_log: cx.log_within(&raw.access_log, &top),
        admission: admission::of_listener(&raw.admission, protocol, cx),
        proxy_header: proxy_header(raw, cx),
        http,
        tcp,
        tls,
    })
}

fn proxy_header(raw: &RawListener, cx: &mut Context<'_>) -> Option<ProxyHeader> {
    let required = match *raw.proxy_protocol {
        ProxyProtocol::Off => return None,
        ProxyProtocol::Optional => false,
        ProxyProtocol::Required => true,
    };
    if raw.trusted_proxies.is_empty() && raw.trusted_proxies.complete {
        cx.problems
            .error(
                raw.proxy_protocol.place,
                "`proxy_protocol` needs `trusted_proxies`: anybody could claim any address",
            )
            .help("the networks of the balancers in front: trusted_proxies = [\"10.0.0.0/8\"]");
    }
    Some(ProxyHeader {
        required,
        trusted: raw.trusted_proxies.iter().map(|block| **block).collect(),
        timeout: raw.header_timeout.get(),
    })
}

fn http(listener: &RawListener, cx: &mut Context<'_>) -> HttpListener {
    let raw = &listener.http;
    let (header, uri) = (&raw.max_header_size, &raw.max_uri_size);
    if uri.0 > header.0 {
        let place = if uri.given { uri.place } else { header.place };
        cx.problems.error(place, "max_uri_size is more than max_header_size, of which it is a part");
    }
    HttpListener {
        header_timeout: listener.header_timeout.get(),
        body_timeout: raw.body_timeout.get(),
        send_timeout: raw.send_timeout.get(),
        keepalive_timeout: raw.keepalive_timeout.0.map_or(Duration::ZERO, |period| period.get()),
        keepalive_requests: raw.keepalive_requests.0,
        max_header_size: to_usize(header.0),
        max_header_count: to_usize(raw.max_header_count.0.into()),
        max_uri_size: to_usize(uri.0),
        underscores_in_headers: *raw.underscores_in_headers,
        trusted_proxies: listener.trusted_proxies.iter().map(|block| **block).collect(),
        http2: http2(raw, listener.tls.0.is_some(), cx),
        https: https::https(&listener.https, cx),
        acme_challenge_dir: raw.acme_challenge_dir.get().and_then(|path| https::challenge_dir(path, cx)),
    }
}

fn http2(raw: &RawHttpListener, tls: bool, cx: &mut Context<'_>) -> Http2 {
    let (stream, connection) = (&raw.http2_stream_window, &raw.http2_connection_window);
    if stream.0 > connection.0 {
        let place = if stream.given { stream.place } else { connection.place };
        cx.problems
            .error(
                place,
                "http2_stream_window is more than http2_connection_window, which holds for all streams together",
            )
            .help("raise http2_connection_window too");
    }
    let to_u32 = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Http2 {
        // Without TLS nobody has agreed to it: what is meant for a server of HTTP/1.1 behind us might be taken for it.
        is_on: raw.http2.get().map_or(tls, |on| **on),
        max_concurrent_streams: raw.http2_max_concurrent_streams.0,
        stream_window: to_u32(stream.0),
        connection_window: to_u32(connection.0),
        max_glitches: raw.http2_max_glitches.0,
    }
}

/// Keys that the protocol of this listener has no use for.
fn foreign_keys(raw: &RawListener, protocol: Protocol, cx: &mut Context<'_>) {
    let of_http = || [raw.http.given(), raw.https.given()].concat();
    let (groups, ours) = match protocol {
        Protocol::Http => ([(raw.tcp.given(), "tcp"), (raw.passthrough.given(), "tls_passthrough")], "speaks http"),
        Protocol::Tcp => ([(of_http(), "http"), (raw.passthrough.given(), "tls_passthrough")], "speaks tcp"),
        Protocol::TlsPassthrough => ([(of_http(), "http"), (raw.roles.given(), "tcp")], "passes TLS through"),
    };
    for (given, theirs) in groups {
        for (key, place) in given {
            cx.problems.error(place, format!("`{key}` is for protocol = \"{theirs}\", and this listener {ours}"));
        }
    }
    if protocol == Protocol::TlsPassthrough && *raw.proxy_protocol == ProxyProtocol::Off && raw.trusted_proxies.given {
        cx.problems
            .error(raw.trusted_proxies.key, "`trusted_proxies` needs `proxy_protocol` here: nobody says anything else");
    }
    if protocol == Protocol::Tcp && *raw.proxy_protocol == ProxyProtocol::Off {
        let trusted = ("trusted_proxies", raw.trusted_proxies.given, raw.trusted_proxies.key);
        let timeout = ("header_timeout", raw.header_timeout.given, raw.header_timeout.key);
        for (key, _, place) in [timeout, trusted].into_iter().filter(|(_, given, _)| *given) {
            let message = format!("`{key}` is for protocol = \"http\" or with `proxy_protocol`, and here is neither");
            cx.problems.error(place, message);
        }
    }
    if protocol == Protocol::Http {
        // With a pool of its own they are in a route by now.
        for (key, place) in raw.roles.given() {
            cx.problems
                .error(place, format!("`{key}` needs `pool`: this listener has none of its own"))
                .help("write it in the routes that are to have it");
        }
    }
}

/// An address, where it is written, and the listener that has it.
type Bound<'n> = (SocketAddr, Place, &'n str);

/// No address may be bound twice, nor beside the wildcard address of its family and port.
fn check_addresses(cx: &mut Context<'_>) {
    let mut taken: BTreeMap<(u16, bool), Vec<Bound<'_>>> = BTreeMap::new();
    for (name, listener) in cx.file.listener.iter() {
        for address in listener.bind.get().into_iter().flat_map(|bind| bind.iter()) {
            // Each socket on port 0 gets a port of its own.
            if address.port() != 0 {
                let others = taken.entry((address.port(), address.is_ipv4())).or_default();
                others.push((**address, address.place, name));
            }
        }
    }
    for others in taken.values_mut() {
        others.sort_by_key(|(_, place, _)| *place);
        for (i, (address, place, _)) in others.iter().enumerate() {
            let clashes = |(other, ..): &&Bound<'_>| {
                other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified()
            };
            if let Some((other, at, name)) = others[..i].iter().find(clashes) {
                let message = if other == address {
                    format!("{address} is bound already by listener \"{name}\"")
                } else {
                    format!("{address} overlaps {other} of listener \"{name}\"")
                };
                cx.problems.error(*place, message).note("the other is at", *at);
            }
        }
    }
}

/// A size that is within the range of its key.
pub(super) fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
