//! A nonblocking TCP socket that is put under epoll only once it has to wait.
//!
//! A connection whose request is already there when it is accepted, and that is closed after its response, never costs
//! an `epoll_ctl`. Reads that return less than the buffer holds count as "drained" and are not repeated (edge-triggered
//! epoll reports what comes later), so an exchange is one read and one write on each side and nothing else.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg, sockopt};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Ready;

use crate::net::Transport;
use crate::net::transport::Closed;
use crate::sys::watched::Watched;

/// See the module's documentation.
#[derive(Debug)]
pub struct Sock(Watched);

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}

impl Sock {
    /// Takes a nonblocking, connected or connecting socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Watched::new(fd))
    }

    /// Puts the socket under epoll if it is not yet.
    ///
    /// # Errors
    /// When the kernel has no room for one more watch.
    pub fn register(&self) -> io::Result<()> {
        self.0.watch().map(|_| ())
    }

    /// Whether the socket is under epoll.
    pub fn is_registered(&self) -> bool {
        self.0.registered().is_some()
    }

    /// Waits until writing is possible: how a connect under way tells that it is over.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _guard = ready!(self.0.watch()?.poll_write_ready(cx))?;
        Poll::Ready(Ok(()))
    }

    /// The error a connect under way ended with.
    pub fn take_error(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(self.0.fd())??)
    }

    /// Whether an idle connection can no longer be used: the peer closed it, or said something unasked. Sees what
    /// epoll has reported so far, which costs no system call.
    pub fn is_stale(&self) -> bool {
        let Some(watch) = self.0.registered() else { return self.is_stale_now() };
        let mut cx = Context::from_waker(Waker::noop());
        match watch.poll_read_ready(&mut cx) {
            Poll::Pending => false,
            // Readable may also be left over from a read that took exactly what there was.
            Poll::Ready(Ok(mut guard)) if !guard.ready().is_read_closed() && !self.is_stale_now() => {
                guard.clear_ready_matching(Ready::READABLE);
                false
            }
            Poll::Ready(_) => true,
        }
    }

    /// Whether epoll has reported bytes that were not read; they may have been read since.
    pub fn is_known_readable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.0.registered().is_some_and(|watch| watch.poll_read_ready(&mut cx).is_ready())
    }

    /// As [`Sock::is_stale`], asking the kernel: sees a FIN that epoll has not reported yet.
    pub fn is_stale_now(&self) -> bool {
        let mut byte = [0u8; 1];
        !matches!(recv(self.0.fd(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// Whether an error waits to be fetched. Readiness does not tell: tokio leaves errors out of both directions.
    fn has_failed(&self) -> bool {
        let mut polled = [PollFd::new(self.0.fd(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
    }

    /// Moves up to `len` bytes into a pipe; the pipe must be empty, or "pipe full" is taken for "nothing to read".
    pub fn poll_splice_to(&self, cx: &mut Context<'_>, pipe: BorrowedFd<'_>, len: usize) -> Poll<io::Result<usize>> {
        let watch = self.0.watch()?;
        loop {
            let mut guard = ready!(watch.poll_read_ready(cx))?;
            match splice(self.0.fd(), None, pipe, None, len, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
    }

    /// Moves up to `len` bytes out of a pipe; `more` tells the kernel that others follow at once.
    pub fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        len: usize,
        more: bool,
    ) -> Poll<io::Result<usize>> {
        let mut flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        if more {
            flags |= SpliceFlags::MORE;
        }
        self.poll_write_with(cx, |fd| splice(pipe, None, fd, None, len, flags))
    }

    /// Tries first and waits afterwards: a socket is writable nearly always.
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut op: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match op(self.0.fd()) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => ready!(self.0.watch()?.poll_write_ready(cx))?.clear_ready(),
                Err(Errno::INTR) => {}
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
    }
}

impl Transport for Sock {
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.is_registered() {
            match recv(self.0.fd(), &mut *buf, RecvFlags::empty()) {
                Ok((_, n)) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => {}
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
        let watch = self.0.watch()?;
        loop {
            let mut guard = ready!(watch.poll_read_ready(cx))?;
            match recv(self.0.fd(), &mut *buf, RecvFlags::empty()) {
                Ok((_, n)) => {
                    if 0 < n && n < buf.len() {
                        guard.clear_ready_matching(Ready::READABLE);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => guard.clear_ready_matching(Ready::READABLE),
                Err(Errno::INTR) => {}
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match bufs {
            [one] => self.poll_write_with(cx, |fd| send(fd, one, SendFlags::NOSIGNAL)),
            many => self
                .poll_write_with(cx, |fd| sendmsg(fd, many, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)),
        }
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        let Ok(watch) = self.0.watch() else { return Poll::Ready(Closed::Broken) };
        match watch.poll_read_ready(cx) {
            Poll::Ready(Ok(guard)) => {
                if guard.ready().is_read_closed() {
                    Poll::Ready(if self.has_failed() { Closed::Broken } else { Closed::Half })
                } else {
                    // A pipelined request waits its turn, and hides a FIN behind it no longer than that.
                    Poll::Pending
                }
            }
            Poll::Ready(Err(_)) => Poll::Ready(Closed::Broken),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Ok(watch) = self.0.watch() else { return Poll::Ready(()) };
        loop {
            // A failure is reported as writable too, and writing waits only where it has failed: nothing else needs this.
            let Ok(mut guard) = ready!(watch.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if self.has_failed() {
                return Poll::Ready(());
            }
            if guard.ready().is_write_closed() {
                // Both directions are closed in order, and nothing more will be reported.
                return Poll::Pending;
            }
            guard.clear_ready();
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.0.fd(), rustix::net::Shutdown::Write)?)
    }

    fn set_abort(&self) {
        // Fails only for a socket that is gone already.
        let _ = sockopt::set_socket_linger(self.0.fd(), Some(Duration::ZERO));
    }

    fn plain(&self) -> Option<&Sock> {
        Some(self)
    }
}
