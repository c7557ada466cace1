//! Sockets, buffers and timers: what listeners and the data path are made of, nothing that knows HTTP or pools.

pub mod buffer;
pub mod clock;
pub mod connect;
pub mod filter;
pub mod listen;
#[cfg(test)]
pub(crate) mod memory;
pub mod pipe;
pub mod sock;
pub mod tls;
pub mod transport;
pub mod wheel;

pub use sock::Sock;
pub use tls::TlsStream;
pub use transport::Transport;
