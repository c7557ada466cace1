//! Another configuration while everything runs: read, compared, prepared by everybody, and only then in force. Whatever fails
//! before that changes nothing.
//!
//! ```text
//! asked ─▶ Loading ─▶ (bind, open files) ─▶ Preparing ─▶ (listen, let go of what is gone) ─▶ Committing ─▶ answered
//!          a thread                          the proxy                                        the proxy
//! ```

use std::collections::VecDeque;
use std::future::pending;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::sockets::Plan;
use super::{Flow, Supervisor};
use crate::app::admin::Answer;
use crate::app::background::in_background;
use crate::app::history::Generation;
use crate::app::{at, effects, logs};
use crate::config::model::Overrides;
use crate::config::{self, LoadOptions, Loaded};
use crate::ipc::{ListenerSockets, Setup, ToProxy};
use crate::net::clock::unix_seconds;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(in crate::app) struct Source {
    pub(in crate::app) path: PathBuf,
    pub(in crate::app) options: LoadOptions,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Reload {
    waiting: VecDeque<Wanted>,
    stage: Stage,
    tokens: u64,
    unconfirmed: Option<Unconfirmed>,
}

/// A configuration that somebody wants.
pub(super) struct Wanted {
    pub(super) what: What,
    /// Only say what would change.
    pub(super) dry_run: bool,
    /// Go back unless it is confirmed within this time.
    pub(super) confirm: Option<Duration>,
    pub(super) by: String,
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// What is in the file.
    File,
    /// An earlier one.
    Generation(u64),
    /// The one before, for nobody has confirmed its successor.
    Back(Arc<Loaded>),
    /// What runs, with other contents of the files that it names.
    Certificates(Arc<Loaded>),
}

/// A configuration is in force that the one before comes back for.
struct Unconfirmed {
    until: Instant,
    before: Arc<Loaded>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    Loading(Wanted, oneshot::Receiver<Result<Arc<Loaded>, String>>),
    Preparing(Box<Step>),
    Committing(Box<Step>),
}

/// What the proxy is asked to go over to.
struct Step {
    wanted: Wanted,
    next: Arc<Loaded>,
    /// Taken when it is in force.
    plan: Option<Plan>,
    token: u64,
    until: Instant,
    changes: Vec<String>,
    /// What the proxy was told of servers with it.
    overrides: Overrides,
}

/// What [`Reload::next`] has waited for.
pub(super) enum ReloadDue {
    Loaded(Result<Arc<Loaded>, String>),
    /// The proxy takes too long.
    Late,
    /// Nobody has confirmed.
    Unconfirmed,
}

/// For the proxy to parse, to look names up, and to build.
const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// For the proxy to go over to it.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// Requests that wait for one under way.
const MOST_WAITING: usize = 64;

impl Reload {
    /// What is due next. Only waits: cancel-safe.
    pub(super) async fn next(&mut self) -> ReloadDue {
        let unconfirmed = self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.until);
        let (loaded, late) = match &mut self.stage {
            Stage::Idle => (None, None),
            Stage::Loading(_, loaded) => (Some(loaded), None),
            Stage::Preparing(step) | Stage::Committing(step) => (None, Some(step.until)),
        };
        let loading = async {
            match loaded {
                Some(loaded) => loaded.await.unwrap_or_else(|_| Err("the configuration could not be read".to_owned())),
                None => pending().await,
            }
        };
        // Going back waits for what is under way.
        let unconfirmed = unconfirmed.filter(|_| late.is_none());
        tokio::select! {
            loaded = loading => ReloadDue::Loaded(loaded),
            () = at(late) => ReloadDue::Late,
            () = at(unconfirmed) => ReloadDue::Unconfirmed,
        }
    }

    /// A configuration waits to be confirmed.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.is_some()
    }

    /// Nothing is under way, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Seconds until the configuration goes unless it is confirmed.
    pub(super) fn unconfirmed_for(&self) -> Option<u64> {
        let left = |u: &Unconfirmed| u.until.saturating_duration_since(Instant::now()).as_secs();
        self.unconfirmed.as_ref().map(left)
    }
}

impl Supervisor {
    /// Begins, or waits for what is under way.
    pub(super) async fn reload(&mut self, wanted: Wanted) -> Flow {
        if self.stop_at.is_some() || self.leaving {
            refuse(wanted, "the instance stops");
        } else if self.reload.is_idle() {
            self.begin(wanted);
        } else if wanted.reply.is_none() && self.reload.waiting.iter().any(|other| other.reply.is_none()) {
            // One more look at the file is all that any number of signals asks for.
        } else if self.reload.waiting.len() >= MOST_WAITING {
            refuse(wanted, "too many reloads wait for one that is under way");
        } else {
            self.reload.waiting.push_back(wanted);
        }
        ControlFlow::Continue(())
    }

