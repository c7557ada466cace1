//! Listening sockets: several shards for each address, one for each worker, among which the kernel spreads connections.
//!
//! Options that every accepted connection needs are set here once: Linux copies them from the listening socket.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::net::filter::{Filter, NETWORK};
use crate::sys::procfs;

/// How the sockets of an address are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of each shard's accept queue.
    pub backlog: u32,
    /// Idle time before keep-alive probes on accepted connections; `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Bind even when this box does not have the address.
    pub freebind: bool,
    /// Sockets.
    pub shards: NonZeroUsize,
    /// Sockets of ours have the port already, on this address or on all: these join them.
    pub joins: bool,
}

/// What tells a socket apart, whoever has descriptors of it: the number of its inode.
///
/// # Errors
/// What `fstat` says.
pub fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The address.
    pub addr: SocketAddr,
    /// The kernel's answer.
    pub source: io::Error,
    /// Who has the port, when it is taken and that can be seen.
    pub holder: Option<String>,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listener, addr, source, holder } = self;
        write!(f, "listener {listener:?}: cannot listen on {addr}: ")?;
        match (source.kind(), holder) {
            (io::ErrorKind::AddrInUse, Some(holder)) => write!(f, "the port is taken by {holder}"),
            (io::ErrorKind::AddrInUse, None) => {
                write!(f, "the port is taken; `ss -ltnp 'sport = :{}'` as root shows by whom", addr.port())
            }
            (io::ErrorKind::AddrNotAvailable, _) => {
                f.write_str("no interface of this box has the address; `freebind = true` binds it nevertheless")
            }
            (io::ErrorKind::PermissionDenied, _) => {
                write!(f, "{source}; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE")
            }
            _ => source.fmt(f),
        }
    }
}

