//! Watches the frame heads and blocks of fields of a client go by. Pure: it takes bytes and the time.
//!
//! Two things that h2 leaves open are decided here, before h2 sees the bytes. Frames that cost us something and bring
//! nobody anything (resets, pings, empty frames) are paid from an allowance, a [`Purse`]; a client that has used it up is
//! a flood. And errors that RFC 9113 gives a code of their own are found where h2 would answer with PROTOCOL_ERROR.

use std::cell::Cell;

use h2::Reason;

use crate::http2::hpack::{Blocks, HpackError};
use crate::time::Millis;

/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// Bytes of one setting (section 6.5.1).
const SETTING: usize = 6;

/// Bytes in front of a block of fields: how much padding is behind it, and a priority (section 6.2).
const PAD_LENGTH: usize = 1;
const PRIORITY: usize = 5;

/// Milliseconds after which one more strange frame is forgiven.
const FORGIVEN_EVERY_MS: u64 = 100;

/// How many of the last streams are remembered as ended; a power of two.
const REMEMBERED: usize = 1024;

/// SETTINGS_INITIAL_WINDOW_SIZE, and the most it may be (section 6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_WINDOW: u32 = 0x7fff_ffff;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// Types of frames (section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// How many strange frames a client may still send.
///
/// It starts full. A frame costs one; time gives back ten a second, and so does what the client is served: an answer, and
/// what it took of one without being stingy with its window. A busy connection of a large proxy is therefore as safe as an
/// idle one with keep-alive pings.
#[derive(Debug)]
pub struct Purse {
    size: u32,
    left: Cell<u32>,
    /// When time last gave something back.
    since: Cell<Millis>,
}

impl Purse {
    /// A full one.
    pub fn new(size: u32, now: Millis) -> Self {
        Self { size, left: Cell::new(size), since: Cell::new(now) }
    }

    /// Gives back `n`.
    pub fn give(&self, n: u32) {
        self.left.set(self.left.get().saturating_add(n).min(self.size));
    }

    /// Takes one; false: there is none.
    pub fn take(&self, now: Millis) -> bool {
        let periods = now.since(self.since.get()) / FORGIVEN_EVERY_MS;
        if periods > 0 {
            self.since.set(Millis(self.since.get().0 + periods * FORGIVEN_EVERY_MS));
            self.give(u32::try_from(periods).unwrap_or(u32::MAX));
        }
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return false,
        }
        true
    }
}

/// What is wrong with what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its purse is empty.
    Flood,
    /// A frame of a length that its type does not have.
    FrameSize,
    /// DATA or HEADERS for a stream that the client has ended itself.
    StreamClosed,
    /// A window that is too large.
    FlowControl,
    /// A block of fields that cannot be decompressed.
    Compression(HpackError),
}

impl Fault {
    /// The code that the connection ends with (RFC 9113 section 7).
    pub fn reason(self) -> Reason {
        match self {
            Self::Flood => Reason::ENHANCE_YOUR_CALM,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::StreamClosed => Reason::STREAM_CLOSED,
            Self::FlowControl => Reason::FLOW_CONTROL_ERROR,
            Self::Compression(_) => Reason::COMPRESSION_ERROR,
        }
    }
}

/// Where in the stream of frames a client is; starts behind the preface.
#[derive(Debug)]
pub struct Guard {
    /// The head of a frame, a setting, or what is in front of a block, of which so many bytes are here.
    held: [u8; HEAD],
    have: usize,
    /// Bytes of the payload still to come.
    left: usize,
    /// Whose they are.
    kind: u8,
    flags: u8,
    /// Bytes of it that are in front of a block or of data, if they are still to come.
    front: usize,
    /// Bytes of a block in what is to come behind them; `None`: what comes is none.
    fragment: Option<usize>,
    /// The stream whose block of fields has begun and not ended.
    in_block: Option<u32>,
    blocks: Blocks,
    /// Frames that have begun, a block of fields being one.
    begun: u64,
    /// The highest stream that was opened.
    last: u32,
    /// Which of the last streams the client has ended.
    ended: Box<[u64; REMEMBERED / 64]>,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

impl Guard {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self {
            held: [0; HEAD],
            have: 0,
            left: 0,
            kind: kind::DATA,
            flags: 0,
            front: 0,
            fragment: None,
            in_block: None,
            blocks: Blocks::new(),
            begun: 0,
            last: 0,
            ended: Box::new([0; REMEMBERED / 64]),
        }
    }

    /// The number of a block of fields, or of a frame other than DATA, that has begun and not ended.
    pub fn amid(&self) -> Option<u64> {
        let is_amid = self.in_block.is_some() || self.have > 0 || (self.left > 0 && self.kind != kind::DATA);
        is_amid.then_some(self.begun)
    }

    /// Looks at what came. After an error it is of no more use.
    ///
    /// # Errors
    /// The connection is to end, and how many of the bytes are in front of the frame that is the reason.
    pub fn look(&mut self, all: &[u8], purse: &Purse, now: Millis) -> Result<(), (Fault, usize)> {
        let mut bytes = all;
        let mut start = 0;
        while !bytes.is_empty() {
            let wanted = match self.kind {
                _ if self.left == 0 => HEAD,
                kind::SETTINGS => SETTING,
                _ => self.front,
            };
            if wanted == 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= payload.len();
                bytes = rest;
                self.fields(payload).map_err(|fault| (fault, start))?;
                continue;
            }
            if self.left == 0 && self.have == 0 {
                start = all.len() - bytes.len();
            }
            let n = (wanted - self.have).min(bytes.len());
            self.held[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have < wanted {
                return Ok(());
            }
            self.have = 0;
            let found = if self.left == 0 {
                self.frame(purse, now)
            } else {
                self.left = self.left.saturating_sub(wanted);
                if self.kind == kind::SETTINGS { self.setting() } else { self.front(purse, now) }
            };
            found.map_err(|fault| (fault, start))?;
        }
        Ok(())
    }

