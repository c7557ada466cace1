//! The head of a request.

use std::fmt;

use super::cookie;
use super::field::{Field, FieldName, Span};
use super::framing::{Body, HeadError, Meaning, Side, decimal, elements, parse_fields};
use super::scan::{self, LineEnd};
use super::{Limits, Parse, Version};

/// Empty lines allowed in front of a request (RFC 9112 section 2.2 asks for one: old clients end a body with CRLF).
const MAX_EMPTY_LINES: u32 = 4;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a PROXY header of version 2 starts with, as far as that differs from empty lines.
const PROXY_V2: &[u8] = b"\r\n\r\n\0";

/// A method; those that a proxy treats differently, and the common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is the method of that name")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    Lock,
    /// Any other token; methods are case-sensitive.
    Other,
}

impl Method {
    /// Whether a request may be sent again after a server may have acted on it. As nginx: not POST, LOCK and PATCH; and
    /// none that we do not know.
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Lock | Self::Patch | Self::Other)
    }

    fn lookup(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"TRACE" => Self::Trace,
            b"CONNECT" => Self::Connect,
            b"LOCK" => Self::Lock,
            _ => Self::Other,
        }
    }
}

/// The form of a request target (RFC 9112 section 3.2); the fourth, authority, belongs to CONNECT, which is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `*`, for OPTIONS.
    Asterisk,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// See [`HeadError`].
    Head(HeadError),
    /// The request line is not `METHOD TARGET HTTP/x.y`; HTTP/0.9 among others.
    BadLine,
    /// A TLS handshake on a listener without TLS.
    TlsOnPlain,
    /// A PROXY header, which the listener does not expect.
    UnexpectedProxyHeader,
    /// CONNECT: this is no forward proxy.
    Connect,
    /// A version other than 1.x; HTTP/2 with prior knowledge among others.
    Version,
    /// A target longer than [`Limits::max_uri`].
    UriTooLong,
    /// A control character, `#`, a byte from 0x80 on, or none of the forms of a target.
    BadTarget,
    /// No Host, or an empty one.
    NoHost,
    /// More than one Host.
    SeveralHosts,
    /// A Host that is not `host[:port]`.
    BadHost,
    /// The authority of an absolute target is not the Host.
    HostMismatch,
}

impl RequestError {
    /// The status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            Self::Head(HeadError::TooLarge | HeadError::TooManyFields) => 431,
            Self::Head(HeadError::UnsupportedEncoding) => 501,
            Self::Connect => 405,
            Self::Version => 505,
            Self::UriTooLong => 414,
            Self::Head(_)
            | Self::BadLine
            | Self::TlsOnPlain
            | Self::UnexpectedProxyHeader
            | Self::BadTarget
            | Self::NoHost
            | Self::SeveralHosts
            | Self::BadHost
            | Self::HostMismatch => 400,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head(e) => return e.fmt(f),
            Self::BadLine => "invalid request line",
            Self::TlsOnPlain => "TLS handshake on a listener without TLS",
            Self::UnexpectedProxyHeader => "PROXY header on a listener that does not expect one",
            Self::Connect => "CONNECT is not supported",
            Self::Version => "unsupported HTTP version",
            Self::UriTooLong => "request target too long",
            Self::BadTarget => "invalid request target",
            Self::NoHost => "no Host",
            Self::SeveralHosts => "more than one Host",
            Self::BadHost => "invalid Host",
            Self::HostMismatch => "Host differs from the authority of the target",
        })
    }
}

impl std::error::Error for RequestError {}

impl From<HeadError> for RequestError {
    fn from(e: HeadError) -> Self {
        Self::Head(e)
    }
}

/// The head of a request. Spans refer to the buffer it was parsed from.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method as sent.
    pub method_span: Span,
    /// The target as sent.
    pub target: Span,
    /// The target's path, as sent; empty when an absolute target has none, `*` in asterisk form.
    pub path: Span,
    /// What follows the `?`, which may be nothing.
    pub query: Option<Span>,
    /// The target's form.
    pub form: TargetForm,
    /// The version.
    pub version: Version,
    /// The fields in their order.
    pub fields: Vec<Field>,
    /// Bytes of the head, empty lines in front of it included: where the body starts.
    pub len: usize,
    /// The body.
    pub body: Body,
    /// The client would keep the connection.
    pub keep_alive: bool,
    /// The client waits for 100 (Continue) before it sends the body.
    pub expect_continue: bool,
    /// The protocol to upgrade to, if that is asked for in a way that can be passed on: HTTP/1.1, named in `Connection`,
    /// no body, and not HTTP/2 (`h2c`), which would carry requests past everything here.
    pub upgrade: Option<Span>,
    /// `host[:port]`, from an absolute target or from Host; empty at most in HTTP/1.0.
    pub host: Span,
    /// The client takes trailers (`TE: trailers`).
    pub te_trailers: bool,
}

