//! Response heads: no bytes panic; what is accepted is complete, not a byte earlier, and HEAD only takes the body away.
#![no_main]

use bascule::http1::{Body, FieldName, Limits, Method, Parse, ResponseHead};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { max_size: 4096, max_fields: 60, max_uri: 0, underscores: false };

fuzz_target!(|bytes: &[u8]| {
    let mut head = ResponseHead::new();
    let result = head.parse(bytes, Method::Get, &LIMITS);
    let mut to_head = ResponseHead::new();
    assert_eq!(to_head.parse(bytes, Method::Head, &LIMITS), result);
    if result != Ok(Parse::Complete) {
        return;
    }
    assert!(head.len <= bytes.len().min(LIMITS.max_size));
    assert!((100..1000).contains(&head.status));
    assert!(!head.keep_alive || head.body != Body::UntilClose);
    assert_eq!(to_head.body, Body::None);
    assert_eq!((to_head.len, to_head.status, &to_head.fields), (head.len, head.status, &head.fields));
    let bodiless = head.status < 200 || head.status == 204;
    for field in &head.fields {
        let name = field.name.of(bytes);
        let value = field.value.of(bytes);
        assert_eq!(FieldName::lookup(name), field.kind);
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        assert!(value.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f)));
        assert_eq!(value.trim_ascii(), value);
        assert!(field.hop || !bodiless || field.kind != FieldName::ContentLength);
    }
    assert_eq!(to_head.parse(&bytes[..head.len - 1], Method::Get, &LIMITS), Ok(Parse::Partial));
});
