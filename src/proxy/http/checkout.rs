//! The connection that a try at a server goes over: an idle one, a place on a shared one, or a new one.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use http::uri::Scheme;
use rustix::net::getsockname;

use crate::config::model::{HttpVersion, Policy};
use crate::net::connect::{Target, connect};
use crate::net::{Sock, Transport, clock};
use crate::pool::{Lease, Overflow, Pool};
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::failure::{Failure, connect_failure};
use crate::proxy::idle::ServerConn;
use crate::proxy::link::Link;
use crate::proxy::link::shared::Shared;
use crate::proxy::preface;
use crate::proxy::worker::PoolLocal;
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// A connection to the server: an idle one, or a new one.
pub(super) async fn checkout<C: Transport>(
    ex: &mut Exchange<'_, C>,
    lease: &Lease,
    policy: &Policy,
    pool: &Pool,
    local: &PoolLocal,
    certain: bool,
    may_reuse: bool,
) -> Result<ServerConn, Failure> {
    if pool.config.http_version == HttpVersion::Http2 {
        // Boxed: exchanges over HTTP/1.1 do not pay for its size.
        return Box::pin(checkout_shared(ex, lease, policy, pool, local, certain, may_reuse)).await;
    }
    let worker = &ex.conn.worker;
    let server = lease.server();
    if may_reuse && let Some(conn) = local.idle.borrow_mut().take(server.id, &pool.config, worker.now(), certain) {
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
    may_reuse: bool,
) -> Result<ServerConn, Failure> {
    let server = lease.server().id;
    let deadline = clock::now().after(policy.connect_timeout);
    let mut pending = None;
    let opener = loop {
        let now = ex.conn.worker.now();
        if may_reuse && let Some(ticket) = local.idle.borrow_mut().take_place(server, &pool.config, now, certain) {
            note_port(ex, ticket.link().sock());
            return Ok(ServerConn::shared(ticket, server, now));
        }
        if pending.is_none() {
            pending = Some(pool.wait_for_connection().map_err(|Overflow| Failure::Overflow)?);
        }
        let opening = local.idle.borrow().opening_to(server);
        let Some(opening) = opening.filter(|_| may_reuse) else {
            break local.idle.borrow_mut().begin_opening(server);
        };
        ex.conn.timer.set(deadline);
        if !opening.wait(&ex.conn.timer).await {
            return Err(Failure::Connect(Reason::ConnectTimeout));
        }
    };
    let link = new_link(ex, lease, pool, local, deadline).await?;
    let (now, timer) = (ex.conn.worker.now(), ex.conn.worker.wheel.timer());
    let shared = Shared::start(link, server, Scheme::HTTP, timer, now).await;
    let shared = shared.map_err(|_| Failure::Reset { written: false })?;
    let ticket = shared.ticket(&pool.config, now, false).ok_or(Failure::Reset { written: false })?;
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
    let address = lease.server().address;
    let target = Target {
        address,
        source: next_source(&pool.config.source_addresses, address.is_ipv4(), &local.source),
        keepalive: pool.config.tcp_keepalive,
    };
    let since = ex.facts.since();
    let sock = connect(&target, &ex.conn.timer, deadline).await.map_err(connect_failure)?;
    if let Some(version) = pool.config.send_proxy_protocol {
        let conn = ex.conn;
        let header = preface::header_for(version, conn.peer, &conn.io, &conn.listener, conn.preface.as_deref());
        Box::pin(preface::send(&sock, &header, &conn.timer, deadline)).await.map_err(connect_failure)?;
    }
    if let Some(t) = ex.scratch.tries.last_mut() {
        t.connect = Some(clock::now_micros().saturating_sub(since));
    }
    note_port(ex, &sock);
    Ok(Link::Plain(sock))
}

/// The next of the configured source addresses of the server's family.
pub(crate) fn next_source(sources: &[IpAddr], v4: bool, turn: &Cell<usize>) -> Option<IpAddr> {
    let count = sources.iter().filter(|s| s.is_ipv4() == v4).count();
    if count == 0 {
        return None;
    }
    turn.set(turn.get().wrapping_add(1));
    sources.iter().filter(|s| s.is_ipv4() == v4).nth(turn.get() % count).copied()
}

fn note_port<C: Transport>(ex: &mut Exchange<'_, C>, sock: &Sock) {
    if ex.wants_log() {
        let local = getsockname(sock).ok().and_then(|a| SocketAddr::try_from(a).ok());
        ex.facts.upstream_port = local.map(|a| a.port());
    }
}