    fn setting(&self) -> Result<(), Fault> {
        let [a, b, c, d, e, f, ..] = self.held;
        let too_large =
            u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE && u32::from_be_bytes([c, d, e, f]) > MAX_WINDOW;
        if too_large { Err(Fault::FlowControl) } else { Ok(()) }
    }

    /// What is in front of a block, or of data, is here; padding that is longer than the rest is for h2 to refuse.
    fn front(&mut self, purse: &Purse, now: Millis) -> Result<(), Fault> {
        self.front = 0;
        let padding = if self.flags & PADDED == 0 { 0 } else { self.held[0].into() };
        if self.kind == kind::DATA {
            // Nothing but padding is as much work as nothing, and brings as much.
            let is_empty = padding >= self.left && self.flags & END_STREAM == 0;
            return if is_empty && !purse.take(now) { Err(Fault::Flood) } else { Ok(()) };
        }
        self.fragment = self.fragment.and(self.left.checked_sub(padding));
        self.fields(&[])
    }

    /// Looks at bytes of a payload, which may be those of a block and its padding.
    fn fields(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let Some(left) = self.fragment else { return Ok(()) };
        let (block, _) = payload.split_at(left.min(payload.len()));
        self.blocks.take(block).map_err(Fault::Compression)?;
        let left = left - block.len();
        self.fragment = (left > 0).then_some(left);
        if left == 0 && self.flags & END_HEADERS != 0 {
            self.blocks.end().map_err(Fault::Compression)?;
        }
        Ok(())
    }

    fn frame(&mut self, purse: &Purse, now: Millis) -> Result<(), Fault> {
        let [a, b, c, kind, flags, id @ ..] = self.held;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        let padded = usize::from(flags & PADDED != 0) * PAD_LENGTH;
        let front = match kind {
            kind::DATA => padded,
            kind::HEADERS => padded + usize::from(flags & WITH_PRIORITY != 0) * PRIORITY,
            _ => 0,
        };
        let fits = match kind {
            kind::DATA | kind::HEADERS => len >= front,
            kind::PRIORITY => len == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => len == 4,
            kind::SETTINGS => {
                if flags & ACK == 0 {
                    len.is_multiple_of(SETTING)
                } else {
                    len == 0
                }
            }
            kind::PING => len == 8,
            kind::GOAWAY => len >= 8,
            _ => true,
        };
        if !fits {
            return Err(Fault::FrameSize);
        }
        self.left = len;
        self.kind = kind;
        self.flags = flags;
        self.front = front;
        self.fragment = None;
        self.begun += u64::from(kind != kind::CONTINUATION);
        let ends = flags & END_STREAM != 0;
        let costs = match kind {
            kind::DATA => {
                if self.has_ended(id) {
                    return Err(Fault::StreamClosed);
                }
                if ends {
                    self.end(id);
                }
                len == 0 && !ends
            }
            kind::HEADERS => {
                if self.has_ended(id) {
                    return Err(Fault::StreamClosed);
                }
                self.open(id);
                if ends {
                    self.end(id);
                }
                // Within another block, and on no stream, it is h2 that ends the connection.
                if self.in_block.is_none() && id != 0 {
                    self.blocks.begin();
                    self.fragment = Some(len - front);
                    self.in_block = (flags & END_HEADERS == 0).then_some(id);
                }
                false
            }
            kind::CONTINUATION => {
                if self.in_block == Some(id) {
                    self.fragment = Some(len);
                    self.in_block = self.in_block.filter(|_| flags & END_HEADERS == 0);
                }
                true
            }
            kind::RST_STREAM => {
                self.end(id);
                true
            }
            _ => true,
        };
        if costs && !purse.take(now) {
            return Err(Fault::Flood);
        }
        // A block may end in an empty frame.
        if front == 0 { self.fields(&[]) } else { Ok(()) }
    }

    /// The word and the bit of a stream, if it is one of the last ones.
    fn place(&self, id: u32) -> Option<(usize, u64)> {
        let is_recent = id % 2 == 1 && id <= self.last && (self.last - id) / 2 < REMEMBERED as u32;
        let at = (id / 2) as usize % REMEMBERED;
        is_recent.then_some((at / 64, 1 << (at % 64)))
    }

    fn has_ended(&self, id: u32) -> bool {
        self.place(id).is_some_and(|(word, bit)| self.ended[word] & bit != 0)
    }

    fn end(&mut self, id: u32) {
        if let Some((word, bit)) = self.place(id) {
            self.ended[word] |= bit;
        }
    }

    /// Notes a new stream; those that were skipped are as closed as ever, which h2 sees to.
    fn open(&mut self, id: u32) {
        if id.is_multiple_of(2) || id <= self.last {
            return;
        }
        let fresh = ((id - self.last).div_ceil(2) as usize).min(REMEMBERED);
        self.last = id;
        for back in 0..fresh {
            if let Some((word, bit)) = self.place(id - 2 * back as u32) {
                self.ended[word] &= !bit;
            }
        }
    }
}
