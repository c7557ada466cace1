//! Checks that know roles, against real databases: the first write on a new primary, and none on two at once.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "databases/sql.rs"]
mod sql;
mod support;

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{Instance, TempDir, bascule, connect, free_addr, wait_for};

/// A Redis server without files; ends with the value.
struct Redis {
    addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Redis {
    fn start() -> Self {
        let (addr, dir) = (free_addr(), TempDir::new());
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--save", "", "--appendonly", "no"])
            .args(["--repl-diskless-sync-delay", "0"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let this = Self { addr, child, _dir: dir };
        wait_for("redis to answer", || command(addr, &["PING"]).ok());
        this
    }

    fn say(&self, words: &[&str]) -> String {
        command(self.addr, words).unwrap()
    }

    fn follow(&self, primary: &Self) {
        self.say(&["REPLICAOF", "127.0.0.1", &primary.addr.port().to_string()]);
    }

    /// The numbers that were written to it, or to whom it followed.
    fn numbers(&self) -> BTreeSet<u64> {
        self.say(&["GET", "all"]).split(',').filter_map(|number| number.parse().ok()).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer to one command on a connection of its own.
fn command(addr: SocketAddr, words: &[&str]) -> io::Result<String> {
    on(&connect(addr)?, words)
}

fn on(mut stream: &TcpStream, words: &[&str]) -> io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let count = words.matches('$').count();
    stream.write_all(format!("*{count}\r\n{words}").as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    match line.chars().next() {
        Some('+' | ':') => Ok(line.trim_end().to_owned()),
        Some('$') if line.starts_with("$-1") => Ok(String::new()),
        Some('$') => {
            line.clear();
            answer.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        }
        _ => Err(io::Error::other(line)),
    }
}

/// Writes one number after the other, each over a connection of its own, until it is told to end.
struct Writer {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, Instant)>>,
}

impl Writer {
    fn start(addr: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        let write = move || {
            let mut done = Vec::new();
            for number in 1.. {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                match command(addr, &["APPEND", "all", &format!("{number},")]) {
                    Ok(_) => done.push((number, Instant::now())),
                    // Refused: nobody is spun at.
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            done
        };
        Self { ends, thread: std::thread::spawn(write) }
    }

    /// What was acknowledged, and when.
    fn end(self) -> Vec<(u64, Instant)> {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// bascule before the two, with a port for writes.
fn before(write: SocketAddr, servers: [&Redis; 2]) -> Instance {
    let [a, b] = servers.map(|server| server.addr);
    Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.write]\nbind = [\"{write}\"]\nprotocol = \"tcp\"\npool = \"db\"\nrole = \"primary\"\n\
         [pool.db]\nservers = [\"{a}\", \"{b}\"]\n\
         health_check = {{ type = \"redis\", interval = \"300ms\", timeout = \"300ms\" }}\n"
    ))
}

fn pair() -> [Redis; 2] {
    let both = [Redis::start(), Redis::start()];
    both[1].follow(&both[0]);
    // One that is acknowledged by a replica.
    wait_for("replication", || (both[0].say(&["WAIT", "1", "50"]) == ":1").then_some(()));
    both
}

/// A primary with its replica behind a port for writes, a session that is open, and writes that come to the primary.
struct Scene {
    servers: [Redis; 2],
    write: SocketAddr,
    instance: Instance,
    session: TcpStream,
    writer: Writer,
}

impl Scene {
    fn new() -> Self {
        let servers = pair();
        let write = free_addr();
        let instance = before(write, servers.each_ref());
        wait_for("the primary", || command(write, &["PING"]).ok());
        let session = connect(write).unwrap();
        on(&session, &["PING"]).unwrap();
        let writer = Writer::start(write);
        writes_come_to(&servers[0]);
        Self { servers, write, instance, session, writer }
    }
}

fn writes_come_to(server: &Redis) {
    let before = server.numbers().len();
    wait_for("a write", || (server.numbers().len() > before).then_some(()));
}

/// Every number that only the old primary has is smaller than those that only the new one has.
fn assert_never_both(old: &BTreeSet<u64>, new: &BTreeSet<u64>) {
    let last = old.difference(new).max();
    let first = new.difference(old).min();
    assert!(first.is_some() && last < first, "{last:?} was written to the old primary, {first:?} to the new one");
}

#[test]
fn a_promotion_moves_writes_and_ends_the_sessions_of_the_former_primary() {
    let Scene { servers, instance: _instance, session, writer, .. } = Scene::new();
    let [old, new] = &servers;
    wait_for("the replica to follow", || (!new.numbers().is_empty()).then_some(()));
    // The old one refuses writes first, as every tool for it does.
    old.say(&["CONFIG", "SET", "min-replicas-to-write", "9"]);
    let promoted = Instant::now();
    new.say(&["REPLICAOF", "NO", "ONE"]);
    let of_old = old.numbers();
    old.follow(new);
    writes_come_to(new);
    let done = writer.end();
    let of_new = new.numbers();
    assert_never_both(&of_old, &of_new);
    wait_for("the session to end", || on(&session, &["PING"]).err());
    let first = done.iter().find(|(number, _)| of_new.contains(number) && !of_old.contains(number)).unwrap();
    println!("first write {} ms after the promotion", (first.1 - promoted).as_millis());
    let lost: Vec<_> = done.iter().filter(|(number, _)| !of_new.contains(number) && !of_old.contains(number)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn two_primaries_get_nothing_until_one_is_gone() {
    let Scene { servers, write, instance, session, writer } = Scene::new();
    let [old, new] = &servers;
    new.say(&["REPLICAOF", "NO", "ONE"]);
    instance.wait_for_log("several servers say that they are the primary");
    on(&session, &["PING"]).expect("a session of before goes on");
    assert!(command(write, &["PING"]).is_err(), "nothing new");
    let config = instance.config_file();
    let status = String::from_utf8(bascule(&["status", "--json", "-c", &config]).stdout).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pool = &status["pools"][0];
    assert_eq!((&pool["role_conflict"], &pool["role_conflicts"]), (&true.into(), &1.into()), "{pool:#}");
    let roles: Vec<_> = pool["servers"].as_array().unwrap().iter().map(|server| &server["role"]).collect();
    assert_eq!(roles, ["claimant", "claimant"]);
    let of_old = old.numbers();
    let gone = Instant::now();
    support::kill(old.child.id(), rustix::process::Signal::KILL).unwrap();
    writes_come_to(new);
    let done = writer.end();
    let of_new = new.numbers();
    assert_never_both(&of_old, &of_new);
    let first = done.iter().find(|(number, at)| of_new.contains(number) && *at > gone).unwrap();
    println!("first write {} ms after the end of one of two primaries", (first.1 - gone).as_millis());
}
