//! The seam between the relay and what carries its bytes: a plain socket, later TLS, a buffer in memory in tests.
//!
//! Methods take `&self`, so that one task can drive both directions of a connection at once without splitting it. Each
//! direction has one waker: the last task that polled it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use rustix::net::getsockname;

use crate::net::Sock;

/// How a peer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It will send no more; it may still read.
    Half,
    /// The connection is gone.
    Broken,
}

/// A full-duplex byte stream driven by one task.
pub trait Transport {
    /// Whether it is a stream of HTTP/2, which is one exchange and no connection.
    const HTTP2: bool = false;

    /// Reads into `buf`, which must not be empty; 0 is the end of the stream.
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `bufs`; never 0 unless they are all empty.
    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Ready as soon as the peer has closed its side or the connection broke; does not look at data.
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed>;

    /// Ready once the connection was reset or failed: how that is noticed on a side that is not read from just now.
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ends our direction (FIN, close_notify); what was written before is still delivered.
    fn shutdown(&self) -> io::Result<()>;

    /// Makes closing abortive: the peer sees RST.
    fn set_abort(&self);

    /// The socket, where bytes may be moved around the transport by `splice(2)`.
    fn plain(&self) -> Option<&Sock>;

    /// The socket beneath, whatever is done with its bytes.
    fn socket(&self) -> Option<&Sock> {
        self.plain()
    }

    /// Our end of it, of which the kernel is asked.
    fn local_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(getsockname(self.socket()?).ok()?).ok()
    }

    /// Whether bytes of the peer are known to wait.
    fn has_unread(&self) -> bool {
        self.socket().is_some_and(Sock::is_known_readable)
    }
}
