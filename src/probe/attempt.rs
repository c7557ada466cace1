//! One probe of one server.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_quickack;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::config::model::{self, HealthCheck, Probe};
use crate::health::Role;
use crate::net::connect::is_local;
use crate::pool::Server;
use crate::proxy_protocol::{Header, Version};
use crate::sys::sockopt::set_bind_address_no_port;
use crate::tls::Connector;

use super::exec::{Order, Runner};
use super::{grpc, http, mysql, postgres, redis, tcp};

/// Whom to probe, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Name of the server in it.
    pub server: Arc<str>,
    /// What the pool's checks are.
    pub check: Arc<HealthCheck>,
    /// Where to connect to.
    pub address: SocketAddr,
    /// Local address; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// Host and port, for protocols that name them.
    pub authority: String,
    /// What the connection begins with; `None`: nothing.
    pub proxy_protocol: Option<Version>,
    /// What TLS is spoken, and with whom.
    pub tls: Option<(Connector, ServerName<'static>)>,
}

/// Why a probe did not go well.
#[derive(Debug)]
pub enum Failure {
    /// This box has no port, descriptor or address left for it, which says nothing of the server.
    Local(io::Error),
    /// No connection.
    Connect(io::Error),
    /// No TLS over it.
    Tls(io::Error),
    /// No result in time.
    TimedOut(Duration),
    /// The connection ended, or what came is not HTTP or too long, before there was a status.
    Response(hyper::Error),
    /// A status that is not one of `expect`.
    Status(u16),
    /// `expect_text` is not in what came, of which this is the beginning.
    Text(String),
    /// What a database says, or what is wrong with its answer.
    Database(String),
    /// What a server of gRPC says, or what is wrong with its answer.
    Grpc(String),
    /// How the command ended, and what it said first.
    Exec(String),
    /// A replica is so many seconds behind, or does not replicate at all.
    Lag(Option<u64>),
}

/// Makes probes: the [`Network`], or a script in tests.
pub trait Attempt: Send + Sync + 'static {
    /// Probes once, and gives the server's role if that is asked for; whoever calls limits the time, but for commands.
    /// Dropping the future ends the probe.
    fn attempt(&self, target: &Target) -> impl Future<Output = Result<Option<Role>, Failure>> + Send;
}

/// Probes over the network, and has commands run elsewhere.
#[derive(Debug, Clone)]
pub struct Network(Runner);

impl Network {
    /// Commands are ordered by `orders`.
    pub fn new(orders: mpsc::UnboundedSender<Order>) -> Self {
        Self(Runner::new(orders))
    }
}

impl Target {
    /// What `check` means for a server of `pool` whose host is written `host`.
    pub(super) fn new(check: &Arc<HealthCheck>, config: &model::Pool, server: &Server, host: &str) -> Self {
        let address = check.target_of(server.address);
        let source = config.source_addresses.iter().find(|source| source.is_ipv4() == address.is_ipv4());
        let tls = config.tls.as_ref().filter(|_| check.tls);
        let tls = tls.and_then(|tls| Some((tls.connector.speaking(protocols(&check.probe)), tls.name_of(host)?)));
        let usual = if tls.is_some() { 443 } else { 80 };
        let authority = match address.port() {
            port if port == usual => host.to_owned(),
            port => format!("{host}:{port}"),
        };
        let (pool, server) = (server.pool.clone(), server.name.clone());
        let proxy_protocol = config.send_proxy_protocol;
        Self { pool, server, check: check.clone(), address, source: source.copied(), authority, proxy_protocol, tls }
    }

    /// After which a probe has failed; `None`: whoever runs it says so.
    pub(super) fn limit(&self) -> Option<Duration> {
        match self.check.probe {
            Probe::Exec(_) => None,
            Probe::Tcp(_)
            | Probe::Http(_)
            | Probe::Grpc(_)
            | Probe::Mysql(_)
            | Probe::Postgres(_)
            | Probe::Redis(_) => Some(self.check.timeout),
        }
    }
}

impl Failure {
    /// Whether it says nothing of the server.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl Attempt for Network {
    async fn attempt(&self, target: &Target) -> Result<Option<Role>, Failure> {
        let role = match &target.check.probe {
            Probe::Tcp(_) | Probe::Http(_) | Probe::Grpc(_) => {
                let stream = connect(target).await?;
                let asked = match &target.tls {
                    None => ask(stream, target).await,
                    Some((ours, name)) => {
                        let connector = TlsConnector::from(Arc::clone(&ours.config));
                        let stream = connector.connect(name.clone(), stream).await.map_err(Failure::Tls)?;
                        let is_grpc = matches!(target.check.probe, Probe::Grpc(_));
                        if is_grpc && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                            // Requests of HTTP/2 would not get through either.
                            return Err(Failure::Grpc("no gRPC: the server did not choose h2 by ALPN".to_owned()));
                        }
                        ask(stream, target).await
                    }
                };
                return asked.map(|()| None);
            }
            Probe::Exec(_) => return self.0.run(target).await.map(|()| None),
            Probe::Mysql(probe) => mysql::ask(connect(target).await?, probe).await,
            Probe::Postgres(probe) => postgres::ask(connect(target).await?, probe).await,
            Probe::Redis(probe) => redis::ask(connect(target).await?, probe).await,
        };
        role.map(Some)
    }
}

