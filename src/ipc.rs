//! Messages between supervisor and proxy, over a SOCK_SEQPACKET socketpair.
//!
//! A message is JSON plus descriptors. It travels in one packet, or in several when it carries many descriptors:
//!
//! ```text
//! +---------+-------+----------------------+
//! | VERSION | flags | payload (JSON)       |   + at most 253 descriptors (SCM_RIGHTS)
//! +---------+-------+----------------------+
//!             MORE    payload empty; descriptors of a message that goes on in the next packet
//!             MEMFD   payload empty; the last descriptor is a sealed memfd that holds it
//! ```
//!
//! The proxy is not trusted: what it may say is the closed list [`FromProxy`], sizes and numbers of descriptors are
//! bounded by [`Limits`], and anything else is a [`RecvError`] after which the channel is of no more use.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::config::model::{Attachments, Overrides};
use crate::sys::memfd::{self, MemfdError};

/// First byte of every packet; grows when the meaning of messages changes.
pub const VERSION: u8 = 6;

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToProxy {
    /// The first message. Descriptors: the guard if there is one, then those of the setup.
    Start(Start),
    /// Build what another setup needs, touch nothing, then say [`FromProxy::Prepared`] or [`FromProxy::Refused`].
    /// Descriptors: those of the setup, of which sockets that are new need not listen yet. Replaces what was prepared.
    Prepare {
        /// Comes back with the answer.
        token: u64,
        /// What to run on.
        setup: Setup,
    },
    /// Run on what was prepared, then say [`FromProxy::Committed`].
    Commit {
        /// As in the order to prepare.
        token: u64,
    },
    /// Forget what was prepared, or is being prepared.
    Forget,
    /// Use servers so from now on, then say [`FromProxy::Overridden`].
    Override {
        /// Comes back with the answer.
        token: u64,
        /// What wins over the configuration.
        overrides: Overrides,
    },
    /// Stop accepting once the accept queues are empty, finish what is under way, then say [`FromProxy::Drained`].
    Drain {
        /// After this long the supervisor ends the process.
        timeout_ms: u64,
    },
    /// Another proxy accepts from the same sockets by now: stop at once, leave what is queued to it, finish what is under
    /// way, then say [`FromProxy::Drained`].
    Retire,
    /// When the channel ends from now on, `on`: do as at [`ToProxy::Retire`], and leave. For a supervisor that speaks
    /// another version and cannot say it.
    RetireAtEnd {
        /// The last word counts.
        on: bool,
    },
    /// What another proxy counted from one of its states to the other is to be counted here too.
    Count {
        /// A [`FromProxy::State`] of it, whose counts are known here.
        since: Box<RawValue>,
        /// A later one.
        until: Box<RawValue>,
    },
    /// `on`: go on accepting and serving but keep no connection, and say [`FromProxy::Quieted`] when none is left of those
    /// that are open now. Off: keep connections again. Without effect on [`ToProxy::Drain`].
    Quiet {
        /// The last word counts.
        on: bool,
        /// Then the same again for those that are open by then, before it is said: what was on its way to the box when
        /// its doors were closed is among them.
        #[serde(default)]
        twice: bool,
    },
    /// Reset every client connection whose local address is one of these, also those not accepted yet, then say
    /// [`FromProxy::Aborted`]. To be sent while this box still has the addresses.
    Abort {
        /// Of virtual routers; no others are known.
        addresses: Vec<IpAddr>,
        /// Comes back with the answer.
        token: u64,
    },
    /// Write to these files from now on. Descriptors: one for each.
    ReopenLogs {
        /// Paths as in the configuration.
        files: Vec<PathBuf>,
    },
    /// The answer to [`FromProxy::CheckDue`].
    Checked {
        /// As in the question.
        token: u64,
        /// What came of it.
        outcome: CheckOutcome,
    },
    /// Say [`FromProxy::Answer`].
    Ask {
        /// Comes back with the answer.
        token: u64,
        /// What is to be answered.
        question: Question,
    },
    /// Write what is left of the logs and leave.
    Stop,
}

/// What only the proxy knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// How listeners, pools and servers are.
    Status,
    /// Which exchanges failed last.
    Errors,
    /// Where this request would go.
    Explain(Imagined),
}

