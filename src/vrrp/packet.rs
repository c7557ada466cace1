//! Advertisements on the wire: encoding, and decoding of whatever the network brings.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+---------------+---------------+
//! |version| type  |     vrid      |   priority    | address count |
//! +-------+-------+---------------+---------------+---------------+
//! | v2: auth type | v2: interval s|                               |
//! | v3: 0 | 12 bits: interval cs  |           checksum            |
//! +---------------+---------------+-------------------------------+
//! | addresses: 4 bytes each (IPv4) or 16 (IPv6)                   |
//! +---------------------------------------------------------------+
//! | v2 over IPv4: 8 bytes of authentication data, even if unused   |
//! +---------------------------------------------------------------+
//! ```
//! RFC 9568 section 5.1, RFC 3768 section 5.1, RFC 2338 section 5.3.6 (authentication). Version 2 over IPv6 is keepalived's
//! own: without authentication data, so that there is no authentication either (two 2.2.7 with a password die of each other).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::{Checksum, Family, Interval, Password, Priority, Version, Vrid};

/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where IPv4 advertisements are multicast to (RFC 9568 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where IPv6 advertisements are multicast to (RFC 9568 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// TTL or hop limit of every advertisement (RFC 9568 5.1.1.3, 5.1.2.3).
pub const TTL: u8 = 255;
/// Addresses that one advertisement can carry.
pub const MAX_ADDRESSES: usize = 255;

const HEADER: usize = 8;
const AUTHENTICATION: usize = 8;
const ADVERTISEMENT: u8 = 1;
const AUTH_NONE: u8 = 0;
const AUTH_PASS: u8 = 1;

/// How version 2 says who may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all; the only one in version 3, and over IPv6.
    None,
    /// A password in clear.
    Pass(Password),
}

/// What one advertisement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// Its version.
    pub version: Version,
    /// The virtual router.
    pub vrid: Vrid,
    /// Of the sender; 0: it resigns.
    pub priority: Priority,
    /// Until its next.
    pub interval: Interval,
    /// Always `None` in version 3, and over IPv6.
    pub authentication: Authentication,
    /// All of one family.
    pub addresses: Vec<IpAddr>,
}

/// What the IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// TTL or hop limit as received.
    pub ttl: u8,
}

impl Envelope {
    /// Whether it was sent to everybody.
    pub fn is_multicast(&self) -> bool {
        self.destination.is_multicast()
    }
}

