//! Replacing the program without anybody noticing: what the old one hands to the new one, and how the new one is tried.
//!
//! ```text
//! supervisor             rehearsal (a child of the new program)
//!     ├─ fork, exec ────────▶ reads the file and the document, starts a proxy of its own with the real sockets, which
//!     │                       accepts nothing
//!     │◀──────── one line ────┘
//!     │ signals wait, descriptors stay open
//!     ▼ exec, same process id
//! supervisor (new)
//!     ├─ adopts lock, sockets, admin socket, proxy and vrrp process
//!     ├─ starts a proxy; once it accepts, the old one retires
//!     └─ starts a vrrp process; once it waits, the old one tells its last status and leaves
//! ```
//!
//! The document's format is the only thing that two versions must have in common. It is handed over as a descriptor of a
//! sealed memfd; what else is handed over is in it by the numbers of descriptors. Processes whose messages are of another
//! version are not spoken to: the proxy was told to retire when its channel ends, and the vrrp process is replaced as if it
//! had died.

mod document;
mod preflight;
mod rehearsal;

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::app::supervisor::Source;
use crate::config::LoadOptions;

pub(super) use document::{
    Bequest, Document, DocumentError, FORMAT, HandedDuty, HandedListener, HandedProcess, HandedProxy, HandedRetired,
    Running,
};
pub(super) use preflight::run as preflight;
pub(super) use rehearsal::{Cleared, Rehearsal, left_open};

/// How this program was started, and where it lies.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// Of the command line, the program's name first; without [`RESUME`].
    arguments: Vec<OsString>,
    /// The configuration, as a whole path.
    file: PathBuf,
    node: Option<String>,
    /// Where a package puts the next version.
    binary: PathBuf,
}

/// The option that names the document.
const RESUME: &str = "--resume=";
/// What the kernel adds to the name of a file that was replaced.
const DELETED: &str = " (deleted)";

impl Origin {
    /// Of this process, which runs the configuration in `file` as `node`. To be called before the binary is replaced for the
    /// first time.
    pub(super) fn of_this_process(file: &Path, node: Option<&str>) -> io::Result<Self> {
        let arguments = std::env::args_os().filter(|a| !a.as_encoded_bytes().starts_with(RESUME.as_bytes()));
        let binary = std::fs::read_link("/proc/self/exe")?;
        let name = binary.to_string_lossy();
        let binary = name.strip_suffix(DELETED).map_or_else(|| binary.clone(), PathBuf::from);
        let file = std::path::absolute(file)?;
        Ok(Self { arguments: arguments.collect(), file, node: node.map(str::to_owned), binary })
    }

    /// Where configurations come from.
    pub(super) fn source(&self) -> Source {
        Source { path: self.file.clone(), options: LoadOptions { node: self.node.clone() } }
    }

    /// Where the program lies, or its successor.
    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The command line of a program that resumes from `document`.
    pub(super) fn arguments(&self, document: &OwnedFd) -> Vec<CString> {
        let resume = OsString::from(resume_option(document.as_raw_fd()));
        // An argument came as a C string, and so has no zero.
        self.arguments.iter().cloned().chain([resume]).flat_map(|a| CString::new(a.into_vec())).collect()
    }
}

fn resume_option(document: RawFd) -> String {
    format!("{RESUME}{document}")
}
