//! What a pool does about servers that are sick: slow start, ejection, circuit breaker.

use std::sync::Arc;

use super::Context;
use crate::config::decode::Keys;
use crate::config::model::{CircuitBreaker, Ejection};
use crate::config::raw::RawPool;
use crate::config::words::AlgorithmName;
use crate::health::breaker::Limits;

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

pub(super) fn circuit_breaker(raw: &RawPool, cx: &mut Context<'_>) -> Option<CircuitBreaker> {
    let at = &raw.circuit_breaker;
    let raw = at.0.as_ref()?;
    let (window, open_time) = (raw.window.get(), raw.open_time.get());
    let (min_requests, trials) = (raw.min_requests.0, raw.half_open_requests.0);
    let errors = raw.error_rate.0.as_ref();
    let errors = errors.map(|percent| Limits::new(percent.0, window, min_requests, open_time, trials));
    let bounds = [raw.max_connections.0, raw.max_pending.0, raw.max_requests.0, raw.max_retries.0];
    if errors.is_none() {
        const OF_ERRORS: [&str; 4] = ["window", "min_requests", "open_time", "half_open_requests"];
        for (key, place) in raw.given().into_iter().filter(|(key, _)| OF_ERRORS.contains(key)) {
            cx.problems.error(place, format!("`{key}` needs `error_rate`")).help("such as error_rate = \"50%\"");
        }
        if bounds == [0; 4] {
            cx.problems
                .error(at.place, "this bounds nothing, and nothing opens it")
                .help("give it `error_rate` or one of the limits; or circuit_breaker = \"off\"");
        }
    }
    let [max_connections, max_pending, max_requests, max_retries] = bounds;
    Some(CircuitBreaker { max_connections, max_pending, max_requests, max_retries, errors })
}
