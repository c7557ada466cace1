//! The first message of a TLS client, read from bytes as they arrive, without a handshake: whom it wants to talk to and in
//! which protocols. What it says is not proven by anything; it chooses a certificate or a pool.
//!
//! ```text
//! record     | type 22 | version | length |  fragment of a handshake message, 1 to 16384 bytes
//! message    | type 1  | length (24 bits) |  ClientHello, over as many records as its sender likes
//! ClientHello  version, random, session id, cipher suites, compression methods, extensions
//! ```
//! RFC 8446 sections 4.1.2 and 5.1; RFC 5246 section 7.4.1.2 for TLS 1.2 and before; RFC 6066 section 3 (server name), RFC
//! 7301 (ALPN), RFC 8701 (GREASE). Of an encrypted ClientHello (RFC 9849) the outer one is read, whose server name is that
//! of whoever can decrypt the inner one.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Bytes that a ClientHello may take, its record headers included. Usual ones have between 200 and 2000.
pub const MAX_SIZE: usize = 64 * 1024;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const MAX_FRAGMENT: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const HOST_NAME: u8 = 0;

/// A version of the protocol as it goes over the wire: 0x0303 is TLS 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16);

impl Version {
    /// nginx's and OpenSSL's name; none for a version that they do not know.
    pub fn name(self) -> Option<&'static str> {
        match self.0 {
            0x0300 => Some("SSLv3"),
            0x0301 => Some("TLSv1"),
            0x0302 => Some("TLSv1.1"),
            0x0303 => Some("TLSv1.2"),
            0x0304 => Some("TLSv1.3"),
            _ => None,
        }
    }
}

/// Cipher suites of ChaCha20-Poly1305: of TLS 1.3 (RFC 8446 section B.4), and of 1.2 with ECDSA and RSA (RFC 7905).
const CHACHA: &[u16] = &[0x1303, 0xcca9, 0xcca8];

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The host it wants to talk to: a host name in lower case, without a final dot. `None` also for an IP address, which
    /// names nobody (RFC 6066 3).
    pub server_name: Option<String>,
    /// Protocols it wants to speak inside, most wanted first. Any bytes but none.
    pub alpn: Vec<Vec<u8>>,
    /// Versions that it can speak, most wanted first, without GREASE; of a client that does not list them the highest.
    pub versions: Vec<Version>,
    /// The cipher that it wants most is ChaCha20-Poly1305: it has no AES in hardware.
    pub prefers_chacha: bool,
}

