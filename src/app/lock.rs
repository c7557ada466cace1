//! One instance for each run directory.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Held while this instance runs; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Why this instance must not run.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another instance runs on the directory.
    Held { dir: PathBuf, pid: String },
    /// The lock file cannot be made.
    Io { path: PathBuf, source: io::Error },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { dir, pid } => write!(
                f,
                "another instance (pid {pid}) runs on {}; a second one needs another `run_dir` in [global]",
                dir.display()
            ),
            Self::Io { path, source } => write!(f, "cannot lock {}: {source}", path.display()),
        }
    }
}

impl Lock {
    /// Takes the lock of `dir`, which is created when it is not there.
    pub(super) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o644);
        let mut file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
                return Err(LockError::Held { dir: dir.to_owned(), pid });
            }
            Err(e) => return Err(io(e.into())),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { file })
    }

    /// Goes on holding what the program before us in this process took.
    pub(super) fn adopt(held: OwnedFd) -> Self {
        Self { file: held.into() }
    }

    /// What holds it.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_instance_learns_who_is_there() {
        let dir = std::env::temp_dir().join(format!("bascule-lock-{}", std::process::id()));
        let held = Lock::take(&dir.join("run")).unwrap();
        let refused = Lock::take(&dir.join("run")).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("another instance (pid {}) runs on ", std::process::id())));
        drop(held);
        Lock::take(&dir.join("run")).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Lock::take(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().starts_with("cannot lock /proc/nowhere/lock: "), "{error}");
    }
}
