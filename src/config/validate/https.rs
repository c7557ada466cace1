//! `redirect_https` and `hsts` of listeners and sites.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use crate::config::decode::At;
use crate::config::model::{Hsts, Https, HttpsRedirect, Listener, Protocol, Site};
use crate::config::raw::{RawHsts, RawHttps, RawRedirectHttps};

/// What browsers' lists ask for before they build a host in.
const PRELOAD_LEAST: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn https(raw: &RawHttps, cx: &mut Context<'_>) -> Https {
    let redirect = raw.redirect_https.given.then(|| match &raw.redirect_https.0 {
        None => HttpsRedirect::Off,
        Some(to) => redirect(to, cx),
    });
    let hsts = raw.hsts.given.then(|| match &raw.hsts.0 {
        None => Hsts::Off,
        Some(hsts) => Hsts::Value(field(hsts, cx)),
    });
    Https { redirect, hsts }
}

fn redirect(raw: &RawRedirectHttps, cx: &mut Context<'_>) -> HttpsRedirect {
    if ![301, 302, 307, 308].contains(&raw.status.0) {
        cx.problems.error(raw.status.place, "a redirect to https has status 301, 302, 307 or 308");
    }
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    HttpsRedirect::To { status: narrow(raw.status.0), port: narrow(raw.port.0) }
}

/// RFC 6797 section 6.1.
fn field(raw: &RawHsts, cx: &mut Context<'_>) -> Arc<str> {
    let max_age = raw.max_age.0.map_or(Duration::ZERO, |period| period.get());
    if max_age.subsec_millis() != 0 {
        cx.problems.error(raw.max_age.place, "max_age is in whole seconds");
    }
    if *raw.preload && (max_age < PRELOAD_LEAST || !*raw.include_subdomains) {
        cx.problems
            .warning(raw.preload.place, "no browser builds this in")
            .help("their lists ask for max_age = \"365d\" and include_subdomains = true");
    }
    let mut text = format!("max-age={}", max_age.as_secs());
    if *raw.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if *raw.preload {
        text.push_str("; preload");
    }
    text.into()
}

/// Notes what leads nowhere: a redirect to a port where nobody speaks TLS, and words for browsers that none comes to by https.
/// Where there are `trusted_proxies`, those may do both.
pub(super) fn warn_of_dead_ends(listeners: &[Listener], sites: &[Site], cx: &mut Context<'_>) {
    let file = cx.file;
    let has_proxies = |listener: &Listener| !listener.http.trusted_proxies.is_empty();
    let takes_tls = |port: u16| {
        let is_plain = |l: &Listener| l.protocol == Protocol::Http && l.tls.is_none();
        listeners.iter().any(|l| !is_plain(l) && l.bind.iter().any(|address| address.port() == port))
    };
    let mut warn = |raw: &RawHttps, https: &Https, own: &[&Listener]| {
        if own.iter().any(|l| has_proxies(l)) {
            return;
        }
        if let Some(HttpsRedirect::To { port, .. }) = https.redirect
            && own.iter().any(|l| l.tls.is_none())
            && !takes_tls(port)
        {
            cx.problems
                .warning(
                    raw.redirect_https.place,
                    format!("no listener speaks TLS on port {port}, where clients are sent to"),
                )
                .help("[listener.NAME.tls] makes one speak it; `redirect_https = { port = ... }` names another port");
        }
        if matches!(https.hsts, Some(Hsts::Value(_))) && own.iter().all(|l| l.tls.is_none()) {
            cx.problems
                .warning(raw.hsts.place, "no browser gets to see this: it is said by https only")
                .help("[listener.NAME.tls] makes a listener speak TLS");
        }
    };
    for listener in listeners {
        if let Some(raw) = file.listener.get(&*listener.name) {
            warn(&raw.https, &listener.http.https, &[listener]);
        }
    }
    for site in sites {
        let own: Vec<&Listener> = listeners.iter().filter(|l| site.listeners.contains(&l.name)).collect();
        if let Some(raw) = file.site.get(&*site.name) {
            warn(&raw.https, &site.https, &own);
        }
    }
}

/// `acme_challenge_dir`.
pub(super) fn challenge_dir(path: &At<String>, cx: &mut Context<'_>) -> Option<Arc<Path>> {
    if !path.starts_with('/') {
        cx.problems
            .error(path.place, "not a whole path")
            .help("the folder that the ACME client has as its webroot, such as \"/var/www/acme\"");
        return None;
    }
    if path.trim_end_matches('/').ends_with("/.well-known/acme-challenge") {
        cx.problems
            .error(path.place, "this is the folder of the challenges in a webroot")
            .help("give the webroot itself: what is before /.well-known");
        return None;
    }
    Some(Path::new(path.as_str()).into())
}