impl BindError {
    fn new(listener: &Arc<str>, addr: SocketAddr, source: io::Error) -> Self {
        let taken = source.kind() == io::ErrorKind::AddrInUse;
        let holder = taken.then(|| procfs::holder_of_port(addr)).flatten();
        Self { listener: Arc::clone(listener), addr, source, holder }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds and listens: `options.shards` sockets on one address, non-blocking and closed on exec. With port 0 all shards
/// share the port the kernel chose.
///
/// # Errors
/// The address is taken by another process, not of this box, or needs a privilege.
pub fn bind(listener: &Arc<str>, addr: SocketAddr, options: &Options) -> Result<Vec<TcpListener>, BindError> {
    let shards = reserve(listener, addr, options)?;
    listen(listener, addr, &shards, options)?;
    Ok(shards)
}

/// The first half of [`bind`]: takes the address, and takes no connection yet.
///
/// # Errors
/// As [`bind`].
pub fn reserve(listener: &Arc<str>, addr: SocketAddr, options: &Options) -> Result<Vec<TcpListener>, BindError> {
    shards(addr, options).map_err(|source| BindError::new(listener, addr, source))
}

/// The second half; on sockets that listen already, their queues get the length of `options`, and connections accepted from
/// now on its keep-alive.
///
/// # Errors
/// Somebody else has come in between.
pub fn listen(
    listener: &Arc<str>,
    addr: SocketAddr,
    shards: &[TcpListener],
    options: &Options,
) -> Result<(), BindError> {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    let one = |shard: &TcpListener| {
        let socket = SockRef::from(shard);
        set_keepalive(&socket, options.keepalive)?;
        socket.listen(backlog)
    };
    shards.iter().try_for_each(one).map_err(|source| BindError::new(listener, addr, source))
}

/// Makes the kernel drop new connection attempts on `listener`, so that its accept queue runs empty and it can be closed
/// without resetting anybody. A dropped SYN is sent again after a second: by then another process may listen.
///
/// # Errors
/// Without CAP_NET_ADMIN, which newer kernels want for a filter on a TCP socket (commit 5d39580f68e6, also in 6.18.44). The
/// filter is the socket's: any process that has a descriptor of it can set it for all.
pub fn refuse_new(listener: &TcpListener) -> io::Result<()> {
    // Connections inherit the filter, which is harmless: they get no SYN.
    let filter = Filter::new().byte(TCP_FLAGS).when_any_bit(SYN, Filter::new().refuse()).keep();
    SockRef::from(listener).attach_filter(filter.program())
}

/// Makes the kernel drop new connection attempts on `listener` to one of `addresses`, until [`accept_new`]. Replaces what
/// an earlier call refused.
///
/// # Errors
/// As [`refuse_new`]; also with more addresses than a filter can hold (hundreds).
pub fn refuse_new_to(listener: &TcpListener, addresses: &[IpAddr]) -> io::Result<()> {
    let v4 = Filter::new().when_ipv4_among(NETWORK.wrapping_add(16), addresses, Filter::new().refuse()).keep();
    let v6 = Filter::new().when_ipv6_among(NETWORK.wrapping_add(24), addresses, Filter::new().refuse()).keep();
    let of_version = Filter::new().byte(NETWORK).and(0xf0).when(0x40, v4).when(0x60, v6).keep();
    let filter = Filter::new().byte(TCP_FLAGS).when_any_bit(SYN, of_version).keep();
    SockRef::from(listener).attach_filter(filter.program())
}

/// Offset of the flags in the TCP header, where a segment begins for its socket.
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;

/// Ends [`refuse_new`] and [`refuse_new_to`]; nothing is done when neither was called.
///
/// # Errors
/// The kernel refuses.
pub fn accept_new(listener: &TcpListener) -> io::Result<()> {
    match SockRef::from(listener).detach_filter() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Accepts and resets what waits on `listener`, at most `max` connections; returns how many.
pub fn reset_queued(listener: &TcpListener, max: usize) -> usize {
    std::iter::from_fn(|| listener.accept().ok()).take(max).map(|(stream, _)| reset(stream)).count()
}

/// Closes `stream` with RST.
fn reset(stream: TcpStream) {
    // When it fails the connection is gone already, and closing it is all that is left.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

fn shards(addr: SocketAddr, options: &Options) -> io::Result<Vec<TcpListener>> {
    // The first socket gets SO_REUSEPORT after its bind: a port that another process listens on is an error, even when
    // that process would share it.
    let first = socket(addr, options)?;
    if options.joins {
        first.set_reuse_port(true)?;
    }
    first.bind(&addr.into())?;
    first.set_reuse_port(true)?;
    let addr = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let mut sockets = vec![first];
    for _ in 1..options.shards.get() {
        let next = socket(addr, options)?;
        next.set_reuse_port(true)?;
        next.bind(&addr.into())?;
        sockets.push(next);
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn set_keepalive(socket: &Socket, idle: Option<Duration>) -> io::Result<()> {
    match idle {
        Some(idle) => socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle)),
        None => socket.set_keepalive(false),
    }
}

fn socket(addr: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match (options.freebind, addr.is_ipv6()) {
        (false, _) => {}
        (true, false) => socket.set_freebind_v4(true)?,
        (true, true) => socket.set_freebind_v6(true)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn options(shards: usize) -> Options {
        let shards = NonZeroUsize::new(shards).unwrap();
        Options { backlog: 64, keepalive: Some(Duration::from_secs(75)), freebind: false, shards, joins: false }
    }

    fn bind_to(addr: &str, options: &Options) -> Result<Vec<TcpListener>, BindError> {
        bind(&"web".into(), addr.parse().unwrap(), options)
    }

    /// Accepts from whichever shard the kernel chose.
    fn accept(shards: &[TcpListener]) -> Option<TcpStream> {
        shards.iter().find_map(|s| s.accept().ok()).map(|(stream, _)| stream)
    }

    #[test]
    fn every_shard_is_reachable_at_one_port() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let shards = bind_to(addr, &options(4)).unwrap();
            assert_eq!(shards.len(), 4);
            let addr = shards[0].local_addr().unwrap();
            let _clients: Vec<_> = (0..64).map(|_| TcpStream::connect(addr).unwrap()).collect();
            for shard in &shards {
                assert_eq!(shard.local_addr().unwrap(), addr);
                assert!(shard.accept().is_ok(), "64 connections over 4 shards left one empty");
            }
        }
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let shards = bind_to("127.0.0.1:0", &options(1)).unwrap();
        let _client = TcpStream::connect(shards[0].local_addr().unwrap()).unwrap();
        let accepted = accept(&shards).unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(75));
    }

    #[test]
    fn a_taken_port_is_an_error_even_when_its_holder_would_share_it() {
        let held = bind_to("127.0.0.1:0", &options(2)).unwrap();
        let addr = held[0].local_addr().unwrap();
        let error = bind_to(&addr.to_string(), &options(2)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("listener \"web\": cannot listen on {addr}: the port is taken by ")),
            "{text}"
        );
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }

    #[test]
    fn an_address_of_another_box_needs_freebind() {
        // TEST-NET-1 and the documentation prefix are nobody's.
        for addr in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let error = bind_to(addr, &options(1)).unwrap_err();
            assert!(error.to_string().contains("no interface of this box has the address"), "{error}");
            bind_to(addr, &Options { freebind: true, ..options(2) }).unwrap();
        }
    }

