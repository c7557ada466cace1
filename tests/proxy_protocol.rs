//! The PROXY protocol end to end: a real engine between sockets that the tests drive byte by byte.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

mod proxy_protocol {
    mod inward;
    mod outward;
    mod peers;

    use std::net::SocketAddr;

    use bascule::proxy_protocol::{Addresses, Header, Version};

    /// A client that is not in this test, and what it connected to.
    const CLIENT: &str = "192.0.2.7:40001";
    const VIRTUAL: &str = "198.51.100.1:443";

    /// What a proxy in front says of `client`, which connected to [`VIRTUAL`].
    fn header(version: Version, client: &str, tlvs: &[u8]) -> Vec<u8> {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        let addresses = Some(Addresses { source: end(client), destination: end(VIRTUAL) });
        let mut bytes = Vec::new();
        version.write(&Header { addresses, tlvs: tlvs.to_vec() }, &mut bytes);
        bytes
    }
}
