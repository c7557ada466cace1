//! The TLS handshake of a client: who it is served as, for how long it may take, and what becomes of one that fails.

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use rustls::AlertDescription;

use crate::net::Transport;
use crate::net::buffer::Buffer;
use crate::net::tls::{TlsError, TlsStream};
use crate::net::wheel::Timer;
use crate::proxy::errors::FailedExchange;
use crate::proxy::listen::ListenerCtx;
use crate::proxy::preface::{self, End, Preface};
use crate::proxy::worker::Worker;
use crate::telemetry::reason::Reason;
use crate::time::Millis;
use crate::tls::Agreed;
use crate::tls::hello::{ClientHello, Malformed, Parse, Reader, Version};

/// What a client gets that speaks plain HTTP, as nginx says it.
const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 46\r\n\
                          Connection: close\r\n\r\nThe plain HTTP request was sent to HTTPS port\n";

/// Why there is no connection.
#[derive(Debug)]
enum Failure {
    /// The client has left, or this process is about to.
    Over,
    TimedOut,
    /// It does not begin as it should.
    Hello(Malformed),
    /// No certificate for this host.
    Name(String),
    /// It is too old: nothing after this version, if any that is known.
    Version(Option<Version>),
    Tls(TlsError),
}

/// Reads what stands before the handshake, and makes it. `None`: the connection is to be closed; what there is to say about it
/// has been said.
pub(crate) async fn begin(
    stream: &TlsStream,
    peer: SocketAddr,
    worker: &Worker,
    listener: &ListenerCtx,
) -> Option<Preface> {
    let mut preface = preface::read(stream.sock(), peer, worker, listener).await?;
    let timer = worker.wheel.timer();
    timer.set(worker.now().after(listener.handshake_timeout?));
    let mut name = None;
    match handshake(stream, preface.take_rest(), &timer, worker, listener, &mut name).await {
        Ok(agreed) => {
            listener.counters.handshakes.fetch_add(1, Ordering::Relaxed);
            preface.agreed = Some(agreed);
            Some(preface)
        }
        Err(failure) => {
            give_up(stream.sock(), &failure, name, &preface, worker, listener);
            None
        }
    }
}

/// Reads what a client says first whose TLS is passed through, until `deadline`. `None`: the connection is to be closed; what
/// there is to say about it has been said.
pub(crate) async fn read_hello<T: Transport>(
    io: &T,
    preface: Preface,
    deadline: Millis,
    worker: &Worker,
    listener: &ListenerCtx,
) -> Option<Preface> {
    let timer = worker.wheel.timer();
    timer.set(deadline);
    match hello(io, preface.take_rest(), &timer, worker, listener).await {
        Ok((hello, bytes)) => Some(preface.with_hello(hello, bytes)),
        Err(failure) => {
            give_up(io, &failure, None, &preface, worker, listener);
            None
        }
    }
}

/// Tells a client that nobody here has the name it wants.
pub(crate) fn say_unrecognised_name<T: Transport>(io: &T, listener: &ListenerCtx) {
    tell(io, &Failure::Name(String::new()), listener);
}

/// Tells the client and the operator why there is no connection.
fn give_up<T: Transport>(
    io: &T,
    failure: &Failure,
    name: Option<String>,
    preface: &Preface,
    worker: &Worker,
    listener: &ListenerCtx,
) {
    tell(io, failure, listener);
    let peer = preface.source();
    tracing::debug!(listener = %listener.name, %peer, server_name = name, %failure, "no TLS handshake");
    if let Some(reason) = failure.reason(listener) {
        listener.counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        let (client, host) = (peer.ip().to_canonical(), name.unwrap_or_default());
        worker
            .shared
            .errors
            .record(|| FailedExchange { host, ..FailedExchange::new(client, Arc::clone(&listener.name), reason) });
    }
}

