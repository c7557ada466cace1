//! Sticky sessions and shared routes as an operator meets them: two boxes, commands, reloads.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::Signal;

use crate::support::origin::Answering;
use crate::support::{Instance, bascule, connect, free_addr, kill, wait_for};

fn named(name: &'static str) -> SocketAddr {
    let answer = move |_: &_| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()).into_bytes();
    Answering::new(answer).addr()
}

/// What a request with these fields gets: the server's name, and the cookie that is set, as a field.
fn ask(addr: SocketAddr, fields: &str) -> (String, Option<String>) {
    let mut stream = connect(addr).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: a.example\r\n{fields}Connection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let set = response.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
    let cookie = set.map(|set| format!("Cookie: {}\r\n", set.split(';').next().unwrap()));
    (response.rsplit("\r\n").next().unwrap().to_owned(), cookie)
}

/// A box with a sticky pool of these servers, both with one secret.
fn sticky(addr: SocketAddr, servers: &[(&str, SocketAddr)], more: &str) -> String {
    let servers: Vec<_> =
        servers.iter().map(|(name, at)| format!("{{ name = \"{name}\", address = \"{at}\" }}")).collect();
    format!(
        "[global]\nworkers = 2\n[listener.web]\nbind = [\"{addr}\"]\npool = \"p\"\n[pool.p]\nservers = [{}]\n{more}\n\
         [pool.p.sticky]\ntype = \"cookie\"\nsecret = \"the secret of both boxes\"\n",
        servers.join(", ")
    )
}

/// A server called red that is gone with its value; each answer ends its connection.
struct Mortal {
    addr: SocketAddr,
    dead: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Mortal {
    fn at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let dead = Arc::<AtomicBool>::default();
        let is_dead = Arc::clone(&dead);
        let acceptor = thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if is_dead.load(Ordering::SeqCst) {
                    return;
                }
                // A probe says nothing.
                if stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nred");
                }
            }
        });
        Self { addr, dead, acceptor: Some(acceptor) }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.dead.store(true, Ordering::SeqCst);
        drop(connect(self.addr));
        let ended = self.acceptor.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn explain(instance: &Instance, args: &[&str]) -> String {
    instance.done(&[&["explain"], args].concat())
}

#[test]
fn a_client_keeps_its_server_on_both_boxes_through_a_new_proxy_drain_and_maintenance() {
    let servers = [("red", named("red")), ("green", named("green"))];
    let (one, two) = (free_addr(), free_addr());
    let (first, second) = (Instance::start(&sticky(one, &servers, "")), Instance::start(&sticky(two, &servers, "")));
    let (server, cookie) = ask(one, "");
    let cookie = cookie.unwrap();
    let other = if server == "red" { "green" } else { "red" };
    for addr in [one, two, one, two] {
        assert_eq!(ask(addr, &cookie), (server.clone(), None));
    }
    let proxy = first.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    first.next_proxy_pid(proxy);
    assert_eq!(ask(one, &cookie), (server.clone(), None));

    let name = format!("p/{server}");
    first.done(&["server", "drain", &name]);
    assert_eq!(ask(one, &cookie), (server.clone(), None), "its own clients go on");
    assert_eq!((0..6).filter(|_| ask(one, "").0 == server).count(), 0, "and nobody comes");
    let value = cookie.trim_end().to_owned();
    let url = format!("http://{one}/");
    let told = explain(&first, &[&url, "-H", &value]);
    assert!(told.contains(&format!("sticky    cookie BASCULE names {server}\n")), "{told}");
    assert!(told.contains("the one that the client was on"), "{told}");
    let told = explain(&first, &[&url, "-H", "Cookie: BASCULE=forged"]);
    assert!(told.contains("cookie BASCULE names no server of the pool, and is set anew"), "{told}");
    assert!(explain(&first, &[&url]).contains("no cookie BASCULE, which is set"));

    first.done(&["server", "maintenance", &name]);
    let (now, moved) = ask(one, &cookie);
    assert_eq!(now, other);
    let moved = moved.unwrap();
    first.done(&["server", "ready", &name]);
    assert_eq!(ask(one, &moved), (other.to_owned(), None), "who has moved stays");
    assert_eq!(ask(two, &moved), (other.to_owned(), None));
    let pool = &first.status()["pools"][0];
    assert_eq!((&pool["sticky"], &pool["sticky_missed"]), (&"cookie".into(), &1.into()), "{pool:#}");
    assert!(pool["sticky_followed"].as_u64().unwrap() >= 3, "{pool:#}");
    assert!(first.done(&["status"]).contains("\n  sticky by cookie: "));
    let effective = bascule(&["check", "--effective", "-c", &second.config_file()]);
    let effective = String::from_utf8(effective.stdout).unwrap();
    assert!(effective.contains("***") && !effective.contains("both boxes"), "{effective}");
    assert!(effective.contains("type = \"cookie\""), "{effective}");
}

