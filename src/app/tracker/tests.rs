use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use tokio::time::{self, timeout};

use super::script::Probe;
use super::*;
use crate::app::runner::Failure;
use crate::app::runner::tests::{PATIENCE, TempDir, assert_ends, identity, shell};
use crate::config::model::{Command, TrackedFile};

/// A valid virtual router that looks at these.
fn router(scripts: Vec<Arc<TrackedScript>>, files: Vec<TrackedFile>) -> Arc<VirtualRouter> {
    let text = "[global]\nrun_dir = \"/nowhere\"\n[vrrp.v]\ninterface = \"lo\"\nvirtual_router_id = 1\nversion = 2\n\
                virtual_addresses = [\"192.0.2.1\"]\n";
    let config = crate::config::parse_effective(text, "box").unwrap_or_else(|e| panic!("{e}"));
    let router = VirtualRouter::clone(&config.routers[0]);
    Arc::new(VirtualRouter { track_scripts: scripts, track_files: files, ..router })
}

fn script(command: Command, interval: u64, timeout: u64, weight: Weight) -> Arc<TrackedScript> {
    let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
    Arc::new(TrackedScript { command, interval, timeout, rise: 1, fall: 1, weight })
}

async fn next(tracker: &mut Tracker) -> (usize, Fitness) {
    timeout(PATIENCE, tracker.changed()).await.expect("a change in time")
}

fn bad(adjust: i16, fit: bool, why: &str) -> Fitness {
    Fitness { fit, adjust, why: vec![why.to_owned()], ..Fitness::good() }
}

/// Does not run anything: takes its time, and notes when.
struct Fake {
    /// How long a check, and the end of it after its verdict, take in turn, in milliseconds.
    turns: Vec<(u64, u64)>,
    begun: Rc<RefCell<Vec<u128>>>,
    since: time::Instant,
    settle: u64,
}

impl Probe for Fake {
    async fn check(&mut self) -> Result<(), Failure> {
        self.begun.borrow_mut().push(self.since.elapsed().as_millis());
        let turn = self.begun.borrow().len() - 1;
        let (check, settle) = self.turns.get(turn).copied().unwrap_or((0, 0));
        self.settle = settle;
        time::sleep(Duration::from_millis(check)).await;
        if turn == 0 { Err(Failure::TimedOut) } else { Ok(()) }
    }

