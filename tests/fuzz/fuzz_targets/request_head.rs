//! Request heads: no bytes panic; what is accepted is read the same by another parser, does not depend on what follows,
//! and means the same when written anew as it would be passed on.
#![no_main]

use bascule::http1::{Body, FieldName, Limits, Parse, RequestHead, Version, path};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { max_size: 4096, max_fields: 60, max_uri: 1024, underscores: true };

fuzz_target!(|bytes: &[u8]| {
    let mut head = RequestHead::new();
    if head.parse(bytes, &LIMITS) != Ok(Parse::Complete) {
        return;
    }
    assert!(head.len <= bytes.len().min(LIMITS.max_size));
    assert_ne!(head.body, Body::UntilClose);
    assert!(head.upgrade.is_none() || matches!(head.body, Body::None | Body::Length(0)));
    assert!(head.version == Version::Http10 || !head.host.is_empty());
    let mut normal = Vec::new();
    if path::normalise(head.path.of(bytes), &mut normal) == Ok(true) {
        let again = normal.clone();
        assert!(again.starts_with(b"/") && !again.contains(&0));
    }
    second_opinion(&head, bytes);

    let mut other = RequestHead::new();
    assert_eq!(other.parse(&bytes[..head.len], &LIMITS), Ok(Parse::Complete));
    assert_eq!(format!("{head:?}"), format!("{other:?}"));
    assert_eq!(other.parse(&bytes[..head.len - 1], &LIMITS), Ok(Parse::Partial));

    let text = written_anew(&head, bytes);
    let roomy = Limits { max_size: 2 * LIMITS.max_size, ..LIMITS };
    assert_eq!(other.parse(&text, &roomy), Ok(Parse::Complete));
    assert_eq!((other.len, other.body), (text.len(), head.body));
    assert_eq!(other.target.of(&text), head.target.of(bytes));
    assert_eq!(other.host.of(&text), head.host.of(bytes));
    assert!(other.fields.iter().all(|f| !f.hop && f.kind != FieldName::Connection));
});

fn second_opinion(head: &RequestHead, bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.max_fields];
    let mut other = httparse::Request::new(&mut fields);
    // It knows no HTTP/1.2.
    let Ok(status) = other.parse(bytes) else {
        return assert!(bytes[..head.len].windows(8).any(|w| w.starts_with(b"HTTP/1.") && w[7] > b'1'));
    };
    assert_eq!(status, httparse::Status::Complete(head.len));
    assert_eq!(other.path.map(str::as_bytes), Some(head.target.of(bytes)));
    assert_eq!(other.headers.len(), head.fields.len());
    for (theirs, ours) in other.headers.iter().zip(&head.fields) {
        assert_eq!((theirs.name.as_bytes(), theirs.value), (ours.name.of(bytes), ours.value.of(bytes)));
    }
}

fn written_anew(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let version: &[u8] = if head.version == Version::Http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
    let mut text = [head.method_span.of(bytes), b" ", head.target.of(bytes), version].concat();
    for field in head.fields.iter().filter(|f| !f.hop) {
        text.extend_from_slice(&[field.name.of(bytes), b": ", field.value.of(bytes), b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    text
}
