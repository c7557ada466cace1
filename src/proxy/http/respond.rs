//! Responses we make ourselves: errors, redirects, fixed answers. Pure.

use crate::config::model::{ErrorPage, HeaderEdits};
use crate::proxy::http::headers::decimal;

/// The standard reason phrase (RFC 9110 section 15), or an empty one.
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        418 => "I'm a teapot",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// One response of our own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local<'a> {
    /// Status.
    pub(crate) status: u16,
    /// `Location`, if any.
    pub(crate) location: Option<&'a [u8]>,
    /// Body and its type; `None`: the small page of the status.
    pub(crate) body: Option<(&'a [u8], &'a str)>,
    /// Answering HEAD: the fields, not the body.
    pub(crate) head_only: bool,
    /// Say that the connection ends.
    pub(crate) close: bool,
    /// Say that it stays (HTTP/1.0).
    pub(crate) say_keep_alive: bool,
    /// IMF-fixdate.
    pub(crate) date: &'a str,
    /// The route's changes, for what they replace.
    pub(crate) edits: &'a HeaderEdits,
    /// The fields that they set and add, each with its line end.
    pub(crate) fields: &'a [u8],
}

/// No changes.
pub(crate) static NO_EDITS: HeaderEdits = HeaderEdits { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

/// Appends a whole response; returns the length of its body.
pub(crate) fn write(out: &mut Vec<u8>, local: &Local<'_>) -> usize {
    let Local { status, location, .. } = *local;
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let own = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
        if !local.edits.replaces(name.as_bytes()) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            // May hold what a client sent: no value may end the field or the head.
            out.extend(value.iter().map(|&b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
    };
    own(out, "Server", b"bascule");
    own(out, "Date", local.date.as_bytes());
    if let Some(location) = location {
        own(out, "Location", location);
    }
    let page;
    let (body, kind) = match local.body {
        Some(given) => given,
        None => {
            let phrase = phrase(status);
            page = format!(
                "<html><head><title>{status} {phrase}</title></head>\n<body><h1>{status} {phrase}</h1></body></html>\n"
            );
            (page.as_bytes(), "text/html")
        }
    };
    if !matches!(status, 204 | 304) {
        own(out, "Content-Type", kind.as_bytes());
        out.extend_from_slice(b"Content-Length: ");
        decimal(out, body.len() as u64);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(local.fields);
    if local.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if local.say_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if local.head_only || matches!(status, 204 | 304) {
        return 0;
    }
    out.extend_from_slice(body);
    body.len()
}

/// Appends what a client of gRPC is told instead of an error: a response that is all trailers.
pub(crate) fn write_grpc(out: &mut Vec<u8>, status: u16, date: &str) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nServer: bascule\r\nDate: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nGrpc-Status: ");
    decimal(out, grpc_status(status));
    out.extend_from_slice(b"\r\nGrpc-Message: ");
    decimal(out, u64::from(status));
    for part in [" ", phrase(status), "\r\n\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// gRPC's own mapping (`http-grpc-status-mapping.md`).
fn grpc_status(status: u16) -> u64 {
    const UNKNOWN: u64 = 2;
    const PERMISSION_DENIED: u64 = 7;
    const UNIMPLEMENTED: u64 = 12;
    const INTERNAL: u64 = 13;
    const UNAVAILABLE: u64 = 14;
    const UNAUTHENTICATED: u64 = 16;
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Whether a Content-Type is gRPC's: not that of gRPC-Web, whose clients want errors of HTTP.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The configured page of a status.
pub(crate) fn page(pages: &[ErrorPage], status: u16) -> Option<(&[u8], &str)> {
    pages.iter().find(|p| p.status == status).map(|p| (p.body.as_bytes(), &*p.content_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_cannot_end_the_head() {
        let mut out = Vec::new();
        let local = Local {
            status: 302,
            location: Some(b"/a\r\nSet-Cookie: x"),
            body: None,
            head_only: false,
            close: false,
            say_keep_alive: false,
            date: "",
            edits: &NO_EDITS,
            fields: b"",
        };
        write(&mut out, &local);
        assert!(String::from_utf8(out).expect("text").contains("Location: /a  Set-Cookie: x\r\n"));
    }

    #[test]
    fn head_and_204_have_no_body_but_head_keeps_the_length() {
        let mut local = Local {
            status: 502,
            location: None,
            body: Some((b"sorry", "text/plain")),
            head_only: true,
            close: true,
            say_keep_alive: false,
            date: "",
            edits: &NO_EDITS,
            fields: b"",
        };
        let mut out = Vec::new();
        assert_eq!(write(&mut out, &local), 0);
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("Content-Length: 5\r\nConnection: close\r\n\r\n") && text.ends_with("\r\n\r\n"));
        local.status = 204;
        local.head_only = false;
        let mut out = Vec::new();
        assert_eq!(write(&mut out, &local), 0);
        assert!(!String::from_utf8(out).expect("text").contains("Content-Length"));
    }
}
