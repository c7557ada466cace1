//! `[listener.NAME.tls]`, `[site.NAME.tls]`: files, what is wrong with them, and what a configuration is without them.

use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair};

use super::*;
use crate::tls::{ClientAuthMode, Profile};

/// A folder that goes with it.
pub(super) struct Folder(pub(super) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("bascule-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Writes a file that only its owner reads.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn load(&self, text: &str) -> Result<Loaded, Diagnostics> {
        load_in(text, "box", &self.0, &[])
    }

    pub(super) fn loaded(&self, text: &str) -> Loaded {
        self.load(text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn errors(&self, text: &str) -> String {
        self.load(text).unwrap_err().to_string()
    }

    fn warnings(&self, text: &str) -> String {
        self.loaded(text).warnings.to_string()
    }
}

pub(super) static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

pub(super) fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

pub(super) fn chain(names: &[&str]) -> String {
    params(names).self_signed(&*KEY).unwrap().pem()
}

/// A chain and its key.
pub(super) fn both(names: &[&str]) -> String {
    chain(names) + &KEY.serialize_pem()
}

/// A listener with these lines in its `tls`, and a site with `hosts` and these in its own.
pub(super) fn text(tls: &str, hosts: &str, site: &str) -> String {
    format!(
        "[listener.web]\nbind = [\"10.0.0.9:443\"]\n[listener.web.tls]\n{tls}\n[site.shop]\nhosts = [{hosts}]\n\
         [[site.shop.route]]\npool = \"web\"\n{site}\n[pool.web]\nservers = [\"10.0.0.1:80\"]\n"
    )
}

fn names(certificates: &[Arc<crate::tls::Certificate>]) -> Vec<String> {
    certificates.iter().map(|certificate| certificate.names.join(" ")).collect()
}

#[test]
fn the_least_table_has_the_documented_defaults() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"]));
    let loaded = folder.loaded(&text("certificates = [\"a.pem\"]", "\"a\"", ""));
    let tls = loaded.config.listeners[0].tls.as_ref().unwrap();
    assert_eq!((tls.profile, tls.session_tickets, tls.ticket_keys.len()), (Profile::Intermediate, true, 0));
    assert_eq!((tls.handshake_timeout, tls.client_auth.mode), (Duration::from_secs(10), ClientAuthMode::Off));
    assert_eq!(&*tls.alpn.last().unwrap().clone(), "http/1.1");
    assert!(loaded.config.sites[0].tls.is_empty() && loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert!(load_text(LEAST).config.listeners[0].tls.is_none());
}

#[test]
fn certificates_come_from_files_folders_and_pairs_and_keys_from_beside_them() {
    let folder = Folder::new();
    folder
        .write("both.pem", both(&["both"]))
        .write("pair/a.crt", chain(&["pair"]))
        .write("pair/secret", KEY.serialize_pem());
    folder.write("beside.pem", chain(&["beside"])).write("beside.pem.key", KEY.serialize_pem());
    folder
        .write("dir/2.pem", both(&["two"]))
        .write("dir/1.crt", chain(&["one"]))
        .write("dir/1.key", KEY.serialize_pem());
    folder.write("dir/notes.txt", "no").write("dir/.hidden.pem", "no").write("dir/1.ocsp", "ocsp");
    folder.write("live/fullchain.pem", chain(&["certbot"])).write("live/privkey.pem", KEY.serialize_pem());
    folder.write("live/chain.pem", chain(&["no"])).write("live/cert.pem", chain(&["no"]));
    let loaded = folder.loaded(&text(
        "certificates = [\"both.pem\", \"beside.pem\", \"dir/\", \"live\",\n\
         { cert = \"pair/a.crt\", key = \"pair/secret\", default = true }]",
        "\"both\"",
        "",
    ));
    let tls = loaded.config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(names(&tls.certificates), ["pair", "both", "beside", "one", "two", "certbot"]);
}

#[test]
fn the_text_names_files_and_the_attachments_are_what_is_in_them() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("ca.pem", chain(&["ca"])).write("tickets", [1; 80]);
    let loaded = folder.loaded(&text(
        "certificates = [\"a.pem\"]\nclient_auth = \"optional\"\nclient_ca = \"ca.pem\"\nticket_key_file = \"tickets\"",
        "\"a\"",
        "",
    ));
    let whole = folder.0.join("a.pem").to_str().unwrap().to_owned();
    assert!(loaded.effective.contains(&whole), "{}", loaded.effective);
    let shown = format!("{loaded:?}{:?}{:?}", loaded.config, loaded.attachments);
    for secret in [&loaded.effective, &loaded.without_passwords, &loaded.effective_masked(), &shown] {
        assert!(!secret.contains("PRIVATE KEY") && !secret.contains("BEGIN"), "{secret}");
    }
    // As it goes over to the proxy.
    let message = serde_json::to_string(&loaded.attachments).unwrap();
    let attachments: Attachments = serde_json::from_str(&message).unwrap();
    let again = parse_with(&loaded.without_passwords, "box", &attachments).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(format!("{again:?}"), format!("{:?}", loaded.config));
    let errors = parse_effective(&loaded.effective, "box").unwrap_err().to_string();
    assert!(errors.contains("the file did not come with the document"), "{errors}");
    // Going back to it takes what is in the files by then.
    folder.write("a.pem", both(&["a", "b"]));
    let back = restore(&loaded.effective, "box").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(names(&back.config.listeners[0].tls.as_ref().unwrap().certificates), ["a b"]);
    let changes: Vec<String> = changes(&loaded, &back).iter().map(ToString::to_string).collect();
    assert_eq!(changes, [format!("~ {whole}: other contents")]);
    assert!(super::changes(&back, &back).is_empty());
}

#[test]
fn what_is_wrong_with_files_is_told_where_they_are_named() {
    let folder = Folder::new();
    folder.write("chain.pem", chain(&["a"])).write("key.pem", KeyPair::generate().unwrap().serialize_pem());
    folder.write("empty.pem", "").write("bad/a.pem", chain(&["a"])).write("none/readme.txt", "");
    let cases = [
        ("\"missing.pem\"", "the file cannot be read: No such file or directory"),
        ("\"empty.pem\"", "there is no certificate in it"),
        ("\"chain.pem\"", "there is no private key"),
        ("{ cert = \"chain.pem\", key = \"key.pem\" }", "the private key is not that of the first certificate"),
        ("{ cert = \"chain.pem\", key = \"missing.key\" }", "the file cannot be read"),
        ("{ key = \"key.pem\" }", "`cert` is missing"),
        ("\"bad\"", "a.pem: there is no private key"),
        ("\"none\"", "there is no certificate in this folder"),
        ("{ cert = \"bad\", key = \"key.pem\" }", "`cert` is a folder"),
        ("{ cert = \"chain.pem\", key = \"bad\" }", "the file is a folder"),
    ];
    for (written, expected) in cases {
        let errors = folder.errors(&text(&format!("certificates = [{written}]"), "\"a\"", ""));
        assert!(errors.contains(expected) && errors.contains("test.toml:4:"), "{written}: {errors}");
    }
}

#[test]
fn what_is_not_meant_is_a_warning() {
    let folder = Folder::new();
    let dated = |from: i32, to: i32| {
        let mut params = params(&["a"]);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        params.self_signed(&*KEY).unwrap().pem() + &KEY.serialize_pem()
    };
    folder
        .write("old.pem", dated(2001, 2002))
        .write("new.pem", dated(3000, 3001))
        .write("a.pem", both(&["a", "*.b.c"]));
    let warnings = |file: &str, hosts: &str| folder.warnings(&text(&format!("certificates = [\"{file}\"]"), hosts, ""));
    assert_eq!(warnings("a.pem", "\"a\", \"x.b.c\", \"*.b.c\""), "");
    assert!(warnings("old.pem", "\"a\"").contains("test.toml:4:17: warning: the certificate has expired"));
    assert!(warnings("new.pem", "\"a\"").contains("the certificate is not valid yet"));
    let stranger = warnings("a.pem", "\"a\", \"b.c\", \"*.a\"");
    assert_eq!(stranger.matches("no certificate on listener \"web\" is for this host").count(), 2, "{stranger}");
    fs::set_permissions(folder.0.join("a.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(warnings("a.pem", "\"a\"").contains("every user of this box can read the key"));
}

#[test]
fn a_certificate_that_should_have_been_renewed_is_a_warning() {
    let folder = Folder::new();
    let date = |days: i64| {
        let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date() + jiff::Span::new().days(days);
        rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    let warnings = |from: i64, to: i64| {
        let mut params = params(&["a"]);
        (params.not_before, params.not_after) = (date(from), date(to));
        folder.write("a.pem", params.self_signed(&*KEY).unwrap().pem() + &KEY.serialize_pem());
        folder.warnings(&text("certificates = [\"a.pem\"]", "\"a\"", ""))
    };
    // Midnight may be in between.
    for (days, expected) in [(11, "the certificate expires in "), (1, "the certificate expires to"), (0, "has expired")]
    {
        let said = warnings(-300, days);
        assert!(said.contains("test.toml:4:17: warning: ") && said.contains(expected), "{said}");
    }
    assert_eq!(warnings(-300, 60), "");
    // One of short life has more time.
    assert_eq!(warnings(-70, 25), "");
    assert!(warnings(-70, 15).contains("expires in"));
}

#[test]
fn a_site_may_have_certificates_of_its_own_and_needs_some() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("b.pem", both(&["b"]));
    let own = "[site.shop.tls]\ncertificates = [\"b.pem\"]";
    let loaded = folder.loaded(&text("certificates = [\"a.pem\"]", "\"b\"", own));
    let site = &loaded.config.sites[0].tls[0];
    assert_eq!((&*site.listener, names(&site.certificates)), ("web", vec!["b".to_owned()]));
    assert!(folder.loaded(&text("", "\"b\"", own)).config.listeners[0].tls.as_ref().unwrap().certificates.is_empty());
    let errors = folder.errors(&text("", "\"b\"", ""));
    assert!(errors.contains("listener \"web\" speaks TLS, and has no certificate for this site"), "{errors}");
    let plain =
        text("certificates = [\"a.pem\"]", "\"b\"", own).replace("[listener.web.tls]\ncertificates = [\"a.pem\"]", "");
    assert!(folder.errors(&plain).contains("no listener of this site speaks TLS"));
}

#[test]
fn demands_on_clients_are_inherited_key_by_key() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("ca.pem", chain(&["ca"]));
    let listener = "certificates = [\"a.pem\"]\nclient_ca = \"ca.pem\"\nclient_auth = \"optional\"";
    let site = |site: &str| {
        let loaded = folder.loaded(&text(listener, "\"a\"", site));
        loaded.config.sites[0].tls.first().map(|site| site.client_auth.mode)
    };
    assert_eq!(site(""), None);
    assert_eq!(site("[site.shop.tls]\nclient_auth = \"optional\""), None);
    assert_eq!(site("[site.shop.tls]\nclient_auth = \"required\""), Some(ClientAuthMode::Required));
    assert_eq!(site("[site.shop.tls]\nclient_auth = \"off\""), Some(ClientAuthMode::Off));
    let errors =
        |tls: &str, site: &str| folder.errors(&text(&format!("certificates = [\"a.pem\"]\n{tls}"), "\"a\"", site));
    assert!(errors("client_auth = \"required\"", "").contains("client_auth needs `client_ca`"));
    assert!(errors("client_ca = \"ca.pem\"", "").contains("no client is asked for a certificate"));
    assert!(errors("client_auth = \"required\"\nclient_ca = \"no\"", "").contains("the file cannot be read"));
    let none = folder.write("none", "").errors(&text(&listener.replace("ca.pem", "none"), "\"a\"", ""));
    assert!(none.contains("these are no certificates of authorities"), "{none}");
}