    fn begin(&mut self, wanted: Wanted) {
        let read: Box<dyn FnOnce() -> Result<Arc<Loaded>, String> + Send> = match &wanted.what {
            What::File => {
                let Source { path, options } = self.source.clone();
                Box::new(move || config::load(&path, &options).map(Arc::new).map_err(|e| e.to_string()))
            }
            What::Generation(number) => {
                let (text, node) = (self.generation_text(*number), self.loaded.config.node.to_string());
                Box::new(move || config::restore(&text?, &node).map(Arc::new).map_err(|e| e.to_string()))
            }
            What::Back(before) => {
                // It brings no old certificate.
                let before = Arc::clone(before);
                Box::new(move || Ok(config::refresh(&before).loaded.unwrap_or(before)))
            }
            What::Certificates(next) => {
                let next = Arc::clone(next);
                Box::new(move || Ok(next))
            }
        };
        // Reading ten thousand routes takes a while, and heartbeats do not wait for it.
        self.reload.stage = Stage::Loading(wanted, in_background(read));
    }

    fn generation_text(&self, number: u64) -> Result<String, String> {
        let history = self.history.as_ref().ok_or("nothing is kept: state_dir cannot be used, see the log")?;
        let (generation, text) = history.read(number)?;
        if generation.node != *self.loaded.config.node {
            return Err(format!("generation {number} was made for node {}", generation.node));
        }
        Ok(text)
    }

    pub(super) async fn on_reload_due(&mut self, due: ReloadDue) -> Flow {
        match (due, std::mem::take(&mut self.reload.stage)) {
            (ReloadDue::Loaded(loaded), Stage::Loading(wanted, _)) => match loaded {
                Ok(loaded) => self.prepare(wanted, loaded).await,
                Err(why) => self.failed(wanted, &why).await,
            },
            (ReloadDue::Late, Stage::Preparing(step)) => {
                let forgotten = self.tell(ToProxy::Forget, &[]).await;
                let why = format!("the proxy was not ready for it within {PREPARE_LIMIT:?}");
                let failed = self.failed(step.wanted, &why).await;
                if forgotten.is_break() { forgotten } else { failed }
            }
            (ReloadDue::Late, Stage::Committing(step)) => {
                self.finished(*step, Some("the proxy has not said yet that it runs on it".to_owned())).await
            }
            (ReloadDue::Unconfirmed, stage) => {
                self.reload.stage = stage;
                let Some(Unconfirmed { before, .. }) = self.reload.unconfirmed.take() else {
                    return ControlFlow::Continue(());
                };
                warn!("nobody has confirmed the configuration: going back to the one before");
                let by = "nobody confirmed".to_owned();
                self.reload(Wanted { what: What::Back(before), dry_run: false, confirm: None, by, reply: None }).await
            }
            (ReloadDue::Loaded(_) | ReloadDue::Late, stage) => {
                self.reload.stage = stage;
                ControlFlow::Continue(())
            }
        }
    }

    /// Everything new is made, and nothing old touched.
    async fn prepare(&mut self, wanted: Wanted, next: Arc<Loaded>) -> Flow {
        if let Err(why) = self.may_go_over_to(&next) {
            return self.failed(wanted, &why).await;
        }
        let found = config::changes(&self.loaded, &next);
        let mut changes: Vec<String> = found.iter().map(ToString::to_string).collect();
        changes.extend(effects::of(&self.loaded.config, &next.config));
        if found.is_empty() {
            // The same, but perhaps from other files.
            self.loaded = next;
            return self.unchanged(wanted).await;
        }
        let plan = match self.sockets.plan(&next.config) {
            Ok(plan) => plan,
            Err(e) => return self.failed(wanted, &e.to_string()).await,
        };
        let paths = logs::paths(&next.config);
        let files: Vec<_> = match paths.iter().map(|path| logs::open(path)).collect() {
            Ok(files) => files,
            Err(e) => return self.failed(wanted, &logs::LogError::to_string(&e)).await,
        };
        if wanted.dry_run {
            let answer = json!({ "generation": self.generation, "dry_run": true, "changes": changes });
            return self.answered(wanted, Ok(answer)).await;
        }
        if !self.proxy.as_ref().is_some_and(|proxy| proxy.ready) {
            return self.failed(wanted, "no proxy serves at the moment; try again when `bascule status` says so").await;
        }
        self.reload.tokens += 1;
        let token = self.reload.tokens;
        let (listeners, mut fds) = self.sockets.with(&plan);
        fds.extend(files.iter().map(AsFd::as_fd));
        let overrides = self.standing.overrides(&next.config);
        let setup = setup(&next, overrides.clone(), listeners, paths);
        let sent = match &self.proxy {
            Some(proxy) => proxy.send(&ToProxy::Prepare { token, setup }, &fds).await,
            None => Ok(()),
        };
        let until = Instant::now() + PREPARE_LIMIT;
        let step = Step { wanted, next, plan: Some(plan), token, until, changes, overrides };
        self.reload.stage = Stage::Preparing(Box::new(step));
        match sent {
            Ok(()) => ControlFlow::Continue(()),
            Err(lost) => self.on_lost(lost).await,
        }
    }

