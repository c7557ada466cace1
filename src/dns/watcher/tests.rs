use std::io;
use std::sync::Mutex;

use tokio::time::{Instant, sleep_until, timeout};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::dns::Family;

#[tokio::test(start_paused = true)]
async fn all_names_are_looked_up_at_once_at_start() {
    let script = Script::new(|name, _| Ok(answer(&[if name == "a" { "10.0.0.1" } else { "10.0.0.2" }], 60)));
    let (watcher, table, changed) = start(&script, &["a", "b"]);
    watcher.settled().await;
    assert_eq!(script.calls("a"), [0]);
    assert_eq!(script.calls("b"), [0]);
    assert_eq!(table.load()["a"], addrs(&["10.0.0.1"]));
    assert_eq!(table.load()["b"], addrs(&["10.0.0.2"]));
    assert!(is_notified(&changed).await);
}

#[tokio::test(start_paused = true)]
async fn settled_waits_for_failures_too_and_not_for_names_that_were_removed() {
    let script = Script::new(|_, _| Err(not_found()));
    let (mut watcher, table, changed) = start(&script, &["a"]);
    watcher.settled().await;
    assert_eq!(script.calls("a"), [0]);
    assert!(table.load().is_empty());
    assert!(!is_notified(&changed).await);

    watcher.set_names(vec!["b".into()]);
    watcher.set_names(Vec::new());
    timeout(Duration::from_secs(1), watcher.settled()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_when_its_ttl_ends_and_a_change_is_told_once() {
    let script = Script::new(|_, call| Ok(answer(&[if call < 2 { "10.0.0.1" } else { "10.0.0.2" }], 60)));
    let (_watcher, table, changed) = start(&script, &["a"]);
    assert!(is_notified(&changed).await, "first answer");
    script.run_until(59).await;
    assert_eq!(script.calls("a"), [0]);
    script.run_until(61).await;
    assert_eq!(script.calls("a"), [0, 60]);
    assert!(!is_notified(&changed).await, "the same answer again");
    script.run_until(121).await;
    assert_eq!(table.load()["a"], addrs(&["10.0.0.2"]));
    assert!(is_notified(&changed).await, "another answer");
    script.run_until(181).await;
    assert!(!is_notified(&changed).await);
}

#[tokio::test(start_paused = true)]
async fn failures_keep_the_last_answer_and_are_retried_with_back_off() {
    for error in [not_found(), DnsError::TimedOut { name: "a".into(), after: Duration::from_secs(5) }] {
        let script = Script::new(move |_, call| match call {
            1..=8 => Err(error.clone()),
            _ => Ok(answer(&["10.0.0.1"], 10)),
        });
        let (_watcher, table, changed) = start(&script, &["a"]);
        assert!(is_notified(&changed).await);
        script.run_until(120).await;
        assert_eq!(script.calls("a"), [0, 10, 11, 13, 17, 25, 41, 71, 101], "1, 2, 4, 8, 16, 30, 30 seconds apart");
        assert_eq!(table.load()["a"], addrs(&["10.0.0.1"]));
        script.run_until(142).await;
        assert_eq!(script.calls("a")[9..], [131, 141], "back to the TTL");
        assert!(!is_notified(&changed).await, "the addresses never changed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_could_not_be_asked_keeps_its_addresses() {
    let script = Script::new(|_, call| {
        Ok(match call {
            0 => answer(&["10.0.0.1", "2001:db8::1"], 60),
            1 => Answer { unknown: Some(Family::V6), ..answer(&["10.0.0.2"], 60) },
            2 => Answer { unknown: Some(Family::V4), ..answer(&["2001:db8::2"], 60) },
            _ => answer(&["10.0.0.2"], 60),
        })
    });
    let (_watcher, table, _changed) = start(&script, &["a"]);
    script.run_until(61).await;
    assert_eq!(table.load()["a"], addrs(&["10.0.0.2", "2001:db8::1"]));
    script.run_until(121).await;
    assert_eq!(table.load()["a"], addrs(&["10.0.0.2", "2001:db8::2"]));
    script.run_until(181).await;
    assert_eq!(table.load()["a"], addrs(&["10.0.0.2"]), "known to have none");
}

#[tokio::test(start_paused = true)]
async fn a_new_set_of_names_leaves_those_that_stay_alone_and_forgets_those_that_go() {
    let script = Script::new(|_, _| Ok(answer(&["10.0.0.1"], 60)));
    let (mut watcher, table, _changed) = start(&script, &["a", "b"]);
    script.run_until(30).await;
    watcher.set_names(vec!["b".into(), "c".into(), "c".into()]);
    script.run_until(119).await;
    assert_eq!(script.calls("a"), [0]);
    assert_eq!(script.calls("b"), [0, 60]);
    assert_eq!(script.calls("c"), [30, 90]);
    let mut names: Vec<_> = table.load().keys().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["b", "c"]);
    drop(watcher);
    script.run_until(300).await;
    assert_eq!(script.calls("b").len(), 2, "nothing goes on after the end");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_takes_over_a_table_tells_no_change_of_what_is_known() {
    let script = Script::new(|_, _| Ok(answer(&["10.0.0.1"], 60)));
    let (watcher, table, changed) = start(&script, &["a"]);
    assert!(is_notified(&changed).await);
    drop(watcher);
    let next = Watcher::start(script.clone(), vec!["a".into()], table.clone(), Arc::clone(&changed));
    assert_eq!(table.load()["a"], addrs(&["10.0.0.1"]), "before the first lookup");
    next.settled().await;
    assert!(!is_notified(&changed).await);
}

#[tokio::test(start_paused = true)]
async fn each_flip_is_logged_once() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let script =
        Script::new(|_, call| if (1..5).contains(&call) { Err(not_found()) } else { Ok(answer(&["10.0.0.1"], 60)) });
    let (_watcher, _table, _changed) = start(&script, &["a"]);
    script.run_until(300).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("new addresses") && lines[0].contains("10.0.0.1"), "{text}");
    assert!(
        lines[1].contains("WARN") && lines[1].contains("a does not exist") && lines[1].contains("kept=1"),
        "{text}"
    );
    assert!(lines[2].contains("resolves again") && lines[2].contains("failures=4"), "{text}");
}

/// Answers by name and number of the call, and notes at which second each call came.
#[derive(Clone)]
struct Script(Arc<ScriptState>);

type Answers = dyn Fn(&str, usize) -> Result<Answer, DnsError> + Send + Sync;

struct ScriptState {
    answer: Box<Answers>,
    start: Instant,
    calls: Mutex<HashMap<String, Vec<u64>>>,
}

impl Script {
    fn new(answer: impl Fn(&str, usize) -> Result<Answer, DnsError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ScriptState { answer: Box::new(answer), start: Instant::now(), calls: Mutex::default() }))
    }

    /// Lets the paused clock run to this second since the start.
    async fn run_until(&self, second: u64) {
        sleep_until(self.0.start + Duration::from_secs(second)).await;
    }

    fn calls(&self, name: &str) -> Vec<u64> {
        self.0.calls.lock().unwrap().get(name).cloned().unwrap_or_default()
    }
}

impl Lookup for Script {
    async fn lookup(&self, host: &str) -> Result<Answer, DnsError> {
        let call = {
            let mut calls = self.0.calls.lock().unwrap();
            let calls = calls.entry(host.to_owned()).or_default();
            calls.push((Instant::now() - self.0.start).as_secs());
            calls.len() - 1
        };
        (self.0.answer)(host, call)
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn start(script: &Script, names: &[&str]) -> (Watcher<Script>, Table, Arc<Notify>) {
    let (table, changed) = (Table::default(), Arc::new(Notify::new()));
    let names = names.iter().map(|name| (*name).into()).collect();
    (Watcher::start(script.clone(), names, table.clone(), Arc::clone(&changed)), table, changed)
}

async fn is_notified(changed: &Notify) -> bool {
    timeout(Duration::from_millis(1), changed.notified()).await.is_ok()
}

fn answer(list: &[&str], ttl: u64) -> Answer {
    Answer { addrs: addrs(list), ttl: Duration::from_secs(ttl), unknown: None }
}

fn addrs(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn not_found() -> DnsError {
    DnsError::NotFound { name: "a".into() }
}
