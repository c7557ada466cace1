//! Answers of the running instance in words, for people: compact with a thousand servers, whatever is not well first.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// `status`: redundancy and health in a line, then the rest.
pub(super) fn status(status: &Value) -> String {
    let mut out = String::new();
    first_line(&mut out, status);
    let proxy = &status["proxy"];
    let stopping = if status["stopping"] == true { ", STOPPING" } else { "" };
    let _ = writeln!(
        out,
        "bascule {}, pid {}, up {}, generation {}{stopping}; proxy pid {}, {} client connections",
        text(&status["version"]),
        status["pid"],
        duration(&status["uptime_seconds"]),
        status["generation"],
        proxy["pid"],
        proxy["connections"]
    );
    match status["file"]["is"].as_str() {
        Some("changed") => out.push_str("the file has changed: `bascule reload` takes it over\n"),
        Some("unreadable") => out.push_str("the file cannot be read: what runs is what was in it\n"),
        Some("rolled_back") => out.push_str("an earlier generation runs, not the file\n"),
        _ => {}
    }
    if let Some(seconds) = status["unconfirmed_seconds"].as_u64() {
        let _ = writeln!(out, "the configuration goes back in {seconds} s unless `bascule confirm` comes");
    }
    for retired in list(&status["retired"]) {
        let (pid, connections) = (&retired["pid"], &retired["connections"]);
        let _ = writeln!(out, "replaced proxy pid {pid} finishes {connections} client connections");
    }
    for said in list(&status["overrides"]) {
        let duty = said["duty"].as_str().map_or(String::new(), |duty| format!(" {duty}"));
        let weight = said["weight"].as_u64().map_or(String::new(), |weight| format!(" weight {weight}"));
        let (pool, server) = (text(&said["pool"]), text(&said["server"]));
        let age = duration(&said["for_seconds"]);
        let _ = writeln!(out, "override: {pool}/{server}{duty}{weight}, for {age}, by {}", text(&said["by"]));
    }
    if let Some(trouble) = proxy["trouble"].as_str() {
        let _ = writeln!(out, "proxy: {trouble}");
    }
    describe_certificates(&mut out, &status["certificates"]);
    if let Some(dropped) = status["dropped_log_lines"].as_u64().filter(|dropped| *dropped > 0) {
        let _ = writeln!(out, "access log: {dropped} lines lost");
    }
    if !list(&status["listeners"]).is_empty() {
        out.push('\n');
    }
    for l in list(&status["listeners"]) {
        let rejected = if l["rejected"] == 0 { String::new() } else { format!(", {} REJECTED", l["rejected"]) };
        let denied = l["denied"].as_u64().filter(|denied| *denied > 0);
        let denied = denied.map_or(String::new(), |denied| format!(", {denied} denied"));
        let tls = &l["tls"];
        let failed = tls["failed"].as_u64().filter(|failed| *failed > 0);
        let failed = failed.map_or(String::new(), |n| {
            format!(", {n} of {} TLS handshakes failed", n + tls["handshakes"].as_u64().unwrap_or(0))
        });
        let inside = if tls.is_object() { " in TLS" } else { "" };
        let _ = writeln!(
            out,
            "listener {} ({}{inside}) on {}: {} open, {} accepted, {} /s{rejected}{denied}{failed}",
            text(&l["name"]),
            text(&l["protocol"]),
            joined(&l["addresses"]),
            l["open"],
            l["accepted"],
            l["accepted_per_second"]
        );
    }
    list(&status["limits"]).iter().for_each(|limit| describe_limit(&mut out, limit));
    list(&status["pools"]).iter().for_each(|pool| describe_pool(&mut out, pool));
    describe_vrrp(&mut out, &status["vrrp"]);
    out
}

