//! Upgrades of the whole program: what goes on through them, and what a program that cannot take over changes, which is
//! nothing.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::Answering;
use crate::support::wire::{Peer, get, ok};
use crate::support::{Instance, TempDir, bascule, comm, connect, echo, echo_server, free_addr, kill, wait_for};
use crate::{Ended, gone};

/// An instance of a program of its own, with an HTTP and a TCP listener.
struct Stage {
    instance: Instance,
    programs: TempDir,
    http: SocketAddr,
    tcp: SocketAddr,
}

/// Of the slow download; more than the sockets in between hold.
const LARGE: usize = 32 << 20;

impl Stage {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With more keys of `[global]`.
    fn start_with(global: &str) -> Self {
        let programs = TempDir::new();
        let program = programs.path().join("bascule");
        fs::copy(env!("CARGO_BIN_EXE_bascule"), &program).unwrap();
        let server = Answering::new(|request| match request.target() {
            "/large" => ok(&"x".repeat(LARGE)).into_bytes(),
            _ => ok("small").into_bytes(),
        });
        let (http, tcp) = (free_addr(), free_addr());
        let config = format!(
            "[global]\nworkers = 2\n{global}[listener.web]\nbind = [\"{http}\"]\npool = \"web\"\n\
             [listener.raw]\nbind = [\"{tcp}\"]\nprotocol = \"tcp\"\npool = \"raw\"\n\
             [pool.web]\nservers = [\"{}\"]\n[pool.raw]\nservers = [\"{}\"]\n",
            server.addr(),
            echo_server()
        );
        let mut instance = Instance::spawn_program(&program, &config);
        instance.wait_for_notice("READY=1");
        Self { instance, programs, http, tcp }
    }

    fn program(&self) -> PathBuf {
        self.programs.path().join("bascule")
    }

    fn command(&self, arguments: &[&str]) -> Output {
        bascule(&[arguments, &["-c", &self.instance.config_file()]].concat())
    }

    fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn proxy(&self) -> u64 {
        self.status()["proxy"]["pid"].as_u64().unwrap()
    }

    /// An upgrade that succeeds; what is said of it.
    fn upgrade(&self, arguments: &[&str]) -> String {
        let output = self.command(&[&["upgrade"], arguments].concat());
        self.instance.forget_notices();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// An upgrade that fails; what is said of it.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.command(&[&["upgrade"], arguments].concat());
        self.instance.forget_notices();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Waits until one proxy is left of all children.
    fn settle(&self) {
        wait_for("one child", || (self.children().len() == 1).then_some(()));
    }

    fn children(&self) -> Vec<u32> {
        let pid = self.instance.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Open descriptors of the supervisor, once no command is being answered.
    fn descriptors(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.instance.pid());
        let target = |entry: fs::DirEntry| {
            let target = fs::read_link(entry.path()).ok()?.display().to_string();
            Some(target.split(':').next()?.to_owned())
        };
        let mut all: Vec<_> = fs::read_dir(folder).unwrap().flatten().filter_map(target).collect();
        all.sort();
        all
    }
}

/// Does `ask` in a thread again and again until `over`; how often.
fn again_and_again<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    over: &'scope AtomicBool,
    mut ask: impl FnMut() + Send + 'scope,
) -> thread::ScopedJoinHandle<'scope, u32> {
    scope.spawn(move || {
        let mut times = 0;
        while !over.load(Ordering::Relaxed) {
            ask();
            times += 1;
        }
        times
    })
}

