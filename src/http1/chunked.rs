//! The chunked transfer coding (RFC 9112 section 7.1), checked so strictly that it can be passed on as it came.
//!
//! Lines end in CRLF only; a size has at most 16 digits and nothing around it; extensions are tokens and quoted strings;
//! trailers are fields, none of which says anything about framing or routing.

use std::fmt;

use super::field::FieldName;
use super::scan;

/// Bytes of a size line, extensions included, at most.
const MAX_SIZE_LINE: u32 = 4096;

/// Bytes of all trailers at most.
const MAX_TRAILERS: u32 = 8192;

/// Hexadecimal digits of a size at most.
const MAX_DIGITS: u8 = 16;

/// As much of a trailer's name as tells it from the names that are refused; the longest of them has 17 letters.
const NAME_KEPT: usize = 20;

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// Not a hexadecimal number, or more than 64 bits.
    BadSize,
    /// An extension that is neither tokens nor a quoted string.
    BadExtension,
    /// A line that does not end in CRLF.
    BadLineEnd,
    /// No CRLF where the chunk should end.
    BadChunkEnd,
    /// A size line of more than 4 KiB.
    LineTooLong,
    /// A trailer that is no field.
    BadTrailer,
    /// A trailer that may only be a header, such as Content-Length.
    ForbiddenTrailer,
    /// More than 8 KiB of trailers.
    TrailersTooLarge,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSize => "invalid chunk size",
            Self::BadExtension => "invalid chunk extension",
            Self::BadLineEnd => "line in chunk framing does not end in CRLF",
            Self::BadChunkEnd => "no CRLF after a chunk",
            Self::LineTooLong => "chunk size line too long",
            Self::BadTrailer => "invalid trailer",
            Self::ForbiddenTrailer => "field not allowed as a trailer",
            Self::TrailersTooLarge => "trailers too large",
        })
    }
}

impl std::error::Error for ChunkError {}

/// What is at the front of the bytes given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of data.
    Data(usize),
    /// So many bytes of framing.
    Framing(usize),
    /// So many bytes of framing, the last of the body.
    End(usize),
    /// Nothing: no bytes were given.
    More,
}

