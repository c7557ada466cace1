//! Routes that are shared out to several pools.

use crate::http1::RequestHead;
use crate::net::Transport;
use crate::proxy::http::exchange::Exchange;
use crate::snapshot::{Chosen, RouteView, SplitView};

/// What of the conditions of `split` a request meets.
pub(crate) fn chosen(split: &SplitView, head: &RequestHead, bytes: &[u8]) -> Chosen {
    split.choose(&|name| head.values(bytes, name).next(), &|name| head.cookies(bytes, name).next())
}

impl<C: Transport> Exchange<'_, C> {
    /// The route to the pool that this request comes to.
    pub(super) fn choose<'v>(&mut self, split: &'v SplitView) -> &'v RouteView {
        let index = match chosen(split, &self.scratch.request, self.buf.bytes()) {
            Chosen::Condition(index) => index,
            Chosen::Weight => {
                let mut text = std::mem::take(&mut self.scratch.text);
                text.clear();
                if let Some(key) = &split.key {
                    key.expand(&self.vars(), &mut text);
                }
                let index = match &text[..] {
                    b"" => split.split.by_lot(self.conn.worker.random()),
                    key => split.split.by_key(key),
                };
                self.scratch.text = text;
                index
            }
        };
        // Weights and conditions are those of the routes.
        &split.routes[index]
    }
}
