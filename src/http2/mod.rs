//! HTTP/2 (RFC 9113) as messages of HTTP/1.1, which everything else here speaks.
//!
//! Frames, windows and header compression are the h2 crate's. What is here turns one stream into the bytes of one
//! HTTP/1.1 exchange and back, so that routing, limits, retries and logs are written once, and so that every request goes
//! through the same strict codec ([`crate::http1`]) whatever it came by.
//!
//! ```text
//! bytes of a client -> Wire (guard.rs looks at frames) -> h2 -> translate.rs -> HTTP/1.1 head -> http1 -> policy
//! bytes of the relay -> translate.rs (Answer) -> h2 -> Wire -> client
//! bytes of the relay -> upstream.rs -> h2 -> server, and back
//! ```
//!
//! What h2 does not do is [`guard`]'s: floods, and errors that it answers with another code than the RFC's.

pub mod downstream;
pub mod guard;
pub mod hpack;
pub mod translate;
pub mod upstream;
pub mod wire;
