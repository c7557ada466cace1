//! What carries a request or a session to a server.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use crate::net::transport::Closed;
use crate::net::{Sock, Transport};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Link {
    /// A socket, nothing around it.
    Plain(Sock),
}

impl Link {
    /// The socket at the bottom.
    pub(crate) fn sock(&self) -> &Sock {
        match self {
            Self::Plain(sock) => sock,
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
        }
    }

    #[inline]
    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_send(cx, bufs),
        }
    }

    #[inline]
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match self {
            Self::Plain(sock) => sock.poll_closed(cx),
        }
    }

    #[inline]
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(sock) => sock.poll_broken(cx),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(sock) => sock.shutdown(),
        }
    }

    fn set_abort(&self) {
        match self {
            Self::Plain(sock) => sock.set_abort(),
        }
    }

    #[inline]
    fn plain(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
        }
    }
}
