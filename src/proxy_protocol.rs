//! The PROXY protocol, versions 1 and 2: what a proxy in front says of a connection before the client's first byte, and what
//! is said of one to the server behind.
//!
//! ```text
//! version 1  PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n          one line of at most 107 bytes
//! version 2  | \r\n\r\n\0\r\nQUIT\n | 2, command | family, transport | length |  addresses and TLVs, `length` bytes
//! TLV        | type | length (16 bits) | value |
//! ```
//! HAProxy's doc/proxy-protocol.txt, sections 2.1 and 2.2. Whether the sender is to be believed is not known here.
#![warn(clippy::indexing_slicing)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest line of version 1, its end included (section 2.1).
pub const MAX_V1: usize = 107;
/// Longest header of version 2 that is accepted, bytes; its length field allows 64 KiB.
pub const MAX_V2: usize = 16 * 1024;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_START: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;
const INET_SIZE: usize = 12;
const INET6_SIZE: usize = 36;
const UNIX_SIZE: usize = 216;

const TLV_CRC32C: u8 = 0x03;
const TLV_NOOP: u8 = 0x04;

/// How a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// The ends of a connection as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// `None`: the sender speaks for itself, as in its health checks, or cannot tell; the connection's own count.
    pub addresses: Option<Addresses>,
    /// More about the connection, as TLVs of version 2 in the order received, to be passed on: without checksum and padding.
    pub tlvs: Vec<u8>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parse {
    /// More is needed, and nothing is wrong so far.
    Partial,
    /// These bytes are something else.
    Absent,
    /// All of it is there.
    Complete {
        /// What it says.
        header: Header,
        /// Bytes that it takes; the client's own follow.
        len: usize,
    },
}

/// Why bytes that begin as a header are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A line of version 1 without its end.
    LineTooLong,
    /// A line of version 1 that ends with something else than CR LF.
    LineEnd,
    /// A protocol that version 1 does not know.
    Protocol,
    /// No address of the family, more or less than one space, too much or too little.
    Address,
    /// No number from 0 to 65535, or one with leading zeros.
    Port,
    /// The byte with version and command.
    Command(u8),
    /// The byte with family and transport.
    Family(u8),
    /// Longer than what is accepted; bytes.
    TooLarge(usize),
    /// Shorter than the addresses of its family; bytes.
    TooShort(usize),
    /// A TLV that does not fit into what is around it; its type.
    Tlv(u8),
    /// Its checksum is another one, or is there twice.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineTooLong => write!(f, "no line end within {MAX_V1} bytes"),
            Self::LineEnd => f.write_str("a line end that is not CR LF"),
            Self::Protocol => f.write_str("neither TCP4 nor TCP6 nor UNKNOWN"),
            Self::Address => f.write_str("an address that is none"),
            Self::Port => f.write_str("a port that is none"),
            Self::Command(byte) => write!(f, "version and command {byte:#04x}"),
            Self::Family(byte) => write!(f, "family and transport {byte:#04x}"),
            Self::TooLarge(size) => write!(f, "{size} bytes, {MAX_V2} at most"),
            Self::TooShort(size) => write!(f, "{size} bytes are too few for the addresses"),
            Self::Tlv(kind) => write!(f, "TLV {kind:#04x} does not fit"),
            Self::Checksum => f.write_str("wrong checksum"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Reads a header from all the bytes received so far, of either version.
///
/// # Errors
/// As soon as it is certain that no more bytes can make it right; see [`Malformed`].
pub fn parse(bytes: &[u8]) -> Result<Parse, Malformed> {
    if let Some(line) = bytes.strip_prefix(V1_SIGNATURE) {
        return line_of_v1(bytes, line);
    }
    if bytes.starts_with(V2_SIGNATURE) {
        return block_of_v2(bytes);
    }
    let may_become = V1_SIGNATURE.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes);
    Ok(if may_become { Parse::Partial } else { Parse::Absent })
}

