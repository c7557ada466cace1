//! The proxy process as the supervisor sees it.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;
use tokio::time::timeout;

use crate::app::watchdog::{Verdict, Watchdog};
use crate::ipc::{self, Channel, FromProxy, Limits, ProxyChannel, RecvError, Start, ToProxy};
use crate::net::clock;
use crate::sys::procfs;
use crate::sys::user::Identity;
use crate::sys::watched::Watched;

/// Our own binary, held open: a package may replace the file, and a new proxy must be what the supervisor is.
#[derive(Debug, Clone)]
pub(super) struct Program(Arc<File>);

/// A process that was started from [`Program`]; ended with this value.
#[derive(Debug)]
pub(super) struct Spawned {
    process: Process,
    pid: u32,
    /// What came of the signal to end it.
    killed: io::Result<()>,
}

/// Who started it.
#[derive(Debug)]
enum Process {
    /// We did.
    Own(tokio::process::Child),
    /// The program that we were before an upgrade; the descriptor names the process. It does not end with this value.
    Adopted(Watched),
}

/// A running proxy.
pub(super) struct Child {
    process: Spawned,
    channel: ProxyChannel,
    watchdog: Watchdog,
    /// What it watches instead of us, see [`Start::guarded`].
    guard: Option<OwnedFd>,
    /// It said [`FromProxy::Ready`].
    pub(super) ready: bool,
    /// Client connections at the last heartbeat.
    pub(super) connections: u64,
}

/// Why a proxy has to be replaced.
#[derive(Debug)]
pub(super) enum Lost {
    /// It could not be forked or executed.
    Unborn(io::Error),
    /// Its end of the socketpair is closed: it died, or is about to.
    Closed,
    /// It said what no proxy says.
    Garbled(RecvError),
    /// It did not take a message.
    Deaf(io::Error),
    /// It is hung.
    Hung(Verdict),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unborn(e) => write!(f, "cannot execute it: {e}"),
            Self::Closed => f.write_str("it died"),
            Self::Garbled(e) => write!(f, "protocol violated: {e}"),
            Self::Deaf(e) => write!(f, "it takes no messages: {e}"),
            Self::Hung(Verdict::Silent) => f.write_str("no heartbeat for proxy_watchdog"),
            Self::Hung(Verdict::Stuck { tid }) => write!(f, "worker {tid} made no progress for proxy_watchdog"),
        }
    }
}

/// From the fork to the first heartbeat: a long configuration takes its time to parse.
pub(super) const START_LIMIT: Duration = Duration::from_secs(10);
/// For a message with descriptors to be taken.
const SEND_LIMIT: Duration = Duration::from_secs(2);
/// For a process to end after SIGKILL; in uninterruptible sleep it takes longer, and is left to itself.
const REAP_LIMIT: Duration = Duration::from_secs(1);
/// What our processes inherit: the supervisor's environment may hold secrets of the configuration.
const ENVIRONMENT: [&str; 2] = ["TZ", "RUST_BACKTRACE"];

impl Program {
    pub(super) fn open() -> io::Result<Self> {
        // Only its path: a binary that may be executed but not read is enough.
        Self::open_path(Path::new("/proc/self/exe"))
    }

    /// The program at `path`, which need not be what we are.
    pub(super) fn open_path(path: &Path) -> io::Result<Self> {
        Self::open_at(path, OFlags::PATH.bits().cast_signed())
    }

    /// A path to it for as long as it is open, in this process and in what it forks.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Another program in its place.
    #[cfg(test)]
    pub(super) fn stand_in(path: &str) -> Self {
        Self::open_path(Path::new(path)).expect("a program")
    }

    fn open_at(path: &Path, flags: i32) -> io::Result<Self> {
        Ok(Self(Arc::new(File::options().read(true).custom_flags(flags).open(path)?)))
    }

