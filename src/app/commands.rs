//! Runs the commands of health checks (HAProxy's external-check), for proxies that say when one is due.
//!
//! A proxy talks to the network and may be broken into. So nothing of a command is the proxy's to choose: the pool and the
//! server must be in the configuration and be checked by a command, that command is run, for the address that is
//! configured, and no sooner after the last run than the configuration lets it. Of a server with a name in the DNS the
//! proxy says the address, which is the only thing that it can.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::app::runner::{Failure, Running};
use crate::app::supervisor::identity;
use crate::config::model::{Command, Config, HealthCheck, Probe, ServerAddress};
use crate::ipc::CheckOutcome;
use crate::sys::user::Identity;

/// All runs. They end with it.
#[derive(Debug)]
pub(super) struct Commands {
    /// Of `script_user`, once it was looked up.
    identity: Option<Option<Identity>>,
    /// One run of a subject at a time; when the last began.
    subjects: HashMap<Subject, Arc<Mutex<Option<Instant>>>>,
    turns: Arc<Semaphore>,
    runs: JoinSet<Done>,
}

/// Who asked, and what to answer.
#[derive(Debug)]
pub(super) struct Done {
    /// Process id of the proxy.
    pub(super) proxy: u32,
    pub(super) token: u64,
    pub(super) outcome: CheckOutcome,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    /// Name of the pool.
    pub(super) pool: Arc<str>,
    /// Name of the server in it.
    pub(super) server: Arc<str>,
    /// Where it is checked.
    pub(super) address: SocketAddr,
}

/// A run, and all it needs.
struct Run {
    command: Command,
    check: Arc<HealthCheck>,
    identity: Option<Identity>,
    environment: Vec<(&'static str, String)>,
    line: Arc<Mutex<Option<Instant>>>,
    turns: Arc<Semaphore>,
}

/// Commands at a time: a pool of many servers is not to be a load of its own.
const AT_A_TIME: usize = 32;
/// Of one subject: one that runs, and one that was ordered anew after a reload.
const IN_LINE: usize = 2;
/// Bytes of the first line.
const LONGEST: usize = 200;

impl Commands {
    pub(super) fn new() -> Self {
        Self {
            identity: None,
            subjects: HashMap::new(),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            runs: JoinSet::new(),
        }
    }

    /// Forgets what is not in `config`; what is under way ends by itself.
    pub(super) fn follow(&mut self, config: &Config) {
        self.subjects.retain(|subject, line| Arc::strong_count(line) > 1 || find(config, subject).is_some());
    }

    /// Runs what `config` has for a server that the process `proxy` names. To be called by the main thread within its
    /// runtime.
    pub(super) fn due(&mut self, config: &Config, (proxy, token): (u32, u64), subject: Subject) {
        let Some((check, command)) = find(config, &subject) else {
            // During a reload the two may differ for a moment.
            return self.answer(Done { proxy, token, outcome: not_run("no such check is configured") });
        };
        let identity = *self.identity.get_or_insert_with(|| identity(&config.global.script_user));
        let environment = vec![
            ("BASCULE_POOL", subject.pool.to_string()),
            ("BASCULE_SERVER", subject.server.to_string()),
            ("BASCULE_ADDRESS", subject.address.ip().to_string()),
            ("BASCULE_PORT", subject.address.port().to_string()),
        ];
        let line = self.subjects.entry(subject).or_default();
        // One is ours.
        if Arc::strong_count(line) > IN_LINE {
            return self.answer(Done { proxy, token, outcome: not_run("its command is waited for already") });
        }
        let line = Arc::clone(line);
        let (command, check) = (command.clone(), Arc::clone(check));
        let run = Run { command, check, identity, environment, line, turns: Arc::clone(&self.turns) };
        self.runs.spawn(async move { Done { proxy, token, outcome: run.outcome().await } });
    }

