//! One request and its response: where it goes, answers of our own, the log line. `forward.rs` has the servers.

use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use crate::admission::Seat;
use crate::config::model::{Action, ErrorPage, HeaderEdits};
use crate::http1::{self, Body, FieldName, Method, Version};
use crate::net::buffer::Buffer;
use crate::net::{Transport, clock};
use crate::proxy::errors::{FailedExchange, masked, readable};
use crate::proxy::http::challenge;
use crate::proxy::http::facts::{Facts, RequestId};
use crate::proxy::http::forward::{Tunnel, Way};
use crate::proxy::http::headers;
use crate::proxy::http::mirror::Copying;
use crate::proxy::http::respond::{self, Local, NO_EDITS};
use crate::proxy::http::scratch::Scratch;
use crate::proxy::http::vars::Vars;
use crate::proxy::http::{Conn, Next};
use crate::proxy::worker::View;
use crate::route::Found;
use crate::snapshot::{ListenerView, RouteView, SiteView};
use crate::telemetry::access_log::Log;
use crate::telemetry::reason::Reason;

/// One request and its response on a client connection.
pub(super) struct Exchange<'c, C: Transport> {
    pub(super) conn: &'c Conn<C>,
    pub(super) scratch: Box<Scratch>,
    /// The request's head at its front, never consumed while the exchange goes on; behind it what was read with it.
    pub(super) buf: Buffer,
    pub(super) facts: Facts,
    /// Bytes of the body that are in `buf` behind the head, complete.
    pub(super) held_body: usize,
    /// What was read behind a streamed body: the next request.
    pub(super) rest: Option<Buffer>,
    /// The client waits for 100 Continue.
    pub(super) expects: bool,
    pub(super) log: Option<Arc<Log>>,
    /// Number of the snapshot that it runs on.
    pub(super) generation: u64,
    /// What it has in flight under limits, until it ends.
    pub(super) seats: Vec<Seat>,
    pub(super) place: Place,
}

/// Where a request went, for the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) site: Option<Arc<str>>,
    pub(super) route: Option<Arc<str>>,
    pub(super) pool: Option<Arc<str>>,
}

/// What is left to do once the snapshot is no longer needed.
pub(super) enum Then {
    Done(Next),
    Tunnel(Box<Tunnel>),
}

/// A request that gets an answer of our own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: Option<Reason>,
    /// The connection cannot be used further.
    pub(super) close: bool,
}

impl<'c, C: Transport> Exchange<'c, C> {
    pub(super) fn new(conn: &'c Conn<C>, scratch: Box<Scratch>, buf: Buffer, facts: Facts) -> Self {
        let expects = scratch.request.expect_continue;
        Self {
            conn,
            scratch,
            buf,
            facts,
            held_body: 0,
            rest: None,
            expects,
            log: None,
            generation: 0,
            seats: Vec::new(),
            place: Place::default(),
        }
    }

    /// Does all of it; says what becomes of the connection.
    pub(super) async fn run(mut self) -> Next {
        let (view, place) = self.conn.listener.view(&self.conn.worker);
        self.generation = view.snapshot.generation;
        self.facts.received = self.scratch.request.len as u64;
        let next = match self.answer(&view, place).await {
            Then::Done(next) => next,
            Then::Tunnel(t) => {
                // A tunnel may last for days: it keeps its server, not the configuration it was found in.
                drop(view);
                // Boxed: few exchanges become one, and all pay for the size of the future.
                Box::pin(self.tunnel(*t)).await
            }
        };
        self.conclude();
        self.finish(next)
    }

    /// Refuses a request whose head could not be parsed.
    pub(super) async fn refuse_head(mut self, refusal: Refusal) -> Next {
        let (view, place) = self.conn.listener.view(&self.conn.worker);
        let listener = &view.snapshot.listeners[place];
        self.log.clone_from(&listener.log);
        if let Some(https) = &listener.https {
            // Nobody knows what was asked for: only what browsers are told holds here.
            self.wants_https(https);
        }
        let next = self.refuse(refusal, &[]).await;
        drop(view);
        self.conclude();
        self.finish(next)
    }

