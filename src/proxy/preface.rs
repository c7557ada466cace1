//! What stands before the client's own bytes: the header of the PROXY protocol that a proxy in front sends; and that which
//! servers are sent. A TLS handshake comes behind it (handshake.rs).
//!
//! Only connections of listeners with `proxy_protocol` are read here, before anything else is done with them. What is read
//! behind the header is kept for whoever goes on.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use crate::admission::AccessList;
use crate::config::model;
use crate::net::buffer::{Buffer, SMALL};
use crate::net::connect::ConnectError;
use crate::net::wheel::Timer;
use crate::net::{Sock, Transport};
use crate::proxy::errors::FailedExchange;
use crate::proxy::http::headers::decimal;
use crate::proxy::http::write_ip;
use crate::proxy::listen::ListenerCtx;
use crate::proxy::worker::Worker;
use crate::proxy_protocol::{Addresses, Header, Parse, Version, parse};
use crate::telemetry::reason::Reason;
use crate::template::Var;
use crate::time::Millis;
use crate::tls::Agreed;
use crate::tls::hello::{self, ClientHello};

/// What connections of a listener begin with.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Whether they must, and whose word counts.
    pub(crate) header: model::ProxyHeader,
    /// Whose connections are taken, by the source in the header; `None`: everybody's.
    pub(crate) access: Option<Arc<AccessList>>,
}

/// What came before the client's own bytes.
#[derive(Debug)]
pub(crate) struct Preface {
    /// The other end of the connection.
    pub(crate) proxy: SocketAddr,
    /// What it says; says nothing when there was none.
    pub(crate) header: Header,
    /// What the TLS handshake behind it has come to.
    pub(crate) agreed: Option<Agreed>,
    /// What the client says of TLS that is passed through.
    pub(crate) hello: Option<ClientHello>,
    /// Read behind it.
    rest: RefCell<Option<Buffer>>,
}

impl Preface {
    /// Whose connection it is.
    pub(crate) fn source(&self) -> SocketAddr {
        self.header.addresses.map_or(self.proxy, |addresses| addresses.source)
    }

    /// The client's own bytes that are here already; once.
    pub(crate) fn take_rest(&self) -> Option<Buffer> {
        self.rest.take()
    }

    /// Adds what the client says of TLS that is passed through, and `bytes`, all that have come.
    pub(crate) fn with_hello(self, hello: ClientHello, bytes: Option<Buffer>) -> Self {
        Self { hello: Some(hello), rest: RefCell::new(bytes), ..self }
    }

    /// Appends the value of one of the variables that tell of it; the others have none here.
    pub(crate) fn write(&self, var: &Var, out: &mut Vec<u8>) {
        let ip = |ip: IpAddr, out: &mut _| write_ip(out, ip.to_canonical());
        match (var, self.header.addresses) {
            (Var::RealipRemoteAddr, _) => ip(self.proxy.ip(), out),
            (Var::ProxyProtocolAddr, Some(addresses)) => ip(addresses.source.ip(), out),
            (Var::ProxyProtocolPort, Some(addresses)) => decimal(out, u64::from(addresses.source.port())),
            (Var::ProxyProtocolServerAddr, Some(addresses)) => ip(addresses.destination.ip(), out),
            (Var::ProxyProtocolServerPort, Some(addresses)) => decimal(out, u64::from(addresses.destination.port())),
            _ => self.hello.iter().for_each(|hello| write_hello(hello, var, out)),
        }
    }
}

fn write_hello(hello: &ClientHello, var: &Var, out: &mut Vec<u8>) {
    match var {
        Var::SslPrereadServerName => out.extend(hello.server_name.iter().flat_map(|name| name.bytes())),
        Var::SslPrereadAlpnProtocols => out.extend(hello.alpn.join(&b","[..])),
        Var::SslPrereadProtocol => {
            out.extend(hello.highest_version().and_then(hello::Version::name).unwrap_or_default().bytes())
        }
        _ => {}
    }
}

/// Our end of a client's connection: the listener's address unless that is the unspecified one.
pub(crate) fn local_address<T: Transport>(io: &T, listener: &ListenerCtx) -> SocketAddr {
    let bound = listener.address;
    if bound.ip().is_unspecified() { io.local_address().unwrap_or(bound) } else { bound }
}

/// The header that tells a server of a client's connection, as it is sent.
pub(crate) fn header_for<T: Transport>(
    version: Version,
    source: SocketAddr,
    io: &T,
    listener: &ListenerCtx,
    preface: Option<&Preface>,
) -> Vec<u8> {
    let came = preface.map(|preface| &preface.header);
    let destination = came.and_then(|came| came.addresses).map(|addresses| addresses.destination);
    let destination = destination.unwrap_or_else(|| local_address(io, listener));
    let tlvs = came.map(|came| came.tlvs.clone()).unwrap_or_default();
    let mut bytes = Vec::new();
    version.write(&Header { addresses: Some(Addresses { source, destination }), tlvs }, &mut bytes);
    bytes
}

