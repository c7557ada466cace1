//! Why a try at a server came to nothing, and what follows from that.

use std::fmt;

use crate::config::model::RetryOn;
use crate::pool::Outcome;
use crate::proxy::http::exchange::Refusal;
use crate::proxy::link::LinkError;
use crate::telemetry::reason::Reason;

/// Why a try came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Connect(Reason),
    /// TLS with the server failed.
    Tls {
        /// In a word.
        reason: Reason,
        /// As TLS puts it.
        detail: Box<str>,
        /// Some of the request was sent: it was broken off later.
        written: bool,
    },
    /// No port, descriptor or memory on our side.
    Local(Reason),
    /// The connection ended before a response head.
    Reset {
        /// The kernel took some of the request.
        written: bool,
        /// The server has ended this exchange and not the connection, which only HTTP/2 can.
        alone: bool,
    },
    /// As many wait for a connection as the pool's circuit breaker allows.
    Overflow,
    /// `read_timeout` before a response head.
    ReadTimeout,
    /// `send_timeout` while sending the request.
    SendTimeout,
    /// The response head is not HTTP, or too long.
    BadHead,
    /// The server was the primary and is not any more.
    RoleLost {
        /// The kernel took some of the request.
        written: bool,
    },
    /// A status of `retry_on`; the next try has been started.
    Status(u16),
    /// The client's doing.
    Client(Refusal),
}

impl Failure {
    /// Whether it counts against the server (nginx: `max_fails` counts what `proxy_next_upstream` lists; 403 and 404
    /// never count).
    pub(super) fn counts(&self, on: &RetryOn) -> bool {
        match self {
            Self::Status(status) => !matches!(status, 403 | 404),
            Self::Client(_) | Self::Local(_) | Self::Overflow | Self::RoleLost { .. } => false,
            _ => self.listed(on),
        }
    }

    /// How ejection counts it; `None`: the server is not to blame.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Status(status) => Some(Outcome::of_status(*status)),
            Self::Local(_) | Self::Client(_) | Self::Overflow | Self::RoleLost { .. } => None,
            Self::Connect(_)
            | Self::Tls { .. }
            | Self::Reset { .. }
            | Self::ReadTimeout
            | Self::SendTimeout
            | Self::BadHead => Some(Outcome::GatewayError),
        }
    }

    fn listed(&self, on: &RetryOn) -> bool {
        match self {
            Self::Connect(_) | Self::Tls { written: false, .. } => on.connect,
            // To the client it is a connection that broke.
            Self::Reset { .. } | Self::Tls { written: true, .. } | Self::RoleLost { .. } => on.reset,
            Self::ReadTimeout | Self::SendTimeout => on.timeout,
            Self::BadHead => on.invalid_header,
            Self::Status(status) => on.statuses.contains(status),
            Self::Local(_) | Self::Client(_) | Self::Overflow => false,
        }
    }

    /// Whether the request may go to another server: the condition is listed, and it cannot have been carried out, or
    /// carrying it out twice does no harm.
    pub(super) fn may_retry(&self, on: &RetryOn, idempotent: bool) -> bool {
        let unsent = match self {
            Self::Connect(_) => true,
            Self::Tls { written, .. } | Self::Reset { written, .. } | Self::RoleLost { written } => !written,
            _ => false,
        };
        self.listed(on) && (unsent || idempotent)
    }

    /// What the client is told when it ends here.
    pub(super) fn refusal(&self) -> Refusal {
        let of = |status, reason| Refusal { status, reason: Some(reason), close: false };
        match self {
            Self::Connect(reason @ Reason::ConnectTimeout) => of(504, *reason),
            Self::Connect(reason) | Self::Tls { reason, .. } | Self::Local(reason) => of(502, *reason),
            Self::Reset { .. } => of(502, Reason::ResetBeforeHead),
            Self::RoleLost { .. } => of(503, Reason::RoleLost),
            Self::Overflow => of(503, Reason::Overflow),
            Self::ReadTimeout => of(504, Reason::ReadTimeout),
            Self::SendTimeout => of(504, Reason::SendTimeout),
            Self::BadHead => of(502, Reason::BadHead),
            Self::Status(status) => of(*status, Reason::NoServer),
            Self::Client(refusal) => *refusal,
        }
    }

    /// What was wrong with the server; `None`: it has answered, or the client was to blame.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Status(_) | Self::Client(_) => None,
            _ => self.refusal().reason,
        }
    }

    /// What exactly was wrong, where the reason does not tell.
    pub(super) fn detail(&self) -> Option<&str> {
        if let Self::Tls { detail, .. } = self { Some(detail) } else { None }
    }

    /// The status it answered; 0: none.
    pub(super) fn status(&self) -> u16 {
        if let Self::Status(status) = self { *status } else { 0 }
    }
}

/// What the log says of the failure that was one too many.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason(), self.detail()) {
            (Some(reason), Some(detail)) => write!(f, "{reason}: {detail}"),
            (Some(reason), None) => reason.fmt(f),
            (None, _) => write!(f, "status {}", self.status()),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(e: LinkError) -> Self {
        let reason = e.reason();
        match e {
            _ if e.is_local() => Self::Local(reason),
            LinkError::Connect(_) => Self::Connect(reason),
            LinkError::Tls(_) | LinkError::NoHttp2 => {
                Self::Tls { reason, detail: e.detail().unwrap_or_default(), written: false }
            }
        }
    }
}
