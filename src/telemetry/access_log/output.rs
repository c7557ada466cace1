//! Destinations as the writer sees them: byte streams and datagram sockets, with a bound on how long each may stall
//! the thread that serves all of them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::config::model::{LogTarget, SyslogTarget};
use crate::telemetry::clock::format_second;

/// Where the lines of one sink go.
#[derive(Debug)]
pub(super) struct Output {
    kind: Kind,
    patience: Patience,
    failing: bool,
}

#[derive(Debug)]
enum Kind {
    Stream(Stream),
    Datagrams(Datagrams),
}

/// A file, a pipe, a terminal.
#[derive(Debug, Default)]
struct Stream {
    descriptor: Option<OwnedFd>,
    /// Bytes of one write.
    piece: usize,
    /// The last line was written in part only; a line end must come first.
    torn: bool,
}

/// A socket that takes one line at a time.
#[derive(Debug)]
struct Datagrams {
    to: DatagramTarget,
    socket: Option<Socket>,
    /// Reused for each datagram.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum DatagramTarget {
    Journal(PathBuf),
    Syslog { to: SyslogTarget, host: Vec<u8>, zone: TimeZone },
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// How long the writer waits for a destination that takes nothing: once for `STALL`, then not at all until it takes
/// something again. The others' lines wait behind it.
#[derive(Debug, Default)]
struct Patience {
    stalled: bool,
}

const STALL: Duration = Duration::from_millis(100);

/// A pipe that poll calls writable takes this much without blocking (pipe(7): PIPE_BUF).
const PIPE_PIECE: usize = 4096;

/// Socket of systemd's journal.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Longest line the journal is given; its own limit for lines of services (LineMax).
const JOURNAL_LINE: usize = 48 * 1024;

/// Longest line a syslog daemon is given: rsyslog's and syslog-ng's default limit of a message.
const SYSLOG_LINE: usize = 8 * 1024;

/// Facility local7, severity info, as nginx.
const SYSLOG_PRIORITY: u8 = 190;

/// The name that journal and syslog know us by.
const IDENTIFIER: &str = "bascule";

impl Output {
    pub(super) fn new(target: &LogTarget, zone: &TimeZone) -> Self {
        let kind = match target {
            LogTarget::File(_) => Kind::Stream(Stream::default()),
            LogTarget::Stdout => Kind::Stream(Stream::stdout()),
            LogTarget::Journald => Kind::Datagrams(Datagrams::journal(Path::new(JOURNAL))),
            LogTarget::Syslog(to) => Kind::Datagrams(Datagrams::syslog(to, zone.clone())),
        };
        Self { kind, patience: Patience::default(), failing: false }
    }

    /// Whether the last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    pub(super) fn replace_file(&mut self, file: OwnedFd) {
        self.kind = Kind::Stream(Stream::new(file));
        self.patience = Patience::default();
    }

    /// Writes whole lines; how many bytes were taken, and why not all.
    pub(super) fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let (done, result) = match &mut self.kind {
            Kind::Stream(stream) => stream.write(lines, &mut self.patience),
            Kind::Datagrams(datagrams) => datagrams.write(lines, &mut self.patience),
        };
        self.failing = result.is_err();
        (done, result)
    }
}

impl Stream {
    fn new(descriptor: OwnedFd) -> Self {
        let stat = rustix::fs::fstat(&descriptor);
        let is_file = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        Self { descriptor: Some(descriptor), piece: if is_file { usize::MAX } else { PIPE_PIECE }, torn: false }
    }

    fn stdout() -> Self {
        io::stdout().as_fd().try_clone_to_owned().map(Self::new).unwrap_or_default()
    }

