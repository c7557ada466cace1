//! The admin socket: one request a connection, a line of JSON each way. The supervisor answers at once, or as soon as the
//! proxy does, for which it does not wait long.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::app::peers::Admitted;
use crate::config::model;
use crate::ipc::Imagined;
use crate::sys::user;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// How everything is.
    Status,
    /// Which exchanges failed last.
    Errors,
    /// Where a request would go.
    Explain(Imagined),
    /// End; `now`: without handing over and without draining.
    Stop { now: bool },
    /// Give the addresses of one virtual router, or of all, to a peer.
    HandOver { router: Option<String> },
    /// Hold no address that another box can hold.
    Maintenance { on: bool },
    /// Go over to what is in the file; `dry_run`: only say what would change; `confirm_ms`: go back unless it is confirmed
    /// within that time.
    Reload { dry_run: bool, confirm_ms: Option<u64> },
    /// The configuration that waits for it stays.
    Confirm,
    /// The last generations.
    History,
    /// Go back to a generation; without a number, to the one before.
    Rollback { to: Option<u64>, confirm_ms: Option<u64> },
    /// Use a server otherwise than the file says.
    Server { pool: String, server: String, order: ServerOrder },
    /// Become another program: that at `binary`, else what is now at the path of ours. The answer is the upgrade's number.
    Upgrade { binary: Option<PathBuf> },
    /// What became of an upgrade; null while it goes on.
    UpgradeOutcome { number: u64 },
}

/// How a server is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ServerOrder {
    /// Nothing new.
    Drain,
    /// As the file says.
    Ready,
    /// Nothing new, and no checks.
    Maintenance,
    /// With this weight; `None`: that of the file.
    Weight(Option<u32>),
}

impl Request {
    /// Whether it does more than ask.
    pub(super) fn changes_something(&self) -> bool {
        match self {
            Self::Status | Self::Errors | Self::Explain(_) | Self::History | Self::UpgradeOutcome { .. } => false,
            Self::Reload { dry_run, .. } => !dry_run,
            Self::Stop { .. }
            | Self::HandOver { .. }
            | Self::Maintenance { .. }
            | Self::Confirm
            | Self::Rollback { .. }
            | Self::Server { .. }
            | Self::Upgrade { .. } => true,
        }
    }
}

/// The answer: something to show, or what is wrong.
pub(super) type Answer = Result<serde_json::Value, String>;

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// Who asks: `alice (uid 1000)`.
    pub(super) user: String,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// The listening socket, and what comes in by it.
#[derive(Debug)]
pub(super) struct Admin {
    path: PathBuf,
    asked: mpsc::Receiver<Asked>,
    ask: mpsc::Sender<Asked>,
    listener: Arc<UnixListener>,
    admitted: Admitted,
    /// Accepts, unless paused.
    accepting: Option<JoinHandle<()>>,
    /// Held by every connection.
    open: Arc<()>,
}

/// The socket cannot be made.
#[derive(Debug)]
pub(super) enum AdminError {
    /// It cannot be bound, or not be given its mode.
    Socket(PathBuf, io::Error),
    /// There is no such group.
    NoGroup(String),
    /// The socket cannot be given to the group.
    Group(PathBuf, String, io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, source) = match self {
            Self::NoGroup(group) => {
                return write!(
                    f,
                    "[admin] group: there is no group {group:?} in /etc/group; create it, or name another"
                );
            }
            Self::Group(path, group, source) => {
                let path = path.display();
                return write!(
                    f,
                    "admin socket {path}: cannot be given to group {group:?}: {source}; make its user a member \
                     (systemd: SupplementaryGroups={group})"
                );
            }
            Self::Socket(path, source) => (path.display(), source),
        };
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "admin socket {path}: somebody answers there; another instance needs another `socket` in [admin]"
                )
            }
            io::ErrorKind::AlreadyExists => {
                write!(f, "admin socket {path}: there is a file that is no socket; remove it")
            }
            _ => write!(f, "admin socket {path}: {source}"),
        }
    }
}

/// Requests that wait for the supervisor; more wait in their sockets.
const QUEUE: usize = 16;
/// A request is a line; one to be explained may have many headers.
const LONGEST: u64 = 64 << 10;
/// For a client to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

