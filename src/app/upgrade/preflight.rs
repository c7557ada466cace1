//! The new program's side of the rehearsal: does all that taking over needs, and takes nothing.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use super::{Cleared, Document, DocumentError};
use crate::app::child::{Child, Lost, Program, descriptors};
use crate::app::logs::{self, LogError};
use crate::app::supervisor::identity;
use crate::config::model::Overrides;
use crate::config::{self, Diagnostics, Loaded};
use crate::ipc::{self, Event, FromProxy, ListenerSockets, Purpose, Setup, Start};
use crate::sys::exec::Inherited;

/// Why this program cannot take over.
#[derive(Debug)]
pub(in crate::app) enum PreflightError {
    Document(DocumentError),
    /// The running configuration.
    Config(Diagnostics),
    Log(LogError),
    System(io::Error),
    /// The proxy.
    Proxy(Lost),
    /// The proxy says why not.
    Refused(String),
    /// A line for whoever waits.
    Said(serde_json::Error),
}

impl fmt::Display for PreflightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(e) => e.fmt(f),
            Self::Config(e) => write!(f, "the running configuration is refused:\n{e}"),
            Self::Log(e) => e.fmt(f),
            Self::System(e) => write!(f, "cannot rehearse: {e}"),
            Self::Proxy(lost) => write!(f, "a proxy could not start: {lost}"),
            Self::Refused(reason) => write!(f, "a proxy could not start: {reason}"),
            Self::Said(e) => e.fmt(f),
        }
    }
}

/// Rehearses with `document`; what is to be said on standard output.
pub(in crate::app) fn run(document: &Document, inherited: &mut Inherited) -> Result<String, PreflightError> {
    let loaded = config::restore_with(&document.config, &document.node, document.attachments.clone());
    let Loaded { config, without_passwords, attachments, .. } = loaded.map_err(PreflightError::Config)?;
    let mut take = |n| inherited.take(n).ok_or(PreflightError::Document(DocumentError::Missing(n)));
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    for listener in &document.listeners {
        for shard in &listener.shards {
            sockets.push(TcpListener::from(take(*shard)?));
        }
        let shards = listener.shards.len();
        listeners.push(ListenerSockets { name: listener.name.clone(), addr: listener.addr, shards });
    }
    let of_duty = document.duty.iter().flat_map(|duty| duty.guard);
    let _held = [document.lock, document.admin, document.proxy.process.channel]
        .into_iter()
        .chain(of_duty)
        .map(take)
        .collect::<Result<Vec<_>, _>>()?;
    let log_files = logs::paths(&config);
    let logs = log_files.iter().map(|path| logs::open(path)).collect::<Result<Vec<_>, _>>();
    let logs = logs.map_err(PreflightError::Log)?;
    let start = Start {
        node: document.node.clone(),
        setup: Setup { config: without_passwords, attachments, overrides: Overrides::default(), listeners, log_files },
        state: document.state.clone(),
        guarded: false,
        purpose: Purpose::Rehearse,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PreflightError::System)?;
    runtime.block_on(async {
        let program = Program::open().map_err(PreflightError::System)?;
        let watchdog = config.global.proxy_watchdog;
        let mut proxy =
            Child::spawn(&program, identity(&config.global.user), watchdog, None).map_err(PreflightError::System)?;
        let mut fds = descriptors(sockets.iter());
        fds.extend(logs.iter().map(AsFd::as_fd));
        let ready = async {
            proxy.start(start, &fds).await.map_err(PreflightError::Proxy)?;
            loop {
                match proxy.next().await.map_err(PreflightError::Proxy)? {
                    FromProxy::Ready => return Ok(()),
                    FromProxy::Event(Event::StartFailed { reason }) => return Err(PreflightError::Refused(reason)),
                    _ => {}
                }
            }
        };
        let ready = ready.await;
        proxy.kill().await;
        ready
    })?;
    let cleared = Cleared { version: env!("CARGO_PKG_VERSION").to_owned(), ipc: ipc::VERSION };
    serde_json::to_string(&cleared).map(|line| line + "\n").map_err(PreflightError::Said)
}
