//! `[site.*]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::admission;
use super::https::https;
use super::log::Log;
use super::{Context, check_name, is_label, route, settings, tls};
use crate::config::decode::At;
use crate::config::document::Place;
use crate::config::model::{HostPattern, Listener, Protocol, Site};
use crate::config::raw::RawSite;
use crate::route::MAX_HOST;

pub(super) fn sites(listeners: &[Listener], cx: &mut Context<'_>) -> Vec<Site> {
    let file = cx.file;
    let mut hosts = Vec::new();
    let sites: Vec<Site> = file.site.iter().map(|(name, raw)| site(name, raw, listeners, &mut hosts, cx)).collect();
    check_hosts(hosts, cx);
    for (name, listener) in file.listener.iter().filter(|(_, listener)| *listener.protocol == Protocol::Http) {
        if sites.iter().all(|site| site.listeners.iter().all(|l| **l != **name)) {
            cx.problems
                .warning(listener.key, format!("no site uses listener \"{name}\": every request gets 404"))
                .help("give it a pool, or name it in `listeners` of a site");
        }
    }
    sites
}

/// A host of a site where it is written; `None` is every host not named elsewhere.
struct Claim {
    place: Place,
    host: Option<String>,
    listeners: Vec<Arc<str>>,
    site: String,
}

/// On a listener, a host belongs to one site.
fn check_hosts(mut claims: Vec<Claim>, cx: &mut Context<'_>) {
    claims.sort_by_key(|claim| claim.place);
    let mut taken = BTreeMap::new();
    for claim in &claims {
        for listener in &claim.listeners {
            let first = taken.entry((listener, &claim.host)).or_insert(claim);
            if first.place != claim.place {
                let host = claim.host.as_ref().map(|host| format!("\"{host}\""));
                let host = host.as_deref().unwrap_or("every host not named elsewhere");
                let site = &first.site;
                cx.problems
                    .error(claim.place, format!("{host} on listener \"{listener}\" belongs to site \"{site}\" already"))
                    .note("it is at", first.place);
            }
        }
    }
}

fn site(
    name: &str,
    raw: &At<RawSite>,
    all_listeners: &[Listener],
    claims: &mut Vec<Claim>,
    cx: &mut Context<'_>,
) -> Site {
    // The site of a short form has its listener's name.
    if !cx.file.listener.contains_key(name) {
        check_name("site", name, raw.key, cx.problems);
    }
    let listeners = listeners(raw, cx);
    let hosts: Vec<(HostPattern, Place)> =
        raw.hosts.iter().filter_map(|host| Some((host_pattern(host, cx)?, host.place))).collect();
    let default = raw.hosts.is_empty() && raw.hosts.complete;
    let texts = hosts.iter().map(|(host, place)| (Some(host_text(host)), *place));
    for (host, place) in texts.chain(default.then_some((None, raw.key))) {
        claims.push(Claim { place, host, listeners: listeners.clone(), site: name.to_owned() });
    }
    let outer = outer_log(raw, &listeners, cx);
    let access_log = cx.log_within(&raw.access_log, &outer);
    if raw.route.is_empty() {
        cx.problems.warning(raw.key, format!("site \"{name}\" has no route: every request gets 404"));
    }
    let https = https(&raw.https, cx);
    let own: Vec<&Listener> = all_listeners.iter().filter(|listener| listeners.contains(&listener.name)).collect();
    Site {
        name: name.into(),
        tls: tls::site(raw, &hosts, &https, &own, cx),
        hosts: hosts.into_iter().map(|(host, _)| host).collect(),
        error_pages: settings::error_pages(&[&raw.settings], cx),
        admission: admission(&[&raw.admission], cx),
        https,
        routes: route::routes(name, raw, &access_log, cx),
        listeners,
        access_log,
    }
}

fn listeners(raw: &RawSite, cx: &mut Context<'_>) -> Vec<Arc<str>> {
    let file = cx.file;
    if raw.listeners.is_empty() && raw.listeners.complete {
        let http = file.listener.iter().filter(|(_, listener)| *listener.protocol == Protocol::Http);
        return http.map(|(name, _)| name.as_str().into()).collect();
    }
    let mut listeners: Vec<Arc<str>> = Vec::new();
    for name in raw.listeners.iter() {
        match file.listener.get(&**name) {
            None => cx.unknown("listener", name, &file.listener),
            Some(listener) if *listener.protocol != Protocol::Http => {
                cx.problems.error(name.place, format!("listener \"{}\" does not speak http", **name));
            }
            Some(_) if listeners.iter().any(|known| **known == **name) => {
                cx.problems.error(name.place, format!("\"{}\" is there twice", **name));
            }
            Some(_) => listeners.push(name.as_str().into()),
        }
    }
    listeners
}

/// The log around a site: that of its listeners, when they agree.
fn outer_log(raw: &At<RawSite>, listeners: &[Arc<str>], cx: &mut Context<'_>) -> Log {
    let file = cx.file;
    let top = cx.top_log();
    let mut logs = Vec::new();
    for listener in listeners.iter().filter_map(|name| file.listener.get(&**name)) {
        let log = cx.log_within(&listener.access_log, &top);
        if !logs.contains(&log) {
            logs.push(log);
        }
    }
    match logs.as_slice() {
        [] => top,
        [log] => log.clone(),
        [..] => {
            if raw.access_log.is_absent() {
                cx.problems
                    .error(raw.key, "the listeners of this site have different access logs")
                    .help("say in the site which one it has: access_log = false, or { path = ..., format = ... }");
            }
            top
        }
    }
}

pub(super) fn host_pattern(host: &At<String>, cx: &mut Context<'_>) -> Option<HostPattern> {
    let text = host.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let wildcard = text.strip_prefix('*');
    let name = wildcard.map_or(text, |rest| rest.strip_prefix('.').unwrap_or(""));
    let is_v6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_v6 = wildcard.is_none() && is_v6.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    if is_v6 || (name.len() <= MAX_HOST && name.split('.').all(is_label)) {
        return Some(match wildcard {
            Some(suffix) => HostPattern::Suffix(suffix.into()),
            None => HostPattern::Exact(name.into()),
        });
    }
    let help = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => Some(format!("a host has no port here: \"{host}\"")),
        _ if text == "*" || text == "_" => Some("without `hosts` a site takes every host not named elsewhere".into()),
        _ if text.starts_with('.') => Some(format!("write \"{}\" and \"*{text}\"", &text[1..])),
        _ if text.starts_with('~') => Some("regular expressions are not for hosts; use \"*.example.com\"".into()),
        _ if text.ends_with(".*") => Some("the wildcard can only be the first label: \"*.example.com\"".into()),
        _ if !text.is_ascii() => Some("write the name as it is on the wire, in punycode: \"xn--...\"".into()),
        _ => None,
    };
    cx.problems.error(host.place, "not a host").maybe_help(help);
    None
}

pub(super) fn host_text(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}
