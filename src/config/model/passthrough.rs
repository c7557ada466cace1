//! TLS that is not terminated: where connections go by what the client says first.

use std::sync::Arc;
use std::time::Duration;

use super::HostPattern;

/// Keys of a listener with `protocol = "tls_passthrough"`.
#[derive(Debug, Clone)]
pub struct Passthrough {
    /// In file order.
    pub routes: Vec<TlsRoute>,
    /// From accept to the end of what the client says first.
    pub timeout: Duration,
}

/// `[[listener.NAME.tls_route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRoute {
    /// Names that the client may want; empty: any, and none.
    pub names: Vec<HostPattern>,
    /// Protocols of which it must offer one; empty: any, and none.
    pub alpn: Vec<Box<str>>,
    /// Name of the pool.
    pub pool: Arc<str>,
}