/// `line`: what follows the signature in `bytes`.
fn line_of_v1(bytes: &[u8], line: &[u8]) -> Result<Parse, Malformed> {
    let longest = MAX_V1 - V1_SIGNATURE.len();
    let Some(end) = line.iter().take(longest).position(|b| matches!(b, b'\r' | b'\n')) else {
        return if bytes.len() < MAX_V1 { Ok(Parse::Partial) } else { Err(Malformed::LineTooLong) };
    };
    let (line, end) = line.split_at_checked(end).ok_or(Malformed::LineEnd)?;
    let len = V1_SIGNATURE.len() + line.len() + 2;
    match end {
        _ if len > MAX_V1 => return Err(Malformed::LineTooLong),
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(Parse::Partial),
        _ => return Err(Malformed::LineEnd),
    }
    let line = str::from_utf8(line).map_err(|_| Malformed::Address)?;
    let (protocol, rest) = line.split_once(' ').unwrap_or((line, ""));
    let addresses = match protocol {
        // Whatever follows is to be ignored.
        "UNKNOWN" => None,
        "TCP4" => Some(addresses_of_v1(rest, |text| text.parse().map(IpAddr::V4))?),
        "TCP6" => Some(addresses_of_v1(rest, |text| text.parse().map(IpAddr::V6))?),
        _ => return Err(Malformed::Protocol),
    };
    Ok(Parse::Complete { header: Header { addresses, tlvs: Vec::new() }, len })
}

fn addresses_of_v1<E>(text: &str, address: impl Fn(&str) -> Result<IpAddr, E>) -> Result<Addresses, Malformed> {
    let mut words = text.split(' ');
    let mut address = || words.next().and_then(|word| address(word).ok()).ok_or(Malformed::Address);
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port).ok_or(Malformed::Port);
    let (from, to) = (port()?, port()?);
    if words.next().is_some() {
        return Err(Malformed::Port);
    }
    Ok(Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
}

fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    text.parse().ok().filter(|_| canonical)
}

fn block_of_v2(bytes: &[u8]) -> Result<Parse, Malformed> {
    let rest = bytes.get(V2_SIGNATURE.len()..).unwrap_or_default();
    let command = match rest {
        [] => return Ok(Parse::Partial),
        [command @ (LOCAL | PROXY), ..] => *command,
        [command, ..] => return Err(Malformed::Command(*command)),
    };
    let (family, transport) = match rest {
        [_, byte, ..] => (byte >> 4, byte & 0x0f),
        _ => return Ok(Parse::Partial),
    };
    if family > UNIX || transport > DATAGRAM {
        return Err(Malformed::Family(family << 4 | transport));
    }
    let [_, _, high, low, payload @ ..] = rest else { return Ok(Parse::Partial) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let len = V2_START + length;
    if len > MAX_V2 {
        return Err(Malformed::TooLarge(len));
    }
    // What a sender says of itself is skipped, whatever it is (section 2.2, LOCAL).
    let size = match (command, family) {
        (LOCAL, _) | (_, UNSPEC) => 0,
        (_, INET) => INET_SIZE,
        (_, INET6) => INET6_SIZE,
        _ => UNIX_SIZE,
    };
    if length < size {
        return Err(Malformed::TooShort(length));
    }
    let (Some(whole), Some(payload)) = (bytes.get(..len), payload.get(..length)) else { return Ok(Parse::Partial) };
    let mut header = Header::default();
    if command == PROXY && family != UNSPEC {
        let (block, tlvs) = payload.split_at_checked(size).ok_or(Malformed::TooShort(length))?;
        // Of a datagram, and of a Unix socket, there is nothing to take the place of a TCP connection's addresses.
        if transport == STREAM {
            header.addresses = addresses_of_v2(block);
        }
        header.tlvs = tlvs_to_pass_on(whole, tlvs)?;
    }
    Ok(Parse::Complete { header, len })
}

fn addresses_of_v2(block: &[u8]) -> Option<Addresses> {
    let (source, destination, ports) = if let Ok(block) = <&[u8; INET_SIZE]>::try_from(block) {
        let (source, rest) = block.split_first_chunk::<4>()?;
        let (destination, ports) = rest.split_first_chunk::<4>()?;
        (Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), ports)
    } else if let Ok(block) = <&[u8; INET6_SIZE]>::try_from(block) {
        let (source, rest) = block.split_first_chunk::<16>()?;
        let (destination, ports) = rest.split_first_chunk::<16>()?;
        (Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), ports)
    } else {
        return None;
    };
    let &[a, b, c, d] = ports else { return None };
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
}