/// A request that nobody has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imagined {
    /// `http://host[:port]/path?query`, `https://`, or `tcp://address:port`.
    pub url: String,
    /// Upper case as on the wire.
    pub method: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// Whose request it is.
    pub client: IpAddr,
}

/// All that a proxy needs to begin.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Name of this box.
    pub node: String,
    /// What to run on.
    pub setup: Setup,
    /// Last state of the proxy before this one.
    pub state: Option<Box<RawValue>>,
    /// The first descriptor is the guard: the read end of a pipe whose write ends the supervisor and the vrrp process
    /// hold. The proxy then outlives the supervisor, and ends when both are gone.
    pub guarded: bool,
    /// What for.
    pub purpose: Purpose,
}

/// What a proxy is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To serve.
    Serve,
    /// To show that it could: everything is made, nothing is accepted.
    Rehearse,
}

/// What a proxy runs on. Descriptors: the sockets of all listeners in order, then the log files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The whole configuration as one TOML text.
    pub config: String,
    /// The contents of the files that it names.
    pub attachments: Attachments,
    /// What wins over it.
    pub overrides: Overrides,
    /// One for each bind address.
    pub listeners: Vec<ListenerSockets>,
    /// Access logs that the supervisor opened.
    pub log_files: Vec<PathBuf>,
}

/// The sockets of one bind address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSockets {
    /// Name of the listener.
    pub name: Arc<str>,
    /// The address.
    pub addr: SocketAddr,
    /// Number of descriptors.
    pub shards: usize,
}

/// What the command of a health check says of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckOutcome {
    /// It ended with status 0.
    Good,
    /// It did not, or not in time; why.
    Bad(String),
    /// It was not run, which says nothing of the server; why.
    NotRun(String),
}

/// What the proxy says: a closed list, none of which makes the supervisor do more than watch, keep and log, and run the
/// commands of its own configuration no more often than that says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromProxy {
    /// Every worker accepts.
    Ready,
    /// The control runtime is alive, and so far the workers are.
    Heartbeat {
        /// One for each worker.
        workers: Vec<Progress>,
        /// Client connections open.
        connections: u64,
    },
    /// The answer to [`ToProxy::Ask`].
    Answer {
        /// As in the question.
        token: u64,
        /// For whoever asked; opaque to the supervisor.
        answer: Box<RawValue>,
    },
    /// All is ready for [`ToProxy::Commit`].
    Prepared {
        /// As in the order.
        token: u64,
    },
    /// It cannot run on that.
    Refused {
        /// As in the order.
        token: u64,
        /// Why.
        reason: String,
    },
    /// New requests and connections run on it.
    Committed {
        /// As in the order.
        token: u64,
        /// What could not be done of it.
        trouble: Option<String>,
    },
    /// No request that comes from now on is given to a server that is not to have it.
    Overridden {
        /// As in the order.
        token: u64,
    },
    /// What a successor should know; opaque to the supervisor.
    State(Box<RawValue>),
    /// Something worth a line in the supervisor's log.
    Event(Event),
    /// No connection is left after [`ToProxy::Drain`].
    Drained,
    /// After [`ToProxy::Quiet`]: no connection is left of those that were open then. Said once.
    Quieted,
    /// [`ToProxy::Abort`] is done: the sockets are closed.
    Aborted {
        /// As in the order.
        token: u64,
    },
    /// By its schedule a server whose check is a command is to be checked now: to be answered by [`ToProxy::Checked`], or
    /// not at all. Which command that is, for which servers, and how often at most, is not for the proxy to say.
    CheckDue {
        /// Comes back with the answer.
        token: u64,
        /// Name of the pool.
        pool: Arc<str>,
        /// Name of the server in it.
        server: Arc<str>,
        /// Where it is checked; of a server without a name in the DNS this is known.
        address: SocketAddr,
    },
    /// The pools that virtual routers track: after [`FromProxy::Ready`], and when any of them has changed. Never said when
    /// there are none.
    Pools(Vec<PoolSummary>),
}