    /// Itself as a child process called `name`, which does `subcommand` as `identity`. To be spawned by the main thread: the
    /// kernel ends the child together with the thread that forked it.
    pub(super) fn command(&self, name: &str, subcommand: &str, identity: Option<Identity>) -> Command {
        let mut command = Command::new(self.path());
        command.arg0(name).arg(subcommand).arg(format!("--supervisor={}", std::process::id()));
        if let Some(Identity { uid, gid }) = identity {
            command.arg(format!("--uid={uid}")).arg(format!("--gid={gid}"));
        }
        command.env_clear().envs(ENVIRONMENT.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))));
        // The root directory keeps no file system busy.
        command.current_dir("/").kill_on_drop(true);
        command
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Spawned {
    /// Forks and executes `command` of [`Program::command`], with `channel` as its standard input.
    pub(super) fn start(mut command: Command, channel: OwnedFd, dies_with_us: bool) -> io::Result<Self> {
        let process = command.stdin(Stdio::from(channel)).kill_on_drop(dies_with_us).spawn()?;
        Ok(Self { pid: process.id().unwrap_or_default(), process: Process::Own(process), killed: Ok(()) })
    }

    /// Takes over a child that the program before us in this process started. To be called in a runtime.
    pub(super) fn adopt(pid: u32) -> io::Result<Self> {
        let number = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        // Nobody but us reaps it, so that the number is still its own.
        let process = Process::Adopted(Watched::new(pidfd_open(number, PidfdFlags::NONBLOCK)?));
        Ok(Self { process, pid, killed: Ok(()) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGKILL.
    pub(super) fn signal(&mut self) {
        self.killed = match &mut self.process {
            Process::Own(child) => child.start_kill(),
            Process::Adopted(process) => pidfd_send_signal(process.fd(), Signal::KILL).map_err(Into::into),
        };
    }

    /// Waits for its end; how it ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<String> {
        match &mut self.process {
            Process::Own(child) => child.wait().await.map(|status| status.to_string()),
            Process::Adopted(process) => reap(process).await,
        }
    }

    /// Waits for its end after [`Self::signal`]; how it ended.
    pub(super) async fn reap(mut self) -> String {
        match (timeout(REAP_LIMIT, self.ended()).await, self.killed) {
            (Ok(Ok(status)), _) => status,
            (Ok(Err(e)), _) => e.to_string(),
            (Err(_), Err(e)) => format!("not ended: {e}"),
            (Err(_), Ok(())) => "not ended yet".to_owned(),
        }
    }
}

/// Waits until the process that `pidfd` names has ended, and takes its status. Cancel-safe.
async fn reap(pidfd: &mut Watched) -> io::Result<String> {
    loop {
        let mut ready = pidfd.watch()?.readable().await?;
        match waitid(WaitId::PidFd(pidfd.fd().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("exit status: {code}"),
                    (None, Some(signal)) => format!("signal: {signal}"),
                    (None, None) => "ended".to_owned(),
                });
            }
            Ok(None) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

impl Child {
    /// Forks and executes `program` as proxy. To be called by the main thread: the kernel ends the child together with the
    /// thread that forked it, unless it is guarded.
    ///
    /// With a `guard`, the read end of a pipe whose write ends this process and another hold, the proxy lives on when this
    /// process dies, and ends with the last of those write ends.
    pub(super) fn spawn(
        program: &Program,
        identity: Option<Identity>,
        watchdog: Duration,
        guard: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let guard = guard.map(OwnedFd::try_clone).transpose()?;
        let (ours, theirs) = ipc::socketpair()?;
        let mut command = program.command("bascule-proxy", "proxy", identity);
        if guard.is_some() {
            command.arg("--guarded");
        }
        Ok(Self {
            process: Spawned::start(command, theirs, true)?,
            channel: Channel::new(ours, Limits::OF_PROXY)?,
            watchdog: Watchdog::new(watchdog, START_LIMIT, clock::now()),
            guard,
            ready: false,
            connections: 0,
        })
    }

    /// Takes over a proxy that serves, by the channel that the program before us in this process had to it.
    pub(super) fn adopt(pid: u32, channel: OwnedFd, watchdog: Duration, connections: u64) -> io::Result<Self> {
        Ok(Self {
            process: Spawned::adopt(pid)?,
            channel: Channel::new(channel, Limits::OF_PROXY)?,
            watchdog: Watchdog::new(watchdog, START_LIMIT, clock::now()),
            guard: None,
            ready: true,
            connections,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Our end of the channel.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<FromProxy, Lost> {
        let message = hear(&mut self.channel).await?;
        if let FromProxy::Heartbeat { workers, connections } = &message {
            self.watchdog.heartbeat(workers, clock::now());
            self.connections = *connections;
        }
        Ok(message)
    }

    /// Whether it still runs well; to be called at every [`Watchdog::interval`].
    pub(super) fn check(&mut self) -> Result<(), Lost> {
        self.watchdog.check(clock::now()).map_or(Ok(()), |verdict| Err(Lost::Hung(verdict)))
    }

    /// Where the thread of `verdict` is.
    pub(super) fn location(&self, verdict: Verdict) -> String {
        let tid = match verdict {
            Verdict::Silent => self.pid().cast_signed(),
            Verdict::Stuck { tid } => tid,
        };
        procfs::thread_location(self.pid(), tid)
    }

    /// Sends the first message: `descriptors` are those of `start` but for the guard, which is added here.
    pub(super) async fn start(&self, start: Start, descriptors: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        let all: Vec<_> = self.guard.iter().map(AsFd::as_fd).chain(descriptors.iter().copied()).collect();
        self.send(&ToProxy::Start(Start { guarded: self.guard.is_some(), ..start }), &all).await
    }

    /// Sends a message.
    pub(super) async fn send(&self, message: &ToProxy, descriptors: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        tell(&self.channel, message, descriptors).await
    }

    /// Sends a message if it can be sent without waiting.
    pub(super) fn offer(&self, message: &ToProxy) -> io::Result<()> {
        self.channel.try_send(message)
    }

    /// Lets it write its logs and leave for `limit`, then ends it.
    pub(super) async fn stop(mut self, limit: Duration) {
        if self.channel.try_send(&ToProxy::Stop).is_ok() {
            // What it still says is of no interest; the end of the channel is.
            let _ = timeout(limit, async { while self.next().await.is_ok() {} }).await;
        }
        self.kill().await;
    }

    /// Ends it at once; how it ended.
    pub(super) async fn kill(mut self) -> String {
        // Without CAP_KILL the signal fails for a proxy of another user; closing the socketpair ends it then, for we live.
        self.process.signal();
        drop(self.channel);
        self.process.reap().await
    }
}

/// The next message of a child. Cancel-safe.
pub(super) async fn hear<In: DeserializeOwned, Out: Serialize>(channel: &mut Channel<In, Out>) -> Result<In, Lost> {
    match channel.recv().await {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(Lost::Closed),
        Err(e) => Err(Lost::Garbled(e)),
    }
}

/// Sends a message to a child.
pub(super) async fn tell<In: DeserializeOwned, Out: Serialize>(
    channel: &Channel<In, Out>,
    message: &Out,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Lost> {
    match timeout(SEND_LIMIT, channel.send(message, descriptors)).await {
        Ok(sent) => sent.map_err(Lost::Deaf),
        Err(_) => Err(Lost::Deaf(io::ErrorKind::TimedOut.into())),
    }
}

/// The descriptors of `sockets`, in order.
pub(super) fn descriptors<'a>(sockets: impl Iterator<Item = &'a TcpListener>) -> Vec<BorrowedFd<'a>> {
    sockets.map(AsFd::as_fd).collect()
}
