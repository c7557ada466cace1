//! Chunked bodies: no bytes panic, each step makes progress, and the result does not depend on how the bytes arrive.
#![no_main]

use bascule::http1::{ChunkError, Chunked, Piece};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, bytes.len());
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(decode(bytes, size), whole, "in pieces of {size}");
    }
    if let Ok((data, Some(len))) = &whole {
        assert!(data.len() + 5 <= *len);
        assert!(bytes[..*len].ends_with(b"\r\n"));
        assert_eq!(decode(&bytes[..len - 1], 5), Ok((data.clone(), None)));
    }
});

/// The data, and where the body ended if it did.
fn decode(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Option<usize>), ChunkError> {
    let mut decoder = Chunked::new();
    let mut data = Vec::new();
    let mut at = 0;
    for part in bytes.chunks(size.max(1)) {
        let end = at + part.len();
        while at < end {
            let before = decoder.remaining();
            match decoder.step(&bytes[at..end])? {
                Piece::Data(n) => {
                    assert_eq!(decoder.remaining(), before - n as u64);
                    data.extend_from_slice(&bytes[at..at + n]);
                    at += n;
                    assert!(n > 0);
                }
                Piece::Framing(n) => {
                    at += n;
                    assert!(n > 0);
                }
                Piece::End(n) => return Ok((data, Some(at + n))),
                Piece::More => panic!("bytes were left and not looked at"),
            }
        }
    }
    Ok((data, None))
}