impl Admin {
    /// Listens at `path`; a socket that nobody answers at any more is replaced. To be called in a runtime, under the lock
    /// of the instance.
    pub(super) fn open(config: &model::Admin) -> Result<Self, AdminError> {
        let path = &config.socket;
        let failed = |source| AdminError::Socket(path.clone(), source);
        let group = group_of(config)?;
        clear(path).map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        if let (Some(name), Some(_)) = (&config.group, group) {
            chown(path, None, group).map_err(|source| AdminError::Group(path.clone(), name.clone(), source))?;
        }
        // Nobody of the group that happens to be ours, unless it is named.
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Self::new(path, listener, Admitted { group }))
    }

    /// Goes on listening where the program before us in this process did. To be called in a runtime.
    pub(super) fn adopt(config: &model::Admin, listening: OwnedFd) -> Result<Self, AdminError> {
        let path = &config.socket;
        let listener = UnixListener::from_std(listening.into());
        let listener = listener.map_err(|source| AdminError::Socket(path.clone(), source))?;
        Ok(Self::new(path, listener, Admitted { group: group_of(config)? }))
    }

    fn new(path: &Path, listener: UnixListener, admitted: Admitted) -> Self {
        let (ask, asked) = mpsc::channel(QUEUE);
        let (listener, open) = (Arc::new(listener), Arc::default());
        let mut this = Self { path: path.to_owned(), asked, ask, listener, admitted, accepting: None, open };
        this.resume();
        this
    }

    /// Leaves new connections in the queue.
    pub(super) fn pause(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    /// Ends [`Self::pause`].
    pub(super) fn resume(&mut self) {
        if self.accepting.is_none() {
            let task = listen(Arc::clone(&self.listener), self.admitted, self.ask.clone(), Arc::clone(&self.open));
            self.accepting = Some(tokio::spawn(task));
        }
    }

    /// Whether everybody who asked has been answered; once paused it stays so.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.open) == 1
    }

    /// The listening socket.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next request. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The group that may ask.
fn group_of(config: &model::Admin) -> Result<Option<u32>, AdminError> {
    let id = |name: &String| user::group(name).ok_or_else(|| AdminError::NoGroup(name.clone()));
    config.group.as_ref().map(id).transpose()
}

/// Removes what an instance that died left behind.
fn clear(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(data) => data.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !kind.is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => std::fs::remove_file(path),
    }
}

async fn listen(listener: Arc<UnixListener>, admitted: Admitted, ask: mpsc::Sender<Asked>, open: Arc<()>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (ask, open) = (ask.clone(), Arc::clone(&open));
                tokio::spawn(async move {
                    serve(stream, admitted, ask).await;
                    drop(open);
                });
            }
            Err(e) => {
                warn!(error = %e, "admin socket: cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, admitted: Admitted, ask: mpsc::Sender<Asked>) {
    // Read first: an answer to somebody who still writes would be lost.
    let request = request(&mut stream).await;
    let admitted = admitted.check(&stream);
    if let Err(refusal) = &admitted {
        warn!(%refusal, "admin socket");
    }
    let answer = match admitted.and_then(|peer| Ok((peer, request?))) {
        Ok((peer, request)) => {
            let user = peer.to_string();
            debug!(?request, user, "admin request");
            let (reply, answer) = oneshot::channel();
            match ask.send(Asked { request, user, reply }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| Err("the instance ends".to_owned())),
                Err(_) => Err("the instance ends".to_owned()),
            }
        }
        Err(e) => Err(e),
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // Whoever does not wait for the answer does not get it.
    let _ = stream.write_all(&line).await;
}

/// Reads one request.
async fn request(stream: &mut UnixStream) -> Result<Request, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST));
    match timeout(PATIENCE, reader.read_line(&mut line)).await {
        Ok(Ok(_)) => serde_json::from_str(&line).map_err(|e| format!("not a request: {e}")),
        Ok(Err(e)) => Err(format!("cannot read the request: {e}")),
        Err(_) => Err("no request came".to_owned()),
    }
}
