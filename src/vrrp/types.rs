//! The numbers of the protocol, in types that cannot hold a wrong one.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// Version of the protocol; every router of a virtual router speaks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 3768 (IPv4), and keepalived's extension of it to IPv6.
    V2,
    /// RFC 9568, and RFC 5798 before it.
    V3,
}

impl Version {
    /// 2 or 3, as on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Family of the addresses of a virtual router; one router has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Virtual router id, 1 to 255 (RFC 9568 5.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrid(NonZeroU8);

impl Vrid {
    /// `None` for 0.
    pub fn new(id: u8) -> Option<Self> {
        NonZeroU8::new(id).map(Self)
    }

    /// As on the wire.
    pub fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Priority as on the wire (RFC 9568 5.2.4): higher wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// The Active Router stops taking part.
    pub const RESIGN: Self = Self(0);
    /// The least that still takes part: a box that cannot serve.
    pub const LAST: Self = Self(1);
    /// The router that owns the addresses.
    pub const OWNER: Self = Self(255);
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Time between two advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(Duration);

impl Interval {
    /// Version 2: whole seconds, 1 to 255 (RFC 3768 5.3.7).
    pub fn from_secs(secs: u8) -> Option<Self> {
        (secs > 0).then(|| Self(Duration::from_secs(secs.into())))
    }

    /// Version 3: hundredths of a second, 1 to 4095 (RFC 9568 5.2.7).
    pub fn from_centis(centis: u16) -> Option<Self> {
        (1..=4095).contains(&centis).then(|| Self(Duration::from_millis(u64::from(centis) * 10)))
    }

    /// `period`, when `version` can say it exactly.
    pub fn new(version: Version, period: Duration) -> Option<Self> {
        let found = match version {
            Version::V2 => Self::from_secs(u8::try_from(period.as_secs()).ok()?),
            Version::V3 => Self::from_centis(u16::try_from(period.as_millis() / 10).ok()?),
        };
        found.filter(|interval| interval.0 == period)
    }

    /// As a duration.
    pub fn get(self) -> Duration {
        self.0
    }

    /// Whole seconds, as version 2 has it on the wire.
    pub fn secs(self) -> u8 {
        u8::try_from(self.0.as_secs()).unwrap_or(u8::MAX)
    }

    /// Hundredths of a second, as version 3 has it on the wire.
    pub fn centis(self) -> u16 {
        u16::try_from(self.0.as_millis() / 10).unwrap_or(4095).min(4095)
    }
}

/// The password of version 2's simple authentication: at most 8 bytes count, the rest of the field is zero
/// (RFC 2338 5.3.6.2; keepalived cuts longer ones the same way).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password(pub [u8; 8]);

impl Password {
    /// The first 8 bytes of `text`.
    pub fn new(text: &str) -> Self {
        let mut field = [0; 8];
        for (to, from) in field.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self(field)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// What the checksum of a version 3 advertisement over IPv4 covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The message and a pseudo-header, as keepalived and FRR read RFC 5798.
    PseudoHeader,
    /// The message alone (RFC 9568 5.2.8).
    Rfc9568,
}