fn first_line(out: &mut String, status: &Value) {
    let routers = list(&status["vrrp"]["routers"]);
    let active = routers.iter().filter(|r| r["state"] == "active").count();
    let health = match (&status["proxy"]["ready"], status["proxy"]["trouble"].as_str()) {
        (Value::Bool(true), None) => "serves",
        (Value::Bool(true), Some(_)) => "DOES NOT ANSWER",
        _ => "DOES NOT SERVE",
    };
    let holds = match (active, routers.len()) {
        (_, 0) => "no virtual routers".to_owned(),
        (0, n) => format!("holds none of {n} virtual routers"),
        (a, n) if a == n => format!("holds all of {n} virtual routers"),
        (a, n) => format!("holds {a} of {n} virtual routers"),
    };
    // Only who holds the addresses is heard: a backup says nothing.
    let others: Vec<_> = routers.iter().filter(|r| r["state"] != "active").collect();
    let alone = others.iter().filter(|r| list(&r["peers"]).is_empty()).count();
    let peers = match (alone, others.len()) {
        (_, 0) => "",
        (0, _) => ", the peer is heard",
        (_, _) => ", NO PEER IS HEARD",
    };
    let servers: Vec<_> = list(&status["pools"]).iter().flat_map(|pool| list(&pool["servers"])).collect();
    let ill = servers.iter().filter(|s| !is_well(s)).count();
    let servers = match (ill, servers.len()) {
        (_, 0) => String::new(),
        (0, n) => format!(", all of {n} servers up"),
        (ill, n) => format!(", {ill} OF {n} SERVERS NOT UP"),
    };
    let certificates = list(&status["certificates"]["in_force"]).iter().filter(|c| c["state"] != "valid").count();
    let certificates = match certificates + list(&status["certificates"]["refused"]).len() {
        0 => "",
        1 => ", 1 CERTIFICATE TO LOOK AT",
        _ => ", CERTIFICATES TO LOOK AT",
    };
    let maintenance = if status["vrrp"]["maintenance"] == true { ", in maintenance" } else { "" };
    let _ = writeln!(out, "{} {health}, {holds}{peers}{servers}{certificates}{maintenance}", text(&status["node"]));
}

/// What somebody should look at, then how long the rest is good.
fn describe_certificates(out: &mut String, certificates: &Value) {
    for refused in list(&certificates["refused"]) {
        let (file, why) = (text(&refused["file"]), text(&refused["why"]));
        let _ = writeln!(out, "certificate {file} CANNOT BE USED, the one before stays: {why}");
    }
    let (well, ill): (Vec<_>, Vec<_>) = list(&certificates["in_force"]).iter().partition(|c| c["state"] == "valid");
    for c in ill {
        let state = match (c["state"].as_str(), c["days_left"].as_i64().unwrap_or_default()) {
            (Some("expired"), _) => "HAS EXPIRED".to_owned(),
            (Some("not_yet_valid"), _) => "IS NOT VALID YET".to_owned(),
            (_, 0) => "EXPIRES TODAY".to_owned(),
            (_, 1) => "EXPIRES TOMORROW".to_owned(),
            (_, days) => format!("EXPIRES IN {days} DAYS"),
        };
        let (names, key, end) = (joined(&c["names"]), text(&c["key"]), text(&c["not_after"]));
        let _ = writeln!(out, "certificate {} ({names}; {key}) {state}: {end}", text(&c["file"]));
    }
    let next = well.iter().filter_map(|c| Some((c["days_left"].as_i64()?, text(&c["file"])))).min();
    if let Some((days, file)) = next {
        let _ = writeln!(out, "certificates: {} good, the first until in {days} days ({file})", well.len());
    }
}

fn is_well(server: &Value) -> bool {
    server["state"] == "up" || server["state"] == "unknown"
}

fn describe_limit(out: &mut String, limit: &Value) {
    let count = |key: &str, what: &str| {
        let count = limit[key].as_u64().filter(|count| *count > 0);
        count.map_or(String::new(), |count| format!(", {count} {what}"))
    };
    let rejected = if limit["dry_run"] == true { "would be rejected (dry_run)" } else { "rejected" };
    let _ = writeln!(
        out,
        "limit {} ({}): {} keys{}, {} passed{}{}{}",
        text(&limit["name"]),
        text(&limit["allows"]),
        limit["keys"],
        count("in_flight", "in flight"),
        limit["passed"],
        count("delayed", "of them delayed"),
        count("rejected", rejected),
        count("evicted", "keys EVICTED: raise max_keys"),
    );
}

