//! The configuration changes while the real binary serves.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::Answering;
use crate::support::{
    Instance, PATIENCE, bascule, connect, echo, echo_server, free_addr, kill, status_field, wait_for,
};

/// A server of its own name.
fn named(name: &'static str) -> SocketAddr {
    let answer = move |_: &_| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()).into_bytes();
    Answering::new(answer).addr()
}

/// `rest` behind a listener for HTTP on `addr`.
fn http(addr: SocketAddr, rest: &str) -> String {
    format!("[global]\nworkers = 2\n[listener.web]\nbind = [\"{addr}\"]\npool = \"p\"\n{rest}")
}

fn pool(servers: &[SocketAddr]) -> String {
    format!("[pool.p]\nservers = {:?}\n", servers.iter().map(ToString::to_string).collect::<Vec<_>>())
}

impl Instance {
    /// Writes another configuration, as [`Instance::start`] does.
    pub(crate) fn write(&self, config: &str) {
        let folder = self.dir().display().to_string();
        let rest = config.trim_start().strip_prefix("[global]").unwrap().replace("{dir}", &folder);
        fs::write(self.config_file(), format!("[global]\nrun_dir = \"{folder}/run\"\n{rest}")).unwrap();
    }

    /// Runs a command against it.
    fn tell(&self, args: &[&str]) -> Output {
        let socket = self.dir().join("run/admin.sock").display().to_string();
        let (first, rest) = args.split_first().unwrap();
        let mut all = vec![*first];
        all.extend(rest.iter().take(usize::from(*first == "server")));
        all.extend(["--socket", &socket]);
        all.extend(rest.iter().skip(usize::from(*first == "server")));
        bascule(&all)
    }

    /// The same, which is to succeed; what it says.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.tell(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}\n{}", self.log());
        out.into_owned()
    }

    /// The same, which is to fail; what it says.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.tell(args);
        assert!(!output.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.done(&["status", "--json"])).unwrap()
    }

    fn generation(&self) -> u64 {
        self.status()["generation"].as_u64().unwrap()
    }

    pub(crate) fn apply(&self, config: &str) -> String {
        self.write(config);
        self.done(&["reload"])
    }
}

/// A client connection that is used again and again.
struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

/// An answer: status and body.
type Reply = (u16, String);

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    /// Asks on the connection there is, or a new one; keeps it unless the answer ends it.
    fn get(&mut self) -> Result<Reply, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.addr, PATIENCE).map_err(|e| format!("connect: {e}"))?;
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream
            }
        };
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").map_err(|e| format!("write: {e}"))?;
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
                let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
                let length: usize = field("content-length").unwrap_or("0").parse().unwrap();
                if text.len() >= end + 4 + length {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    if field("connection") != Some("close") {
                        self.stream = Some(stream);
                    }
                    return Ok((status, String::from_utf8_lossy(&text[end + 4..]).into_owned()));
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Err(format!("closed after {} bytes", text.len())),
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(e) => return Err(format!("read: {e}")),
            }
        }
    }
}

