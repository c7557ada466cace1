//! What a TLS client says first: no bytes panic; what is accepted is accepted with its last byte, in any pieces, and names a
//! host that can be looked up.
#![no_main]

use bascule::tls::hello::{MAX_SIZE, Parse, Reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = Reader::default().parse(bytes);
    let mut reader = Reader::default();
    let first = (1..=bytes.len()).find_map(|n| match reader.parse(&bytes[..n]) {
        Ok(Parse::Partial) => None,
        end => Some((n, end)),
    });
    let (end, piecewise) = first.unwrap_or((bytes.len(), Ok(Parse::Partial)));
    assert_eq!(piecewise, whole);
    let Ok(Parse::Complete(hello)) = whole else { return };
    assert!(end <= MAX_SIZE);
    assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
    if let Some(name) = &hello.server_name {
        assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
    }
});
