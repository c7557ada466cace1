//! HTTP/2 with clients end to end: a real engine, clients that send frame by frame, and clients that are not ours.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

mod http2 {
    mod clients;
    mod conformance;
    mod exchanges;
    mod floods;

    use crate::support::origin::{Answering, Origin};
    use crate::support::proxy::Proxy;

    fn config(listener: &str, server: std::net::SocketAddr, pool: &str) -> String {
        format!(
            "[listener.l]\nbind = [\"127.0.0.1:80\"]\nhttp2 = true\npool = \"p\"\n{listener}\n\
             [pool.p]\nservers = [\"{server}\"]\n{pool}\n"
        )
    }

    /// A server that the test plays, and a proxy in front of it; with keys of the listener and of the pool.
    fn stage(listener: &str, pool: &str) -> (Origin, Proxy) {
        let origin = Origin::new();
        let proxy = Proxy::start(&config(listener, origin.addr(), pool));
        (origin, proxy)
    }

    /// The same with a server that answers everything.
    fn answered(listener: &str) -> (Answering, Proxy) {
        let origin = Answering::with(crate::support::wire::ok("hello"));
        let proxy = Proxy::start(&config(listener, origin.addr(), ""));
        (origin, proxy)
    }
}
