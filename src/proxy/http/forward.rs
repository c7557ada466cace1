//! Forwarding a request: its body, a server, other servers where that is safe, the response back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::config::model::{Algorithm, PathRewrite, Policy, Retry, RoleRule, Sticky};
use crate::http1::{Body, Chunked, TargetForm, Version};
use crate::net::buffer::Buffer;
use crate::net::{Transport, clock};
use crate::pool::{CircuitOpen, Lease, Outcome, Overflow, Pass, PickInput, Pool, RetryPermit, Tried, Use, Wanted};
use crate::proxy::http::Next;
use crate::proxy::http::attempt::{self, Attempt, Relayed, Sending};
use crate::proxy::http::checkout::{Before, checkout};
use crate::proxy::http::exchange::{Exchange, Refusal, Then, gone};
use crate::proxy::http::failure::Failure;
use crate::proxy::http::headers::{self, RequestParts};
use crate::proxy::http::mirror::Copying;
use crate::proxy::http::scratch::{Scratch, Try};
use crate::proxy::pump::{Framing, Pump, PumpError, Recode};
use crate::proxy::tunnel::tunnel;
use crate::proxy::worker::{PoolLocal, View, admit};
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// How a route's requests go to its pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'r> {
    pub(super) policy: &'r Policy,
    pub(super) rewrite: Option<&'r PathRewrite>,
    pub(super) roles: Option<RoleRule>,
}

/// A connection that has stopped being HTTP.
pub(super) struct Tunnel {
    attempt: Attempt,
    up: Pump,
    down: Pump,
    idle: Duration,
}

