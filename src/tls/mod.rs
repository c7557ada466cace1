//! TLS towards clients and servers: certificates and their choice, what a handshake may agree on, session tickets.
//!
//! ```text
//! Certificate (certificate.rs)   a chain and its key, from bytes
//!   -> Chooser (chooser.rs)      which one a client gets: by name, and by what it can verify
//!   -> Server (server.rs)        what rustls needs to serve, one for each site with demands of its own
//! ClientHello (hello.rs)         which of them a client asks for
//! Tickets (tickets.rs)           keys that outlive configurations and processes
//! Connector (connector.rs)       what rustls needs to be a client of servers
//! ```
//!
//! Nothing here opens a file, or touches a socket.

mod agreed;
mod certificate;
mod chooser;
mod client_auth;
mod connector;
pub mod hello;
mod names;
mod server;
mod tickets;
mod validity;

use std::sync::{Arc, LazyLock};

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

pub use agreed::{Agreed, Client};
pub use certificate::{Certificate, CertificateError};
pub use client_auth::{ClientAuth, ClientAuthError, ClientAuthMode};
pub use connector::{Connector, ConnectorError, ConnectorTerms, is_about_certificate, server_name};
pub use names::{Subject, covers};
pub use server::{Profile, Server, Servers, Terms};
pub use tickets::{TicketKey, TicketKeyError, TicketSeed, Tickets};
pub use validity::Standing;

/// What all cryptography is done with: the one place that names it.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // Of two ciphers that are good enough the faster one first: SHA-384 costs a fifth of a handshake here, and
        // SHA-256 is in the hardware (Mozilla's profiles have them in this order too).
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
            _ => 1,
        });
        Arc::new(provider)
    });
    &PROVIDER
}

/// A hash that tells two of the same kind apart.
type Digest = [u8; 32];

#[cfg(test)]
mod tests;
