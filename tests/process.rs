//! The real binary: its processes, signals and exit codes.

#[path = "process/certificates.rs"]
mod certificates;
#[path = "process/checks.rs"]
mod checks;
#[path = "process/circuit.rs"]
mod circuit;
#[path = "process/limits.rs"]
mod limits;
#[path = "process/reload.rs"]
mod reload;
#[path = "process/roles.rs"]
mod roles;
#[path = "process/sick.rs"]
mod sick;
#[path = "process/status.rs"]
mod status;
#[path = "process/sticky.rs"]
mod sticky;
#[path = "process/supervised.rs"]
mod supervised;
mod support;
#[path = "process/tls_servers.rs"]
mod tls_servers;
#[path = "process/upgrade.rs"]
mod upgrade;

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};

use support::{Instance, TempDir, bascule, comm, connect, echo, echo_server, free_addr, kill, status_field, wait_for};

/// A listener on `addr` in front of one server that echoes.
fn config(addr: SocketAddr, global: &str) -> String {
    let server = echo_server();
    format!(
        "[global]\n{global}\n[listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\n"
    )
}

fn start(global: &str) -> (Instance, SocketAddr) {
    let addr = free_addr();
    (Instance::start(&config(addr, global)), addr)
}

fn gone(pid: u32) {
    wait_for("the end of the proxy", || comm(pid).is_none().then_some(()));
}

#[test]
fn processes_carry_their_names() {
    let (instance, _) = start("");
    assert_eq!(comm(instance.pid()).as_deref(), Some("bascule"));
    let proxy = instance.proxy_pid();
    let command = fs::read(format!("/proc/{proxy}/cmdline")).unwrap();
    assert!(command.starts_with(b"bascule-proxy\0"));
}

