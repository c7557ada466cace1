//! `[listener.*.tls]` and `[site.*.tls]`.

use std::sync::Arc;

use super::Context;
use crate::config::attach::{in_folder, keys_beside, ocsp_beside};
use crate::config::decode::{At, Field, Several};
use crate::config::document::Place;
use crate::config::model::{Attachment, HostPattern, Https, HttpsRedirect, Listener, Protocol, SiteTls, Tls};
use crate::config::raw::{RawCertificate, RawClientAuth, RawListener, RawSite, RawTls};
use crate::config::words;
use crate::tls::{self, Certificate, ClientAuth, ClientAuthMode, Standing, TicketKey};

/// What can be spoken inside TLS on a listener for http, the best first.
const HTTP_ALPN: &[&str] = &["h2", "http/1.1"];

/// The longest name of a protocol (RFC 7301 section 3.1).
pub(super) const LONGEST_ALPN: usize = 255;

pub(super) fn listener(raw: &RawListener, protocol: Protocol, http2: bool, cx: &mut Context<'_>) -> Option<Tls> {
    let place = raw.tls.place;
    let key = raw.tls.key;
    let raw = raw.tls.0.as_ref()?;
    if protocol == Protocol::TlsPassthrough {
        cx.problems
            .error(key, "a listener that passes TLS through has no `tls` of its own")
            .help("protocol = \"tcp\" with `tls` decrypts it");
        return None;
    }
    let certificates = certificates(&raw.certificates, cx);
    if raw.certificates.is_empty() && raw.certificates.complete && protocol == Protocol::Tcp {
        cx.problems.error(place, "TLS needs a certificate").help("certificates = [\"/etc/bascule/tls/example.pem\"]");
    }
    Some(Tls {
        certificates,
        profile: raw.profile.0,
        alpn: alpn(raw, protocol, http2, cx),
        session_tickets: *raw.session_tickets,
        ticket_keys: ticket_keys(raw, cx),
        handshake_timeout: raw.handshake_timeout.get(),
        client_auth: client_auth(&raw.client, None, place, cx),
    })
}

fn alpn(raw: &RawTls, protocol: Protocol, http2: bool, cx: &mut Context<'_>) -> Arc<[Box<str>]> {
    let Some(names) = raw.alpn.get() else {
        return match protocol {
            Protocol::Http => HTTP_ALPN[usize::from(!http2)..].iter().map(|name| (*name).into()).collect(),
            Protocol::Tcp | Protocol::TlsPassthrough => Arc::default(),
        };
    };
    for name in names.iter() {
        if protocol == Protocol::Http && !HTTP_ALPN.contains(&name.as_str()) {
            let known = HTTP_ALPN.join("\" or \"");
            cx.problems.error(name.place, "this is not spoken here").help(format!("\"{known}\""));
        } else if protocol == Protocol::Http && name.as_str() == "h2" && !http2 {
            cx.problems.error(name.place, "the listener has http2 = false").help("leave one of the two out");
        } else if name.is_empty() || name.len() > LONGEST_ALPN {
            cx.problems.error(name.place, format!("not the name of a protocol: 1 to {LONGEST_ALPN} bytes"));
        }
    }
    names.iter().map(|name| name.as_str().into()).collect()
}

fn ticket_keys(raw: &RawTls, cx: &mut Context<'_>) -> Arc<[TicketKey]> {
    let files = &raw.ticket_key_file.0;
    if !*raw.session_tickets
        && let Some(file) = files.first()
    {
        cx.problems.error(file.place, "`ticket_key_file` needs session_tickets = true");
    }
    let mut keys = Vec::new();
    for file in files.iter() {
        let Some(bytes) = secret_file(file, cx) else { continue };
        match TicketKey::parse(bytes) {
            Ok(more) => keys.extend(more),
            Err(error) => {
                cx.problems.error(file.place, error.to_string()).help("`openssl rand 80 > FILE` makes one");
            }
        }
    }
    keys.into()
}

