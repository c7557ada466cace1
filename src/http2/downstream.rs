//! One stream of a client as the connection of one HTTP/1.1 exchange.
//!
//! The request's head is not part of it (see [`translate::write_request`]): what is read is the body, in the framing that
//! the head promises, and what is written is the response, heads included. Windows are opened as bytes are read here and
//! not before, and nothing is taken for which the client's window has no room: whoever reads or writes too slowly is
//! waited for all the way to the other side.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use crate::http1::{self, ResponseHead};
use crate::http2::guard::Purse;
use crate::http2::translate::{self, Answer, Found};
use crate::net::transport::Closed;
use crate::net::{Sock, Transport};

/// Most of a body that goes out at once.
const MOST: usize = 64 * 1024;

/// A client that opens its window by no more than this at a time is not paid for it.
const STINGY: usize = 1024;

/// What so many bytes of an answer pay, or fewer that are all there is: clients open two windows for them.
const PAY: u32 = 2;
const STEP: usize = 4096;

/// See the module's documentation.
pub struct H2Stream {
    incoming: RefCell<Incoming>,
    outgoing: RefCell<Outgoing>,
    aborted: Cell<bool>,
    shared: Rc<Shared>,
}

/// What the streams of a connection have in common.
#[derive(Debug)]
pub struct Shared {
    /// What the client may do without it doing anything.
    pub purse: Purse,
    /// Work space for heads of responses.
    head: RefCell<ResponseHead>,
    /// Our end of the connection, where that is not plain from the listener.
    local_address: Option<SocketAddr>,
}

impl Shared {
    /// That of a new connection.
    pub fn new(purse: Purse, local_address: Option<SocketAddr>) -> Self {
        Self { purse, head: RefCell::new(ResponseHead::new()), local_address }
    }
}

struct Incoming {
    body: RecvStream,
    /// In chunks; else as long as Content-Length says.
    chunked: bool,
    /// Framing in front of the data, of which `at` bytes are read.
    framing: Vec<u8>,
    at: usize,
    /// Data that was received and not read here yet.
    data: Bytes,
    /// Framing behind it that is not read yet.
    tail: &'static [u8],
    state: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    Done,
}

struct Outgoing {
    to: To,
    answer: Answer,
}

enum To {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl H2Stream {
    /// A stream of which the request's head is read; `chunked`: so is its body.
    pub fn new(
        body: RecvStream,
        respond: SendResponse<Bytes>,
        method: http1::Method,
        chunked: bool,
        shared: Rc<Shared>,
    ) -> Self {
        let incoming =
            Incoming { body, chunked, framing: Vec::new(), at: 0, data: Bytes::new(), tail: b"", state: Reading::Data };
        let outgoing = Outgoing { to: To::Head(respond), answer: Answer::new(method) };
        Self { incoming: RefCell::new(incoming), outgoing: RefCell::new(outgoing), aborted: Cell::new(false), shared }
    }