    fn finish(mut self, next: Next) -> Next {
        self.buf.consume(self.scratch.request.len + self.held_body);
        self.conn.worker.scratch.put(self.scratch);
        match next {
            Next::Request(_) => Next::Request(self.rest.take().or(Some(self.buf)).filter(|b| !b.is_empty())),
            Next::Last if !self.buf.is_empty() || self.rest.is_some() || self.conn.has_unread() => Next::Linger,
            other => other,
        }
    }

    async fn answer(&mut self, view: &Rc<View>, place: usize) -> Then {
        let snapshot = &view.snapshot;
        let listener = &snapshot.listeners[place];
        if let Some(dir) = &self.conn.listener.http.acme_challenge_dir
            && challenge::is_asked_for(self.scratch.request.path.of(self.buf.bytes()))
        {
            // Boxed, as what else few requests come to: all pay for the size of the future.
            return Then::Done(Box::pin(self.answer_challenge(listener, dir)).await);
        }
        let found = match self.find(listener) {
            Ok(found) => found,
            Err(refusal) => {
                self.log.clone_from(&listener.log);
                if let Some(https) = &listener.https {
                    self.wants_https(https);
                }
                return Then::Done(self.refuse(refusal, &[]).await);
            }
        };
        let hit = match found {
            Found::Route(hit) => hit,
            Found::NoRoute(site) => {
                self.log = site.map_or(&listener.log, |s| &s.log).clone();
                self.place.site = site.map(|s| Arc::clone(&s.name));
                if let Some(https) = site.map_or(&listener.https, |s| &s.https)
                    && let Some(redirect) = self.wants_https(https)
                {
                    return Then::Done(Box::pin(self.redirect_https(redirect)).await);
                }
                if let Some(gate) = site.map_or(&listener.gate, |s| &s.gate)
                    && let Err(refusal) = self.pass(gate, site.map(|s| &s.name), None).await
                {
                    return Then::Done(self.refuse(refusal, site.map_or(&[], |s| &s.error_pages)).await);
                }
                let refusal = Refusal { status: 404, reason: Some(Reason::NoRoute), close: false };
                return Then::Done(self.refuse(refusal, site.map_or(&[], |s| &s.error_pages)).await);
            }
        };
        let is_split = hit.split.is_some();
        let hit = match &hit.split {
            None => hit,
            Some(split) => self.choose(split),
        };
        let route = &hit.route;
        if let Some(log) = &hit.log {
            self.log = Some(Arc::clone(log));
            self.facts.start = clock::now_micros();
            self.place.site = Some(Arc::clone(&route.site));
            self.place.route = Some(Arc::clone(&route.name));
        }
        if let Some(https) = &hit.https
            && let Some(redirect) = self.wants_https(https)
        {
            return Then::Done(Box::pin(self.redirect_https(redirect)).await);
        }
        if let Some(gate) = &hit.gate
            && let Err(refusal) = self.pass(gate, Some(&route.site), Some(&route.name)).await
        {
            return Then::Done(self.refuse(refusal, &route.policy.error_pages).await);
        }
        let mut pool = None;
        let then = match &route.action {
            Action::Pool { rewrite, roles, .. } => {
                let Some(index) = hit.pool else {
                    return Then::Done(Next::Close);
                };
                // Which pool it is only `$pool` tells then.
                if is_split {
                    self.place.pool = Some(Arc::clone(&snapshot.pools[index].config.name));
                }
                let mut taker = index;
                let copying = hit.mirror.map(|pool| Copying { view, route, pool });
                let way = Way { policy: &route.policy, rewrite: rewrite.as_ref(), roles: *roles };
                let forwarded = self.forward(way, view, &mut taker, copying).await;
                pool = Some(taker);
                match forwarded {
                    Ok(then) => then,
                    Err(refusal) => Then::Done(self.refuse(refusal, &route.policy.error_pages).await),
                }
            }
            Action::Redirect { status, location } => {
                let mut text = std::mem::take(&mut self.scratch.text);
                text.clear();
                location.expand(&self.vars(), &mut text);
                let next = self.respond(*status, Some(&text), None, false, &route.policy.response_headers).await;
                self.scratch.text = text;
                Then::Done(next)
            }
            Action::Respond { status, body, content_type } => {
                let mut text = std::mem::take(&mut self.scratch.text);
                text.clear();
                body.expand(&self.vars(), &mut text);
                let next = self
                    .respond(*status, None, Some((&text, content_type)), false, &route.policy.response_headers)
                    .await;
                self.scratch.text = text;
                Then::Done(next)
            }
            // One of its routes was taken.
            Action::Split { .. } => Then::Done(Next::Close),
            Action::Close => {
                self.facts.reason = Some(Reason::RouteClosed);
                // Never sent; what nginx logs.
                self.facts.status = 444;
                Then::Done(Next::Close)
            }
        };
        // Whoever fails later is asked where it went, with a log or without.
        if self.facts.reason.is_some() || matches!(then, Then::Tunnel(_)) {
            let pool = pool.map(|index| Arc::clone(&snapshot.pools[index].config.name));
            self.place = Place { site: Some(Arc::clone(&route.site)), route: Some(Arc::clone(&route.name)), pool };
        }
        then
    }