/// Who the client asks for is in `name` as soon as that is known.
async fn handshake(
    stream: &TlsStream,
    rest: Option<Buffer>,
    timer: &Timer,
    worker: &Worker,
    listener: &ListenerCtx,
    name: &mut Option<String>,
) -> Result<Agreed, Failure> {
    let (hello, received) = hello(stream.sock(), rest, timer, worker, listener).await?;
    name.clone_from(&hello.server_name);
    let server = {
        let (view, index) = listener.view(worker);
        view.snapshot.listeners[index].server(name.as_deref().map(str::as_bytes)).cloned()
    };
    let server = server.ok_or_else(|| Failure::Name(name.clone().unwrap_or_default()))?;
    // rustls would look for a certificate first, and say less.
    if !hello.highest_version().is_some_and(|version| server.speaks(version)) {
        return Err(Failure::Version(hello.highest_version()));
    }
    let started = stream.start_server(Arc::clone(server.config(&hello)), received);
    started.map_err(|error| Failure::Tls(TlsError::Tls(error)))?;
    poll_fn(|cx| match stream.poll_handshake(cx) {
        Poll::Ready(done) => Poll::Ready(done.map_err(Failure::Tls)),
        Poll::Pending if timer.poll_expired(cx).is_ready() => Poll::Ready(Err(Failure::TimedOut)),
        Poll::Pending if listener.has_ended(worker.now()) => Poll::Ready(Err(Failure::Over)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    stream.with(|state| Agreed::new(state, &server, name.clone())).ok_or(Failure::Over)
}

/// What the client says first, and the bytes of it.
async fn hello<T: Transport>(
    io: &T,
    rest: Option<Buffer>,
    timer: &Timer,
    worker: &Worker,
    listener: &ListenerCtx,
) -> Result<(ClientHello, Option<Buffer>), Failure> {
    let mut reader = Reader::default();
    let mut parse = |bytes: &[u8]| match reader.parse(bytes) {
        Ok(Parse::Partial) => None,
        Ok(Parse::Complete(hello)) => Some(Ok(hello)),
        Err(malformed) => Some(Err(malformed)),
    };
    let mut bytes = rest.map_or_else(Vec::new, |rest| rest.bytes().to_vec());
    let parsed = match parse(&bytes) {
        Some(parsed) => parsed,
        None => preface::read_until(io, timer, worker, listener, &mut bytes, parse).await?,
    };
    Ok((parsed.map_err(Failure::Hello)?, preface::held(&bytes, worker)))
}

/// Tells the client why, where that is not done yet: an alert (RFC 8446 section 6), or plain text to who speaks it.
fn tell<T: Transport>(io: &T, failure: &Failure, listener: &ListenerCtx) {
    let alert = |description: AlertDescription| vec![21, 3, 3, 0, 2, 2, description.into()];
    let message = match failure {
        Failure::Hello(_) if failure.is_plain_http() && listener.tcp.is_none() => PLAIN_HTTP.into(),
        Failure::Hello(Malformed::Alert | Malformed::NotTls(_) | Malformed::Ssl2) => return,
        Failure::Hello(_) => alert(AlertDescription::DecodeError),
        Failure::Version(_) => alert(AlertDescription::ProtocolVersion),
        Failure::Name(_) => alert(AlertDescription::UnrecognisedName),
        Failure::Over | Failure::TimedOut | Failure::Tls(_) => return,
    };
    // As much as goes at once, which is all unless the client has never read.
    let mut cx = Context::from_waker(Waker::noop());
    let _ = io.poll_send(&mut cx, &[IoSlice::new(&message)]);
    let _ = io.shutdown();
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        match end {
            End::Over => Self::Over,
            End::TimedOut => Self::TimedOut,
        }
    }
}

impl Failure {
    fn is_plain_http(&self) -> bool {
        matches!(self, Self::Hello(Malformed::NotTls(first)) if first.is_ascii_uppercase())
    }

    /// What is kept of it; `None`: who connects and leaves without a word has not failed.
    fn reason(&self, listener: &ListenerCtx) -> Option<Reason> {
        use rustls::Error;
        match self {
            Self::Over => None,
            Self::TimedOut => Some(Reason::TlsTimeout),
            Self::Hello(_) if self.is_plain_http() && listener.tcp.is_none() => Some(Reason::PlainHttp),
            Self::Hello(_) => Some(Reason::TlsBroken),
            Self::Name(_) => Some(Reason::TlsName),
            Self::Version(_) => Some(Reason::TlsMismatch),
            Self::Tls(TlsError::Io(_)) => Some(Reason::TlsRefused),
            Self::Tls(TlsError::Tls(error)) => Some(match error {
                Error::AlertReceived(_) => Reason::TlsRefused,
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Reason::TlsMismatch,
                Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Reason::TlsClientCertificate,
                _ => Reason::TlsBroken,
            }),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Over => f.write_str("it has ended"),
            Self::TimedOut => f.write_str("not over in time"),
            Self::Hello(malformed) => malformed.fmt(f),
            Self::Name(name) => write!(f, "no certificate for {name:?}"),
            Self::Version(version) => {
                let name = version.and_then(Version::name).unwrap_or("no version that is known");
                write!(f, "the client speaks {name} and nothing newer")
            }
            Self::Tls(error) => error.fmt(f),
        }
    }
}
