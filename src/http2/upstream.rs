//! Towards servers: a request of HTTP/1.1 becomes one of HTTP/2, and its response comes back (RFC 9113 section 8).

use std::fmt;

use http::HeaderMap;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version};

use crate::http1::{Body, ChunkError, Chunked, Field, FieldName, Piece, RequestHead};

/// Why a request has no form in HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untranslatable {
    /// The method, the target or the host is not one that HTTP/2 can carry.
    Target,
    /// A field or its value.
    Field,
    /// The chunked framing of the body.
    Chunked(ChunkError),
    /// Bytes behind the end of the message.
    Excess,
}

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => f.write_str("method, target or host cannot be written in HTTP/2"),
            Self::Field => f.write_str("a field cannot be written in HTTP/2"),
            Self::Chunked(e) => e.fmt(f),
            Self::Excess => f.write_str("bytes behind the end of the request"),
        }
    }
}

impl std::error::Error for Untranslatable {}

/// The request that `head` of `bytes` is: pseudo-header fields from request line and Host, names in lower case, nothing of
/// what concerns the connection (RFC 9113 sections 8.2.2 and 8.3.1).
///
/// # Errors
/// What our codec accepts and the types of `http` do not, such as a host with `%`.
pub fn request(head: &RequestHead, bytes: &[u8], scheme: Scheme) -> Result<Request<()>, Untranslatable> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method_span.of(bytes)).map_err(|_| Untranslatable::Target)?;
    *request.version_mut() = Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = Some(Authority::try_from(head.host.of(bytes)).map_err(|_| Untranslatable::Target)?);
    uri.path_and_query = Some(path(head.target.of(bytes))?);
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Untranslatable::Target)?;
    let fields = request.headers_mut();
    fields.reserve(head.fields.len());
    for field in &head.fields {
        if !field.hop && !matches!(field.kind, FieldName::Host | FieldName::TransferEncoding | FieldName::Expect) {
            append(fields, field, bytes)?;
        }
    }
    if head.te_trailers {
        fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// A target; of the bytes that are allowed in those of HTTP/1.1, four are no part of any URI and are written as `%XX`.
fn path(target: &[u8]) -> Result<PathAndQuery, Untranslatable> {
    let is_foreign = |b: &u8| matches!(b, b'"' | b'<' | b'>' | b'`');
    let path = if target.iter().any(is_foreign) {
        let mut encoded = String::with_capacity(target.len() + 16);
        for b in target {
            match is_foreign(b) {
                true => encoded.push_str(&format!("%{b:02X}")),
                false => encoded.push(char::from(*b)),
            }
        }
        PathAndQuery::try_from(encoded)
    } else {
        PathAndQuery::try_from(target)
    };
    path.map_err(|_| Untranslatable::Target)
}

fn append(fields: &mut HeaderMap, field: &Field, bytes: &[u8]) -> Result<(), Untranslatable> {
    let name = HeaderName::from_bytes(field.name.of(bytes)).map_err(|_| Untranslatable::Field)?;
    let mut value = HeaderValue::from_bytes(field.value.of(bytes)).map_err(|_| Untranslatable::Field)?;
    // Requests of many clients share one compression context: what is secret stays out of it (RFC 7541 section 7.1.3).
    value.set_sensitive(field.kind == FieldName::Cookie || name == http::header::AUTHORIZATION);
    fields.try_append(name, value).map_err(|_| Untranslatable::Field)?;
    Ok(())
}

/// The body of a request on its way out of its HTTP/1.1 framing.
#[derive(Debug)]
pub struct RequestBody {
    framing: Framing,
    /// Of chunked bodies, as they came.
    trailers: Vec<u8>,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Box<Chunked>),
    Done,
}

/// What is at the front of the bytes given.
#[derive(Debug)]
pub enum Part {
    /// So many bytes of data, none of them the last unless it says so.
    Data(usize, Last),
    /// So many bytes of framing.
    Framing(usize),
    /// So many bytes of framing, and with them the end; the trailers, if there are some.
    End(usize, Option<HeaderMap>),
}

/// Whether the body ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It does.
    Yes,
    /// More of it comes.
    No,
}

impl RequestBody {
    /// `None` when there is no body.
    pub fn new(body: Body) -> Option<Self> {
        let framing = match body {
            Body::None | Body::UntilClose | Body::Length(0) => return None,
            Body::Length(n) => Framing::Length(n),
            Body::Chunked => Framing::Chunked(Box::default()),
        };
        Some(Self { framing, trailers: Vec::new() })
    }

    /// Whether the next byte is one of data, for which there must be room where it goes.
    pub fn expects_data(&self) -> bool {
        match &self.framing {
            Framing::Length(_) => true,
            Framing::Chunked(decoder) => decoder.remaining() > 0,
            Framing::Done => false,
        }
    }

