//! Values of particular keys: words with a meaning, and short forms of tables.

mod check;
mod https;
mod limit;
mod percent;
mod sticky;
mod tls;
mod vrrp;

use std::net::{IpAddr, SocketAddr};

use super::decode::{self, Decode, Int, Keys, Shape, choices};
use super::diagnostic::Problems;
use super::document::{Item, Table, Value};
use super::help;
use super::model::{Consistent, Freebind, HttpVersion, Protocol, ProxyProtocol};
use super::raw::{RawAccessLog, RawErrorPage, RawHeaderRegex, RawOwnNode, RawRedirect, RawSecret, RawServer};
use crate::proxy_protocol::Version;

pub(super) use check::{CheckType, ExpectText, Failback, InitialState, OnRoleLoss, Primaries, Statuses, WantedRole};
pub(super) use https::{RedirectHttps, StrictTransport};
pub(super) use limit::{Delay, RateText};
pub(super) use percent::Percent;
pub(super) use sticky::{SameSite, StickyType};
pub(super) use tls::{Certificate, ClientAuthMode, PoolTls, TlsProfile};
pub(super) use vrrp::{
    AddressText, AuthenticationType, Password, Peers, TrackInterface, TrackMode, VirtualAddressText, Weight,
};

choices!(Protocol { "http" => Self::Http, "tcp" => Self::Tcp, "tls_passthrough" => Self::TlsPassthrough });
choices!(ProxyProtocol { "off" => Self::Off, "optional" => Self::Optional, "required" => Self::Required });
choices!(HttpVersion { "1.1" => Self::Http1, "2" => Self::Http2 });
choices!(Version { "v1" => Self::V1, "v2" => Self::V2 });

choices!(Consistent {
    "none" => Self::None,
    "ketama" => Self::Ketama,
    "maglev" => Self::Maglev,
    "rendezvous" => Self::Rendezvous,
});

/// `format` of our own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnLogFormat {
    Text,
    Json,
}

choices!(OwnLogFormat { "text" => Self::Text, "json" => Self::Json });

/// `algorithm` of a pool; what else it needs is in other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AlgorithmName {
    RoundRobin,
    LeastConn,
    IpHash,
    RandomTwo,
    Hash,
    First,
}

choices!(AlgorithmName {
    "round_robin" => Self::RoundRobin,
    "least_conn" => Self::LeastConn,
    "ip_hash" => Self::IpHash,
    "random_two" => Self::RandomTwo,
    "hash" => Self::Hash,
    "first" => Self::First,
});

/// One of `retry_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryCondition {
    Connect,
    Reset,
    InvalidHeader,
    Timeout,
    Status(u16),
}

choices!(RetryCondition {
    "connect" => Self::Connect,
    "reset" => Self::Reset,
    "invalid_header" => Self::InvalidHeader,
    "timeout" => Self::Timeout,
    "http_403" => Self::Status(403),
    "http_404" => Self::Status(404),
    "http_429" => Self::Status(429),
    "http_500" => Self::Status(500),
    "http_502" => Self::Status(502),
    "http_503" => Self::Status(503),
    "http_504" => Self::Status(504),
});

/// `workers`; `None`: "auto".
#[derive(Debug, Clone, Copy)]
pub(super) struct Workers(pub(super) Option<u32>);

impl Decode for Workers {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Choice(&["auto"]), <Int<1, 1024>>::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::String(text) if text == "auto" => Some(Self(None)),
            Value::Integer(_) => <Int<1, 1024>>::decode(item, problems).map(|n| Self(Some(n.0))),
            _ => {
                decode::wrong_type(item, "\"auto\" or a number of threads", problems);
                None
            }
        }
    }
}

impl Decode for Freebind {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Choice(&["auto"]), &Shape::Boolean]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::String(text) if text == "auto" => Some(Self::Auto),
            Value::Boolean(true) => Some(Self::Always),
            Value::Boolean(false) => Some(Self::Never),
            _ => {
                decode::wrong_type(item, "\"auto\", true or false", problems);
                None
            }
        }
    }
}

/// A name server; port 53 unless written.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameServer(pub(super) SocketAddr);

impl Decode for NameServer {
    const SHAPE: &'static Shape = &Shape::Text("address", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let text = decode::text(item, "an IP address", problems)?;
        let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53))).ok();
        if address.is_none_or(|a| a.port() == 0) {
            problems.error(item.place, "not an IP address, with or without a port");
            return None;
        }
        address.map(Self)
    }
}

