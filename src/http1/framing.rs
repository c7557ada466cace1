//! The fields of a head, and what they say together about the body and the connection. The same for both directions.

use std::fmt;

use super::field::{Field, FieldName, Span};
use super::scan::{self, LineEnd};
use super::{Limits, Version};

/// Names in `Connection` that are neither `close`, `keep-alive`, `upgrade` nor `te`, at most. Each is compared with each
/// field, so their number must be bounded by more than the size of the head.
const MAX_NAMED: u32 = 32;

/// How the end of a body is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// There is none.
    #[default]
    None,
    /// So many bytes, as `Content-Length` says; zero when it says so.
    Length(u64),
    /// `Transfer-Encoding: chunked`; see [`Chunked`](super::Chunked).
    Chunked,
    /// All until the server closes. Responses only.
    UntilClose,
}

/// What may be wrong with the fields of a request or of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// More bytes than [`Limits::max_size`].
    TooLarge,
    /// More fields than [`Limits::max_fields`].
    TooManyFields,
    /// A line without a colon.
    NoColon,
    /// A field name that is no token, or an empty one.
    BadName,
    /// A control character in a value: NUL, a CR without its LF, and the like.
    BadValue,
    /// A line that starts with white space: a value continued from the line before, or nothing at all.
    Folded,
    /// `Content-Length` is no number, or one above 2^64 - 1.
    BadLength,
    /// More than one `Content-Length`, even if they agree.
    SeveralLengths,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// A `Transfer-Encoding` other than `chunked` alone.
    UnsupportedEncoding,
    /// More than one `Transfer-Encoding`.
    SeveralEncodings,
    /// `Transfer-Encoding` in a message of HTTP/1.0, which does not know it.
    EncodingInHttp10,
    /// `Connection` names more fields than anyone needs.
    TooManyConnectionOptions,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "head too large",
            Self::TooManyFields => "too many header fields",
            Self::NoColon => "header line without a colon",
            Self::BadName => "invalid header name",
            Self::BadValue => "control character in a header value",
            Self::Folded => "header line starts with white space",
            Self::BadLength => "invalid Content-Length",
            Self::SeveralLengths => "more than one Content-Length",
            Self::LengthAndEncoding => "both Content-Length and Transfer-Encoding",
            Self::UnsupportedEncoding => "Transfer-Encoding is not chunked",
            Self::SeveralEncodings => "more than one Transfer-Encoding",
            Self::EncodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            Self::TooManyConnectionOptions => "Connection names too many fields",
        })
    }
}

impl std::error::Error for HeadError {}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What the fields say.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    /// The last Host, and how many there were.
    pub(super) host: Span,
    pub(super) hosts: u32,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    /// The only Upgrade; `None` as well when there were several.
    pub(super) upgrade: Option<Span>,
    upgrades: u32,
    pub(super) expect_continue: bool,
    pub(super) te_trailers: bool,
    close: bool,
    keep_alive: bool,
    /// `Connection` names Upgrade.
    pub(super) upgrade_named: bool,
    /// Other names in `Connection`.
    named: u32,
}

impl Meaning {
    /// Whether the connection outlives the message (RFC 9112 section 9.3).
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// The framing fields, which must leave no doubt.
    pub(super) fn check_framing(&self, version: Version) -> Result<(), HeadError> {
        match (self.chunked, self.length, version) {
            (true, _, Version::Http10) => Err(HeadError::EncodingInHttp10),
            (true, Some(_), Version::Http11) => Err(HeadError::LengthAndEncoding),
            _ => Ok(()),
        }
    }

