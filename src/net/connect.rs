//! Connections to servers.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect as sys_connect, socket_with, sockopt};

use crate::net::Sock;
use crate::net::wheel::Timer;
use crate::time::Millis;

/// How to reach a server.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Local address; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// SO_KEEPALIVE idle time; `None`: off.
    pub keepalive: Option<Duration>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The deadline passed first.
    TimedOut,
    /// This box has no port, descriptor or address left for it: not the server's fault.
    Local(io::Error),
    /// Refused, unreachable, reset.
    Failed(io::Error),
}

/// Connects until `deadline`, which is set on `timer`.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(target: &Target, timer: &Timer, deadline: Millis) -> Result<Sock, ConnectError> {
    let (sock, in_progress) = start(target)?;
    if in_progress {
        timer.set(deadline);
        poll_fn(|cx| {
            if let Poll::Ready(r) = sock.poll_writable(cx) {
                return Poll::Ready(r.map_err(ConnectError::Local));
            }
            timer.poll_expired(cx).map(|()| Err(ConnectError::TimedOut))
        })
        .await?;
        sock.take_error().map_err(classify)?;
    }
    Ok(sock)
}

/// Starts connecting; the flag tells whether it goes on in the background.
fn start(target: &Target) -> Result<(Sock, bool), ConnectError> {
    let local = |e: Errno| ConnectError::Local(e.into());
    let family = if target.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd =
        socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None).map_err(local)?;
    sockopt::set_tcp_nodelay(&fd, true).map_err(local)?;
    if let Some(idle) = target.keepalive {
        sockopt::set_socket_keepalive(&fd, true).map_err(local)?;
        sockopt::set_tcp_keepidle(&fd, idle).map_err(local)?;
    }
    if let Some(source) = target.source {
        // The port is chosen at connect, by the whole 4-tuple: one source address serves 28k connections per server,
        // not 28k in all.
        let _ = crate::sys::sockopt::set_bind_address_no_port(fd.as_fd());
        bind(&fd, &SocketAddr::new(source, 0)).map_err(local)?;
    }
    match sys_connect(&fd, &target.address) {
        Ok(()) => Ok((Sock::new(fd), false)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((Sock::new(fd), true)),
        Err(e) => Err(classify(e.into())),
    }
}

fn classify(e: io::Error) -> ConnectError {
    if is_local(&e) { ConnectError::Local(e) } else { ConnectError::Failed(e) }
}

/// Whether a connection failed because of this box and not because of the server.
pub fn is_local(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::PERM)
    )
}
