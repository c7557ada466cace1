//! Headers of the PROXY protocol: no bytes panic; what is accepted is complete with its last byte, and means the same when it
//! is written anew.
#![no_main]

use bascule::proxy_protocol::{MAX_V2, Parse, Version, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Parse::Complete { header, len }) = parse(bytes) else { return };
    assert!(len <= bytes.len().min(MAX_V2));
    assert_eq!(parse(&bytes[..len]), Ok(Parse::Complete { header: header.clone(), len }));
    assert_eq!(parse(&bytes[..len - 1]), Ok(Parse::Partial));

    for version in [Version::V1, Version::V2] {
        let mut written = Vec::new();
        version.write(&header, &mut written);
        let Ok(Parse::Complete { header: again, len }) = parse(&written) else { panic!("{}", written.escape_ascii()) };
        assert_eq!(len, written.len());
        assert_eq!(again.addresses.is_some(), header.addresses.is_some());
        for (again, first) in again.addresses.iter().zip(&header.addresses) {
            let ends = [(again.source, first.source), (again.destination, first.destination)];
            assert!(ends.iter().all(|(a, b)| a.ip().to_canonical() == b.ip().to_canonical() && a.port() == b.port()));
        }
        assert!(version == Version::V1 || header.addresses.is_none() || again.tlvs == header.tlvs);
    }
});
