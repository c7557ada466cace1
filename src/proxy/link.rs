//! What carries a request or a session to a server.

mod adapter;
pub(crate) mod shared;
mod stream;

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;

use crate::config::model::{HttpVersion, PoolTls};
use crate::net::buffer::BufferPool;
use crate::net::connect::{ConnectError, Target, connect};
use crate::net::tls::{TlsError, TlsStream};
use crate::net::transport::Closed;
use crate::net::wheel::Timer;
use crate::net::{Sock, Transport};
use crate::pool::{Pool, Server};
use crate::proxy::link::stream::Stream;
use crate::proxy::preface;
use crate::telemetry::reason::Reason;
use crate::time::Millis;
use crate::tls::is_about_certificate;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Link {
    /// A socket, nothing around it.
    Plain(Sock),
    /// TLS over one.
    Tls(Box<TlsStream>),
    /// A stream of a connection that is shared with others.
    Http2(Box<Stream>),
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// No connection.
    Connect(ConnectError),
    /// No TLS over it.
    Tls(TlsError),
    /// The server does not speak HTTP/2 over TLS, and was asked for nothing else.
    NoHttp2,
}

/// What went wrong with TLS on a link of HTTP/2, whose engine keeps no more of it than a text.
#[derive(Debug)]
pub(crate) struct BrokenTls(Box<str>);

impl std::fmt::Display for BrokenTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokenTls {}

/// How the pool's servers are reached by one worker.
#[derive(Debug)]
pub(crate) struct Reach<'w> {
    /// Turn of `source_addresses`.
    pub(crate) turn: &'w Cell<usize>,
    /// Of the PROXY protocol, before everything else.
    pub(crate) header: Option<&'w [u8]>,
    /// For TLS.
    pub(crate) buffers: &'w Rc<BufferPool>,
    /// Set to the deadline.
    pub(crate) timer: &'w Timer,
    /// For connection and handshake together.
    pub(crate) deadline: Millis,
}

impl Reach<'_> {
    /// A link to `server`, over which nothing was sent but for handshakes.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub(crate) async fn link(&self, pool: &Pool, server: &Server) -> Result<Link, LinkError> {
        let config = &pool.config;
        let target = Target {
            address: server.address,
            source: next_source(&config.source_addresses, server.address.is_ipv4(), self.turn),
            keepalive: config.tcp_keepalive,
        };
        let sock = connect(&target, self.timer, self.deadline).await.map_err(LinkError::Connect)?;
        if let Some(header) = self.header {
            let sent = Box::pin(preface::send(&sock, header, self.timer, self.deadline));
            sent.await.map_err(LinkError::Connect)?;
        }
        match pool.tls() {
            None => Ok(Link::Plain(sock)),
            // Boxed: plain links do not pay for its size.
            Some(tls) => Box::pin(self.handshake(sock, tls, pool, server)).await,
        }
    }

    async fn handshake(&self, sock: Sock, tls: &PoolTls, pool: &Pool, server: &Server) -> Result<Link, LinkError> {
        let broken = |e| LinkError::Tls(TlsError::Tls(e));
        let name = pool.host_of(server).and_then(|host| tls.name_of(host));
        let name = name.ok_or_else(|| broken(rustls::Error::UnsupportedNameType))?;
        let stream = TlsStream::new(sock, Rc::clone(self.buffers));
        stream.start_client(tls.connector.config.clone(), name).map_err(broken)?;
        self.timer.set(self.deadline);
        poll_fn(|cx| {
            if let Poll::Ready(done) = stream.poll_handshake(cx) {
                return Poll::Ready(done.map_err(LinkError::Tls));
            }
            self.timer.poll_expired(cx).map(|()| Err(LinkError::Connect(ConnectError::TimedOut)))
        })
        .await?;
        if pool.config.http_version == HttpVersion::Http2 && !stream.speaks(b"h2") {
            return Err(LinkError::NoHttp2);
        }
        Ok(Link::Tls(Box::new(stream)))
    }
}

/// The next of the configured source addresses of the server's family.
fn next_source(sources: &[IpAddr], v4: bool, turn: &Cell<usize>) -> Option<IpAddr> {
    let count = sources.iter().filter(|s| s.is_ipv4() == v4).count();
    if count == 0 {
        return None;
    }
    turn.set(turn.get().wrapping_add(1));
    sources.iter().filter(|s| s.is_ipv4() == v4).nth(turn.get() % count).copied()
}