    /// The next outcome. Cancel-safe.
    pub(super) async fn next(&mut self) -> Done {
        loop {
            match self.runs.join_next().await {
                Some(Ok(done)) => return done,
                // It panicked, which was logged: the proxy gives it up.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    fn answer(&mut self, done: Done) {
        self.runs.spawn(std::future::ready(done));
    }
}

/// The check of a server, if it is a command and that is where it is checked.
fn find<'a>(config: &'a Config, subject: &Subject) -> Option<(&'a Arc<HealthCheck>, &'a Command)> {
    let Subject { pool, server, address } = subject;
    let pool = config.pools.iter().find(|known| known.name == *pool)?;
    let check = pool.health_check.as_ref()?;
    let Probe::Exec(command) = &check.probe else { return None };
    let spec = pool.servers.iter().find(|spec| spec.name == *server)?;
    let known = match &spec.address {
        ServerAddress::Ip(known) => *known,
        ServerAddress::Name { port, .. } => SocketAddr::new(address.ip(), *port),
    };
    (check.target_of(known) == *address).then_some((check, command))
}

fn not_run(why: &str) -> CheckOutcome {
    CheckOutcome::NotRun(why.to_owned())
}

impl Run {
    async fn outcome(self) -> CheckOutcome {
        let limit = self.check.timeout;
        // The one before is over, and its group with it, before another is started.
        let Ok(mut last) = timeout(limit, self.line.lock_owned()).await else {
            return not_run("the command that was run before has not ended yet");
        };
        let pace = self.check.pace;
        // Half of it is lost to no schedule; less than that is nobody's.
        let least = pace.fast_interval.min(pace.interval) / 2;
        if let Some(last) = *last {
            sleep_until(last + least).await;
        }
        let Ok(Ok(turn)) = timeout(limit, self.turns.acquire_owned()).await else {
            return not_run("too many commands run already");
        };
        *last = Some(Instant::now());
        let (mut running, output) = match Running::start_heard(&self.command, &self.environment, self.identity) {
            Ok(started) => started,
            Err(failure) => return CheckOutcome::NotRun(format!("{}: {failure}", self.command.program.display())),
        };
        let mut said = Vec::new();
        let ended = watch(&mut running, output, &mut said, limit).await;
        match ended {
            Ok(()) => CheckOutcome::Good,
            Err(Failure::Lost(e)) => CheckOutcome::NotRun(format!("cannot wait for it: {e}")),
            Err(Failure::TimedOut) => {
                // What was killed may be in the kernel still: it keeps its place, so that none is started beside it.
                tokio::spawn(async move {
                    let _ = running.reap().await;
                    drop((last, turn));
                });
                CheckOutcome::Bad(with(&format!("the command did not end within {limit:?}"), &said))
            }
            Err(failure) => CheckOutcome::Bad(with(&failure.to_string(), &said)),
        }
    }
}

/// Waits for the end of a command, while what it writes is taken off its hands; `said` is the beginning of that.
async fn watch(
    running: &mut Running,
    output: pipe::Receiver,
    said: &mut Vec<u8>,
    limit: Duration,
) -> Result<(), Failure> {
    let ended = {
        let reading = async {
            let _ = read(&output, said).await;
            // Closed, or broken: only the end is waited for.
            std::future::pending().await
        };
        tokio::select! {
            ended = running.finish(limit) => ended,
            never = reading => never,
        }
    };
    // What was written last, and not read yet.
    let mut piece = [0; 1024];
    while said.len() < LONGEST
        && let Ok(read @ 1..) = output.try_read(&mut piece)
    {
        said.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    ended
}

/// Reads until the end; the beginning is kept.
async fn read(output: &pipe::Receiver, said: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = [0; 1024];
    loop {
        output.readable().await?;
        match output.try_read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) if said.len() < LONGEST => said.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// How a command ended, and the first line that it wrote.
fn with(end: &str, said: &[u8]) -> String {
    let line = said.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).unwrap_or_default();
    let line = String::from_utf8_lossy(line.get(..LONGEST).unwrap_or(line));
    if line.is_empty() { end.to_owned() } else { format!("{end}: {}", line.escape_debug()) }
}

#[cfg(test)]
mod tests;
