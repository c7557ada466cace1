//! Circuit breakers of pools.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bascule::proxy::CircuitStatus;

use crate::support::origin::{Answering, Origin, Refusing, Silent};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{Message, Peer, get, ok, reply};

const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";

/// A pool with a circuit breaker, and more.
fn text(server: SocketAddr, breaker: &str, more: &str) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{server}\"]\ncircuit_breaker = {{ {breaker} }}\n{more}\n"
    )
}

fn circuit(proxy: &Proxy) -> CircuitStatus {
    proxy.engine().status(|_| 0).pools[0].circuit.clone().expect("a circuit breaker")
}

fn wait_for_state(proxy: &Proxy, state: &str) {
    wait_for(state, || (circuit(proxy).state == state).then_some(()));
}

fn ask(proxy: &Proxy) -> Message {
    let mut client = proxy.connect();
    client.send(get("/"));
    client.response()
}

/// A server that answers 500 until it is told to be well.
fn moody() -> (Answering, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&well);
    let server = Answering::new(move |_| if seen.load(Ordering::SeqCst) { ok("well").into() } else { BROKEN.into() });
    (server, well)
}

#[test]
fn an_open_circuit_refuses_at_once_and_says_when_to_ask_again() {
    let (server, _) = moody();
    let mut proxy = Proxy::start(&text(
        server.addr(),
        "error_rate = \"50%\", min_requests = 3, open_time = \"1h\"",
        "error_pages = { \"503\" = \"later\" }",
    ));
    assert_eq!(circuit(&proxy).state, "closed");
    for _ in 0..3 {
        assert_eq!(ask(&proxy).status(), 500);
    }
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(get("/"));
        let refused = client.response();
        let seconds: u64 = refused.field("retry-after").expect("a time").parse().unwrap();
        assert!((3000..=3600).contains(&seconds), "{seconds}");
        assert_eq!((refused.status(), refused.text()), (503, "later"));
    }
    proxy.wait_for_log("503 reason=circuit_open tries=");
    let circuit = circuit(&proxy);
    assert_eq!((server.requests().len(), circuit.state, circuit.opened), (3, "open", 1));
}

#[test]
fn good_trials_close_a_circuit_and_one_that_is_not_opens_it_again() {
    let (server, well) = moody();
    let breaker = "error_rate = \"50%\", min_requests = 3, open_time = \"100ms\", half_open_requests = 2";
    let proxy = Proxy::start(&text(server.addr(), breaker, ""));
    for _ in 0..3 {
        assert_eq!(ask(&proxy).status(), 500);
    }
    wait_for_state(&proxy, "half_open");
    assert_eq!(ask(&proxy).status(), 500, "a trial");
    assert_eq!(circuit(&proxy).opened, 2);
    well.store(true, Ordering::SeqCst);
    wait_for_state(&proxy, "half_open");
    for state in ["half_open", "closed", "closed"] {
        let response = ask(&proxy);
        assert_eq!((response.status(), response.field("retry-after")), (200, None));
        assert_eq!(circuit(&proxy).state, state);
    }
}

#[test]
fn half_open_only_so_many_requests_reach_the_servers_and_one_that_leaves_makes_room() {
    let origin = Origin::new();
    let breaker = "error_rate = \"1%\", min_requests = 1, open_time = \"50ms\", half_open_requests = 1";
    let proxy = Proxy::start(&text(origin.addr(), breaker, ""));
    let begin = || {
        let mut client = proxy.connect();
        client.send(get("/"));
        client
    };
    let mut first = begin();
    origin.request().0.send(reply("503 Service Unavailable", "Connection: close\r\n", ""));
    assert_eq!(first.response().status(), 503);
    wait_for_state(&proxy, "half_open");
    let trial = begin();
    let (_server, _) = origin.request();
    for _ in 0..3 {
        assert_eq!(ask(&proxy).field("retry-after"), Some("1"));
    }
    assert!(!origin.is_wanted());
    trial.reset();
    // Its end is noticed after a moment.
    let (mut trial, mut server) = wait_for("room for another trial", || {
        let mut client = begin();
        client.stream().set_nonblocking(true).unwrap();
        let reached = wait_for("the server or a refusal", || {
            let is_refused = client.stream().peek(&mut [0]).is_ok();
            (is_refused || origin.is_wanted()).then_some(!is_refused)
        });
        client.stream().set_nonblocking(false).unwrap();
        reached.then(|| (client, origin.request().0))
    });
    server.send(ok("well"));
    assert_eq!(trial.response().text(), "well");
    assert_eq!(circuit(&proxy).state, "closed");
}