#[test]
fn lists_of_revoked_certificates_are_pem_or_der() {
    let folder = Folder::new();
    let mut ca = params(&[]);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let pem = ca.self_signed(&*KEY).unwrap().pem();
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2020, 2, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(ca, &*KEY)).unwrap();
    folder.write("a.pem", both(&["a"])).write("ca.pem", pem);
    folder.write("crl.pem", list.pem().unwrap()).write("crl.der", list.der());
    let tls = |crl: &str| {
        let keys = "certificates = [\"a.pem\"]\nclient_ca = \"ca.pem\"\nclient_auth = \"required\"";
        text(&format!("{keys}\nclient_crl = {crl}"), "\"a\"", "")
    };
    folder.loaded(&tls("\"crl.pem\""));
    folder.loaded(&tls("[\"crl.der\", \"crl.pem\"]"));
    assert!(folder.errors(&tls("\"ca.pem\"")).contains("this is no certificate revocation list"));
}

#[test]
fn keys_of_tickets_are_checked() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("1", [1; 80]).write("2", [2; 48]).write("bad", "bad");
    let tls = |keys: &str| text(&format!("certificates = [\"a.pem\"]\nticket_key_file = {keys}"), "\"a\"", "");
    let loaded = folder.loaded(&tls("[\"1\", \"2\"]"));
    assert_eq!(loaded.config.listeners[0].tls.as_ref().unwrap().ticket_keys.len(), 2);
    assert!(folder.errors(&tls("\"bad\"")).contains("a key for session tickets has 48 or 80 bytes"));
    assert!(folder.errors(&tls("\"1\"\nsession_tickets = false")).contains("needs session_tickets = true"));
}

