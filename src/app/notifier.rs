//! Tells the world what has happened: by the `notify` command and the `webhook` of a virtual router, or of `[global]`.
//!
//! Two lanes, commands and webhooks, each in order and one at a time: what is slow delays what comes after it in its lane, and
//! nothing else.
//!
//! # What a command of a virtual router is told
//!
//! keepalived's arguments, after its own: `INSTANCE`, the router's name, `MASTER`, `BACKUP`, `FAULT` or `STOP`, the priority.
//!
//! # What its webhook is told
//!
//! A POST with a body such as
//!
//! ```json
//! {
//!   "router": "VI_1",
//!   "state": "active",
//!   "keepalived_state": "MASTER",
//!   "why": "no advertisement from the active router",
//!   "priority": 150,
//!   "configured_priority": 150,
//!   "node": "lb1",
//!   "time": "2026-01-31T23:59:59.123Z"
//! }
//! ```
//!
//! `state` is "initialize", "backup", "active" or "fault"; `priority` is the one in force. Any answer 2xx will do. Without a
//! connection, and after 5xx, it is tried three times in all; redirections are not followed.

use std::collections::VecDeque;
use std::fmt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use crate::app::child::Program;
use crate::app::runner::{Failure, Running};
use crate::app::webhook;
use crate::config::model::Command;
use crate::sys::user::Identity;
use crate::vrrp::event::{State, Why};

/// A virtual router changed its state.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The router's name.
    pub(super) router: Arc<str>,
    /// Its new state.
    pub(super) state: State,
    /// Why.
    pub(super) why: Why,
    /// The priority in force.
    pub(super) priority: u8,
    /// As in the file.
    pub(super) configured_priority: u8,
    /// This box.
    pub(super) node: Arc<str>,
    /// When.
    pub(super) at: SystemTime,
    /// To be run.
    pub(super) command: Option<Command>,
    /// To be posted to.
    pub(super) webhook: Option<Arc<str>>,
}

/// Something that has happened, and who is to be told how.
#[derive(Debug)]
pub(super) struct News {
    /// What it is, for the log.
    pub(super) about: String,
    /// For the command, after its own arguments.
    pub(super) arguments: Vec<String>,
    /// For the webhook, JSON.
    pub(super) body: Vec<u8>,
    /// To be run.
    pub(super) command: Option<Command>,
    /// To be posted to.
    pub(super) webhook: Option<Arc<str>>,
}

/// Runs commands and posts to webhooks. Dropped, it ends at once; [`Notifier::finish`] does what is queued.
#[derive(Debug)]
pub(super) struct Notifier {
    commands: Arc<Queue<Order<Command>>>,
    webhooks: Arc<Queue<Order<Arc<str>>>>,
    lanes: JoinSet<()>,
}

/// What is to be told, and how.
#[derive(Debug)]
struct Order<T> {
    by: T,
    news: Arc<News>,
}

/// What waits in one lane: hours of a router that flaps.
const QUEUE: usize = 1024;
/// For a command; then it is killed.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// For a process that posts, which has its own limit; then it is killed.
const WEBHOOK_LIMIT: Duration = webhook::LIMIT.saturating_add(Duration::from_secs(2));
/// For a killed process to end; in uninterruptible sleep it takes longer, and is left to itself.
const REAP_LIMIT: Duration = Duration::from_secs(1);
/// More tries after the first.
const RETRIES: u32 = 2;
/// Before each of them.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest reason that a process that posts may give.
const LONGEST_REASON: u64 = 1024;

impl Notifier {
    /// Starts with nothing queued; commands run as `identity`, and `program`, ourselves, posts as it. To be called by the main
    /// thread within its runtime.
    pub(super) fn start(identity: Option<Identity>, program: &Program) -> Self {
        let (commands, webhooks) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        let mut lanes = JoinSet::new();
        lanes.spawn(run_commands(Arc::clone(&commands), identity));
        lanes.spawn(post_all(Arc::clone(&webhooks), identity, program.clone()));
        Self { commands, webhooks, lanes }
    }

    /// Queues what has happened; when its lane is full, the oldest is lost.
    pub(super) fn push(&self, news: impl Into<News>) {
        let news = Arc::new(news.into());
        if let Some(command) = &news.command {
            self.commands.push(Order { by: command.clone(), news: Arc::clone(&news) });
        }
        if let Some(url) = &news.webhook {
            self.webhooks.push(Order { by: Arc::clone(url), news: Arc::clone(&news) });
        }
    }

    /// Whether everything was told.
    pub(super) fn is_idle(&self) -> bool {
        self.commands.left() + self.webhooks.left() == 0
    }

    /// Does what is queued, for `limit` at most; then ends, and kills what still runs.
    pub(super) async fn finish(mut self, limit: Duration) {
        self.commands.close();
        self.webhooks.close();
        let done = timeout(limit, async { while self.lanes.join_next().await.is_some() {} }).await;
        if done.is_err() {
            let (commands, webhooks) = (self.commands.left(), self.webhooks.left());
            error!(commands, webhooks, "not everything was told in time");
            self.lanes.shutdown().await;
        }
    }
}

/// First in, first out, bounded.
#[derive(Debug)]
struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    news: Notify,
}

#[derive(Debug)]
struct Waiting<T> {
    orders: VecDeque<T>,
    /// One that was taken is not done yet.
    busy: bool,
    /// Nothing comes any more.
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let waiting = Waiting { orders: VecDeque::new(), busy: false, closed: false };
        Self { waiting: Mutex::new(waiting), news: Notify::new() }
    }
}

