//! What clients have to show for themselves.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};

use super::certificate::certificates;
use super::{Digest, provider};

/// `client_auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuthMode {
    /// No certificate is asked for.
    Off,
    /// One is asked for, and verified if it comes.
    Optional,
    /// Nobody gets in without one.
    Required,
}

/// Whose certificates are taken. Equal ones have equal demands.
#[derive(Clone)]
pub struct ClientAuth {
    /// Whether one is needed.
    pub mode: ClientAuthMode,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Of the mode and the authorities.
    demands: Digest,
    /// And of what was revoked.
    digest: Digest,
}

/// Why certificates of clients cannot be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuthError {
    /// The authorities are no certificates; why.
    Authorities(String),
    /// A revocation list is none; why.
    Revoked(String),
}

impl fmt::Display for ClientAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities(why) => write!(f, "these are no certificates of authorities: {why}"),
            Self::Revoked(why) => write!(f, "this is no certificate revocation list: {why}"),
        }
    }
}

impl std::error::Error for ClientAuthError {}

impl ClientAuth {
    /// Nobody is asked.
    pub fn off() -> Self {
        Self { mode: ClientAuthMode::Off, verifier: None, demands: Digest::default(), digest: Digest::default() }
    }

    /// Certificates signed by one of the `authorities` (PEM), unless they are in one of the lists `revoked` (PEM or DER).
    ///
    /// As nginx: where there are lists, each authority of a chain needs one, and one that is out of date lets nobody in.
    ///
    /// # Errors
    /// They are not what they should be.
    pub fn new(mode: ClientAuthMode, authorities: &[u8], revoked: &[&[u8]]) -> Result<Self, ClientAuthError> {
        if mode == ClientAuthMode::Off {
            return Ok(Self::off());
        }
        let mut hash = Sha256::new();
        hash.update([u8::from(mode == ClientAuthMode::Required)]);
        let mut roots = RootCertStore::empty();
        for der in certificates(authorities).map_err(|error| ClientAuthError::Authorities(error.to_string()))? {
            hash.update((der.len() as u64).to_le_bytes());
            hash.update(&der);
            roots.add(der).map_err(|error| ClientAuthError::Authorities(error.to_string()))?;
        }
        let demands = hash.clone().finalize().into();
        let mut lists = Vec::new();
        for text in revoked {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
            lists.extend(revocation_lists(text)?);
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
        let builder = builder.with_crls(lists).enforce_revocation_expiration();
        let builder = if mode == ClientAuthMode::Optional { builder.allow_unauthenticated() } else { builder };
        let verifier = builder.build().map_err(|error| match error {
            rustls::server::VerifierBuilderError::InvalidCrl(error) => ClientAuthError::Revoked(format!("{error:?}")),
            error => ClientAuthError::Authorities(error.to_string()),
        })?;
        Ok(Self { mode, verifier: Some(verifier), demands, digest: hash.finalize().into() })
    }

    /// Who verifies.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.as_ref().map_or_else(WebPkiClientVerifier::no_client_auth, Arc::clone)
    }

    /// Tells what has to be shown from what else has. Not of it is what was revoked: with each new list, connections that
    /// are there would be of no more use.
    pub(super) fn demands(&self) -> &Digest {
        &self.demands
    }

    /// Of all of it: what tickets are bound to.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("mode", &self.mode).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// All lists of a PEM text, or the one that is there in DER.
pub(super) fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, ClientAuthError> {
    let is_pem = memchr::memmem::find(text, b"-----BEGIN").is_some();
    let lists = match is_pem {
        true => CertificateRevocationListDer::pem_slice_iter(text).collect(),
        false => Ok(vec![CertificateRevocationListDer::from(text.to_vec())]),
    };
    let lists: Vec<_> = lists.map_err(|error| ClientAuthError::Revoked(error.to_string()))?;
    if lists.is_empty() { Err(ClientAuthError::Revoked("there is none in it".to_owned())) } else { Ok(lists) }
}
