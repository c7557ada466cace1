//! Upgrades as the supervisor carries them out; see [`crate::app::upgrade`].

use std::ffi::CString;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::{Flow, Request, Signals, Supervisor};
use crate::app::admin::Answer;
use crate::app::child::{Child, Lost, Program, Spawned};
use crate::app::duty::Duty;
use crate::app::manager;
use crate::app::upgrade::{
    Bequest, Cleared, Document, FORMAT, HandedListener, HandedProcess, HandedProxy, Origin, Rehearsal, Running,
    left_open,
};
use crate::ipc::{self, ToProxy};
use crate::net::clock;
use crate::sys::exec::{self, exec, set_signals};
use crate::sys::memfd;

/// How far an upgrade is.
pub(super) struct Upgrade {
    /// `None`: this program cannot be replaced.
    pub(super) origin: Option<Origin>,
    stage: Stage,
    /// Of the last one.
    number: u64,
    /// What came of it.
    outcome: Option<Answer>,
}

enum Stage {
    Idle,
    /// The new program tries.
    Rehearsing(Rehearsal, Candidate),
    /// It could; what is under way here is finished.
    Settling {
        next: Candidate,
        cleared: Cleared,
        until: Instant,
        look_at: Instant,
    },
    /// We are the new program, and replace the processes of the old one.
    Succeeding {
        from: Running,
    },
}

/// The program to become.
#[derive(Debug, Clone)]
struct Candidate {
    program: Program,
    path: PathBuf,
}

/// A proxy that serves and whose messages are of another version than ours.
pub(super) struct Foreign {
    pub(super) process: Spawned,
    pub(super) channel: std::os::fd::OwnedFd,
    pub(super) ipc: u8,
    pub(super) connections: u64,
}

/// For answers to those who asked, and for commands that tell of changes of state.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For signals that came before they were blocked to be seen.
const SIGNALS_ARRIVE: Duration = Duration::from_millis(2);

impl Upgrade {
    pub(super) fn new(origin: Option<Origin>) -> Self {
        Self { origin, stage: Stage::Idle, number: 0, outcome: None }
    }

    /// Of a program that has just been executed.
    pub(super) fn resumed(origin: Origin, from: Running, number: u64) -> Self {
        Self { origin: Some(origin), stage: Stage::Succeeding { from }, number, outcome: None }
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// The verdict of the rehearsal. Cancel-safe.
    pub(super) async fn verdict(&mut self) -> Result<Cleared, String> {
        match &mut self.stage {
            Stage::Rehearsing(rehearsal, _) => rehearsal.verdict().await,
            Stage::Idle | Stage::Settling { .. } | Stage::Succeeding { .. } => std::future::pending().await,
        }
    }

    /// When to look whether all is settled.
    pub(super) fn look_at(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Settling { look_at, .. } => Some(*look_at),
            Stage::Idle | Stage::Rehearsing(..) | Stage::Succeeding { .. } => None,
        }
    }
}

