//! The supervisor's side of the rehearsal: starts the new program, and hears whether it could take over.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Origin, resume_option};
use crate::app::child::Program;
use crate::sys::exec::close_on_exec;

/// What a program says that can take over; a line of JSON on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::app) struct Cleared {
    /// Its version.
    pub(in crate::app) version: String,
    /// [`crate::ipc::VERSION`] of it.
    pub(in crate::app) ipc: u8,
}

/// A rehearsal under way; dropped, it ends.
#[derive(Debug)]
pub(in crate::app) struct Rehearsal {
    verdict: oneshot::Receiver<Result<Cleared, String>>,
    task: tokio::task::JoinHandle<()>,
}

/// For the whole rehearsal.
const LIMIT: Duration = Duration::from_secs(10);
/// Of what it writes, this much is kept: the end of it.
const KEPT: usize = 4096;
/// Lines of it that are shown.
const SHOWN: usize = 12;

impl Rehearsal {
    /// Starts one of `program`, which lies at `path`, from `document` and with `descriptors` open in it. To be called by the
    /// main thread in its runtime.
    ///
    /// # Errors
    /// It cannot be executed.
    pub(in crate::app) fn start(
        program: &Program,
        path: &Path,
        origin: &Origin,
        document: &OwnedFd,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        let mut command = Command::new(program.path());
        command.arg0("bascule").args(["preflight", "-c"]).arg(&origin.file);
        command.args(origin.node.iter().flat_map(|node| ["--node", node]));
        command.arg(resume_option(std::os::fd::AsRawFd::as_raw_fd(document)));
        // The rest of the environment is what the configuration may take secrets from.
        command.env_remove("NOTIFY_SOCKET").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let all: Vec<_> = descriptors.iter().copied().chain([document.as_fd(), program.as_fd()]).collect();
        let child = left_open(&all, || command.spawn())?;
        let (tell, verdict) = oneshot::channel();
        let path = path.display().to_string();
        let task = tokio::spawn(async move {
            // Nobody waits any more when the upgrade was given up.
            let _ = tell.send(watch(child, &path).await);
        });
        Ok(Self { verdict, task })
    }

    /// What came of it. Cancel-safe.
    pub(in crate::app) async fn verdict(&mut self) -> Result<Cleared, String> {
        (&mut self.verdict).await.unwrap_or_else(|_| Err("the rehearsal was given up".to_owned()))
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does `start` while `descriptors` are left open in what is executed.
pub(in crate::app) fn left_open<T>(
    descriptors: &[BorrowedFd<'_>],
    start: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let opened = descriptors.iter().try_for_each(|fd| close_on_exec(fd, false));
    let done = opened.and_then(|()| start());
    // Never refused for an open descriptor.
    let _ = descriptors.iter().try_for_each(|fd| close_on_exec(fd, true));
    done
}

async fn watch(mut child: Child, path: &str) -> Result<Cleared, String> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (VecDeque::new(), VecDeque::new());
    let ended = timeout(LIMIT, async {
        let (status, (), ()) =
            tokio::join!(child.wait(), keep_end(stdout, &mut said), keep_end(stderr, &mut complained));
        status
    });
    let what = match ended.await {
        Ok(Ok(status)) => match verdict(status, &text(&said)) {
            Some(cleared) => return Ok(cleared),
            None => format!("it ended with {status} before it was ready"),
        },
        Ok(Err(e)) => format!("its end is unknown: {e}"),
        Err(_) => {
            // Its proxy dies with it.
            let _ = timeout(Duration::from_secs(1), child.kill()).await;
            format!("it was not ready within {LIMIT:?}")
        }
    };
    let complaint = text(&complained);
    let lines: Vec<&str> = complaint.lines().collect();
    let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    Err(if last.is_empty() { format!("{path}: {what}") } else { format!("{path}: {what}:\n{last}") })
}

/// What a program that ended well has said.
fn verdict(status: ExitStatus, said: &str) -> Option<Cleared> {
    status.success().then(|| serde_json::from_str(said.trim()).ok()).flatten()
}

/// Reads to the end.
async fn keep_end(from: Option<impl AsyncRead + Unpin>, end: &mut VecDeque<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; KEPT];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        end.extend(&buffer[..n]);
        end.drain(..end.len().saturating_sub(KEPT));
    }
}

fn text(bytes: &VecDeque<u8>) -> String {
    let bytes: Vec<u8> = bytes.iter().copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
