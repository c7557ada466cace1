//! What the old program hands to the new one.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::model::Attachments;
use crate::ipc::{self, PoolSummary};
use crate::sys::exec::Inherited;
use crate::sys::memfd::{self, MemfdError};
use crate::vrrp::machine::Memory;
use crate::vrrpd::report::{Fitness, Status};

/// All of it. Descriptors are in it by their numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct Document {
    /// [`FORMAT`] of whoever wrote it.
    pub(in crate::app) format: u32,
    /// The program that wrote it.
    pub(in crate::app) running: Running,
    /// [`ipc::VERSION`] of its processes.
    pub(in crate::app) ipc: u8,
    /// Name of this box.
    pub(in crate::app) node: String,
    /// What it runs, as one TOML text.
    pub(in crate::app) config: String,
    /// The contents of the files that it names; a program that knew of none names none.
    #[serde(default)]
    pub(in crate::app) attachments: Attachments,
    /// The files that it came from.
    pub(in crate::app) files: Vec<PathBuf>,
    /// Of their contents.
    pub(in crate::app) checksum: u32,
    /// Its number on this box.
    pub(in crate::app) generation: u64,
    /// When the supervisor was first started, in milliseconds of CLOCK_MONOTONIC.
    pub(in crate::app) started: u64,
    /// Number of this upgrade.
    pub(in crate::app) number: u64,
    /// The lock of the run directory.
    pub(in crate::app) lock: RawFd,
    /// The admin socket.
    pub(in crate::app) admin: RawFd,
    /// One for each bind address.
    pub(in crate::app) listeners: Vec<HandedListener>,
    /// The proxy that serves.
    pub(in crate::app) proxy: HandedProxy,
    /// Those before it that still have connections.
    pub(in crate::app) retired: Vec<HandedRetired>,
    /// The last state of the proxy.
    pub(in crate::app) state: Option<Box<RawValue>>,
    /// With virtual routers.
    pub(in crate::app) duty: Option<HandedDuty>,
}

/// A version and its processes, to tell the operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::app) struct Running {
    /// Of the program.
    pub(in crate::app) version: String,
    /// Of the proxy.
    pub(in crate::app) proxy: Option<u32>,
    /// Of the vrrp process.
    pub(in crate::app) vrrp: Option<u32>,
}

/// The sockets of one bind address.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct HandedListener {
    /// Name of the listener.
    pub(in crate::app) name: Arc<str>,
    /// The address.
    pub(in crate::app) addr: SocketAddr,
    /// All of them.
    pub(in crate::app) shards: Vec<RawFd>,
}

/// A child and our end of the channel to it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct HandedProcess {
    /// Its id.
    pub(in crate::app) pid: u32,
    /// The channel.
    pub(in crate::app) channel: RawFd,
}

/// A proxy.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct HandedProxy {
    /// The process.
    pub(in crate::app) process: HandedProcess,
    /// Client connections as last heard.
    pub(in crate::app) connections: u64,
}

/// A proxy that was replaced.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct HandedRetired {
    /// Its id.
    pub(in crate::app) pid: u32,
    /// The channel, while its messages are understood.
    pub(in crate::app) channel: Option<RawFd>,
    /// [`ipc::VERSION`] of it.
    pub(in crate::app) ipc: u8,
    /// Client connections as last heard.
    pub(in crate::app) connections: u64,
    /// When they are cut, in milliseconds of CLOCK_MONOTONIC.
    pub(in crate::app) until: u64,
    /// The state of it that its successors know the counts of.
    pub(in crate::app) counted: Option<Box<RawValue>>,
}

/// What the supervisor knows of virtual routers.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct HandedDuty {
    /// Read and write end of what guards the proxies.
    pub(in crate::app) guard: [RawFd; 2],
    /// The vrrp process.
    pub(in crate::app) process: Option<HandedProcess>,
    /// As last reported.
    pub(in crate::app) status: Status,
    /// Of processes before this one, as far as `status` does not have it.
    pub(in crate::app) before: Status,
    /// For a successor of the process.
    pub(in crate::app) memories: Vec<(Arc<str>, Memory)>,
    /// How its urgent thread is scheduled.
    pub(in crate::app) scheduling: String,
    /// The operator's switch.
    pub(in crate::app) maintenance: bool,
    /// Tracked pools as last reported.
    pub(in crate::app) pools: Vec<PoolSummary>,
    /// What scripts and files said of each router.
    pub(in crate::app) tracked: Vec<Fitness>,
}

