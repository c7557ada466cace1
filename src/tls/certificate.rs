//! A certificate chain with its key, made from the bytes of files.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Digest, provider};

/// See the module's documentation.
#[derive(Clone)]
pub struct Certificate {
    /// For messages: the file it came from.
    pub name: Arc<str>,
    /// What it is for: DNS names in lower case, `*.` in front of some, and IP addresses.
    pub names: Vec<Box<str>>,
    /// From when on it is valid, seconds since 1970.
    pub not_before: i64,
    /// Until when, the same.
    pub not_after: i64,
    pub(super) key: Arc<CertifiedKey>,
    /// Of everything in it.
    pub(super) digest: Digest,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateError {
    /// Nothing between BEGIN CERTIFICATE and END CERTIFICATE.
    NoCertificate,
    /// No private key.
    NoKey,
    /// The private key wants a passphrase.
    KeyEncrypted,
    /// It is not PEM; why.
    Pem(String),
    /// The certificate is no X.509; why.
    Invalid(String),
    /// The key is of no kind that is known; why.
    UnknownKey(String),
    /// The key is not that of the first certificate.
    KeyMismatch,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("there is no certificate in it"),
            Self::NoKey => f.write_str("there is no private key"),
            Self::KeyEncrypted => f.write_str("the private key is encrypted"),
            Self::Pem(why) => write!(f, "it is not PEM: {why}"),
            Self::Invalid(why) => write!(f, "the certificate cannot be read: {why}"),
            Self::UnknownKey(why) => write!(f, "the private key cannot be used: {why}"),
            Self::KeyMismatch => f.write_str("the private key is not that of the first certificate"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl CertificateError {
    /// How to mend it, where that is not plain.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoKey => Some("`key` names the file that has it"),
            Self::KeyEncrypted => Some("`openssl pkey -in OLD -out NEW` takes the passphrase off"),
            Self::KeyMismatch => Some("the server's own certificate is the first one, then those that signed it"),
            Self::NoCertificate | Self::Pem(_) | Self::Invalid(_) | Self::UnknownKey(_) => None,
        }
    }
}

impl Certificate {
    /// The chain in `chain` (PEM, the server's own certificate first) with the key in `key`; `ocsp`: a response to staple, DER.
    ///
    /// # Errors
    /// They are no chain and key of a server, or do not belong together.
    pub fn parse(name: &str, chain: &[u8], key: &[u8], ocsp: Option<&[u8]>) -> Result<Self, CertificateError> {
        let certificates = certificates(chain)?;
        let leaf = certificates.first().ok_or(CertificateError::NoCertificate)?;
        let Contents { names, not_before, not_after } = Contents::of(leaf)?;
        let mut hash = Sha256::new();
        for part in certificates.iter().map(|der| &**der).chain([key, ocsp.unwrap_or_default()]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let key = private_key(key)?;
        let mut key = CertifiedKey::from_der(certificates, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
            rustls::Error::InvalidCertificate(error) => CertificateError::Invalid(format!("{error:?}")),
            error => CertificateError::UnknownKey(error.to_string()),
        })?;
        key.ocsp = ocsp.map(<[u8]>::to_vec);
        Ok(Self { name: name.into(), names, not_before, not_after, key: Arc::new(key), digest: hash.finalize().into() })
    }

    /// The kind of its key: `ECDSA`, `RSA`, `Ed25519`.
    pub fn algorithm(&self) -> &'static str {
        match self.key.key.algorithm() {
            SignatureAlgorithm::RSA => "RSA",
            SignatureAlgorithm::ECDSA => "ECDSA",
            SignatureAlgorithm::ED25519 => "Ed25519",
            _ => "other",
        }
    }

    /// Whether both are the same certificates, whatever is stapled to them.
    pub fn has_chain_of(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// Whether it is for `host`, which may begin with `*.`.
    pub fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| super::covers(name, host))
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, names, not_before, not_after, key: _, digest } = self;
        let mut shown = f.debug_struct("Certificate");
        shown.field("name", name).field("names", names).field("not_before", not_before).field("not_after", not_after);
        shown.field("digest", digest).finish()
    }
}

/// All certificates of a PEM text, whatever else is in it.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| pem_error(&error))
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    if is_encrypted(text) {
        return Err(CertificateError::KeyEncrypted);
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey,
        error => pem_error(&error),
    })
}

/// Whether a key wants a passphrase: PKCS #8 says so in its label, older forms in a header.
fn is_encrypted(text: &[u8]) -> bool {
    [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(text, mark).is_some())
}

fn pem_error(error: &pem::Error) -> CertificateError {
    CertificateError::Pem(error.to_string())
}

/// What is read of a certificate.
struct Contents {
    names: Vec<Box<str>>,
    not_before: i64,
    not_after: i64,
}

impl Contents {
    fn of(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| CertificateError::Invalid(error.to_string()))?;
        let alternatives = parsed.subject_alternative_name();
        let alternatives = alternatives.map_err(|error| CertificateError::Invalid(error.to_string()))?;
        let names = alternatives.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
            GeneralName::IPAddress(bytes) => Some(address(bytes)?.to_string().into()),
            _ => None,
        });
        let validity = parsed.validity();
        Ok(Self {
            names: names.collect(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(Into::into);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(Into::into)).ok()
}