/// What clients must show where `raw` stands; `around`: around it.
fn client_auth(raw: &RawClientAuth, around: Option<&RawClientAuth>, place: Place, cx: &mut Context<'_>) -> ClientAuth {
    fn inherited<'r, T>(own: &'r Field<T>, outer: Option<&'r Field<T>>) -> Option<&'r At<T>> {
        own.get().or_else(|| outer.and_then(Field::get))
    }
    let mode = inherited(&raw.client_auth, around.map(|around| &around.client_auth));
    let ca = inherited(&raw.client_ca, around.map(|around| &around.client_ca));
    let crl = inherited(&raw.client_crl, around.map(|around| &around.client_crl));
    let Some(mode) = mode.filter(|mode| mode.0 != ClientAuthMode::Off) else {
        // In a site the listener's may be switched off.
        let unused = raw.client_ca.key().or(raw.client_crl.key()).filter(|_| mode.is_none());
        if let Some(key) = unused {
            cx.problems
                .error(key, "no client is asked for a certificate")
                .help("client_auth = \"required\", or \"optional\"");
        }
        return ClientAuth::off();
    };
    let Some(ca) = ca else {
        if !raw.client_ca.is_absent() || around.is_some_and(|around| !around.client_ca.is_absent()) {
            return ClientAuth::off();
        }
        let place = if raw.client_auth.is_absent() { place } else { mode.place };
        cx.problems
            .error(place, "client_auth needs `client_ca`: whose certificates are valid")
            .help("a file with the certificates of the authorities");
        return ClientAuth::off();
    };
    let authorities = file(ca, cx);
    let lists: Vec<_> = crl.iter().flat_map(|crl| crl.0.iter()).map(|list| file(list, cx)).collect();
    let (Some(authorities), Some(lists)) = (authorities, lists.into_iter().collect::<Option<Vec<_>>>()) else {
        return ClientAuth::off();
    };
    match ClientAuth::new(mode.0, authorities, &lists) {
        Ok(auth) => auth,
        Err(error) => {
            let first = crl.and_then(|crl: &At<Several<String>>| crl.0.first());
            let at = match &error {
                tls::ClientAuthError::Authorities(_) => ca.place,
                tls::ClientAuthError::Revoked(_) => first.map_or(ca.place, |list| list.place),
            };
            cx.problems.error(at, error.to_string());
            ClientAuth::off()
        }
    }
}

/// The certificates that are written, the one for all names without one first.
fn certificates(written: &[At<words::Certificate>], cx: &mut Context<'_>) -> Arc<[Arc<Certificate>]> {
    let mut all = Vec::new();
    let mut default: Option<(Place, usize)> = None;
    for entry in written {
        let raw = &entry.0;
        let Some(path) = raw.cert.required("cert", entry.place, cx.problems) else { continue };
        if *raw.default {
            match default {
                Some((place, _)) => {
                    cx.problems.error(raw.default.key, "there is one default certificate").note("it is at", place);
                }
                None => default = Some((raw.default.key, all.len())),
            }
        }
        match cx.attachments.get(path) {
            Some(Attachment::Folder(names)) => {
                for key in [raw.key.key(), raw.ocsp.key()].into_iter().flatten() {
                    cx.problems.error(key, "`cert` is a folder: keys and responses are beside the certificates in it");
                }
                if names.is_empty() {
                    cx.problems
                        .error(path.place, "there is no certificate in this folder")
                        .help("files that end in .pem, .crt or .cer count");
                }
                all.extend(names.iter().filter_map(|name| in_a_folder(path, name, cx)));
            }
            _ => all.extend(certificate(raw, path, cx)),
        }
    }
    if let Some((_, at)) = default.filter(|(_, at)| *at < all.len()) {
        all[..=at].rotate_right(1);
    }
    all.into_iter().map(Arc::new).collect()
}

/// One that a key names, with its key if that is written: what we show servers.
pub(super) fn own_certificate(
    chain: &At<String>,
    key: Option<&At<String>>,
    cx: &mut Context<'_>,
) -> Option<Certificate> {
    let bytes = file(chain, cx)?;
    let key = match key {
        Some(key) => Some(secret_file(key, cx)?),
        None => None,
    };
    made(chain, chain, None, (bytes, key, None), cx)
}

