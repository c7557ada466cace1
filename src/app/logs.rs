//! Access log files: opened here, with the supervisor's rights, and handed to the proxy, which may open nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::config::model::{AccessLog, Config, LogTarget};

/// A log file that cannot be opened.
#[derive(Debug)]
pub(super) struct LogError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access log {}: {}", self.path.display(), self.source)?;
        match rustix::io::Errno::from_io_error(&self.source) {
            Some(rustix::io::Errno::LOOP) => f.write_str(" (symbolic links are not followed)"),
            Some(_) | None => Ok(()),
        }
    }
}

/// Every file that `config` logs to, once.
pub(super) fn paths(config: &Config) -> Vec<PathBuf> {
    let listeners = config.listeners.iter().filter_map(|l| l.access_log.as_ref());
    let sites = config.sites.iter().filter_map(|s| s.access_log.as_ref());
    let routes = config.sites.iter().flat_map(|s| &s.routes).filter_map(|r| r.policy.access_log.as_ref());
    let paths: BTreeSet<&PathBuf> = listeners.chain(sites).chain(routes).filter_map(file_of).collect();
    paths.into_iter().cloned().collect()
}

fn file_of(log: &Arc<AccessLog>) -> Option<&PathBuf> {
    match &log.target {
        LogTarget::File(path) => Some(path),
        LogTarget::Stdout | LogTarget::Journald | LogTarget::Syslog(_) => None,
    }
}

/// Opens `path` for appending, created with mode 0640.
pub(super) fn open(path: &Path) -> Result<OwnedFd, LogError> {
    // A symbolic link in a directory that others write to would let them choose what we append to, as root. A named pipe
    // without a reader must not block: non-blocking.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: io::Result<File> =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags.bits().cast_signed()).open(path);
    file.map(OwnedFd::from).map_err(|source| LogError { path: path.to_owned(), source })
}

/// Opens every file that `config` logs to; those that cannot be opened are logged and left out, so that traffic goes on.
pub(super) fn open_all(config: &Config) -> (Vec<PathBuf>, Vec<OwnedFd>) {
    let opened = |path: PathBuf| match open(&path) {
        Ok(fd) => Some((path, fd)),
        Err(e) => {
            tracing::error!(error = %e, "access log not opened");
            None
        }
    };
    paths(config).into_iter().filter_map(opened).unzip()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_log_is_created_for_its_owner_and_group_and_never_through_a_link() {
        let dir = std::env::temp_dir().join(format!("bascule-logs-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("access.log");
        open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        let link = dir.join("link");
        symlink(&path, &link).unwrap();
        assert!(open(&link).unwrap_err().to_string().ends_with("(symbolic links are not followed)"));
        let error = open(&dir.join("no/where")).unwrap_err().to_string();
        assert!(error.contains("no/where: No such file or directory"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
