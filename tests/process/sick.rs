//! What the real binary says of sick servers, and what a proxy that was killed leaves to the next.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::Answering;
use crate::support::{Instance, connect, free_addr, kill, wait_for};

/// Longer than two of the summaries that a proxy leaves to its successor are apart.
const TOLD: Duration = Duration::from_millis(2500);

fn answering(status: &str) -> Answering {
    Answering::with(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
}

/// A server that says 204, and to its checks at /health 503 as long as the switch is on, which it is.
fn sick() -> (Answering, Arc<AtomicBool>) {
    let sick = Arc::new(AtomicBool::new(true));
    let is_sick = sick.clone();
    let server = Answering::new(move |request| {
        let is_bad = request.target() == "/health" && is_sick.load(Ordering::SeqCst);
        let status = if is_bad { "503 Service Unavailable" } else { "204 No Content" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    (server, sick)
}

const CHECK: &str = "health_check = { type = \"http\", path = \"/health\", interval = \"100ms\", rise = 1, fall = 1 }";

/// A listener on `addr` in front of the pool "p", of which this is the text.
fn start(addr: SocketAddr, pools: &str) -> Instance {
    Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"{addr}\"]\npool = \"p\"\n[pool.p]\n{pools}\n"
    ))
}

fn status(addr: SocketAddr) -> u16 {
    let mut stream = connect(addr).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{response}"))
}

fn servers(instance: &Instance) -> Vec<Value> {
    instance.status()["pools"][0]["servers"].as_array().unwrap().clone()
}

/// Lines of the log that hold all of these.
fn lines(instance: &Instance, parts: &[&str]) -> usize {
    instance.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn replace_proxy(instance: &Instance) {
    std::thread::sleep(TOLD);
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    wait_for("the next proxy", || instance.log().matches("proxy ready").nth(1).map(|_| ()));
}

#[test]
fn an_ejection_is_logged_and_outlives_the_proxy() {
    let (addr, broken, well) = (free_addr(), answering("500 Internal Server Error"), answering("200 OK"));
    let instance = start(
        addr,
        &format!(
            "servers = [\"{}\", \"{}\"]\n\
             ejection = {{ consecutive_5xx = 3, ejection_time = \"1h\", max_ejection_time = \"2h\" }}",
            broken.addr(),
            well.addr()
        ),
    );
    let bad = (0..12).filter(|_| status(addr) == 500).count();
    assert_eq!(bad, 3);
    let server = format!("server={}", broken.addr());
    let said = ["WARN", "server is ejected", "pool=p", &server, "3 errors in a row", "ms=3600000"];
    assert_eq!(lines(&instance, &said), 1, "{}", instance.log());

    replace_proxy(&instance);
    assert!((0..6).all(|_| status(addr) == 200));
    let known = &servers(&instance)[0];
    assert_eq!((&known["state"], &known["ejections"]), (&"ejected".into(), &1.into()));
    assert_eq!(known["why"], "3 errors in a row");
    assert_eq!(lines(&instance, &["server is ejected"]), 1);
}

#[test]
fn the_end_of_an_ejection_is_logged() {
    let (addr, broken, well) = (free_addr(), answering("500 Internal Server Error"), answering("200 OK"));
    let instance = start(
        addr,
        &format!(
            "servers = [\"{}\", \"{}\"]\n\
             ejection = {{ consecutive_5xx = 3, ejection_time = \"200ms\", max_ejection_time = \"200ms\" }}",
            broken.addr(),
            well.addr()
        ),
    );
    wait_for("the end of the ejection", || {
        status(addr);
        (lines(&instance, &["INFO", "ejection is over", "pool=p"]) > 0).then_some(())
    });
    assert!(lines(&instance, &["server is ejected"]) > 0);
}

#[test]
fn a_slow_start_outlives_the_proxy() {
    let (addr, one, two) = (free_addr(), answering("200 OK"), answering("200 OK"));
    let servers_of = format!(
        "servers = [{{ address = \"{}\", name = \"one\" }}, {{ address = \"{}\", name = \"two\" }}]\nslow_start = \"1h\"",
        one.addr(),
        two.addr()
    );
    let instance = start(addr, &servers_of);
    assert!(servers(&instance).iter().all(|server| server["weight_percent"] == 100));
    instance.done(&["server", "drain", "p/two"]);
    instance.done(&["server", "ready", "p/two"]);
    // The clock starts with a request.
    (0..4).for_each(|_| assert_eq!(status(addr), 200));
    let percent = || servers(&instance)[1]["weight_percent"].as_u64().unwrap();
    assert!(percent() < 10, "{}", percent());
    replace_proxy(&instance);
    assert!(percent() < 10, "{}", percent());
    assert_eq!(servers(&instance)[0]["weight_percent"], 100);
    let before = two.requests().len();
    (0..20).for_each(|_| assert_eq!(status(addr), 200));
    assert!(two.requests().len() - before <= 2, "it gets next to nothing yet");
}

#[test]
fn a_panic_is_logged_when_it_begins_and_when_it_ends() {
    let (addr, well, (other, switch)) = (free_addr(), answering("204 No Content"), sick());
    let servers = format!("servers = [\"{}\", \"{}\"]", well.addr(), other.addr());
    let instance = start(addr, &format!("{servers}\npanic_threshold = \"60%\"\n{CHECK}"));
    instance.wait_for_log("server is down");
    (0..6).for_each(|_| assert_eq!(status(addr), 204));
    assert_eq!(other.requests().iter().filter(|request| request.target() == "/").count(), 3, "well or not");
    let begins =
        ["WARN", "fewer servers than panic_threshold are well: health is ignored", "pool=p", "well=1", "all=2"];
    assert_eq!(lines(&instance, &begins), 1, "{}", instance.log());
    switch.store(false, Ordering::SeqCst);
    instance.wait_for_log("server is up");
    wait_for("the end of the panic", || {
        instance.status();
        (lines(&instance, &["INFO", "panic is over: health is heeded again", "pool=p"]) > 0).then_some(())
    });
    assert_eq!(lines(&instance, &["panic"]), 2, "{}", instance.log());
}

#[test]
fn a_fallback_is_logged_once_when_it_takes_over_and_once_when_it_does_no_more() {
    let (addr, (server, switch), sorry) = (free_addr(), sick(), answering("200 OK"));
    let instance = start(
        addr,
        &format!(
            "servers = [\"{}\"]\nfallback_pool = \"sorry\"\n{CHECK}\n[pool.sorry]\nservers = [\"{}\"]",
            server.addr(),
            sorry.addr()
        ),
    );
    instance.wait_for_log("server is down");
    (0..5).for_each(|_| assert_eq!(status(addr), 200));
    let begins = ["WARN", "no server is available: fallback_pool takes over", "pool=p", "by=sorry"];
    assert_eq!(lines(&instance, &begins), 1, "{}", instance.log());
    assert_eq!(sorry.requests().len(), 5);
    switch.store(false, Ordering::SeqCst);
    instance.wait_for_log("server is up");
    (0..3).for_each(|_| assert_eq!(status(addr), 204));
    assert_eq!(lines(&instance, &["INFO", "fallback_pool is not used any more", "pool=p"]), 1, "{}", instance.log());
    assert_eq!(lines(&instance, &["fallback_pool"]), 2);
}
