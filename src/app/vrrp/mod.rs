//! The vrrp process: keeps CAP_NET_ADMIN and CAP_NET_RAW, runs the two threads of [`crate::vrrpd`], and tells the supervisor.
//!
//! It is the guardian too: an unprivileged process cannot take an address off the box, so when the supervisor dies this one
//! hands the addresses over while the proxy still serves, takes them off, and ends the proxy.

pub(super) mod child;
pub(super) mod messages;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::app::at;
use crate::app::proxy::{channel_on_stdin, ignore_signals};
use crate::app::vrrp::messages::{FromVrrp, FromVrrpChannel, Start, ToVrrp};
use crate::config;
use crate::config::model::VirtualRouter;
use crate::ipc::{Limits, RecvError};
use crate::net::listen;
use crate::sys::{process, schedule};
use crate::vrrp::event::Event;
use crate::vrrp::judge::Mismatch;
use crate::vrrpd::handover::Doors;
use crate::vrrpd::keeper::Keeper;
use crate::vrrpd::mailbox::{Post, mailbox};
use crate::vrrpd::report::{Finding, Note, Order, Report};
use crate::vrrpd::speaker::Speaker;

/// Name of the note of addresses in the run directory.
pub(super) const NOTE: &str = "addresses.json";
/// Above what runs by default, below what the kernel itself needs.
const FIFO_PRIORITY: u8 = 50;
/// Addresses and raw sockets; and memory that is locked counts against a limit without the last.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::IPC_LOCK);
/// The urgent thread never runs for so long without waiting.
const LONGEST_RUN: Duration = Duration::from_secs(2);
/// When SCHED_FIFO is not to be had.
const NICE: i32 = -20;
/// The guardian gives up waiting for a peer: the longest offer of version 3, and its margin.
const GUARD_LIMIT: Duration = Duration::from_secs(45);

/// From the moment a peer has taken over from an orphan until it is told to announce the addresses: for requests under way.
const ORPHAN_SETTLES: Duration = Duration::from_millis(14);

/// Why the process could not run, or had to end.
#[derive(Debug)]
pub(super) enum VrrpError {
    /// Somebody else than the supervisor started it.
    NotSupervised,
    Runtime(io::Error),
    Receive(RecvError),
    /// The supervisor went away, or said something else than Start.
    NoStart,
    Config(config::Diagnostics),
    Telemetry(String),
    Capabilities(io::Error),
    /// No netlink, no thread, no descriptor.
    Threads(String),
    /// The supervisor takes no messages any more.
    Send(io::Error),
}

impl fmt::Display for VrrpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vrrp: ")?;
        match self {
            Self::NotSupervised => f.write_str("`vrrp-process` is started by `bascule run`, not by hand"),
            Self::Runtime(e) => e.fmt(f),
            Self::Receive(e) => e.fmt(f),
            Self::NoStart => f.write_str("the supervisor did not start it"),
            Self::Config(e) => e.fmt(f),
            Self::Telemetry(e) => write!(f, "cannot log: {e}"),
            Self::Capabilities(e) => write!(f, "cannot give up capabilities: {e}"),
            Self::Threads(e) => f.write_str(e),
            Self::Send(e) => write!(f, "the supervisor cannot be told: {e}"),
        }
    }
}

/// Runs as a child of the supervisor.
pub(super) fn run() -> Result<(), VrrpError> {
    process::set_name(c"bascule-vrrp");
    let channel = channel_on_stdin().ok_or(VrrpError::NotSupervised)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(VrrpError::Runtime)?;
    runtime.block_on(async {
        ignore_signals().map_err(VrrpError::Runtime)?;
        let mut channel = FromVrrpChannel::new(channel, Limits::OF_SUPERVISOR).map_err(VrrpError::Runtime)?;
        channel.send(&FromVrrp::Here, &[]).await.map_err(VrrpError::Send)?;
        let first = channel.recv().await.map_err(VrrpError::Receive)?;
        let Some((ToVrrp::Start(start), descriptors)) = first else { return Err(VrrpError::NoStart) };
        Guardian::start(channel, start, descriptors).await?.run().await
    })
}

