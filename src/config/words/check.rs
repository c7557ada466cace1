//! Values of keys of `[pool.NAME.health_check]`.

use std::ops::RangeInclusive;

use crate::config::decode::{self, Decode, Int, Shape, choices};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Value};
use crate::config::raw::RawTextRegex;
use crate::health::{Role, Verdict};

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum CheckType {
    Tcp,
    Http,
    Grpc,
    Mysql,
    Postgres,
    Redis,
    Exec,
}

choices!(CheckType {
    "tcp" => Self::Tcp,
    "http" => Self::Http,
    "grpc" => Self::Grpc,
    "mysql" => Self::Mysql,
    "postgres" => Self::Postgres,
    "redis" => Self::Redis,
    "exec" => Self::Exec,
});

impl CheckType {
    /// Whether it says which servers are primaries.
    pub(in crate::config) fn knows_roles(self) -> bool {
        matches!(self, Self::Mysql | Self::Postgres | Self::Redis)
    }
}

/// `initial_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct InitialState(pub(in crate::config) Option<Verdict>);

choices!(InitialState {
    "unknown" => Self(None),
    "up" => Self(Some(Verdict::Up)),
    "down" => Self(Some(Verdict::Down)),
});

/// `role` and `fallback_role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum WantedRole {
    Any,
    Only(Role),
}

choices!(WantedRole {
    "primary" => Self::Only(Role::Primary),
    "replica" => Self::Only(Role::Replica),
    "any" => Self::Any,
});

/// `on_role_loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum OnRoleLoss {
    Close,
    Keep,
}

choices!(OnRoleLoss { "close" => Self::Close, "keep" => Self::Keep });

/// `primaries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Primaries {
    One,
    First,
}

choices!(Primaries { "one" => Self::One, "first" => Self::First });

/// `failback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Failback {
    Always,
    Manual,
}

choices!(Failback { "always" => Self::Always, "manual" => Self::Manual });

/// `expect_text`.
#[derive(Debug, Clone)]
pub(in crate::config) enum ExpectText {
    Plain(String),
    Regex(RawTextRegex),
}

impl Decode for ExpectText {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawTextRegex::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::String(text) => Some(Self::Plain(text.clone())),
            Value::Table(_) => RawTextRegex::decode(item, problems).map(Self::Regex),
            _ => {
                decode::wrong_type(item, "a string, or { regex = \"...\" }", problems);
                None
            }
        }
    }
}

/// One of `expect`.
#[derive(Debug, Clone)]
pub(in crate::config) struct Statuses(pub(in crate::config) RangeInclusive<u16>);

/// What a final status can be.
type Status = Int<200, 599>;

const CLASSES: &[&str] = &["2xx", "3xx", "4xx", "5xx"];

impl Decode for Statuses {
    const SHAPE: &'static Shape = &Shape::OneOf(&[Status::SHAPE, &Shape::Choice(CLASSES)]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let text = match &item.value {
            Value::Integer(_) => {
                let status = u16::try_from(Status::decode(item, problems)?.0).ok()?;
                return Some(Self(status..=status));
            }
            Value::String(text) => text,
            _ => {
                decode::wrong_type(item, "a status such as 200, or a class such as \"2xx\"", problems);
                return None;
            }
        };
        let class = CLASSES.iter().zip(2_u16..).find(|(class, _)| *class == text);
        if class.is_none() {
            let status = text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
            problems.error(item.place, "not a status or a class of them").help(
                status.map_or("200, \"2xx\", [\"2xx\", 404]".into(), |status| format!("write {status} without quotes")),
            );
        }
        class.map(|(_, hundreds)| Self(hundreds * 100..=hundreds * 100 + 99))
    }
}
