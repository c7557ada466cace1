//! The HTTP data path end to end: a real engine between sockets that the tests drive byte by byte.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

mod http {
    mod bodies;
    mod circuit;
    mod clients;
    mod connections;
    mod differential;
    mod handover;
    mod hostile;
    mod http2_servers;
    mod https;
    mod limits;
    mod mirror;
    mod real_servers;
    mod reload;
    mod routing;
    mod servers;
    mod sick;
    mod split;
    mod sticky;
    mod tls_servers;
    mod upgrade;

    use crate::support::origin::Origin;
    use crate::support::proxy::Proxy;

    /// So many bytes, not all alike.
    fn big(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
    }

    /// A server that the test plays, and a proxy in front of it; with keys of the listener and of the pool.
    fn stage(listener: &str, pool: &str) -> (Origin, Proxy) {
        let origin = Origin::new();
        let addr = origin.addr();
        let proxy = Proxy::start(&format!(
            "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n{listener}\n\
             [pool.p]\nservers = [\"{addr}\"]\n{pool}\n"
        ));
        (origin, proxy)
    }
}