#[test]
fn the_fallback_pool_takes_over_while_the_circuit_is_open_and_a_reload_does_not_close_it() {
    let (server, well) = moody();
    let sorry = Answering::with(ok("sorry"));
    let config = |open_time: &str| {
        let breaker = format!("error_rate = \"100%\", min_requests = 2, open_time = \"{open_time}\"");
        let more = format!("fallback_pool = \"sorry\"\n[pool.sorry]\nservers = [\"{}\"]", sorry.addr());
        text(server.addr(), &breaker, &more)
    };
    let mut proxy = Proxy::start(&config("1h"));
    for _ in 0..2 {
        assert_eq!(ask(&proxy).status(), 500);
    }
    assert_eq!(ask(&proxy).text(), "sorry");
    let fallback = proxy.engine().status(|_| 0).pools[0].fallback.clone();
    assert_eq!(fallback.as_deref(), Some("sorry"));
    well.store(true, Ordering::SeqCst);
    proxy.reload(&config("2h"));
    assert_eq!(ask(&proxy).text(), "sorry");
    assert_eq!((circuit(&proxy).state, circuit(&proxy).opened), ("open", 1));
}

#[test]
fn requests_beyond_max_requests_overflow_and_those_within_do_not() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&text(origin.addr(), "max_requests = 1", ""));
    let mut first = proxy.connect();
    first.send(get("/"));
    let (mut server, _) = origin.request();
    let refused = ask(&proxy);
    assert_eq!((refused.status(), refused.field("retry-after")), (503, None));
    proxy.wait_for_log("503 reason=overflow");
    server.send(ok("first"));
    assert_eq!(first.response().text(), "first");
    first.send(get("/again"));
    server.request();
    server.send(ok("again"));
    assert_eq!(first.response().text(), "again");
    assert_eq!(circuit(&proxy).overflows.requests, 1);
}

#[test]
fn a_tunnel_is_a_connection_and_no_request() {
    let origin = Origin::new();
    let proxy = Proxy::start(&text(origin.addr(), "max_requests = 1, max_connections = 2", ""));
    let mut tunnel = proxy.connect();
    tunnel.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().status(), 101);
    let mut second = proxy.connect();
    second.send(get("/"));
    let (mut other, _) = origin.request();
    assert_eq!(ask(&proxy).status(), 503);
    assert_eq!(circuit(&proxy).overflows.connections, 1);
    other.send(ok("second"));
    assert_eq!(second.response().text(), "second");
}

#[test]
fn what_waits_for_a_connection_is_bounded() {
    let silent = Silent::new();
    let mut proxy = Proxy::start(&text(silent.addr(), "max_pending = 2", "connect_timeout = \"1h\""));
    let _waiting: Vec<Peer> = (0..2)
        .map(|_| {
            let mut client = proxy.connect();
            client.send(get("/"));
            client
        })
        .collect();
    wait_for("two that wait", || (proxy.engine().status(|_| 0).pools[0].in_flight == 2).then_some(()));
    assert_eq!(ask(&proxy).status(), 503);
    proxy.wait_for_log("503 reason=overflow");
    assert_eq!(circuit(&proxy).overflows.pending, 1);
}

#[test]
fn connects_that_fail_open_the_circuit_of_tcp_sessions() {
    let refusing = Refusing::new();
    let breaker = "error_rate = \"100%\", min_requests = 2, open_time = \"1h\"";
    let config =
        text(refusing.addr(), breaker, "retries = 0").replace("pool = \"p\"\n", "pool = \"p\"\nprotocol = \"tcp\"\n");
    let mut proxy = Proxy::start(&config);
    for reason in ["connect_refused", "connect_refused", "circuit_open"] {
        // The reset may come before the client knows that it is connected.
        let _client = TcpStream::connect(proxy.addr());
        proxy.wait_for_log(&format!("reason={reason}"));
    }
    assert_eq!(circuit(&proxy).state, "open");
}