fn describe_pool(out: &mut String, pool: &Value) {
    let servers = list(&pool["servers"]);
    let slowest = servers.iter().filter_map(|s| s["latency_us"]["p99"].as_u64()).max();
    let slowest = slowest.map_or(String::new(), |us| format!(", p99 at most {}", milliseconds(us)));
    let requests: u64 = servers.iter().filter_map(|s| s["requests"].as_u64()).sum();
    let failures: u64 = servers.iter().filter_map(|s| s["failures"].as_u64()).sum();
    let _ = writeln!(
        out,
        "pool {} ({}{}{}): {} of {} up, {} in flight, {requests} requests, {failures} failures{slowest}",
        text(&pool["name"]),
        text(&pool["algorithm"]),
        if pool["http_version"] == "2" { ", HTTP/2" } else { "" },
        if pool["tls"] == true { ", TLS" } else { "" },
        pool["up"],
        pool["total"],
        pool["in_flight"]
    );
    if let Some(sticky) = pool["sticky"].as_str() {
        let entries = pool["sticky_entries"].as_u64().filter(|_| sticky != "cookie");
        let entries = entries.map_or(String::new(), |entries| format!(", {entries} clients remembered"));
        let _ = writeln!(
            out,
            "  sticky by {sticky}: {} came to their server, {} could not{entries}",
            pool["sticky_followed"], pool["sticky_missed"]
        );
    }
    if let Some(fallback) = pool["fallback"].as_str() {
        let open = matches!(pool["circuit"]["state"].as_str(), Some("open" | "half_open"));
        let why = if open { "its circuit is not closed" } else { "none of its servers is available" };
        let _ = writeln!(out, "  its requests go to pool {fallback}: {why}");
    }
    if let Some(seconds) = pool["panic_for_seconds"].as_u64() {
        let _ = writeln!(out, "  PANIC for {seconds} s: too few servers are well, and health is ignored");
    }
    let [copies, left_out] = ["mirrored", "mirrored_left_out"].map(|key| pool[key].as_u64().unwrap_or_default());
    if copies + left_out > 0 {
        let _ = writeln!(out, "  mirror: {copies} copies of requests, {left_out} left out");
    }
    describe_circuit(out, &pool["circuit"]);
    describe_roles(out, pool);
    for s in servers.iter().filter(|s| is_well(s) && s["weight_percent"].as_u64().is_some_and(|share| share < 100)) {
        let _ = writeln!(out, "  {} in its slow start, at {} % of its weight", text(&s["name"]), s["weight_percent"]);
    }
    for s in servers.iter().filter(|s| !is_well(s)) {
        let since =
            if s["for_seconds"].is_null() { String::new() } else { format!(" for {}", duration(&s["for_seconds"])) };
        let why = s["why"].as_str().map_or(String::new(), |why| format!(": {why}"));
        let backup = if s["backup"] == true { ", backup" } else { "" };
        let name = text(&s["name"]);
        let address = text(&s["address"]);
        let place = if name == address { String::new() } else { format!(" ({address})") };
        let _ = writeln!(out, "  {name}{place}{backup} {}{since}{why}", text(&s["state"]).to_uppercase());
    }
    for name in list(&pool["unresolved"]) {
        let _ = writeln!(out, "  {} HAS NO ADDRESS: its name does not resolve", text(name));
    }
}

