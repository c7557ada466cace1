//! `bascule webhook`: posts what is on standard input to a URL, once, and ends. A process of its own, so that what a name
//! server or a web server answers is read by somebody without privileges.
//!
//! Exit status: 0 for an answer 2xx; 75 when trying again may help (no connection, 5xx); 1 for anything else. The reason is one
//! line on standard error.

use std::fmt;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::sys::process::{self, ConfineError};
use crate::sys::user::Identity;

/// Exit status when trying again may help: EX_TEMPFAIL of sysexits.h.
pub(super) const TRY_AGAIN: u8 = 75;
/// For everything from the look-up of the name to the head of the answer.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Longest body, which is the supervisor's own.
const LONGEST_BODY: u64 = 64 * 1024;
/// Longest head of an answer; its body is not read.
const LONGEST_HEAD: usize = 16 * 1024;

/// Why nothing was delivered.
#[derive(Debug)]
enum PostError {
    /// The parent is no supervisor.
    NotSupervised,
    Confine(ConfineError),
    Runtime(io::Error),
    /// The body cannot be read.
    Body(io::Error),
    Url,
    Resolve(io::Error),
    Connect(io::Error),
    /// There was no connection in time.
    ConnectTimedOut,
    /// There was a connection, and no answer in time.
    TimedOut,
    Http(hyper::Error),
    Status(StatusCode),
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupervised => f.write_str("started by the supervisor only"),
            Self::Confine(e) => e.fmt(f),
            Self::Runtime(e) => write!(f, "cannot start: {e}"),
            Self::Body(e) => write!(f, "cannot read standard input: {e}"),
            Self::Url => f.write_str("not a URL of http"),
            Self::Resolve(e) => write!(f, "cannot look up the host: {e}"),
            Self::Connect(e) => write!(f, "cannot connect: {e}"),
            Self::ConnectTimedOut => write!(f, "no connection in {} s", LIMIT.as_secs()),
            Self::TimedOut => write!(f, "no answer in {} s", LIMIT.as_secs()),
            Self::Http(e) => write!(f, "not understood: {e}"),
            Self::Status(status) => write!(f, "answered {status}"),
        }
    }
}

impl PostError {
    /// Whether trying again may help, and cannot deliver twice what was taken.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Connect(_) | Self::ConnectTimedOut => true,
            Self::Status(status) => status.is_server_error(),
            Self::NotSupervised | Self::Confine(_) | Self::Runtime(_) | Self::Body(_) | Self::Url => false,
            Self::TimedOut | Self::Http(_) => false,
        }
    }
}

/// Runs as the child of process `supervisor`, as `identity` if given.
pub(super) fn run(url: &str, identity: Option<Identity>, supervisor: i32) -> ExitCode {
    process::set_name(c"bascule-webhook");
    match post_stdin(url, identity, supervisor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            if error.is_temporary() { TRY_AGAIN.into() } else { ExitCode::FAILURE }
        }
    }
}

fn post_stdin(url: &str, identity: Option<Identity>, supervisor: i32) -> Result<(), PostError> {
    let supervisor = Pid::from_raw(supervisor).ok_or(PostError::NotSupervised)?;
    process::confine(identity, supervisor, process::Orphan::Dies).map_err(PostError::Confine)?;
    let mut body = Vec::new();
    io::stdin().take(LONGEST_BODY).read_to_end(&mut body).map_err(PostError::Body)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PostError::Runtime)?;
    let done = runtime.block_on(post(url, body.into()));
    // A look-up of a name may hang in a thread of its own, and ends with the process.
    runtime.shutdown_background();
    done
}

async fn post(url: &str, body: Bytes) -> Result<(), PostError> {
    let deadline = Instant::now() + LIMIT;
    let uri: Uri = url.parse().map_err(|_| PostError::Url)?;
    let (host, authority) = uri.host().zip(uri.authority()).ok_or(PostError::Url)?;
    if uri.scheme_str() != Some("http") {
        return Err(PostError::Url);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("bascule/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|_| PostError::Url)?;

    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = timeout_at(deadline, connect(host, uri.port_u16().unwrap_or(80))).await;
    let stream = connected.map_err(|_| PostError::ConnectTimedOut)??;
    let answered = timeout_at(deadline, status(stream, request)).await;
    match answered.map_err(|_| PostError::TimedOut)?.map_err(PostError::Http)? {
        status if status.is_success() => Ok(()),
        status => Err(PostError::Status(status)),
    }
}

/// The first address of `host` that takes a connection.
async fn connect(host: &str, port: u16) -> Result<TcpStream, PostError> {
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(PostError::Resolve)?.collect();
    TcpStream::connect(&addresses[..]).await.map_err(PostError::Connect)
}

async fn status(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<StatusCode, hyper::Error> {
    let mut client = http1::Builder::new();
    let (mut sender, connection) = client.max_buf_size(LONGEST_HEAD).handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime; what went wrong the request knows.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.status())
}