/// The decoder. It may be given the body in any pieces; it keeps none of it.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// Of the current chunk: its size while that is read, then what is still to come.
    size: u64,
    /// Digits of the size.
    digits: u8,
    /// Bytes of the current size line, or of all trailers.
    used: u32,
    name: [u8; NAME_KEPT],
    /// Length of the trailer's name; what is beyond `NAME_KEPT` is counted and not kept.
    name_len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// White space behind the size: an extension must follow.
    Blank,
    Extension,
    Quoted,
    QuotedPair,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self { state: State::Size, size: 0, digits: 0, used: 0, name: [0; NAME_KEPT], name_len: 0 }
    }

    /// Data of the current chunk still to come; zero where framing comes next.
    pub fn remaining(&self) -> u64 {
        if self.state == State::Data { self.size } else { 0 }
    }

    /// Whether the next byte is part of the trailers, or of the empty line that ends the body.
    pub fn is_in_trailers(&self) -> bool {
        matches!(self.state, State::TrailerName | State::TrailerValue | State::TrailerLf | State::LastLf)
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Accounts for `n` bytes of the current chunk's data that did not pass by here; at most [`remaining`](Self::remaining)
    /// count.
    pub fn skip(&mut self, n: u64) {
        if self.state == State::Data {
            self.size = self.size.saturating_sub(n);
            if self.size == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// Consumes from the front of `buf`: at least a byte if there is one, until the body's end. After that,
    /// [`Piece::End`] of nothing.
    pub fn step(&mut self, buf: &[u8]) -> Result<Piece, ChunkError> {
        if buf.is_empty() {
            return Ok(Piece::More);
        }
        if self.state == State::Data {
            let n = usize::try_from(self.size).unwrap_or(usize::MAX).min(buf.len());
            self.skip(n as u64);
            return Ok(Piece::Data(n));
        }
        for (i, &b) in buf.iter().enumerate() {
            match self.state {
                State::Data => return Ok(Piece::Framing(i)),
                State::Done => return Ok(Piece::End(i)),
                _ => self.state = self.framing(b)?,
            }
        }
        Ok(if self.state == State::Done { Piece::End(buf.len()) } else { Piece::Framing(buf.len()) })
    }

    fn framing(&mut self, b: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size | State::Blank | State::Extension | State::Quoted | State::QuotedPair => {
                self.used += 1;
                if self.used > MAX_SIZE_LINE { Err(ChunkError::LineTooLong) } else { self.size_line(b) }
            }
            State::SizeLf if b == b'\n' => {
                self.used = 0;
                self.digits = 0;
                Ok(if self.size == 0 { State::TrailerName } else { State::Data })
            }
            State::DataCr if b == b'\r' => Ok(State::DataLf),
            State::DataLf if b == b'\n' => Ok(State::Size),
            State::DataCr | State::DataLf => Err(ChunkError::BadChunkEnd),
            State::TrailerName | State::TrailerValue => {
                self.used += 1;
                if self.used > MAX_TRAILERS { Err(ChunkError::TrailersTooLarge) } else { self.trailer(b) }
            }
            State::TrailerLf if b == b'\n' => Ok(State::TrailerName),
            State::LastLf if b == b'\n' => Ok(State::Done),
            State::SizeLf | State::TrailerLf | State::LastLf => Err(ChunkError::BadLineEnd),
            state @ (State::Data | State::Done) => Ok(state),
        }
    }

    fn size_line(&mut self, b: u8) -> Result<State, ChunkError> {
        match (self.state, b) {
            (State::Size, _) if b.is_ascii_hexdigit() => {
                if self.digits == MAX_DIGITS {
                    return Err(ChunkError::BadSize);
                }
                self.digits += 1;
                let digit = if b.is_ascii_digit() { b - b'0' } else { (b | 0x20) - b'a' + 10 };
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
            (State::Size, _) if self.digits == 0 => Err(ChunkError::BadSize),
            (State::Size | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::Extension | State::Blank | State::Quoted, b'\n') => Err(ChunkError::BadLineEnd),
            (State::Size | State::Blank, b';') => Ok(State::Extension),
            (State::Size | State::Blank, b' ' | b'\t') => Ok(State::Blank),
            (State::Size | State::Blank, _) => Err(ChunkError::BadSize),
            (State::Extension, b'"') => Ok(State::Quoted),
            (State::Extension, b';' | b'=' | b' ' | b'\t') => Ok(State::Extension),
            (State::Extension, _) if scan::is_token(b) => Ok(State::Extension),
            (State::Quoted, b'"') => Ok(State::Extension),
            (State::Quoted, b'\\') => Ok(State::QuotedPair),
            (State::Quoted | State::QuotedPair, _) if scan::is_value(b) => Ok(State::Quoted),
            _ => Err(ChunkError::BadExtension),
        }
    }

    fn trailer(&mut self, b: u8) -> Result<State, ChunkError> {
        match (self.state, b) {
            (State::TrailerName, b'\r') if self.name_len == 0 => Ok(State::LastLf),
            (State::TrailerName, b'\n') => Err(ChunkError::BadLineEnd),
            (State::TrailerName, b':') if self.name_len > 0 => {
                let name = self.name.get(..self.name_len as usize).unwrap_or_default();
                if FieldName::lookup(name) != FieldName::Other {
                    return Err(ChunkError::ForbiddenTrailer);
                }
                self.name_len = 0;
                Ok(State::TrailerValue)
            }
            (State::TrailerName, _) if scan::is_token(b) => {
                if let Some(place) = self.name.get_mut(self.name_len as usize) {
                    *place = b;
                }
                self.name_len += 1;
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\n') => Err(ChunkError::BadLineEnd),
            (State::TrailerValue, _) if scan::is_value(b) => Ok(State::TrailerValue),
            _ => Err(ChunkError::BadTrailer),
        }
    }
}

#[cfg(test)]
mod tests;