/// Whether a pool can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSummary {
    /// Its name.
    pub name: Arc<str>,
    /// Servers that are up, backups included.
    pub up: u32,
    /// All servers; of a name that does not resolve, none.
    pub total: u32,
    /// Its first round of health checks is complete, or it has none.
    pub judged: bool,
}

/// How far a worker thread has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its thread id.
    pub tid: i32,
    /// Grows while its event loop turns.
    pub ticks: u64,
}

/// Something the proxy reports.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// It could not start with what it was given, and ends.
    StartFailed {
        /// Why.
        reason: String,
    },
}

/// Bounds on what is received.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one message.
    pub payload: usize,
    /// Descriptors of one message.
    pub descriptors: usize,
}

impl Limits {
    /// What the proxy accepts: 10,000 routes are about 2 MiB of text.
    pub const OF_SUPERVISOR: Self = Self { payload: 256 << 20, descriptors: 1 << 20 };
    /// What the supervisor accepts; the one descriptor is a payload's.
    pub const OF_PROXY: Self = Self { payload: 16 << 20, descriptors: 0 };
}

/// Why nothing more can be received.
#[derive(Debug)]
pub enum RecvError {
    /// The socket failed.
    Io(io::Error),
    /// The other side speaks another version.
    Version(u8),
    /// A packet that is too short, cut off, or has unknown flags.
    Malformed,
    /// More descriptors than allowed.
    TooManyDescriptors,
    /// The payload's memfd is missing or refused.
    Payload(MemfdError),
    /// The payload is none of the known messages.
    Json(serde_json::Error),
}

impl std::fmt::Display for RecvError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot receive: {e}"),
            Self::Version(v) => write!(f, "message of protocol version {v}, expected {VERSION}"),
            Self::Malformed => f.write_str("malformed packet"),
            Self::TooManyDescriptors => f.write_str("too many descriptors"),
            Self::Payload(e) => e.fmt(f),
            Self::Json(e) => write!(f, "unknown message: {e}"),
        }
    }
}

impl std::error::Error for RecvError {}

/// One end of the socketpair: receives `In`, sends `Out`.
pub struct Channel<In, Out> {
    /// A watched descriptor, nothing more: tokio has no type for SOCK_SEQPACKET, and its `AsyncFd` is not safe to make.
    socket: UnixStream,
    limits: Limits,
    buffer: Box<[u8]>,
    /// Descriptors of a message whose last packet has not come yet.
    partial: Vec<OwnedFd>,
    messages: PhantomData<fn(Out) -> In>,
}

/// The supervisor's end.
pub type ProxyChannel = Channel<FromProxy, ToProxy>;
/// The proxy's end.
pub type SupervisorChannel = Channel<ToProxy, FromProxy>;

const MORE: u8 = 1;
const MEMFD: u8 = 2;
const HEADER: usize = 2;
/// Longer payloads go into a memfd: a packet must fit the socket's send buffer several times over.
const INLINE: usize = 16 << 10;
/// SCM_MAX_FD of the kernel.
const DESCRIPTORS_PER_PACKET: usize = 253;