/// One that is written by itself.
fn certificate(raw: &RawCertificate, path: &At<String>, cx: &mut Context<'_>) -> Option<Certificate> {
    let chain = file(path, cx)?;
    let key = match raw.key.get() {
        Some(key) => Some(secret_file(key, cx)?),
        None if !raw.key.is_absent() => return None,
        None => None,
    };
    let ocsp = match raw.ocsp.get() {
        Some(ocsp) => Some(file(ocsp, cx)?),
        None => None,
    };
    made(path, path, None, (chain, key, ocsp), cx)
}

fn in_a_folder(folder: &At<String>, name: &str, cx: &mut Context<'_>) -> Option<Certificate> {
    let path = in_folder(folder, name);
    let at = folder.map(|_| path.clone());
    made(&path, folder, Some(name), (file_named(&at, Some(name), cx)?, None, None), cx)
}

/// A certificate of these contents, with what is beside it; `name`: of the file in a folder.
fn made(
    path: &str,
    written: &At<String>,
    name: Option<&str>,
    (chain, key, ocsp): (&[u8], Option<&[u8]>, Option<&[u8]>),
    cx: &mut Context<'_>,
) -> Option<Certificate> {
    let in_file = name.map_or(String::new(), |name| format!("{name}: "));
    let attachments = cx.attachments;
    let has_key = memchr::memmem::find(chain, b"PRIVATE KEY-----").is_some();
    let beside = keys_beside(path).into_iter().find(|path| attachments.get(path).is_some()).filter(|_| !has_key);
    let key = match (key, &beside) {
        (Some(key), _) => key,
        (None, Some(beside)) => {
            let at = written.map(|_| beside.clone());
            secret_file_named(&at, Some(last(beside)), cx)?
        }
        (None, None) => {
            warn_if_open(path, written.place, &in_file, cx);
            chain
        }
    };
    let ocsp = ocsp.or_else(|| ocsp_beside(path).iter().find_map(|path| attachments.bytes(path)));
    let certificate = match Certificate::parse(path, chain, key, ocsp) {
        Ok(certificate) => certificate,
        Err(error) => {
            cx.problems.error(written.place, format!("{in_file}{error}")).maybe_help(error.help().map(str::to_owned));
            return None;
        }
    };
    if let Some(now) = cx.now {
        let what = match certificate.standing(now) {
            Standing::Valid => None,
            Standing::Expired => Some("the certificate has expired".to_owned()),
            Standing::NotYetValid => Some("the certificate is not valid yet".to_owned()),
            Standing::Expiring => Some(match certificate.days_left(now) {
                0 => "the certificate expires today".to_owned(),
                1 => "the certificate expires tomorrow".to_owned(),
                days => format!("the certificate expires in {days} days"),
            }),
        };
        if let Some(what) = what {
            cx.problems.warning(written.place, format!("{in_file}{what}"));
        }
    }
    Some(certificate)
}

/// The contents of a file that only few should read.
fn secret_file<'f>(path: &At<String>, cx: &mut Context<'f>) -> Option<&'f [u8]> {
    secret_file_named(path, None, cx)
}

fn secret_file_named<'f>(path: &At<String>, name: Option<&str>, cx: &mut Context<'f>) -> Option<&'f [u8]> {
    let bytes = file_named(path, name, cx)?;
    let in_file = name.map_or(String::new(), |name| format!("{name}: "));
    warn_if_open(path, path.place, &in_file, cx);
    Some(bytes)
}

fn warn_if_open(path: &str, place: Place, in_file: &str, cx: &mut Context<'_>) {
    if matches!(cx.attachments.get(path), Some(Attachment::File { open: true, .. })) {
        cx.problems
            .warning(place, format!("{in_file}every user of this box can read the key"))
            .help("chmod 600: it is read before privileges are given up");
    }
}

/// The contents of a file.
pub(super) fn file<'f>(path: &At<String>, cx: &mut Context<'f>) -> Option<&'f [u8]> {
    file_named(path, None, cx)
}