/// Checks the TLVs at the end of the header `whole`, and its checksum if they have one.
fn tlvs_to_pass_on(whole: &[u8], mut tlvs: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut kept = Vec::new();
    let mut checked = false;
    while let Some(kind) = tlvs.first() {
        let misfit = Malformed::Tlv(*kind);
        let [_, high, low, ..] = tlvs else { return Err(misfit) };
        let size = 3 + usize::from(u16::from_be_bytes([*high, *low]));
        let (tlv, rest) = tlvs.split_at_checked(size).ok_or(misfit)?;
        match *kind {
            TLV_NOOP => {}
            TLV_CRC32C => {
                let [_, _, _, value @ ..] = tlv else { return Err(misfit) };
                let Ok(value) = <[u8; 4]>::try_from(value) else { return Err(misfit) };
                // The checksum is over the header with zeros in its place (section 2.2.3).
                let before = whole.len() - rest.len() - value.len();
                let parts = (whole.get(..before), whole.get(whole.len() - rest.len()..));
                let (Some(before), Some(after)) = parts else { return Err(misfit) };
                if checked || crc32c([before, &[0; 4], after]) != u32::from_be_bytes(value) {
                    return Err(Malformed::Checksum);
                }
                checked = true;
            }
            _ => kept.extend_from_slice(tlv),
        }
        tlvs = rest;
    }
    Ok(kept)
}

impl Version {
    /// Appends `header` to `out`. Addresses of different families are both written as IPv6. Version 1 has no TLVs.
    pub fn write(self, header: &Header, out: &mut Vec<u8>) {
        let ends = header.addresses.map(|addresses| Ends::of(&addresses));
        match self {
            Self::V1 => match ends {
                None => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
                Some(Ends::V4([source, destination], [from, to])) => {
                    let line = format!("PROXY TCP4 {source} {destination} {from} {to}\r\n");
                    out.extend_from_slice(line.as_bytes());
                }
                Some(Ends::V6([source, destination], [from, to])) => {
                    let line = format!("PROXY TCP6 {source} {destination} {from} {to}\r\n");
                    out.extend_from_slice(line.as_bytes());
                }
            },
            Self::V2 => {
                out.extend_from_slice(V2_SIGNATURE);
                match ends {
                    None => out.extend_from_slice(&[LOCAL, UNSPEC, 0, 0]),
                    Some(Ends::V4(ips, ports)) => {
                        block(INET, ips.map(|ip| ip.octets()).as_flattened(), ports, &header.tlvs, out);
                    }
                    Some(Ends::V6(ips, ports)) => {
                        block(INET6, ips.map(|ip| ip.octets()).as_flattened(), ports, &header.tlvs, out);
                    }
                }
            }
        }
    }
}

/// What follows the signature of version 2. TLVs that do not fit into its length are left out; those of a header that was
/// read do.
fn block(family: u8, addresses: &[u8], ports: [u16; 2], tlvs: &[u8], out: &mut Vec<u8>) {
    let size = addresses.len() + 4;
    let whole = u16::try_from(size + tlvs.len()).map(|length| (length, tlvs));
    let (length, tlvs) = whole.unwrap_or((u16::try_from(size).unwrap_or(0), &[]));
    out.extend_from_slice(&[PROXY, family << 4 | STREAM]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(addresses);
    out.extend_from_slice(ports.map(u16::to_be_bytes).as_flattened());
    out.extend_from_slice(tlvs);
}

/// Addresses of one family.
enum Ends {
    V4([Ipv4Addr; 2], [u16; 2]),
    V6([Ipv6Addr; 2], [u16; 2]),
}

impl Ends {
    fn of(addresses: &Addresses) -> Self {
        let Addresses { source, destination } = addresses;
        let ports = [source.port(), destination.port()];
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4([source, destination], ports),
            (source, destination) => Self::V6([source, destination].map(as_v6), ports),
        }
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// CRC-32C (Castagnoli) of the parts one behind the other (RFC 9260 appendix A).
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or(0)
    })
}

/// The remainder of each byte by the polynomial 0x1EDC6F41, bits reversed.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "at compile time")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