    /// The exchange is over. A response that is not whole is taken back; what is left of the request is not wanted
    /// (RFC 9113 section 8.1), which h2 says by itself.
    pub fn finish(&self) {
        let mut out = self.outgoing.borrow_mut();
        let Outgoing { to, answer, .. } = &mut *out;
        if answer.is_complete() {
            self.shared.purse.give(1);
            return;
        }
        match to {
            To::Body(stream) if answer.ends_with_stream() && !self.aborted.get() => {
                if stream.send_data(Bytes::new(), true).is_ok() {
                    self.shared.purse.give(1);
                }
            }
            To::Body(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            To::Head(respond) => respond.send_reset(Reason::CANCEL),
        }
    }
}

impl Incoming {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut n = 0;
        loop {
            n += self.copy(&mut buf[n..])?;
            // Behind the last of it nothing comes.
            if n == buf.len() || self.state == Reading::Done {
                return Poll::Ready(Ok(n));
            }
            // Everything held is read: more, if that costs no waiting.
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending if n > 0 => return Poll::Ready(Ok(n)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Copies what is held, and opens the windows by as much.
    fn copy(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let framing = &self.framing[self.at..];
        let n = framing.len().min(buf.len());
        buf[..n].copy_from_slice(&framing[..n]);
        self.at += n;
        if self.at < self.framing.len() {
            return Ok(n);
        }
        let buf = &mut buf[n..];
        let of_data = self.data.len().min(buf.len());
        if of_data > 0 {
            buf[..of_data].copy_from_slice(&self.data[..of_data]);
            self.data.advance(of_data);
            self.body.flow_control().release_capacity(of_data).map_err(io::Error::other)?;
        }
        let buf = &mut buf[of_data..];
        let of_tail = if self.data.is_empty() { self.tail.len().min(buf.len()) } else { 0 };
        buf[..of_tail].copy_from_slice(&self.tail[..of_tail]);
        self.tail = &self.tail[of_tail..];
        Ok(n + of_data + of_tail)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.framing.clear();
        self.at = 0;
        if self.state == Reading::Trailers {
            let trailers = ready!(self.body.poll_trailers(cx)).map_err(broken)?.unwrap_or_default();
            translate::write_trailers(&trailers, &mut self.framing)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            self.state = Reading::Done;
            return Poll::Ready(Ok(()));
        }
        let data = loop {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => break data,
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                None => {
                    if !self.chunked {
                        self.state = Reading::Done;
                        return Poll::Ready(Ok(()));
                    }
                    self.state = Reading::Trailers;
                    return Poll::Ready(Ok(()));
                }
            }
        };
        if self.chunked {
            write!(self.framing, "{:x}\r\n", data.len())?;
            self.tail = b"\r\n";
        }
        self.data = data;
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>], shared: &Shared) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for buf in bufs {
            let mut rest = &buf[..];
            while !rest.is_empty() {
                let n = if self.answer.awaits_head() {
                    self.take_head(rest, &mut shared.head.borrow_mut())?
                } else {
                    match self.poll_body(cx, rest, &shared.purse) {
                        Poll::Ready(n) => n?,
                        Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                        Poll::Pending => return Poll::Pending,
                    }
                };
                taken += n;
                rest = &rest[n..];
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn take_head(&mut self, bytes: &[u8], head: &mut ResponseHead) -> io::Result<usize> {
        let To::Head(respond) = &mut self.to else { return Err(io::ErrorKind::InvalidData.into()) };
        let (n, found) = self.answer.take_head(bytes, head).map_err(io::Error::other)?;
        match found {
            Found::Nothing => {}
            Found::Informational(response) => respond.send_informational(response).map_err(broken)?,
            Found::Head { response, ends } => {
                self.to = To::Body(respond.send_response(response, ends).map_err(broken)?);
            }
        }
        Ok(n)
    }

    /// Never ready with 0: `bytes` are not empty.
    fn poll_body(&mut self, cx: &mut Context<'_>, bytes: &[u8], purse: &Purse) -> Poll<io::Result<usize>> {
        let To::Body(stream) = &mut self.to else { return Poll::Ready(Err(io::ErrorKind::InvalidData.into())) };
        let offered = bytes.len().min(MOST);
        stream.reserve_capacity(offered);
        let mut room = stream.capacity();
        loop {
            let mut data = Vec::with_capacity(room.min(offered));
            let taken = self.answer.take_body(bytes, room.min(offered), &mut data);
            let taken = taken.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if taken.bytes > 0 {
                if !data.is_empty() || taken.ends {
                    if data.len() >= STINGY || taken.bytes == offered {
                        purse.give(PAY * (1 + (data.len() / STEP) as u32));
                    }
                    stream.send_data(Bytes::from(data), taken.ends).map_err(broken)?;
                }
                if self.answer.is_complete() && !taken.ends {
                    let trailers =
                        self.answer.take_trailers().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                    stream.send_trailers(trailers).map_err(broken)?;
                }
                return Poll::Ready(Ok(taken.bytes));
            }
            room = match ready!(stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.to {
            To::Head(respond) => respond.poll_reset(cx).map(drop),
            To::Body(stream) => stream.poll_reset(cx).map(drop),
        }
    }
}

fn broken(e: h2::Error) -> io::Error {
    if e.is_io() {
        return e.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, e)
}

impl Transport for H2Stream {
    const HTTP2: bool = true;

    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.incoming.borrow_mut().poll_read(cx, buf)
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.outgoing.borrow_mut().poll_write(cx, bufs, &self.shared)
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.outgoing.borrow_mut().poll_reset(cx).map(|()| Closed::Broken)
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.outgoing.borrow_mut().poll_reset(cx)
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_abort(&self) {
        self.aborted.set(true);
    }

    fn plain(&self) -> Option<&Sock> {
        None
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.shared.local_address
    }
}
