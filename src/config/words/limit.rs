//! Values of keys of `[limit.NAME]`.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::admission::Undelayed;
use crate::config::decode::{self, Decode, Int, Shape};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Value};

/// `rate`.
#[derive(Debug, Clone)]
pub(in crate::config) struct RateText {
    pub(in crate::config) text: String,
    pub(in crate::config) count: NonZeroU32,
    pub(in crate::config) period: Duration,
}

impl Decode for RateText {
    const SHAPE: &'static Shape = &Shape::Text("rate", "^[1-9][0-9]*/(s|m|h)$");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        const MOST: u32 = 1_000_000;
        let text = decode::text(item, "a rate such as \"10/s\"", problems)?;
        let (count, unit) = text.split_once('/').unwrap_or((text, ""));
        // nginx's `10r/s`.
        let digits = count.strip_suffix('r').unwrap_or(count);
        let number = digits.parse::<NonZeroU32>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        let seconds = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        match (number, seconds) {
            (Some(number), Some(_)) if number.get() > MOST => {
                problems.error(item.place, format!("{number} is out of range: 1 to {MOST}"));
                None
            }
            (Some(count), Some(seconds)) if digits == text.split('/').next().unwrap_or_default() => {
                Some(Self { text: text.to_owned(), count, period: Duration::from_secs(seconds) })
            }
            (Some(number), Some(_)) => {
                problems.error(item.place, "not a rate").help(format!("write \"{number}/{unit}\""));
                None
            }
            _ => {
                problems.error(item.place, "not a rate").help("a whole number per s, m or h: \"10/s\", \"600/m\"");
                None
            }
        }
    }
}

/// `delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Delay(pub(in crate::config) Undelayed);

impl Decode for Delay {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Choice(&["none", "all"]), <Int<1, 1_000_000>>::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::String(text) if text == "none" => Some(Self(Undelayed::All)),
            Value::String(text) if text == "all" => Some(Self(Undelayed::First(0))),
            Value::Integer(_) => <Int<1, 1_000_000>>::decode(item, problems).map(|n| Self(Undelayed::First(n.0))),
            Value::Boolean(delays) => {
                let word = if *delays { "all" } else { "none" };
                problems
                    .error(item.place, "expected \"none\", \"all\" or a number, found a boolean")
                    .help(format!("write \"{word}\""));
                None
            }
            _ => {
                decode::wrong_type(item, "\"none\", \"all\" or the number of requests that do not wait", problems);
                None
            }
        }
    }
}