#[test]
fn a_server_that_is_killed_and_back_loses_its_clients_once() {
    let check = "health_check = { interval = \"50ms\", rise = 1, fall = 1 }";
    let origin = Answering::with(*b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ngreen");
    let (addr, port) = (free_addr(), free_addr());
    let red = Mortal::at(port);
    let instance = Instance::start(&sticky(addr, &[("red", port), ("green", origin.addr())], check));
    let state = |wanted: &str| {
        wait_for(wanted, || (instance.status()["pools"][0]["servers"][0]["state"] == wanted).then_some(()));
    };
    state("up");
    let own = wait_for("a client of red", || Some(ask(addr, "")).filter(|(server, _)| server == "red")).1.unwrap();
    drop(red);
    state("down");
    let (server, cookie) = ask(addr, &own);
    assert_eq!(server, "green");
    let cookie = cookie.unwrap();
    let _red = Mortal::at(port);
    state("up");
    assert_eq!(ask(addr, &cookie), ("green".to_owned(), None));
    assert_eq!(ask(addr, &own), ("red".to_owned(), None), "one that did not ask meanwhile has lost nothing");
}

#[test]
fn weights_of_a_shared_route_change_by_a_reload_which_says_so() {
    let addr = free_addr();
    let (stable, canary) = (named("stable"), named("canary"));
    let config = |weights: (u32, u32)| {
        format!(
            "[global]\nworkers = 2\n[listener.web]\nbind = [\"{addr}\"]\n[[listener.web.route]]\nname = \"all\"\n\
             split_key = \"$http_x_user\"\npools = [{{ pool = \"stable\", weight = {} }}, \
             {{ pool = \"canary\", weight = {}, cookies = {{ canary = true }} }}]\n\
             [pool.stable]\nservers = [\"{stable}\"]\n[pool.canary]\nservers = [\"{canary}\"]\n",
            weights.0, weights.1
        )
    };
    let instance = Instance::start(&config((95, 5)));
    let users = || (0..100).map(|user| ask(addr, &format!("X-User: {user}\r\n")).0 == "canary").collect::<Vec<_>>();
    let few = users();
    let said = instance.apply(&config((60, 40)));
    assert!(said.contains("~ site.web.route[\"all\"].pools[\"canary\"].weight: 5 -> 40\n"), "{said}");
    let more = users();
    assert!(few.iter().zip(&more).all(|(was, is)| *is || !was), "who was on the canary stays on it");
    assert!(more.iter().filter(|is| **is).count() > few.iter().filter(|was| **was).count());
    let url = format!("http://{addr}/");
    let user = more.iter().position(|is| *is).unwrap();
    let told = explain(&instance, &[&url, "-H", &format!("X-User: {user}")]);
    let shares = "split     stable 60 of 100, canary by condition and 40 of 100; here canary, ";
    assert!(told.contains(&format!("{shares}by the hash of {user}\n")), "{told}");
    assert!(told.contains("action    pool canary"), "{told}");
    let told = explain(&instance, &[&url, "-H", "Cookie: canary=1"]);
    assert!(told.contains(&format!("{shares}it meets the conditions\n")), "{told}");
}
