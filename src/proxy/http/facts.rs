//! What is known of an exchange while it goes on: for variables, for the access log.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

use crate::pool::Server;
use crate::telemetry::reason::Reason;

/// Numbers and addresses of one exchange.
#[derive(Debug)]
pub(super) struct Facts {
    /// Start, microseconds of the monotonic clock; 0 when nothing asks for times.
    pub(super) start: u64,
    /// When the first server was picked, in the same; 0: none was.
    pub(super) picked: u64,
    /// When the last one was.
    pub(super) tried: u64,
    /// Whoever the other end of the connection is.
    pub(super) peer: SocketAddr,
    /// The client as found behind trusted proxies.
    pub(super) client: IpAddr,
    /// The peer is a trusted proxy.
    pub(super) trusted: bool,
    /// Number of the connection.
    pub(super) connection: u64,
    /// Requests on the connection, this one included.
    pub(super) requests: u32,
    /// Status sent to the client; 0: none.
    pub(super) status: u16,
    /// Bytes sent to the client.
    pub(super) sent: u64,
    /// Of these, body.
    pub(super) body_sent: u64,
    /// Bytes of the request: head and body.
    pub(super) received: u64,
    /// Bytes sent to servers.
    pub(super) upstream_sent: u64,
    /// Bytes received from servers.
    pub(super) upstream_received: u64,
    /// Why it did not go as it should.
    pub(super) reason: Option<Reason>,
    /// Microseconds in the pool's queue.
    pub(super) queued: Option<u64>,
    /// How often the server had ceased to be the primary when it was picked; `None`: nothing ends when it does.
    pub(super) losses: Option<u32>,
    /// Seconds that the client is told to wait; 0: it is told nothing.
    pub(super) retry_after: u32,
    /// Local port of the connection to the server.
    pub(super) upstream_port: Option<u16>,
    /// The request's id, once somebody wants it.
    pub(super) id: OnceCell<RequestId>,
}

impl Facts {
    /// Whether what runs over `server` is to be cut, for it is the primary no more. One branch without a role.
    pub(super) fn has_lost(&self, server: &Server) -> bool {
        self.losses.is_some_and(|losses| server.role_losses() != losses)
    }

    /// What times are counted from: the request's start when that is known, else the first pick of a server.
    pub(super) fn since(&self) -> u64 {
        if self.start == 0 { self.picked } else { self.start }
    }

    /// Those of a copy of the request that has just arrived; its id is the same.
    pub(super) fn of_copy(&self, id: RequestId) -> Self {
        Self { id: OnceCell::from(id), reason: None, queued: None, upstream_port: None, ..*self }
    }
}

/// A request id: 32 hex digits, or what a trusted proxy sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId {
    text: [u8; 64],
    len: u8,
}

impl RequestId {
    /// 128 bits as hex digits, as nginx's `$request_id`.
    pub(super) fn made(high: u64, low: u64) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        let bits = (u128::from(high) << 64) | u128::from(low);
        for (i, digit) in text.iter_mut().take(32).enumerate() {
            *digit = HEX[((bits >> (124 - 4 * i)) & 15) as usize];
        }
        Self { text, len: 32 }
    }

    /// One that was sent along; `None` when it is empty, too long, or not of visible ASCII.
    pub(super) fn taken(value: &[u8]) -> Option<Self> {
        if value.is_empty() || value.len() > 64 || !value.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut text = [0; 64];
        text[..value.len()].copy_from_slice(value);
        Some(Self { text, len: value.len() as u8 })
    }

    /// Its text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}