impl LinkError {
    /// The word for logs and retry rules.
    pub(crate) fn reason(&self) -> Reason {
        let errno = |e: &io::Error| Errno::from_io_error(e);
        match self {
            Self::Connect(ConnectError::TimedOut) => Reason::ConnectTimeout,
            Self::Connect(ConnectError::Local(e)) if errno(e) == Some(Errno::ADDRNOTAVAIL) => Reason::PortsExhausted,
            Self::Connect(ConnectError::Local(e)) if errno(e) == Some(Errno::PERM) => Reason::ConnectFailed,
            Self::Connect(ConnectError::Local(_)) => Reason::Limit,
            Self::Connect(ConnectError::Failed(e)) => match errno(e) {
                Some(Errno::CONNREFUSED) => Reason::ConnectRefused,
                Some(Errno::TIMEDOUT) => Reason::ConnectTimeout,
                _ => Reason::ConnectFailed,
            },
            Self::Tls(TlsError::Tls(e)) if is_about_certificate(e) => Reason::ServerCertificate,
            Self::Tls(_) | Self::NoHttp2 => Reason::ServerTls,
        }
    }

    /// What exactly is wrong, where the reason does not tell.
    pub(crate) fn detail(&self) -> Option<Box<str>> {
        match self {
            Self::Connect(_) => None,
            Self::Tls(e) => Some(e.to_string().into()),
            Self::NoHttp2 => Some("the server did not choose h2 by ALPN".into()),
        }
    }

    /// Whether this box, not the server, is to blame.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Local(_)))
    }
}

/// What TLS says of a link that broke; `None`: it was not TLS that broke.
pub(crate) fn broken_tls(error: &io::Error) -> Option<Box<str>> {
    let inner = error.get_ref()?;
    let is_tls = inner.is::<rustls::Error>() || inner.is::<BrokenTls>();
    is_tls.then(|| inner.to_string().into())
}

impl Link {
    /// The socket at the bottom.
    pub(crate) fn sock(&self) -> &Sock {
        match self {
            Self::Plain(sock) => sock,
            Self::Tls(stream) => stream.sock(),
            Self::Http2(stream) => stream.ticket().link().sock(),
        }
    }

    /// Whether the server has certainly done nothing with what it was sent; never known of a connection of HTTP/1.1.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => false,
            Self::Http2(stream) => stream.is_untouched(),
        }
    }

    /// Whether the server has ended the exchange and not the connection.
    pub(crate) fn is_reset_alone(&self) -> bool {
        matches!(self, Self::Http2(stream) if stream.is_reset_alone())
    }

    /// The server has been silent for too long.
    pub(crate) fn note_silence(&self) {
        if let Self::Http2(stream) = self {
            stream.ticket().note_silence();
        }
    }

    /// See [`Sock::is_stale`].
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Plain(sock) => sock.is_stale(),
            Self::Tls(stream) => stream.is_stale(),
            Self::Http2(stream) => stream.ticket().link().is_stale(),
        }
    }

    /// See [`Sock::is_stale_now`].
    pub(crate) fn is_stale_now(&self) -> bool {
        match self {
            Self::Plain(sock) => sock.is_stale_now(),
            Self::Tls(stream) => stream.is_stale_now(),
            Self::Http2(stream) => stream.ticket().link().is_stale_now(),
        }
    }
}

impl Transport for Link {
    #[inline]
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_recv(cx, buf),
            Self::Tls(stream) => stream.poll_recv(cx, buf),
            Self::Http2(stream) => stream.poll_recv(cx, buf),
        }
    }

    #[inline]
    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_send(cx, bufs),
            Self::Tls(stream) => stream.poll_send(cx, bufs),
            Self::Http2(stream) => stream.poll_send(cx, bufs),
        }
    }

    #[inline]
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match self {
            Self::Plain(sock) => sock.poll_closed(cx),
            Self::Tls(stream) => stream.poll_closed(cx),
            Self::Http2(stream) => stream.poll_closed(cx),
        }
    }

    #[inline]
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(sock) => sock.poll_broken(cx),
            Self::Tls(stream) => stream.poll_broken(cx),
            Self::Http2(stream) => stream.poll_broken(cx),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(sock) => sock.shutdown(),
            Self::Tls(stream) => stream.shutdown(),
            Self::Http2(stream) => stream.shutdown(),
        }
    }

    fn set_abort(&self) {
        match self {
            Self::Plain(sock) => sock.set_abort(),
            Self::Tls(stream) => stream.set_abort(),
            Self::Http2(stream) => stream.set_abort(),
        }
    }

    #[inline]
    fn plain(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
            Self::Tls(_) | Self::Http2(_) => None,
        }
    }

    fn socket(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
            Self::Tls(stream) => Some(stream.sock()),
            Self::Http2(_) => None,
        }
    }
}