#[test]
fn a_second_instance_is_refused_before_it_binds() {
    let (instance, _) = start("");
    let file = instance.config_file();
    // The second one's port is free: only the lock can refuse it.
    let second = fs::read_to_string(&file).unwrap().replace("[listener.l]", "[listener.other]");
    let other = free_addr();
    let bind = second.lines().find(|l| l.starts_with("bind")).unwrap().to_owned();
    let path = instance.dir().join("second.toml");
    fs::write(&path, second.replace(&bind, &format!("bind = [\"{other}\"]"))).unwrap();
    let output = bascule(&["run", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected =
        format!("another instance (pid {}) runs on {}", instance.pid(), instance.dir().join("run").display());
    assert!(text.contains(&expected), "{text}");
    assert!(!text.contains("listening"), "{text}");
}

#[test]
fn a_taken_port_is_an_error_that_names_listener_address_and_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let mut instance = Instance::spawn(&config(addr, ""));
    assert_eq!(instance.wait().code(), Some(1));
    let text = instance.log();
    assert!(text.contains(&format!("listener \"l\": cannot listen on {addr}: the port is taken by ")), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
}

#[test]
fn a_mistyped_address_is_an_error() {
    let mut instance = Instance::spawn(&config("192.0.2.1:80".parse().unwrap(), ""));
    assert_eq!(instance.wait().code(), Some(1));
    assert!(instance.log().contains("no interface of this box has the address"), "{}", instance.log());
}

#[test]
fn a_killed_proxy_is_replaced_within_100_ms_and_nobody_is_refused() {
    // The best of three: the tests beside this one take the processor too.
    let outage = (0..3).map(|_| outage_after_kill()).min().unwrap();
    assert!(outage < Duration::from_millis(100), "{outage:?}");
}

/// Kills the proxy of a new instance, makes many connections, and says how long it took until they were served.
fn outage_after_kill() -> Duration {
    let (instance, addr) = start("");
    echo(&connect(addr).expect("a connection")).expect("an echo");
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).expect("a proxy of ours");
    let killed = Instant::now();
    let clients: Vec<_> = (0..50).map(|_| connect(addr).expect("a connection while the proxy is replaced")).collect();
    // One that the dying proxy had accepted may be reset; those that waited are served.
    let served = clients.iter().filter(|client| echo(client).is_ok()).count();
    let outage = killed.elapsed();
    assert!(served >= 40, "{served} of 50 connections were served");
    instance.next_proxy_pid(proxy);
    outage
}

#[test]
fn without_a_proxy_waiting_clients_are_reset_and_one_that_can_start_serves_again() {
    let dir = TempDir::new();
    let program = dir.path().join("bascule");
    fs::copy(env!("CARGO_BIN_EXE_bascule"), &program).unwrap();
    let addr = free_addr();
    let mut instance = Instance::spawn_program(&program, &config(addr, ""));
    instance.wait_for_notice("READY=1");
    let proxy = instance.proxy_pid();
    // Not even root executes a file without any such bit.
    fs::set_permissions(&program, Permissions::from_mode(0o000)).unwrap();
    kill(proxy, Signal::KILL).unwrap();
    instance.wait_for_log("proxy not started");
    let mut client = connect(addr).unwrap();
    let before = Instant::now();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(before.elapsed() > Duration::from_secs(4), "reset after {:?}", before.elapsed());
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    instance.next_proxy_pid(proxy);
}

#[test]
fn garbage_from_the_proxy_costs_only_the_proxy() {
    if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some() {
        return;
    }
    let (instance, addr) = start("");
    let proxy = instance.proxy_pid();
    let pidfd = pidfd_open(Pid::from_raw(proxy.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    // Its standard input is its end of the socketpair.
    let stolen = pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap();
    rustix::net::send(&stolen, b"\x04\x00{\"Exec\":\"/bin/sh\"}", SendFlags::empty()).unwrap();
    drop(stolen);
    instance.next_proxy_pid(proxy);
    instance.wait_for_log("protocol violated");
    connect(addr).unwrap();
}

#[test]
fn the_demo_runs_as_an_ordinary_user_and_cleans_up() {
    let dir = TempDir::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bascule"));
    if rustix::process::geteuid().is_root() {
        // Where the ordinary user may execute it, wherever it was built.
        let program = dir.path().join("bascule");
        fs::hard_link(env!("CARGO_BIN_EXE_bascule"), &program)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_bascule"), &program).map(drop))
            .unwrap();
        chown(dir.path(), Some(65534), Some(65534)).unwrap();
        command = Command::new(program);
        command.uid(65534).gid(65534);
    }
    let addr = free_addr();
    command.args(["demo", "--port", &addr.port().to_string()]).env("TMPDIR", dir.path()).stdin(Stdio::null());
    let mut demo = Ended(command.stderr(Stdio::piped()).spawn().unwrap());
    wait_for("the demo", || TcpStream::connect(addr).ok());
    let mut stderr = demo.0.stderr.take().unwrap();
    let mut text = String::new();
    let proxy = wait_for("its proxy", || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.0.id())).ok()?;
        children
            .split_whitespace()
            .filter_map(|p| p.parse().ok())
            .find(|&p| comm(p).as_deref() == Some("bascule-proxy"))
    });
    assert_eq!(status_field(proxy, "CapEff"), "0000000000000000");
    // Ready, so that it drains rather than breaks off.
    while !text.contains("proxy ready") {
        let mut buffer = [0; 4096];
        let n = stderr.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(text.contains(&format!("curl http://{addr}/")), "{text}");
    kill(demo.0.id(), Signal::INT).unwrap();
    let status = wait_for("the end of the demo", || demo.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{text}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name == "bascule"), "{left:?}");
}

/// A child that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_proxy_never_outlives_its_supervisor() {
    for stopped in [false, true] {
        let (mut instance, _) = start("");
        let proxy = instance.proxy_pid();
        if stopped {
            // It cannot see the end of the socketpair: the parent-death signal ends it.
            kill(proxy, Signal::STOP).unwrap();
        }
        instance.signal(Signal::KILL);
        instance.wait();
        gone(proxy);
    }
}