/// Sends the header on a connection to a server that was just made, until `deadline`, which is set on `timer`.
///
/// # Errors
/// As of the connection: nothing that the server should do has reached it.
pub(crate) async fn send(server: &Sock, header: &[u8], timer: &Timer, deadline: Millis) -> Result<(), ConnectError> {
    timer.set(deadline);
    let mut rest = header;
    poll_fn(|cx| {
        while !rest.is_empty() {
            match server.poll_send(cx, &[IoSlice::new(rest)]) {
                Poll::Ready(Ok(n)) => rest = rest.get(n..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectError::Failed(error))),
                Poll::Pending => return timer.poll_expired(cx).map(|()| Err(ConnectError::TimedOut)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Why nothing more is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has left, or this process is about to.
    Over,
    /// The client has not said enough in time.
    TimedOut,
}

/// Reads the header that connections of `listener` begin with, and looks who is let in by it. `None`: the connection is to be
/// closed; what there is to say about it has been said.
pub(crate) async fn read<T: Transport>(
    io: &T,
    peer: SocketAddr,
    worker: &Worker,
    listener: &ListenerCtx,
) -> Option<Preface> {
    let none = Preface { proxy: peer, header: Header::default(), agreed: None, hello: None, rest: RefCell::default() };
    let Some(Expected { header: expected, access }) = &listener.expected else { return Some(none) };
    let is_trusted = expected.trusted.iter().any(|network| network.contains(peer.ip()));
    let preface = match (is_trusted, expected.required) {
        (true, _) => header(io, none, worker, listener, expected).await?,
        (false, false) => none,
        (false, true) => {
            listener.counters.denied.fetch_add(1, Ordering::Relaxed);
            if listener.counters.may_warn(worker.now()) {
                tracing::warn!(listener = %listener.name, %peer,
                    "closed: proxy_protocol is required, and the peer is not in trusted_proxies");
            }
            return None;
        }
    };
    if access.as_ref().is_some_and(|list| !list.allows(preface.source().ip())) {
        listener.counters.denied.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    Some(preface)
}

/// Reads the header of a trusted peer.
async fn header<T: Transport>(
    io: &T,
    none: Preface,
    worker: &Worker,
    listener: &ListenerCtx,
    expected: &model::ProxyHeader,
) -> Option<Preface> {
    let timer = worker.wheel.timer();
    timer.set(worker.now().after(expected.timeout));
    let mut bytes = Vec::new();
    let read = read_until(io, &timer, worker, listener, &mut bytes, |bytes| match parse(bytes) {
        Ok(Parse::Partial) => None,
        end => Some(end),
    });
    let (header, len) = match read.await {
        Ok(Ok(Parse::Complete { header, len })) => (header, len),
        Ok(Ok(_)) if !expected.required => (Header::default(), 0),
        Ok(Ok(_)) => {
            return refuse(&none, worker, listener, Reason::ProxyHeader, "it does not begin with a PROXY header");
        }
        Ok(Err(error)) => {
            return refuse(&none, worker, listener, Reason::ProxyHeader, &format!("PROXY header: {error}"));
        }
        Err(End::TimedOut) => {
            return refuse(&none, worker, listener, Reason::ClientTimeout, "no whole PROXY header in time");
        }
        Err(End::Over) => return None,
    };
    Some(Preface { header, rest: RefCell::new(held(&bytes[len..], worker)), ..none })
}

/// Notes why a connection is closed before anything was done with it.
fn refuse(preface: &Preface, worker: &Worker, listener: &ListenerCtx, reason: Reason, why: &str) -> Option<Preface> {
    let peer = preface.proxy;
    worker.shared.errors.record(|| FailedExchange::new(peer.ip().to_canonical(), Arc::clone(&listener.name), reason));
    if listener.counters.may_warn(worker.now()) {
        tracing::warn!(listener = %listener.name, %peer, %reason, "closed: {why}");
    }
    None
}

/// A buffer with `bytes`, if there are any.
pub(super) fn held(bytes: &[u8], worker: &Worker) -> Option<Buffer> {
    let mut buf = worker.buffers().take(bytes.len().max(1));
    buf.push(bytes);
    Some(buf).filter(|buf| !buf.is_empty())
}

/// Reads until `end` makes something of what has come, all of which is in `bytes` then. Holds no more than those while it
/// waits.
pub(super) async fn read_until<T: Transport, R>(
    io: &T,
    timer: &Timer,
    worker: &Worker,
    listener: &ListenerCtx,
    bytes: &mut Vec<u8>,
    mut end: impl FnMut(&[u8]) -> Option<R>,
) -> Result<R, End> {
    poll_fn(|cx| {
        loop {
            let mut buf = worker.buffers().take(SMALL);
            match io.poll_recv(cx, buf.space()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    buf.filled(n);
                    bytes.extend_from_slice(buf.bytes());
                    if let Some(end) = end(bytes) {
                        return Poll::Ready(Ok(end));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Err(End::Over)),
                Poll::Pending if timer.poll_expired(cx).is_ready() => return Poll::Ready(Err(End::TimedOut)),
                Poll::Pending if listener.has_ended(worker.now()) => return Poll::Ready(Err(End::Over)),
                // Who has begun to speak is served, also when epoll has not told of it yet.
                Poll::Pending
                    if bytes.is_empty() && worker.draining() && !io.plain().is_some_and(Sock::is_stale_now) =>
                {
                    return Poll::Ready(Err(End::Over));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
