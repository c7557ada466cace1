//! One request and its response on a shared connection of HTTP/2, in the clothes of a connection of HTTP/1.1.
//!
//! What the relay writes is taken apart by our codec and becomes fields, data and trailers; what the server answers is
//! written out as a response head, and a body that is chunked unless its length is known. Windows are given back as the
//! relay takes the bytes, and the relay's bytes are taken as windows allow: each side waits for the other, and no more is
//! held than a window. Dropped before its end, it resets the stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::StatusCode;
use http::uri::Scheme;

use crate::http1::{Limits, Method, Parse, RequestHead};
use crate::http2::upstream::{self, Last, Part, RequestBody, ResponseFraming};
use crate::net::transport::Closed;
use crate::net::wheel::Timer;
use crate::net::{Sock, Transport, clock};
use crate::proxy::link::BrokenTls;
use crate::proxy::link::shared::Ticket;

/// The head is our own, made from one that has passed the listener's limits and from what the configuration adds.
const LIMITS: Limits = Limits { max_size: 4 << 20, max_fields: 20_000, max_uri: 4 << 20, underscores: true };

/// For how long a server may take to end a stream behind a complete response.
const SEEING_OUT: Duration = Duration::from_secs(30);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Stream {
    sends: RefCell<Sends>,
    receives: RefCell<Receives>,
    is_head: Cell<bool>,
    ticket: Ticket,
}

/// The request.
#[derive(Debug)]
enum Sends {
    /// Its head is not complete; nothing has been sent.
    Head {
        to: SendRequest<Bytes>,
        text: Vec<u8>,
        scheme: Scheme,
    },
    Body {
        to: SendStream<Bytes>,
        body: RequestBody,
    },
    Done,
}

/// The response, as it is handed out.
#[derive(Debug)]
struct Receives {
    from: From,
    /// Heads, size lines, trailers; handed out before `data`.
    text: Vec<u8>,
    text_done: usize,
    /// Of the frame that came last.
    data: Bytes,
    framing: ResponseFraming,
    /// Waits for the request to be sent.
    waiter: Option<Waker>,
}

#[derive(Debug)]
enum From {
    /// Nothing can come yet.
    Nowhere,
    Head(ResponseFuture),
    Body(RecvStream),
    Ended,
    Failed(Failed),
}

/// How it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failed {
    /// The server has said, or it is plain, that it has done nothing with the request (RFC 9113 section 8.7).
    Untouched,
    /// The same of this stream alone: REFUSED_STREAM.
    Refused,
    /// The server does not speak HTTP/2, or breaks its rules.
    Rules,
    /// What was to be sent has no form in HTTP/2.
    Request,
    /// The server has reset the stream.
    Reset,
    /// The connection broke.
    Broken,
    /// TLS beneath the connection did; how.
    Tls(Box<str>),
}

impl Stream {
    /// A stream that is opened once the relay has written a request head. `scheme`: that of the connection.
    pub(super) fn new(to: SendRequest<Bytes>, scheme: Scheme, ticket: Ticket) -> Self {
        let receives = Receives {
            from: From::Nowhere,
            text: Vec::new(),
            text_done: 0,
            data: Bytes::new(),
            framing: ResponseFraming::Plain,
            waiter: None,
        };
        Self {
            sends: RefCell::new(Sends::Head { to, text: Vec::new(), scheme }),
            receives: RefCell::new(receives),
            is_head: Cell::new(false),
            ticket,
        }
    }