    /// Takes from the front of `bytes`, which are not empty: data only, or no data at all, as
    /// [`expects_data`](Self::expects_data) says.
    ///
    /// # Errors
    /// Broken framing; more bytes than the message has.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Part, Untranslatable> {
        match &mut self.framing {
            Framing::Done => Err(Untranslatable::Excess),
            Framing::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= n as u64;
                let last = if *left == 0 { Last::Yes } else { Last::No };
                if last == Last::Yes {
                    self.framing = Framing::Done;
                }
                Ok(Part::Data(n, last))
            }
            Framing::Chunked(decoder) if decoder.remaining() > 0 => match decoder.step(bytes) {
                Ok(Piece::Data(n)) => Ok(Part::Data(n, Last::No)),
                Ok(Piece::Framing(n) | Piece::End(n)) => Ok(Part::Framing(n)),
                Ok(Piece::More) => Ok(Part::Framing(0)),
                Err(e) => Err(Untranslatable::Chunked(e)),
            },
            Framing::Chunked(decoder) => {
                // Byte by byte: what is a trailer is kept, and the decoder tells only where it stands.
                for (at, b) in bytes.iter().enumerate() {
                    if decoder.is_in_trailers() {
                        self.trailers.push(*b);
                    }
                    match decoder.step(std::slice::from_ref(b)).map_err(Untranslatable::Chunked)? {
                        Piece::End(_) => {
                            self.framing = Framing::Done;
                            return Ok(Part::End(at + 1, trailers(&self.trailers)?));
                        }
                        _ if decoder.remaining() > 0 => return Ok(Part::Framing(at + 1)),
                        Piece::Data(_) | Piece::Framing(_) | Piece::More => {}
                    }
                }
                Ok(Part::Framing(bytes.len()))
            }
        }
    }
}

/// The fields of a trailer section that the decoder has found to be one; `None` when there are none.
pub(super) fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, Untranslatable> {
    let mut fields = HeaderMap::new();
    for line in section.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let name = HeaderName::from_bytes(name).map_err(|_| Untranslatable::Field)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Untranslatable::Field)?;
        fields.try_append(name, value).map_err(|_| Untranslatable::Field)?;
    }
    Ok(Some(fields).filter(|fields| !fields.is_empty()))
}

/// How the body of a response is framed on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    /// As it is: there is none, or its length is known.
    Plain,
    /// In chunks, which may have trailers behind them.
    Chunked,
}

/// Appends the head of a final response to a request, `is_head` if that was HEAD; `ended`: no data and no trailers follow.
///
/// Whether what the server says is a valid head is judged by whoever parses this.
pub fn write_response(
    out: &mut Vec<u8>,
    status: StatusCode,
    fields: &HeaderMap,
    is_head: bool,
    ended: bool,
) -> ResponseFraming {
    let bodiless = is_head || matches!(status.as_u16(), 204 | 304);
    let has_length = fields.contains_key(http::header::CONTENT_LENGTH);
    // Only chunks can be followed by trailers, which is where gRPC has its status.
    let wants_trailers = || fields.contains_key(http::header::TRAILER) || is_grpc(fields);
    let chunked = !bodiless && !ended && (!has_length || wants_trailers());
    write_line(out, status);
    write_fields(out, fields, |kind| kind != FieldName::ContentLength || !chunked);
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    } else if ended && !has_length && !bodiless {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if chunked { ResponseFraming::Chunked } else { ResponseFraming::Plain }
}

/// Appends the head of an interim response.
pub fn write_interim(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap) {
    write_line(out, status);
    write_fields(out, fields, |_| true);
    out.extend_from_slice(b"\r\n");
}

/// Appends the size line of a chunk.
pub fn write_chunk(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(format!("{len:x}\r\n").as_bytes());
}

/// Appends the last chunk and what follows it. Trailers that may only be headers are left out (RFC 9110 section 6.5.1).
pub fn write_end(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(fields) = trailers {
        write_fields(out, fields, |kind| kind == FieldName::Other);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Fields that concern a connection of HTTP/1.1 are malformed in HTTP/2: the engine refuses them, and here they are not
/// believed either.
fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap, keeps: impl Fn(FieldName) -> bool) {
    for (name, value) in fields {
        let kind = FieldName::lookup(name.as_str().as_bytes());
        let of_connection = matches!(
            kind,
            FieldName::Connection
                | FieldName::KeepAlive
                | FieldName::ProxyConnection
                | FieldName::TransferEncoding
                | FieldName::Upgrade
        );
        if !of_connection && keeps(kind) {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests;