#[test]
fn a_hung_proxy_is_replaced_and_the_log_says_where_it_was() {
    let (instance, addr) = start("proxy_watchdog = \"1s\"");
    let proxy = instance.proxy_pid();
    let before = Instant::now();
    kill(proxy, Signal::STOP).unwrap();
    instance.next_proxy_pid(proxy);
    assert!(before.elapsed() >= Duration::from_millis(900), "killed before the watchdog's time");
    connect(addr).unwrap();
    instance.wait_for_log("no heartbeat for proxy_watchdog");
    assert!(instance.log().contains("state T"), "{}", instance.log());
}

#[test]
fn a_stall_of_the_whole_box_kills_nothing() {
    let (instance, addr) = start("proxy_watchdog = \"1s\"");
    let proxy = instance.proxy_pid();
    for order in [[proxy, instance.pid()], [instance.pid(), proxy]] {
        for pid in order {
            kill(pid, Signal::STOP).unwrap();
        }
        std::thread::sleep(Duration::from_secs(10));
        for pid in order {
            kill(pid, Signal::CONT).unwrap();
        }
        // Longer than the watchdog's time, in which a wrong verdict would fall.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(instance.proxy_pid(), proxy);
    }
    assert!(!instance.log().contains("proxy lost"), "{}", instance.log());
    connect(addr).unwrap();
}

#[test]
fn the_proxy_has_no_privileges() {
    let (instance, _) = start("user = \"nobody\"");
    let proxy = instance.proxy_pid();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(proxy, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_field(proxy, "NoNewPrivs"), "1");
    if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some() {
        return;
    }
    assert!(rustix::process::geteuid().is_root(), "run as root, or set BASCULE_TEST_UNPRIVILEGED");
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody: Vec<_> = passwd.lines().find(|l| l.starts_with("nobody:")).unwrap().split(':').collect();
    let four = |id: &str| [id; 4].join("\t");
    assert_eq!(status_field(proxy, "Uid"), four(nobody[2]));
    assert_eq!(status_field(proxy, "Gid"), four(nobody[3]));
    assert_eq!(status_field(proxy, "Groups"), "");
    assert_eq!(status_field(proxy, "CapBnd"), "0000000000000000");
    // Not dumpable: what is its own in /proc belongs to root.
    assert_eq!(fs::metadata(format!("/proc/{proxy}/environ")).unwrap().uid(), 0);
}

#[test]
fn the_proxy_gets_neither_environment_nor_foreign_descriptors() {
    let (instance, _) = start("");
    let proxy = instance.proxy_pid();
    let environment = fs::read(format!("/proc/{proxy}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));
    for entry in fs::read_dir(format!("/proc/{proxy}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap().display().to_string();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let known = ["socket:", "anon_inode:", "pipe:"].iter().any(|k| target.starts_with(k));
        assert!(number <= 2 || known, "descriptor {number} is {target}");
    }
}

#[test]
fn the_proxy_may_open_as_many_files_as_the_hard_limit_allows() {
    let (instance, _) = start("");
    let limits = fs::read_to_string(format!("/proc/{}/limits", instance.proxy_pid())).unwrap();
    let files = limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|i| files.split_whitespace().nth(i).unwrap());
    assert_eq!(soft, hard);
}

#[test]
fn the_proxy_obeys_no_signal_but_kill() {
    let (instance, _) = start("");
    let proxy = instance.proxy_pid();
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2] {
        kill(proxy, signal).unwrap();
    }
    let pending = || ["SigPnd", "ShdPnd"].map(|set| status_field(proxy, set));
    wait_for("the signals to arrive", || pending().iter().all(|p| p.trim_matches('0').is_empty()).then_some(()));
    assert_eq!(comm(proxy).as_deref(), Some("bascule-proxy"));
    assert!(!instance.log().contains("proxy lost"), "{}", instance.log());
}

#[test]
fn every_stop_signal_ends_both_processes_with_success() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let (mut instance, addr) = start("");
        let proxy = instance.proxy_pid();
        instance.signal(signal);
        instance.wait_for_notice("STOPPING=1");
        assert_eq!(instance.wait().code(), Some(0));
        assert_eq!(comm(proxy), None);
        assert!(connect(addr).is_err());
    }
}

