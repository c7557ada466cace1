//! HTTP/2: frame heads and responses of HTTP/1.1 on their way into it. Nothing panics, and the result does not depend on
//! how the bytes arrive.
#![no_main]

use bascule::http1::{Method, ResponseHead};
use bascule::http2::guard::{Fault, Guard, Purse};
use bascule::http2::translate::{Answer, Found};
use bascule::time::Millis;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let frames = look(bytes, bytes.len());
    let answer = read(bytes, bytes.len());
    for size in [1, 2, 9, 64] {
        assert_eq!(look(bytes, size), frames, "in pieces of {size}");
        assert_eq!(read(bytes, size), answer, "in pieces of {size}");
    }
});

/// What is wrong with these frames.
fn look(bytes: &[u8], size: usize) -> Result<Option<u64>, Fault> {
    let (mut guard, purse) = (Guard::new(), Purse::new(8, Millis(0)));
    for part in bytes.chunks(size.max(1)) {
        if let Err((fault, good)) = guard.look(part, &purse, Millis(0)) {
            assert!(good < part.len());
            return Err(fault);
        }
    }
    Ok(guard.amid())
}

/// The status, the data and the trailers; `None`: it is no response.
fn read(bytes: &[u8], size: usize) -> Option<(u16, Vec<u8>, Option<usize>)> {
    let (mut answer, mut head) = (Answer::new(Method::Get), ResponseHead::new());
    let (mut status, mut data, mut trailers) = (0, Vec::new(), None);
    for mut part in bytes.chunks(size.max(1)) {
        while !part.is_empty() {
            let n = if answer.awaits_head() {
                let (n, found) = answer.take_head(part, &mut head).ok()?;
                if let Found::Head { response, .. } = found {
                    status = response.status().as_u16();
                }
                n
            } else {
                let taken = answer.take_body(part, part.len(), &mut data).ok()?;
                if answer.is_complete() && !taken.ends {
                    trailers = Some(answer.take_trailers().ok()?.len());
                }
                taken.bytes
            };
            assert!(n > 0);
            part = &part[n..];
        }
    }
    Some((status, data, trailers))
}