/// Two connected ends, both closed on exec.
///
/// # Errors
/// No free descriptor.
pub fn socketpair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl<In: DeserializeOwned, Out: Serialize> Channel<In, Out> {
    /// Takes over one end; `limits` bound what comes from the other.
    ///
    /// # Errors
    /// The runtime cannot watch the descriptor.
    pub fn new(fd: OwnedFd, limits: Limits) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let socket = UnixStream::from_std(fd.into())?;
        let buffer = vec![0; HEADER + INLINE + 1].into_boxed_slice();
        Ok(Self { socket, limits, buffer, partial: Vec::new(), messages: PhantomData })
    }

    /// Sends `message` without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not read; nothing was sent then.
    pub fn try_send(&self, message: &Out) -> io::Result<()> {
        let last = LastPacket::of(message, &[])?;
        send_packet(&self.socket, last.flags, &last.payload, &last.descriptors())
    }

    /// Sends `message` with `descriptors`, waiting for room. When dropped before it is done, the channel is of no more
    /// use: half a message may have been sent.
    ///
    /// # Errors
    /// The other side is gone, or there is no memory.
    pub async fn send(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut rest = descriptors;
        // One less than a packet takes: the last packet may need room for a memfd.
        while rest.len() >= DESCRIPTORS_PER_PACKET {
            let (now, later) = rest.split_at(DESCRIPTORS_PER_PACKET - 1);
            self.socket.async_io(Interest::WRITABLE, || send_packet(&self.socket, MORE, &[], now)).await?;
            rest = later;
        }
        let last = LastPacket::of(message, rest)?;
        let descriptors = last.descriptors();
        self.socket
            .async_io(Interest::WRITABLE, || send_packet(&self.socket, last.flags, &last.payload, &descriptors))
            .await
    }

    /// The next message and its descriptors; `None` when the other side is gone. Cancel-safe: a message that came in
    /// part is kept.
    ///
    /// # Errors
    /// See [`RecvError`]; the channel is of no more use then.
    pub async fn recv(&mut self) -> Result<Option<(In, Vec<OwnedFd>)>, RecvError> {
        loop {
            let Self { socket, buffer, partial, .. } = self;
            let received = socket.async_io(Interest::READABLE, || recv_packet(&*socket, buffer, partial)).await;
            let packet = match received {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                // Said once, when the other side went without reading all; what it said before is still here, and then the end.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(e) => return Err(RecvError::Io(e)),
            };
            if let Some(message) = self.accept(&packet)? {
                return Ok(Some(message));
            }
        }
    }

    /// Checks a packet that was just received; a message when it was the last one of it.
    fn accept(&mut self, packet: &Packet) -> Result<Option<(In, Vec<OwnedFd>)>, RecvError> {
        let [version, flags, payload @ ..] = &self.buffer[..packet.len] else { return Err(RecvError::Malformed) };
        if *version != VERSION {
            return Err(RecvError::Version(*version));
        }
        if packet.cut || payload.len() > INLINE || *flags & !(MORE | MEMFD) != 0 {
            return Err(RecvError::Malformed);
        }
        let in_memfd = *flags & MEMFD != 0;
        if self.partial.len() > self.limits.descriptors + usize::from(in_memfd) {
            return Err(RecvError::TooManyDescriptors);
        }
        if *flags & MORE != 0 {
            return if in_memfd || !payload.is_empty() { Err(RecvError::Malformed) } else { Ok(None) };
        }
        let message = if in_memfd {
            let fd = self.partial.pop().ok_or(RecvError::Malformed)?;
            let payload = memfd::read_sealed(fd, self.limits.payload).map_err(RecvError::Payload)?;
            serde_json::from_slice(&payload)
        } else {
            serde_json::from_slice(payload)
        };
        Ok(Some((message.map_err(RecvError::Json)?, std::mem::take(&mut self.partial))))
    }
}

impl<In, Out> AsFd for Channel<In, Out> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The packet that ends a message.
struct LastPacket<'a> {
    flags: u8,
    payload: Vec<u8>,
    memfd: Option<OwnedFd>,
    rest: &'a [BorrowedFd<'a>],
}

impl<'a> LastPacket<'a> {
    fn of(message: &impl Serialize, rest: &'a [BorrowedFd<'a>]) -> io::Result<Self> {
        let payload = serde_json::to_vec(message)?;
        if payload.len() <= INLINE {
            return Ok(Self { flags: 0, payload, memfd: None, rest });
        }
        let memfd = Some(memfd::sealed(&payload)?);
        Ok(Self { flags: MEMFD, payload: Vec::new(), memfd, rest })
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.rest.iter().copied().chain(self.memfd.as_ref().map(AsFd::as_fd)).collect()
    }
}

/// What [`recv_packet`] put into its buffer.
struct Packet {
    len: usize,
    /// Data or descriptors were lost because they did not fit.
    cut: bool,
}

fn send_packet(fd: impl AsFd, flags: u8, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let header = [VERSION, flags];
    let parts = [IoSlice::new(&header), IoSlice::new(payload)];
    rustix::net::sendmsg(fd, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet, descriptors appended to `descriptors`; `None` at the end.
fn recv_packet(fd: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    let cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok((received.bytes > 0).then_some(Packet { len: received.bytes, cut }))
}

#[cfg(test)]
mod tests;