impl<C: Transport> Exchange<'_, C> {
    /// `index`: the route's pool; then the one that takes it, which may be a fallback.
    pub(super) async fn forward(
        &mut self,
        way: Way<'_>,
        view: &View,
        index: &mut usize,
        copying: Option<Copying<'_>>,
    ) -> Result<Then, Refusal> {
        let Way { policy, rewrite, roles } = way;
        let mut stream = self.take_body(policy).await?;
        if let Some(to) = copying {
            self.copy(&to, stream.is_some());
        }
        let admitted = admit(&view.snapshot, *index, roles.map(Wanted::from), self.conn.worker.now());
        let (at, mut pass) = admitted.map_err(|open| self.circuit_open(open))?;
        *index = at;
        let (pool, local) = (&view.snapshot.pools[at], &view.pools[at]);
        if self.log.is_some() {
            self.place.pool = Some(Arc::clone(&pool.config.name));
        }
        self.build_head(policy, rewrite, pool);
        let idempotent = policy.retry.non_idempotent || self.scratch.request.method.is_idempotent();
        let mut tries = Tries::new(pool, &policy.retry, roles, self.conn.worker.now());
        if pool.is_sticky() {
            tries.tried.stick_to(self.stick(pool));
        }
        let mut last: Option<Refusal> = None;
        self.scratch.text.clear();
        if let Algorithm::Hash { key, .. } = &pool.config.algorithm {
            let mut text = std::mem::take(&mut self.scratch.text);
            key.expand(&self.vars(), &mut text);
            self.scratch.text = text;
        }
        loop {
            let lease = match self.pick(pool, local, &mut tries.tried, pass.take()).await {
                Ok(lease) => lease,
                Err(refusal) => return Err(last.unwrap_or(refusal)),
            };
            let failure = match self.attempt(&lease, policy, pool, local, &mut stream, idempotent, &mut tries).await {
                Ok(attempt) => {
                    if pool.is_sticky() {
                        self.keep(pool, &tries.tried, &lease);
                    }
                    drop(tries);
                    return self.relay(attempt, lease, policy, pool, local, stream).await;
                }
                Err(failure) => failure,
            };
            let now = self.conn.worker.now();
            let refusal = failure.refusal();
            self.note_try(&lease, failure.status(), failure.reason());
            if let (Some(detail), Some(last)) = (failure.detail(), self.scratch.tries.last_mut()) {
                last.detail = Some(detail.into());
            }
            if let Some(outcome) = failure.outcome() {
                self.conn.worker.count_outcome(pool, &lease, outcome);
            }
            if failure.counts(&policy.retry.on) {
                self.conn.worker.count_failure(pool, local, &lease, &failure);
            }
            let goes_on = matches!(failure, Failure::Status(_))
                || (stream.as_ref().is_none_or(|s| !s.started)
                    && failure.may_retry(&policy.retry.on, idempotent)
                    && tries.start_next(now));
            if !goes_on {
                return Err(refusal);
            }
            pass = match (pool.admit(now), &failure) {
                (Ok(pass), _) => pass,
                // The response is gone with its connection.
                (Err(open), Failure::Status(_)) => return Err(self.circuit_open(open)),
                (Err(_), _) => return Err(refusal),
            };
            last = Some(refusal);
        }
    }

    /// Reads a body that is to be complete before a server is taken; one that is to be streamed is handed back.
    async fn take_body(&mut self, policy: &Policy) -> Result<Option<Stream>, Refusal> {
        let head = &self.scratch.request;
        let too_large = Refusal { status: 413, reason: Some(Reason::BodyTooLarge), close: true };
        let behind = self.buf.len() - head.len;
        match head.body {
            Body::None | Body::UntilClose => Ok(None),
            Body::Length(0) => Ok(None),
            Body::Length(n) => {
                if policy.max_body_size.is_some_and(|max| n > max) {
                    return Err(too_large);
                }
                let held = usize::try_from(n).ok().filter(|&n| n <= policy.request_buffering || n <= behind);
                match held {
                    Some(n) => {
                        self.read_body(n).await?;
                        Ok(None)
                    }
                    None => Ok(Some(self.stream(Framing::Length(n), u64::MAX))),
                }
            }
            Body::Chunked => {
                let max = policy.max_body_size.unwrap_or(u64::MAX);
                Ok(Some(self.stream(Framing::Chunked(Chunked::new()), max)))
            }
        }
    }

    /// Moves what was read behind the head into a buffer of its own.
    fn stream(&mut self, framing: Framing, max: u64) -> Stream {
        let head_len = self.scratch.request.len;
        let behind = &self.buf.bytes()[head_len..];
        let initial = (!behind.is_empty()).then(|| {
            let mut b = self.conn.worker.buffers().take(behind.len());
            b.push(behind);
            b
        });
        self.buf.truncate(head_len);
        Stream { framing: Some(framing), initial, max, started: false }
    }

    async fn read_body(&mut self, n: usize) -> Result<(), Refusal> {
        let conn = self.conn;
        let whole = self.scratch.request.len + n;
        self.facts.received = whole as u64;
        if self.buf.len() < whole {
            if std::mem::take(&mut self.expects) {
                conn.send_all(attempt::CONTINUE).await.map_err(|_| gone())?;
            }
            self.buf.grow(whole);
        }
        while self.buf.len() < whole {
            conn.timer.set(conn.worker.now().after(conn.listener.http.body_timeout));
            let buf = &mut self.buf;
            let read = poll_fn(|cx| {
                if let Poll::Ready(r) = conn.io.poll_recv(cx, buf.space()) {
                    return Poll::Ready(Some(r));
                }
                conn.timer.poll_expired(cx).map(|()| None)
            })
            .await;
            match read {
                Some(Ok(n)) if n > 0 => self.buf.filled(n),
                Some(_) => return Err(gone()),
                None => return Err(Refusal { status: 408, reason: Some(Reason::ClientTimeout), close: true }),
            }
        }
        self.held_body = n;
        Ok(())
    }

    fn build_head(&mut self, policy: &Policy, rewrite: Option<&PathRewrite>, pool: &Pool) {
        let mut out = std::mem::take(&mut self.scratch.out);
        let mut target = std::mem::take(&mut self.scratch.target);
        out.clear();
        target.clear();
        let bytes = self.buf.bytes();
        let head = &self.scratch.request;
        if let Some(rewrite) = rewrite.filter(|_| head.form != TargetForm::Asterisk) {
            self.rewrite_target(rewrite, &mut target);
        } else if head.form == TargetForm::Absolute {
            target.extend_from_slice(match head.path.of(bytes) {
                b"" => b"/",
                path => path,
            });
            if let Some(query) = head.query {
                target.push(b'?');
                target.extend_from_slice(query.of(bytes));
            }
        }
        let vars = self.vars();
        let peer = if policy.x_forwarded || policy.forwarded { self.conn.peer_text() } else { "" };
        let parts = RequestParts {
            head,
            bytes,
            target: if target.is_empty() { head.target.of(bytes) } else { &target },
            default_host: &pool.config.name,
            policy,
            own_cookie: pool.config.sticky.as_ref().and_then(Sticky::cookie),
            trusted: self.facts.trusted,
            peer,
            scheme: self.conn.scheme(),
            request_id: if policy.request_id { self.request_id().as_bytes() } else { b"" },
            vars: &vars,
        };
        headers::write_request(&mut out, &parts);
        self.scratch.out = out;
        self.scratch.target = target;
    }

    fn rewrite_target(&self, rewrite: &PathRewrite, target: &mut Vec<u8>) {
        let bytes = self.buf.bytes();
        let head = &self.scratch.request;
        let path = head.path.of(bytes);
        match rewrite {
            PathRewrite::StripPrefix(prefix) => {
                let rest = path.strip_prefix(prefix.trim_end_matches('/').as_bytes()).unwrap_or(path);
                if !rest.starts_with(b"/") {
                    target.push(b'/');
                }
                target.extend_from_slice(rest);
            }
            PathRewrite::ReplacePrefix { prefix, with } => match path.strip_prefix(prefix.as_bytes()) {
                Some(rest) => {
                    target.extend_from_slice(with.as_bytes());
                    target.extend_from_slice(rest);
                }
                None => target.extend_from_slice(path),
            },
            PathRewrite::Replace(template) => {
                template.expand(&self.vars(), target);
                // A variable may carry decoded bytes: none may end the request line.
                for b in target.iter_mut() {
                    if !b.is_ascii_graphic() {
                        *b = b'_';
                    }
                }
            }
        }
        if let Some(query) = head.query {
            target.push(b'?');
            target.extend_from_slice(query.of(bytes));
        }
    }

    fn circuit_open(&mut self, open: CircuitOpen) -> Refusal {
        self.facts.retry_after = open.retry_after();
        Refusal { status: 503, reason: Some(Reason::CircuitOpen), close: false }
    }

    async fn pick(
        &mut self,
        pool: &Pool,
        local: &PoolLocal,
        tried: &mut Tried,
        pass: Option<Pass>,
    ) -> Result<Lease, Refusal> {
        let input = PickInput { client: self.facts.client, key: &self.scratch.text };
        let picked = self.conn.worker.pick(pool, local, &input, tried, &mut self.facts.queued).await;
        let lease =
            picked.and_then(|lease| pool.occupy(lease, pass, Use::Request).map_err(|Overflow| Reason::Overflow));
        lease.map_err(|reason| {
            let status = if reason == Reason::NoServer { 502 } else { 503 };
            Refusal { status, reason: Some(reason), close: false }
        })
    }

    /// One server: over an idle connection if there is one, over another one if that turns out to be dead.
    #[expect(clippy::too_many_arguments, reason = "what a try needs is spread over the exchange's owners")]
    async fn attempt(
        &mut self,
        lease: &Lease,
        policy: &Policy,
        pool: &Pool,
        local: &PoolLocal,
        stream: &mut Option<Stream>,
        idempotent: bool,
        tries: &mut Tries<'_>,
    ) -> Result<Attempt, Failure> {
        // Without a log the first one is noted when it fails, which costs the others nothing.
        if self.log.is_some() || !self.scratch.tries.is_empty() {
            self.scratch.tries.push(Try::new(Arc::clone(lease.server())));
        }
        self.facts.tried = clock::now_micros();
        if self.facts.picked == 0 {
            self.facts.picked = self.facts.tried;
        }
        if let Some(roles) = tries.roles {
            // Read when it was the primary; what is lost while the connection is made is lost too.
            self.facts.losses = roles.ends_with_role.then(|| lease.server().role_losses());
            if Wanted::from(roles).is_lost_by(lease.server()) {
                return Err(Failure::RoleLost { written: false });
            }
        }
        let mut before = Before::Nothing;
        loop {
            // A streamed body cannot be sent twice either.
            let certain = !idempotent || stream.is_some();
            let conn = checkout(self, lease, policy, pool, local, certain, before).await?;
            let reused = conn.requests > 0;
            let result = attempt::exchange_head(self, conn, lease, policy, stream, tries).await;
            match result {
                // The server closed an idle connection just now, or has refused the stream. Nothing of the request
                // reached the application: it goes out once more, and the server is not to blame.
                Err(Failure::Reset { written, alone })
                    if reused
                        && before == Before::Nothing
                        && (!written || (idempotent && !alone))
                        && stream.as_ref().is_none_or(|s| !s.started) =>
                {
                    before = if alone { Before::Refused } else { Before::Broken };
                }
                other => return other,
            }
        }
    }

    /// Notes what the server that was tried last answered (0: nothing), and what was wrong with it.
    fn note_try(&mut self, lease: &Lease, status: u16, reason: Option<Reason>) {
        if self.scratch.tries.is_empty() {
            self.scratch.tries.push(Try::new(Arc::clone(lease.server())));
        }
        if let Some(last) = self.scratch.tries.last_mut() {
            last.status = status;
            last.reason = reason;
        }
    }

    /// The response is here: pass it on, while the rest of the request goes the other way.
    async fn relay(
        &mut self,
        mut attempt: Attempt,
        lease: Lease,
        policy: &Policy,
        pool: &Pool,
        local: &PoolLocal,
        stream: Option<Stream>,
    ) -> Result<Then, Refusal> {
        let conn = self.conn;
        let status = self.scratch.response.status;
        self.facts.status = status;
        conn.worker.count_outcome(pool, &lease, Outcome::of_status(status));
        if let Some(last) = self.scratch.tries.last_mut() {
            last.status = status;
        }
        if status == 101 {
            conn.worker.count_success(&lease);
            self.note_try(&lease, status, None);
            return Ok(self.start_tunnel(attempt, lease, policy));
        }
        let framing = self.response_framing(attempt.sending.is_done());
        if framing.head.own_hsts {
            let Scratch { own_fields, hsts, .. } = &mut *self.scratch;
            own_fields.extend_from_slice(hsts);
        }
        let mut out = std::mem::take(&mut self.scratch.out);
        out.clear();
        let head_len = self.scratch.response.len;
        let logged = self.log.as_ref().is_some_and(|log| log.uses_upstream_fields());
        if logged || !policy.response_headers.is_empty() {
            self.scratch.received.clear();
            self.scratch.received.extend_from_slice(&attempt.buf.bytes()[..head_len]);
        }
        headers::write_response(
            &mut out,
            &self.scratch.response,
            attempt.buf.bytes(),
            &policy.response_headers,
            framing.head,
            &self.scratch.own_fields,
            &self.vars(),
        );
        attempt.buf.consume(head_len);
        let means = conn.worker.means(policy.response_buffering);
        let Ok(mut pump) = Pump::new(framing.body, framing.recode, Some(attempt.buf.take()), means) else {
            self.scratch.out = out;
            conn.worker.count_failure(pool, local, &lease, Reason::BadBody);
            return Err(Refusal { status: 502, reason: Some(Reason::BadBody), close: false });
        };
        pump.send_first(&out);
        let relayed = attempt::relay_body(self, &mut attempt, &mut pump, &lease, policy).await;
        self.facts.upstream_received += head_len as u64 + pump.body();
        if let Some(t) = self.scratch.tries.last_mut() {
            t.response = Some(clock::now_micros().saturating_sub(self.facts.since()));
        }
        let sent_all = attempt.sending.is_done();
        self.facts.received += attempt.sending.streamed();
        self.facts.upstream_sent += attempt.sending.streamed();
        conn.worker.count_success(&lease);
        if let Err(reason) = relayed {
            self.note_try(&lease, status, Some(reason).filter(|reason| !reason.is_of_client()));
        }
        let clean = relayed.is_ok() && pump.source_done() && sent_all && !pump.has_rest();
        if clean && self.scratch.response.keep_alive && !self.facts.has_lost(lease.server()) {
            attempt.conn.losses = self.facts.losses;
            let (now, wheel) = (conn.worker.now(), &conn.worker.wheel);
            local.idle.borrow_mut().put(attempt.conn, &pool.config, now, wheel);
        }
        // Others may have the server while a slow client takes the rest.
        drop(lease);
        let end = match relayed {
            Ok(Relayed::Read) => attempt::flush_body(conn, &mut pump).await,
            other => other.map(|_| ()),
        };
        self.facts.sent = pump.sent();
        self.facts.body_sent = pump.sent().saturating_sub(out.len() as u64);
        self.scratch.out = out;
        if let Err(reason) = end {
            self.facts.reason = Some(reason);
            if !matches!(reason, Reason::ClientGone) {
                // Half a response must not look like a whole one.
                conn.io.set_abort();
            }
            return Ok(Then::Done(Next::Close));
        }
        if let Some(s) = stream {
            if !sent_all {
                return Ok(Then::Done(Next::Linger));
            }
            debug_assert!(s.started);
        }
        self.rest = attempt.sending.into_rest();
        let next =
            if framing.head.close { if sent_all { Next::Last } else { Next::Linger } } else { Next::Request(None) };
        Ok(Then::Done(next))
    }

    /// How the response goes out. While the request still comes in (`!sent`) nobody knows whether the server will read
    /// the rest of it, so the connection is not promised to stay.
    fn response_framing(&self, sent: bool) -> ResponsePlan {
        let (request, response) = (&self.scratch.request, &self.scratch.response);
        let old = request.version == Version::Http10;
        let mut keep = sent && self.conn.may_keep(self.facts.requests, request.keep_alive);
        let (body, recode) = match response.body {
            Body::None => (Framing::Length(0), Recode::AsIs),
            Body::Length(n) => (Framing::Length(n), Recode::AsIs),
            Body::Chunked if old => (Framing::Chunked(Chunked::new()), Recode::Dechunk),
            Body::Chunked => (Framing::Chunked(Chunked::new()), Recode::AsIs),
            Body::UntilClose if old || !keep => (Framing::UntilClose, Recode::AsIs),
            Body::UntilClose => (Framing::UntilClose, Recode::Enchunk),
        };
        let until_close = recode == Recode::Dechunk || (matches!(body, Framing::UntilClose) && recode == Recode::AsIs);
        keep &= !until_close;
        let bodiless_chunked = response.body == Body::None && response.chunked && !old;
        ResponsePlan {
            head: headers::ResponseFraming {
                chunked: bodiless_chunked
                    || recode == Recode::Enchunk
                    || (matches!(body, Framing::Chunked(_)) && recode == Recode::AsIs),
                own_hsts: !self.scratch.hsts.is_empty(),
                drop_length: recode == Recode::Enchunk,
                close: !keep,
                say_keep_alive: old && keep,
            },
            body,
            recode,
        }
    }

    fn start_tunnel(&mut self, mut attempt: Attempt, mut lease: Lease, policy: &Policy) -> Then {
        let conn = self.conn;
        let mut out = std::mem::take(&mut self.scratch.out);
        out.clear();
        let own = &self.scratch.own_fields;
        headers::write_informational(&mut out, &self.scratch.response, attempt.buf.bytes(), own);
        attempt.buf.consume(self.scratch.response.len);
        let means = conn.worker.means(policy.response_buffering);
        let behind = &self.buf.bytes()[self.scratch.request.len..];
        let early = (!behind.is_empty()).then(|| {
            let mut b = conn.worker.buffers().take(behind.len());
            b.push(behind);
            b
        });
        let server_first = attempt.buf.take();
        let raw = |initial| Pump::of_tunnel(initial, means.clone());
        let (Ok(up), Ok(mut down)) = (raw(early), raw(Some(server_first))) else {
            return Then::Done(Next::Close);
        };
        down.send_first(&out);
        self.scratch.out = out;
        lease.end_request();
        attempt.lease = Some(lease);
        Then::Tunnel(Box::new(Tunnel { attempt, up, down, idle: policy.tunnel_timeout }))
    }

    pub(super) async fn tunnel(&mut self, t: Tunnel) -> Next {
        let conn = self.conn;
        let now = || conn.worker.now();
        let server = t.attempt.lease.as_ref().map(Lease::server);
        let facts = &self.facts;
        let cut = || {
            let server = server?;
            if conn.has_ended(server) {
                return Some(Reason::DrainTimeout);
            }
            facts.has_lost(server).then_some(Reason::RoleLost)
        };
        let end = tunnel(&conn.io, &t.attempt.conn.link, t.up, t.down, &conn.timer, t.idle, now, cut).await;
        self.facts.sent += end.to_client;
        self.facts.body_sent += end.to_client;
        self.facts.received += end.to_server;
        self.facts.upstream_sent += end.to_server;
        self.facts.upstream_received += end.to_client;
        self.facts.reason = end.reason;
        Next::Close
    }
}

