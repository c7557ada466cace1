//! The head of a response.

use std::fmt;

use super::field::{Field, FieldName, Span};
use super::framing::{Body, HeadError, Meaning, Side, parse_fields};
use super::request::Method;
use super::scan::{self, LineEnd};
use super::{Limits, Parse, Version};

/// Why a response is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseError {
    /// See [`HeadError`].
    Head(HeadError),
    /// The status line is not `HTTP/1.x NNN reason`.
    BadLine,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(e) => e.fmt(f),
            Self::BadLine => f.write_str("invalid status line"),
        }
    }
}

impl std::error::Error for ResponseError {}

impl From<HeadError> for ResponseError {
    fn from(e: HeadError) -> Self {
        Self::Head(e)
    }
}

/// The head of a response. Spans refer to the buffer it was parsed from.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: Span,
    /// The version.
    pub version: Version,
    /// The fields in their order.
    pub fields: Vec<Field>,
    /// Bytes of the head: where the body starts.
    pub len: usize,
    /// The body. After 101 there is none: what follows is another protocol.
    pub body: Body,
    /// The server would keep the connection, and the body has an end without its closing.
    pub keep_alive: bool,
    /// The server said `Transfer-Encoding: chunked`, also where there is no body: to HEAD, and with 304.
    pub chunked: bool,
}

impl ResponseHead {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it is followed by another response to the same request (RFC 9110 section 15.2): 1xx, but not 101, after
    /// which the protocol is another one.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Makes it empty; keeps the room for fields.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Parses the head at the front of `buf`, of a response to a request with `method`, from its first byte: no state is
    /// kept between calls. Of the limits, those for size and fields count.
    pub fn parse(&mut self, buf: &[u8], method: Method, limits: &Limits) -> Result<Parse, ResponseError> {
        self.clear();
        let window = limits.window(buf);
        match self.parse_window(window, method, limits)? {
            Some(len) => {
                self.len = len;
                Ok(Parse::Complete)
            }
            None if window.len() == limits.window_len() => Err(HeadError::TooLarge.into()),
            None => Ok(Parse::Partial),
        }
    }

    fn parse_window(&mut self, buf: &[u8], method: Method, limits: &Limits) -> Result<Option<usize>, ResponseError> {
        let Some(at) = self.parse_line(buf)? else { return Ok(None) };
        let mut meaning = Meaning::default();
        let Some(len) = parse_fields(buf, at, limits, Side::Server, &mut self.fields, &mut meaning)? else {
            return Ok(None);
        };
        self.interpret(method, &meaning)?;
        Ok(Some(len))
    }

    /// `HTTP/1.1 200 OK`, and without the reason also without the space in front of it.
    fn parse_line(&mut self, buf: &[u8]) -> Result<Option<usize>, ResponseError> {
        let Some((line, rest)) = buf.split_first_chunk::<12>() else {
            let start = &b"HTTP/1."[..];
            let so_far = buf.get(..start.len()).unwrap_or(buf);
            let possible = start.starts_with(so_far) && !buf.contains(&b'\n');
            return if possible { Ok(None) } else { Err(ResponseError::BadLine) };
        };
        let [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor @ b'0'..=b'9',
            b' ',
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
        ] = line
        else {
            return Err(ResponseError::BadLine);
        };
        self.version = if *minor == b'0' { Version::Http10 } else { Version::Http11 };
        self.status = [a, b, c].iter().fold(0, |n, d| n * 10 + u16::from(*d - b'0'));
        let (start, rest) = match rest.split_first() {
            Some((b' ', reason)) => (line.len() + 1, reason),
            Some((b'\r' | b'\n', _)) | None => (line.len(), rest),
            Some(_) => return Err(ResponseError::BadLine),
        };
        let len = scan::value(rest);
        self.reason = Span::new(start, start + len);
        match scan::line_end(rest.get(len..).unwrap_or_default()) {
            LineEnd::Len(n) => Ok(Some(start + len + n)),
            LineEnd::Partial => Ok(None),
            LineEnd::Not => Err(ResponseError::BadLine),
        }
    }

    /// RFC 9112 section 6.3.
    fn interpret(&mut self, method: Method, meaning: &Meaning) -> Result<(), ResponseError> {
        meaning.check_framing(self.version)?;
        self.chunked = meaning.chunked;
        self.keep_alive = meaning.persists(self.version);
        let never_framed = self.status < 200 || self.status == 204;
        self.body = match meaning.length {
            _ if never_framed || self.status == 304 || method == Method::Head => Body::None,
            _ if meaning.chunked => Body::Chunked,
            Some(n) => Body::Length(n),
            None => Body::UntilClose,
        };
        if never_framed {
            // No such field may be sent with these (RFC 9110 section 8.6, RFC 9112 section 6.1); a client that believed
            // it would wait for a body.
            self.chunked = false;
            for field in &mut self.fields {
                field.hop |= matches!(field.kind, FieldName::ContentLength | FieldName::TransferEncoding);
            }
        }
        self.keep_alive &= self.body != Body::UntilClose;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