    /// Whether the server has certainly done nothing with the request: it may go elsewhere whatever it asks for.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self.receives.borrow().from, From::Nowhere | From::Failed(Failed::Untouched | Failed::Refused))
    }

    /// Whether the server has ended the stream and not the connection.
    pub(crate) fn is_reset_alone(&self) -> bool {
        matches!(self.receives.borrow().from, From::Failed(Failed::Refused | Failed::Reset))
    }

    /// The shared connection.
    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The response is complete. Keeps the stream until the server has ended it, too: dropped before, it would be reset,
    /// and the server give up what it still does for the request. `timer` is for its end.
    pub(crate) fn see_out(self, timer: Timer) {
        if self.receives.borrow().is_over() {
            return;
        }
        timer.set(clock::now().after(SEEING_OUT));
        tokio::task::spawn_local(poll_fn(move |cx| {
            if self.receives.borrow_mut().poll_over(cx).is_ready() { Poll::Ready(()) } else { timer.poll_expired(cx) }
        }));
    }

    /// Takes some of `bytes`, which are not empty.
    fn poll_take(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut sends = self.sends.borrow_mut();
        match &mut *sends {
            Sends::Head { to, text, scheme } => {
                let before = text.len();
                text.extend_from_slice(bytes);
                let mut head = RequestHead::new();
                let of_head = match head.parse(text, &LIMITS) {
                    Ok(Parse::Partial) => return Poll::Ready(Ok(bytes.len())),
                    Ok(Parse::Complete) => head.len.saturating_sub(before),
                    Err(e) => return Poll::Ready(Err(self.fail(Failed::Request, e))),
                };
                self.is_head.set(head.method == Method::Head);
                let request = match upstream::request(&head, text, scheme.clone()) {
                    Ok(request) => request,
                    Err(e) => return Poll::Ready(Err(self.fail(Failed::Request, e))),
                };
                let body = RequestBody::new(head.body);
                let (response, stream) = match to.send_request(request, body.is_none()) {
                    Ok(opened) => opened,
                    // The connection has ended since it was chosen.
                    Err(e) => return Poll::Ready(Err(self.fail(Failed::Untouched, e))),
                };
                let mut receives = self.receives.borrow_mut();
                receives.from = From::Head(response);
                receives.waiter.take().into_iter().for_each(Waker::wake);
                *sends = body.map_or(Sends::Done, |body| Sends::Body { to: stream, body });
                Poll::Ready(Ok(of_head))
            }
            Sends::Body { to, body } => {
                let room = if body.expects_data() { ready!(poll_room(to, cx, bytes.len()))? } else { usize::MAX };
                let part = body.step(bytes.get(..room).unwrap_or(bytes));
                let (n, ended, sent) = match part {
                    Ok(Part::Data(n, last)) => {
                        let data = Bytes::copy_from_slice(bytes.get(..n).unwrap_or_default());
                        (n, last == Last::Yes, to.send_data(data, last == Last::Yes))
                    }
                    Ok(Part::Framing(n)) => (n, false, Ok(())),
                    Ok(Part::End(n, Some(trailers))) => (n, true, to.send_trailers(trailers)),
                    Ok(Part::End(n, None)) => (n, true, to.send_data(Bytes::new(), true)),
                    Err(e) => {
                        to.send_reset(Reason::CANCEL);
                        return Poll::Ready(Err(self.fail(Failed::Request, e)));
                    }
                };
                if ended {
                    *sends = Sends::Done;
                }
                Poll::Ready(sent.map(|()| n).map_err(|_| io::ErrorKind::BrokenPipe.into()))
            }
            Sends::Done => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn fail(&self, failed: Failed, error: impl std::fmt::Display) -> io::Error {
        let mut receives = self.receives.borrow_mut();
        receives.from = From::Failed(failed);
        receives.waiter.take().into_iter().for_each(Waker::wake);
        tracing::debug!(%error, "request not sent over HTTP/2");
        io::ErrorKind::BrokenPipe.into()
    }
}

/// Waits for room for some of `wanted` bytes of data.
fn poll_room(to: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    to.reserve_capacity(wanted);
    loop {
        let room = to.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room.min(wanted)));
        }
        match ready!(to.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Receives {
    /// Whether the server has ended the stream.
    fn is_over(&self) -> bool {
        match &self.from {
            From::Body(body) => body.is_end_stream(),
            From::Nowhere | From::Head(_) | From::Ended | From::Failed(_) => true,
        }
    }

    /// Waits for the server to end the stream. What still comes is nobody's, and cannot be more than a window.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let From::Body(body) = &mut self.from else { return Poll::Ready(()) };
        while let Some(Ok(_)) = ready!(body.poll_data(cx)) {}
        Poll::Ready(())
    }

    /// Hands out what is here; whether something was.
    fn hand_out(&mut self, buf: &mut [u8]) -> usize {
        let text = self.text.get(self.text_done..).unwrap_or_default();
        if !text.is_empty() {
            let n = copy(text, buf);
            self.text_done += n;
            if self.text_done == self.text.len() {
                self.text.clear();
                self.text_done = 0;
            }
            return n;
        }
        let n = copy(&self.data, buf);
        if n > 0 {
            self.data = self.data.split_off(n);
            if let From::Body(from) = &mut self.from {
                // Fails only for more than was received.
                let _ = from.flow_control().release_capacity(n);
            }
            if self.data.is_empty() && self.framing == ResponseFraming::Chunked {
                self.text.extend_from_slice(b"\r\n");
            }
        }
        n
    }

    /// Gets more to hand out; `false`: there is no more.
    fn poll_more(&mut self, cx: &mut Context<'_>, is_head: bool) -> Poll<Result<bool, Failed>> {
        match &mut self.from {
            From::Nowhere => {
                self.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
            From::Head(response) => {
                if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                    let (parts, ()) = interim.map_err(|e| failed(&e))?.into_parts();
                    // RFC 9113 section 8.6: there is no other protocol to go over to.
                    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Err(Failed::Rules));
                    }
                    upstream::write_interim(&mut self.text, parts.status, &parts.headers);
                    return Poll::Ready(Ok(true));
                }
                let (parts, body) = ready!(std::pin::Pin::new(response).poll(cx)).map_err(|e| failed(&e))?.into_parts();
                let ended = body.is_end_stream();
                self.framing = upstream::write_response(&mut self.text, parts.status, &parts.headers, is_head, ended);
                self.from = From::Body(body);
                Poll::Ready(Ok(true))
            }
            From::Body(body) => match ready!(body.poll_data(cx)) {
                Some(data) => {
                    self.data = data.map_err(|e| failed(&e))?;
                    if self.framing == ResponseFraming::Chunked && !self.data.is_empty() {
                        upstream::write_chunk(&mut self.text, self.data.len());
                    }
                    Poll::Ready(Ok(true))
                }
                None => {
                    let trailers = ready!(body.poll_trailers(cx)).map_err(|e| failed(&e))?;
                    if self.framing == ResponseFraming::Chunked {
                        upstream::write_end(&mut self.text, trailers.as_ref());
                    }
                    self.from = From::Ended;
                    Poll::Ready(Ok(true))
                }
            },
            From::Ended => Poll::Ready(Ok(false)),
            From::Failed(failed) => Poll::Ready(Err(failed.clone())),
        }
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let n = from.len().min(to.len());
    let (Some(to), Some(from)) = (to.get_mut(..n), from.get(..n)) else { return 0 };
    to.copy_from_slice(from);
    n
}