    fn note(&mut self, kind: FieldName, value: &[u8], span: Span) -> Result<(), HeadError> {
        match kind {
            FieldName::Host => {
                self.host = span;
                self.hosts += 1;
            }
            FieldName::ContentLength => {
                let length = decimal(value).ok_or(HeadError::BadLength)?;
                if self.length.replace(length).is_some() {
                    return Err(HeadError::SeveralLengths);
                }
            }
            FieldName::TransferEncoding => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::UnsupportedEncoding);
                }
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(HeadError::SeveralEncodings);
                }
            }
            FieldName::Connection => {
                for option in elements(value) {
                    self.note_option(option)?;
                }
            }
            FieldName::Upgrade => {
                self.upgrades += 1;
                self.upgrade = (self.upgrades == 1).then_some(span);
            }
            FieldName::Expect => self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            FieldName::Te => self.te_trailers |= elements(value).any(|e| e.eq_ignore_ascii_case(b"trailers")),
            _ => {}
        }
        Ok(())
    }

    fn note_option(&mut self, option: &[u8]) -> Result<(), HeadError> {
        if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade_named = true;
        } else if !option.eq_ignore_ascii_case(b"te") {
            self.named += 1;
            if self.named > MAX_NAMED {
                return Err(HeadError::TooManyConnectionOptions);
            }
        }
        Ok(())
    }

    /// Marks the fields that `Connection` names.
    fn mark_named(&self, buf: &[u8], fields: &mut [Field]) {
        if self.named == 0 {
            return;
        }
        for i in 0..fields.len() {
            let Some(value) = fields.get(i).filter(|f| f.kind == FieldName::Connection).map(|f| f.value) else {
                continue;
            };
            for option in elements(value.of(buf)) {
                for field in fields.iter_mut().filter(|f| !f.kind.is_end_to_end()) {
                    field.hop |= field.name.of(buf).eq_ignore_ascii_case(option);
                }
            }
        }
    }
}

/// Parses field lines from `at` to the empty line. `Ok(None)`: they do not end in `buf`; else where the body starts.
pub(super) fn parse_fields(
    buf: &[u8],
    mut at: usize,
    limits: &Limits,
    side: Side,
    fields: &mut Vec<Field>,
    meaning: &mut Meaning,
) -> Result<Option<usize>, HeadError> {
    let mut count = 0;
    loop {
        let line = buf.get(at..).unwrap_or_default();
        let (name_len, underscore) = scan::token(line);
        let behind = line.get(name_len..).unwrap_or_default();
        if name_len == 0 {
            match scan::line_end(behind) {
                LineEnd::Len(n) => {
                    meaning.mark_named(buf, fields);
                    return Ok(Some(at + n));
                }
                LineEnd::Partial => return Ok(None),
                LineEnd::Not => {}
            }
        }
        if count == limits.max_fields {
            return Err(HeadError::TooManyFields);
        }
        count += 1;
        let Some(padding) = colon(name_len, behind, side)? else { return Ok(None) };
        let name = Span::new(at, at + name_len);
        let start = at + name_len + padding + 1;
        let text = buf.get(start..).unwrap_or_default();
        let text_len = scan::value(text);
        let end = match scan::line_end(text.get(text_len..).unwrap_or_default()) {
            LineEnd::Len(n) => n,
            LineEnd::Partial => return Ok(None),
            LineEnd::Not => return Err(HeadError::BadValue),
        };
        at = start + text_len + end;
        if underscore && side == Side::Client && !limits.underscores {
            continue;
        }
        let text = text.get(..text_len).unwrap_or_default();
        let leading = text.iter().take_while(|b| is_blank(**b)).count();
        let trailing = text.iter().rev().take_while(|b| is_blank(**b)).count();
        let value = Span::new(start + leading, start + text_len.saturating_sub(trailing).max(leading));
        let kind = FieldName::lookup(name.of(buf));
        if kind != FieldName::Other {
            meaning.note(kind, value.of(buf), value)?;
        }
        fields.push(Field { name, value, kind, hop: kind.is_hop() });
    }
}

/// How many bytes lie between a name and its colon: none, but for servers. White space there makes a request invalid, and
/// is to be removed from a response (RFC 9112 section 5.1).
fn colon(name_len: usize, behind: &[u8], side: Side) -> Result<Option<usize>, HeadError> {
    let padding = match side {
        Side::Server if name_len > 0 => behind.iter().take_while(|b| is_blank(**b)).count(),
        Side::Client | Side::Server => 0,
    };
    match behind.get(padding) {
        None => Ok(None),
        Some(b':') if name_len > 0 => Ok(Some(padding)),
        Some(b' ' | b'\t') if name_len == 0 => Err(HeadError::Folded),
        Some(b'\n') => Err(HeadError::NoColon),
        Some(b'\r') if behind.get(padding + 1).is_none_or(|b| *b == b'\n') => Err(HeadError::NoColon),
        Some(_) => Err(HeadError::BadName),
    }
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// `1*DIGIT` that fits 64 bits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |b: &u8| b.is_ascii_digit().then(|| u64::from(b - b'0'));
    let (first, rest) = text.split_first()?;
    rest.iter().try_fold(digit(first)?, |n, b| n.checked_mul(10)?.checked_add(digit(b)?))
}

/// The elements of a list, without white space and empty ones (RFC 9110 section 5.6.1).
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|e| !e.is_empty())
}
