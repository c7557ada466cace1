//! The command line's side of the admin socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::app::admin::{Answer, Request};

/// Handovers drain and wait for the peer; everything else is answered at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at an upgrade.
const OUTCOME_EVERY: Duration = Duration::from_millis(50);

/// A connection to the instance behind `socket`.
fn connect(socket: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(socket).map_err(|e| {
        let what = match e.kind() {
            ErrorKind::PermissionDenied => {
                "only root, the user that runs bascule, and members of [admin] group may use"
            }
            _ => "no instance answers at",
        };
        format!("{what} {}: {e}; `-c FILE` or `--socket PATH` says which one is meant", socket.display())
    })
}

/// Whether nobody answers at `socket`, because no instance runs.
pub(super) fn is_alone(socket: &Path) -> bool {
    let failed = UnixStream::connect(socket).err().map(|e| e.kind());
    matches!(failed, Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

/// Asks the instance behind `socket`.
///
/// # Errors
/// What is wrong, for the operator.
pub(super) fn ask(socket: &Path, request: &Request) -> Answer {
    let failed = |what: &str, e: std::io::Error| format!("{what} {}: {e}", socket.display());
    let stream = connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed("cannot use", e))?;
    let mut line = serde_json::to_string(request).map_err(|e| e.to_string())?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(|e| failed("cannot ask", e))?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(|e| failed("no answer from", e))?;
    serde_json::from_str::<Answer>(&answer).map_err(|_| format!("no answer from {}", socket.display()))?
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