impl ClientHello {
    /// The highest version that it can speak and that has a name.
    pub fn highest_version(&self) -> Option<Version> {
        self.versions.iter().copied().filter(|version| version.name().is_some()).max()
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parse {
    /// More is needed, and nothing is wrong so far.
    Partial,
    /// All of it is there.
    Complete(ClientHello),
}

/// Why bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not a handshake record; the first byte.
    NotTls(u8),
    /// The client sends an alert instead.
    Alert,
    /// A hello in the format of SSL 2, which no version since 1.2 of TLS may send (RFC 6176).
    Ssl2,
    /// Another record between two parts of the hello; its type.
    Interrupted(u8),
    /// A record of a version that does not exist.
    RecordVersion(u16),
    /// A record that is empty or too long; its length.
    RecordLength(usize),
    /// Another message of the handshake; its type.
    MessageType(u8),
    /// Longer than what is accepted; bytes.
    TooLarge(usize),
    /// A field that does not fit into what is around it, or whose length is not allowed.
    Field(&'static str),
    /// An extension that is there twice.
    Twice(u16),
    /// A server name that is no host name.
    ServerName,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls(first) if first.is_ascii_alphabetic() => f.write_str("plain text instead of TLS"),
            Self::NotTls(first) => write!(f, "no TLS: the first byte is {first:#04x}"),
            Self::Alert => f.write_str("an alert instead of a ClientHello"),
            Self::Ssl2 => f.write_str("a hello of SSL 2"),
            Self::Interrupted(kind) => write!(f, "a record of type {kind} within the ClientHello"),
            Self::RecordVersion(version) => write!(f, "a record of version {version:#06x}"),
            Self::RecordLength(length) => write!(f, "a record of {length} bytes"),
            Self::MessageType(kind) => write!(f, "a handshake message of type {kind} instead of a ClientHello"),
            Self::TooLarge(size) => write!(f, "a ClientHello of {size} bytes or more"),
            Self::Field(name) => write!(f, "the length of its {name} is wrong"),
            Self::Twice(extension) => write!(f, "extension {extension} is there twice"),
            Self::ServerName => f.write_str("its server name is no host name"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Reads one ClientHello. Each byte is looked at once, however many arrive at a time.
#[derive(Debug)]
pub struct Reader {
    max_size: usize,
    /// Where the next record begins.
    at: usize,
    /// The message as far as whole records have brought it.
    message: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(MAX_SIZE)
    }
}

impl Reader {
    /// Of at most `max_size` bytes, record headers included.
    pub fn new(max_size: usize) -> Self {
        Self { max_size, at: 0, message: Vec::new() }
    }

    /// Goes on with `bytes`: everything received so far, what earlier calls were given included; not called again after
    /// it is complete or wrong. What follows the ClientHello is not looked at. While it is partial, no more than the
    /// bound of bytes is needed.
    ///
    /// # Errors
    /// As soon as it is certain that no more bytes can make it right; see [`Malformed`].
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Parse, Malformed> {
        while let Some(record) = bytes.get(self.at..).filter(|rest| !rest.is_empty()) {
            let Some(fragment) = self.fragment(record)? else { break };
            self.at += RECORD_HEADER + fragment.len();
            self.message.extend_from_slice(fragment);
            if let Some(hello) = self.whole()? {
                return client_hello(hello).map(Parse::Complete);
            }
        }
        Ok(Parse::Partial)
    }

    /// What the record at the beginning of `record` carries, once that is there.
    fn fragment<'b>(&self, record: &'b [u8]) -> Result<Option<&'b [u8]>, Malformed> {
        match (self.at, record) {
            (_, [HANDSHAKE, ..]) | (_, []) => {}
            (0, [ALERT, ..]) => return Err(Malformed::Alert),
            // Two bytes of length with the highest bit set, then the type.
            (0, [length, _, CLIENT_HELLO, ..]) if length & 0x80 != 0 => return Err(Malformed::Ssl2),
            (0, [length] | [length, _]) if length & 0x80 != 0 => return Ok(None),
            (0, [first, ..]) => return Err(Malformed::NotTls(*first)),
            (_, [kind, ..]) => return Err(Malformed::Interrupted(*kind)),
        }
        let [_, major, minor, high, low, rest @ ..] = record else { return Ok(None) };
        if *major != 3 {
            return Err(Malformed::RecordVersion(u16::from_be_bytes([*major, *minor])));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > MAX_FRAGMENT {
            return Err(Malformed::RecordLength(length));
        }
        let end = self.at + RECORD_HEADER + length;
        if end > self.max_size {
            return Err(Malformed::TooLarge(end));
        }
        if let (true, Some(kind)) = (self.message.is_empty(), rest.first().filter(|kind| **kind != CLIENT_HELLO)) {
            return Err(Malformed::MessageType(*kind));
        }
        Ok(rest.get(..length))
    }

    /// The body of the message, once that is there.
    fn whole(&self) -> Result<Option<&[u8]>, Malformed> {
        let [_, high, middle, low, rest @ ..] = &self.message[..] else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).unwrap_or(usize::MAX);
        let size = length.saturating_add(MESSAGE_HEADER + RECORD_HEADER);
        if size > self.max_size {
            return Err(Malformed::TooLarge(size));
        }
        Ok(rest.get(..length))
    }
}

fn client_hello(body: &[u8]) -> Result<ClientHello, Malformed> {
    let mut input = Input(body);
    let version = input.number("version")?;
    input.take(32, "random")?;
    input.list8("session id", 0..=32)?;
    let suites = input.list16("cipher suites", 2)?;
    if suites.len() % 2 != 0 {
        return Err(Malformed::Field("cipher suites"));
    }
    input.list8("compression methods", 1..=255)?;
    let mut wanted = suites.as_chunks().0.iter().map(|suite| u16::from_be_bytes(*suite));
    let prefers_chacha = wanted.find(|suite| !is_grease(*suite)).is_some_and(|suite| CHACHA.contains(&suite));
    let mut hello = ClientHello { versions: vec![Version(version)], prefers_chacha, ..ClientHello::default() };
    // A client of before TLS 1.2 may have none.
    if input.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Input(input.list16("extensions", 0)?);
    input.end("extensions")?;
    let mut seen = BTreeSet::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number("extensions")?;
        let mut data = Input(extensions.list16("extensions", 0)?);
        if !seen.insert(kind) {
            return Err(Malformed::Twice(kind));
        }
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut data)?,
            ALPN => hello.alpn = alpn(&mut data)?,
            SUPPORTED_VERSIONS => hello.versions = supported_versions(&mut data)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 section 3: of each type one at most; there is only one type, and others would be of the same form.
fn server_name(data: &mut Input<'_>) -> Result<Option<String>, Malformed> {
    const NAME: &str = "server name";
    let mut names = Input(data.list16(NAME, 1)?);
    data.end(NAME)?;
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.byte(NAME)?;
        let name = names.list16(NAME, 1)?;
        if kind == HOST_NAME && found.replace(name).is_some() {
            return Err(Malformed::Twice(SERVER_NAME));
        }
    }
    let Some(name) = found else { return Ok(None) };
    let name = str::from_utf8(name).map_err(|_| Malformed::ServerName)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    if is_host_name(name) { Ok(Some(name.to_ascii_lowercase())) } else { Err(Malformed::ServerName) }
}