/// The servers a request was sent to, and whether it may go to one more.
pub(super) struct Tries<'p> {
    pool: &'p Pool,
    retry: &'p Retry,
    roles: Option<RoleRule>,
    tried: Tried,
    left: u32,
    since: Millis,
    permit: Option<RetryPermit>,
}

impl<'p> Tries<'p> {
    fn new(pool: &'p Pool, retry: &'p Retry, roles: Option<RoleRule>, now: Millis) -> Self {
        let tried = Tried::wanting(roles.map(Wanted::from));
        Self { pool, retry, roles, tried, left: retry.retries, since: now, permit: None }
    }

    /// Starts the next try if number, time, servers and the retry budget allow one.
    pub(super) fn start_next(&mut self, now: Millis) -> bool {
        let in_time = self.retry.timeout.is_none_or(|t| self.since.after(t) > now);
        if self.left == 0 || !in_time || !self.pool.has_untried(&self.tried, now) || self.pool.would_admit(now).is_err()
        {
            return false;
        }
        self.permit = None;
        self.permit = self.pool.try_retry();
        self.left -= u32::from(self.permit.is_some());
        self.permit.is_some()
    }
}

struct ResponsePlan {
    head: headers::ResponseFraming,
    body: Framing,
    recode: Recode,
}

/// A request body on its way through.
#[derive(Debug)]
pub(super) struct Stream {
    /// Taken by the pump once a server is there.
    pub(super) framing: Option<Framing>,
    pub(super) initial: Option<Buffer>,
    pub(super) max: u64,
    /// Some of it was sent: no other server can be tried.
    pub(super) started: bool,
}

/// What a failed request pump means for the client.
pub(super) fn body_refusal(e: PumpError) -> Refusal {
    match e {
        PumpError::TooLarge => Refusal { status: 413, reason: Some(Reason::BodyTooLarge), close: true },
        PumpError::Framing => Refusal { status: 400, reason: Some(Reason::BadRequest), close: true },
        PumpError::Source | PumpError::Truncated | PumpError::Dest => gone(),
    }
}

impl Sending {
    /// What was read behind the body.
    pub(super) fn into_rest(self) -> Option<Buffer> {
        match self {
            Self::Held { .. } => None,
            Self::Stream(pump) => pump.into_rest(),
        }
    }
}
