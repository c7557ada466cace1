//! Heads on their way out: what is passed on, what is left out, what is added. Pure.

use crate::config::model::{HeaderEdits, Policy};
use crate::http1::{Body, Field, FieldName, RequestHead, ResponseHead, cookie};
use crate::template::Variables;

/// What a request head is made from, besides the head received.
pub(crate) struct RequestParts<'a> {
    /// The head received.
    pub(crate) head: &'a RequestHead,
    /// The bytes its spans refer to.
    pub(crate) bytes: &'a [u8],
    /// Path and query to ask for.
    pub(crate) target: &'a [u8],
    /// Host when the client named none.
    pub(crate) default_host: &'a str,
    /// The route's rules.
    pub(crate) policy: &'a Policy,
    /// A cookie that is ours: servers do not get to see it.
    pub(crate) own_cookie: Option<&'a str>,
    /// The peer is one of `trusted_proxies`: what it says of the client is kept.
    pub(crate) trusted: bool,
    /// The peer's address, as text.
    pub(crate) peer: &'a str,
    /// What the client speaks: `http`.
    pub(crate) scheme: &'a str,
    /// The request's id.
    pub(crate) request_id: &'a [u8],
    /// For templates.
    pub(crate) vars: &'a dyn Variables,
}

/// Appends the head of a request to a server (RFC 9112; always HTTP/1.1).
pub(crate) fn write_request(out: &mut Vec<u8>, parts: &RequestParts<'_>) {
    let RequestParts { head, bytes, policy, .. } = parts;
    let edits = &policy.request_headers;
    line(out, &[head.method_span.of(bytes), b" ", parts.target, b" HTTP/1.1"]);
    if !edits.touches("host") {
        out.extend_from_slice(b"Host: ");
        match &policy.host {
            Some(template) => template.expand(parts.vars, out),
            None if head.host.is_empty() => out.extend_from_slice(parts.default_host.as_bytes()),
            None => out.extend_from_slice(head.host.of(bytes)),
        }
        out.extend_from_slice(b"\r\n");
    }
    for field in &head.fields {
        let keep = !field.hop
            && match field.kind {
                FieldName::Host | FieldName::ContentLength | FieldName::TransferEncoding | FieldName::Expect => false,
                FieldName::XForwardedFor | FieldName::XForwardedProto | FieldName::XForwardedHost => {
                    !policy.x_forwarded
                }
                FieldName::Forwarded => !policy.forwarded,
                FieldName::XRequestId => !policy.request_id,
                _ => true,
            };
        if keep && !edits.replaces(field.name.of(bytes)) {
            match parts.own_cookie {
                Some(name) if field.kind == FieldName::Cookie => copy_cookies(out, field, bytes, name),
                _ => copy(out, field, bytes),
            }
        }
    }
    if policy.x_forwarded {
        write_x_forwarded(out, parts);
    }
    if policy.forwarded && !edits.touches("forwarded") {
        write_forwarded(out, parts);
    }
    if policy.request_id && !edits.touches("x-request-id") {
        line(out, &[b"X-Request-Id: ", parts.request_id]);
    }
    write_edits(out, edits, parts.vars);
    match head.body {
        Body::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            decimal(out, n);
            out.extend_from_slice(b"\r\n");
        }
        Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Body::None | Body::UntilClose => {}
    }
    // A field that is for the next hop only is named in Connection (RFC 9110 sections 7.6.1, 7.8 and 10.1.4).
    if let Some(protocol) = head.upgrade {
        line(out, &[b"Connection: upgrade\r\nUpgrade: ", protocol.of(bytes)]);
    } else if head.te_trailers {
        out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// X-Forwarded-For, -Proto and -Host: the client's own are replaced unless it is trusted.
fn write_x_forwarded(out: &mut Vec<u8>, parts: &RequestParts<'_>) {
    let RequestParts { head, bytes, .. } = parts;
    let edits = &parts.policy.request_headers;
    let received = |kind: FieldName| head.fields.iter().filter(move |f| parts.trusted && f.kind == kind);
    if !edits.touches("x-forwarded-for") {
        out.extend_from_slice(b"X-Forwarded-For: ");
        for field in received(FieldName::XForwardedFor) {
            out.extend_from_slice(field.value.of(bytes));
            out.extend_from_slice(b", ");
        }
        line(out, &[parts.peer.as_bytes()]);
    }
    if !edits.touches("x-forwarded-proto") {
        let proto = received(FieldName::XForwardedProto).next().map_or(parts.scheme.as_bytes(), |f| f.value.of(bytes));
        line(out, &[b"X-Forwarded-Proto: ", proto]);
    }
    if !edits.touches("x-forwarded-host") {
        let host = received(FieldName::XForwardedHost).next().map_or(head.host.of(bytes), |f| f.value.of(bytes));
        if !host.is_empty() {
            line(out, &[b"X-Forwarded-Host: ", host]);
        }
    }
}

/// RFC 7239: one more element behind those of trusted proxies.
fn write_forwarded(out: &mut Vec<u8>, parts: &RequestParts<'_>) {
    let RequestParts { head, bytes, .. } = parts;
    out.extend_from_slice(b"Forwarded: ");
    if parts.trusted {
        for field in head.fields.iter().filter(|f| f.kind == FieldName::Forwarded) {
            out.extend_from_slice(field.value.of(bytes));
            out.extend_from_slice(b", ");
        }
    }
    // An IPv6 address is no token: section 6 wants it bracketed and quoted.
    if parts.peer.contains(':') {
        out.extend_from_slice(format!("for=\"[{}]\"", parts.peer).as_bytes());
    } else {
        out.extend_from_slice(b"for=");
        out.extend_from_slice(parts.peer.as_bytes());
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(parts.scheme.as_bytes());
    let host = head.host.of(bytes);
    if !host.is_empty() {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

/// How the response's body goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseFraming {
    /// Send `Transfer-Encoding: chunked`.
    pub(crate) chunked: bool,
    /// Strict-Transport-Security is ours: leave the server's out.
    pub(crate) own_hsts: bool,
    /// Leave the server's Content-Length out.
    pub(crate) drop_length: bool,
    /// The connection ends after this response.
    pub(crate) close: bool,
    /// The client speaks HTTP/1.0 and asked to keep the connection.
    pub(crate) say_keep_alive: bool,
}

/// Appends the head of a response to a client; `own`: fields of ours, with their line ends.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    bytes: &[u8],
    edits: &HeaderEdits,
    framing: ResponseFraming,
    own: &[u8],
    vars: &dyn Variables,
) {
    write_status_line(out, head, bytes);
    for field in &head.fields {
        let keep = !field.hop
            && match field.kind {
                FieldName::TransferEncoding => false,
                FieldName::ContentLength => !framing.drop_length,
                FieldName::Trailer => framing.chunked,
                FieldName::StrictTransportSecurity => !framing.own_hsts,
                _ => true,
            };
        if keep && !edits.replaces(field.name.of(bytes)) {
            copy(out, field, bytes);
        }
    }
    write_edits(out, edits, vars);
    out.extend_from_slice(own);
    if framing.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if framing.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if framing.say_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a 1xx head, also the answer to an upgrade (101); `own`: fields of ours, with their line ends.
pub(crate) fn write_informational(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8], own: &[u8]) {
    write_status_line(out, head, bytes);
    for field in &head.fields {
        let upgrade = head.status == 101 && field.kind == FieldName::Upgrade;
        if upgrade || !field.hop {
            copy(out, field, bytes);
        }
    }
    if head.status == 101 {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    }
    out.extend_from_slice(own);
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(head.status));
    line(out, &[b" ", head.reason.of(bytes)]);
}

fn copy(out: &mut Vec<u8>, field: &Field, bytes: &[u8]) {
    line(out, &[field.name.of(bytes), b": ", field.value.of(bytes)]);
}

/// Copies a Cookie field without the cookies called `name`.
fn copy_cookies(out: &mut Vec<u8>, field: &Field, bytes: &[u8], name: &str) {
    let start = out.len();
    out.extend_from_slice(field.name.of(bytes));
    out.extend_from_slice(b": ");
    if cookie::write_without(field.value.of(bytes), name, out) {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(start);
    }
}

fn line(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
pub(crate) fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the fields that are set and added.
pub(crate) fn write_edits(out: &mut Vec<u8>, edits: &HeaderEdits, vars: &dyn Variables) {
    for (name, value) in &edits.set {
        write_edit(out, name, value, vars, false);
    }
    for (name, value) in &edits.add {
        write_edit(out, name, value, vars, true);
    }
}

fn write_edit(
    out: &mut Vec<u8>,
    name: &str,
    value: &crate::template::Template,
    vars: &dyn Variables,
    even_if_empty: bool,
) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let at = out.len();
    value.expand(vars, out);
    // A variable may carry what a client sent: no value may end the field or the head.
    for b in &mut out[at..] {
        if matches!(b, b'\r' | b'\n' | 0) {
            *b = b' ';
        }
    }
    if out.len() == at && !even_if_empty {
        out.truncate(start);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

impl HeaderEdits {
    /// Whether a received field of this name is left out.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        !(self.remove.is_empty() && self.set.is_empty())
            && (self.remove.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
                || self.set.iter().any(|(n, _)| name.eq_ignore_ascii_case(n.as_bytes())))
    }

    /// Whether a field that we would make ourselves is left to the edits.
    fn touches(&self, name: &str) -> bool {
        self.replaces(name.as_bytes())
    }
}
