//! Values with units: durations, sizes, networks. Each type parses what it displays.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;
use std::time::Duration;

/// A length of time in whole milliseconds, at most 365 days: `250ms`, `2s`, `5m`, `1h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// A number of bytes: `512`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// An address block such as `10.0.0.0/8`; a bare address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// First address of the block; never an IPv4-mapped one with a prefix of 96 or more.
    addr: IpAddr,
    prefix: u8,
}

/// Why a text is not a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueError {
    /// Only digits.
    NoUnit(u64),
    /// Not one number and one known unit.
    NotAPeriod,
    /// More than a year.
    PeriodTooLong,
    /// Not one whole number and one known unit.
    NotASize,
    /// A unit of nginx or of powers of ten; the number and the unit meant.
    ForeignSize(u64, &'static str),
    /// More than 2^64 bytes.
    SizeTooLarge,
    /// Not an address, or not one in front of the slash.
    NotAnAddress,
    /// What follows the slash is no number up to this.
    BadPrefix(u8),
    /// Bits of the address beyond the prefix are set; the block that holds it.
    HostBits(Cidr),
}

const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Milliseconds per unit, longest first.
const PERIOD_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes per unit, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

impl Period {
    /// The same as the standard library's type.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_number(text).ok_or(ValueError::NotAPeriod)?;
        if unit.is_empty() {
            return Err(ValueError::NoUnit(number));
        }
        let (_, millis) = PERIOD_UNITS.iter().find(|(name, _)| *name == unit).ok_or(ValueError::NotAPeriod)?;
        let millis = number.checked_mul(*millis).ok_or(ValueError::PeriodTooLong)?;
        Some(Duration::from_millis(millis)).filter(|d| *d <= LONGEST).map(Self).ok_or(ValueError::PeriodTooLong)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // Zero is a multiple of all, and looks best in seconds.
        let fits = |(_, unit): &&(&str, u64)| if millis == 0 { *unit == 1000 } else { millis.is_multiple_of(*unit) };
        let (name, unit) = PERIOD_UNITS.iter().find(fits).unwrap_or(&("ms", 1));
        write!(f, "{}{name}", millis / unit)
    }
}

impl Size {
    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_number(text).ok_or(ValueError::NotASize)?;
        if let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            return number.checked_mul(*bytes).map(Self).ok_or(ValueError::SizeTooLarge);
        }
        Err(match unit.to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => ValueError::ForeignSize(number, "KiB"),
            "m" | "mb" | "mib" => ValueError::ForeignSize(number, "MiB"),
            "g" | "gb" | "gib" => ValueError::ForeignSize(number, "GiB"),
            _ => ValueError::NotASize,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*unit);
        let (name, unit) = SIZE_UNITS.iter().find(fits).unwrap_or(&("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Cidr {
    /// The block of `prefix` leading bits that holds `addr`; `prefix` at most 32 for IPv4, 128 for IPv6.
    fn around(addr: IpAddr, prefix: u8) -> Self {
        let addr = match addr {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
        };
        Self { addr, prefix }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addr
    }

    /// Leading bits that all of its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `ip` is inside; an IPv4-mapped IPv6 address is taken as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.addr.is_ipv4() && Self::around(ip, self.prefix) == *self
    }
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
        let addr: IpAddr = addr.parse().map_err(|_: AddrParseError| ValueError::NotAnAddress)?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            // `u8::from_str` alone takes "+8".
            Some(text) => (text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten())
                .filter(|p| *p <= bits)
                .ok_or(ValueError::BadPrefix(bits))?,
        };
        let (addr, prefix) = match (addr.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V4(ip), Some(prefix)) if addr.is_ipv6() => (IpAddr::V4(ip), prefix),
            _ => (addr, prefix),
        };
        let block = Self::around(addr, prefix);
        if block.addr == addr { Ok(block) } else { Err(ValueError::HostBits(block)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl ValueError {
    /// How to mend it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoUnit(n) => Some(format!("write the unit: \"{n}s\" or \"{n}ms\"")),
            Self::NotAPeriod => Some("one whole number with ms, s, m, h or d: \"250ms\", \"90s\", \"1h\"".into()),
            Self::NotASize => Some("one whole number, alone or with KiB, MiB or GiB: \"64KiB\", 1024".into()),
            Self::ForeignSize(n, unit) => Some(format!("units are powers of 1024: \"{n}{unit}\"")),
            Self::HostBits(block) => {
                Some(format!("write \"{block}\" for the network, or the address without a prefix"))
            }
            Self::PeriodTooLong | Self::SizeTooLarge | Self::NotAnAddress | Self::BadPrefix(_) => None,
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUnit(_) => f.write_str("a duration without a unit"),
            Self::NotAPeriod => f.write_str("not a duration"),
            Self::PeriodTooLong => f.write_str("a duration of more than 365 days"),
            Self::NotASize => f.write_str("not a size"),
            Self::ForeignSize(..) => f.write_str("unknown unit of size"),
            Self::SizeTooLarge => f.write_str("a size of more than 2^64 bytes"),
            Self::NotAnAddress => f.write_str("not an IP address or network"),
            Self::BadPrefix(bits) => write!(f, "the prefix length must be 0 to {bits}"),
            Self::HostBits(block) => write!(f, "bits are set beyond the prefix length {}", block.prefix),
        }
    }
}