#[test]
fn a_graceful_stop_serves_what_is_queued_and_waits_for_what_is_under_way() {
    let (mut instance, addr) = start("");
    let open = connect(addr).unwrap();
    echo(&open).unwrap();
    let waiting = connect(addr).unwrap();
    instance.signal(Signal::TERM);
    instance.wait_for_notice("STOPPING=1");
    echo(&waiting).unwrap();
    // Once nobody listens any more, both go on.
    wait_for("the listener's end", || match TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Some(()),
        Ok(_) | Err(_) => None,
    });
    echo(&open).unwrap();
    echo(&waiting).unwrap();
    drop((open, waiting));
    assert_eq!(instance.wait().code(), Some(0));
    instance.wait_for_log("all connections are finished");
}

#[test]
fn a_graceful_stop_cuts_what_is_left_after_shutdown_timeout() {
    let (mut instance, addr) = start("shutdown_timeout = \"1s\"");
    let mut open = connect(addr).unwrap();
    echo(&open).unwrap();
    instance.signal(Signal::TERM);
    instance.wait_for_notice("STOPPING=1");
    let before = Instant::now();
    assert_eq!(instance.wait().code(), Some(0));
    assert!(before.elapsed() > Duration::from_millis(800), "it did not wait");
    assert!(instance.log().contains("connections are cut"), "{}", instance.log());
    // Closed or reset, but not open.
    assert!(open.read(&mut [0]).map_or(true, |n| n == 0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut instance, _) = start("");
    // A proxy that cannot answer would be waited for until shutdown_timeout.
    kill(instance.proxy_pid(), Signal::STOP).unwrap();
    instance.signal(Signal::TERM);
    instance.wait_for_notice("STOPPING=1");
    let before = Instant::now();
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait().code(), Some(0));
    assert!(before.elapsed() < Duration::from_secs(3));
    assert!(instance.log().contains("second request to stop"), "{}", instance.log());
}

#[test]
fn usr1_opens_a_log_that_was_moved_away_anew() {
    let addr = free_addr();
    let text = config(addr, "").replace("[listener.l]", "[access_log]\npath = \"{dir}/access.log\"\n[listener.l]");
    let instance = Instance::start(&text);
    let log = instance.dir().join("access.log");
    fs::rename(&log, instance.dir().join("access.log.1")).unwrap();
    instance.signal(Signal::USR1);
    wait_for("the new log", || log.exists().then_some(()));
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o7777 & !0o640, 0);
}

#[test]
fn a_log_that_is_a_link_is_refused_at_start() {
    let text = config(free_addr(), "").replace("[listener.l]", "[access_log]\npath = \"{dir}/link\"\n[listener.l]");
    let dir = TempDir::new();
    let target = dir.path().join("target");
    let text = text.replace("{dir}", dir.path().to_str().unwrap());
    std::os::unix::fs::symlink(&target, dir.path().join("link")).unwrap();
    let mut instance = Instance::spawn(&text);
    assert_eq!(instance.wait().code(), Some(1));
    assert!(instance.log().contains("symbolic links are not followed"), "{}", instance.log());
    assert!(!target.exists());
}

#[test]
fn exit_codes_tell_usage_from_configuration() {
    let dir = TempDir::new();
    let file = dir.path().join("bad.toml");
    fs::write(&file, "[global]\nworkers = \n").unwrap();
    let bad = file.to_str().unwrap();
    let missing = dir.path().join("missing.toml");
    for (args, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&[], 64),
        (&["fly"], 64),
        (&["run", "--fast"], 64),
        (&["check", "-c", bad], 78),
        (&["check", "--effective", "-c", bad], 78),
        (&["run", "-c", bad], 78),
        (&["run", "-c", missing.to_str().unwrap()], 78),
        (&["check", "--schema"], 0),
        (&["proxy", "--supervisor=1"], 1),
    ] {
        assert_eq!(bascule(args).status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn check_prints_the_schema_as_json() {
    let output = bascule(&["check", "--schema"]);
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
}

#[test]
fn a_valid_file_passes_the_check() {
    let (instance, _) = start("");
    let file = instance.config_file();
    for args in [&["check", "-c", &file][..], &["check", "--effective", "-c", &file]] {
        let output = bascule(args);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty());
    }
}