/// Letters, digits and hyphens, as RFC 1123 section 2.1 has it, and the underscore, which is in use.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let sound = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        sound && (1..=63).contains(&label.len())
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// RFC 7301 section 3.1.
fn alpn(data: &mut Input<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    const PROTOCOLS: &str = "protocol list";
    let mut names = Input(data.list16(PROTOCOLS, 2)?);
    data.end(PROTOCOLS)?;
    let mut found = Vec::new();
    while !names.0.is_empty() {
        found.push(names.list8(PROTOCOLS, 1..=255)?.to_vec());
    }
    Ok(found)
}

/// RFC 8446 section 4.2.1.
fn supported_versions(data: &mut Input<'_>) -> Result<Vec<Version>, Malformed> {
    const VERSIONS: &str = "version list";
    let mut list = Input(data.list8(VERSIONS, 2..=254)?);
    data.end(VERSIONS)?;
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(list.number(VERSIONS)?);
    }
    Ok(found.into_iter().filter(|version| !is_grease(*version)).map(Version).collect())
}

/// RFC 8701 section 2: 0x0a0a, 0x1a1a, to 0xfafa.
fn is_grease(number: u16) -> bool {
    let [a, b] = number.to_be_bytes();
    a == b && a & 0x0f == 0x0a
}

/// What is left of a message.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, n: usize, field: &'static str) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed::Field(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, Malformed> {
        let (byte, rest) = self.0.split_first().ok_or(Malformed::Field(field))?;
        self.0 = rest;
        Ok(*byte)
    }

    fn number(&mut self, field: &'static str) -> Result<u16, Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::Field(field))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// Bytes behind one byte of length.
    fn list8(&mut self, field: &'static str, allowed: RangeInclusive<u8>) -> Result<&'b [u8], Malformed> {
        let length = self.byte(field)?;
        if !allowed.contains(&length) {
            return Err(Malformed::Field(field));
        }
        self.take(length.into(), field)
    }

    /// Bytes behind two bytes of length.
    fn list16(&mut self, field: &'static str, least: u16) -> Result<&'b [u8], Malformed> {
        let length = self.number(field)?;
        if length < least {
            return Err(Malformed::Field(field));
        }
        self.take(length.into(), field)
    }

    fn end(&self, field: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Field(field)) }
    }
}

#[cfg(test)]
mod tests;
