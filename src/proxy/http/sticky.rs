//! Clients that stay with their server: what a request says of that, and what the response does.

use std::net::IpAddr;

use crate::config::model::{Sticky, StickyKey};
use crate::http1::RequestHead;
use crate::net::Transport;
use crate::pool::{Lease, Pool, Stick, Tried};
use crate::proxy::http::exchange::Exchange;
use crate::time::Millis;

/// What is known of the client of a request, which `client` has sent; nothing in a pool that is not sticky.
pub(crate) fn stick(pool: &Pool, head: &RequestHead, bytes: &[u8], client: IpAddr, now: Millis) -> Stick {
    match &pool.config.sticky {
        None => Stick::default(),
        Some(Sticky::Cookie(wanted)) => pool.stick_to_cookie(head.cookies(bytes, &wanted.name)),
        Some(Sticky::Learned(table)) => match &table.key {
            StickyKey::Source { .. } => pool.stick_to_source(client, now),
            StickyKey::Header(name) => pool.stick_to_key(head.values(bytes, name).next().unwrap_or_default(), now),
        },
    }
}

impl<C: Transport> Exchange<'_, C> {
    /// What is known of the client.
    pub(super) fn stick(&self, pool: &Pool) -> Stick {
        let now = self.conn.worker.now();
        stick(pool, &self.scratch.request, self.buf.bytes(), self.facts.client, now)
    }

    /// A server of a sticky pool has answered: the client stays with it, and is told if it does not know.
    pub(super) fn keep(&mut self, pool: &Pool, tried: &Tried, lease: &Lease) {
        if let Some(fields) = pool.keep(tried, lease.server(), self.conn.worker.now()) {
            self.scratch.own_fields.extend_from_slice(fields);
        }
    }
}
