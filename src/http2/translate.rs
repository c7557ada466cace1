//! Requests of HTTP/2 as heads of HTTP/1.1, and responses of HTTP/1.1 as what HTTP/2 sends. Pure.
//!
//! What is written here is read by [`crate::http1`] right afterwards. A value that could mean something else there is
//! refused here; whatever else may be wrong with a request, that codec finds.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};

use crate::http1::{
    self, Body, Chunked, FieldName, HeadError, Limits, Parse, Piece, RequestError, ResponseError, ResponseHead,
};
use crate::http2::upstream;

/// Bytes of trailers of a response at most; the decoder of chunks takes no more.
const MAX_TRAILERS: usize = 8192;

/// Bytes and fields of the head of a response; the relay lets no more of a server's pass, and adds its own.
const HEAD_LIMITS: Limits = Limits { max_size: 256 * 1024, max_fields: 1024, max_uri: 0, underscores: true };

/// Appends the head of a request (RFC 9113 section 8.3.1) as HTTP/1.1 has it. `ends`: no body follows; else its framing
/// is its Content-Length, and chunked without one.
///
/// # Errors
/// What is malformed in a way that would be hidden by being written down.
pub fn write_request(parts: &Parts, ends: bool, out: &mut Vec<u8>) -> Result<(), RequestError> {
    if parts.method == Method::CONNECT {
        return Err(RequestError::Connect);
    }
    let path = parts.uri.path_and_query().ok_or(RequestError::BadTarget)?;
    // Without `:path` there is one that reads like a slash and is not the same as one.
    if path.as_str() == "/" && *path != PathAndQuery::from_static("/") {
        return Err(RequestError::BadTarget);
    }
    let path = path.as_str();
    let is_path = path.starts_with('/') || (path == "*" && parts.method == Method::OPTIONS);
    if !is_path {
        return Err(RequestError::BadTarget);
    }
    let host = host(parts)?;
    for piece in [parts.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
    line(out, b"Host", host);
    let mut cookies = parts.headers.get_all(COOKIE).iter();
    if let Some(first) = cookies.next() {
        // RFC 9113 section 8.2.3: one field again.
        check_value(first)?;
        out.extend_from_slice(b"cookie: ");
        out.extend_from_slice(first.as_bytes());
        for crumb in cookies {
            check_value(crumb)?;
            out.extend_from_slice(b"; ");
            out.extend_from_slice(crumb.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in &parts.headers {
        if name == HOST || name == COOKIE {
            continue;
        }
        if is_of_connection(name) || (name == TE && value != "trailers") {
            return Err(HeadError::BadName.into());
        }
        check_value(value)?;
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if !parts.headers.contains_key(CONTENT_LENGTH) {
        if !ends {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            // Which HTTP/1.1 servers want to be told (RFC 9110 section 8.6).
            out.extend_from_slice(b"content-length: 0\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// `:authority`, else Host; both, if they are the same (RFC 9113 section 8.3.1).
fn host(parts: &Parts) -> Result<&[u8], RequestError> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return Err(RequestError::SeveralHosts);
    }
    match (parts.uri.authority(), field) {
        (Some(authority), Some(field)) if !field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(RequestError::HostMismatch)
        }
        (Some(authority), _) => Ok(authority.as_str().as_bytes()),
        (None, Some(field)) => {
            check_value(field)?;
            Ok(field.as_bytes())
        }
        (None, None) => Err(RequestError::NoHost),
    }
}

/// Appends the end of a chunked body with the trailers of a request.
///
/// # Errors
/// A field that belongs to a connection, or a value with white space around it.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) -> Result<(), RequestError> {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if is_of_connection(name) {
            return Err(HeadError::BadName.into());
        }
        check_value(value)?;
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// What HTTP/2 has no use for (RFC 9113 section 8.2.2). h2 refuses it too; here is the wall.
fn is_of_connection(name: &HeaderName) -> bool {
    name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// RFC 9113 section 8.2.1. Of control characters the type lets only the tab through.
fn check_value(value: &HeaderValue) -> Result<(), RequestError> {
    let bytes = value.as_bytes();
    if bytes.trim_ascii().len() == bytes.len() { Ok(()) } else { Err(HeadError::BadValue.into()) }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The bytes of one HTTP/1.1 response, interim ones before it included, as they come.
#[derive(Debug)]
pub struct Answer {
    method: http1::Method,
    state: State,
    /// A head of which more is to come.
    partial: Vec<u8>,
    trailers: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    Done,
}

/// What was found at the front of the bytes.
#[derive(Debug)]
pub enum Found {
    /// Nothing yet: it goes on with more bytes.
    Nothing,
    /// A 1xx response.
    Informational(Response<()>),
    /// The head of the response; `ends`: it has no body.
    Head {
        /// The head, without what belongs to an HTTP/1.1 connection.
        response: Response<()>,
        /// No body follows.
        ends: bool,
    },
}

/// What came of some bytes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of them that are done with.
    pub bytes: usize,
    /// The body is over and has no trailers.
    pub ends: bool,
}

impl Answer {
    /// The response to a request with `method`.
    pub fn new(method: http1::Method) -> Self {
        Self { method, state: State::Head, partial: Vec::new(), trailers: Vec::new() }
    }

    /// Whether the final head is still to come.
    pub fn awaits_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether it ends with the stream of bytes, and has begun.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// Takes bytes of a head; how many were used. `head` is work space.
    ///
    /// # Errors
    /// They are not the head of a response, or one that cannot be said in HTTP/2.
    pub fn take_head(&mut self, bytes: &[u8], head: &mut ResponseHead) -> Result<(usize, Found), ResponseError> {
        let before = self.partial.len();
        if before > 0 {
            self.partial.extend_from_slice(bytes);
        }
        let text = if before > 0 { &self.partial[..] } else { bytes };
        if head.parse(text, self.method, &HEAD_LIMITS)? == Parse::Partial {
            if before == 0 {
                self.partial.extend_from_slice(bytes);
            }
            return Ok((bytes.len(), Found::Nothing));
        }
        let used = head.len - before;
        let response = response(head, text)?;
        self.partial.clear();
        if head.is_interim() {
            return Ok((used, Found::Informational(response)));
        }
        self.state = match head.body {
            Body::None | Body::Length(0) => State::Done,
            Body::Length(n) => State::Length(n),
            Body::Chunked => State::Chunked(Box::default()),
            Body::UntilClose => State::UntilClose,
        };
        let ends = self.is_complete();
        Ok((used, Found::Head { response, ends }))
    }

    /// Takes bytes of the body, of which at most `room` are data; those are appended to `data`. It goes on until there
    /// is no room or nothing more, or until the end.
    ///
    /// # Errors
    /// The framing is wrong.
    pub fn take_body(&mut self, bytes: &[u8], room: usize, data: &mut Vec<u8>) -> Result<Taken, Broken> {
        match &mut self.state {
            State::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let n = bytes.len().min(room).min(most);
                data.extend_from_slice(&bytes[..n]);
                *left -= n as u64;
                let ends = *left == 0;
                if ends {
                    self.state = State::Done;
                }
                Ok(Taken { bytes: n, ends })
            }
            State::UntilClose => {
                let n = bytes.len().min(room);
                data.extend_from_slice(&bytes[..n]);
                Ok(Taken { bytes: n, ends: false })
            }
            State::Chunked(_) => self.take_chunks(bytes, room, data),
            State::Head | State::Done => Err(Broken),
        }
    }

    fn take_chunks(&mut self, bytes: &[u8], mut room: usize, data: &mut Vec<u8>) -> Result<Taken, Broken> {
        let State::Chunked(decoder) = &mut self.state else { return Err(Broken) };
        let mut at = 0;
        while at < bytes.len() {
            if decoder.remaining() > 0 {
                let n = (bytes.len() - at).min(room);
                if n == 0 {
                    break;
                }
                let Ok(Piece::Data(n)) = decoder.step(&bytes[at..at + n]) else { return Err(Broken) };
                data.extend_from_slice(&bytes[at..at + n]);
                room -= n;
                at += n;
                continue;
            }
            // Framing is a few bytes; one at a time tells which of them are trailers.
            let in_trailers = decoder.is_in_trailers();
            match decoder.step(&bytes[at..=at]).map_err(|_| Broken)? {
                Piece::Framing(_) | Piece::End(_) => {}
                Piece::Data(_) | Piece::More => return Err(Broken),
            }
            if in_trailers {
                self.trailers.push(bytes[at]);
                if self.trailers.len() > MAX_TRAILERS {
                    return Err(Broken);
                }
            }
            at += 1;
            if decoder.is_done() {
                self.state = State::Done;
                // An empty line is all there is.
                return Ok(Taken { bytes: at, ends: self.trailers.len() <= 2 });
            }
        }
        Ok(Taken { bytes: at, ends: false })
    }

    /// The trailers, once the body is over and does not end without any.
    ///
    /// # Errors
    /// They are not fields; the decoder has seen to that they are, and none of a connection.
    pub fn take_trailers(&mut self) -> Result<HeaderMap, Broken> {
        let section = std::mem::take(&mut self.trailers);
        upstream::trailers(&section).map(Option::unwrap_or_default).map_err(|_| Broken)
    }
}

/// The framing of a body that we wrote ourselves is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// The head, of which `text` holds the bytes.
fn response(head: &ResponseHead, text: &[u8]) -> Result<Response<()>, ResponseError> {
    let status = StatusCode::from_u16(head.status).map_err(|_| ResponseError::BadLine)?;
    // One block for all values.
    let block = Bytes::copy_from_slice(&text[..head.len]);
    let mut map = HeaderMap::with_capacity(head.fields.len());
    for field in &head.fields {
        let of_http1 = matches!(field.kind, FieldName::TransferEncoding | FieldName::Host);
        if field.hop || of_http1 {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.of(&block)).map_err(|_| HeadError::BadName)?;
        let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value.of(&block)));
        map.append(name, value.map_err(|_| HeadError::BadValue)?);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = map;
    Ok(response)
}

#[cfg(test)]
mod tests;