#[test]
fn whoever_may_not_read_a_key_is_told_who_must() {
    let mut attachments = Attachments::default();
    let why = std::io::Error::from_raw_os_error(13).to_string();
    attachments.insert("/root/a.pem".to_owned(), Attachment::Unreadable(why));
    let text = format!("[global]\nrun_dir = \"/x\"\n{}", text("certificates = [\"/root/a.pem\"]", "\"a\"", ""));
    let errors = parse_with(&text, "box", &attachments).unwrap_err().to_string();
    assert!(errors.contains("cannot be read: Permission denied") && errors.contains("check as root"), "{errors}");
}

#[test]
fn nobody_waits_for_a_pipe() {
    let folder = Folder::new();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, folder.0.join("a.pem"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let errors = folder.errors(&text("certificates = [\"a.pem\"]", "", ""));
    assert!(errors.contains("the file cannot be read: it is neither a file nor a folder"), "{errors}");
}

#[test]
fn where_nobody_can_be_asked_for_a_certificate_that_is_told() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("ca.pem", chain(&["ca"]));
    let site = "[site.shop.tls]\nclient_auth = \"required\"\nclient_ca = \"ca.pem\"";
    let plain = "[listener.plain]\nbind = [\"10.0.0.9:80\"]\n";
    let warnings = folder.warnings(&(plain.to_owned() + &text("certificates = [\"a.pem\"]", "\"a\"", site)));
    let expected = "listener \"plain\" does not speak TLS: there nobody is asked for a certificate";
    assert_eq!(warnings.matches("warning:").count(), 1, "{warnings}");
    assert!(warnings.contains(expected), "{warnings}");
    let plain = format!("{plain}redirect_https = true\n");
    assert_eq!(folder.warnings(&(plain + &text("certificates = [\"a.pem\"]", "\"a\"", site))), "");
}
