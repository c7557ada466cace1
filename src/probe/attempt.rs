//! One probe of one server.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use crate::config::model::{self, HealthCheck, HttpProbe, Probe};
use crate::health::Role;
use crate::net::connect::is_local;
use crate::pool::Server;
use crate::sys::sockopt::set_bind_address_no_port;

use super::{mysql, postgres, redis};

/// Whom to probe, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What the pool's checks are.
    pub check: Arc<HealthCheck>,
    /// Where to connect to.
    pub address: SocketAddr,
    /// Local address; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// Host and port, for protocols that name them.
    pub authority: String,
}

/// Why a probe did not go well.
#[derive(Debug)]
pub enum Failure {
    /// This box has no port, descriptor or address left for it, which says nothing of the server.
    Local(io::Error),
    /// No connection.
    Connect(io::Error),
    /// No result in time.
    TimedOut(Duration),
    /// The connection ended, or what came is not HTTP or too long, before there was a status.
    Response(hyper::Error),
    /// A status that is not one of `expect`.
    Status(u16),
    /// What a database says, or what is wrong with its answer.
    Database(String),
    /// A replica is so many seconds behind, or does not replicate at all.
    Lag(Option<u64>),
}

/// Makes probes: the [`Network`], or a script in tests.
pub trait Attempt: Send + Sync + 'static {
    /// Probes once, and gives the server's role if that is asked for; whoever calls limits the time. Dropping the future
    /// ends the probe.
    fn attempt(&self, target: &Target) -> impl Future<Output = Result<Option<Role>, Failure>> + Send;
}

/// Probes over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network;

/// Bytes of a response that may be looked at: it is judged by its head.
const MAX_HEAD: usize = 16 << 10;
const AGENT: &str = concat!("bascule/", env!("CARGO_PKG_VERSION"), " (health check)");

impl Target {
    /// What `check` means for a server of `pool` whose host is written `host`.
    pub(super) fn new(check: &Arc<HealthCheck>, pool: &model::Pool, server: &Server, host: &str) -> Self {
        let mut address = server.address;
        if let Some(port) = check.port {
            address.set_port(port);
        }
        let source = pool.source_addresses.iter().find(|source| source.is_ipv4() == address.is_ipv4());
        let authority = match address.port() {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        };
        Self { check: check.clone(), address, source: source.copied(), authority }
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
            Probe::Tcp => return connect(target).await.map(|_| None),
            Probe::Http(http) => return expect(get(target, http).await?, http).map(|()| None),
            Probe::Mysql(probe) => mysql::ask(connect(target).await?, probe).await,
            Probe::Postgres(probe) => postgres::ask(connect(target).await?, probe).await,
            Probe::Redis(probe) => redis::ask(connect(target).await?, probe).await,
        };
        role.map(Some)
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
    let failure = |e: io::Error| if is_local(&e) { Failure::Local(e) } else { Failure::Connect(e) };
    let stream = socket.connect(target.address).await.map_err(failure)?;
    // Closed by a reset, as HAProxy does: a thousand probes a second would leave 60,000 sockets in TIME_WAIT.
    let _ = stream.set_zero_linger();
    Ok(stream)
}

/// The status that a GET is answered with.
async fn get(target: &Target, http: &HttpProbe) -> Result<u16, Failure> {
    let stream = connect(target).await?;
    let request = Request::get(&*http.path)
        .header(HOST, http.host.as_deref().unwrap_or(&target.authority))
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Failure::Local(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Failure::Response)?;
    // The connection only has to be driven: how it ends is told to the request.
    let drive = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    let response = tokio::select! {
        response = sender.send_request(request) => response,
        never = drive => match never {},
    };
    response.map(|response| response.status().as_u16()).map_err(Failure::Response)
}

fn expect(status: u16, http: &HttpProbe) -> Result<(), Failure> {
    if http.expect.iter().any(|good| good.contains(&status)) { Ok(()) } else { Err(Failure::Status(status)) }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(e) => write!(f, "this box cannot probe: {e}"),
            Self::Connect(e) => write!(f, "no connection: {e}"),
            Self::TimedOut(after) => write!(f, "no answer within {after:?}"),
            Self::Response(e) => match std::error::Error::source(e) {
                Some(source) => write!(f, "no response: {e}: {source}"),
                None => write!(f, "no response: {e}"),
            },
            Self::Status(status) => write!(f, "status {status}"),
            Self::Database(says) => f.write_str(says),
            Self::Lag(Some(seconds)) => write!(f, "the replica is {seconds} s behind"),
            Self::Lag(None) => f.write_str("the replica does not replicate"),
        }
    }
}

impl std::error::Error for Failure {}
