//! The command line's side of the admin socket.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::app::admin::{Answer, Request};

/// Handovers drain and wait for the peer; everything else is answered at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at an upgrade.
const OUTCOME_EVERY: Duration = Duration::from_millis(50);

/// Asks the instance behind `socket`.
///
/// # Errors
/// What is wrong, for the operator.
pub(super) fn ask(socket: &Path, request: &Request) -> Answer {
    let failed = |what: &str, e: std::io::Error| format!("{what} {}: {e}", socket.display());
    let stream = UnixStream::connect(socket)
        .map_err(|e| failed("no instance answers at", e) + "; `-c FILE` or `--socket PATH` says which one is meant")?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed("cannot use", e))?;
    let mut line = serde_json::to_string(request).map_err(|e| e.to_string())?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(|e| failed("cannot ask", e))?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(|e| failed("no answer from", e))?;
    serde_json::from_str::<Answer>(&answer).map_err(|_| format!("no answer from {}", socket.display()))?
}

/// What `reload` and `rollback` have changed, for people.
pub(super) fn describe_reload(answer: &Value) -> String {
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
pub(super) fn describe_history(history: &Value) -> String {
    let mut out = String::new();
    for generation in history["generations"].as_array().into_iter().flatten() {
        let at = generation["at"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
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

/// Between two looks at a server that drains.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until nothing is in flight on a server.
///
/// # Errors
/// Something was, for all of `limit`.
pub(super) fn wait_for_server(socket: &Path, pool: &str, server: &str, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    loop {
        let status = ask(socket, &Request::Status)?;
        let named = |list: &Value, name: &str| -> Vec<Value> {
            list.as_array().into_iter().flatten().filter(|one| one["name"] == name).cloned().collect()
        };
        let servers = named(&status["pools"], pool).into_iter().flat_map(|pool| named(&pool["servers"], server));
        let in_flight: Vec<u64> = servers.filter_map(|server| server["in_flight"].as_u64()).collect();
        if !in_flight.is_empty() && in_flight.iter().all(|n| *n == 0) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!(
                "{pool}/{server}: after {limit:?} {} are still in flight",
                in_flight.iter().sum::<u64>()
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Has the instance behind `socket` become another program, waits, and says what came of it.
///
/// # Errors
/// Why not, for the operator.
pub(super) fn upgrade(socket: &Path, binary: Option<PathBuf>) -> Result<String, String> {
    let binary = binary.map(|path| std::path::absolute(path).map_err(|e| e.to_string())).transpose()?;
    let begun = ask(socket, &Request::Upgrade { binary })?;
    let number = begun["number"].as_u64().ok_or("the instance does not say which upgrade it has begun")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The answer comes from the old program or from the new one.
        match ask(socket, &Request::UpgradeOutcome { number })? {
            Value::String(text) => return Ok(text + "\n"),
            _ if Instant::now() >= deadline => return Err(format!("upgrade {number} still goes on: see the log")),
            _ => std::thread::sleep(OUTCOME_EVERY),
        }
    }
}

/// `status` for people.
pub(super) fn describe(status: &Value) -> String {
    let mut out = String::new();
    let text = |v: &Value| v.as_str().unwrap_or("?").to_owned();
    let routers = status["vrrp"]["routers"].as_array().cloned().unwrap_or_default();
    let active = routers.iter().filter(|r| r["state"] == "active").count();
    let serves = status["proxy"]["ready"] == true;
    let health = if serves { "serves" } else { "DOES NOT SERVE" };
    let holds = match (active, routers.len()) {
        (_, 0) => "no virtual routers".to_owned(),
        (0, n) => format!("holds none of {n} virtual routers"),
        (a, n) if a == n => format!("holds all of {n} virtual routers"),
        (a, n) => format!("holds {a} of {n} virtual routers"),
    };
    let maintenance = if status["vrrp"]["maintenance"] == true { ", in maintenance" } else { "" };
    let _ = writeln!(out, "{} {health}, {holds}{maintenance}", text(&status["node"]));
    let proxy = &status["proxy"];
    let _ = writeln!(
        out,
        "bascule {}, pid {}, up {} s; proxy pid {}, {} client connections",
        text(&status["version"]),
        status["pid"],
        status["uptime_seconds"],
        proxy["pid"],
        proxy["connections"]
    );
    for retired in status["retired"].as_array().into_iter().flatten() {
        let (pid, connections) = (&retired["pid"], &retired["connections"]);
        let _ = writeln!(out, "replaced proxy pid {pid} finishes {connections} client connections");
    }
    if !routers.is_empty() {
        let _ = writeln!(out, "vrrp pid {}, {}", status["vrrp"]["pid"], text(&status["vrrp"]["scheduling"]));
    }
    for r in &routers {
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
        let list = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "  addresses: {}", list(&r["addresses"]));
        if r["against"].as_array().is_some_and(|a| !a.is_empty()) {
            let _ = writeln!(out, "  against this box: {}", list(&r["against"]));
        }
        for peer in r["peers"].as_array().into_iter().flatten() {
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
        for drop in r["drops"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "  not as it should be: {} {}", drop[1], text(&drop[0]));
        }
    }
    for drop in status["vrrp"]["drops"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "\nheard, and for none of them: {} {}", drop[1], text(&drop[0]));
    }
    out
}
