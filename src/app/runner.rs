//! Runs a program of the configuration, or our own helper: in a process group of its own, which ends with its limit.
//!
//! Nothing of ours reaches it: standard input and output are /dev/null (or a pipe that is read), the directory is /, the
//! environment one PATH and what it is to know, the user is `script_user`. To be driven by the main thread, which is the one that forks.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::time::timeout;
use tracing::error;

use crate::config::model::Command;
use crate::sys::process;
use crate::sys::user::Identity;

/// Why a run was not a success.
#[derive(Debug)]
pub(super) enum Failure {
    /// It would run as root, and somebody else may write to this part of its path.
    Writable(PathBuf),
    /// It is not there, or cannot be executed.
    Unborn(io::Error),
    /// Its status is unknown.
    Lost(io::Error),
    /// It ended otherwise than with status 0.
    Status(ExitStatus),
    /// It did not end in time, and was killed.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writable(path) => {
                write!(f, "refused: it would run as root, and {} can be written to by others", path.display())
            }
            Self::Unborn(e) => write!(f, "cannot execute it: {e}"),
            Self::Lost(e) => write!(f, "cannot wait for it: {e}"),
            Self::Status(status) => status.fmt(f),
            Self::TimedOut => f.write_str("did not end in time"),
        }
    }
}

impl Failure {
    /// Whether there was no run at all.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Writable(_) | Self::Unborn(_) => true,
            Self::Lost(_) | Self::Status(_) | Self::TimedOut => false,
        }
    }
}

/// A process and its group. Dropped before its end, it is killed with the group.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// Until its end is known; after it, the number may be another's.
    group: Option<Pid>,
}

/// The environment variable that all have: what a login shell of root has.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Running {
    /// Starts `command` with `more` arguments, as `identity`; without one, as whom we are.
    pub(super) fn start(command: &Command, more: &[&str], identity: Option<Identity>) -> Result<Self, Failure> {
        let mut process = Self::prepare(command, identity)?;
        process.args(more).stdout(Stdio::null()).stderr(Stdio::null());
        Self::spawn(process)
    }

    /// Starts `command` as `identity`, with `environment` beside PATH; what it writes comes out of the pipe.
    pub(super) fn start_heard(
        command: &Command,
        environment: &[(&str, String)],
        identity: Option<Identity>,
    ) -> Result<(Self, pipe::Receiver), Failure> {
        let mut process = Self::prepare(command, identity)?;
        let (reader, writer) = io::pipe().map_err(Failure::Unborn)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(Failure::Unborn)?;
        process.envs(environment.iter().map(|(name, value)| (name, value)));
        process.stdout(writer.try_clone().map_err(Failure::Unborn)?).stderr(writer);
        Ok((Self::spawn(process)?, reader))
    }

    fn prepare(command: &Command, identity: Option<Identity>) -> Result<tokio::process::Command, Failure> {
        let as_root = identity.map_or_else(|| rustix::process::geteuid().is_root(), |id| id.uid == 0);
        let mut process = if as_root {
            // What was looked at is what is executed: no link in between can be turned.
            let mut process = tokio::process::Command::new(trusted(&command.program)?);
            process.arg0(&command.program);
            process
        } else {
            tokio::process::Command::new(&command.program)
        };
        process.args(&command.arguments).stdin(Stdio::null());
        process.current_dir("/").env_clear().env("PATH", PATH);
        if let Some(Identity { uid, gid }) = identity {
            // Of root, this drops the supplementary groups too.
            process.uid(uid).gid(gid);
        }
        Ok(process)
    }

    /// Starts `process` in a group of its own.
    pub(super) fn spawn(mut process: tokio::process::Command) -> Result<Self, Failure> {
        process.process_group(0);
        let child = process::without_ambient(|| process.spawn()).map_err(Failure::Unborn)?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, group })
    }

    /// The process, for its pipes.
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end; after `limit` the whole group is killed, which [`Running::reap`] waits for.
    pub(super) async fn finish(&mut self, limit: Duration) -> Result<(), Failure> {
        match timeout(limit, self.reap()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Failure::Status(status)),
            Ok(Err(e)) => Err(Failure::Lost(e)),
            Err(_) => {
                self.kill();
                Err(Failure::TimedOut)
            }
        }
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    fn kill(&mut self) {
        let Some(group) = self.group else { return };
        match kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => error!(pid = group.as_raw_nonzero().get(), error = %e, "a program that hangs cannot be killed"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The runtime reaps it.
        self.kill();
    }
}

/// The same program without symbolic links, when nobody but root can change it or put another in its place.
fn trusted(program: &Path) -> Result<PathBuf, Failure> {
    let whole = program.canonicalize().map_err(Failure::Unborn)?;
    for part in whole.ancestors() {
        let metadata = part.symlink_metadata().map_err(Failure::Unborn)?;
        if writable_by_others(metadata.uid(), metadata.gid(), metadata.mode()) {
            return Err(Failure::Writable(part.to_owned()));
        }
    }
    Ok(whole)
}

fn writable_by_others(owner: u32, group: u32, mode: u32) -> bool {
    const DIRECTORY: u32 = 0o040_000;
    const STICKY: u32 = 0o001_000;
    // In a sticky directory only its owner and a file's owner replace the file.
    let sticky = mode & 0o170_000 == DIRECTORY && mode & STICKY != 0;
    owner != 0 || (!sticky && (mode & 0o002 != 0 || (group != 0 && mode & 0o020 != 0)))
}

#[cfg(test)]
pub(in crate::app) mod tests;
