//! Active health checks of the real binary.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::origin::Answering;
use crate::support::{Instance, connect, free_addr, kill, wait_for};

const CHECK: &str = "interval = \"300ms\"\ntimeout = \"300ms\"\nrise = 2\nfall = 3";
/// fall x interval + timeout.
const OUT: Duration = Duration::from_millis(1200);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_millis(800);

/// A server that sends its name and closes, until it is dropped; then its port refuses.
struct Named {
    addr: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Named {
    fn start(name: &'static str, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let seen = ends.clone();
        let serve = move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                // A probe has gone by now.
                let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
            }
        };
        Self { addr, ends, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = connect(self.addr);
        let _ = self.thread.take().unwrap().join();
    }
}

/// What `count` connections are told, one after the other.
fn told(addr: SocketAddr, count: usize) -> Vec<String> {
    let ask = |_| {
        let mut name = String::new();
        let read = connect(addr).unwrap().read_to_string(&mut name);
        read.map_or_else(|e| e.to_string(), |_| name)
    };
    (0..count).map(ask).collect()
}

fn count(instance: &Instance, text: &str) -> usize {
    instance.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_dead_server_is_out_in_time_without_traffic_failing_and_comes_back() {
    let (addr, a, b) = (free_addr(), free_addr(), free_addr());
    let _a = Named::start("a", a);
    let dies = Named::start("b", b);
    // Nothing but the checks keeps traffic away from it.
    let instance = Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
         [pool.p]\nservers = [\"{a}\", \"{b}\"]\nretries = 0\nmax_fails = 0\n[pool.p.health_check]\n{CHECK}\n"
    ));
    assert_eq!(told(addr, 2).concat().len(), 2, "both are used from the start");
    std::thread::sleep(Duration::from_millis(400));
    drop(dies);
    let died = Instant::now();
    instance.wait_for_log("server is down");
    assert!(died.elapsed() <= OUT + SLACK, "{:?}", died.elapsed());
    assert_eq!(told(addr, 50), vec!["a"; 50]);
    let line = instance.log().lines().find(|line| line.contains("server is down")).unwrap().to_owned();
    assert!(["pool=p", &format!("server={b}"), "refused"].iter().all(|part| line.contains(part)), "{line}");

    let _back = Named::start("b", b);
    instance.wait_for_log("server is up");
    let told = told(addr, 10);
    assert!(told.contains(&"b".to_owned()) && told.iter().all(|name| name.len() == 1), "{told:?}");
    assert_eq!((count(&instance, "server is down"), count(&instance, "server is up")), (1, 1));
}

#[test]
fn a_server_with_a_bad_status_is_out_and_a_new_proxy_knows_it() {
    let (addr, sick) = (free_addr(), Arc::new(AtomicBool::new(false)));
    let respond = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let healthy = Answering::with(respond("200 OK"));
    let is_sick = sick.clone();
    let turning = Answering::new(move |request| {
        let is_probe = request.target() == "/health";
        respond(if is_probe && is_sick.load(Ordering::SeqCst) { "503 Service Unavailable" } else { "200 OK" })
    });
    let asked = |server: &Answering| server.requests().iter().filter(|request| request.target() == "/").count();
    let mut instance = Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"{addr}\"]\npool = \"p\"\n[pool.p]\nservers = [\"{}\", \"{}\"]\n\
         [pool.p.health_check]\ntype = \"http\"\npath = \"/health\"\n{CHECK}\n",
        healthy.addr(),
        turning.addr()
    ));
    let get = |times: usize| {
        for _ in 0..times {
            let mut stream = connect(addr).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        }
    };
    get(4);
    assert_eq!((asked(&healthy), asked(&turning)), (2, 2));
    sick.store(true, Ordering::SeqCst);
    instance.wait_for_log("server is down");
    assert!(instance.log().contains("reason=status 503"), "{}", instance.log());
    get(10);
    assert_eq!((asked(&healthy), asked(&turning)), (12, 2));

    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    get(10);
    assert_eq!((asked(&healthy), asked(&turning)), (22, 2));
    sick.store(false, Ordering::SeqCst);
    instance.wait_for_log("server is up");
    get(2);
    assert_eq!((asked(&healthy), asked(&turning)), (23, 3));
    assert_eq!((count(&instance, "server is down"), count(&instance, "server is up")), (1, 1));
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait().code(), Some(0));
}

#[test]
fn without_any_server_that_is_up_requests_are_answered_at_once() {
    let (addr, dead) = (free_addr(), free_addr());
    let instance = Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"{addr}\"]\npool = \"p\"\n[pool.p]\nservers = [\"{dead}\"]\n\
         [pool.p.health_check]\n{CHECK}\n"
    ));
    instance.wait_for_log("server is down");
    let mut stream = connect(addr).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
}

#[test]
fn a_command_decides_and_outlives_the_proxy() {
    let (addr, server) = (free_addr(), free_addr());
    let _server = Named::start("a", server);
    let config = |text: &str| {
        format!(
            "[global]\nworkers = 1\nscript_user = \"root\"\n[listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\n\
             pool = \"p\"\n[pool.p]\nservers = [{{ address = \"{server}\", name = \"a\" }}]\n[pool.p.health_check]\n\
             type = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", '{text}']\n{CHECK}\n"
        )
    };
    let text = "test \"$BASCULE_POOL $BASCULE_SERVER\" = \"p a\" && test ! -e {dir}/ill || { echo it is ill; exit 4; }";
    let instance = Instance::start(&config(text));
    let ill = instance.dir().join("ill");
    let state = || {
        let server = &instance.status()["pools"][0]["servers"][0];
        (server["state"].as_str().unwrap().to_owned(), server["why"].as_str().unwrap_or_default().to_owned())
    };
    wait_for("the first check", || (state().0 == "up").then_some(()));
    assert_eq!(told(addr, 2), ["a", "a"]);
    std::fs::write(&ill, "").unwrap();
    instance.wait_for_log("server is down");
    assert!(instance.log().contains("reason=exit status: 4: it is ill"), "{}", instance.log());
    assert_eq!(state(), ("down".to_owned(), "health check: exit status: 4: it is ill".to_owned()));

    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    wait_for("the next proxy", || instance.log().matches("proxy ready").nth(1).map(|_| ()));
    assert_eq!(state().0, "down");
    std::fs::remove_file(&ill).unwrap();
    instance.wait_for_log("server is up");
    assert_eq!(told(addr, 1), ["a"]);

    // Another command, by a reload.
    instance.write(&config("echo out of order; exit 1"));
    instance.done(&["reload"]);
    instance.wait_for_log("out of order");
    assert_eq!(count(&instance, "server not probed"), 0, "{}", instance.log());
}

#[test]
fn servers_begin_as_the_file_says() {
    let (addr, server) = (free_addr(), free_addr());
    let _server = Named::start("a", server);
    let instance = Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\nhealth_check = {{ interval = \"1h\", initial_state = \"down\" }}\n"
    ));
    // The first probe is somewhere in the hour.
    let mut name = String::new();
    // Reset: at once, or when it is read.
    let read = connect(addr).and_then(|mut stream| stream.read_to_string(&mut name));
    assert!(name.is_empty(), "nobody is there to serve it: {name} {read:?}");
    let status = instance.status();
    let known = &status["pools"][0]["servers"][0];
    assert_eq!((&known["state"], &known["why"]), (&"down".into(), &"initial_state; not checked yet".into()));
}
