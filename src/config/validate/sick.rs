//! What a pool does about servers that are sick: slow start, ejection.

use std::sync::Arc;

use super::Context;
use crate::config::model::Ejection;
use crate::config::raw::RawPool;
use crate::config::words::AlgorithmName;

/// Warns of a slow start that has no effect.
pub(super) fn slow_start(raw: &RawPool, cx: &mut Context<'_>) {
    let word = match *raw.algorithm {
        AlgorithmName::Hash => "hash",
        AlgorithmName::IpHash => "ip_hash",
        AlgorithmName::First => "first",
        AlgorithmName::RoundRobin | AlgorithmName::LeastConn | AlgorithmName::RandomTwo => return,
    };
    let own = raw.servers.get().into_iter().flat_map(|servers| servers.iter());
    let own = own.filter_map(|server| server.0.slow_start.get()).map(|at| (at.place, at.0.is_some()));
    let of_pool = raw.slow_start.given.then_some((raw.slow_start.place, raw.slow_start.0.is_some()));
    if let Some((place, _)) = of_pool.into_iter().chain(own).find(|(_, is_on)| *is_on) {
        cx.problems
            .warning(place, format!("algorithm = \"{word}\" does not look at weights that grow: only max_conns does"))
            .help("round_robin, least_conn and random_two have a slow start");
    }
}

/// The pool that takes over, which must not lead back to this one.
pub(super) fn fallback(name: &str, raw: &RawPool, cx: &mut Context<'_>) -> Option<Arc<str>> {
    let written = raw.fallback_pool.get()?;
    let mut next = cx.pool(written)?;
    let mut way = vec![name, written.as_str()];
    // Whoever is in a loop finds itself again; others that lead to one do not, and say nothing.
    for _ in 0..cx.file.pool.len() {
        if way.last() == Some(&name) {
            cx.problems
                .error(written.place, format!("this comes back to pool \"{name}\": {}", way.join(" -> ")))
                .help("leave out one of these `fallback_pool`");
            return None;
        }
        let Some((further, pool)) = next.fallback_pool.get().and_then(|n| Some((n, cx.file.pool.get(&**n)?))) else {
            break;
        };
        way.push(further);
        next = pool;
    }
    Some(written.as_str().into())
}

pub(super) fn ejection(raw: &RawPool, cx: &mut Context<'_>) -> Option<Ejection> {
    let raw = raw.ejection.0.as_ref()?;
    let (base, max) = (raw.ejection_time.get(), raw.max_ejection_time.get());
    if base > max {
        // Whichever was written is what is to be changed.
        let place = if raw.ejection_time.given { raw.ejection_time.place } else { raw.max_ejection_time.place };
        cx.problems
            .error(place, "`ejection_time` is longer than `max_ejection_time`")
            .help("lower the one or raise the other; their defaults are 30s and 300s");
    }
    if raw.consecutive_5xx.0 == 0 && raw.consecutive_gateway_errors.0 == 0 {
        cx.problems
            .error(raw.consecutive_5xx.place, "nothing ejects a server: both counts are 0")
            .help("set one of them, or ejection = \"off\"");
    }
    Some(Ejection {
        consecutive_5xx: raw.consecutive_5xx.0,
        consecutive_gateway_errors: raw.consecutive_gateway_errors.0,
        ejection_time: base,
        max_ejection_time: max,
        max_ejected: raw.max_ejected.0,
    })
}
