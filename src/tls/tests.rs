//! Certificates for tests, and what they are read as.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use super::*;

/// A new key.
pub(super) fn ecdsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// The same key each time: to make one takes long.
pub(super) fn rsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()
}

/// The parameters of a certificate for `names`.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "test");
    params
}

/// A certificate that its own key has signed.
pub(super) fn certificate(names: &[&str], key: KeyPair) -> Certificate {
    let chain = params(names).self_signed(&key).unwrap().pem();
    Certificate::parse("test", chain.as_bytes(), key.serialize_pem().as_bytes(), None).unwrap()
}

#[test]
fn names_and_dates_are_read() {
    let mut params = params(&["Shop.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
    params.not_before = rcgen::date_time_ymd(2020, 1, 2);
    params.not_after = rcgen::date_time_ymd(2030, 1, 2);
    let key = ecdsa();
    let chain = params.self_signed(&key).unwrap().pem();
    let read = Certificate::parse("test", chain.as_bytes(), key.serialize_pem().as_bytes(), None).unwrap();
    let names: Vec<&str> = read.names.iter().map(|name| &**name).collect();
    assert_eq!(names, ["shop.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
    assert_eq!((read.not_before, read.not_after, read.algorithm()), (1_577_923_200, 1_893_542_400, "ECDSA"));
    assert!(read.is_for("a.example.com") && read.is_for("192.0.2.1") && !read.is_for("example.com"));
}

#[test]
fn a_chain_and_its_key_may_be_in_one_file_in_any_order_among_others() {
    let key = ecdsa();
    let chain = params(&["a"]).self_signed(&key).unwrap().pem();
    let other = params(&["b"]).self_signed(&ecdsa()).unwrap().pem();
    let parameters = "-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n";
    let file = format!("# text\n{}{parameters}{chain}{other}", key.serialize_pem());
    let read = Certificate::parse("test", file.as_bytes(), file.as_bytes(), Some(b"ocsp")).unwrap();
    assert_eq!((read.key.cert.len(), read.key.ocsp.as_deref()), (2, Some(&b"ocsp"[..])));
    assert!(!format!("{read:?}").contains("key"), "{read:?}");
}

#[test]
fn what_is_wrong_with_a_certificate_or_its_key_has_a_name() {
    let key = ecdsa();
    let (chain, pem) = (params(&["a"]).self_signed(&key).unwrap().pem(), key.serialize_pem());
    let parse =
        |chain: &str, key: &str| Certificate::parse("test", chain.as_bytes(), key.as_bytes(), None).unwrap_err();
    let broken = chain.replacen('M', "*", 1);
    let invalid = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    assert_eq!(parse("", &pem), CertificateError::NoCertificate);
    assert_eq!(parse(&pem, &pem), CertificateError::NoCertificate);
    assert_eq!(parse(&chain, &chain), CertificateError::NoKey);
    assert_eq!(parse(&chain, encrypted), CertificateError::KeyEncrypted);
    assert_eq!(parse(&chain, legacy), CertificateError::KeyEncrypted);
    assert_eq!(parse(&chain, &ecdsa().serialize_pem()), CertificateError::KeyMismatch);
    assert!(matches!(parse(&broken, &pem), CertificateError::Pem(_)));
    assert!(matches!(parse(invalid, &pem), CertificateError::Invalid(_)));
    assert!(matches!(parse(&chain, no_key), CertificateError::UnknownKey(_)));
}

#[test]
fn a_client_is_named_as_openssl_names_it() {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.serial_number = Some(vec![0x9a, 0x0b].into());
    let der = params.self_signed(&ecdsa()).unwrap();
    let subject = Subject::of(der.der()).unwrap();
    assert_eq!((&*subject.subject, &*subject.serial), ("CN=alice,O=Example\\, Inc.,C=DE", "9A0B"));
    assert_eq!((subject.issuer == subject.subject, subject.fingerprint.len()), (true, 40));
    assert_eq!(Subject::of(b"no certificate"), None);
}

#[test]
fn a_server_is_made_anew_only_when_something_is_other() {
    let tickets = Tickets::new();
    let certificates = [Arc::new(certificate(&["a"], ecdsa()))];
    let (off, alpn) = (ClientAuth::off(), [Box::from("http/1.1")]);
    let terms = Terms {
        certificates: &certificates,
        profile: Profile::Intermediate,
        alpn: &alpn,
        tickets: true,
        ticket_keys: &[],
        client_auth: &off,
    };
    let mut before = Servers::default();
    let first = before.get(&terms, &tickets, None).unwrap();
    let make = |terms: &Terms<'_>| Servers::default().get(terms, &tickets, Some(&before)).unwrap();
    assert!(Arc::ptr_eq(&first, &make(&terms)));
    let others = [Arc::new(certificate(&["a"], ecdsa()))];
    let key = TicketKey::parse(&[1; 48]).unwrap();
    let authority = params(&["ca"]).self_signed(&ecdsa()).unwrap().pem();
    let asked = ClientAuth::new(ClientAuthMode::Optional, authority.as_bytes(), &[]).unwrap();
    for other in [
        Terms { certificates: &others, ..terms },
        Terms { profile: Profile::Modern, ..terms },
        Terms { alpn: &[], ..terms },
        Terms { tickets: false, ..terms },
        Terms { ticket_keys: &key, ..terms },
        Terms { client_auth: &asked, ..terms },
    ] {
        assert!(!Arc::ptr_eq(&first, &make(&other)), "{other:?}");
        assert_eq!(make(&other).asks(), other.client_auth.mode != ClientAuthMode::Off);
    }
}

#[test]
fn authorities_and_revocation_lists_are_what_they_should_be() {
    let make = |ca: &str, crl: &[u8]| ClientAuth::new(ClientAuthMode::Required, ca.as_bytes(), &[crl]).unwrap_err();
    let authority = params(&["ca"]).self_signed(&ecdsa()).unwrap().pem();
    assert!(matches!(make("", b""), ClientAuthError::Authorities(_) | ClientAuthError::Revoked(_)));
    assert!(matches!(make(&authority, authority.as_bytes()), ClientAuthError::Revoked(_)));
    assert!(matches!(make(&authority, b"\x30\x00"), ClientAuthError::Revoked(_)));
    let none = ClientAuth::new(ClientAuthMode::Required, b"", &[]).unwrap_err();
    assert!(matches!(none, ClientAuthError::Authorities(_)));
}

#[test]
fn a_certificate_should_be_renewed_thirty_days_before_its_end_or_with_a_quarter_of_its_life_left() {
    const DAY: i64 = 86_400;
    let lives = |days: i64| {
        let mut certificate = certificate(&["a"], ecdsa());
        (certificate.not_before, certificate.not_after) = (1000 * DAY, (1000 + days) * DAY);
        certificate
    };
    for (life, last_day_in_peace) in [(365, 335), (120, 90), (90, 68), (6, 5)] {
        let certificate = lives(life);
        let standing = |day: i64| certificate.standing((1000 + day) * DAY);
        assert_eq!(standing(-1), Standing::NotYetValid);
        assert_eq!((standing(0), standing(last_day_in_peace - 1)), (Standing::Valid, Standing::Valid), "{life}");
        assert_eq!((standing(last_day_in_peace), standing(life)), (Standing::Expiring, Standing::Expiring), "{life}");
        assert_eq!(certificate.standing(certificate.not_after + 1), Standing::Expired);
        assert_eq!(certificate.days_left(certificate.not_after - 1), 0);
        assert_eq!(certificate.days_left(certificate.not_after + 1), -1);
        assert_eq!(certificate.days_left(1000 * DAY), life);
    }
    let mut hostile = lives(0);
    (hostile.not_before, hostile.not_after) = (i64::MAX, i64::MIN);
    assert_eq!(hostile.standing(0), Standing::Expired);
    (hostile.not_before, hostile.not_after) = (i64::MIN, i64::MAX);
    assert_eq!((hostile.standing(0), hostile.days_left(-1)), (Standing::Valid, i64::MAX / DAY));
}

proptest! {
    #[test]
    fn no_certificate_and_no_name_of_a_client_makes_it_panic(at in any::<prop::sample::Index>(), byte: u8, cut in 0..8_usize) {
        let key = ecdsa();
        let mut der = params(&["shop.test"]).self_signed(&key).unwrap().der().to_vec();
        let at = at.index(der.len());
        der[at] = byte;
        der.truncate(der.len() - cut);
        let subject = Subject::of(&der);
        // Whatever it is called, it is fit for a header.
        let fits = |subject: &Subject| subject.subject.bytes().all(|b| (b' '..=b'~').contains(&b));
        prop_assert!(subject.as_ref().is_none_or(fits), "{:?}", subject);
        let text = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            data_encoding::BASE64.encode(&der)
        );
        let _ = Certificate::parse("test", text.as_bytes(), key.serialize_pem().as_bytes(), None);
    }
}
