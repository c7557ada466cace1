//! One direction of a relay: moves a body, or a raw byte stream, from one transport to another.
//!
//! A pump knows how the source delimits what it sends, never moves a byte that it has not checked, and holds a buffer
//! only while there are bytes in it. It has no clock: its owner looks at [`Pump::moved`] and [`Pump::waits_for`] to know
//! which timeout applies. Bytes go on as they came wherever the framing of both sides is the same; large ones go through
//! a pipe (`splice(2)`) when both transports are plain sockets.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::http1::{Chunked, Piece};
use crate::net::buffer::{Buffer, BufferPool, SMALL};
use crate::net::pipe::{self, Pipe, PipePool};
use crate::net::{Sock, Transport};

/// A body with at least this much still to come is spliced; below it, two copies cost less than two more system calls.
const SPLICE_MIN: u64 = 64 * 1024;

/// A stream without a known length is spliced once this many reads in a row filled the buffer.
const BULK_READS: u32 = 2;

/// Room in front of a chunk for its size line: up to 16 hex digits and CRLF.
const CHUNK_LINE: usize = 18;

/// Room behind a chunk for its CRLF.
const CHUNK_END: usize = 2;

/// How the source delimits its bytes.
#[derive(Debug)]
pub(crate) enum Framing {
    /// This many bytes.
    Length(u64),
    /// RFC 9112 section 7.1.
    Chunked(Chunked),
    /// Until it closes.
    UntilClose,
}

/// What happens to the framing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recode {
    /// Nothing: both sides use the same.
    AsIs,
    /// Chunked becomes until-close (HTTP/1.0 clients).
    Dechunk,
    /// Until-close becomes chunked (HTTP/1.0 servers, HTTP/1.1 clients).
    Enchunk,
}

/// Why a pump stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PumpError {
    /// Reading failed.
    Source,
    /// The source ended inside the body.
    Truncated,
    /// The source's chunked framing is wrong.
    Framing,
    /// More than the limit set by [`Pump::limit`].
    TooLarge,
    /// Writing failed.
    Dest,
}

/// Whom a pending pump waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// More bytes from the source.
    Source,
    /// Room at the destination.
    Dest,
}

/// The buffers and pipes a pump may take, and how much it may hold.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    /// Buffers.
    pub(crate) buffers: Rc<BufferPool>,
    /// Pipes.
    pub(crate) pipes: Rc<PipePool>,
    /// Bytes held at most while the destination is slow; one small buffer at least.
    pub(crate) read_ahead: usize,
}

/// The end of a source that has not said that it was one: of TLS without close_notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Is a failure: what came may not be whole.
    Fails,
    /// Is an end, as many programs do it; who speaks through a tunnel knows where messages end.
    Ends,
    /// Was the end.
    Ended,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pump {
    framing: Framing,
    recode: Recode,
    means: Means,
    /// Sent before the body: a head that did not fit in front of it.
    head: Vec<u8>,
    head_sent: usize,
    buf: Option<Buffer>,
    /// Bytes at the front of `buf` that are checked and may go out.
    ready: usize,
    source_done: bool,
    /// What this does when the source is cut off.
    cut: Cut,
    full_reads: u32,
    pipe: Option<Pipe>,
    body_in: u64,
    body_max: u64,
    sent: u64,
    moved: u64,
}

impl Pump {
    /// A pump that starts with what was already read of the source.
    pub(crate) fn new(
        framing: Framing,
        recode: Recode,
        initial: Option<Buffer>,
        means: Means,
    ) -> Result<Self, PumpError> {
        let mut pump = Self {
            framing,
            recode,
            means,
            head: Vec::new(),
            head_sent: 0,
            buf: initial.filter(|b| !b.is_empty()),
            ready: 0,
            source_done: false,
            cut: Cut::Fails,
            full_reads: 0,
            pipe: None,
            body_in: 0,
            body_max: u64::MAX,
            sent: 0,
            moved: 0,
        };
        pump.check()?;
        Ok(pump)
    }

    /// One direction of a tunnel: everything, until the source has ended in one way or another.
    pub(crate) fn of_tunnel(initial: Option<Buffer>, means: Means) -> Result<Self, PumpError> {
        Ok(Self { cut: Cut::Ends, ..Self::new(Framing::UntilClose, Recode::AsIs, initial, means)? })
    }

