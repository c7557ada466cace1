//! A client of HTTP/2 that sends exactly the frames it is told to, right or wrong, and reads what comes as frames.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wire::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const NONE: u8 = 0;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;
pub(crate) const END: u8 = END_STREAM | END_HEADERS;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

/// What a connection comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// GOAWAY with this code.
    Gone(u32),
    /// The end without one.
    Closed,
    /// RST_STREAM of this stream with this code.
    Reset(u32, u32),
    /// A response with this status on this stream.
    Answer(u32, u16),
    /// A PING is answered.
    Alive,
}

pub(crate) struct Frames {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Frames {
    /// One that has said nothing.
    pub(crate) fn silent(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, held: Vec::new() }
    }

    /// One that has sent its preface and these settings.
    pub(crate) fn connect(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut client = Self::silent(addr);
        client.send(PREFACE);
        client.send(&setting(settings));
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the other end takes what is sent");
    }

    /// Sends, to somebody who may be gone; false: it is.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None`: the connection ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, id @ ..] = &self.held[..]
                && let [d, e, f, g, rest @ ..] = id
            {
                let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if rest.len() >= len {
                    let frame = Frame {
                        kind: *kind,
                        flags: *flags,
                        id: u32::from_be_bytes([*d, *e, *f, *g]),
                        payload: rest[..len].to_vec(),
                    };
                    self.held.drain(..9 + len);
                    return Some(frame);
                }
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(n) => self.held.extend(&piece[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return None,
                Err(e) => panic!("{e} instead of a frame"),
            }
        }
    }

    /// The next frame of this kind; `None`: the connection ended.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Everything that is still to come, up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let _ = self.stream.read_to_end(&mut self.held);
        std::mem::take(&mut self.held)
    }

    /// What comes first: an end, a reset, an answer, or that of a PING.
    pub(crate) fn fate(&mut self) -> Fate {
        loop {
            let Some(frame) = self.next() else { return Fate::Closed };
            match frame.kind {
                GOAWAY => return Fate::Gone(number(&frame.payload[4..])),
                RST_STREAM => return Fate::Reset(frame.id, number(&frame.payload)),
                HEADERS => return Fate::Answer(frame.id, status(&frame.payload)),
                PING if frame.flags & ACK != 0 => return Fate::Alive,
                _ => {}
            }
        }
    }

    /// The same without what concerns one stream or a PING: how the connection ends.
    pub(crate) fn fate_but_answers_and_resets(&mut self) -> Fate {
        loop {
            match self.fate() {
                Fate::Answer(..) | Fate::Reset(..) | Fate::Alive => {}
                fate => return fate,
            }
        }
    }

    /// The same without answers.
    pub(crate) fn fate_but_answers(&mut self) -> Fate {
        loop {
            match self.fate() {
                Fate::Answer(..) => {}
                fate => return fate,
            }
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The status at the front of a block: an index of the static table, or a literal of three digits.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [b @ 0x88..=0x8e, ..] => STATIC[usize::from(b - 0x88)],
        // Digits in Huffman's code: 0, 1 and 2 have five bits, the others six.
        [0x08 | 0x48, len, rest @ ..] if len & 0x80 != 0 => {
            let mut bits = rest[..usize::from(len & 0x7f)].iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1));
            (0..3).fold(0, |status, _| {
                let mut take = |n| (0..n).fold(0u16, |code, _| code << 1 | u16::from(bits.next().unwrap()));
                let five = take(5);
                status * 10 + if five < 3 { five } else { (five << 1 | take(1)) - 0x19 + 3 }
            })
        }
        [0x08 | 0x48, 3, digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
        other => panic!("no status in {other:x?}"),
    }
}

pub(crate) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
    out
}

pub(crate) fn setting(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, NONE, 0, &payload)
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, NONE, 0, b"question")
}

pub(crate) fn window(id: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, NONE, id, &by.to_be_bytes())
}

pub(crate) fn reset(id: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, NONE, id, &code.to_be_bytes())
}

/// Fields as literals that are not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            match text.len() {
                len @ 0..127 => out.push(len as u8),
                len => {
                    out.push(127);
                    let mut rest = len - 127;
                    while rest >= 128 {
                        out.push((rest % 128) as u8 | 0x80);
                        rest /= 128;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend(text.bytes());
        }
    }
    out
}

/// The fields of a request, and more.
pub(crate) fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.test")];
    fields.extend(more);
    fields
}

/// A request without a body, whole.
pub(crate) fn get(id: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END, id, &block(&request("GET", path, &[])))
}

/// The head of a request whose body follows.
pub(crate) fn post(id: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &block(&request("POST", path, more)))
}
