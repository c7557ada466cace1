//! What scripts, files and pools say of each virtual router's right to hold its addresses.
//!
//! ```text
//! script task: run, hysteresis ─┐ only what changed          of each router that looks at it: Fitness
//! file task: ask, number ───────┴─▶ Tracker::changed ─────────────────────────────────────▶ supervisor
//!       ▲ │
//!       │ ▼  a thread that reads: a file system that hangs, hangs nobody else
//! ```
//!
//! A script that several routers look at runs once for all, whatever it weighs for each; so does a file.

mod file;
pub(super) mod pools;
mod script;

use std::collections::VecDeque;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::model::{TrackedScript, VirtualRouter, Weight};
use crate::sys::user::Identity;
use crate::vrrpd::report::Fitness;
use file::{FileProbe, Reader};
use script::ScriptProbe;

/// All scripts and files of all virtual routers. They end with it.
#[derive(Debug)]
pub(super) struct Tracker {
    routers: Vec<Watch>,
    subjects: Vec<Subject>,
    heard: mpsc::Receiver<(usize, Said)>,
    /// Routers of which there may be something to say.
    due: VecDeque<usize>,
    _tasks: JoinSet<()>,
}

/// What a router looks at.
#[derive(Debug)]
struct Watch {
    /// By their numbers.
    subjects: Vec<(usize, Weight)>,
    sent: Option<Fitness>,
}

/// Something that is looked at.
#[derive(Debug)]
struct Subject {
    what: What,
    /// `None`: not known yet.
    said: Option<Said>,
}

#[derive(Debug)]
enum What {
    Script(Arc<TrackedScript>),
    File(PathBuf),
}

/// What a subject says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Works(bool),
    Number(i16),
}

/// Tells the tracker what one subject says.
#[derive(Debug, Clone)]
struct Teller {
    subject: usize,
    sender: mpsc::Sender<(usize, Said)>,
}

/// Verdicts that wait for the supervisor; a task that finds no room waits, which delays its own next look only.
const VERDICTS: usize = 64;

impl Tracker {
    /// Starts the scripts and files of `routers`, scripts as `identity`. To be called by the main thread within its runtime.
    pub(super) fn start(routers: &[Arc<VirtualRouter>], identity: Option<Identity>) -> Self {
        let mut subjects = Vec::new();
        let routers: Vec<_> =
            routers.iter().map(|router| Watch { subjects: looked_at(router, &mut subjects), sent: None }).collect();
        let (sender, heard) = mpsc::channel(VERDICTS);
        let mut tasks = JoinSet::new();
        let mut reader = None;
        for (subject, Subject { what, .. }) in subjects.iter().enumerate() {
            let teller = Teller { subject, sender: sender.clone() };
            match what {
                What::Script(script) => {
                    let probe = ScriptProbe::new(Arc::clone(script), identity);
                    tasks.spawn(script::watch(Arc::clone(script), probe, teller));
                }
                What::File(path) => {
                    let reader = reader.get_or_insert_with(Reader::start).clone();
                    tasks.spawn(file::watch(FileProbe::new(path.clone(), reader), teller));
                }
            }
        }
        Self { due: (0..routers.len()).collect(), routers, subjects, heard, _tasks: tasks }
    }

    /// The next router of which something changed, by its place in the configuration, and what all its scripts and files say
    /// together. Each router is told of once at start: when all of them are known, or as soon as one speaks against it; one
    /// that is not known yet does not. Cancel-safe.
    pub(super) async fn changed(&mut self) -> (usize, Fitness) {
        loop {
            while let Some(router) = self.due.pop_front() {
                if let Some(fitness) = self.news(router) {
                    return (router, fitness);
                }
            }
            match self.heard.recv().await {
                Some((subject, said)) => self.hear(subject, said),
                None => pending().await,
            }
        }
    }

    fn hear(&mut self, subject: usize, said: Said) {
        self.subjects[subject].said = Some(said);
        let looks = |watch: &Watch| watch.subjects.iter().any(|(s, _)| *s == subject);
        self.due.extend(self.routers.iter().enumerate().filter(|(_, watch)| looks(watch)).map(|(router, _)| router));
    }

    /// What is to be said of `router`, unless it has been said.
    fn news(&mut self, router: usize) -> Option<Fitness> {
        let watch = &mut self.routers[router];
        let mut looks = watch.subjects.iter().map(|&(subject, weight)| (&self.subjects[subject], weight));
        let fitness = looks.clone().fold(Fitness::good(), |all, (subject, weight)| all.and(&subject.fitness(weight)));
        let known = looks.all(|(subject, _)| subject.said.is_some());
        let is_due = known || !fitness.why.is_empty() || watch.sent.is_some();
        if !is_due || watch.sent.as_ref() == Some(&fitness) {
            return None;
        }
        watch.sent = Some(fitness.clone());
        Some(fitness)
    }
}

/// What `router` looks at, by number; what nobody looked at before is added to `subjects`.
fn looked_at(router: &VirtualRouter, subjects: &mut Vec<Subject>) -> Vec<(usize, Weight)> {
    let mut number = |what: What| match subjects.iter().position(|known| known.what.is_same(&what)) {
        Some(known) => known,
        None => {
            subjects.push(Subject { what, said: None });
            subjects.len() - 1
        }
    };
    let scripts = router.track_scripts.iter().map(|script| (What::Script(Arc::clone(script)), script.weight));
    let files = router.track_files.iter().map(|file| (What::File(file.path.clone()), file.weight));
    scripts.chain(files).map(|(what, weight)| (number(what), weight)).collect()
}

impl What {
    /// Whether a look at one is a look at the other.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Script(a), Self::Script(b)) => {
                let key = |script: &TrackedScript| (script.interval, script.timeout, script.rise, script.fall);
                Arc::ptr_eq(a, b) || (a.command == b.command && key(a) == key(b))
            }
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Script(_), Self::File(_)) | (Self::File(_), Self::Script(_)) => false,
        }
    }
}

impl Subject {
    /// What it says by `weight`; what is not known works.
    fn fitness(&self, weight: Weight) -> Fitness {
        match (&self.what, self.said) {
            (What::Script(script), said) => {
                let works = !matches!(said, Some(Said::Works(false)));
                Fitness::of_weight(weight, works, || format!("script {} fails", script.command.program.display()))
            }
            (What::File(path), Some(Said::Number(number))) => file::fitness(path, number, weight),
            (What::File(_), Some(Said::Works(_)) | None) => Fitness::good(),
        }
    }
}

impl Teller {
    async fn tell(&self, said: Said) {
        // Fails when the tracker is gone, and this task with it.
        let _ = self.sender.send((self.subject, said)).await;
    }
}

/// Fires at once and then every `period`, which is counted anew from a start that was late.
fn starts(period: Duration) -> Interval {
    let mut starts = interval(period.max(Duration::from_millis(1)));
    starts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    starts
}

#[cfg(test)]
mod tests;
