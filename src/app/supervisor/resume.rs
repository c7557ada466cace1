//! The first steps of a program that was executed in place of another.

use std::net::TcpListener;
use std::sync::Arc;

use super::certificates::Certificates;
use super::overrides::Standing;
use super::reload::Reload;
use super::sockets::Sockets;
use super::strays::Strays;
use super::upgrade::{Foreign, Upgrade};
use super::{Retired, RunError, Signals, Supervisor, identity, raise_limits};
use crate::app::admin::Admin;
use crate::app::asks::Asks;
use crate::app::backoff::Backoff;
use crate::app::child::{Child, Program, Spawned};
use crate::app::commands::Commands;
use crate::app::duty::Duty;
use crate::app::history::History;
use crate::app::lock::Lock;
use crate::app::upgrade::{Document, DocumentError, HandedProxy, Origin};
use crate::config::{self, Loaded};
use crate::ipc;
use crate::proxy::BoundListener;
use crate::sys::exec::{self, Inherited, set_signals};
use crate::telemetry::LevelHandle;
use crate::time::Millis;

/// Goes on with what `document` hands over, and replaces the processes of the program that wrote it. What goes wrong here
/// is the death of the supervisor.
pub(in crate::app) fn resume(document: Document, mut inherited: Inherited, origin: Origin) -> Result<(), RunError> {
    let loaded = config::restore_with(&document.config, &document.node, document.attachments.clone());
    let mut loaded = loaded.map_err(RunError::Config)?;
    (loaded.files, loaded.checksum) = (document.files.clone(), document.checksum);
    let global = &loaded.config.global;
    let level = crate::telemetry::init(&global.log.level, global.log.json);
    let level = level.map_err(|e| RunError::Telemetry(e.to_string()))?;
    raise_limits(&loaded.config, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    runtime.block_on(async {
        let signals = Signals::new().map_err(RunError::System)?;
        // They have waited since before the exec; and nothing is to be started that inherits that.
        set_signals(exec::Signals::Delivered);
        let supervisor = adopt(loaded, level, document, &mut inherited, origin)?;
        // What was left open by mistake.
        drop(inherited);
        supervisor.take_over(signals).await
    })
}

fn adopt(
    loaded: Loaded,
    level: LevelHandle,
    document: Document,
    inherited: &mut Inherited,
    origin: Origin,
) -> Result<Supervisor, RunError> {
    let global = &loaded.config.global;
    let missing = |n| RunError::Document(DocumentError::Missing(n));
    let mut take = |n| inherited.take(n).ok_or_else(|| missing(n));
    let lock = Lock::adopt(take(document.lock)?);
    let admin = Admin::adopt(&loaded.config.admin, take(document.admin)?).map_err(RunError::Admin)?;
    let HandedProxy { process, connections } = document.proxy;
    let channel = take(process.channel)?;
    let mut listeners = Vec::new();
    for handed in document.listeners {
        let shards = handed.shards.into_iter().map(|n| take(n).map(TcpListener::from));
        let shards = shards.collect::<Result<_, _>>()?;
        listeners.push(BoundListener { name: handed.name, addr: handed.addr, shards });
    }
    let adopted: Vec<u32> = document
        .retired
        .iter()
        .map(|retired| retired.pid)
        .chain(document.duty.iter().filter_map(|duty| Some(duty.process.as_ref()?.pid)))
        .chain([process.pid])
        .collect();
    let strays = Strays::find(&adopted);
    let program = Program::open().map_err(RunError::System)?;
    let theirs = document.ipc;
    let duty = document.duty.map(|handed| Duty::adopt(&loaded, &listeners, &program, handed, inherited, theirs));
    let retired = Retired::adopt(document.retired, inherited, global.proxy_watchdog).map_err(RunError::System)?;
    let (mut proxy, mut foreign) = (None, None);
    if theirs == ipc::VERSION {
        let child = Child::adopt(process.pid, channel, global.proxy_watchdog, connections);
        proxy = Some(child.map_err(RunError::System)?);
    } else {
        let process = Spawned::adopt(process.pid).map_err(RunError::System)?;
        foreign = Some(Foreign { process, channel, ipc: theirs, connections });
    }
    let standing = Standing::open(&global.state_dir, &loaded.config);
    Ok(Supervisor {
        identity: identity(&global.user),
        source: origin.source(),
        generation: document.generation,
        asks: Asks::new(),
        level,
        // Said at the start already, if it cannot be used.
        history: History::open(&global.state_dir).ok(),
        overriding: Vec::new(),
        standing,
        reload: Reload::default(),
        sockets: Sockets::adopt(listeners),
        loaded: Arc::new(loaded),
        program,
        proxy,
        backoff: Backoff::default(),
        start_at: None,
        unserved_since: None,
        state: document.state,
        has_served: true,
        stop_at: None,
        leaving: false,
        duty: duty.transpose().map_err(RunError::System)?,
        admin,
        handover: None,
        started: Millis(document.started),
        lock,
        upgrade: Upgrade::resumed(origin, document.running, document.number),
        next: None,
        foreign,
        given: None,
        retired,
        drained: false,
        strays,
        commands: Commands::new(),
        certificates: Certificates::new(),
    })
}

impl Supervisor {
    async fn take_over(mut self, signals: Signals) -> Result<(), RunError> {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "upgrade: this program goes on");
        if let Err(lost) = self.start_next().await {
            // Tried again, while the proxy from before serves.
            let _ = self.on_next_lost(lost).await;
        }
        self.go_on(signals).await
    }
}