    #[test]
    fn the_ipv6_wildcard_leaves_ipv4_alone() {
        let v6 = bind_to("[::]:0", &options(1)).unwrap();
        let port = v6[0].local_addr().unwrap().port();
        bind_to(&format!("0.0.0.0:{port}"), &options(1)).unwrap();
    }

    /// Filters need CAP_NET_ADMIN.
    fn unprivileged() -> bool {
        std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some()
    }

    #[test]
    fn what_is_queued_is_served_after_new_connections_are_refused() {
        if unprivileged() {
            return;
        }
        let shards = bind_to("127.0.0.1:0", &options(1)).unwrap();
        let addr = shards[0].local_addr().unwrap();
        let queued = TcpStream::connect(addr).unwrap();
        refuse_new(&shards[0]).unwrap();
        let late = TcpStream::connect_timeout(&addr, Duration::from_millis(100));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let accepted = accept(&shards).unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), queued.local_addr().unwrap());
        assert!(accept(&shards).is_none());
    }

    #[test]
    fn new_connections_to_some_addresses_are_refused_until_they_are_accepted_again() {
        if unprivileged() {
            return;
        }
        // Loopback answers for all of 127.0.0.0/8; of IPv6 there is one address.
        for (any, held, open) in [("0.0.0.0:0", "127.0.0.9", "127.0.0.8"), ("[::]:0", "::1", "2001:db8::9")] {
            let shards = bind_to(any, &options(2)).unwrap();
            let port = shards[0].local_addr().unwrap().port();
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
            let connect = |ip| TcpStream::connect_timeout(&at(ip), Duration::from_millis(100)).map_err(|e| e.kind());
            let refuse = |ip: &str| {
                let addresses = ["198.51.100.1", "2001:db8::1", ip].map(|ip| ip.parse().unwrap());
                shards.iter().for_each(|shard| refuse_new_to(shard, &addresses).unwrap());
            };
            let queued = connect(held).unwrap();
            refuse(held);
            assert_eq!(connect(held).unwrap_err(), io::ErrorKind::TimedOut);
            assert_eq!(accept(&shards).unwrap().peer_addr().unwrap(), queued.local_addr().unwrap());
            refuse(open);
            connect(held).unwrap();
            refuse(held);
            shards.iter().for_each(|shard| accept_new(shard).unwrap());
            connect(held).unwrap();
            accept_new(&shards[0]).unwrap();
        }
    }

    #[test]
    fn queued_connections_are_reset() {
        let shards = bind_to("127.0.0.1:0", &options(1)).unwrap();
        let mut clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(shards[0].local_addr().unwrap()).unwrap()).collect();
        assert_eq!(reset_queued(&shards[0], 2), 2);
        assert_eq!(reset_queued(&shards[0], 2), 1);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
