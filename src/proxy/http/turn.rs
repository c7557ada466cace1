//! A request at the gate of its listener, site or route: it goes on, waits for its turn, or is refused.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::config::model::LimitKey;
use crate::net::Transport;
use crate::proxy::http::attempt::ClientWatch;
use crate::proxy::http::exchange::{Exchange, Place, Refusal, gone};
use crate::snapshot::Gate;
use crate::telemetry::reason::Reason;

impl<C: Transport> Exchange<'_, C> {
    /// Goes through the gate. What is refused here has been to no pool; `site` and `route` are where it was to go.
    pub(super) async fn pass(
        &mut self,
        gate: &Gate,
        site: Option<&Arc<str>>,
        route: Option<&Arc<str>>,
    ) -> Result<(), Refusal> {
        // Variables of the place have their values without a log, too.
        if gate.limits.iter().any(|limiter| matches!(limiter.config.key, LimitKey::Text(_))) {
            self.set_place(Place { site: site.cloned(), route: route.cloned(), pool: None });
        }
        let mut text = std::mem::take(&mut self.scratch.text);
        let mut seats = std::mem::take(&mut self.seats);
        let admitted = gate.admit(self.facts.client, &self.vars(), &mut text, &mut seats);
        (self.scratch.text, self.seats) = (text, seats);
        let outcome = match admitted {
            Ok(Duration::ZERO) => return Ok(()),
            // Boxed: few requests wait, and all pay for the size of the future.
            Ok(wait) => Box::pin(self.wait_for_turn(wait)).await,
            Err(refused) => {
                self.facts.retry_after = refused.retry_after.map_or(0, whole_seconds);
                Err(Refusal { status: refused.status, reason: Some(refused.reason), close: false })
            }
        };
        if outcome.is_err() {
            self.set_place(Place { site: site.cloned(), route: route.cloned(), pool: None });
        }
        outcome
    }

    /// Waits; a client that leaves meanwhile is not served any more.
    async fn wait_for_turn(&mut self, wait: Duration) -> Result<(), Refusal> {
        let conn = self.conn;
        let mut watch = ClientWatch::of_whole_request();
        conn.start_watching(conn.worker.now().after(wait));
        // The wheel is too coarse: what comes at its ticks would come in bursts.
        let mut turn = pin!(tokio::time::sleep(wait));
        poll_fn(|cx| {
            if watch.is_gone(cx, conn) {
                return Poll::Ready(Err(gone()));
            }
            // Whoever cuts connections wakes the timer.
            let _ = conn.timer.poll_expired(cx);
            if conn.listener.has_ended(conn.worker.now()) {
                return Poll::Ready(Err(Refusal { status: 0, reason: Some(Reason::DrainTimeout), close: true }));
            }
            turn.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

/// Rounded up, at least 1.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_nanos().div_ceil(1_000_000_000).max(1)).unwrap_or(u32::MAX)
}
