//! Values of keys of `[vrrp.NAME]`.

use std::fmt;
use std::net::IpAddr;

use super::{secret_or_text, short_form};
use crate::config::decode::{self, Decode, List, Shape, choices};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Value};
use crate::config::model::{Arbiter, Preempt};
use crate::config::raw::{RawSecret, RawTrackInterface, RawVirtualAddress};
use crate::vrrp::Checksum;

choices!(Preempt { "when_ready" => Self::WhenReady, "never" => Self::Never, "immediate" => Self::Immediate });
choices!(Checksum { "pseudo_header" => Self::PseudoHeader, "rfc9568" => Self::Rfc9568 });

/// `track_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum TrackMode {
    All,
    Any,
}

choices!(TrackMode { "all" => Self::All, "any" => Self::Any });

/// `type` of `authentication`: there is one.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct AuthenticationType;

impl Decode for AuthenticationType {
    const SHAPE: &'static Shape = &Shape::Choice(&["pass"]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match item.as_str() {
            Some("pass") => return Some(Self),
            Some(text) if text.eq_ignore_ascii_case("ah") => {
                problems
                    .error(item.place, "AH is not supported")
                    .help("\"pass\", or no `authentication`, the same on every box");
            }
            _ => decode::no_choice(item, &["pass"], problems),
        }
        None
    }
}

/// `password` of `authentication`.
#[derive(Clone)]
pub(in crate::config) struct Password(pub(in crate::config) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl Decode for Password {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawSecret::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        secret_or_text(item, problems).map(Self)
    }
}

/// An address of an interface: with the length of its network's prefix, or without, which is all bits.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct AddressText {
    pub(in crate::config) ip: IpAddr,
    pub(in crate::config) prefix: u8,
}

impl Decode for AddressText {
    const SHAPE: &'static Shape = &Shape::Text("address/prefix", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let text = decode::text(item, "an address such as \"192.0.2.100/24\"", problems)?;
        if text.contains(char::is_whitespace) {
            problems
                .error(item.place, "not an IP address")
                .help("more than an address is a table: { address = \"...\", interface = \"...\", label = \"...\" }");
            return None;
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let Ok(ip) = address.parse::<IpAddr>() else {
            problems.error(item.place, "not an IP address");
            return None;
        };
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = prefix else { return Some(Self { ip, prefix: bits }) };
        // `u8::from_str` alone takes "+8".
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| digits && (1..=bits).contains(prefix));
        if prefix.is_none() {
            problems.error(item.place, format!("the prefix length must be 1 to {bits}"));
        }
        Some(Self { ip, prefix: prefix? })
    }
}

/// One of `virtual_addresses` in either form.
#[derive(Debug, Clone)]
pub(in crate::config) struct VirtualAddressText(pub(in crate::config) RawVirtualAddress);

impl Decode for VirtualAddressText {
    const SHAPE: &'static Shape = &Shape::OneOf(&[AddressText::SHAPE, RawVirtualAddress::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        short_form(item, "address", problems).map(Self)
    }
}

/// `unicast_peers`; addresses of nodes are in the place of "nodes" by now.
#[derive(Debug, Clone)]
pub(in crate::config) struct Peers(pub(in crate::config) List<IpAddr>);

impl Decode for Peers {
    const SHAPE: &'static Shape = &Shape::OneOf(&[List::<IpAddr>::SHAPE, &Shape::Choice(&["nodes"])]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let Some(text) = item.as_str() else { return List::decode(item, problems).map(Self) };
        if text == "nodes" {
            problems.error(item.place, "a reference where everything must be in the document");
        } else if text.parse::<IpAddr>().is_ok() {
            problems.error(item.place, "expected an array, found a string").help(format!("write [\"{text}\"]"));
        } else {
            decode::no_choice(item, &["nodes"], problems);
        }
        None
    }
}

impl Decode for Arbiter {
    const SHAPE: &'static Shape = &Shape::OneOf(&[IpAddr::SHAPE, &Shape::Choice(&["gateway"])]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match item.as_str() {
            Some("gateway") => Some(Self::Gateway),
            _ => IpAddr::decode(item, problems).map(Self::Host),
        }
    }
}

/// One of `track_interfaces` in either form.
#[derive(Debug, Clone)]
pub(in crate::config) struct TrackInterface(pub(in crate::config) RawTrackInterface);

impl Decode for TrackInterface {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawTrackInterface::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        short_form(item, "name", problems).map(Self)
    }
}

/// `weight` of what is tracked; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Weight(pub(in crate::config) i16);

impl Weight {
    /// Keepalived's bounds: no more than that lies between two priorities.
    const MOST: i16 = 253;
}

impl Decode for Weight {
    const SHAPE: &'static Shape = &Shape::Integer(-(Self::MOST as i64), Self::MOST as i64);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let Value::Integer(n) = item.value else {
            decode::wrong_type(item, "an integer", problems);
            return None;
        };
        match i16::try_from(n).ok().filter(|n| (-Self::MOST..=Self::MOST).contains(n)) {
            Some(0) => {
                problems
                    .error(item.place, "a weight of 0 would change nothing")
                    .help("without `weight`, a failure means that this box must not hold the addresses");
                None
            }
            Some(weight) => Some(Self(weight)),
            None => {
                problems.error(item.place, format!("{n} is out of range: -{0} to {0}", Self::MOST));
                None
            }
        }
    }
}