/// Clients that ask without a pause, half of them over one connection each, half over a new one each time.
struct Load {
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(addr: SocketAddr) -> Self {
        let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..4).map(|i| {
            let (ends, asked) = (ends.clone(), asked.clone());
            std::thread::spawn(move || {
                let (mut client, mut failures) = (Client::new(addr), Vec::new());
                while !ends.load(Ordering::Relaxed) {
                    match client.get() {
                        Ok((200, _)) => {}
                        other => failures.push(format!("client {i}: {other:?}")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    if i % 2 == 0 {
                        client.stream = None;
                    }
                    // Four of them need not fill the machine.
                    std::thread::yield_now();
                }
                failures
            })
        });
        let threads = threads.collect();
        Self { ends, asked, threads }
    }

    /// Ends it; it is to have lost nothing.
    fn finish(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let asked = self.asked.load(Ordering::Relaxed);
        assert_eq!(failures, Vec::<String>::new(), "of {asked} requests");
        asked
    }
}

fn body(addr: SocketAddr) -> String {
    Client::new(addr).get().unwrap().1
}

#[test]
fn a_reload_takes_over_what_is_new_and_leaves_the_rest() {
    let addr = free_addr();
    let (red, blue) = (named("red"), named("blue"));
    let instance = Instance::start(&http(addr, &pool(&[red])));
    let mut client = Client::new(addr);
    assert_eq!(client.get().unwrap().1, "red");
    assert_eq!((instance.generation(), instance.status()["file"]["is"].as_str()), (1, Some("running")));

    instance.write(&http(addr, &pool(&[blue])));
    assert_eq!(instance.status()["file"]["is"].as_str(), Some("changed"));
    let dry = instance.done(&["reload", "--dry-run"]);
    let change = format!("~ pool.p.servers: -\"{red}\" +\"{blue}\"");
    assert!(dry.contains("has not changed") && dry.contains(&change), "{dry}");
    assert_eq!(client.get().unwrap().1, "red");

    let said = instance.done(&["reload"]);
    assert!(said.starts_with("generation 2 is in force\n") && said.contains(&change), "{said}");
    // On the connection that was there before.
    assert_eq!(client.get().unwrap().1, "blue");
    assert_eq!(instance.status()["file"]["is"].as_str(), Some("running"));
    let same = instance.done(&["reload"]);
    assert!(same.contains("nothing to change: generation 2"), "{same}");

    // The signal does the same.
    instance.write(&http(addr, &pool(&[red])));
    kill(instance.pid(), Signal::HUP).unwrap();
    wait_for("the third generation", || (instance.generation() == 3).then_some(()));
    assert_eq!(client.get().unwrap().1, "red");
}

#[test]
fn whatever_is_wrong_with_the_file_nothing_changes() {
    let addr = free_addr();
    let server = named("red");
    let good = http(addr, &pool(&[server]));
    let instance = Instance::start(&good);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let file = instance.config_file();
    let another = |extra: &str| format!("{good}{extra}");
    let folder = instance.dir().display().to_string();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut off", good.as_bytes()[..good.len() - 12].to_vec(), "bascule.toml"),
        ("not UTF-8", b"[global]\nuser = \"\xff\"\n".to_vec(), "UTF-8"),
        ("an unknown key", another("retrys = 3\n").into_bytes(), "retries"),
        ("an include that is not there", format!("include = [\"no.toml\"]\n{good}").into_bytes(), "no.toml"),
        (
            "a port that is taken",
            another(&format!("[listener.more]\nbind = [\"{taken}\"]\npool = \"p\"\n")).into_bytes(),
            "the port is taken by",
        ),
        (
            "an address of another box",
            another("[listener.more]\nbind = [\"192.0.2.1:8080\"]\npool = \"p\"\n").into_bytes(),
            "no interface of this box has the address",
        ),
        (
            "a log that cannot be opened",
            another("[access_log]\npath = \"/nowhere/access.log\"\n").into_bytes(),
            "/nowhere/access.log",
        ),
        (
            "what takes a restart",
            good.replace("workers", "run_dir = \"/elsewhere\"\nworkers").into_bytes(),
            "without a restart",
        ),
    ];
    for (what, text, says) in cases {
        let text = if what == "what takes a restart" || what == "not UTF-8" {
            text
        } else {
            let text = String::from_utf8(text).unwrap();
            text.replacen("[global]", &format!("[global]\nrun_dir = \"{folder}/run\""), 1).into_bytes()
        };
        fs::write(&file, text).unwrap();
        let why = instance.refused(&["reload"]);
        assert!(why.contains(says) && why.contains("nothing changed: generation 1 goes on"), "{what}: {why}");
        assert_eq!(body(addr), "red", "{what}");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(instance.refused(&["reload"]).contains("bascule.toml"));
    fs::remove_dir(&file).unwrap();
    assert!(instance.refused(&["reload"]).contains("bascule.toml"));
    assert_eq!((body(addr), instance.generation()), ("red".to_owned(), 1));
    assert!(connect(taken).is_ok());

    instance.write(&good);
    assert!(instance.done(&["reload"]).contains("nothing to change"));
}

#[test]
fn a_proxy_that_does_not_answer_stops_a_reload_and_its_successor_does_it() {
    let addr = free_addr();
    let (red, blue) = (named("red"), named("blue"));
    let config = |server| http(addr, &pool(&[server])).replace("workers = 2", "workers = 2\nproxy_watchdog = \"1s\"");
    let instance = Instance::start(&config(red));
    instance.write(&config(blue));
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::STOP).unwrap();
    let why = instance.refused(&["reload"]);
    assert!(why.contains("the proxy was lost while it prepared for it"), "{why}");
    instance.next_proxy_pid(proxy);
    assert_eq!(body(addr), "red");
    wait_for("a reload that is done", || instance.tell(&["reload"]).status.success().then_some(()));
    assert_eq!(body(addr), "blue");
    // It runs on it after a crash as well.
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    assert_eq!(body(addr), "blue");
}