impl<T> Queue<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing that holds it can panic halfway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.waiting().closed = true;
        self.news.notify_one();
    }

    /// What is not done.
    fn left(&self) -> usize {
        let waiting = self.waiting();
        waiting.orders.len() + usize::from(waiting.busy)
    }

    /// The next one; the one before it is done. `None` once it is closed and empty.
    async fn next(&self) -> Option<T> {
        loop {
            {
                let mut waiting = self.waiting();
                let next = waiting.orders.pop_front();
                waiting.busy = next.is_some();
                if next.is_some() || waiting.closed {
                    return next;
                }
            }
            self.news.notified().await;
        }
    }
}

impl<T> Queue<Order<T>> {
    fn push(&self, order: Order<T>) {
        let mut waiting = self.waiting();
        if waiting.orders.len() >= QUEUE
            && let Some(Order { news, .. }) = waiting.orders.pop_front()
        {
            error!(about = news.about, "too much waits to be told: the oldest is lost");
        }
        waiting.orders.push_back(order);
        self.news.notify_one();
    }
}

async fn run_commands(queue: Arc<Queue<Order<Command>>>, identity: Option<Identity>) {
    while let Some(Order { by: command, news }) = queue.next().await {
        let (program, about) = (command.program.display(), &news.about);
        match run_command(&command, &news, identity).await {
            Ok(()) => debug!(about, command = %program, "notify command done"),
            Err(failure) => warn!(about, command = %program, reason = %failure, "notify command failed"),
        }
    }
}

async fn run_command(command: &Command, news: &News, identity: Option<Identity>) -> Result<(), Failure> {
    let told: Vec<&str> = news.arguments.iter().map(String::as_str).collect();
    finish(Running::start(command, &told, identity)?, COMMAND_LIMIT).await
}

/// Waits for the end of `running` and, if it is killed for being late, a little longer.
async fn finish(mut running: Running, limit: Duration) -> Result<(), Failure> {
    let done = running.finish(limit).await;
    if matches!(done, Err(Failure::TimedOut)) {
        let _ = timeout(REAP_LIMIT, running.reap()).await;
    }
    done
}

async fn post_all(queue: Arc<Queue<Order<Arc<str>>>>, identity: Option<Identity>, program: Program) {
    while let Some(Order { by: url, news }) = queue.next().await {
        let about = &news.about;
        // Its URL may hold a secret, and is the only one for what it is about.
        match retry(|| post(&program, &url, &news.body, identity)).await {
            Ok(()) => debug!(about, "webhook told"),
            Err(Undelivered { reason, .. }) => error!(about, reason, "webhook failed"),
        }
    }
}

/// A post that failed.
#[derive(Debug, PartialEq, Eq)]
struct Undelivered {
    reason: String,
    /// Trying again may help.
    again: bool,
}

impl Undelivered {
    fn of(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), again: false }
    }
}

/// Does `attempt`, and again a few times while that may help.
async fn retry<F: Future<Output = Result<(), Undelivered>>>(mut attempt: impl FnMut() -> F) -> Result<(), Undelivered> {
    for _ in 0..RETRIES {
        match attempt().await {
            Err(Undelivered { again: true, .. }) => sleep(RETRY_PAUSE).await,
            done => return done,
        }
    }
    attempt().await
}

/// One attempt, by a process that gives up all privileges.
async fn post(program: &Program, url: &str, body: &[u8], identity: Option<Identity>) -> Result<(), Undelivered> {
    let mut process = program.command("bascule-webhook", "webhook", identity);
    process.arg("--").arg(url);
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running::spawn(process).map_err(Undelivered::of)?;
    if let Some(mut stdin) = running.child().stdin.take() {
        // A pipe takes that much at once; a process that does not read it says why.
        let _ = stdin.write_all(body).await;
    }
    let stderr = running.child().stderr.take();
    match finish(running, WEBHOOK_LIMIT).await {
        Ok(()) => Ok(()),
        Err(Failure::Status(status)) => {
            let mut reason = Vec::new();
            if let Some(stderr) = stderr {
                // It has ended: what it wrote is there, and nothing more comes.
                let _ = stderr.take(LONGEST_REASON).read_to_end(&mut reason).await;
            }
            let reason = String::from_utf8_lossy(&reason).trim().to_owned();
            let reason = if reason.is_empty() { status.to_string() } else { reason };
            Err(Undelivered { reason, again: status.code() == Some(webhook::TRY_AGAIN.into()) })
        }
        Err(failure) => Err(Undelivered::of(failure)),
    }
}

/// What a webhook is told.
#[derive(Debug, Serialize)]
struct Body<'a> {
    router: &'a str,
    state: State,
    keepalived_state: &'a str,
    why: &'a str,
    priority: u8,
    configured_priority: u8,
    node: &'a str,
    time: String,
}

impl From<Change> for News {
    fn from(change: Change) -> Self {
        let Change { router, state, priority, .. } = &change;
        let arguments = ["INSTANCE", router, state.keepalived(), &priority.to_string()];
        Self {
            about: format!("{router} {state}"),
            arguments: arguments.map(str::to_owned).into(),
            body: body(&change),
            command: change.command,
            webhook: change.webhook,
        }
    }
}

/// A time as it goes into a body.
pub(super) fn timestamp(at: SystemTime) -> String {
    // The clock of a box can be anywhere, though not before the calendar.
    format!("{:.3}", Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Seconds since 1970 as a date; those that no calendar has are its last.
pub(super) fn date(seconds: i64) -> String {
    let last = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(last).to_string()
}

fn body(change: &Change) -> Vec<u8> {
    let body = Body {
        router: &change.router,
        state: change.state,
        keepalived_state: change.state.keepalived(),
        why: change.why.text(),
        priority: change.priority,
        configured_priority: change.configured_priority,
        node: &change.node,
        time: timestamp(change.at),
    };
    serde_json::to_vec(&body).expect("invariant: text and numbers are always JSON")
}

#[cfg(test)]
mod tests;
