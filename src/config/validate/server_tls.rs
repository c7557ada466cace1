//! `[pool.*.tls]`.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::Context;
use super::tls::{LONGEST_ALPN, file, own_certificate};
use crate::config::attach;
use crate::config::decode::{At, List};
use crate::config::model::{HttpVersion, PoolTls};
use crate::config::raw::{RawPool, RawPoolTls};
use crate::tls::{Connector, ConnectorError, ConnectorTerms, server_name};

/// What HTTP/2 is called where protocols are chosen (RFC 9113 section 3.2).
const H2: &str = "h2";

pub(super) fn pool(pool: &RawPool, cx: &mut Context<'_>) -> Option<PoolTls> {
    let raw = &pool.tls.0.as_ref()?.0;
    let name = raw.server_name.get().and_then(|name| expected_name(name, cx));
    if raw.server_name.is_absent() {
        check_hosts(pool, cx);
    }
    let alpn = alpn(raw, *pool.http_version, cx);
    let certificate = own(raw, cx);
    let lists: Vec<_> = raw.crl.0.iter().map(|list| file(list, cx)).collect();
    let lists: Option<Vec<_>> = lists.into_iter().collect();
    let trust = trust(pool, raw, cx)?;
    let lists = lists?;
    let terms = ConnectorTerms {
        trust: trust.map(|authorities| (authorities, &lists[..])),
        certificate: certificate.as_ref(),
        profile: raw.profile.0,
        alpn: &alpn,
    };
    match Connector::new(&terms) {
        Ok(connector) => Some(PoolTls { connector, server_name: name, certificate: certificate.map(Arc::new) }),
        Err(error) => {
            let place = match &error {
                ConnectorError::Authorities(_) => raw.ca.get().map(|ca| ca.place),
                ConnectorError::Revoked(_) => raw.crl.0.first().map(|list| list.place),
            };
            cx.problems.error(place.unwrap_or(pool.tls.place), error.to_string());
            None
        }
    }
}

/// The authorities whose certificates are taken; `Some(None)`: anybody's are. `None`: what is wrong is noted.
fn trust<'f>(pool: &RawPool, raw: &RawPoolTls, cx: &mut Context<'f>) -> Option<Option<&'f [u8]>> {
    if !*raw.verify {
        for (key, place) in [("ca", raw.ca.key()), ("crl", raw.crl.given.then_some(raw.crl.key))] {
            if let Some(place) = place {
                cx.problems.error(place, format!("`{key}` needs verify = true"));
            }
        }
        cx.problems
            .warning(raw.verify.place, "any server is taken for the right one, and whoever is in between can read all")
            .help("`ca` names a file with the certificate of who signed theirs");
        return Some(None);
    }
    if let Some(ca) = raw.ca.get() {
        return file(ca, cx).map(Some);
    }
    if !raw.ca.is_absent() {
        return None;
    }
    let attachments = cx.attachments;
    let store = attach::system_store(attachments);
    if store.is_none() {
        cx.problems
            .error(pool.tls.place, "this box has no certificates of authorities that servers could be verified by")
            .help("install the package ca-certificates, or name a file with `ca`");
    }
    store.map(Some)
}

fn own(raw: &RawPoolTls, cx: &mut Context<'_>) -> Option<crate::tls::Certificate> {
    match (raw.client_certificate.get(), raw.client_key.get()) {
        (Some(chain), key) => own_certificate(chain, key, cx),
        (None, Some(key)) if raw.client_certificate.is_absent() => {
            cx.problems.error(key.key, "`client_key` needs `client_certificate`");
            None
        }
        (None, _) => None,
    }
}

fn expected_name(name: &At<String>, cx: &mut Context<'_>) -> Option<ServerName<'static>> {
    let found = server_name(name);
    if found.is_none() {
        cx.problems.error(name.place, "neither a host name nor an address").help("such as \"api.example.com\"");
    }
    found
}

/// Notes servers whose host cannot be in a certificate.
fn check_hosts(pool: &RawPool, cx: &mut Context<'_>) {
    let servers = pool.servers.get().into_iter().flat_map(|servers| servers.iter());
    for address in servers.filter_map(|server| server.0.address.get()) {
        let host = address.host.strip_suffix('.').unwrap_or(&address.host);
        if server_name(host).is_none() {
            cx.problems.error(address.place, "no certificate can be for this host").help("`server_name` in `tls`");
        }
    }
}

fn alpn(raw: &RawPoolTls, version: HttpVersion, cx: &mut Context<'_>) -> Vec<Box<str>> {
    let Some(names) = raw.alpn.get() else {
        return if version == HttpVersion::Http2 { vec![H2.into()] } else { Vec::new() };
    };
    check_alpn(names, version, cx);
    names.iter().map(|name| name.as_str().into()).collect()
}

fn check_alpn(names: &At<List<String>>, version: HttpVersion, cx: &mut Context<'_>) {
    let has_h2 = names.iter().any(|name| name.as_str() == H2);
    for name in names.iter() {
        if name.is_empty() || name.len() > LONGEST_ALPN {
            cx.problems.error(name.place, format!("not the name of a protocol: 1 to {LONGEST_ALPN} bytes"));
        }
    }
    if version == HttpVersion::Http2 && !has_h2 && names.complete {
        cx.problems.error(names.place, "HTTP/2 over TLS is asked for as \"h2\"").help("leave `alpn` out, or add it");
    }
}