    /// What a running instance cannot change, and when it cannot change anything.
    fn may_go_over_to(&self, next: &Loaded) -> Result<(), String> {
        let (a, b) = (&self.loaded.config, &next.config);
        let mut fixed = Vec::new();
        let mut check = |key: &str, before: String, after: String| {
            if before != after {
                fixed.push(format!("{key} cannot change from {before} to {after} without a restart"));
            }
        };
        let path = |path: &std::path::Path| path.display().to_string();
        check("the node", a.node.to_string(), b.node.to_string());
        check("[global] run_dir", path(&a.global.run_dir), path(&b.global.run_dir));
        check("[global] state_dir", path(&a.global.state_dir), path(&b.global.state_dir));
        check("[global] user", a.global.user.clone(), b.global.user.clone());
        check("[global] script_user", a.global.script_user.clone(), b.global.script_user.clone());
        check("[global.log] format", format!("json={}", a.global.log.json), format!("json={}", b.global.log.json));
        check("[admin] socket", path(&a.admin.socket), path(&b.admin.socket));
        check("[admin] group", format!("{:?}", a.admin.group), format!("{:?}", b.admin.group));
        if !fixed.is_empty() {
            return Err(fixed.join("\n"));
        }
        if self.upgrade.is_under_way() {
            return Err("an upgrade is under way; try again when it is done".to_owned());
        }
        if let Some(duty) = &self.duty {
            duty.may_change()?;
        }
        Ok(())
    }

    /// The proxy is ready for it: it is in force from now on.
    pub(super) async fn on_prepared(&mut self, token: u64) -> Flow {
        let mut step = match std::mem::take(&mut self.reload.stage) {
            Stage::Preparing(step) if step.token == token => step,
            other => {
                self.reload.stage = other;
                return ControlFlow::Continue(());
            }
        };
        let Some(plan) = step.plan.take() else { return ControlFlow::Continue(()) };
        if let Err(e) = self.sockets.listen(&plan) {
            let forgotten = self.tell(ToProxy::Forget, &[]).await;
            let failed = self.failed(step.wanted, &e.to_string()).await;
            return if forgotten.is_break() { forgotten } else { failed };
        }
        self.sockets.take(plan);
        let before = std::mem::replace(&mut self.loaded, Arc::clone(&step.next));
        if before.config.global.max_connections != self.loaded.config.global.max_connections {
            super::raise_limits(&self.loaded.config, self.proxy.as_ref().map(|proxy| proxy.pid()));
        }
        if let Err(e) = self.level.set(&self.loaded.config.global.log.level) {
            warn!(error = %e, "the level of the log stays as it was");
        }
        self.standing.follow(&self.loaded.config);
        self.commands.follow(&self.loaded.config);
        self.tell_of_replaced(&before);
        let how = match &step.wanted.what {
            What::File => Some("reload".to_owned()),
            What::Generation(number) => Some(format!("rollback to generation {number}")),
            What::Back(_) => Some("back, for want of confirmation".to_owned()),
            What::Certificates(_) => None,
        };
        // Its text is the same without: it is the same generation still, confirmed or not.
        let is_new = how.is_some();
        if let Some(how) = how {
            self.generation += 1;
            self.keep_generation(how, step.wanted.by.clone());
        }
        self.reload.unconfirmed = match (step.wanted.confirm, self.reload.unconfirmed.take()) {
            (Some(limit), Some(known)) => Some(Unconfirmed { until: Instant::now() + limit, ..known }),
            (Some(limit), None) => Some(Unconfirmed { until: Instant::now() + limit, before }),
            (None, known) => known.filter(|_| !is_new),
        };
        step.until = Instant::now() + COMMIT_LIMIT;
        // Something may have been said of servers while it prepared.
        let said = step.overrides != self.overrides();
        self.reload.stage = Stage::Committing(step);
        let mut told = self.tell(ToProxy::Commit { token }, &[]).await;
        if said && told.is_continue() {
            told = self.override_servers().await;
        }
        if told.is_break() {
            return told;
        }
        self.duty_follows().await
    }

    /// The proxy cannot run on it.
    pub(super) async fn on_refused(&mut self, token: u64, reason: String) -> Flow {
        match std::mem::take(&mut self.reload.stage) {
            Stage::Preparing(step) if step.token == token => self.failed(step.wanted, &reason).await,
            other => {
                self.reload.stage = other;
                ControlFlow::Continue(())
            }
        }
    }