impl std::error::Error for ValueError {}

/// Leading digits as a number, and the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    digits.parse().ok().map(|number| (number, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        let millis = |text: &str| text.parse::<Period>().map(|p| p.get().as_millis());
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("2s"), Ok(2000));
        assert_eq!(millis("5m"), Ok(300_000));
        assert_eq!(millis("1h"), Ok(3_600_000));
        assert_eq!(millis("365d"), Ok(31_536_000_000));
        assert_eq!(millis("60"), Err(ValueError::NoUnit(60)));
        assert_eq!(millis("366d"), Err(ValueError::PeriodTooLong));
        assert_eq!(millis("18446744073709551615d"), Err(ValueError::PeriodTooLong));
        for bad in ["", "s", "1.5s", "1m30s", "1 s", "-1s", "+1s", "1S", "99999999999999999999s"] {
            assert_eq!(millis(bad), Err(ValueError::NotAPeriod), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let bytes = |text: &str| text.parse::<Size>().map(Size::get);
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("1024"), Ok(1024));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("1m"), Err(ValueError::ForeignSize(1, "MiB")));
        assert_eq!(bytes("8kb"), Err(ValueError::ForeignSize(8, "KiB")));
        assert_eq!(bytes("99999999999GiB"), Err(ValueError::SizeTooLarge));
        for bad in ["", "KiB", "1.5MiB", "-1", "1 KiB", "1TiB"] {
            assert_eq!(bytes(bad), Err(ValueError::NotASize), "{bad}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let holds = |block: &str, ip: &str| block.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "a mapped address is an IPv4 address");
        assert!(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::/0", "203.0.113.9"));
        assert!(holds("2001:db8::/33", "2001:db8:7fff::1") && !holds("2001:db8::/33", "2001:db8:8000::1"));
    }

    #[test]
    fn networks_are_written_exactly() {
        let error = |text: &str| text.parse::<Cidr>().unwrap_err();
        assert_eq!(error("10.0.0.0/33"), ValueError::BadPrefix(32));
        assert_eq!(error("10.0.0.0/+8"), ValueError::BadPrefix(32));
        assert_eq!(error("::/"), ValueError::BadPrefix(128));
        assert_eq!(error("example.com/8"), ValueError::NotAnAddress);
        let help = error("10.1.2.3/8").help().unwrap();
        assert!(help.contains("\"10.0.0.0/8\""), "{help}");
    }

    proptest! {
        #[test]
        fn a_period_parses_what_it_displays(millis in 0_u64..=31_536_000_000, unit in 0_usize..5) {
            let unit = PERIOD_UNITS[unit].1;
            let period = Period(Duration::from_millis(millis / unit * unit));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn a_size_parses_what_it_displays(bytes: u64, shift in 0_u32..40) {
            let size = Size(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn a_network_parses_what_it_displays(bits: u128, prefix in 0_u8..=128, v4: bool) {
            let (addr, prefix) = if v4 {
                (IpAddr::V4(((bits & 0xffff_ffff) as u32).into()), prefix % 33)
            } else {
                (IpAddr::V6(bits.into()), prefix)
            };
            let block = Cidr::around(addr, prefix);
            prop_assert_eq!(block.to_string().parse(), Ok(block));
            prop_assert!(block.contains(addr));
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,12}") {
            let _ = (text.parse::<Period>(), text.parse::<Size>(), text.parse::<Cidr>());
        }
    }
}