#[test]
fn a_listener_comes_and_goes_and_nobody_is_lost() {
    let (addr, other) = (free_addr(), free_addr());
    let server = named("red");
    let echo_addr = echo_server();
    let tcp = format!(
        "[listener.raw]\nbind = [\"{other}\"]\nprotocol = \"tcp\"\npool = \"e\"\n[pool.e]\nservers = [\"{echo_addr}\"]\n"
    );
    let one = http(addr, &pool(&[server])).replace("workers = 2", "workers = 2\ndrain_timeout = \"1500ms\"");
    let both = format!("{one}{tcp}");
    let instance = Instance::start(&one);
    assert_eq!(connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    instance.apply(&both);
    let session = connect(other).unwrap();
    echo(&session).unwrap();
    let said = instance.apply(&one);
    assert!(said.contains("- listener.raw") && said.contains("! listener raw takes no new connections"), "{said}");
    // What is under way goes on, and is cut in the end.
    echo(&session).unwrap();
    wait_for("a port that refuses", || connect(other).is_err().then_some(()));
    let mut cut = [0; 1];
    session.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!((&session).read(&mut cut).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // It comes back.
    instance.apply(&both);
    echo(&connect(other).unwrap()).unwrap();
    // At another place of the same port.
    let wild = both.replace(&other.to_string(), &format!("0.0.0.0:{}", other.port()));
    instance.apply(&wild);
    echo(&connect(other).unwrap()).unwrap();
    instance.apply(&both);
    echo(&connect(other).unwrap()).unwrap();
}

#[test]
fn a_hundred_reloads_of_every_kind_lose_no_request_and_no_session() {
    let (addr, more) = (free_addr(), free_addr());
    let (red, blue) = (named("red"), named("blue"));
    let echo_addr = echo_server();
    let raw = free_addr();
    let config = |workers: usize, servers: &[SocketAddr], extra: &str| {
        http(addr, &pool(servers)).replace("workers = 2", &format!("workers = {workers}"))
            + &format!(
                "{extra}\n[listener.raw]\nbind = [\"{raw}\"]\nprotocol = \"tcp\"\npool = \"e\"\n\
                 [pool.e]\nservers = [\"{echo_addr}\"]\n"
            )
    };
    let listener = format!("[listener.more]\nbind = [\"{more}\"]\npool = \"p\"\nmax_connections = 10\n");
    let kinds = [
        config(2, &[red], ""),
        config(2, &[red, blue], "retries = 5\n"),
        config(3, &[red, blue], "[access_log]\npath = \"{dir}/access.log\"\n"),
        config(1, &[blue], ""),
        config(2, &[blue, red], &listener),
        config(2, &[blue, red], &format!("algorithm = \"least_conn\"\n{listener}")),
        config(4, &[red], "[[site.s.route]]\npath = \"/\"\npool = \"p\"\n")
            .replace("pool = \"p\"\n[pool.p]", "[pool.p]"),
    ];
    let instance = Instance::start(&kinds[0]);
    let sessions: Vec<TcpStream> = (0..20).map(|_| connect(raw).unwrap()).collect();
    sessions.iter().for_each(|session| echo(session).unwrap());
    let proxy = instance.proxy_pid();
    let threads = status_field(proxy, "Threads");
    // Sockets that were made for more workers stay, for closing one resets what waits on it.
    kinds[1..].iter().chain([&kinds[0]]).for_each(|kind| drop(instance.apply(kind)));
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap().count();
    let opened = descriptors();
    let load = Load::start(addr);
    for i in 1..=100 {
        instance.apply(&kinds[i % kinds.len()]);
        if i % 10 == 0 {
            sessions.iter().for_each(|session| echo(session).unwrap());
        }
    }
    assert_eq!(instance.generation(), 108);
    let asked = load.finish();
    assert!(asked > 100, "{asked}");
    sessions.iter().for_each(|session| echo(session).unwrap());
    assert!(!instance.log().contains("panic"), "{}", instance.log());
    // Nothing is left of all that; a worker that is one too many ends with its last session.
    drop(sessions);
    instance.apply(&kinds[0]);
    wait_for("no more descriptors than before", || (descriptors() <= opened).then_some(()));
    wait_for("no more threads than before", || (status_field(proxy, "Threads") == threads).then_some(()));
    assert_eq!(instance.proxy_pid(), proxy);
}

#[test]
fn what_was_in_force_can_be_had_again() {
    let addr = free_addr();
    let (red, blue) = (named("red"), named("blue"));
    let mut instance = Instance::start(&http(addr, &pool(&[red])));
    instance.apply(&http(addr, &pool(&[blue])));
    let history = instance.done(&["history"]);
    assert!(
        history.contains("      1  ") && history.contains("*      2  ") && history.contains("reload by "),
        "{history}"
    );

    assert!(instance.done(&["rollback"]).starts_with("generation 3 is in force"));
    assert_eq!((body(addr), instance.status()["file"]["is"].as_str()), ("red".to_owned(), Some("rolled_back")));
    assert!(instance.refused(&["rollback", "77"]).contains("there is no generation 77"));
    instance.done(&["rollback", "2"]);
    assert_eq!(body(addr), "blue");

    // Nobody confirms.
    instance.write(&http(addr, &pool(&[red])));
    let said = instance.done(&["reload", "--confirm", "300ms"]);
    assert!(said.contains("unless `bascule confirm` comes"), "{said}");
    wait_for("the way back", || (body(addr) == "blue").then_some(()));
    assert_eq!(instance.generation(), 6);
    // Somebody does.
    instance.done(&["reload", "--confirm", "1h"]);
    assert_eq!(instance.done(&["confirm"]), "generation 7 stays\n");
    assert!(instance.refused(&["confirm"]).contains("no configuration waits"));
    assert_eq!(body(addr), "red");

    // Numbers go on after a restart, of the same configuration with the same one.
    kill(instance.pid(), Signal::TERM).unwrap();
    instance.wait();
    instance.restart();
    instance.wait_for_notice("READY=1");
    assert_eq!(instance.generation(), 7);
}

#[test]
fn a_server_is_used_as_the_operator_says_until_the_file_says_something_else() {
    let addr = free_addr();
    let (red, blue) = (named("red"), named("blue"));
    let config = |weight: u32| {
        http(
            addr,
            &format!(
                "[pool.p]\nservers = [{{ address = \"{red}\", name = \"red\", weight = {weight} }}, \
             {{ address = \"{blue}\", name = \"blue\" }}]\n"
            ),
        )
        .replace("workers = 2", "workers = 1")
    };
    let mut instance = Instance::start(&config(1));
    let bodies = |n: usize| -> Vec<String> { (0..n).map(|_| body(addr)).collect() };
    let reds = |n: usize| bodies(n).iter().filter(|body| *body == "red").count();
    assert_eq!(reds(10), 5);
    assert!(instance.done(&["server", "drain", "p/red", "--wait", "10s"]).contains("p/red gets nothing new"));
    assert_eq!(reds(10), 0);
    assert_eq!(instance.status()["pools"][0]["servers"][0]["state"], "draining");
    // It outlives a reload of something else, a crash, and a restart.
    instance.apply(&(config(1) + "retries = 3\n"));
    assert_eq!(reds(10), 0);
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    assert_eq!(reds(10), 0);
    kill(instance.pid(), Signal::TERM).unwrap();
    instance.wait();
    instance.restart();
    instance.wait_for_notice("READY=1");
    assert_eq!(reds(10), 0);
    let overrides = &instance.status()["overrides"];
    assert_eq!((&overrides[0]["server"], &overrides[0]["duty"]), (&"red".into(), &"drain".into()));
    instance.done(&["server", "ready", "p/red"]);
    assert_eq!(reds(10), 5);

    instance.done(&["server", "weight", "p/red", "4"]);
    assert_eq!(reds(10), 8);
    instance.apply(&config(9));
    assert_eq!(reds(10), 9);
    assert_eq!(instance.status()["overrides"], serde_json::json!([]));
    assert!(instance.refused(&["server", "drain", "p/green"]).contains("it has red, blue"));
    assert!(instance.refused(&["server", "drain", "q/red"]).contains("there is no pool \"q\""));
    instance.done(&["server", "maintenance", "p/blue"]);
    assert_eq!(reds(4), 4);
}

#[test]
fn signals_to_reload_while_one_is_under_way_are_not_lost() {
    let addr = free_addr();
    let servers: Vec<SocketAddr> = (0..5).map(|_| named("same")).collect();
    let instance = Instance::start(&http(addr, &pool(&servers[..1])));
    let load = Load::start(addr);
    for i in 0..50 {
        instance.write(&http(addr, &pool(&servers[i % 5..=i % 5])));
        kill(instance.pid(), Signal::HUP).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // Whatever they did, the last word counts.
    wait_for("the last file", || (instance.status()["file"]["is"] == "running").then_some(()));
    load.finish();
}