fn describe_circuit(out: &mut String, circuit: &Value) {
    let since = || if circuit["for_seconds"].is_null() { String::new() } else { duration(&circuit["for_seconds"]) };
    let times = match circuit["opened"].as_u64().unwrap_or_default() {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let _ = match circuit["state"].as_str() {
        Some("open") => writeln!(out, "  CIRCUIT OPEN for {}, opened {times}: nothing is sent to it", since()),
        Some("half_open") => writeln!(out, "  CIRCUIT HALF OPEN for {}, opened {times}: trials pass", since()),
        Some("closed") if circuit["opened"] != 0 => writeln!(out, "  circuit closed for {}, opened {times}", since()),
        _ => Ok(()),
    };
    let at = |limit: &str| match circuit["overflows"][limit].as_u64() {
        None | Some(0) => None,
        Some(n) => Some(format!("{n} at max_{limit}")),
    };
    let refused: Vec<_> = ["connections", "pending", "requests", "retries"].into_iter().filter_map(at).collect();
    if !refused.is_empty() {
        let _ = writeln!(out, "  refused by its circuit breaker: {}", refused.join(", "));
    }
}

/// A line where the checks have said what the servers are.
fn describe_roles(out: &mut String, pool: &Value) {
    let servers = list(&pool["servers"]);
    let of = |role: &str| -> Vec<String> {
        servers.iter().filter(|s| s["role"] == *role).map(|s| text(&s["name"])).collect()
    };
    let (primary, replicas, claimants) = (of("primary"), of("replica").len(), of("claimant"));
    if primary.is_empty() && replicas == 0 && claimants.is_empty() {
        return;
    }
    let primary = primary.first().map_or_else(|| "NO PRIMARY".to_owned(), |name| format!("primary {name}"));
    let so_far = match pool["role_conflicts"].as_u64().unwrap_or_default() {
        0 => String::new(),
        1 => ", 1 role conflict so far".to_owned(),
        n => format!(", {n} role conflicts so far"),
    };
    let plural = if replicas == 1 { "" } else { "s" };
    let _ = writeln!(out, "  {primary}, {replicas} replica{plural}{so_far}");
    if pool["role_conflict"] == true {
        let names = claimants.join(", ");
        let _ = writeln!(out, "  ROLE CONFLICT: {names} say that they are the primary, and none gets anything new");
    } else if !claimants.is_empty() {
        let _ = writeln!(out, "  {} would be the primary too", claimants.join(", "));
    }
}

fn describe_vrrp(out: &mut String, vrrp: &Value) {
    let routers = list(&vrrp["routers"]);
    if !routers.is_empty() {
        let _ = writeln!(out, "\nvrrp pid {}, {}", vrrp["pid"], text(&vrrp["scheduling"]));
    }
    for r in routers {
        let state = if r["state"] == "active" { "active (master)".to_owned() } else { text(&r["state"]) };
        let leaving = if r["leaving"] == true { ", leaving" } else { "" };
        let _ = writeln!(
            out,
            "\n{} on {}: {state}{leaving} for {} s ({}), priority {} of {}, vrid {}, version {}",
            text(&r["name"]),
            text(&r["interface"]),
            r["for_seconds"],
            text(&r["why"]),
            r["priority"],
            r["configured_priority"],
            r["virtual_router_id"],
            r["version"]
        );
        let _ = writeln!(out, "  addresses: {}", joined(&r["addresses"]));
        if !list(&r["against"]).is_empty() {
            let _ = writeln!(out, "  against this box: {}", joined(&r["against"]));
        }
        for peer in list(&r["peers"]) {
            let agrees = if peer["agrees"] == true { "" } else { ", CONFIGURED OTHERWISE" };
            let _ = writeln!(
                out,
                "  heard: {} with priority {}, {} ms ago{agrees}",
                text(&peer["address"]),
                peer["priority"],
                peer["heard_ms_ago"]
            );
        }
        let _ = writeln!(out, "  adverts: {} sent, {} of peers", r["sent"], r["received"]);
        for drop in list(&r["drops"]) {
            let _ = writeln!(out, "  not as it should be: {} {}", drop[1], text(&drop[0]));
        }
    }
    for drop in list(&vrrp["drops"]) {
        let _ = writeln!(out, "\nheard, and for none of them: {} {}", drop[1], text(&drop[0]));
    }
}

/// `errors`: three lines each, the newest last, where the eye is.
pub(super) fn errors(answer: &Value) -> String {
    let mut out = String::new();
    let all = list(&answer["errors"]);
    for e in all {
        let time = e["unix_ms"].as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let time = time.map_or_else(|| "?".to_owned(), |time| time.to_string());
        let request = match (e["method"].as_str(), e["host"].as_str(), e["path"].as_str()) {
            (Some(method), Some(host), Some(path)) if !method.is_empty() => format!("{method} {host}{path}"),
            // Of TLS a name may be all that is known.
            (_, Some(host), _) if !host.is_empty() => format!("tls for {host}"),
            _ => "no request".to_owned(),
        };
        let request = if e["site"].is_null() && !e["pool"].is_null() { "tcp session".to_owned() } else { request };
        let status = if e["status"] == 0 { String::new() } else { format!(" -> {}", e["status"]) };
        let took = e["duration_ms"].as_u64().map_or(String::new(), |ms| format!(" after {ms} ms"));
        let _ = writeln!(out, "{time} {} on {}: {request}{status}{took}", text(&e["client"]), text(&e["listener"]));
        let place: Vec<_> = ["site", "route", "pool"]
            .iter()
            .filter_map(|key| Some(format!("{key} {}", e[*key].as_str()?)))
            .chain(list(&e["tries"]).iter().map(describe_try))
            .chain(e["queued_ms"].as_u64().map(|ms| format!("{ms} ms in the queue")))
            .collect();
        if !place.is_empty() {
            let _ = writeln!(out, "  {}", place.join(", "));
        }
        let _ = writeln!(out, "  {}: {} {}", text(&e["reason"]), text(&e["cause"]), text(&e["remedy"]));
    }
    if all.is_empty() {
        out.push_str("no exchange has failed since the proxy started\n");
    }
    if let Some(missed) = answer["missed"].as_u64().filter(|missed| *missed > 0) {
        let _ = writeln!(out, "{missed} more failed at the same moment as another and were not kept");
    }
    out
}

fn describe_try(of: &Value) -> String {
    let outcome = match (of["reason"].as_str(), &of["status"]) {
        (Some(reason), _) => match of["detail"].as_str() {
            Some(detail) => format!("{reason} ({detail})"),
            None => reason.to_owned(),
        },
        (None, status) if *status == 0 => "reached".to_owned(),
        (None, status) => status.to_string(),
    };
    format!("server {} {outcome}", text(&of["server"]))
}

/// `explain`: the way of the request from top to bottom.
pub(super) fn explanation(answer: &Value) -> String {
    let mut out = String::new();
    if answer["live"] == false {
        out.push_str("no instance runs: this is what the file says, without the servers' states\n");
    }
    let mut line = |what: &str, name: &Value, why: &str| {
        let name = name.as_str().unwrap_or("none");
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let _ = writeln!(out, "{what:<10}{name}{why}");
    };
    let why = |key: &str| answer[key].as_str().unwrap_or_default();
    line("listener", &answer["listener"], why("listener_why"));
    if let Some(tls) = answer["tls"].as_str() {
        line("tls", &Value::from(tls), "");
    }
    if !why("path").is_empty() {
        line("path", &answer["path"], "normalised");
        line("site", &answer["site"], why("site_why"));
    }
    if !why("path").is_empty() || !answer["route"].is_null() {
        line("route", &answer["route"], why("route_why"));
    }
    for passed in list(&answer["passed_over"]) {
        line("  not", &passed["name"], &text(&passed["why"]));
    }
    list(&answer["access"]).iter().for_each(|said| line("access", said, ""));
    list(&answer["limits"]).iter().for_each(|limit| line("limit", &limit["name"], &text(&limit["why"])));
    if let Some(split) = answer["split"].as_str() {
        line("split", &Value::from(split), "");
    }
    line("action", &answer["action"], answer["algorithm"].as_str().unwrap_or_default());
    if let Some(hsts) = answer["hsts"].as_str() {
        line("hsts", &Value::from(hsts), "by https only");
    }
    if !answer["mirror"].is_null() {
        line("mirror", &answer["mirror"], "");
    }
    if let Some(sticky) = answer["sticky"].as_str() {
        line("sticky", &Value::from(sticky), "");
    }
    if !answer["pool"].is_null() {
        let address = answer["server_address"].as_str().filter(|address| answer["server"] != **address);
        let address = address.map_or(String::new(), |address| format!("{address}; "));
        line("server", &answer["server"], &(address + why("server_why")));
        for passed in list(&answer["not_eligible"]) {
            line("  not", &passed["name"], &text(&passed["why"]));
        }
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

fn joined(value: &Value) -> String {
    list(value).iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Seconds in the two largest units that say something.
fn duration(seconds: &Value) -> String {
    let seconds = seconds.as_u64().unwrap_or_default();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn milliseconds(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        _ => format!("{} ms", micros / 1000),
    }
}

/// What `reload` and `rollback` have changed, for people.
pub(super) fn reload(answer: &Value) -> String {
    let lines = |key: &str| answer[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    let changes: Vec<&str> = lines("changes").collect();
    let (generation, is_dry) = (&answer["generation"], answer["dry_run"] == true);
    let mut out = String::new();
    if let Some(warnings) = answer["warnings"].as_str() {
        out.push_str(warnings);
    }
    let first = match (changes.is_empty(), is_dry) {
        (true, _) => format!("nothing to change: generation {generation} runs as the file says"),
        (false, true) => format!("would change, and has not changed: generation {generation} goes on"),
        (false, false) => format!("generation {generation} is in force"),
    };
    let _ = writeln!(out, "{first}");
    for change in changes {
        let _ = writeln!(out, "  {change}");
    }
    if let Some(trouble) = answer["trouble"].as_str() {
        let _ = writeln!(out, "but: {trouble}");
    }
    if let Some(seconds) = answer["unconfirmed_seconds"].as_u64() {
        let _ = writeln!(out, "it goes back in {seconds} s unless `bascule confirm` comes");
    }
    out
}

/// The last generations, for people.
pub(super) fn history(history: &Value) -> String {
    let mut out = String::new();
    for generation in history["generations"].as_array().into_iter().flatten() {
        let at = generation["at"].as_i64().and_then(|at| Timestamp::from_second(at).ok());
        let at = at.map_or_else(|| "?".to_owned(), |at| at.to_zoned(TimeZone::system()).strftime("%F %T").to_string());
        let mark = if generation["number"] == history["running"] { "*" } else { " " };
        let text = |key: &str| generation[key].as_str().unwrap_or("?").to_owned();
        let number = generation["number"].as_u64().unwrap_or_default();
        let _ = writeln!(out, "{mark} {number:>6}  {at}  {} by {}", text("how"), text("by"));
    }
    if out.is_empty() {
        out.push_str("no generation is kept: state_dir cannot be used, see the log\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(servers: &[Value]) -> Value {
        json!({
            "version": "1", "node": "lb1", "pid": 1, "uptime_seconds": 3700, "generation": 4, "stopping": false,
            "proxy": { "pid": 2, "ready": true, "connections": 3, "trouble": null },
            "listeners": [], "dropped_log_lines": 0,
            "pools": [{ "name": "p", "algorithm": "first", "up": 1, "total": 2, "in_flight": 0, "servers": servers,
                        "unresolved": [] }],
            "vrrp": { "routers": [] },
        })
    }

    #[test]
    fn a_thousand_servers_that_are_well_are_one_line() {
        let well = json!({ "name": "a", "address": "10.0.0.1:80", "state": "up", "requests": 2, "failures": 1,
                           "latency_us": { "p99": 1234 } });
        let ill = json!({ "name": "b", "address": "10.0.0.2:80", "state": "down", "why": "health check: refused",
                          "for_seconds": 61, "requests": 0, "failures": 0, "latency_us": null, "backup": true });
        let mut servers = vec![well; 999];
        servers.push(ill);
        let text = status(&document(&servers));
        assert_eq!(text.lines().next().unwrap(), "lb1 serves, no virtual routers, 1 OF 1000 SERVERS NOT UP");
        assert!(text.contains("1998 requests, 999 failures, p99 at most 1.23 ms"), "{text}");
        assert!(text.contains("  b (10.0.0.2:80), backup DOWN for 1 min 1 s: health check: refused\n"), "{text}");
        assert!(text.lines().count() < 8, "{text}");
    }

    #[test]
    fn certificates_that_are_well_are_one_line_and_the_others_one_each() {
        let certificate = |file: &str, state: &str, days: i64| {
            json!({ "file": file, "names": ["a", "*.a"], "key": "RSA", "state": state, "days_left": days,
                    "not_after": "2026-01-31T00:00:00Z" })
        };
        let mut document = document(&[]);
        let in_force = vec![certificate("/1", "valid", 61), certificate("/2", "valid", 300)];
        document["certificates"] = json!({ "in_force": in_force, "refused": [] });
        let text = status(&document);
        assert_eq!(text.lines().next().unwrap(), "lb1 serves, no virtual routers");
        assert!(text.contains("\ncertificates: 2 good, the first until in 61 days (/1)\n"), "{text}");
        document["certificates"] = json!({
            "in_force": [certificate("/3", "expiring", 5), certificate("/4", "expired", -2)],
            "refused": [{ "file": "/3", "why": "mismatch" }],
        });
        let text = status(&document);
        assert!(text.starts_with("lb1 serves, no virtual routers, CERTIFICATES TO LOOK AT\n"), "{text}");
        for line in [
            "certificate /3 CANNOT BE USED, the one before stays: mismatch",
            "certificate /3 (a, *.a; RSA) EXPIRES IN 5 DAYS: 2026-01-31T00:00:00Z",
            "certificate /4 (a, *.a; RSA) HAS EXPIRED: 2026-01-31T00:00:00Z",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_proxy_that_does_not_answer_is_said_first() {
        let mut document = document(&[]);
        document["proxy"]["trouble"] = json!("no answer for 3.2s");
        document["pools"] = Value::Null;
        let text = status(&document);
        assert!(text.starts_with("lb1 DOES NOT ANSWER, no virtual routers\n"), "{text}");
        assert!(text.contains("\nproxy: no answer for 3.2s\n"), "{text}");
    }

    #[test]
    fn answers_of_another_version_are_described_as_far_as_they_go() {
        for nothing in [json!({}), json!(null), json!({ "errors": [{}], "pools": [{ "servers": [{}] }] })] {
            for describe in [status, errors, explanation] {
                assert!(!describe(&nothing).is_empty());
            }
        }
    }
}
