//! A transport in memory, for tests: two ends, each with a bounded buffer towards the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::net::transport::Closed;
use crate::net::{Sock, Transport};

/// One end.
#[derive(Debug)]
pub(crate) struct Memory {
    incoming: Rc<RefCell<Half>>,
    outgoing: Rc<RefCell<Half>>,
}

#[derive(Debug, Default)]
struct Half {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer is done.
    ended: bool,
    /// The writer reset it.
    aborted: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A connected pair; each direction holds up to `capacity` bytes.
pub(crate) fn pair(capacity: usize) -> (Memory, Memory) {
    let half = || Rc::new(RefCell::new(Half { capacity, ..Half::default() }));
    let (a, b) = (half(), half());
    (Memory { incoming: Rc::clone(&a), outgoing: Rc::clone(&b) }, Memory { incoming: b, outgoing: a })
}

impl Memory {
    /// Takes everything that has arrived.
    pub(crate) fn received(&self) -> Vec<u8> {
        let mut half = self.incoming.borrow_mut();
        wake(&mut half.writer);
        half.bytes.drain(..).collect()
    }

    /// Sends as much of `bytes` as there is room for.
    pub(crate) fn give(&self, bytes: &[u8]) -> usize {
        let mut half = self.outgoing.borrow_mut();
        let n = bytes.len().min(half.capacity - half.bytes.len());
        half.bytes.extend(&bytes[..n]);
        wake(&mut half.reader);
        n
    }

    /// Whether the other end has closed its direction.
    pub(crate) fn ended(&self) -> bool {
        self.incoming.borrow().ended
    }

    /// Whether the other end has asked for an abortive close.
    pub(crate) fn aborted(&self) -> bool {
        self.incoming.borrow().aborted
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(w) = waker.take() {
        w.wake();
    }
}

impl Transport for Memory {
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut half = self.incoming.borrow_mut();
        if half.aborted {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if half.bytes.is_empty() && !half.ended {
            half.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buf.len().min(half.bytes.len());
        for (to, from) in buf.iter_mut().zip(half.bytes.drain(..n)) {
            *to = from;
        }
        wake(&mut half.writer);
        Poll::Ready(Ok(n))
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.incoming.borrow().aborted {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut sent = 0;
        for buf in bufs {
            sent += self.give(buf);
        }
        if sent == 0 && bufs.iter().any(|b| !b.is_empty()) {
            self.outgoing.borrow_mut().writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        let mut half = self.incoming.borrow_mut();
        if half.aborted {
            return Poll::Ready(Closed::Broken);
        }
        if half.ended && half.bytes.is_empty() {
            return Poll::Ready(Closed::Half);
        }
        half.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut half = self.incoming.borrow_mut();
        if half.aborted {
            return Poll::Ready(());
        }
        half.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        let mut half = self.outgoing.borrow_mut();
        half.ended = true;
        wake(&mut half.reader);
        Ok(())
    }

    fn set_abort(&self) {
        let mut half = self.outgoing.borrow_mut();
        half.aborted = true;
        wake(&mut half.reader);
    }

    fn plain(&self) -> Option<&Sock> {
        None
    }
}