impl Supervisor {
    /// Begins; the number to ask for the outcome by.
    pub(super) fn upgrade(&mut self, binary: Option<PathBuf>) -> Answer {
        self.refuse_upgrade()?;
        let Some(origin) = &self.upgrade.origin else {
            return Err("the demo cannot be upgraded: it has no configuration file".to_owned());
        };
        let path = binary.unwrap_or_else(|| origin.binary().to_owned());
        if !path.is_absolute() {
            return Err(format!("{}: not a whole path; start it with `/`", path.display()));
        }
        let program = Program::open_path(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let next = Candidate { program, path };
        let rehearsal = self.rehearse(origin, &next)?;
        info!(path = %next.path.display(), "upgrade: the new program is tried");
        manager::notify(&reloading());
        self.upgrade.stage = Stage::Rehearsing(rehearsal, next);
        self.upgrade.number += 1;
        self.upgrade.outcome = None;
        Ok(json!({ "number": self.upgrade.number }))
    }

    fn refuse_upgrade(&self) -> Result<(), String> {
        let why = if self.stop_at.is_some() || self.leaving {
            "the instance stops"
        } else if self.upgrade.is_under_way() {
            "an upgrade is under way"
        } else if !self.reload.is_idle() {
            "a reload is under way"
        } else if self.reload.is_unconfirmed() {
            "a configuration waits for `bascule confirm`"
        } else if self.is_handing_over() {
            "a handover is under way"
        } else if !self.proxy.as_ref().is_some_and(|proxy| proxy.ready) {
            "the proxy does not serve: an upgrade needs one that does"
        } else {
            return Ok(());
        };
        Err(why.to_owned())
    }

    fn rehearse(&self, origin: &Origin, next: &Candidate) -> Result<Rehearsal, String> {
        let (document, bequest) = self.bequest(ipc::VERSION)?;
        let text = serde_json::to_vec(&document).map_err(|e| e.to_string())?;
        let document = memfd::sealed(&text).map_err(|e| e.to_string())?;
        let started = Rehearsal::start(&next.program, &next.path, origin, &document, bequest.descriptors());
        started.map_err(|e| format!("{}: cannot execute it: {e}", next.path.display()))
    }

    /// What came of an upgrade.
    pub(super) fn upgrade_outcome(&self, number: u64) -> Answer {
        if number != self.upgrade.number {
            return Err(format!("there is no upgrade {number}: the last one is {}", self.upgrade.number));
        }
        self.upgrade.outcome.clone().unwrap_or(Ok(json!(null)))
    }

    pub(super) fn on_verdict(&mut self, verdict: Result<Cleared, String>) {
        match (verdict, std::mem::replace(&mut self.upgrade.stage, Stage::Idle)) {
            (Ok(cleared), Stage::Rehearsing(_, next)) => {
                self.admin.pause();
                let now = Instant::now();
                self.upgrade.stage = Stage::Settling { next, cleared, until: now + SETTLE_LIMIT, look_at: now };
            }
            (Err(why), _) => self.upgrade_failed(why),
            (Ok(_), stage) => self.upgrade.stage = stage,
        }
    }

    /// Nothing has changed.
    fn upgrade_failed(&mut self, why: String) {
        error!(reason = why, "upgrade failed: nothing has changed");
        self.upgrade.stage = Stage::Idle;
        self.upgrade.outcome = Some(Err(format!("{why}\nnothing has changed")));
        self.admin.resume();
        manager::notify(&[NotifyState::Ready]);
    }

    /// Gives an upgrade up, as the instance stops.
    pub(super) async fn abandon_upgrade(&mut self) {
        if self.upgrade.is_under_way() {
            warn!("upgrade given up: the instance stops");
            self.upgrade.stage = Stage::Idle;
            self.upgrade.outcome = Some(Err("the instance stops".to_owned()));
            self.admin.resume();
        }
        if let Some(next) = self.next.take() {
            next.kill().await;
        }
    }

    /// Becomes the new program once nothing is under way that it could not go on with.
    pub(super) async fn on_look(&mut self, signals: &mut Signals) -> Flow {
        let Stage::Settling { next, cleared, until, look_at } = &mut self.upgrade.stage else {
            return ControlFlow::Continue(());
        };
        let now = Instant::now();
        *look_at = now + LOOK_EVERY;
        let settled = self.admin.is_idle() && self.duty.as_ref().is_none_or(Duty::is_settled);
        if !settled && now < *until {
            return ControlFlow::Continue(());
        }
        let (next, cleared) = (next.clone(), cleared.clone());
        // Those that come from here on are the new program's; those before are ours.
        set_signals(exec::Signals::Blocked);
        if let Ok(request) = timeout(SIGNALS_ARRIVE, signals.next()).await {
            set_signals(exec::Signals::Delivered);
            return match request {
                Request::Upgrade => ControlFlow::Continue(()),
                Request::Stop | Request::ReopenLogs | Request::Reload => self.on_signal(request).await,
            };
        }
        if self.is_handing_over() || !self.proxy.as_ref().is_some_and(|proxy| proxy.ready) {
            set_signals(exec::Signals::Delivered);
            self.upgrade_failed(
                "the proxy was lost, or addresses began to move, while the new program was tried".into(),
            );
            return ControlFlow::Continue(());
        }
        let foreign = cleared.ipc != ipc::VERSION;
        if foreign {
            self.announce_end(true).await;
        }
        let why = self.execute(&next, &cleared);
        // Still the old program.
        set_signals(exec::Signals::Delivered);
        if foreign {
            self.announce_end(false).await;
        }
        self.upgrade_failed(format!("{}: {why}", next.path.display()));
        ControlFlow::Continue(())
    }

    /// Whether the end of their channels means that proxies retire.
    async fn announce_end(&self, on: bool) {
        let message = || ToProxy::RetireAtEnd { on };
        self.retired.tell(message, &[]).await;
        if let Some(proxy) = &self.proxy {
            // One that does not take it is cut when it is replaced.
            let _ = proxy.send(&message(), &[]).await;
        }
    }

    /// Returns when it failed; why.
    fn execute(&self, next: &Candidate, cleared: &Cleared) -> String {
        let Some(origin) = &self.upgrade.origin else { return String::new() };
        let attempt = || {
            let (document, bequest) = self.bequest(cleared.ipc)?;
            let text = serde_json::to_vec(&document).map_err(|e| e.to_string())?;
            let document = memfd::sealed(&text).map_err(|e| e.to_string())?;
            let program = CString::new(next.program.path()).map_err(|e| e.to_string())?;
            let arguments = origin.arguments(&document);
            let all: Vec<_> =
                bequest.descriptors().iter().copied().chain([document.as_fd(), next.program.as_fd()]).collect();
            info!(from = env!("CARGO_PKG_VERSION"), to = cleared.version, "upgrade: executing the new program");
            left_open(&all, || Err::<(), _>(exec(&program, &arguments))).map_err(|e| format!("cannot execute it: {e}"))
        };
        attempt().err().unwrap_or_default()
    }

    /// All that a successor gets, whose messages are of version `theirs`.
    fn bequest(&self, theirs: u8) -> Result<(Document, Bequest<'_>), String> {
        let mut bequest = Bequest::default();
        let proxy = self.proxy.as_ref().ok_or("there is no proxy")?;
        let listeners = self.sockets.bound().iter().map(|l| HandedListener {
            name: l.name.clone(),
            addr: l.addr,
            shards: l.shards.iter().map(|shard| bequest.give(shard.as_fd())).collect(),
        });
        let listeners = listeners.collect();
        let document = Document {
            format: FORMAT,
            running: self.running(),
            ipc: ipc::VERSION,
            node: self.loaded.config.node.to_string(),
            config: self.loaded.effective.clone(),
            attachments: self.loaded.attachments.clone(),
            files: self.loaded.files.clone(),
            checksum: self.loaded.checksum,
            generation: self.generation,
            started: self.started.0,
            number: self.upgrade.number,
            lock: bequest.give(self.lock.descriptor()),
            admin: bequest.give(self.admin.descriptor()),
            listeners,
            proxy: HandedProxy {
                process: HandedProcess { pid: proxy.pid(), channel: bequest.give(proxy.channel()) },
                connections: proxy.connections,
            },
            retired: self.retired.hand(&mut bequest, theirs),
            state: self.state.clone(),
            duty: self.duty.as_ref().map(|duty| duty.hand(&mut bequest)),
        };
        Ok((document, bequest))
    }

    fn running(&self) -> Running {
        Running {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy: self.proxy.as_ref().map(Child::pid),
            vrrp: self.duty.as_ref().and_then(Duty::pid),
        }
    }

    // === the new program

    /// Starts the proxy that is to replace the one that serves.
    pub(super) async fn start_next(&mut self) -> Result<(), Lost> {
        self.start_at = None;
        let child = self.spawn()?;
        self.given.clone_from(&self.state);
        let sent = self.introduce(&child).await;
        self.next = Some(child);
        sent
    }

    /// It accepts: the other one retires.
    pub(super) async fn on_next_ready(&mut self) -> Flow {
        let old = std::mem::replace(&mut self.proxy, self.next.take());
        self.on_ready().await;
        if let Some(old) = old {
            let counted = self.given.take();
            self.retire(old, counted).await;
        }
        if let Some(Foreign { process, channel, ipc, connections }) = self.foreign.take() {
            // Its sign to retire.
            drop(channel);
            self.retire_silent(process, ipc, connections);
        }
        if let Some(duty) = &mut self.duty {
            duty.succeed(&self.program).await;
        }
        ControlFlow::Continue(())
    }

    /// It was lost before that: another try, while the old one serves.
    pub(super) async fn on_next_lost(&mut self, lost: Lost) -> Flow {
        if let Some(next) = self.next.take() {
            let pid = next.pid();
            let how = next.kill().await;
            error!(pid, reason = %lost, status = how, "the proxy that was to take over is lost");
        } else {
            error!(reason = %lost, "the proxy that was to take over was not started");
        }
        self.start_at = Some(Instant::now() + self.backoff.died(clock::now()));
        ControlFlow::Continue(())
    }

    /// Tells that all is replaced, when it is. To be called after every event.
    pub(super) fn finish_upgrade(&mut self) {
        let Stage::Succeeding { from } = &self.upgrade.stage else { return };
        let serves = self.proxy.as_ref().is_some_and(|proxy| proxy.ready && Some(proxy.pid()) != from.proxy);
        if !serves || self.next.is_some() || self.duty.as_ref().is_some_and(Duty::is_succeeding) {
            return;
        }
        let now = self.running();
        let mut text = format!(
            "upgraded from version {} to {}, supervisor pid {}, proxy {} -> {}",
            from.version,
            now.version,
            std::process::id(),
            number(from.proxy),
            number(now.proxy)
        );
        if self.duty.is_some() {
            text += &format!(", vrrp {} -> {}", number(from.vrrp), number(now.vrrp));
        }
        if let Some(why) = self.duty.as_mut().and_then(Duty::take_complaint) {
            text += &format!("\nthe vrrp process is still the old one: {why}");
        }
        for (pid, connections) in self.retired.list() {
            text += &format!("\nproxy {pid} finishes {connections} connections");
        }
        info!(from = from.version, to = now.version, "upgrade done");
        self.upgrade.outcome = Some(Ok(json!(text)));
        self.upgrade.stage = Stage::Idle;
        manager::notify(&[NotifyState::Ready]);
    }
}

fn number(pid: Option<u32>) -> String {
    pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string())
}

/// Of a systemd that waits for the next `READY=1`.
fn reloading() -> Vec<NotifyState<'static>> {
    let at = NotifyState::monotonic_usec_now();
    [NotifyState::Reloading].into_iter().chain(at).collect()
}
