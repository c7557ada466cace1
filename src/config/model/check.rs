//! `[pool.NAME.health_check]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;

use super::Command;
use crate::health::{Pace, Thresholds, Verdict};

/// How the servers of a pool are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of a server.
    pub probe: Probe,
    /// How often.
    pub pace: Pace,
    /// A probe without a result by then is a bad one.
    pub timeout: Duration,
    /// How many results in a row turn the verdict.
    pub thresholds: Thresholds,
    /// What a server counts as until it is probed, as if it had been found so; `None`: it is used, and the first probe
    /// decides alone.
    pub initial: Option<Verdict>,
    /// Port to probe; `None`: the server's.
    pub port: Option<u16>,
    /// Address to probe; `None`: the server's.
    pub address: Option<IpAddr>,
    /// Over the pool's TLS, which there is then.
    pub tls: bool,
}

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It takes a connection, and answers if it is to.
    Tcp(TcpProbe),
    /// It answers a request.
    Http(HttpProbe),
    /// A command says so.
    Exec(Command),
    /// It says that it serves, by gRPC's health checking protocol.
    Grpc(GrpcProbe),
    /// MySQL or MariaDB lets the user in and says what it is.
    Mysql(DatabaseProbe),
    /// PostgreSQL does.
    Postgres(DatabaseProbe),
    /// Redis, or what speaks as it does.
    Redis(DatabaseProbe),
}

impl HealthCheck {
    /// Where a server at `address` is probed.
    pub fn target_of(&self, address: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(address.ip()), self.port.unwrap_or(address.port()))
    }
}

impl Probe {
    /// Whether it says which servers are primaries.
    pub fn knows_roles(&self) -> bool {
        matches!(self, Self::Mysql(_) | Self::Postgres(_) | Self::Redis(_))
    }
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcProbe {
    /// Which service is asked about; empty: the server as a whole.
    pub service: Arc<str>,
}

/// A login and a question about replication.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseProbe {
    /// Who logs in; `None`: the kind's default.
    pub user: Option<Arc<str>>,
    /// Never shown.
    pub password: Option<Arc<str>>,
    /// PostgreSQL only.
    pub database: Arc<str>,
    /// A replica further behind is bad; `None`: its lag does not count.
    pub max_lag: Option<Duration>,
}

impl fmt::Debug for DatabaseProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        let Self { user, database, max_lag, .. } = self;
        let mut shown = f.debug_struct("DatabaseProbe");
        shown.field("user", user).field("password", &password).field("database", database);
        shown.field("max_lag", max_lag).finish()
    }
}

/// What an answer is to hold.
#[derive(Debug, Clone)]
pub enum Expected {
    /// This.
    Text(Arc<str>),
    /// What this matches.
    Regex(Regex),
}

impl Expected {
    /// Whether it is somewhere in `came`.
    pub fn is_in(&self, came: &[u8]) -> bool {
        match self {
            Self::Text(text) => memchr::memmem::find(came, text.as_bytes()).is_some(),
            Self::Regex(regex) => regex.is_match(came),
        }
    }
}

impl PartialEq for Expected {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Text(_), Self::Regex(_)) | (Self::Regex(_), Self::Text(_)) => false,
        }
    }
}

impl Eq for Expected {}

/// What is said on a connection, and what is to come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpProbe {
    /// Sent at once.
    pub send: Option<Arc<str>>,
    /// To be found in what comes.
    pub expect: Option<Expected>,
}

/// A request, judged by the status of the response, and by its body if that is asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// A token.
    pub method: Arc<str>,
    /// Path and query; begins with a slash.
    pub path: Arc<str>,
    /// Value of Host; `None`: the server's address.
    pub host: Option<Arc<str>>,
    /// Good ones.
    pub expect: Vec<RangeInclusive<u16>>,
    /// Further fields; the values are never shown.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// To be found in the body.
    pub expect_text: Option<Expected>,
}

impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, host, expect, headers, expect_text } = self;
        let headers: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        let mut shown = f.debug_struct("HttpProbe");
        shown.field("method", method).field("path", path).field("host", host).field("expect", expect);
        shown.field("headers", &headers).field("expect_text", expect_text).finish()
    }
}
