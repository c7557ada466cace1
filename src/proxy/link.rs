//! What carries a request or a session to a server.

mod adapter;
pub(crate) mod shared;
mod stream;

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::net::transport::Closed;
use crate::net::{Sock, Transport};
use crate::proxy::link::stream::Stream;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Link {
    /// A socket, nothing around it.
    Plain(Sock),
    /// A stream of a connection that is shared with others.
    Http2(Box<Stream>),
}

impl Link {
    /// The socket at the bottom.
    pub(crate) fn sock(&self) -> &Sock {
        match self {
            Self::Plain(sock) => sock,
            Self::Http2(stream) => stream.ticket().link().sock(),
        }
    }

    /// Whether the server has certainly done nothing with what it was sent; never known of a connection of HTTP/1.1.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Http2(stream) => stream.is_untouched(),
        }
    }

    /// The server has been silent for too long.
    pub(crate) fn note_silence(&self) {
        if let Self::Http2(stream) = self {
            stream.ticket().note_silence();
        }
    }

    /// See [`Sock::is_stale`].
    pub(crate) fn is_stale(&self) -> bool {
        self.sock().is_stale()
    }

    /// See [`Sock::is_stale_now`].
    pub(crate) fn is_stale_now(&self) -> bool {
        self.sock().is_stale_now()
    }
}

impl Transport for Link {
    #[inline]
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_recv(cx, buf),
            Self::Http2(stream) => stream.poll_recv(cx, buf),
        }
    }

    #[inline]
    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_send(cx, bufs),
            Self::Http2(stream) => stream.poll_send(cx, bufs),
        }
    }

    #[inline]
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match self {
            Self::Plain(sock) => sock.poll_closed(cx),
            Self::Http2(stream) => stream.poll_closed(cx),
        }
    }

    #[inline]
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(sock) => sock.poll_broken(cx),
            Self::Http2(stream) => stream.poll_broken(cx),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(sock) => sock.shutdown(),
            Self::Http2(stream) => stream.shutdown(),
        }
    }

    fn set_abort(&self) {
        match self {
            Self::Plain(sock) => sock.set_abort(),
            Self::Http2(stream) => stream.set_abort(),
        }
    }

    #[inline]
    fn plain(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
            Self::Http2(_) => None,
        }
    }
}
