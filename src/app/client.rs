//! The command line's side of the admin socket.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::app::admin::{Answer, Request};

/// Handovers drain and wait for the peer; everything else is answered at once.
const PATIENCE: Duration = Duration::from_secs(120);

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
