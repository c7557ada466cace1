//! What a handshake with a client has come to.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

use super::Subject;
use super::server::Server;

/// See the module's documentation.
#[derive(Debug)]
pub struct Agreed {
    /// As OpenSSL and nginx name it: `TLSv1.3`.
    pub protocol: &'static str,
    /// The same: `TLS_AES_128_GCM_SHA256`, `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: &'static str,
    /// The host that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// What is spoken inside, if they agreed on that (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// The session is one from before.
    pub resumed: bool,
    /// Who the client is: its certificate was verified.
    pub client: Option<Box<Client>>,
    /// What the client had to show.
    demands: super::Digest,
}

/// A client with a certificate.
#[derive(Debug)]
pub struct Client {
    /// As read.
    pub subject: Subject,
    /// As sent.
    pub certificate: CertificateDer<'static>,
}

impl Agreed {
    /// Of a handshake that `server` has had with a client that asked for `server_name`.
    pub fn new(state: &CommonState, server: &Server, server_name: Option<String>) -> Self {
        let client = state.peer_certificates().and_then(|chain| chain.first()).and_then(|certificate| {
            let subject = Subject::of(certificate)?;
            Some(Box::new(Client { subject, certificate: certificate.clone().into_owned() }))
        });
        Self {
            protocol: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "",
            },
            cipher: state.negotiated_cipher_suite().map_or("", |suite| name(suite.suite())),
            server_name: server_name.map(String::into_boxed_str),
            alpn: state.alpn_protocol().map(Into::into),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            client,
            demands: *server.demands(),
        }
    }

    /// Whether a request of this client may be answered as one of `server`'s: that asks nothing of clients, or what was asked
    /// of this one.
    pub fn may_use(&self, server: &Server) -> bool {
        !server.asks() || *server.demands() == self.demands
    }
}

fn name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
