//! What is known of a TCP session: for variables, for the access log.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::getsockname;

use crate::net::{Sock, clock};
use crate::pool::Server;
use crate::proxy::errors::FailedExchange;
use crate::proxy::http::headers::decimal;
use crate::proxy::http::{seconds, write_display, write_ip};
use crate::proxy::link::LinkError;
use crate::proxy::listen::ListenerCtx;
use crate::proxy::preface::Preface;
use crate::proxy::secured;
use crate::telemetry::reason::Reason;
use crate::template::{Var, Variables};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    listener: Arc<str>,
    pool: Arc<str>,
    address: SocketAddr,
    peer: SocketAddr,
    preface: Option<Rc<Preface>>,
    serial: u64,
    timed: bool,
    start: u64,
    servers: Vec<Arc<Server>>,
    /// Those that were not reached, and why.
    failures: Vec<(Arc<Server>, Reason, Option<Box<str>>)>,
    queued: Option<u64>,
    connected: Option<u64>,
    upstream_port: Option<u16>,
    received: u64,
    sent: u64,
    duration: u64,
    reason: Option<Reason>,
}

impl Session {
    /// A session that starts now; without `timed` nobody will ask how long it took.
    pub(crate) fn new(
        listener: &ListenerCtx,
        peer: SocketAddr,
        preface: Option<Rc<Preface>>,
        serial: u64,
        pool: Arc<str>,
        timed: bool,
    ) -> Self {
        Self {
            listener: Arc::clone(&listener.name),
            pool,
            address: listener.address,
            peer,
            preface,
            serial,
            timed,
            start: clock::now_micros(),
            servers: Vec::new(),
            failures: Vec::new(),
            queued: None,
            connected: None,
            upstream_port: None,
            received: 0,
            sent: 0,
            duration: 0,
            reason: None,
        }
    }

    /// When it began, microseconds of the monotonic clock.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The client's address.
    pub(crate) fn client(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// The host that the client wants, of TLS that is passed through; else empty.
    fn wanted(&self) -> &str {
        let hello = self.preface.as_ref().and_then(|preface| preface.hello.as_ref());
        hello.and_then(|hello| hello.server_name.as_deref()).unwrap_or_default()
    }

    /// A server is about to be tried.
    pub(crate) fn tried(&mut self, server: &Arc<Server>) {
        if self.timed {
            self.servers.push(Arc::clone(server));
        }
    }

    /// The server could not be reached.
    pub(crate) fn not_reached(&mut self, server: &Arc<Server>, error: &LinkError) {
        self.failures.push((Arc::clone(server), error.reason(), error.detail()));
    }

    /// What is kept of a session that failed; `reached`: the server it was on.
    pub(crate) fn failed(&self, reason: Reason, reached: Option<&Server>) -> FailedExchange {
        let mut failed = FailedExchange {
            host: self.wanted().to_owned(),
            pool: Some(Arc::clone(&self.pool)).filter(|pool| !pool.is_empty()),
            queued_ms: self.queued.map(|micros| micros / 1000),
            duration_ms: Some(clock::now_micros().saturating_sub(self.start) / 1000),
            ..FailedExchange::new(self.client(), Arc::clone(&self.listener), reason)
        };
        let failures = self.failures.iter();
        failures.for_each(|(server, why, detail)| failed.add_try(server, 0, Some(*why), detail.as_deref()));
        reached.into_iter().for_each(|server| failed.add_try(server, 0, None, None));
        failed
    }

    /// Microseconds in the pool's queue.
    pub(crate) fn queued(&mut self) -> &mut Option<u64> {
        &mut self.queued
    }

    /// The last server tried answered.
    pub(crate) fn connected(&mut self, sock: &Sock) {
        if self.timed {
            self.connected = Some(clock::now_micros().saturating_sub(self.start));
            let local = getsockname(sock).ok().and_then(|a| SocketAddr::try_from(a).ok());
            self.upstream_port = local.map(|a| a.port());
        }
    }

    /// It is over.
    pub(crate) fn finish(&mut self, received: u64, sent: u64, reason: Option<Reason>) {
        self.received = received;
        self.sent = sent;
        self.reason = reason;
        if self.timed {
            self.duration = clock::now_micros().saturating_sub(self.start);
        }
    }
}

impl Variables for Session {
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match var {
            Var::RemoteAddr => write_ip(out, self.client()),
            Var::RealipRemoteAddr if self.preface.is_none() => write_ip(out, self.client()),
            Var::RealipRemoteAddr
            | Var::ProxyProtocolAddr
            | Var::ProxyProtocolPort
            | Var::ProxyProtocolServerAddr
            | Var::ProxyProtocolServerPort
            | Var::SslPrereadServerName
            | Var::SslPrereadAlpnProtocols
            | Var::SslPrereadProtocol => {
                if let Some(preface) = &self.preface {
                    preface.write(var, out);
                }
            }
            Var::RemotePort => decimal(out, u64::from(self.peer.port())),
            _ if self.preface.as_ref().is_some_and(|preface| secured::tells(preface, var, out)) => {}
            Var::ServerAddr => write_ip(out, self.address.ip().to_canonical()),
            Var::ServerPort => decimal(out, u64::from(self.address.port())),
            Var::ServerProtocol => out.extend_from_slice(b"TCP"),
            Var::Connection => decimal(out, self.serial),
            Var::Listener => out.extend_from_slice(self.listener.as_bytes()),
            Var::Pool => out.extend_from_slice(self.pool.as_bytes()),
            Var::Server => out.extend_from_slice(self.servers.last().map_or("", |s| &*s.name).as_bytes()),
            Var::Tries if self.servers.is_empty() => {}
            Var::Tries => decimal(out, self.servers.len() as u64),
            Var::QueueTime => seconds(out, self.queued),
            Var::UpstreamAddr => {
                for (i, server) in self.servers.iter().enumerate() {
                    if i > 0 {
                        out.extend_from_slice(b", ");
                    }
                    write_display(out, server.address);
                }
            }
            Var::UpstreamConnectTime => seconds(out, self.connected),
            Var::UpstreamLocalPort => {
                if let Some(port) = self.upstream_port {
                    decimal(out, u64::from(port));
                }
            }
            // nginx's stream module: 200 for a session that ran, 503 for one that a limit refused, 502 for one that found no
            // server.
            Var::Status if self.reason.is_some_and(Reason::is_refusal) => out.extend_from_slice(b"503"),
            Var::Status => out.extend_from_slice(if self.connected.is_some() { b"200" } else { b"502" }),
            Var::RequestTime | Var::UpstreamResponseTime => seconds(out, Some(self.duration)),
            Var::Reason => out.extend_from_slice(self.reason.map_or("", |r| r.name()).as_bytes()),
            Var::RequestLength | Var::UpstreamBytesSent => decimal(out, self.received),
            Var::BytesSent | Var::BodyBytesSent | Var::UpstreamBytesReceived => decimal(out, self.sent),
            _ => {}
        }
        out.len() > start
    }
}
