//! TLS towards clients.

use std::sync::Arc;
use std::time::Duration;

use crate::tls::{Certificate, ClientAuth, Profile, TicketKey};

/// `[listener.NAME.tls]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// The first one is for whatever no other is for; none: sites have all of them.
    pub certificates: Arc<[Arc<Certificate>]>,
    /// Versions and ciphers.
    pub profile: Profile,
    /// In the order of our liking; none: ALPN is not spoken.
    pub alpn: Arc<[Box<str>]>,
    /// Whether sessions can be resumed.
    pub session_tickets: bool,
    /// The operator's keys for that, the one that seals first; none: our own.
    pub ticket_keys: Arc<[TicketKey]>,
    /// From accept to the end of the handshake. 10 s.
    pub handshake_timeout: Duration,
    /// What clients must show.
    pub client_auth: ClientAuth,
}

/// `[site.NAME.tls]` on one of its listeners, everything inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteTls {
    /// The listener.
    pub listener: Arc<str>,
    /// As [`Tls::certificates`], never none.
    pub certificates: Arc<[Arc<Certificate>]>,
    /// What clients must show.
    pub client_auth: ClientAuth,
}