/// Why a document cannot be resumed from.
#[derive(Debug)]
pub(in crate::app) enum DocumentError {
    /// Its descriptor, or one that it names, is not open.
    Missing(RawFd),
    Payload(MemfdError),
    Json(serde_json::Error),
    /// Another version wrote it than this one understands.
    Format {
        version: String,
        format: u32,
    },
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(n) => write!(f, "descriptor {n} was not handed over"),
            Self::Payload(e) => e.fmt(f),
            Self::Json(e) => write!(f, "what was handed over is not understood: {e}"),
            Self::Format { version, format } => write!(
                f,
                "version {version} hands over in format {format}, and version {} understands {FORMAT}: stop the one and start \
                 the other instead; a peer holds the addresses meanwhile",
                env!("CARGO_PKG_VERSION")
            ),
        }
    }
}

/// Grows when a document of before is not understood any more; a field with a default is no reason.
pub(in crate::app) const FORMAT: u32 = 1;
/// The configuration is the greatest part of it.
const LONGEST: usize = ipc::Limits::OF_SUPERVISOR.payload;

/// What every format begins with.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
    running: Running,
}

impl Document {
    /// Reads the one that descriptor `n` names.
    pub(in crate::app) fn take(n: RawFd, inherited: &mut Inherited) -> Result<Self, DocumentError> {
        let fd = inherited.take(n).ok_or(DocumentError::Missing(n))?;
        Self::parse(&memfd::read_sealed(fd, LONGEST).map_err(DocumentError::Payload)?)
    }

    fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        let Head { format, running } = serde_json::from_slice(text).map_err(DocumentError::Json)?;
        if format != FORMAT {
            return Err(DocumentError::Format { version: running.version, format });
        }
        serde_json::from_slice(text).map_err(DocumentError::Json)
    }
}

/// Descriptors that are to be handed over.
#[derive(Debug, Default)]
pub(in crate::app) struct Bequest<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Bequest<'a> {
    /// Hands over one more; its number.
    pub(in crate::app) fn give(&mut self, fd: BorrowedFd<'a>) -> RawFd {
        self.0.push(fd);
        fd.as_raw_fd()
    }

    /// All of them.
    pub(in crate::app) fn descriptors(&self) -> &[BorrowedFd<'a>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: u32) -> String {
        format!(
            r#"{{"format":{format},"running":{{"version":"9.9.9","proxy":1,"vrrp":null}},"ipc":4,"node":"a","config":"",
            "files":[],"checksum":7,"generation":3,"started":1,"number":1,"lock":3,"admin":4,"listeners":[],
            "proxy":{{"process":{{"pid":1,"channel":5}},"connections":0}},"retired":[],"state":{{"a":1}},"duty":null}}"#
        )
    }

    #[test]
    fn a_document_of_another_format_is_refused_with_both_versions() {
        let error = Document::parse(text(FORMAT + 1).as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("version 9.9.9 hands over in format 2, and version "), "{error}");
        let unknown = r#"{"format":7,"running":{"version":"9.9.9","proxy":1,"vrrp":null},"other":true}"#;
        assert!(matches!(Document::parse(unknown.as_bytes()), Err(DocumentError::Format { format: 7, .. })));
    }

    #[test]
    fn a_document_is_read_back_and_garbage_is_not() {
        let document = Document::parse(text(FORMAT).as_bytes()).unwrap();
        assert_eq!((document.proxy.process.channel, document.state.unwrap().get()), (5, r#"{"a":1}"#));
        for garbage in ["", "{}", "[]", &text(FORMAT).replace("\"lock\":3", "\"lock\":\"x\"")] {
            assert!(matches!(Document::parse(garbage.as_bytes()), Err(DocumentError::Json(_))), "{garbage}");
        }
    }
}
