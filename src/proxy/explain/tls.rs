//! What a client sees of TLS before its request counts.

use crate::config::model::{Listener, Tls};
use crate::proxy::explain::Explanation;
use crate::route::{MAX_HOST, normalise_host};
use crate::snapshot::Snapshot;
use crate::telemetry::reason::Reason;
use crate::tls::{ClientAuthMode, Profile};

/// Writes down what a client is shown that asks for `host`, and is asked. False: nothing comes of it, and why.
pub(super) fn handshake(
    snapshot: &Snapshot,
    listener: &Listener,
    by_tls: bool,
    host: &str,
    to: &mut Explanation,
) -> bool {
    match (&listener.tls, by_tls) {
        (None, false) => return true,
        (None, true) => "closed: the listener does not speak TLS".clone_into(&mut to.action),
        (Some(_), false) => to.action = format!("400: {}", Reason::PlainHttp),
        (Some(tls), true) => match shown(snapshot, listener, tls, host) {
            Some(shown) => {
                to.tls = Some(shown);
                return true;
            }
            None => to.action = format!("refused in the handshake: {}", Reason::TlsName),
        },
    }
    false
}

fn shown(snapshot: &Snapshot, listener: &Listener, tls: &Tls, host: &str) -> Option<String> {
    let mut lower = [0; MAX_HOST];
    let name = normalise_host(host.as_bytes(), &mut lower).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.unwrap_or_default();
    let view = snapshot.listeners.iter().zip(&snapshot.config.listeners).find(|(_, l)| l.name == listener.name)?.0;
    let site = view.routes.site(name.as_bytes()).and_then(|site| {
        let site = snapshot.config.sites.iter().find(|known| known.name == site.name)?;
        site.tls.iter().find(|tls| tls.listener == listener.name)
    });
    let (certificates, auth) = match site {
        Some(site) => (&site.certificates, &site.client_auth),
        None => (&tls.certificates, &tls.client_auth),
    };
    let mut fitting: Vec<_> = certificates.iter().filter(|certificate| certificate.is_for(name)).collect();
    let why = if fitting.is_empty() { ", which is not for this host" } else { "" };
    fitting.extend(certificates.first().filter(|_| !why.is_empty()));
    let of_name = |certificate: &crate::tls::Certificate| format!("{} ({})", certificate.name, certificate.algorithm());
    let names: Vec<String> = fitting.iter().map(|certificate| of_name(certificate)).collect();
    let versions = match tls.profile {
        Profile::Modern => "TLS 1.3",
        Profile::Intermediate => "TLS 1.2 or 1.3",
    };
    let asked = match auth.mode {
        ClientAuthMode::Off => "",
        ClientAuthMode::Optional => "; the client may show a certificate",
        ClientAuthMode::Required => "; the client needs a certificate",
    };
    (!names.is_empty()).then(|| format!("{versions}, certificate {}{why}{asked}", names.join(" or ")))
}