/// Takes what a killed instance left behind off the box, for the command line.
///
/// # Errors
/// An instance runs, or the kernel refuses.
pub(super) fn release(config: &config::model::Config) -> Result<String, String> {
    let _lock = crate::app::lock::Lock::take(&config.global.run_dir).map_err(|e| e.to_string())?;
    let removed = crate::vrrpd::sweep(&config.global.run_dir.join(NOTE))?;
    if removed.is_empty() {
        return Ok("nothing of ours is on this box\n".to_owned());
    }
    Ok(removed.iter().map(|address| format!("removed {address}\n")).collect())
}

/// The process's main thread.
struct Guardian {
    channel: FromVrrpChannel,
    routers: Vec<Arc<VirtualRouter>>,
    speaker: Post<Note>,
    keeper: Post<Order>,
    reports: UnboundedReceiver<Report>,
    /// The proxy lives while this or the supervisor's copy does.
    guard: Option<OwnedFd>,
    proxy: Option<OwnedFd>,
    /// The supervisor is dead; when waiting for a peer ends.
    orphan: Option<Instant>,
}

impl Guardian {
    async fn start(channel: FromVrrpChannel, start: Start, descriptors: Vec<OwnedFd>) -> Result<Self, VrrpError> {
        let Start { node, config, fitness, memories, doors } = start;
        let config = config::parse_effective(&config, &node).map_err(VrrpError::Config)?;
        let log = &config.global.log;
        crate::telemetry::init(&log.level, log.json).map_err(|e| VrrpError::Telemetry(e.to_string()))?;
        crate::telemetry::log_panics();
        let mut descriptors = descriptors.into_iter();
        let guard = descriptors.next();
        let doors: Vec<TcpListener> = descriptors.take(doors).map(TcpListener::from).collect();
        for door in &doors {
            // A process before this one may have died while they were closed.
            let _ = listen::accept_new(door);
        }
        let routers = config.routers;
        let memory = |router: &Arc<VirtualRouter>| {
            memories.iter().find(|(name, _)| *name == router.name).map(|(_, memory)| memory.clone())
        };
        let memories: Vec<_> = routers.iter().map(memory).collect();
        let resumed: Vec<bool> = memories.iter().map(|m| m.as_ref().is_some_and(|m| m.active)).collect();

        if let Err(e) = schedule::lock_memory() {
            warn!(error = %e, "memory not locked");
        }
        process::keep_capabilities(NEEDED | CapabilitySet::KILL | CapabilitySet::SYS_NICE)
            .map_err(VrrpError::Capabilities)?;
        let _ = schedule::prompt();
        let threads = |e: io::Error| VrrpError::Threads(e.to_string());
        let (notes, note_box) = mailbox().map_err(threads)?;
        let (orders, order_box) = mailbox().map_err(threads)?;
        let (tell, reports) = mpsc::unbounded_channel();
        let note = config.global.run_dir.join(NOTE);
        let keeper =
            Keeper::open(&routers, &resumed, &note, notes.clone(), tell.clone()).map_err(VrrpError::Threads)?;
        let speaker = Speaker::new(&routers, fitness, memories, Doors(doors.into()), orders.clone(), tell.clone());
        let (told, scheduling) = tokio::sync::oneshot::channel();
        spawn("vrrp", tell.clone(), move || {
            let _ = told.send(become_urgent());
            speaker.run(&note_box)
        })?;
        spawn("addresses", tell, move || {
            let _ = schedule::prompt();
            keeper.run(&order_box)
        })?;
        let this = Self { channel, routers, speaker: notes, keeper: orders, reports, guard, proxy: None, orphan: None };
        let scheduling = scheduling.await.unwrap_or_else(|_| "its thread ended".to_owned());
        info!(scheduling, routers = this.routers.len(), "vrrp ready");
        this.channel.send(&FromVrrp::Scheduling(scheduling), &[]).await.map_err(VrrpError::Send)?;
        Ok(this)
    }

