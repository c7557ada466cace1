//! The connection that a try at a server goes over: an idle one, a place on a shared one, or a new one.

use std::net::SocketAddr;

use http::uri::Scheme;
use rustix::net::getsockname;

use crate::config::model::{HttpVersion, Policy};
use crate::net::{Sock, Transport, clock};
use crate::pool::{Lease, Overflow, Pool};
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::failure::Failure;
use crate::proxy::idle::ServerConn;
use crate::proxy::link::shared::Shared;
use crate::proxy::link::{Link, Reach};
use crate::proxy::preface;
use crate::proxy::worker::PoolLocal;
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// What became of the connection that the same request went to the same server over before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// There was none.
    Nothing,
    /// It broke, and others may have with it.
    Broken,
    /// It stands; the server has refused the stream.
    Refused,
}

/// A connection to the server: an idle one, or a new one.
pub(super) async fn checkout<C: Transport>(
    ex: &mut Exchange<'_, C>,
    lease: &Lease,
    policy: &Policy,
    pool: &Pool,
    local: &PoolLocal,
    certain: bool,
    before: Before,
) -> Result<ServerConn, Failure> {
    if pool.config.http_version == HttpVersion::Http2 {
        // Boxed: exchanges over HTTP/1.1 do not pay for its size.
        return Box::pin(checkout_shared(ex, lease, policy, pool, local, certain, before)).await;
    }
    let worker = &ex.conn.worker;
    let server = lease.server();
    if before == Before::Nothing
        && let Some(conn) = local.idle.borrow_mut().take(server.id, &pool.config, worker.now(), certain)
    {
        note_port(ex, conn.link.sock());
        return Ok(conn);
    }
    let _pending = pool.wait_for_connection().map_err(|Overflow| Failure::Overflow)?;
    let deadline = clock::now().after(policy.connect_timeout);
    let link = new_link(ex, lease, pool, local, deadline).await?;
    Ok(ServerConn::new(link, server.id, ex.conn.worker.now()))
}

/// A place on a shared connection, or on a new one. Who finds that one is being made waits for it.
async fn checkout_shared<C: Transport>(
    ex: &mut Exchange<'_, C>,
    lease: &Lease,
    policy: &Policy,
    pool: &Pool,
    local: &PoolLocal,
    certain: bool,
    before: Before,
) -> Result<ServerConn, Failure> {
    let server = lease.server().id;
    let deadline = clock::now().after(policy.connect_timeout);
    let certain = certain || before == Before::Broken;
    let mut pending = None;
    let opener = loop {
        let now = ex.conn.worker.now();
        if let Some(ticket) = local.idle.borrow_mut().take_place(server, &pool.config, now, certain) {
            note_port(ex, ticket.link().sock());
            return Ok(ServerConn::shared(ticket, server, now));
        }
        if pending.is_none() {
            pending = Some(pool.wait_for_connection().map_err(|Overflow| Failure::Overflow)?);
        }
        let opening = local.idle.borrow().opening_to(server);
        // Nobody knows yet how many streams a new connection may have: who joins one may be refused again.
        let Some(opening) = opening.filter(|_| before != Before::Refused) else {
            break local.idle.borrow_mut().begin_opening(server);
        };
        ex.conn.timer.set(deadline);
        if !opening.wait(&ex.conn.timer).await {
            return Err(Failure::Connect(Reason::ConnectTimeout));
        }
    };
    let link = new_link(ex, lease, pool, local, deadline).await?;
    let (now, timer) = (ex.conn.worker.now(), ex.conn.worker.wheel.timer());
    let scheme = if pool.config.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let shared = Shared::start(link, server, scheme, timer, now).await;
    let unusable = || Failure::Reset { written: false, alone: false };
    let shared = shared.map_err(|_| unusable())?;
    let ticket = shared.ticket(&pool.config, now, false).ok_or_else(unusable)?;
    local.idle.borrow_mut().share(shared);
    drop((opener, pending));
    Ok(ServerConn::shared(ticket, server, now))
}

/// A fresh connection to the lease's server, until `deadline`.
async fn new_link<C: Transport>(
    ex: &mut Exchange<'_, C>,
    lease: &Lease,
    pool: &Pool,
    local: &PoolLocal,
    deadline: Millis,
) -> Result<Link, Failure> {
    let since = ex.facts.since();
    let conn = ex.conn;
    let (config, buffers) = (&pool.config, conn.worker.buffers());
    let header = config
        .send_proxy_protocol
        .map(|version| preface::header_for(version, conn.peer, &conn.io, &conn.listener, conn.preface.as_deref()));
    let header = header.as_deref();
    let reach = Reach { turn: &local.source, header, buffers, timer: &conn.timer, deadline };
    let link = reach.link(pool, lease.server()).await?;
    if let Some(t) = ex.scratch.tries.last_mut() {
        t.connect = Some(clock::now_micros().saturating_sub(since));
    }
    note_port(ex, link.sock());
    Ok(link)
}

fn note_port<C: Transport>(ex: &mut Exchange<'_, C>, sock: &Sock) {
    if ex.wants_log() {
        let local = getsockname(sock).ok().and_then(|a| SocketAddr::try_from(a).ok());
        ex.facts.upstream_port = local.map(|a| a.port());
    }
}
