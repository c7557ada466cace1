//! What the service manager is told (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use std::{env, io};

use sd_notify::NotifyState;
use tracing::warn;

/// For a manager that does not read to take a message; the supervisor has more to do than to wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = send(states) {
        warn!(%error, "the service manager was not told");
    }
}

fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return Ok(()) };
    let to = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&socket)?,
    };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(PATIENCE))?;
    from.send_to_addr(text.as_bytes(), &to).map(drop)
}
