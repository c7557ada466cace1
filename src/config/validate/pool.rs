//! `[pool.*]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::{Context, check, check_name, is_label, server_tls, settings, sick, sticky};
use crate::config::decode::{At, Field, List};
use crate::config::model::{Algorithm, HttpVersion, Pool, RetryBudget, ServerAddress, ServerSpec};
use crate::config::raw::{RawPool, RawServer};
use crate::config::words::{AlgorithmName, CheckType, Failback, Primaries, Server, ServerText};
use crate::health::roles::Policy;
use crate::template::Scope;

pub(super) fn pools(cx: &mut Context<'_>) -> Vec<Arc<Pool>> {
    let file = cx.file;
    file.pool.iter().filter_map(|(name, raw)| pool(name, raw, cx).map(Arc::new)).collect()
}

fn pool(name: &str, raw: &At<RawPool>, cx: &mut Context<'_>) -> Option<Pool> {
    check_name("pool", name, raw.key, cx.problems);
    let algorithm = algorithm(raw, cx);
    let servers = raw.servers.required("servers", raw.place, cx.problems);
    let servers = servers.map(|written| servers_of(raw, written, cx));
    sick::slow_start(raw, cx);
    warn_of_handshakes(raw, cx);
    if raw.send_proxy_protocol.0.is_some() && *raw.http_version == HttpVersion::Http2 {
        cx.problems
            .error(raw.send_proxy_protocol.key, "`send_proxy_protocol` does not go with http_version = \"2\"")
            .help("a header names one client, and requests of several share a connection of HTTP/2");
    }
    let levels = [&raw.settings];
    // Settings of a pool that no route takes are looked at too.
    settings::policy(&levels, None, cx);
    Some(Pool {
        name: name.into(),
        algorithm: algorithm?,
        servers: servers?,
        fail_open: *raw.fail_open,
        fallback: sick::fallback(name, raw, cx),
        panic_threshold: raw.panic_threshold.0.as_ref().map(|percent| percent.0),
        sticky: sticky::sticky(raw, cx),
        ejection: sick::ejection(raw, cx),
        circuit_breaker: sick::circuit_breaker(raw, cx),
        http_version: *raw.http_version,
        tls: server_tls::pool(raw, cx),
        // A connection is that of the client it was opened for.
        keepalive: if raw.send_proxy_protocol.0.is_some() { 0 } else { raw.keepalive.0 as usize },
        keepalive_timeout: raw.keepalive_timeout.get(),
        keepalive_requests: raw.keepalive_requests.0,
        keepalive_time: raw.keepalive_time.get(),
        queue: raw.queue.0,
        queue_timeout: raw.queue_timeout.get(),
        source_addresses: raw.source_addresses.iter().map(|address| **address).collect(),
        tcp_keepalive: raw.tcp_keepalive.0.map(|period| period.get()),
        send_proxy_protocol: raw.send_proxy_protocol.0,
        connect_timeout: raw.settings.connect_timeout.get(),
        retry: settings::retry(&levels),
        retry_budget: RetryBudget { percent: raw.retry_budget.percent.0, min: raw.retry_budget.min.0 },
        health_check: check::health_check(&raw.health_check, raw.tls.0.is_some(), cx),
        primaries: primaries(raw, cx),
    })
}