    /// Bytes to send before everything else. They go in front of the first body bytes, into the same write.
    pub(crate) fn send_first(&mut self, head: &[u8]) {
        let fits = match &mut self.buf {
            Some(buf) => buf.prepend(head),
            None => false,
        };
        if fits {
            self.ready += head.len();
        } else {
            self.head.clear();
            self.head.extend_from_slice(head);
            self.head_sent = 0;
        }
    }

    /// Fails with [`PumpError::TooLarge`] once the body exceeds `max` bytes.
    pub(crate) fn limit(&mut self, max: u64) -> Result<(), PumpError> {
        self.body_max = max;
        if self.body_in > max { Err(PumpError::TooLarge) } else { Ok(()) }
    }

    /// Bytes read or written so far: grows exactly when there was progress.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes written, heads and framing included.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of body read.
    pub(crate) fn body(&self) -> u64 {
        self.body_in
    }

    /// Whether the source has given all it will.
    pub(crate) fn source_done(&self) -> bool {
        self.source_done
    }

    /// Whether the source has ended without saying so.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut == Cut::Ended
    }

    /// Whom a pending pump waits for.
    pub(crate) fn waits_for(&self) -> Waits {
        if self.pending_out() > 0 || self.pipe.as_ref().is_some_and(|p| p.held > 0) {
            Waits::Dest
        } else {
            Waits::Source
        }
    }

    /// Whether something was read behind the end of the body.
    pub(crate) fn has_rest(&self) -> bool {
        self.source_done && self.buf.as_ref().is_some_and(|b| b.len() > self.ready)
    }

    /// What was read behind the end of the body; the buffer, when there is such a thing.
    pub(crate) fn into_rest(self) -> Option<Buffer> {
        self.buf.filter(|b| !b.is_empty())
    }

    fn pending_out(&self) -> usize {
        self.ready + (self.head.len() - self.head_sent)
    }

    /// Moves what can be moved; ready when the whole body has been written.
    pub(crate) fn poll<S: Transport, D: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        source: &S,
        dest: &D,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            if let (Some(from), Some(to)) = (source.plain(), dest.plain())
                && self.may_splice()
            {
                if self.poll_splice(cx, from, to)?.is_ready() {
                    continue;
                }
                return Poll::Pending;
            }
            let wrote = self.poll_write(cx, dest)?;
            if self.source_done && self.pending_out() == 0 {
                if self.ready == 0 && self.buf.as_ref().is_some_and(Buffer::is_empty) {
                    self.buf = None;
                }
                return Poll::Ready(Ok(()));
            }
            let read = self.poll_read(cx, source)?;
            if wrote.is_pending() && read.is_pending() {
                if self.buf.as_ref().is_some_and(Buffer::is_empty) {
                    self.buf = None;
                }
                return Poll::Pending;
            }
        }
    }

    /// Writes what is held once the source is done; ready when nothing is left.
    pub(crate) fn poll_flush<D: Transport>(&mut self, cx: &mut Context<'_>, dest: &D) -> Poll<Result<(), PumpError>> {
        while let (true, Some(to)) = (self.pipe.as_ref().is_some_and(|p| p.held > 0), dest.plain()) {
            if self.poll_empty_pipe(cx, to)?.is_pending() {
                return Poll::Pending;
            }
        }
        let _ = self.poll_write(cx, dest)?;
        if self.pending_out() > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Writes what is ready; pending as well when there is nothing to write.
    fn poll_write<D: Transport>(&mut self, cx: &mut Context<'_>, dest: &D) -> Result<Poll<()>, PumpError> {
        let mut wrote = Poll::Pending;
        while self.pending_out() > 0 {
            let head = &self.head[self.head_sent..];
            let body = self.buf.as_ref().map_or(&[][..], |b| &b.bytes()[..self.ready]);
            let sent = match (head.is_empty(), body.is_empty()) {
                (true, _) => dest.poll_send(cx, &[IoSlice::new(body)]),
                (false, true) => dest.poll_send(cx, &[IoSlice::new(head)]),
                (false, false) => dest.poll_send(cx, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            let n = match sent {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) => return Err(PumpError::Dest),
                Poll::Pending => return Ok(wrote),
            };
            let of_head = n.min(self.head.len() - self.head_sent);
            self.head_sent += of_head;
            self.ready -= n - of_head;
            if let Some(buf) = &mut self.buf {
                buf.consume(n - of_head);
            }
            self.sent += n as u64;
            self.moved += n as u64;
            wrote = Poll::Ready(());
        }
        Ok(wrote)
    }

    /// Reads once and checks what came; pending as well when there is no room.
    fn poll_read<S: Transport>(&mut self, cx: &mut Context<'_>, source: &S) -> Result<Poll<()>, PumpError> {
        if self.source_done {
            return Ok(Poll::Pending);
        }
        let enchunk = self.recode == Recode::Enchunk;
        if self.buf.is_none() {
            // A flow that filled small buffers gets large ones: half the system calls.
            let size = if self.full_reads >= 1 { self.means.read_ahead.max(SMALL) } else { SMALL };
            self.buf = Some(self.means.buffers.take(size));
        }
        let Some(buf) = &mut self.buf else { return Ok(Poll::Pending) };
        if buf.is_empty() {
            if self.full_reads >= 1 && buf.capacity() < self.means.read_ahead {
                *buf = self.means.buffers.take(self.means.read_ahead);
            }
            if enchunk {
                buf.reserve_front(CHUNK_LINE);
            }
        } else if enchunk {
            return Ok(Poll::Pending);
        }
        if buf.room() == 0 && buf.len() <= self.means.read_ahead / 2 {
            // The destination is slow. Bytes are moved only once they are few, so that each is moved once.
            buf.grow(self.means.read_ahead);
        }
        let room = buf.room().saturating_sub(if enchunk { CHUNK_END } else { 0 });
        if room == 0 {
            return Ok(Poll::Pending);
        }
        let n = match source.poll_recv(cx, &mut buf.space()[..room]) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) if self.cut == Cut::Ends && e.kind() == io::ErrorKind::UnexpectedEof => {
                self.cut = Cut::Ended;
                0
            }
            Poll::Ready(Err(_)) => return Err(PumpError::Source),
            Poll::Pending => return Ok(Poll::Pending),
        };
        buf.filled(n);
        self.full_reads = if n == room { self.full_reads + 1 } else { 0 };
        self.moved += 1;
        if n == 0 {
            self.end_of_stream()?;
        } else {
            self.check()?;
        }
        Ok(Poll::Ready(()))
    }

    fn end_of_stream(&mut self) -> Result<(), PumpError> {
        if !matches!(self.framing, Framing::UntilClose) {
            return Err(PumpError::Truncated);
        }
        self.source_done = true;
        if self.recode == Recode::Enchunk
            && let Some(buf) = &mut self.buf
        {
            self.ready += buf.push(b"0\r\n\r\n");
        }
        Ok(())
    }

    /// Checks the bytes behind `ready` and makes ready what is part of the body.
    fn check(&mut self) -> Result<(), PumpError> {
        let fresh = self.buf.as_ref().map_or(0, |b| b.len() - self.ready);
        match &mut self.framing {
            Framing::Length(left) => {
                let n = fresh.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                self.ready += n;
                self.body_in += n as u64;
                self.source_done = *left == 0;
            }
            Framing::UntilClose => {
                self.body_in += fresh as u64;
                self.ready += fresh;
                if self.recode == Recode::Enchunk
                    && fresh > 0
                    && let Some(buf) = &mut self.buf
                {
                    let line = format!("{fresh:x}\r\n");
                    if buf.room() < CHUNK_END || !buf.prepend(line.as_bytes()) {
                        // Only what was read together with the response head can lie like this.
                        let mut moved = self.means.buffers.take(fresh + CHUNK_LINE + CHUNK_END);
                        moved.reserve_front(CHUNK_LINE);
                        moved.push(buf.bytes());
                        moved.prepend(line.as_bytes());
                        *buf = moved;
                    }
                    buf.push(b"\r\n");
                    self.ready = buf.len();
                }
            }
            Framing::Chunked(_) => self.check_chunked()?,
        }
        if self.body_in > self.body_max { Err(PumpError::TooLarge) } else { Ok(()) }
    }

    fn check_chunked(&mut self) -> Result<(), PumpError> {
        let (Framing::Chunked(decoder), Some(buf)) = (&mut self.framing, &mut self.buf) else { return Ok(()) };
        while self.ready < buf.len() {
            let keep = self.recode == Recode::AsIs;
            let piece = decoder.step(&buf.bytes()[self.ready..]).map_err(|_| PumpError::Framing)?;
            match piece {
                Piece::Data(n) => {
                    self.body_in += n as u64;
                    self.ready += n;
                }
                Piece::Framing(n) | Piece::End(n) if keep => self.ready += n,
                Piece::Framing(n) | Piece::End(n) => buf.cut(self.ready, n),
                Piece::More => {
                    // A size line or a trailer in pieces: it must fit the room there is, and the decoder bounds it.
                    if buf.room() == 0 {
                        buf.compact();
                    }
                    break;
                }
            }
            if let Piece::End(_) = piece {
                self.source_done = true;
                break;
            }
        }
        Ok(())
    }

    /// Whether the next bytes may go around the buffer: it is empty, and what follows is one long run of plain bytes.
    fn may_splice(&self) -> bool {
        if self.pipe.is_some() {
            return true;
        }
        if self.source_done || self.recode != Recode::AsIs || self.pending_out() > 0 {
            return false;
        }
        if self.buf.as_ref().is_some_and(|b| !b.is_empty()) {
            return false;
        }
        match &self.framing {
            // What can be held whole frees its source sooner than a pipe would.
            Framing::Length(left) => *left >= SPLICE_MIN && *left > self.means.read_ahead as u64,
            Framing::Chunked(decoder) => decoder.remaining() >= SPLICE_MIN,
            Framing::UntilClose => self.full_reads >= BULK_READS,
        }
    }

    /// One round through the pipe; ready when there was progress or splicing ended.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &Sock, to: &Sock) -> Result<Poll<()>, PumpError> {
        let left = match &self.framing {
            Framing::Length(left) => *left,
            Framing::Chunked(decoder) => decoder.remaining(),
            Framing::UntilClose => u64::MAX,
        };
        if self.pipe.is_none() {
            self.buf = None;
            self.pipe = self.means.pipes.take();
        }
        let Some(pipe) = &mut self.pipe else {
            // No pipe to be had: copy on, and ask again after as many full reads.
            self.full_reads = 0;
            return self.poll_copy_instead(cx, from, to);
        };
        if pipe.held == 0 {
            if left == 0 || self.source_done {
                self.pipe = None;
                return Ok(Poll::Ready(()));
            }
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(pipe::CAPACITY);
            let n = match from.poll_splice_to(cx, pipe.write_end(), want) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) => return Err(PumpError::Source),
                Poll::Pending => {
                    // Waiting may be long: the pipe serves others meanwhile.
                    self.pipe = None;
                    self.full_reads = BULK_READS;
                    return Ok(Poll::Pending);
                }
            };
            self.moved += 1;
            if n == 0 {
                self.pipe = None;
                self.end_of_stream()?;
                return Ok(Poll::Ready(()));
            }
            pipe.held = n;
            self.body_in += n as u64;
            match &mut self.framing {
                Framing::Length(left) => {
                    *left -= n as u64;
                    self.source_done = *left == 0;
                }
                Framing::Chunked(decoder) => decoder.skip(n as u64),
                Framing::UntilClose if n < SMALL => self.full_reads = 0,
                Framing::UntilClose => {}
            }
            if self.body_in > self.body_max {
                return Err(PumpError::TooLarge);
            }
        }
        self.poll_empty_pipe(cx, to)
    }

    /// Writes out of the pipe, which goes when it is empty and nothing more is to be spliced.
    fn poll_empty_pipe(&mut self, cx: &mut Context<'_>, to: &Sock) -> Result<Poll<()>, PumpError> {
        let Some(pipe) = &mut self.pipe else { return Ok(Poll::Ready(())) };
        let more = !self.source_done && !matches!(self.framing, Framing::UntilClose);
        match to.poll_splice_from(cx, pipe.read_end(), pipe.held, more) {
            Poll::Ready(Ok(n)) => {
                pipe.held -= n.min(pipe.held);
                self.sent += n as u64;
                self.moved += n as u64;
                let ended = match &self.framing {
                    Framing::Length(left) => *left == 0,
                    Framing::Chunked(decoder) => decoder.remaining() == 0,
                    Framing::UntilClose => self.full_reads == 0,
                };
                if pipe.held == 0 && ended {
                    self.pipe = None;
                }
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(_)) => Err(PumpError::Dest),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn poll_copy_instead(&mut self, cx: &mut Context<'_>, from: &Sock, to: &Sock) -> Result<Poll<()>, PumpError> {
        let read = self.poll_read(cx, from)?;
        let wrote = self.poll_write(cx, to)?;
        Ok(if read.is_ready() || wrote.is_ready() { Poll::Ready(()) } else { Poll::Pending })
    }
}

#[cfg(test)]
mod tests;
