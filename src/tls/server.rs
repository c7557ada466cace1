//! What a handshake of ours may agree on.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};

use super::chooser::Chooser;
use super::hello::{ClientHello, Version};
use super::tickets::Ticketer;
use super::{Certificate, ClientAuth, ClientAuthMode, Digest, TicketKey, Tickets, provider};

/// Versions and ciphers, by the names that Mozilla has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// TLS 1.3.
    Modern,
    /// TLS 1.2 and 1.3, forward secrecy and authenticated encryption always.
    Intermediate,
}

/// All that a server is made of.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'t> {
    /// The first one is for whatever no other is for.
    pub certificates: &'t [Arc<Certificate>],
    /// Versions and ciphers.
    pub profile: Profile,
    /// Protocols in the order of our liking; none: ALPN is not spoken.
    pub alpn: &'t [Box<str>],
    /// Whether sessions can be resumed.
    pub tickets: bool,
    /// The operator's keys for that; none: our own.
    pub ticket_keys: &'t [TicketKey],
    /// What clients must show.
    pub client_auth: &'t ClientAuth,
}

/// One side of handshakes, for any number of connections.
pub struct Server {
    /// We choose the cipher.
    ours: Arc<ServerConfig>,
    /// The client does.
    theirs: Arc<ServerConfig>,
    profile: Profile,
    client_auth: ClientAuth,
}

/// Those that there are, each once.
#[derive(Debug, Default)]
pub struct Servers(HashMap<Digest, Arc<Server>>);

impl Servers {
    /// That of `terms`: one that is here, or in `before`, is used again. `None`: rustls cannot do it, which no valid
    /// configuration brings about.
    pub fn get(&mut self, terms: &Terms<'_>, tickets: &Arc<Tickets>, before: Option<&Self>) -> Option<Arc<Server>> {
        let digest = terms.digest();
        let known = self.0.get(&digest).or_else(|| before?.0.get(&digest));
        let server = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(Server::new(terms, tickets)?),
        };
        self.0.insert(digest, Arc::clone(&server));
        Some(server)
    }
}

impl Server {
    fn new(terms: &Terms<'_>, tickets: &Arc<Tickets>) -> Option<Self> {
        let versions = match terms.profile {
            Profile::Modern => &[&TLS13][..],
            Profile::Intermediate => &[&TLS13, &TLS12],
        };
        let config =
            ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions).ok()?;
        let config = config.with_client_cert_verifier(terms.client_auth.verifier());
        let mut config = config.with_cert_resolver(Arc::new(Chooser::new(terms.certificates.iter().map(|c| &**c))));
        config.alpn_protocols = terms.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let binding = *terms.client_auth.digest();
        // One is enough to come back with; who wants more connections at a time may use it again.
        config.send_tls13_tickets = 1;
        if terms.tickets {
            let keys = terms.ticket_keys.to_vec();
            config.ticketer = Arc::new(Ticketer { keys, own: Arc::clone(tickets), binding });
        } else {
            config.send_tls13_tickets = 0;
        }
        let theirs = Arc::new(config.clone());
        config.ignore_client_order = true;
        Some(Self { ours: Arc::new(config), theirs, profile: terms.profile, client_auth: terms.client_auth.clone() })
    }

    /// Whether a client that can speak `version`, and none after it, can be served.
    pub fn speaks(&self, version: Version) -> bool {
        let oldest = match self.profile {
            Profile::Modern => Version(0x0304),
            Profile::Intermediate => Version(0x0303),
        };
        version >= oldest
    }

    /// For rustls, with a client that said this. All ciphers are good enough, so the fastest is taken; a client without AES
    /// in hardware knows better which one that is (as BoringSSL, and OpenSSL with PRIORITIZE_CHACHA).
    pub fn config(&self, hello: &ClientHello) -> &Arc<ServerConfig> {
        if hello.prefers_chacha { &self.theirs } else { &self.ours }
    }

    /// Whether clients are asked for certificates.
    pub fn asks(&self) -> bool {
        self.client_auth.mode != ClientAuthMode::Off
    }

    pub(super) fn demands(&self) -> &Digest {
        self.client_auth.demands()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("client_auth", &self.client_auth).finish_non_exhaustive()
    }
}

impl Terms<'_> {
    /// Of everything in them.
    fn digest(&self) -> Digest {
        let Self { certificates, profile, alpn, tickets, ticket_keys, client_auth } = self;
        let mut hash = Sha256::new();
        certificates.iter().for_each(|certificate| hash.update(certificate.digest));
        hash.update([0, u8::from(*profile == Profile::Modern), u8::from(*tickets)]);
        for name in *alpn {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
        }
        ticket_keys.iter().for_each(|key| hash.update(key.digest()));
        hash.update(client_auth.digest());
        hash.finalize().into()
    }
}
