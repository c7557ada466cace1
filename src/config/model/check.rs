//! `[pool.NAME.health_check]`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::health::Thresholds;

/// How the servers of a pool are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of a server.
    pub probe: Probe,
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// A probe without a result by then is a bad one.
    pub timeout: Duration,
    /// How many results in a row turn the verdict.
    pub thresholds: Thresholds,
    /// Port to probe; `None`: the server's.
    pub port: Option<u16>,
}

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It takes a connection.
    Tcp,
    /// It answers a request.
    Http(HttpProbe),
}

/// A GET request, judged by the status of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query; begins with a slash.
    pub path: Arc<str>,
    /// Value of Host; `None`: the server's address.
    pub host: Option<Arc<str>>,
    /// Good ones.
    pub expect: Vec<RangeInclusive<u16>>,
}