    async fn run(mut self) -> Result<(), VrrpError> {
        loop {
            // Cancel-safe: channels that keep what came in part, and a timer.
            tokio::select! {
                message = self.channel.recv(), if self.orphan.is_none() => match message {
                    Ok(Some((ToVrrp::End, _))) => return Ok(()),
                    Ok(Some((message, descriptors))) => self.obey(message, descriptors),
                    Ok(None) => self.orphaned(),
                    Err(e) => {
                        error!(error = %e, "the supervisor is not understood");
                        self.orphaned();
                    }
                },
                report = self.reports.recv() => match report {
                    Some(Report::Stopped) if self.orphan.is_some() => return self.end(),
                    Some(Report::Ended) => return self.retired().await,
                    Some(report) => self.tell(report).await,
                    None => return Err(VrrpError::Threads("its threads ended".to_owned())),
                },
                () = at(self.orphan) => {
                    warn!("no peer has taken the addresses: removing them");
                    self.speaker.send(Note::StopNow);
                    self.orphan = Some(Instant::now() + GUARD_LIMIT);
                }
            }
        }
    }

    fn obey(&mut self, message: ToVrrp, descriptors: Vec<OwnedFd>) {
        match message {
            ToVrrp::Fitness(all) => {
                all.into_iter().enumerate().for_each(|(i, fitness)| self.speaker.send(Note::Fitness(i, fitness)));
            }
            ToVrrp::Proxy => self.proxy = descriptors.into_iter().next(),
            ToVrrp::Doors => {
                let doors: Vec<TcpListener> = descriptors.into_iter().map(TcpListener::from).collect();
                self.speaker.send(Note::Doors(Doors(doors.into())));
            }
            ToVrrp::HandOver { router } => self.speaker.send(Note::HandOver(router)),
            ToVrrp::Stop => self.speaker.send(Note::Stop),
            ToVrrp::StopNow => self.speaker.send(Note::StopNow),
            ToVrrp::Finished => self.speaker.send(Note::Finished),
            ToVrrp::Aborted { token } => self.keeper.send(Order::Aborted(token)),
            ToVrrp::Retire => self.speaker.send(Note::End),
            ToVrrp::Start(_) | ToVrrp::End => warn!("unexpected message from the supervisor"),
        }
    }

    /// The supervisor died: nobody restarts a proxy that dies, nobody ends connections before an address goes.
    fn orphaned(&mut self) {
        error!("the supervisor died: handing the addresses over");
        self.orphan = Some(Instant::now() + GUARD_LIMIT);
        self.keeper.send(Order::Alone);
        self.speaker.send(Note::Stop);
    }

    /// A successor goes on with what the supervisor has heard until now. The keeper needs no word: what it has begun is done
    /// or undone by the successor's, which compares the box with what should be.
    async fn retired(self) -> Result<(), VrrpError> {
        info!("another vrrp process takes over");
        self.channel.send(&FromVrrp::Retired, &[]).await.map_err(VrrpError::Send)
    }

    /// The addresses are gone: so is the proxy now.
    fn end(&mut self) -> Result<(), VrrpError> {
        info!("the addresses are handed over or removed: ending the proxy");
        self.guard = None;
        if let Some(proxy) = &self.proxy {
            // It may be hung, or gone already.
            let _ = pidfd_send_signal(proxy, Signal::KILL);
        }
        Ok(())
    }

    async fn tell(&self, report: Report) {
        let message = match report {
            Report::Event(router, event) => {
                self.log_event(router, event);
                match event {
                    Event::Changed { from, to, why } => FromVrrp::Changed { router, from, to, why },
                    Event::NoTaker => FromVrrp::NoTaker { router },
                    _ => return,
                }
            }
            Report::Finding(router, finding) => return self.log_finding(router, finding),
            Report::Trouble(text) => return warn!("{text}"),
            Report::Remark(text) => return info!("{text}"),
            Report::Leaving { token, addresses } => FromVrrp::Leaving { token, addresses },
            // Without a supervisor nobody tells when what is under way has been answered.
            Report::Held if self.orphan.is_some() => {
                let speaker = self.speaker.clone();
                tokio::spawn(async move {
                    sleep(ORPHAN_SETTLES).await;
                    speaker.send(Note::Finished);
                });
                return;
            }
            Report::Held => FromVrrp::Held,
            Report::Left(addresses) => FromVrrp::Left { addresses },
            Report::Status(all) => FromVrrp::Status(all),
            Report::Stopped => FromVrrp::Stopped,
            Report::Ended => FromVrrp::Retired,
        };
        if self.orphan.is_some() {
            return;
        }
        // What comes again in a moment may be lost on a supervisor that stands still; the rest waits for it. Of one that is
        // dead the channel tells.
        let sent = match message {
            FromVrrp::Status(_) => self.channel.try_send(&message),
            _ => self.channel.send(&message, &[]).await,
        };
        if let Err(e) = sent {
            warn!(error = %e, "the supervisor does not read");
        }
    }