/// The same; `name`: which it is, where `path` is not what is written.
fn file_named<'f>(path: &At<String>, name: Option<&str>, cx: &mut Context<'f>) -> Option<&'f [u8]> {
    let what = name.unwrap_or("the file");
    let why = match cx.attachments.get(path) {
        Some(Attachment::File { bytes, .. }) => return Some(bytes),
        Some(Attachment::Folder(_)) => format!("{what} is a folder"),
        Some(Attachment::Unreadable(why)) => format!("{what} cannot be read: {why}"),
        None => format!("{what} did not come with the document"),
    };
    let is_denied = why.contains("(os error 13)");
    let help =
        "`bascule run` reads it as root without CAP_DAC_OVERRIDE: it must be root's own or its group's; check as root";
    cx.problems.error(path.place, why).maybe_help(is_denied.then(|| help.to_owned()));
    None
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a site says for itself, on each of its listeners that speaks TLS.
pub(super) fn site(
    raw: &At<RawSite>,
    hosts: &[(HostPattern, Place)],
    https: &Https,
    listeners: &[&Listener],
    cx: &mut Context<'_>,
) -> Vec<SiteTls> {
    let file = cx.file;
    let written = &raw.tls;
    let own_certificates = certificates(&written.certificates, cx);
    let mut all = Vec::new();
    let mut speaks = false;
    for listener in listeners {
        let Some(tls) = &listener.tls else {
            let mode = written.client.client_auth.get().filter(|mode| mode.0 != ClientAuthMode::Off);
            let redirect = https.within(&listener.http.https).redirect;
            if let Some(mode) = mode.filter(|_| !matches!(redirect, Some(HttpsRedirect::To { .. }))) {
                cx.problems
                    .warning(
                        mode.place,
                        format!(
                            "listener \"{}\" does not speak TLS: there nobody is asked for a certificate",
                            listener.name
                        ),
                    )
                    .help("redirect_https = true sends who comes there to where it is asked for");
            }
            continue;
        };
        speaks = true;
        let around = file.listener.get(&*listener.name).and_then(|raw| Some(&raw.tls.0.as_ref()?.client));
        let given = |client: &RawClientAuth| {
            !(client.client_auth.is_absent() && client.client_ca.is_absent() && client.client_crl.is_absent())
        };
        let client_auth = match given(&written.client) {
            true => client_auth(&written.client, around, written.place, cx),
            false => tls.client_auth.clone(),
        };
        let certificates = if own_certificates.is_empty() { &tls.certificates } else { &own_certificates };
        if certificates.is_empty() {
            let tables = || file.listener.get(&*listener.name).and_then(|raw| raw.tls.0.as_ref());
            if written.certificates.is_empty() && tables().is_none_or(|tls| tls.certificates.is_empty()) {
                cx.problems
                    .error(
                        raw.key,
                        format!("listener \"{}\" speaks TLS, and has no certificate for this site", listener.name),
                    )
                    .help("`certificates` in [site.NAME.tls], or in [listener.NAME.tls]");
            }
            continue;
        }
        // Who has no use for warnings, with ten thousand sites and as many certificates, has no time for them either.
        if cx.now.is_some() {
            warn_of_strangers(hosts, certificates, &listener.name, cx);
        }
        if !own_certificates.is_empty() || client_auth != tls.client_auth {
            let certificates = Arc::clone(certificates);
            all.push(SiteTls { listener: Arc::clone(&listener.name), certificates, client_auth });
        }
    }
    if written.given && !speaks && !listeners.is_empty() {
        cx.problems
            .error(written.key, "no listener of this site speaks TLS")
            .help("[listener.NAME.tls] makes one speak it");
    }
    all
}

/// Notes hosts that no certificate is for: clients will not take it.
fn warn_of_strangers(
    hosts: &[(HostPattern, Place)],
    certificates: &[Arc<Certificate>],
    listener: &str,
    cx: &mut Context<'_>,
) {
    for (host, place) in hosts {
        let name = match host {
            HostPattern::Exact(name) => name.trim_matches(['[', ']']).to_owned(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        };
        if !certificates.iter().any(|certificate| certificate.is_for(&name)) {
            cx.problems.warning(*place, format!("no certificate on listener \"{listener}\" is for this host"));
        }
    }
}