    fn find<'v>(&mut self, listener: &'v ListenerView) -> Result<Found<'v, RouteView, SiteView>, Refusal> {
        let bytes = self.buf.bytes();
        let scratch = &mut *self.scratch;
        let head = &scratch.request;
        let received = head.path.of(bytes);
        scratch.path.clear();
        let bad = Refusal { status: 400, reason: Some(Reason::BadRequest), close: true };
        let path = match http1::path::normalise(received, &mut scratch.path) {
            // `OPTIONS *` asks about the server as a whole: whoever serves its root answers.
            _ if head.form == http1::TargetForm::Asterisk => b"/",
            Ok(true) => &scratch.path[..],
            Ok(false) => received,
            Err(_) => return Err(bad),
        };
        let header = |name: &str| head.values(bytes, name).next();
        // Only a listener that asks clients for certificates looks further.
        if listener.asks_clients && !self.conn.may_ask_for(head.host.of(bytes), listener) {
            return Err(Refusal { status: 421, reason: Some(Reason::Misdirected), close: false });
        }
        Ok(listener.routes.find(head.host.of(bytes), head.method_span.of(bytes), path, &header))
    }

    pub(super) async fn refuse(&mut self, refusal: Refusal, pages: &[ErrorPage]) -> Next {
        self.facts.reason = refusal.reason;
        if refusal.status == 0 {
            return Next::Close;
        }
        if C::HTTP2 && self.scratch.request.values(self.buf.bytes(), "content-type").any(respond::is_grpc) {
            // Boxed: few requests are refused, and all pay for the size of the future.
            return Box::pin(self.refuse_grpc(refusal.status)).await;
        }
        // What a route says of responses, for how long to cache them say, is not meant for failures (as nginx).
        let page = respond::page(pages, refusal.status);
        self.respond(refusal.status, None, page, refusal.close, &NO_EDITS).await
    }

    /// Tells a client of gRPC. What is noted is the status that this stands for.
    async fn refuse_grpc(&mut self, status: u16) -> Next {
        let mut out = std::mem::take(&mut self.scratch.out);
        out.clear();
        respond::write_grpc(&mut out, status, &httpdate::fmt_http_date(SystemTime::now()));
        self.facts.status = status;
        let sent = self.conn.send_all(&out).await;
        match sent {
            Ok(()) => self.facts.sent = out.len() as u64,
            Err(reason) => _ = self.facts.reason.get_or_insert(reason),
        }
        self.scratch.out = out;
        Next::Close
    }

    /// Sends a response of our own.
    pub(super) async fn respond(
        &mut self,
        status: u16,
        location: Option<&[u8]>,
        body: Option<(&[u8], &str)>,
        close: bool,
        edits: &HeaderEdits,
    ) -> Next {
        let conn = self.conn;
        let request = &self.scratch.request;
        // What was not read of the body would be taken for the next request.
        let unread = match request.body {
            Body::None | Body::UntilClose | Body::Length(0) => false,
            Body::Length(_) => self.held_body == 0,
            Body::Chunked => true,
        };
        let keep = !close && !unread && conn.may_keep(self.facts.requests, request.keep_alive);
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut out = std::mem::take(&mut self.scratch.out);
        out.clear();
        let mut fields = Vec::new();
        if !edits.is_empty() {
            headers::write_edits(&mut fields, edits, &self.vars());
        }
        fields.extend_from_slice(&self.scratch.hsts);
        if self.facts.retry_after > 0 {
            fields.extend_from_slice(b"Retry-After: ");
            headers::decimal(&mut fields, self.facts.retry_after.into());
            fields.extend_from_slice(b"\r\n");
        }
        let local = Local {
            status,
            location,
            body,
            head_only: request.method == Method::Head,
            close: !keep,
            say_keep_alive: keep && request.version == Version::Http10,
            date: &date,
            edits,
            fields: &fields,
        };
        let body_len = respond::write(&mut out, &local);
        self.facts.status = status;
        let sent = conn.send_all(&out).await;
        match sent {
            Ok(()) => {
                self.facts.sent = out.len() as u64;
                self.facts.body_sent = body_len as u64;
            }
            Err(reason) => {
                self.facts.reason.get_or_insert(reason);
            }
        }
        self.scratch.out = out;
        match (sent.is_ok(), keep) {
            (true, true) => Next::Request(None),
            (true, false) if unread || close => Next::Linger,
            (true, false) => Next::Last,
            (false, _) => Next::Close,
        }
    }

    pub(super) fn vars(&self) -> Vars<'_, 'c, C> {
        Vars { exchange: self }
    }

    /// Tells what there is to tell of an exchange that is over.
    fn conclude(&mut self) {
        if let Some(reason) = self.facts.reason.filter(|reason| !reason.is_refusal()) {
            self.conn.worker.shared.errors.record(|| self.failed(reason));
        }
        if let Some(log) = self.log.take() {
            let vars = Vars { exchange: self };
            self.conn.worker.log.borrow_mut().line(&log, &vars, SystemTime::now());
        }
    }

    /// What is kept of an exchange that failed.
    fn failed(&self, reason: Reason) -> FailedExchange {
        let (facts, head, bytes) = (&self.facts, &self.scratch.request, self.buf.bytes());
        let start = facts.since();
        let mut failed = FailedExchange {
            host: readable(head.host.of(bytes)),
            method: readable(head.method_span.of(bytes)),
            path: masked(head.path.of(bytes), head.query.map(|query| query.of(bytes))),
            site: self.place.site.clone(),
            route: self.place.route.clone(),
            pool: self.place.pool.clone(),
            status: facts.status,
            queued_ms: facts.queued.map(|micros| micros / 1000),
            duration_ms: (start > 0).then(|| clock::now_micros().saturating_sub(start) / 1000),
            ..FailedExchange::new(facts.client, Arc::clone(&self.conn.listener.name), reason)
        };
        self.scratch.tries.iter().for_each(|t| failed.add_try(&t.server, t.status, t.reason, t.detail.as_deref()));
        failed
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    /// The id that a trusted proxy sent along, else a new one.
    pub(super) fn request_id(&self) -> &RequestId {
        self.facts.id.get_or_init(|| {
            let mut fields = self.scratch.request.fields.iter();
            let sent = fields.find(|f| self.facts.trusted && f.kind == FieldName::XRequestId);
            let (worker, bytes) = (&self.conn.worker, self.buf.bytes());
            sent.and_then(|f| RequestId::taken(f.value.of(bytes)))
                .unwrap_or_else(|| RequestId::made(worker.random(), worker.random()))
        })
    }

    pub(super) fn wants_log(&self) -> bool {
        self.log.is_some()
    }

    /// Whether the client waits for 100 Continue; it is asked once.
    pub(super) fn take_expectation(&mut self) -> bool {
        std::mem::take(&mut self.expects)
    }
}

/// The client left: nothing to say, nobody to say it to.
pub(super) fn gone() -> Refusal {
    Refusal { status: 0, reason: Some(Reason::ClientGone), close: true }
}

/// Writes all of `bytes` to the client.
impl<C: Transport> Conn<C> {
    pub(super) async fn send_all(&self, mut bytes: &[u8]) -> Result<(), Reason> {
        self.timer.set(self.worker.now().after(self.listener.http.send_timeout));
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| {
                if let Poll::Ready(r) = self.io.poll_send(cx, &[IoSlice::new(bytes)]) {
                    return Poll::Ready(Some(r));
                }
                self.timer.poll_expired(cx).map(|()| None)
            })
            .await;
            match sent {
                Some(Ok(n)) => bytes = &bytes[n..],
                Some(Err(_)) => return Err(Reason::ClientGone),
                None => return Err(Reason::ClientTimeout),
            }
        }
        Ok(())
    }
}
