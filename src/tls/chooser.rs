//! Which certificate a client gets: one for the name that it asks for, with a key that it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm, SignatureScheme};

use super::Certificate;

/// Keys for one name, the cheapest to use first.
type Keys = Vec<Arc<CertifiedKey>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Chooser {
    exact: HashMap<Box<str>, Keys>,
    /// By what follows the `*.`.
    wildcards: HashMap<Box<str>, Keys>,
    /// For every other name, and for clients that name none.
    default: Keys,
}

impl Chooser {
    /// Of these; the first, and those beside it for the same name, are for whatever no other is for.
    pub(super) fn new<'c>(certificates: impl Iterator<Item = &'c Certificate> + Clone) -> Self {
        let mut this = Self { exact: HashMap::new(), wildcards: HashMap::new(), default: Vec::new() };
        let first = certificates.clone().next().map(|certificate| &certificate.names);
        for certificate in certificates {
            let key = &certificate.key;
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut this.wildcards, parent),
                    None => (&mut this.exact, &**name),
                };
                map.entry(name.into()).or_default().push(Arc::clone(key));
            }
            if first.is_some_and(|first| this.default.is_empty() || first.first() == certificate.names.first()) {
                this.default.push(Arc::clone(key));
            }
        }
        let all = this.exact.values_mut().chain(this.wildcards.values_mut()).chain([&mut this.default]);
        // Stable: of two of a kind the one that is written first is used.
        all.for_each(|keys| keys.sort_by_key(|key| cost(key.key.algorithm())));
        this
    }

    /// The key for `name`, in lower case, that `is_usable` takes.
    fn choose(&self, name: Option<&str>, is_usable: impl Fn(&CertifiedKey) -> bool) -> Option<Arc<CertifiedKey>> {
        let exact = || self.exact.get(name?);
        let wildcard = || self.wildcards.get(name?.split_once('.')?.1);
        let lists = [exact(), wildcard(), Some(&self.default)];
        lists.into_iter().flatten().flatten().find(|key| is_usable(key)).cloned()
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let (schemes, suites) = (hello.signature_schemes(), hello.cipher_suites());
        let usable = self.choose(name.as_deref(), |key| is_usable(key, schemes, suites));
        // With one that the client cannot use, rustls finds out what there is not in common, and tells it.
        usable.or_else(|| self.default.first().cloned())
    }
}

/// What a signature costs, in order: RSA costs many times the others.
fn cost(algorithm: SignatureAlgorithm) -> u8 {
    match algorithm {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

/// Whether a client with these can verify what `key` signs. In TLS 1.3 the suite says nothing of the key.
fn is_usable(key: &CertifiedKey, schemes: &[SignatureScheme], suites: &[CipherSuite]) -> bool {
    let suite_fits = |suite: &CipherSuite| match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => true,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => key.key.algorithm() != SignatureAlgorithm::RSA,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => key.key.algorithm() == SignatureAlgorithm::RSA,
        _ => false,
    };
    key.key.choose_scheme(schemes).is_some() && suites.iter().any(suite_fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{certificate, ecdsa, rsa};

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    const TLS13: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];

    fn chosen(chooser: &Chooser, name: Option<&str>, schemes: &[SignatureScheme], suites: &[CipherSuite]) -> Vec<u8> {
        let key = chooser.choose(name, |key| is_usable(key, schemes, suites)).expect("a certificate");
        key.cert[0].to_vec()
    }

    #[test]
    fn the_exact_name_wins_over_a_wildcard_and_that_over_the_default() {
        let [default, exact, wildcard] = [&["www.example.org"][..], &["shop.example.com"], &["*.example.com"]]
            .map(|names| certificate(names, ecdsa()));
        let chooser = Chooser::new([&default, &exact, &wildcard].into_iter());
        let cases = [
            (Some("shop.example.com"), &exact),
            (Some("other.example.com"), &wildcard),
            (Some("a.other.example.com"), &default),
            (Some("example.com"), &default),
            (Some("nowhere"), &default),
            (None, &default),
        ];
        for (name, expected) in cases {
            assert_eq!(chosen(&chooser, name, ECDSA, TLS13), expected.key.cert[0].to_vec(), "{name:?}");
        }
    }

    #[test]
    fn ecdsa_goes_to_whoever_can_verify_it() {
        let names = &["shop.example.com"][..];
        let [rsa, ecdsa] = [certificate(names, rsa()), certificate(names, ecdsa())];
        let (rsa_der, ecdsa_der) = (rsa.key.cert[0].to_vec(), ecdsa.key.cert[0].to_vec());
        let chooser = Chooser::new([&rsa, &ecdsa].into_iter());
        let only_rsa = &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256][..];
        for name in [Some("shop.example.com"), None] {
            assert_eq!(chosen(&chooser, name, ECDSA, TLS13), ecdsa_der);
            assert_eq!(chosen(&chooser, name, RSA, TLS13), rsa_der);
            // Signature schemes are not all: a suite of TLS 1.2 says which key it is for.
            assert_eq!(chosen(&chooser, name, ECDSA, only_rsa), rsa_der);
        }
    }

    #[test]
    fn nothing_is_chosen_that_the_client_cannot_use() {
        let only = certificate(&["shop.example.com"], ecdsa());
        let chooser = Chooser::new([&only].into_iter());
        assert!(chooser.choose(None, |key| is_usable(key, RSA, TLS13)).is_none());
    }
}