impl RequestHead {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it empty; keeps the room for fields.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// The values of the fields called `name`, whatever its case; `bytes` are those that were parsed.
    pub fn values<'b>(&self, bytes: &'b [u8], name: &str) -> impl Iterator<Item = &'b [u8]> {
        let named = self.fields.iter().filter(move |f| f.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()));
        named.map(move |f| f.value.of(bytes))
    }

    /// The values of the cookies called `name`, as it is written; `bytes` are those that were parsed.
    pub fn cookies<'b>(&self, bytes: &'b [u8], name: &str) -> impl Iterator<Item = &'b [u8]> {
        let fields = self.fields.iter().filter(|f| f.kind == FieldName::Cookie);
        fields.flat_map(move |f| cookie::values(f.value.of(bytes), name))
    }

    /// Parses the head at the front of `buf`, from its first byte: no state is kept between calls. Refuses at the first
    /// thing wrong, also in a head that is incomplete.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parse, RequestError> {
        self.clear();
        let window = limits.window(buf);
        match self.parse_window(window, limits)? {
            Some(len) => {
                self.len = len;
                Ok(Parse::Complete)
            }
            None if window.len() == limits.window_len() => Err(HeadError::TooLarge.into()),
            None => Ok(Parse::Partial),
        }
    }

    fn parse_window(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, RequestError> {
        let Some(at) = self.parse_line(buf, limits)? else { return Ok(None) };
        self.parse_target(buf)?;
        let mut meaning = Meaning::default();
        let Some(len) = parse_fields(buf, at, limits, Side::Client, &mut self.fields, &mut meaning)? else {
            return Ok(None);
        };
        self.interpret(buf, &meaning)?;
        Ok(Some(len))
    }

    /// Empty lines and the request line; where the fields start.
    fn parse_line(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, RequestError> {
        let Some(start) = skip_empty_lines(buf)? else { return Ok(None) };
        let rest = buf.get(start..).unwrap_or_default();
        let (len, _) = scan::token(rest);
        match rest.get(len) {
            None => return Ok(None),
            Some(b' ') if len > 0 => {}
            Some(_) => return Err(not_http(buf)),
        }
        self.method_span = Span::new(start, start + len);
        let method = self.method_span.of(buf);
        self.method = Method::lookup(method);

        let start = start + len + 1;
        let rest = buf.get(start..).unwrap_or_default();
        let len = scan::target(rest);
        if len > limits.max_uri {
            return Err(RequestError::UriTooLong);
        }
        self.target = Span::new(start, start + len);
        match rest.get(len) {
            None => return Ok(None),
            Some(_) if method == b"PROXY" && is_proxy_family(self.target.of(buf)) => {
                return Err(RequestError::UnexpectedProxyHeader);
            }
            Some(b' ') if len > 0 => {}
            Some(b'\r' | b'\n' | b' ') => return Err(RequestError::BadLine),
            Some(_) => return Err(RequestError::BadTarget),
        }

        let start = start + len + 1;
        let rest = buf.get(start..).unwrap_or_default();
        let Some((version, behind)) = rest.split_first_chunk::<8>() else {
            return if rest.contains(&b'\n') { Err(RequestError::BadLine) } else { Ok(None) };
        };
        let [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = version else {
            return Err(RequestError::BadLine);
        };
        let end = match scan::line_end(behind) {
            LineEnd::Len(n) => n,
            LineEnd::Partial => return Ok(None),
            LineEnd::Not => return Err(RequestError::BadLine),
        };
        if *major != b'1' {
            return Err(RequestError::Version);
        }
        if self.method == Method::Connect {
            return Err(RequestError::Connect);
        }
        self.version = if *minor == b'0' { Version::Http10 } else { Version::Http11 };
        Ok(Some(start + version.len() + end))
    }

    fn parse_target(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        let target = self.target.of(buf);
        let (start, end) = self.target.bounds();
        let path = match target.first() {
            Some(b'/') => start,
            _ if target == b"*" && self.method == Method::Options => {
                self.form = TargetForm::Asterisk;
                self.path = self.target;
                return Ok(());
            }
            _ => {
                let scheme = scheme_len(target).ok_or(RequestError::BadTarget)?;
                let authority = target.get(scheme..).unwrap_or_default();
                let len = authority.iter().take_while(|b| !matches!(b, b'/' | b'?')).count();
                self.form = TargetForm::Absolute;
                self.host = Span::new(start + scheme, start + scheme + len);
                start + scheme + len
            }
        };
        let text = buf.get(path..end).unwrap_or_default();
        match text.iter().position(|&b| b == b'?') {
            Some(n) => {
                self.path = Span::new(path, path + n);
                self.query = Some(Span::new(path + n + 1, end));
            }
            None => self.path = Span::new(path, end),
        }
        Ok(())
    }

    fn interpret(&mut self, buf: &[u8], meaning: &Meaning) -> Result<(), RequestError> {
        meaning.check_framing(self.version)?;
        self.body = match meaning.length {
            _ if meaning.chunked => Body::Chunked,
            Some(n) => Body::Length(n),
            None => Body::None,
        };
        let empty = matches!(self.body, Body::None | Body::Length(0));
        let new = self.version == Version::Http11;
        self.keep_alive = meaning.persists(self.version);
        self.expect_continue = meaning.expect_continue && new && !empty;
        self.te_trailers = meaning.te_trailers && new;
        self.upgrade = meaning.upgrade.filter(|u| meaning.upgrade_named && new && empty && may_upgrade(u.of(buf)));
        self.check_host(buf, meaning)
    }

    /// RFC 9112 sections 3.2 and 3.2.2, but for an authority that wins over a different Host: that is refused.
    fn check_host(&mut self, buf: &[u8], meaning: &Meaning) -> Result<(), RequestError> {
        if meaning.hosts > 1 {
            return Err(RequestError::SeveralHosts);
        }
        let field = meaning.host.of(buf);
        if field.is_empty() {
            if self.version == Version::Http11 {
                return Err(RequestError::NoHost);
            }
        } else if !is_host(field) {
            return Err(RequestError::BadHost);
        }
        if self.form != TargetForm::Absolute {
            self.host = meaning.host;
            return Ok(());
        }
        let authority = self.host.of(buf);
        if !is_host(authority) {
            return Err(RequestError::BadTarget);
        }
        let secure = self.target.of(buf).get(4).is_some_and(|b| b.eq_ignore_ascii_case(&b's'));
        let same = without_port(field, secure).eq_ignore_ascii_case(without_port(authority, secure));
        if same || field.is_empty() { Ok(()) } else { Err(RequestError::HostMismatch) }
    }
}

/// A host without the port that its scheme implies.
fn without_port(host: &[u8], secure: bool) -> &[u8] {
    let port: &[u8] = if secure { b":443" } else { b":80" };
    host.strip_suffix(port).or_else(|| host.strip_suffix(b":")).unwrap_or(host)
}

/// What follows `PROXY ` in version 1 of that header.
fn is_proxy_family(word: &[u8]) -> bool {
    matches!(word, b"TCP4" | b"TCP6" | b"UNKNOWN")
}

/// Where the first line starts that is not empty; `None`: all so far are.
fn skip_empty_lines(buf: &[u8]) -> Result<Option<usize>, RequestError> {
    let mut at = 0;
    for _ in 0..=MAX_EMPTY_LINES {
        match scan::line_end(buf.get(at..).unwrap_or_default()) {
            LineEnd::Len(n) => at += n,
            LineEnd::Partial => return Ok(None),
            LineEnd::Not => return Ok(Some(at)),
        }
    }
    Err(RequestError::BadLine)
}

/// What arrives instead of a request, for the log.
#[cold]
fn not_http(buf: &[u8]) -> RequestError {
    match buf.first() {
        Some(&TLS_HANDSHAKE) => RequestError::TlsOnPlain,
        _ if buf.starts_with(PROXY_V2) => RequestError::UnexpectedProxyHeader,
        _ => RequestError::BadLine,
    }
}

/// The length of `http://` or `https://`.
fn scheme_len(target: &[u8]) -> Option<usize> {
    let has = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|t| t.eq_ignore_ascii_case(scheme));
    [&b"http://"[..], b"https://"].into_iter().find(|s| has(s)).map(<[u8]>::len)
}

/// `host[:port]`: a name or an IPv4 address, or an IPv6 address in brackets; and a port of at most 65535.
fn is_host(text: &[u8]) -> bool {
    let (len, enclosed) = match text {
        [b'[', inside @ ..] => {
            let len = inside.iter().take_while(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')).count();
            if len == 0 || inside.get(len) != Some(&b']') {
                return false;
            }
            (len, 2)
        }
        _ => (scan::host_name(text), 0),
    };
    len > 0
        && match text.get(len + enclosed..) {
            None | Some([] | [b':']) => true,
            Some([b':', port @ ..]) => port.len() <= 5 && decimal(port).is_some_and(|p| p <= 65_535),
            Some(_) => false,
        }
}

/// Whether an Upgrade is a list of protocols, none of them HTTP.
fn may_upgrade(value: &[u8]) -> bool {
    let is_protocol = |p: &[u8]| p.iter().all(|&b| scan::is_token(b) || b == b'/');
    let is_http = |p: &[u8]| {
        [&b"h2"[..], b"h2c"].iter().any(|n| p.eq_ignore_ascii_case(n))
            || p.get(..4).is_some_and(|n| n.eq_ignore_ascii_case(b"http"))
    };
    elements(value).next().is_some() && elements(value).all(|p| is_protocol(p) && !is_http(p))
}

#[cfg(test)]
mod tests;