    /// The proxy runs on it.
    pub(super) async fn on_committed(&mut self, token: u64, trouble: Option<String>) -> Flow {
        match std::mem::take(&mut self.reload.stage) {
            Stage::Committing(step) if step.token == token => self.finished(*step, trouble).await,
            other => {
                self.reload.stage = other;
                ControlFlow::Continue(())
            }
        }
    }

    /// The proxy is gone: what it prepared is gone with it.
    pub(super) async fn reload_without_proxy(&mut self) -> Flow {
        match std::mem::take(&mut self.reload.stage) {
            Stage::Preparing(step) => self.failed(step.wanted, "the proxy was lost while it prepared for it").await,
            Stage::Committing(step) => {
                let trouble = "the proxy was lost as it went over to it; the next one runs on it";
                self.finished(*step, Some(trouble.to_owned())).await
            }
            other => {
                self.reload.stage = other;
                ControlFlow::Continue(())
            }
        }
    }

    async fn failed(&mut self, wanted: Wanted, why: &str) -> Flow {
        error!(by = wanted.by, "nothing changed: {why}");
        let answer = Err(format!("{why}\nnothing changed: generation {} goes on", self.generation));
        self.answered(wanted, answer).await
    }

    async fn unchanged(&mut self, wanted: Wanted) -> Flow {
        info!(generation = self.generation, by = wanted.by, "nothing has changed");
        let answer = json!({ "generation": self.generation, "dry_run": wanted.dry_run, "changes": [] });
        self.answered(wanted, Ok(answer)).await
    }

    async fn finished(&mut self, step: Step, trouble: Option<String>) -> Flow {
        let Step { wanted, next, changes, .. } = step;
        if let What::Certificates(_) = wanted.what {
            info!(changes = changes.join("; "), "files of certificates and keys have changed and are in force");
        } else {
            info!(
                generation = self.generation,
                by = wanted.by,
                changes = changes.len(),
                "another configuration is in force"
            );
        }
        let answer = json!({
            "generation": self.generation,
            "dry_run": false,
            "changes": changes,
            "warnings": next.warnings.to_string(),
            "trouble": trouble,
            "unconfirmed_seconds": self.reload.unconfirmed_for(),
        });
        self.answered(wanted, Ok(answer)).await
    }

    /// Answers who asked, and begins what waits.
    async fn answered(&mut self, wanted: Wanted, answer: Answer) -> Flow {
        if let Some(reply) = wanted.reply {
            // Who asked may have left.
            let _ = reply.send(answer);
        }
        if let Some(next) = self.reload.waiting.pop_front() {
            self.begin(next);
        }
        ControlFlow::Continue(())
    }

    /// The configuration that was to be confirmed stays.
    pub(super) fn confirm(&mut self) -> Answer {
        match self.reload.unconfirmed.take() {
            Some(_) => Ok(json!(format!("generation {} stays", self.generation))),
            None => Err("no configuration waits to be confirmed".to_owned()),
        }
    }

    /// The generation to go back to: the one before what runs, unless one is named.
    pub(super) fn rollback_target(&self, named: Option<u64>) -> Result<u64, String> {
        let history = self.history.as_ref().ok_or("nothing is kept: state_dir cannot be used, see the log")?;
        match named {
            Some(number) => Ok(number),
            None => {
                let before = history.list().into_iter().map(|g| g.number).filter(|number| *number < self.generation);
                before.max().ok_or_else(|| "there is no generation before this one".to_owned())
            }
        }
    }

    /// Writes down what is in force.
    pub(super) fn keep_generation(&mut self, how: String, by: String) {
        let Some(history) = &self.history else { return };
        let at = unix_seconds();
        let (number, node) = (self.generation, self.loaded.config.node.to_string());
        if let Err(e) = history.keep(&Generation { number, at, how, by, node }, &self.loaded.effective) {
            error!(error = %e, "state_dir: the generation is in force, and cannot be gone back to later");
        }
    }
}

/// What a proxy runs `loaded` on.
pub(super) fn setup(
    loaded: &Loaded,
    overrides: Overrides,
    listeners: Vec<ListenerSockets>,
    log_files: Vec<PathBuf>,
) -> Setup {
    let (config, attachments) = (loaded.without_passwords.clone(), loaded.attachments.clone());
    Setup { config, attachments, overrides, listeners, log_files }
}

fn refuse(wanted: Wanted, why: &str) {
    warn!(by = wanted.by, "no reload: {why}");
    if let Some(reply) = wanted.reply {
        let _ = reply.send(Err(why.to_owned()));
    }
}
