//! Plain requests that are to come again by https, and Strict-Transport-Security for those that did.

use crate::http1::{FieldName, RequestHead, TargetForm};
use crate::net::Transport;
use crate::proxy::http::Next;
use crate::proxy::http::exchange::{Exchange, Refusal};
use crate::proxy::http::headers::decimal;
use crate::proxy::http::respond::NO_EDITS;
use crate::route::{MAX_HOST, normalise_host};
use crate::snapshot::Https;
use crate::telemetry::reason::Reason;

/// The port that a URL of https need not name.
const DEFAULT_PORT: u16 = 443;

impl<C: Transport> Exchange<'_, C> {
    /// Notes what the response is to say; status and port of the redirect, if this request is to come again by https.
    pub(super) fn wants_https(&mut self, https: &Https) -> Option<(u16, u16)> {
        let by_proxy = || self.facts.trusted && says_https(&self.scratch.request, self.buf.bytes());
        if self.conn.is_tls() || by_proxy() {
            self.scratch.hsts.clear();
            self.scratch.hsts.extend_from_slice(&https.hsts);
            return None;
        }
        https.redirect
    }

    /// Sends the client to the same host, path and query by https.
    pub(super) async fn redirect_https(&mut self, (status, port): (u16, u16)) -> Next {
        let mut location = std::mem::take(&mut self.scratch.text);
        location.clear();
        let next = if write_location(&mut location, &self.scratch.request, self.buf.bytes(), port) {
            self.respond(status, Some(&location), None, false, &NO_EDITS).await
        } else {
            // HTTP/1.0 without Host: nobody knows where it wanted to go.
            self.refuse(Refusal { status: 400, reason: Some(Reason::BadRequest), close: false }, &[]).await
        };
        self.scratch.text = location;
        next
    }
}

/// Whether X-Forwarded-Proto says that the client came by https: the first, when several proxies have said something.
pub(crate) fn says_https(head: &RequestHead, bytes: &[u8]) -> bool {
    let said = head.fields.iter().find(|f| f.kind == FieldName::XForwardedProto).map(|f| f.value.of(bytes));
    let first = said.and_then(|value| value.split(|&b| b == b',').next());
    first.is_some_and(|proto| proto.trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// Appends the URL by https of what is asked for; `false`: no host is.
pub(crate) fn write_location(out: &mut Vec<u8>, head: &RequestHead, bytes: &[u8], port: u16) -> bool {
    let mut lower = [0; MAX_HOST];
    let Some(host) = normalise_host(head.host.of(bytes), &mut lower) else { return false };
    out.extend_from_slice(b"https://");
    out.extend_from_slice(host);
    if port != DEFAULT_PORT {
        out.push(b':');
        decimal(out, port.into());
    }
    match head.form {
        TargetForm::Origin => out.extend_from_slice(head.target.of(bytes)),
        // `*` is the server as a whole.
        TargetForm::Asterisk => out.push(b'/'),
        TargetForm::Absolute => {
            let path = head.path.of(bytes);
            out.extend_from_slice(if path.is_empty() { b"/" } else { path });
            if let Some(query) = head.query {
                out.push(b'?');
                out.extend_from_slice(query.of(bytes));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Limits, Parse};

    fn parsed(text: &str) -> RequestHead {
        let mut head = RequestHead::default();
        let limits = Limits { max_size: 4096, max_fields: 100, max_uri: 1024, ..Limits::default() };
        assert!(matches!(head.parse(text.as_bytes(), &limits), Ok(Parse::Complete)), "{text:?}");
        head
    }

    #[test]
    fn the_location_is_what_was_asked_for_by_https() {
        for (line, host, port, expected) in [
            ("GET /", "shop.test", 443, "https://shop.test/"),
            ("GET /a/%2e%2e/b?x=%20&y", "Shop.Test:8080", 443, "https://shop.test/a/%2e%2e/b?x=%20&y"),
            ("GET //evil.test/", "shop.test", 8443, "https://shop.test:8443//evil.test/"),
            ("POST /?", "shop.test.", 443, "https://shop.test/?"),
            ("GET http://shop.test:80/a?b", "shop.test:80", 443, "https://shop.test/a?b"),
            ("GET http://shop.test", "shop.test", 443, "https://shop.test/"),
            ("OPTIONS *", "shop.test", 443, "https://shop.test/"),
            ("GET /", "[2001:DB8::1]:8080", 443, "https://[2001:db8::1]/"),
            ("GET /", "192.0.2.1:80", 444, "https://192.0.2.1:444/"),
        ] {
            let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let mut out = Vec::new();
            assert!(write_location(&mut out, &parsed(&text), text.as_bytes(), port));
            assert_eq!(String::from_utf8_lossy(&out), expected, "{text:?}");
        }
        let text = "GET / HTTP/1.0\r\n\r\n";
        assert!(!write_location(&mut Vec::new(), &parsed(text), text.as_bytes(), 443));
    }

    #[test]
    fn the_first_proxy_says_what_the_client_spoke() {
        for (fields, expected) in [
            ("", false),
            ("X-Forwarded-Proto: http\r\n", false),
            ("X-Forwarded-Proto: HTTPS\r\n", true),
            ("x-forwarded-proto: https , http\r\n", true),
            ("X-Forwarded-Proto: http, https\r\n", false),
            ("X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n", false),
            ("X-Forwarded-Proto: httpsx\r\n", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(says_https(&parsed(&text), text.as_bytes()), expected, "{fields:?}");
        }
    }
}