/// Why bytes are no advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    TooShort,
    /// A version that does not exist.
    Version(u8),
    /// No advertisement; there is no other type.
    Type(u8),
    /// Virtual router 0.
    Vrid,
    /// More or fewer bytes than the address count says: as UCarp's, which share the protocol number, and keepalived's
    /// signed ones.
    Length,
    /// No addresses (RFC 9568, erratum 8299).
    NoAddresses,
    /// An interval of zero (RFC 9568, erratum 8301).
    NoInterval,
    /// An authentication type that neither is none nor a password.
    AuthenticationType(u8),
    /// Wrong by every rule.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("shorter than a header"),
            Self::Version(v) => write!(f, "version {v}"),
            Self::Type(t) => write!(f, "type {t}"),
            Self::Vrid => f.write_str("virtual router 0"),
            Self::Length => f.write_str("length does not fit the number of addresses"),
            Self::NoAddresses => f.write_str("no addresses"),
            Self::NoInterval => f.write_str("interval of zero"),
            Self::AuthenticationType(t) => write!(f, "authentication type {t}"),
            Self::Checksum => f.write_str("wrong checksum"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Advert {
    /// The bytes behind the IP header. At most the first [`MAX_ADDRESSES`] addresses go along.
    pub fn encode(&self, source: IpAddr, destination: IpAddr, checksum: Checksum) -> Vec<u8> {
        let family = Family::of(source);
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
        let mut bytes = Vec::with_capacity(HEADER + 16 * addresses.len() + AUTHENTICATION);
        bytes.extend([self.version.number() << 4 | ADVERTISEMENT, self.vrid.get(), self.priority.0, count]);
        // The authentication's type and its data.
        let (kind, data) = match (self.authentication, family) {
            (Authentication::Pass(Password(field)), Family::V4) => (AUTH_PASS, field),
            (Authentication::None, _) | (Authentication::Pass(_), Family::V6) => (AUTH_NONE, [0; AUTHENTICATION]),
        };
        match self.version {
            Version::V3 => bytes.extend(self.interval.centis().to_be_bytes()),
            Version::V2 => bytes.extend([kind, self.interval.secs()]),
        }
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend(&data[..trailer(self.version, family)]);
        let pseudo = has_pseudo_header(self.version, family, checksum);
        let sum = sum_of(&bytes, pseudo.then_some((source, destination)));
        bytes[6..HEADER].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Reads the bytes behind an IP header; also says which checksum was used. Never panics, whatever the bytes.
///
/// # Errors
/// See [`Malformed`]; checked in the order of RFC 9568 section 7.1 as far as the bytes alone can be.
pub fn decode(bytes: &[u8], envelope: &Envelope) -> Result<(Advert, Checksum), Malformed> {
    let family = Family::of(envelope.source);
    let [first, vrid, priority, count, five, six, _, _, rest @ ..] = bytes else { return Err(Malformed::TooShort) };
    let version = match first >> 4 {
        2 => Version::V2,
        3 => Version::V3,
        other => return Err(Malformed::Version(other)),
    };
    if first & 0x0f != ADVERTISEMENT {
        return Err(Malformed::Type(first & 0x0f));
    }
    let vrid = Vrid::new(*vrid).ok_or(Malformed::Vrid)?;
    let size = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let list = usize::from(*count) * size;
    if rest.len() != list + trailer(version, family) {
        return Err(Malformed::Length);
    }
    let Some((list, trailer)) = rest.split_at_checked(list) else { return Err(Malformed::Length) };
    let checksum = matching_checksum(bytes, version, envelope).ok_or(Malformed::Checksum)?;
    if *count == 0 {
        return Err(Malformed::NoAddresses);
    }
    let (interval, authentication) = match version {
        Version::V3 => (Interval::from_centis(u16::from_be_bytes([*five & 0x0f, *six])), Authentication::None),
        Version::V2 => {
            let authentication = match (*five, trailer.first_chunk()) {
                (AUTH_NONE, _) => Authentication::None,
                (AUTH_PASS, Some(field)) => Authentication::Pass(Password(*field)),
                (other, _) => return Err(Malformed::AuthenticationType(other)),
            };
            (Interval::from_secs(*six), authentication)
        }
    };
    let interval = interval.ok_or(Malformed::NoInterval)?;
    let addresses = match family {
        Family::V4 => list.as_chunks::<4>().0.iter().map(|octets| IpAddr::from(*octets)).collect(),
        Family::V6 => list.as_chunks::<16>().0.iter().map(|octets| IpAddr::from(*octets)).collect(),
    };
    Ok((Advert { version, vrid, priority: Priority(*priority), interval, authentication, addresses }, checksum))
}

/// Bytes of authentication data behind the addresses.
fn trailer(version: Version, family: Family) -> usize {
    match (version, family) {
        (Version::V2, Family::V4) => AUTHENTICATION,
        (Version::V2, Family::V6) | (Version::V3, _) => 0,
    }
}

/// Which rule the checksum in `bytes` follows, if any.
fn matching_checksum(bytes: &[u8], version: Version, envelope: &Envelope) -> Option<Checksum> {
    let family = Family::of(envelope.source);
    [Checksum::PseudoHeader, Checksum::Rfc9568].into_iter().find(|style| {
        let pseudo = has_pseudo_header(version, family, *style);
        // Over a message with its checksum the sum is zero.
        sum_of(bytes, pseudo.then_some((envelope.source, envelope.destination))) == 0
    })
}

/// Version 2 over IPv4 covers the message alone (RFC 3768 5.3.8); over IPv6 there is always a pseudo-header (RFC 8200
/// 8.1), which the kernel adds for keepalived; version 3 over IPv4 is a matter of reading.
fn has_pseudo_header(version: Version, family: Family, style: Checksum) -> bool {
    match (family, version) {
        (Family::V6, _) => true,
        (Family::V4, Version::V2) => false,
        (Family::V4, Version::V3) => style == Checksum::PseudoHeader,
    }
}

/// The Internet checksum (RFC 1071) of `bytes`, behind the pseudo-header of an IP packet between two addresses if given.
fn sum_of(bytes: &[u8], addresses: Option<(IpAddr, IpAddr)>) -> u16 {
    let mut sum = Sum(0);
    if let Some((source, destination)) = addresses {
        for address in [source, destination] {
            match address {
                IpAddr::V4(ip) => sum.add(&ip.octets()),
                IpAddr::V6(ip) => sum.add(&ip.octets()),
            }
        }
        // RFC 793 3.1 and RFC 8200 8.1 order and pad them differently, to the same sum.
        sum.add(&[0, PROTOCOL]);
        sum.add(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    sum.add(bytes);
    sum.finish()
}

struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (words, last) = bytes.as_chunks::<2>();
        self.0 += words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>();
        self.0 += last.first().map_or(0, |byte| u64::from(*byte) << 8);
    }

    fn finish(mut self) -> u16 {
        while self.0 > 0xffff {
            self.0 = (self.0 & 0xffff) + (self.0 >> 16);
        }
        !u16::try_from(self.0).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests;
