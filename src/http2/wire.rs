//! A client's connection as h2 reads and writes it.
//!
//! Reads pass the [`Guard`]; once that has found a fault nothing more gets through. Writes are gathered, and go out by
//! [`Carrier::poll_flush`] when h2 has nothing more to say for now: h2 alone would make a system call of every frame.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::guard::{Fault, Guard, Purse};
use crate::net::Transport;
use crate::net::buffer::Buffer;
use crate::time::Millis;

/// The client's preface (RFC 9113 section 3.4), of which `\r\nSM\r\n\r\n` follows the first line.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that are gathered before h2 has to wait for the socket.
const GATHERED: usize = 64 * 1024;

/// Bytes that are read at once at first, twice as many after each read that got all it asked for. h2 lends 8 KiB and more
/// that it keeps; what is not read into has no memory of its own.
const APPETITE: usize = 1024;

/// What is beneath h2, and stays in the hands of whoever drives it.
pub struct Carrier<'c, C> {
    io: &'c C,
    purse: &'c Purse,
    /// What was read before the protocol was known.
    early: RefCell<Option<Buffer>>,
    /// Bytes of the preface still to come.
    preface: Cell<usize>,
    guard: RefCell<Guard>,
    fault: Cell<Option<Fault>>,
    out: RefCell<Vec<u8>>,
    /// Bytes at the front of `out` that are out.
    sent: Cell<usize>,
    /// Bytes to read at once.
    appetite: Cell<usize>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    now: Cell<Millis>,
    moved: Cell<u64>,
}

/// The half of it that h2 is given.
pub struct Wire<'w, 'c, C>(pub &'w Carrier<'c, C>);

impl<'c, C: Transport> Carrier<'c, C> {
    /// `early` was read of `io` already; the preface is its start.
    pub fn new(io: &'c C, early: Option<Buffer>, purse: &'c Purse, now: Millis) -> Self {
        Self {
            io,
            purse,
            early: RefCell::new(early.filter(|early| !early.is_empty())),
            preface: Cell::new(PREFACE.len()),
            guard: RefCell::new(Guard::new()),
            fault: Cell::new(None),
            out: RefCell::new(Vec::new()),
            sent: Cell::new(0),
            appetite: Cell::new(APPETITE),
            blocked: Cell::new(false),
            now: Cell::new(now),
            moved: Cell::new(0),
        }
    }

    /// The time at which what comes next comes.
    pub fn set_now(&self, now: Millis) {
        self.now.set(now);
    }

    /// What the client did wrong; the connection is to end by it.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// The number of the frame that has begun and not ended, see [`Guard::amid`]; 0 while the preface is not complete.
    pub fn amid(&self) -> Option<u64> {
        if self.preface.get() > 0 { Some(0) } else { self.guard.borrow().amid() }
    }

    /// Whether something waits until the client takes it.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Bytes the client has taken.
    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    /// Sends what was gathered; ready when all of it is out.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.borrow_mut();
        while self.sent.get() < out.len() {
            match self.io.poll_send(cx, &[IoSlice::new(&out[self.sent.get()..])]) {
                Poll::Ready(Ok(n)) => {
                    self.sent.set(self.sent.get() + n);
                    self.moved.set(self.moved.get() + n as u64);
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.blocked.set(true);
                    return Poll::Pending;
                }
            }
        }
        self.blocked.set(false);
        self.sent.set(0);
        // An idle connection keeps no more room than a small answer needs.
        out.clear();
        out.shrink_to(4096);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fault.get().is_some() {
            return Poll::Pending;
        }
        let mut early = self.early.borrow_mut();
        let n = if let Some(held) = &mut *early {
            let n = held.len().min(buf.remaining());
            buf.put_slice(&held.bytes()[..n]);
            held.consume(n);
            if held.is_empty() {
                *early = None;
            }
            n
        } else {
            let appetite = self.appetite.get().min(buf.remaining());
            let n = ready!(self.io.poll_recv(cx, buf.initialize_unfilled_to(appetite)))?;
            buf.advance(n);
            self.appetite.set(if n == appetite { (appetite * 2).max(APPETITE) } else { APPETITE });
            n
        };
        let filled = buf.filled().len();
        let fresh = &buf.filled()[filled - n..];
        let of_preface = self.preface.get().min(n);
        self.preface.set(self.preface.get() - of_preface);
        if let Err((fault, good)) = self.guard.borrow_mut().look(&fresh[of_preface..], self.purse, self.now.get()) {
            self.fault.set(Some(fault));
            let passed = of_preface + good;
            buf.set_filled(filled - n + passed);
            return if passed > 0 { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.borrow().len() >= GATHERED {
            ready!(self.poll_flush(cx))?;
        }
        self.out.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

impl<C: Transport> AsyncRead for Wire<'_, '_, C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl<C: Transport> AsyncWrite for Wire<'_, '_, C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    /// Nothing: see the module's documentation.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }
}