    fn name(&self, router: Option<usize>) -> &str {
        router.and_then(|i| self.routers.get(i)).map_or("-", |router| &router.name)
    }

    fn log_event(&self, router: usize, event: Event) {
        let vrrp = self.name(Some(router));
        match event {
            Event::Changed { from, to, why } => info!(vrrp, %from, %to, why = why.text(), "state changed"),
            Event::Rival { source, priority } => warn!(
                vrrp, %source, %priority,
                "two masters: a router of lower claim advertises our addresses; it does not hear us, or did not"
            ),
            Event::RivalGone => info!(vrrp, "one master again"),
            Event::NoTaker => warn!(vrrp, "nobody took the addresses: kept"),
            Event::Isolated => warn!(vrrp, "none of `arbitrate` answers: this box is cut off, and takes no address"),
            Event::Stalled { late } => warn!(vrrp, ?late, "advertisements stood still: listening before speaking"),
            Event::PreemptionHeld { .. } => {
                warn!(vrrp, "addresses lost three times in ten minutes: no preemption for ten minutes");
            }
        }
    }

    fn log_finding(&self, router: Option<usize>, finding: Finding) {
        let vrrp = self.name(router);
        match finding {
            Finding::Mismatch(mismatch, source) => {
                let what = match mismatch {
                    Mismatch::Version => "another `version`",
                    Mismatch::Interval => "another `advert_interval`, which version 2 does not allow",
                    Mismatch::Cast => "multicast where this box has `unicast_peers`, or the other way round",
                    Mismatch::Authentication => "another password, or one on one box only",
                };
                warn!(vrrp, %source, "a peer has {what}: it lives, and is not understood; correct the file on both boxes");
            }
            Finding::ListDiffers(source) => {
                warn!(vrrp, %source, "a peer advertises another list of addresses: accepted; make the lists equal");
            }
            Finding::ForeignCluster(source) => warn!(
                vrrp, %source,
                "another cluster uses our virtual_router_id: ignored; each on a network needs its own"
            ),
            Finding::OwnAddress(source) => warn!(
                vrrp, %source,
                "advertisements with our own address: a loop in the network, or a second box with it"
            ),
            Finding::Stranger(source) => warn!(vrrp, %source, "advertisements of one not in `unicast_peers`: ignored"),
            Finding::Far(source) => warn!(vrrp, %source, "advertisements that came through a router: ignored"),
            Finding::UnknownVrid(source, vrid) => {
                info!(%source, vrid, "advertisements of a virtual router that is not configured here");
            }
            Finding::Unsent => {}
        }
    }
}

/// A thread whose failure is told.
fn spawn(
    name: &str,
    tell: UnboundedSender<Report>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), VrrpError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        match result {
            Ok(Ok(())) => return,
            Ok(Err(e)) => drop(tell.send(Report::Trouble(format!("a thread of vrrp ended: {e}")))),
            Err(_) => {}
        }
        // Half of it is worse than none: the supervisor starts another, which goes on where this one stopped.
        std::process::abort();
    });
    thread.map(drop).map_err(|e| VrrpError::Threads(e.to_string()))
}

/// Makes the calling thread urgent, as far as that is permitted; says how far.
fn become_urgent() -> String {
    let urgent = match schedule::fifo(FIFO_PRIORITY) {
        Ok(()) => {
            // Gone mad, it would have a core for itself. Killed, it is replaced.
            process::limit_urgent_run(LONGEST_RUN);
            format!("SCHED_FIFO {FIFO_PRIORITY}")
        }
        Err(e) => match schedule::nice(NICE) {
            Ok(()) => format!("nice {NICE} (SCHED_FIFO: {e})"),
            Err(_) => format!("ordinary (SCHED_FIFO: {e}): a busy box may come late"),
        },
    };
    // It needs no more than its sockets.
    match process::keep_capabilities(NEEDED) {
        Ok(()) => urgent,
        Err(e) => format!("{urgent}, capabilities kept: {e}"),
    }
}