#[test]
fn ten_upgrades_in_a_row_cost_no_request_and_no_connection() {
    let stage = Stage::start();
    let pid = stage.instance.pid();
    stage.upgrade(&[]);
    stage.settle();
    let before = stage.descriptors();
    let session = connect(stage.tcp).unwrap();
    echo(&session).unwrap();
    let mut download = Peer::connect_narrow(stage.http);
    download.send(get("/large"));
    assert_eq!(download.head().status(), 200);
    let mut read = 0;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (mut kept, http) = (None::<Peer>, stage.http);
            clients.push(again_and_again(scope, &over, move || {
                let mut client = kept.take().unwrap_or_else(|| Peer::connect(http));
                client.send(get("/"));
                let response = client.response();
                assert_eq!(response.text(), "small");
                if response.field("connection") != Some("close") {
                    kept = Some(client);
                }
            }));
            clients.push(again_and_again(scope, &over, || {
                let mut client = Peer::connect(stage.http);
                client.send(get("/"));
                assert_eq!(client.response().text(), "small");
            }));
        }
        clients.push(again_and_again(scope, &over, || echo(&connect(stage.tcp).unwrap()).unwrap()));
        clients.push(again_and_again(scope, &over, || assert_eq!(stage.status()["pid"], pid)));
        // Ends them also when an assertion fails.
        let ends = Over(&over);
        for _ in 0..10 {
            let old = stage.proxy();
            let said = stage.upgrade(&[]);
            let version = env!("CARGO_PKG_VERSION");
            let new = stage.proxy();
            assert_ne!(old, new);
            let expected =
                format!("upgraded from version {version} to {version}, supervisor pid {pid}, proxy {old} -> {new}\n");
            assert!(said.starts_with(&expected), "{said}");
            echo(&session).unwrap();
            read += download.bytes(64 << 10).len();
        }
        drop(ends);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    echo(&session).unwrap();
    drop(session);
    assert!(download.bytes(LARGE - read).iter().all(|byte| *byte == b'x'));
    drop(download);
    stage.settle();
    wait_for("as many descriptors as before", || (stage.descriptors() == before).then_some(()));
    assert!(!stage.instance.log().contains("lost"), "{}", stage.instance.log());
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts `content` at `path` as a program.
fn put(path: &Path, content: &[u8], mode: u32) {
    // In place of the file, not into it: it may be running.
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(mode)).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing_and_the_reason_is_said() {
    let stage = Stage::start();
    let real = fs::read(env!("CARGO_BIN_EXE_bascule")).unwrap();
    let (pid, proxy) = (stage.instance.pid(), stage.proxy());
    let program = stage.program();
    let session = connect(stage.tcp).unwrap();
    let unchanged = |said: &str, expected: &str| {
        assert!(said.contains(expected) && said.contains("nothing has changed"), "{expected:?} is not in {said}");
        assert!(said.contains(program.to_str().unwrap()), "{said}");
        assert_eq!((stage.instance.pid(), stage.proxy()), (pid, proxy));
        echo(&session).unwrap();
        stage.settle();
    };
    put(&program, b"#!/bin/sh\necho one two three >&2\nexit 3\n", 0o755);
    unchanged(&stage.fail(&[]), "it ended with exit status: 3 before it was ready:\none two three");
    put(&program, &fs::read("/bin/false").unwrap(), 0o755);
    unchanged(&stage.fail(&[]), "it ended with exit status: 1 before it was ready");
    put(&program, b"#!/bin/sh\nexec sleep 1000\n", 0o755);
    unchanged(&stage.fail(&[]), "it was not ready within 10s");
    put(&program, b"#!/bin/sh\nexec /bin/true\n", 0o755);
    unchanged(&stage.fail(&[]), "it ended with exit status: 0 before it was ready");
    // A part of a program is executed, and dies, or is refused by the kernel at once.
    put(&program, &real[..100_000], 0o755);
    let said = stage.fail(&[]);
    assert!(said.contains("before it was ready") || said.contains("cannot execute it"), "{said}");
    put(&program, &real, 0o644);
    let said = stage.fail(&[]);
    assert!(said.contains("cannot execute it: Permission denied"), "{said}");
    fs::remove_file(&program).unwrap();
    assert!(stage.fail(&[]).contains("No such file or directory"));
    assert!(stage.fail(&["--binary", "/dev/null"]).contains("/dev/null: cannot execute it: Permission denied"));
    put(&program, &real, 0o755);
    // The file is what the next start reads.
    let file = stage.instance.config_file();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("workers = 2", "wrokers = 2")).unwrap();
    let socket = stage.instance.dir().join("run/admin.sock");
    let output = bascule(&["upgrade", "--socket", socket.to_str().unwrap()]);
    fs::write(&file, config).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    unchanged(&said, "unknown key `wrokers`");
    assert!(said.contains("exit status: 78"), "{said}");
    // After all that it goes as ever, and back to a program that lies elsewhere.
    stage.upgrade(&[]);
    let elsewhere = stage.programs.path().join("previous");
    put(&elsewhere, &real, 0o755);
    stage.upgrade(&["--binary", elsewhere.to_str().unwrap()]);
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!((exe, stage.instance.pid()), (elsewhere, pid));
    echo(&session).unwrap();
}

