//! TLS towards servers: whom we trust, and what we show.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::certificate::certificates;
use super::client_auth::revocation_lists;
use super::{Certificate, Digest, Profile, provider};

/// All that a client is made of.
#[derive(Debug, Clone, Copy)]
pub struct ConnectorTerms<'t> {
    /// The authorities whose certificates are taken (PEM), and the lists of what they have revoked (PEM or DER); `None`: any
    /// certificate is taken.
    pub trust: Option<(&'t [u8], &'t [&'t [u8]])>,
    /// What is shown to servers that ask.
    pub certificate: Option<&'t Certificate>,
    /// Versions and ciphers.
    pub profile: Profile,
    /// Protocols in the order of our liking; none: ALPN is not spoken.
    pub alpn: &'t [Box<str>],
}

/// One side of handshakes with servers, for any number of connections; it remembers sessions to resume. Equal ones are made
/// of the same.
#[derive(Clone)]
pub struct Connector {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// Of what it was made of; protocols that were asked for later do not count.
    digest: Digest,
}

/// Why servers cannot be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectorError {
    /// The authorities are no certificates; why.
    Authorities(String),
    /// A revocation list is none; why.
    Revoked(String),
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities(why) => write!(f, "these are no certificates of authorities: {why}"),
            Self::Revoked(why) => write!(f, "this is no certificate revocation list: {why}"),
        }
    }
}

impl std::error::Error for ConnectorError {}

impl Connector {
    /// Where there are lists of revoked certificates, each authority of a chain needs one, and one that is out of date makes
    /// every certificate invalid: as nginx.
    ///
    /// # Errors
    /// Authorities or lists are not what they should be.
    pub fn new(terms: &ConnectorTerms<'_>) -> Result<Self, ConnectorError> {
        let versions = match terms.profile {
            Profile::Modern => &[&TLS13][..],
            Profile::Intermediate => &[&TLS13, &TLS12],
        };
        let verifier: Arc<dyn ServerCertVerifier> = match terms.trust {
            Some((authorities, revoked)) => verifier(authorities, revoked)?,
            None => Arc::new(Anybody),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
        let builder =
            builder.with_protocol_versions(versions).map_err(|e| ConnectorError::Authorities(e.to_string()))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match terms.certificate {
            Some(certificate) => {
                let own = SingleCertAndKey::from(Arc::clone(&certificate.key));
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = terms.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self { config: Arc::new(config), digest: terms.digest() })
    }

    /// The same that asks for other protocols.
    pub fn speaking(&self, alpn: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), digest: self.digest }
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Connector {}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl ConnectorTerms<'_> {
    /// Of everything in them.
    fn digest(&self) -> Digest {
        let Self { trust, certificate, profile, alpn } = self;
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match trust {
            None => part(b"anybody"),
            Some((authorities, revoked)) => {
                part(b"");
                part(authorities);
                part(&(revoked.len() as u64).to_le_bytes());
                revoked.iter().for_each(|list| part(list));
            }
        }
        part(certificate.map_or(&[][..], |certificate| &certificate.digest[..]));
        part(&[u8::from(*profile == Profile::Modern)]);
        alpn.iter().for_each(|name| part(name.as_bytes()));
        hash.finalize().into()
    }
}

/// What a server at `host` (as written, an IPv6 address in brackets) is asked for and must prove to be; `None`: the host is
/// no name.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(bare.to_owned()).ok(),
    }
}

/// Whether a handshake failed because of the certificate that the server showed, and not of anything else.
pub fn is_about_certificate(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
    )
}

fn verifier(authorities: &[u8], revoked: &[&[u8]]) -> Result<Arc<WebPkiServerVerifier>, ConnectorError> {
    let authorities = certificates(authorities).map_err(|error| ConnectorError::Authorities(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    // Stores of systems have old ones in them that nobody can read any more.
    let (added, ignored) = roots.add_parsable_certificates(authorities);
    if added == 0 {
        let why = if ignored == 0 { "there are none in it" } else { "none of them can be read" };
        return Err(ConnectorError::Authorities(why.to_owned()));
    }
    let mut lists = Vec::new();
    for text in revoked {
        lists.extend(revocation_lists(text).map_err(|error| ConnectorError::Revoked(error.to_string()))?);
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
    builder.with_crls(lists).enforce_revocation_expiration().build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(error) => ConnectorError::Revoked(format!("{error:?}")),
        error => ConnectorError::Authorities(error.to_string()),
    })
}

/// `verify = false`: takes any certificate, if the server has its key.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