    async fn settle(&mut self) {
        time::sleep(Duration::from_millis(self.settle)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn scripts_start_at_their_interval_and_never_before_the_last_one_is_over() {
    let command = Command { program: "/bin/true".into(), arguments: Vec::new() };
    let script = script(command, 100, 50, None);
    let begun = Rc::<RefCell<Vec<_>>>::default();
    let turns = vec![(50, 130), (0, 0), (99, 0), (60, 0), (0, 250)];
    let probe = Fake { turns, begun: Rc::clone(&begun), since: time::Instant::now(), settle: 0 };
    let (sender, mut heard) = mpsc::channel(VERDICTS);
    let verdicts = async {
        let mut verdicts = Vec::new();
        let since = time::Instant::now();
        while let Some((subject, said)) = heard.recv().await {
            verdicts.push((subject, said, since.elapsed().as_millis()));
        }
        verdicts
    };
    let watch = script::watch(script, probe, Teller { subject: 7, sender });
    let (_, verdicts) = tokio::join!(timeout(Duration::from_millis(1000), watch), verdicts);
    assert_eq!(*begun.borrow(), [0, 180, 280, 380, 480, 730, 830, 930]);
    // A verdict does not wait for what was killed.
    assert_eq!(verdicts, [(7, Said::Works(false), 50), (7, Said::Works(true), 180)]);
}

#[tokio::test]
async fn a_script_of_two_routers_runs_once_for_both_and_weighs_for_each() {
    let dir = TempDir::new();
    let command = shell(&dir, "echo >> runs; test ! -e broken");
    let [one, two] =
        [None, Some(-20)].map(|weight| router(vec![script(command.clone(), 50, 5000, weight)], Vec::new()));
    let since = Instant::now();
    let mut tracker = Tracker::start(&[one, two], identity());
    for router in [0, 1] {
        assert_eq!(next(&mut tracker).await, (router, Fitness::good()));
    }
    std::fs::write(dir.join("broken"), "").unwrap();
    let why = "script /bin/sh fails";
    assert_eq!(next(&mut tracker).await, (0, bad(0, false, why)));
    assert_eq!(next(&mut tracker).await, (1, bad(-20, true, why)));
    std::fs::remove_file(dir.join("broken")).unwrap();
    for router in [0, 1] {
        assert_eq!(next(&mut tracker).await, (router, Fitness::good()));
    }
    // Some more, in which nothing changes.
    assert!(timeout(Duration::from_millis(500), tracker.changed()).await.is_err());
    let (runs, most) = (dir.read("runs").len() as u128, since.elapsed().as_millis() / 50 + 1);
    assert!(runs <= most && runs > 2, "{runs} runs, {most} at most");
}

#[tokio::test]
async fn one_that_hangs_is_killed_before_the_next_starts_and_when_nobody_looks_any_more() {
    let dir = TempDir::new();
    let text = "for p in $(cat pids); do kill -0 $p && echo $p >> overlaps; done; echo $$ >> pids; sleep 1000 & wait";
    let hangs = script(shell(&dir, text), 10, 150, Some(-5));
    let mut tracker = Tracker::start(&[router(vec![hangs], Vec::new())], identity());
    let expected = (0, bad(-5, true, "script /bin/sh fails"));
    assert_eq!(next(&mut tracker).await, expected);
    assert!(timeout(Duration::from_millis(700), tracker.changed()).await.is_err());
    let pids = dir.read("pids");
    assert!(pids.lines().count() > 2, "{pids}");
    assert_eq!(dir.read("overlaps"), "");
    drop(tracker);
    tokio::task::yield_now().await;
    pids.lines().for_each(assert_ends);
}

#[tokio::test]
async fn a_router_is_told_of_once_all_is_known_or_something_speaks_against_it() {
    let dir = TempDir::new();
    let slow = script(shell(&dir, "until test -e go; do sleep 0.01; done"), 50_000, 20_000, Some(10));
    let fails = script(shell(&dir, "exit 1"), 50_000, 5000, Some(-5));
    let works = script(shell(&dir, "exit 0"), 50_000, 5000, None);
    let routers = [
        router(Vec::new(), Vec::new()),
        router(vec![Arc::clone(&slow), works], Vec::new()),
        router(vec![slow, fails], Vec::new()),
    ];
    let mut tracker = Tracker::start(&routers, identity());
    // Nothing is looked at.
    assert_eq!(next(&mut tracker).await, (0, Fitness::good()));
    // What is not known yet counts as good.
    let why = "script /bin/sh fails";
    assert_eq!(next(&mut tracker).await, (2, bad(5, true, why)));
    std::fs::write(dir.join("go"), "").unwrap();
    // The third was told of already.
    assert_eq!(next(&mut tracker).await, (1, Fitness { adjust: 10, ..Fitness::good() }));
    assert!(timeout(Duration::from_millis(100), tracker.changed()).await.is_err());
}

#[tokio::test]
async fn one_that_cannot_run_has_failed() {
    let dir = TempDir::new();
    let absent = script(Command { program: dir.join("absent"), arguments: Vec::new() }, 50_000, 5000, None);
    let mut tracker = Tracker::start(&[router(vec![absent], Vec::new())], identity());
    let why = format!("script {} fails", dir.join("absent").display());
    assert_eq!(next(&mut tracker).await, (0, bad(0, false, &why)));
}

#[tokio::test]
async fn numbers_in_files_count_for_every_router_that_looks() {
    let dir = TempDir::new();
    let path = dir.join("number");
    let file = |weight| TrackedFile { path: path.clone(), weight };
    let mut tracker =
        Tracker::start(&[router(Vec::new(), vec![file(Some(2))]), router(Vec::new(), vec![file(None)])], identity());
    for router in [0, 1] {
        assert_eq!(next(&mut tracker).await, (router, Fitness::good()));
    }
    std::fs::write(&path, "-10\n").unwrap();
    let why = format!("file {} says -10", path.display());
    assert_eq!(next(&mut tracker).await, (0, bad(-20, true, &why)));
    assert_eq!(next(&mut tracker).await, (1, bad(0, false, &why)));
    std::fs::write(&path, "garbage").unwrap();
    for router in [0, 1] {
        assert_eq!(next(&mut tracker).await, (router, Fitness::good()));
    }
}