/// Asks over a connection what probes ask that may be made over TLS; the others have their own way.
async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send, target: &Target) -> Result<(), Failure> {
    match &target.check.probe {
        Probe::Tcp(probe) => tcp::ask(stream, probe).await,
        Probe::Http(probe) => http::ask(stream, probe, &target.authority).await,
        Probe::Grpc(probe) => {
            let scheme = if target.tls.is_some() { "https" } else { "http" };
            grpc::ask(stream, probe, (scheme, &target.authority), target.check.timeout).await
        }
        Probe::Exec(_) | Probe::Mysql(_) | Probe::Postgres(_) | Probe::Redis(_) => Ok(()),
    }
}

/// What is asked for by ALPN.
fn protocols(probe: &Probe) -> &'static [&'static str] {
    match probe {
        Probe::Grpc(_) => &["h2"],
        Probe::Http(_) => &["http/1.1"],
        Probe::Tcp(_) | Probe::Exec(_) | Probe::Mysql(_) | Probe::Postgres(_) | Probe::Redis(_) => &[],
    }
}

async fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(Failure::Local)?;
    if let Some(source) = target.source {
        // As for requests: the port is chosen at connect.
        let _ = set_bind_address_no_port(socket.as_fd());
        match socket.bind(SocketAddr::new(source, 0)) {
            // A virtual address that the other box holds now: servers are to be judged from here too.
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {}
            bound => bound.map_err(Failure::Local)?,
        }
    }
    if speaks_first(&target.check.probe) || target.proxy_protocol.is_some() || target.tls.is_some() {
        // The acknowledgement that ends the handshake goes with the request, or, as HAProxy does it, not at all where the
        // server's has shown that it listens.
        let _ = set_tcp_quickack(&socket, false);
    }
    let failure = |e: io::Error| if is_local(&e) { Failure::Local(e) } else { Failure::Connect(e) };
    let mut stream = socket.connect(target.address).await.map_err(failure)?;
    // Closed by a reset, as HAProxy does: a thousand probes a second would leave 60,000 sockets in TIME_WAIT.
    let _ = stream.set_zero_linger();
    if let Some(version) = target.proxy_protocol {
        // Without addresses: the check speaks for itself.
        let mut header = Vec::new();
        version.write(&Header::default(), &mut header);
        stream.write_all(&header).await.map_err(Failure::Connect)?;
    }
    Ok(stream)
}

/// Whether nothing is waited for between the connection and the request, or the end of the probe.
fn speaks_first(probe: &Probe) -> bool {
    match probe {
        Probe::Tcp(probe) => probe.send.is_some() || probe.expect.is_none(),
        // MySQL greets, and needs the whole handshake for that.
        Probe::Mysql(_) | Probe::Exec(_) => false,
        Probe::Http(_) | Probe::Grpc(_) | Probe::Postgres(_) | Probe::Redis(_) => true,
    }
}

/// Does `work` while its connection is driven, of which nothing else is wanted: how it ends is told to the work.
pub(super) async fn beside<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let drive = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    tokio::select! {
        done = work => done,
        never = drive => match never {},
    }
}

/// An error with what it came from.
pub(super) fn in_full(error: &impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What there is to see of an answer in one line of a log.
pub(super) fn beginning(came: &[u8]) -> String {
    let part = came.get(..64).unwrap_or(came);
    String::from_utf8_lossy(part).escape_debug().to_string()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(e) => write!(f, "this box cannot probe: {e}"),
            Self::Connect(e) => write!(f, "no connection: {e}"),
            Self::Tls(e) => write!(f, "no TLS: {e}"),
            Self::TimedOut(after) => write!(f, "no answer within {after:?}"),
            Self::Response(e) => write!(f, "no response: {}", in_full(e)),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Text(came) => write!(f, "expect_text is not in the answer, which begins with \"{came}\""),
            Self::Database(says) | Self::Grpc(says) | Self::Exec(says) => f.write_str(says),
            Self::Lag(Some(seconds)) => write!(f, "the replica is {seconds} s behind"),
            Self::Lag(None) => f.write_str("the replica does not replicate"),
        }
    }
}

impl std::error::Error for Failure {}
