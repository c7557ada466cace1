//! Listeners with `protocol = "tls_passthrough"`.

use super::*;

table! {
    /// Keys of listeners with `protocol = "tls_passthrough"`
    struct RawPassthrough {
        /// Where connections go by what the client says before the handshake, which is not terminated; what none takes goes
        /// to `pool`, if there is one. The longest name decides, then the protocol, then the order in the file.
        tls_route: List<RawTlsRoute> = [],
    }
}

table! {
    /// `[[listener.NAME.tls_route]]`
    struct RawTlsRoute {
        /// Names that the client may want (SNI): "shop.example.com", "*.example.com" for all below. []: any, and none.
        sni: List<String> = [],
        /// Protocols of which the client must offer one (ALPN), such as "h2" or "acme-tls/1". []: any, and none.
        alpn: List<String> = [],
        /// Where its connections go.
        pool: String,
    }
}
