//! `[limit.*]`, and `limits`, `allow` and `deny` of listeners, sites and routes.

use std::sync::Arc;

use super::listener::to_usize;
use super::{Context, check_name};
use crate::admission::{AccessList, Bounds, Rate, Undelayed};
use crate::config::decode::At;
use crate::config::model::{Admission, Limit, LimitKey, Protocol};
use crate::config::raw::{RawAdmission, RawLimit};
use crate::template::Scope;

/// The key that is an address and is counted by prefix.
const ADDRESS: &str = "$remote_addr";

/// nginx's name of it.
const NGINX_ADDRESS: &str = "$binary_remote_addr";

pub(super) fn limits(cx: &mut Context<'_>) -> Vec<Arc<Limit>> {
    let file = cx.file;
    file.limit.iter().filter_map(|(name, raw)| limit(name, raw, cx)).map(Arc::new).collect()
}

fn limit(name: &str, raw: &At<RawLimit>, cx: &mut Context<'_>) -> Option<Limit> {
    check_name("limit", name, raw.key, cx.problems);
    if raw.rate.is_absent() && raw.concurrent.is_absent() {
        cx.problems.error(raw.key, "a limit needs `rate`, `concurrent` or both").help("rate = \"10/s\"");
    }
    let burst = raw.burst.0;
    if raw.rate.is_absent() {
        let of_rate = [("burst", raw.burst.given, raw.burst.key), ("delay", raw.delay.given, raw.delay.key)];
        for (key, _, place) in of_rate.into_iter().filter(|(_, given, _)| *given) {
            cx.problems.error(place, format!("`{key}` needs `rate`"));
        }
    } else if let Undelayed::First(n) = raw.delay.0
        && n >= burst
    {
        let help = if burst == 0 {
            "without `burst` what comes too early is refused, and never waits"
        } else {
            "\"none\" lets the whole burst go on at once"
        };
        cx.problems.error(raw.delay.place, "`delay` must be less than `burst`: nothing would wait").help(help);
    }
    let rate = raw.rate.get();
    let concurrent = raw.concurrent.get();
    let key = key(raw, cx)?;
    Some(Limit {
        name: name.into(),
        key,
        bounds: Bounds {
            rate: rate.map(|rate| Rate::new(rate.count, rate.period, burst, raw.delay.0)),
            concurrent: concurrent.and_then(|n| n.0.try_into().ok()),
            max_keys: to_usize(raw.max_keys.0.into()),
        },
        status: u16::try_from(raw.status.0).unwrap_or(429),
        dry_run: *raw.dry_run,
        text: text(raw).into(),
    })
}

fn key(raw: &RawLimit, cx: &mut Context<'_>) -> Option<LimitKey> {
    if raw.key.as_str() == ADDRESS {
        let prefix = |bits: u32| u8::try_from(bits).unwrap_or(u8::MAX);
        return Some(LimitKey::Address { v4: prefix(raw.prefix_ipv4.0), v6: prefix(raw.prefix_ipv6.0) });
    }
    let prefixes = [(raw.prefix_ipv4.given, raw.prefix_ipv4.key), (raw.prefix_ipv6.given, raw.prefix_ipv6.key)];
    for (_, place) in prefixes.into_iter().filter(|(given, _)| *given) {
        cx.problems.error(place, format!("only the key \"{ADDRESS}\" is counted by prefix"));
    }
    if raw.key.is_empty() {
        cx.problems.error(raw.key.place, "an empty key is not limited").help(format!("\"{ADDRESS}\" for each client"));
        return None;
    }
    if raw.key.contains(NGINX_ADDRESS) {
        let help = format!("write \"{}\"", raw.key.replace(NGINX_ADDRESS, ADDRESS));
        cx.problems.error(raw.key.place, format!("unknown variable `{NGINX_ADDRESS}`")).help(help);
        return None;
    }
    cx.template(&raw.key, Scope::Request).map(LimitKey::Text)
}

/// What a limit allows, in the words of the file.
fn text(raw: &RawLimit) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = raw.rate.get() {
        parts.push(rate.text.clone());
        if raw.burst.0 > 0 {
            parts.push(format!("burst {}", raw.burst.0));
        }
        match raw.delay.0 {
            Undelayed::All => {}
            Undelayed::First(0) => parts.push("delayed".to_owned()),
            Undelayed::First(n) => parts.push(format!("delayed but for the first {n}")),
        }
    }
    parts.extend(raw.concurrent.get().map(|n| format!("{} at a time", n.0)));
    parts.join(", ")
}

/// What holds at a place, `levels` from the innermost outwards.
pub(super) fn admission(levels: &[&RawAdmission], cx: &mut Context<'_>) -> Admission {
    let mut limits: Vec<Arc<Limit>> = Vec::new();
    let nearest = levels.iter().find(|level| level.limits.given);
    for name in nearest.into_iter().flat_map(|level| level.limits.iter()) {
        if cx.file.limit.contains_key(&**name) {
            cx.used_limits.push((**name).clone());
        } else {
            cx.unknown("limit", name, &cx.file.limit);
        }
        if limits.iter().any(|known| *known.name == **name) {
            cx.problems.error(name.place, format!("\"{}\" is there twice", **name));
        }
        // One that could not be made has been told of.
        limits.extend(cx.limits.iter().find(|limit| *limit.name == **name).cloned());
    }
    let access = levels.iter().find(|level| level.allow.given || level.deny.given).and_then(|level| {
        let networks = |list: &[At<_>]| list.iter().map(|network| **network).collect::<Vec<_>>();
        AccessList::new(&networks(&level.allow), &networks(&level.deny))
    });
    Admission { limits, access: access.map(Arc::new) }
}

/// What holds at a listener.
pub(super) fn of_listener(raw: &RawAdmission, protocol: Protocol, cx: &mut Context<'_>) -> Admission {
    let admission = admission(&[raw], cx);
    for name in raw.limits.iter().filter(|_| protocol != Protocol::Http) {
        // Not the place of the table's key, which has the same name.
        let Some(limit) = cx.file.limit.get(&**name).map(|limit| &**limit) else { continue };
        if limit.key.as_str() != ADDRESS {
            let message = format!("limit \"{}\" is not for tcp: its key is not \"{ADDRESS}\"", **name);
            cx.problems.error(name.place, message).note("the key is at", limit.key.place);
        }
        if limit.delay.0 != Undelayed::All {
            let message = format!("limit \"{}\" is not for tcp: connections are not delayed", **name);
            cx.problems.error(name.place, message).note("the delay is at", limit.delay.place);
        }
    }
    admission
}
