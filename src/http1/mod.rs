//! HTTP/1 codec: heads, body framing and paths, as pure functions of bytes.
//!
//! It finds out where a message ends and which of its fields concern the connection, and refuses whatever two parsers
//! could read differently (RFC 9112 sections 2.2, 5, 6, 7). It does no I/O, keeps no bytes, and allocates nothing once a
//! head has been used before: what it found is a [`Span`] into the caller's buffer.
//!
//! ```text
//! RequestHead::parse   bytes -> method, target, fields, Body      (client side)
//! ResponseHead::parse  bytes -> status, fields, Body              (server side)
//! Chunked::step        bytes -> Data | Framing | End              (both)
//! path::normalise      path  -> what routes are matched against
//! ```
//!
//! Choices where the RFC leaves one: lines of a head may end in a bare LF, which is never passed on because heads are
//! written anew; chunk framing may not, because it is passed on as it came. Bytes from 0x80 on are refused in a target
//! and accepted in a field's value. Names with an underscore are left out of requests unless [`Limits::underscores`].
#![warn(clippy::indexing_slicing)]

mod chunked;
pub mod cookie;
mod field;
mod framing;
pub mod path;
mod request;
mod response;
mod scan;

pub use chunked::{ChunkError, Chunked, Piece};
pub use field::{Field, FieldName, Span};
pub use framing::{Body, HeadError};
pub use request::{Method, RequestError, RequestHead, TargetForm};
pub use response::{ResponseError, ResponseHead};

/// The version a message is treated as: a later minor version is the highest one known (RFC 9110 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and whatever comes after it with the same major version.
    #[default]
    Http11,
}

/// What became of the bytes given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse {
    /// The head is complete and its `len` says where it ends.
    Complete,
    /// Nothing is wrong so far, and more bytes are needed. What the head holds means nothing.
    Partial,
}

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head, first line and final empty line included; taken as at most 4 GiB.
    pub max_size: usize,
    /// Fields, whether kept or left out.
    pub max_fields: usize,
    /// Bytes of the request target.
    pub max_uri: usize,
    /// Keep request fields with an underscore in the name (nginx: `underscores_in_headers`). Servers that make variables
    /// of fields (CGI) cannot tell `X_Y` from `X-Y`, which lets a client slip past what is set here.
    pub underscores: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_size: 32 * 1024, max_fields: 100, max_uri: 8 * 1024, underscores: false }
    }
}

impl Limits {
    /// The part of `buf` a head may take; spans into it fit 32 bits.
    fn window<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(..self.window_len()).unwrap_or(buf)
    }

    /// The size of a window in which no head can end any more.
    fn window_len(&self) -> usize {
        self.max_size.min(u32::MAX as usize)
    }
}