/// RFC 9113 section 8.7: a stream above the last one of a GOAWAY, or refused, has not been processed. The engine gives the
/// error of a GOAWAY to such streams only; the others go on, or break with their connection.
fn failed(e: &h2::Error) -> Failed {
    if let Some(io) = e.get_io().filter(|io| io.kind() == io::ErrorKind::InvalidData) {
        return Failed::Tls(io.to_string().into());
    }
    match e.reason() {
        Some(_) if e.is_go_away() && e.is_remote() => Failed::Untouched,
        Some(Reason::REFUSED_STREAM) if e.is_remote() => Failed::Refused,
        Some(_) if e.is_reset() && e.is_remote() => Failed::Reset,
        Some(_) if e.is_library() => Failed::Rules,
        _ => Failed::Broken,
    }
}

impl Transport for Stream {
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut receives = self.receives.borrow_mut();
        let mut filled = 0;
        loop {
            let n = receives.hand_out(buf.get_mut(filled..).unwrap_or_default());
            filled += n;
            if filled == buf.len() {
                return Poll::Ready(Ok(filled));
            }
            if n > 0 {
                continue;
            }
            match receives.poll_more(cx, self.is_head.get()) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(filled)),
                Poll::Pending if filled == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(filled)),
                Poll::Ready(Err(failed)) => {
                    receives.from = From::Failed(failed.clone());
                    if filled > 0 {
                        return Poll::Ready(Ok(filled));
                    }
                    return Poll::Ready(Err(match failed {
                        Failed::Rules => io::ErrorKind::InvalidData.into(),
                        Failed::Request => io::ErrorKind::InvalidInput.into(),
                        Failed::Untouched | Failed::Refused | Failed::Reset | Failed::Broken => {
                            io::ErrorKind::ConnectionReset.into()
                        }
                        Failed::Tls(how) => io::Error::new(io::ErrorKind::InvalidData, BrokenTls(how)),
                    }));
                }
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut sent = 0;
        for buf in bufs {
            let mut rest = &buf[..];
            while !rest.is_empty() {
                match self.poll_take(cx, rest) {
                    Poll::Ready(Ok(n)) => {
                        rest = rest.get(n..).unwrap_or_default();
                        sent += n;
                    }
                    other if sent == 0 => return other,
                    Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(Ok(sent)),
                }
            }
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_closed(&self, _: &mut Context<'_>) -> Poll<Closed> {
        Poll::Pending
    }

    fn poll_broken(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_abort(&self) {
        // Dropping it resets the stream, and the connection is not its own.
    }

    fn plain(&self) -> Option<&Sock> {
        None
    }
}
