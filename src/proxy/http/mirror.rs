//! Copies of requests for another pool, whose answers are thrown away (nginx: `mirror`).
//!
//! A copy is an exchange of its own on a connection that leads nowhere: everything that is written to it is gone. It has
//! its own task, so that the request it was made of waits for nothing but the copying of its bytes.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::config::model::{Action, PathRewrite, Route};
use crate::net::buffer::Buffer;
use crate::net::transport::Closed;
use crate::net::{Sock, Transport};
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::facts::Facts;
use crate::proxy::http::forward::Way;
use crate::proxy::http::{Arrival, Conn, Outcome};
use crate::proxy::worker::View;

/// Where copies of a route's requests go.
pub(super) struct Copying<'a> {
    pub(super) view: &'a Rc<View>,
    /// One with a `mirror`.
    pub(super) route: &'a Arc<Route>,
    /// Index of its pool.
    pub(super) pool: usize,
}

/// A client that takes everything at once and says nothing.
struct Nowhere;

impl<C: Transport> Exchange<'_, C> {
    /// Sends a copy on its way, if it is this request's turn and few enough are. The request's body is complete unless it
    /// `streams`: bytes that are passed on as they come are not there to be copied.
    pub(super) fn copy(&self, to: &Copying<'_>, streams: bool) {
        let Copying { view, route, pool: index } = *to;
        let Some(mirror) = &route.mirror else { return };
        let (worker, head) = (&self.conn.worker, &self.scratch.request);
        if worker.random() % 100 >= u64::from(mirror.share) {
            return;
        }
        let pool = &view.snapshot.pools[index];
        if streams || head.upgrade.is_some() {
            return pool.leave_out_copy();
        }
        let Some(permit) = pool.try_copy(mirror.max_in_flight) else { return };
        let bytes = &self.buf.bytes()[..head.len + self.held_body];
        let mut buf = worker.buffers().take(bytes.len());
        buf.push(bytes);
        let facts = self.facts.of_copy(*self.request_id());
        let listener = Rc::clone(&self.conn.listener);
        let mut conn = Conn::of_nobody(Nowhere, Rc::clone(worker), listener, self.conn.peer);
        conn.preface.clone_from(&self.conn.preface);
        let (view, route) = (Rc::clone(view), Arc::clone(route));
        tokio::task::spawn_local(async move {
            conn.send_copy(buf, facts, &view, &route, index).await;
            drop(permit);
        });
    }
}

impl Conn<Nowhere> {
    async fn send_copy(&self, buf: Buffer, facts: Facts, view: &View, route: &Route, pool: usize) {
        // What could be read once can be read again.
        let Ok(Arrival { scratch, buf, outcome: Outcome::Request }) = self.parse(buf) else { return };
        let Some(mirror) = &route.mirror else { return };
        let mut exchange = Exchange::new(self, scratch, buf, facts);
        let way = Way { policy: &mirror.policy, rewrite: rewrite(route), roles: None };
        let mut taker = pool;
        // Nobody is told how it went; the servers' own counts say it.
        let _ = exchange.forward(way, view, &mut taker, None).await;
        self.worker.scratch.put(exchange.scratch);
    }
}

fn rewrite(route: &Route) -> Option<&PathRewrite> {
    match &route.action {
        Action::Pool { rewrite, .. } => rewrite.as_ref(),
        Action::Split { .. } | Action::Redirect { .. } | Action::Respond { .. } | Action::Close => None,
    }
}

impl Transport for Nowhere {
    fn poll_recv(&self, _cx: &mut Context<'_>, _buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send(&self, _cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn poll_closed(&self, _cx: &mut Context<'_>) -> Poll<Closed> {
        Poll::Pending
    }

    fn poll_broken(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_abort(&self) {}

    fn plain(&self) -> Option<&Sock> {
        None
    }
}