/// `access_log` below the top level.
#[derive(Debug, Clone)]
pub(super) enum LogOverride {
    Off,
    On(RawAccessLog),
}

impl Decode for LogOverride {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Only(false), RawAccessLog::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Boolean(false) => Some(Self::Off),
            Value::Table(_) => RawAccessLog::decode(item, problems).map(Self::On),
            _ => {
                decode::wrong_type(item, "false or { path = ..., format = ... }", problems);
                None
            }
        }
    }
}

/// `redirect` in either form.
#[derive(Debug, Clone)]
pub(super) struct Redirect(pub(super) RawRedirect);

impl Decode for Redirect {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawRedirect::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        short_form(item, "location", problems).map(Self)
    }
}

/// One of `servers` in either form.
#[derive(Debug, Clone)]
pub(super) struct Server(pub(super) RawServer);

impl Decode for Server {
    const SHAPE: &'static Shape = &Shape::OneOf(&[ServerText::SHAPE, RawServer::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        short_form(item, "address", problems).map(Self)
    }
}

/// One of `error_pages` in either form.
#[derive(Debug, Clone)]
pub(super) struct ErrorPage(pub(super) RawErrorPage);

impl Decode for ErrorPage {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawErrorPage::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        short_form(item, "body", problems).map(Self)
    }
}

/// The value of a header; a secret from outside is a string by now.
#[derive(Debug, Clone)]
pub(super) struct HeaderValue(pub(super) String);

impl Decode for HeaderValue {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawSecret::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        secret_or_text(item, problems).map(Self)
    }
}

/// A string; a secret from outside is one by now.
fn secret_or_text(item: &Item, problems: &mut Problems) -> Option<String> {
    match &item.value {
        Value::String(text) => Some(text.clone()),
        // It could not be resolved, and that is noted.
        Value::Table(_) => None,
        _ => {
            decode::wrong_type(item, "a string, or { file | env | credential = \"...\" }", problems);
            None
        }
    }
}

/// A table, or a string that stands for a table with only `key`.
fn short_form<T: Keys + Decode>(item: &Item, key: &str, problems: &mut Problems) -> Option<T> {
    match &item.value {
        Value::String(_) => {
            let table = Table::from([(key.to_owned(), item.clone())]);
            Some(T::read(&table, item.place, problems))
        }
        Value::Table(_) => T::decode(item, problems),
        _ => {
            decode::wrong_type(item, &format!("a string or a table with `{key}`"), problems);
            None
        }
    }
}

/// A condition of `headers`.
#[derive(Debug, Clone)]
pub(super) enum HeaderCondition {
    Present,
    Equals(String),
    Regex(RawHeaderRegex),
}

impl Decode for HeaderCondition {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, &Shape::Only(true), RawHeaderRegex::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Boolean(true) => Some(Self::Present),
            Value::String(text) => Some(Self::Equals(text.clone())),
            Value::Table(_) => RawHeaderRegex::decode(item, problems).map(Self::Regex),
            _ => {
                decode::wrong_type(item, "a string, true, or { regex = \"...\" }", problems);
                None
            }
        }
    }
}

/// Host and port of a server, as written.
#[derive(Debug, Clone)]
pub(super) struct ServerText {
    pub(super) text: String,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Decode for ServerText {
    const SHAPE: &'static Shape = &Shape::Text("address and port", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let text = decode::text(item, "an address with its port such as \"10.0.0.1:80\"", problems)?;
        let is_host = |host: &str| !host.contains([':', '/']) || host.ends_with(']');
        let split = text.rsplit_once(':').filter(|(host, port)| is_host(host) && !port.contains('/'));
        let Some((host, port)) = split else {
            problems.error(item.place, "not an address with a port").maybe_help(help::for_server(text));
            return None;
        };
        let Some(port) = port.parse().ok().filter(|p| *p != 0) else {
            problems.error(item.place, "the port must be 1 to 65535");
            return None;
        };
        Some(Self { text: text.to_owned(), host: host.to_owned(), port })
    }
}

/// `[node.NAME]`: read only once it is merged into the file.
#[derive(Debug, Clone)]
pub(super) struct RawNode;

impl Decode for RawNode {
    const SHAPE: &'static Shape = &Shape::File(RawOwnNode::KEYS);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        if item.as_table().is_none() {
            decode::wrong_type(item, "a table", problems);
            return None;
        }
        Some(Self)
    }
}
