//! TLS towards clients.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::tls::{self, Certificate, ClientAuth, Connector, Profile, TicketKey};

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

/// `[pool.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTls {
    /// Our side of the handshakes.
    pub connector: Connector,
    /// What servers are asked for, and must prove to be; `None`: the host of their address.
    pub server_name: Option<ServerName<'static>>,
    /// What they are shown when they ask who we are; in the connector, too.
    pub certificate: Option<Arc<Certificate>>,
}

impl PoolTls {
    /// What a server is asked for whose host is written `host`; `None`: that is no name, which no valid configuration has.
    pub fn name_of(&self, host: &str) -> Option<ServerName<'static>> {
        self.server_name.clone().or_else(|| tls::server_name(host))
    }
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