#[test]
fn an_upgrade_under_way_refuses_another_and_a_stop_ends_it() {
    let mut stage = Stage::start();
    put(&stage.program(), b"#!/bin/sh\nexec sleep 1000\n", 0o755);
    let first = Command::new(env!("CARGO_BIN_EXE_bascule"))
        .args(["upgrade", "-c", &stage.instance.config_file()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut first = Ended(first.unwrap());
    stage.instance.wait_for_log("the new program is tried");
    assert!(stage.fail(&[]).contains("an upgrade is under way"));
    let reload = stage.command(&["reload"]);
    assert_eq!(reload.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&reload.stderr).contains("an upgrade is under way; try again"));
    stage.instance.signal(Signal::TERM);
    assert_eq!(stage.instance.wait().code(), Some(0));
    assert_eq!(wait_for("the end of the command", || first.0.try_wait().unwrap()).code(), Some(1));
}

#[test]
fn the_new_program_goes_on_with_generations_and_what_was_said_of_servers() {
    let stage = Stage::start();
    let file = stage.instance.config_file();
    let text = fs::read_to_string(&file).unwrap();
    let done = |arguments: &[&str]| {
        let output = stage.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    fs::write(&file, text.replace("[pool.web]", "[pool.web]\nretries = 5")).unwrap();
    done(&["reload"]);
    let server = stage.status()["pools"][1]["servers"][0]["name"].as_str().unwrap().to_owned();
    done(&["server", "weight", &format!("web/{server}"), "7"]);
    stage.upgrade(&[]);
    let status = stage.status();
    assert_eq!((&status["generation"], &status["file"]["is"]), (&2.into(), &"running".into()));
    assert_eq!(
        (&status["overrides"][0]["weight"], &status["pools"][1]["servers"][0]["weight"]),
        (&7.into(), &7.into())
    );
    fs::write(&file, text).unwrap();
    assert!(done(&["reload"]).starts_with("generation 3 is in force\n  - pool.web.retries: 5\n"));
    assert!(done(&["history"]).contains("*      3  "));
}

#[test]
fn usr2_upgrades_and_the_service_manager_is_told() {
    let mut stage = Stage::start();
    let proxy = stage.proxy();
    stage.instance.signal(Signal::USR2);
    stage.instance.wait_for_notice("RELOADING=1\nMONOTONIC_USEC=");
    stage.instance.wait_for_notice("READY=1");
    assert_ne!(stage.proxy(), proxy);
    assert!(stage.instance.is_running());
    // A failure is told of by the log, and the service manager that all is well again.
    put(&stage.program(), b"#!/bin/sh\nexit 3\n", 0o755);
    stage.instance.signal(Signal::USR2);
    stage.instance.wait_for_notice("RELOADING=1");
    stage.instance.wait_for_notice("READY=1");
    stage.instance.wait_for_log("upgrade failed: nothing has changed");
}

#[test]
fn a_signal_during_an_upgrade_is_not_lost() {
    for moment in ["the new program is tried", "executing the new program", "this program goes on", "upgrade done"] {
        let mut stage = Stage::start();
        stage.instance.signal(Signal::USR2);
        stage.instance.wait_for_log(moment);
        stage.instance.signal(Signal::TERM);
        assert_eq!(stage.instance.wait().code(), Some(0), "{}", stage.instance.log());
        assert!(connect(stage.http).is_err());
    }
}

#[test]
fn logs_are_reopened_by_proxies_that_were_replaced_too() {
    let mut stage = Stage::start();
    let session = connect(stage.tcp).unwrap();
    echo(&session).unwrap();
    stage.upgrade(&[]);
    stage.instance.signal(Signal::USR1);
    stage.instance.wait_for_log("reopening logs");
    echo(&session).unwrap();
    assert_eq!(stage.children().len(), 2);
    stage.instance.signal(Signal::TERM);
    stage.instance.wait_for_notice("STOPPING=1");
    // A stop waits for them as well.
    echo(&session).unwrap();
    drop(session);
    assert_eq!(stage.instance.wait().code(), Some(0));
    stage.instance.wait_for_log("all connections are finished");
}

#[test]
fn nothing_outlives_a_supervisor_that_dies_after_an_upgrade() {
    let mut stage = Stage::start();
    let session = connect(stage.tcp).unwrap();
    echo(&session).unwrap();
    stage.upgrade(&[]);
    let children = stage.children();
    assert_eq!(children.len(), 2);
    kill(stage.instance.pid(), Signal::KILL).unwrap();
    stage.instance.wait();
    children.into_iter().for_each(gone);
}

#[test]
fn a_proxy_that_was_replaced_and_dies_costs_its_own_connections_only() {
    let stage = Stage::start();
    let session = connect(stage.tcp).unwrap();
    echo(&session).unwrap();
    let old = u32::try_from(stage.proxy()).unwrap();
    stage.upgrade(&[]);
    assert_eq!(comm(old).as_deref(), Some("bascule-proxy"));
    kill(old, Signal::KILL).unwrap();
    stage.settle();
    stage.instance.wait_for_log("proxy that was replaced lost");
    echo(&connect(stage.tcp).unwrap()).unwrap();
}

#[test]
fn a_proxy_that_was_replaced_is_cut_after_drain_timeout() {
    let stage = Stage::start_with("drain_timeout = \"100ms\"\n");
    let session = connect(stage.tcp).unwrap();
    echo(&session).unwrap();
    stage.upgrade(&[]);
    stage.settle();
    stage.instance.wait_for_log("drain_timeout is over: connections are cut");
    assert!(echo(&session).is_err());
    echo(&connect(stage.tcp).unwrap()).unwrap();
}
