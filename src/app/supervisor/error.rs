//! Why there is no supervisor.

use std::fmt;
use std::io;

use crate::app::admin::AdminError;
use crate::app::child::Lost;
use crate::app::lock::LockError;
use crate::app::logs::LogError;
use crate::app::upgrade::DocumentError;
use crate::config::Diagnostics;
use crate::net::listen::BindError;

/// Why the supervisor could not begin, or ended before it was asked to.
#[derive(Debug)]
pub(in crate::app) enum RunError {
    Telemetry(String),
    Lock(LockError),
    Bind(BindError),
    Log(LogError),
    Admin(AdminError),
    /// The runtime, a signal handler, or our own binary.
    System(io::Error),
    /// The first proxy was lost before it served.
    Proxy(Lost),
    /// The first proxy refused its configuration.
    Refused(String),
    /// The proxy ended while it drained.
    DrainCut(String),
    /// What the program before this one handed over.
    Document(DocumentError),
    /// The configuration that it ran.
    Config(Diagnostics),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Telemetry(e) => write!(f, "cannot log: {e}"),
            Self::Lock(e) => e.fmt(f),
            Self::Bind(e) => e.fmt(f),
            Self::Log(e) => e.fmt(f),
            Self::Admin(e) => e.fmt(f),
            Self::System(e) => write!(f, "cannot start: {e}"),
            Self::Proxy(lost) => write!(f, "the proxy could not start: {lost}"),
            Self::Refused(reason) => write!(f, "the proxy could not start: {reason}"),
            Self::Document(e) => write!(f, "cannot resume: {e}"),
            Self::Config(e) => write!(f, "the running configuration is refused:\n{e}"),
            Self::DrainCut(how) => write!(f, "the proxy ended while it drained ({how})"),
        }
    }
}