    fn write(&mut self, lines: &[u8], patience: &mut Patience) -> (usize, io::Result<()>) {
        let Some(descriptor) = &self.descriptor else {
            return (0, Err(io::Error::new(io::ErrorKind::NotFound, "the file is not open")));
        };
        if self.torn {
            match write_all(descriptor.as_fd(), b"\n", self.piece, patience) {
                (_, Ok(())) => self.torn = false,
                (_, Err(error)) => return (0, Err(error)),
            }
        }
        let (done, result) = write_all(descriptor.as_fd(), lines, self.piece, patience);
        self.torn = lines[..done].last().is_some_and(|&last| last != b'\n');
        (done, result)
    }
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], piece: usize, patience: &mut Patience) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        let end = bytes.len().min(done.saturating_add(piece));
        // A regular file is always ready.
        let ready = if piece == usize::MAX { Ok(()) } else { patience.wait(fd) };
        let result =
            ready.and_then(|()| match rustix::io::retry_on_intr(|| rustix::io::write(fd, &bytes[done..end])) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => Ok(other?),
            });
        match result {
            Ok(count) => done += count,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

impl Datagrams {
    fn journal(socket: &Path) -> Self {
        Self::new(DatagramTarget::Journal(socket.into()))
    }

    fn syslog(to: &SyslogTarget, zone: TimeZone) -> Self {
        let host = rustix::system::uname().nodename().to_bytes().to_vec();
        Self::new(DatagramTarget::Syslog { to: to.clone(), host, zone })
    }

    fn new(to: DatagramTarget) -> Self {
        Self { to, socket: None, buffer: Vec::new() }
    }

    fn write(&mut self, lines: &[u8], patience: &mut Patience) -> (usize, io::Result<()>) {
        self.buffer.clear();
        self.to.write_head(SystemTime::now(), &mut self.buffer);
        let (head, limit) = (self.buffer.len(), self.to.line_limit());
        let mut done = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            self.buffer.truncate(head);
            self.buffer.extend_from_slice(&text[..text.len().min(limit)]);
            if let Err(error) = self.send(patience) {
                return (done, Err(error));
            }
            done += line.len();
        }
        (done, Ok(()))
    }

    /// Sends the buffer; connects first when there is no connection, and once anew when the daemon was restarted.
    fn send(&mut self, patience: &mut Patience) -> io::Result<()> {
        let mut fresh = self.socket.is_none();
        let mut waited = false;
        loop {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => none.insert(self.to.connect()?),
            };
            match socket.send(&self.buffer) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                    waited = true;
                    patience.wait(socket.as_fd())?;
                }
                Err(error) if fresh || waited => return Err(error),
                Err(_) => {
                    self.socket = None;
                    fresh = true;
                }
            }
        }
    }
}

impl DatagramTarget {
    fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Journal(path) => Socket::unix(path),
            Self::Syslog { to: SyslogTarget::Unix(path), .. } => Socket::unix(path),
            Self::Syslog { to: SyslogTarget::Udp(address), .. } => Socket::udp(*address),
        }
    }

    /// What stands before each line.
    fn write_head(&self, now: SystemTime, out: &mut Vec<u8>) {
        match self {
            // The journal's native protocol: fields, one a line; the message last, its line end left out.
            Self::Journal(_) => {
                out.extend_from_slice(format!("PRIORITY=6\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE=").as_bytes());
            }
            // RFC 3164 4.1.
            Self::Syslog { host, zone, .. } => {
                let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                let second = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
                let time = format_second(zone, "%b %e %H:%M:%S", second);
                out.extend_from_slice(format!("<{SYSLOG_PRIORITY}>{time} ").as_bytes());
                out.extend_from_slice(host);
                out.extend_from_slice(format!(" {IDENTIFIER}: ").as_bytes());
            }
        }
    }

    fn line_limit(&self) -> usize {
        match self {
            Self::Journal(_) => JOURNAL_LINE,
            Self::Syslog { .. } => SYSLOG_LINE,
        }
    }
}

impl Socket {
    fn unix(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self::Unix(socket))
    }

    fn udp(to: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(to)?;
        Ok(Self::Udp(socket))
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(datagram).map(drop),
            Self::Udp(socket) => socket.send(datagram).map(drop),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl Patience {
    /// Waits until `fd` takes bytes.
    fn wait(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let limit = if self.stalled { Duration::ZERO } else { STALL };
        let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        let ready = match rustix::event::poll(&mut polled, Some(&limit)) {
            Err(Errno::INTR) => 0,
            other => other?,
        };
        self.stalled = ready == 0;
        if self.stalled { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