/// MySQL counts connections that break off before the login, and blocks the host when there are max_connect_errors of them.
fn warn_of_handshakes(raw: &RawPool, cx: &mut Context<'_>) {
    let Some(check) = raw.health_check.0.as_ref().filter(|check| *check.r#type == CheckType::Tcp) else { return };
    let own = check.port.get().map(|port| port.0);
    let servers = raw.servers.get().into_iter().flat_map(|servers| servers.iter());
    let mut ports = servers.filter_map(|server| server.0.address.get()).map(|address| u32::from(address.port));
    if own == Some(3306) || own.is_none() && ports.any(|port| port == 3306) {
        let place = if check.r#type.given { check.r#type.place } else { raw.health_check.place };
        cx.problems
            .warning(place, "MySQL counts connections without a login, and blocks this box after max_connect_errors")
            .help("type = \"mysql\" logs in");
    }
}

fn primaries(raw: &RawPool, cx: &mut Context<'_>) -> Policy {
    let knows = raw.health_check.0.as_ref().is_some_and(|check| check.r#type.knows_roles());
    if raw.primaries.given && !knows {
        cx.problems.error(raw.primaries.key, "`primaries` needs checks that know roles").help(check::KNOW_ROLES);
    }
    let first = *raw.primaries == Primaries::First;
    if raw.failback.given && !first {
        cx.problems.error(raw.failback.key, "`failback` needs primaries = \"first\"");
    }
    if first { Policy::First { failback: *raw.failback == Failback::Always } } else { Policy::One }
}

fn algorithm(raw: &RawPool, cx: &mut Context<'_>) -> Option<Algorithm> {
    let name = *raw.algorithm;
    let consistent = raw.consistent.given.then_some(raw.consistent.key);
    let needs = [
        ("hash_key", raw.hash_key.key(), AlgorithmName::Hash, "hash"),
        ("consistent", consistent, AlgorithmName::Hash, "hash"),
        ("ip_hash_mask", raw.ip_hash_mask.key(), AlgorithmName::IpHash, "ip_hash"),
    ];
    for (key, place, needed, written) in needs {
        if let Some(place) = place.filter(|_| name != needed) {
            cx.problems.error(place, format!("`{key}` needs algorithm = \"{written}\""));
        }
    }
    Some(match name {
        AlgorithmName::RoundRobin => Algorithm::RoundRobin,
        AlgorithmName::LeastConn => Algorithm::LeastConn,
        AlgorithmName::RandomTwo => Algorithm::RandomTwo,
        AlgorithmName::First => Algorithm::First,
        AlgorithmName::IpHash => {
            Algorithm::IpHash { mask: raw.ip_hash_mask.get().map(|mask| (bits(mask.ipv4.0), bits(mask.ipv6.0))) }
        }
        AlgorithmName::Hash => {
            if raw.hash_key.is_absent() {
                cx.problems
                    .error(raw.algorithm.place, "algorithm = \"hash\" needs `hash_key`")
                    .help("such as hash_key = \"$request_uri\" or \"$cookie_session\"");
            }
            let key = raw.hash_key.get()?;
            let template = cx.template(key, Scope::Request)?;
            if template.as_constant().is_some() {
                cx.problems.warning(key.place, "a key without a variable sends everything to one server");
            }
            Algorithm::Hash { key: template, consistent: *raw.consistent }
        }
    })
}

/// A number of bits that is within the range of its key.
pub(super) fn bits(n: u32) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn servers_of(raw: &RawPool, written: &At<List<Server>>, cx: &mut Context<'_>) -> Vec<ServerSpec> {
    if !written.complete {
        // What is left may be empty, or backups only, because of mistakes that are noted already.
    } else if written.is_empty() {
        cx.problems.error(written.place, "a pool needs a server").help("servers = [\"10.0.0.1:80\"]");
    } else if written.iter().all(|server| *server.0.backup) {
        cx.problems
            .error(written.place, "every server is a backup")
            .help("at least one must be without `backup = true`");
    } else if written.iter().all(|server| *server.0.down) {
        cx.problems.warning(written.place, "every server is down: every request gets 502");
    }
    let mut names: BTreeMap<&str, &At<Server>> = BTreeMap::new();
    let mut servers = Vec::new();
    for at in written.iter() {
        let server = &at.0;
        if *raw.algorithm == AlgorithmName::IpHash && *server.backup {
            cx.problems
                .error(server.backup.place, "algorithm = \"ip_hash\" has no backup servers, as in nginx")
                .help("hash with hash_key = \"$remote_addr\" has");
        }
        let Some(address) = server.address.required("address", at.place, cx.problems) else { continue };
        let name = match server.name.get() {
            Some(name) => {
                check_name("server", name, name.place, cx.problems);
                name.as_str()
            }
            None => address.text.as_str(),
        };
        if let Some(first) = names.get(name) {
            cx.problems
                .error(
                    server.name.get().map_or(address.place, |name| name.place),
                    format!("two servers are called \"{name}\""),
                )
                .help("give each a `name` of its own")
                .note("the first is at", first.place);
        }
        names.insert(name, at);
        servers.extend(server_spec(raw, server, name, address, cx));
    }
    servers
}

fn server_spec(
    pool: &RawPool,
    raw: &RawServer,
    name: &str,
    address: &At<ServerText>,
    cx: &mut Context<'_>,
) -> Option<ServerSpec> {
    Some(ServerSpec {
        address: server_address(address, cx)?,
        name: name.into(),
        weight: raw.weight.0,
        max_fails: own_or(&raw.max_fails, &pool.max_fails).0,
        fail_timeout: own_or(&raw.fail_timeout, &pool.fail_timeout).get(),
        max_conns: own_or(&raw.max_conns, &pool.max_conns).0,
        slow_start: own_or(&raw.slow_start, &pool.slow_start).0.as_ref().map(|period| period.get()),
        backup: *raw.backup,
        down: *raw.down,
    })
}

fn own_or<'r, T>(own: &'r Field<T>, pools: &'r At<T>) -> &'r At<T> {
    own.get().unwrap_or(pools)
}

fn server_address(at: &At<ServerText>, cx: &mut Context<'_>) -> Option<ServerAddress> {
    let ServerText { host, port, .. } = &**at;
    let ip = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    if let Some(ip) = ip {
        if ip.is_unspecified() || ip.is_multicast() {
            cx.problems.error(at.place, "no server has this address");
        }
        return Some(ServerAddress::Ip(SocketAddr::new(ip, *port)));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric || name.len() > 253 || !name.split('.').all(is_label) {
        cx.problems.error(at.place, "neither an IP address nor a host name");
        return None;
    }
    Some(ServerAddress::Name { host: name.into(), port: *port })
}
