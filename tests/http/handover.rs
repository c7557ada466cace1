//! What a virtual router asks of the data path: to become quiet before an address leaves, and to leave nothing behind when
//! it does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bascule::proxy::{Done, PoolHealth};

use super::stage;
use crate::support::origin::{Answering, Origin, Refusing};
use crate::support::proxy::{Proxy, router};
use crate::support::wait_for;
use crate::support::wire::{End, PATIENCE, Peer, get, ok, reply};

/// The address of a virtual router; loopback has it as well as the other one.
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn wait(done: &mut Done) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, done.wait()).await.expect("done in time") });
}

fn is_done(done: &mut Done) -> bool {
    pin!(done.wait()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn open(proxy: &Proxy, count: usize) {
    wait_for("the connections", || (proxy.engine().connections() == count).then_some(()));
}

/// One request on an idle connection, and its answer.
fn exchange(client: &mut Peer) -> Option<String> {
    client.send(get("/"));
    let response = client.response();
    assert_eq!(response.status(), 200);
    response.field("connection").map(ToOwned::to_owned)
}

/// A connection that has stopped being HTTP.
fn tunnel(origin: &Origin, proxy: &Proxy) -> (Peer, Peer) {
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.head().status(), 101);
    (client, server)
}

fn close((client, mut server): (Peer, Peer)) {
    drop(client);
    server.expect_gone();
}

#[test]
fn while_quiet_answers_end_their_connections_and_idle_ones_are_closed() {
    let (origin, proxy) = stage("", "");
    let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
    idle.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(ok("1"));
    assert_eq!(idle.response().field("connection"), None);
    busy.send(get("/"));
    server.request();
    // Its request has not come yet: it gets its answer.
    let mut early = proxy.connect();
    open(&proxy, 3);

    let mut done = proxy.engine().quiet();
    idle.expect_end();
    let mut late = proxy.connect();
    for client in [&mut early, &mut late] {
        client.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(ok("2"));
        assert_eq!(client.response().field("connection"), Some("close"));
        client.expect_end();
    }
    let waiting = proxy.connect();
    open(&proxy, 2);
    assert!(!is_done(&mut done));
    server.send(ok("3"));
    assert_eq!(busy.response().field("connection"), Some("close"));
    busy.expect_end();
    // Not for the one that came later.
    wait(&mut done);
    drop(waiting);

    proxy.engine().resume();
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(get("/"));
        server = if origin.is_wanted() { origin.accept() } else { server };
        server.request();
        server.send(ok("4"));
        assert_eq!(client.response().field("connection"), None);
    }
}

#[test]
fn answers_of_our_own_end_their_connections_too_while_quiet() {
    let proxy =
        Proxy::start("[listener.l]\nbind = [\"127.0.0.1:80\"]\n[[listener.l.route]]\nrespond = { body = \"x\" }\n");
    let mut client = proxy.connect();
    assert_eq!(exchange(&mut client), None);
    let mut done = proxy.engine().quiet();
    wait(&mut done);
    client.expect_end();
    let mut client = proxy.connect();
    assert_eq!(exchange(&mut client).as_deref(), Some("close"));
    client.expect_end();
    proxy.engine().resume();
    let mut client = proxy.connect();
    assert_eq!(exchange(&mut client), None);
    assert_eq!(exchange(&mut client), None);
}

#[test]
fn tunnels_go_on_and_are_waited_for_also_from_before_an_earlier_quiet_time() {
    let (origin, proxy) = stage("", "");
    let mut first = tunnel(&origin, &proxy);
    let mut cancelled = proxy.engine().quiet();
    assert!(!is_done(&mut cancelled));
    first.0.send("ping");
    first.1.expect("ping");
    proxy.engine().resume();
    let second = tunnel(&origin, &proxy);
    // Once an idle connection is closed it is quiet indeed, and what comes then is new.
    let mut idle = proxy.connect();
    idle.send(get("/"));
    let (mut server, _) = origin.request();
    server.send(reply("200 OK", "Connection: close\r\n", "x"));
    idle.response();
    let mut done = proxy.engine().quiet();
    idle.expect_end();
    let third = tunnel(&origin, &proxy);
    close(second);
    open(&proxy, 2);
    assert!(!is_done(&mut done), "the first is left");
    first.1.send("pong");
    first.0.expect("pong");
    close(first);
    wait(&mut done);
    close(third);
}

#[test]
fn with_nothing_open_it_is_quiet_at_once_on_every_worker() {
    let proxy = Proxy::start(
        "[global]\nworkers = 3\n[listener.l]\nbind = [\"127.0.0.1:80\"]\n[[listener.l.route]]\nrespond = { body = \"x\" }\n",
    );
    wait(&mut proxy.engine().quiet());
    wait(&mut proxy.engine().abort(&[]));
}

#[test]
fn a_quiet_proxy_drains_as_any_other() {
    let (origin, mut proxy) = stage("", "");
    let session = tunnel(&origin, &proxy);
    let mut done = proxy.engine().quiet();
    // Drain ends also what has not asked for anything.
    let mut silent = proxy.connect();
    open(&proxy, 2);
    proxy.drain();
    silent.expect_end();
    close(session);
    wait(&mut done);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, proxy.engine().drained()).await.expect("drained") });
}

/// Listeners on the virtual address, on another one, and on all: by HTTP and by TCP, in front of one server.
fn listeners(origin: SocketAddr, workers: u32, pool: &str) -> Proxy {
    let listener = |(name, ip, port): (&str, &str, u16)| {
        format!(
            "[listener.{name}]\nbind = [\"{ip}:{port}\"]\npool = \"p\"\n\
             [listener.{name}-tcp]\nbind = [\"{ip}:1{port}\"]\nprotocol = \"tcp\"\npool = \"p\"\n"
        )
    };
    let listeners =
        [("virtual", "127.0.0.2", 80), ("other", "127.0.0.1", 81), ("any", "0.0.0.0", 82)].map(listener).concat();
    let config = format!("[global]\nworkers = {workers}\n{listeners}[pool.p]\nservers = [\"{origin}\"]\n{pool}\n");
    Proxy::start_with(&config, |c| c.routers.push(router(&["127.0.0.2"], &[])))
}

/// A connection to a listener by one of its addresses.
fn connect(proxy: &Proxy, listener: &str, ip: Ipv4Addr) -> Peer {
    Peer::connect(SocketAddr::new(ip.into(), proxy.addr_of(listener).port()))
}

fn abort(proxy: &Proxy) {
    wait(&mut proxy.engine().abort(&[IpAddr::from(VIRTUAL)]));
}

fn in_flight(proxy: &Proxy) -> u64 {
    proxy.engine().snapshot().pools[0].in_flight()
}

#[test]
fn an_address_that_leaves_takes_its_connections_along_and_no_other() {
    let origin = Origin::new();
    let proxy = listeners(origin.addr(), 1, "");
    let other = Ipv4Addr::LOCALHOST;
    let places = [("virtual", VIRTUAL), ("any", VIRTUAL), ("other", other), ("any", other)];
    // At each place: an idle connection, one that waits for its answer, one in the middle of it, and a TCP session.
    let mut all = places.map(|(name, ip)| {
        let mut idle = connect(&proxy, name, ip);
        idle.send(get("/"));
        let (mut server, _) = origin.request();
        server.send(ok("idle"));
        idle.response();
        let mut waiting = connect(&proxy, name, ip);
        waiting.send(get("/"));
        server.request();
        let mut halfway = connect(&proxy, name, ip);
        halfway.send(get("/"));
        let (mut second, _) = origin.request();
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        halfway.head();
        halfway.expect("half");
        let mut session = connect(&proxy, &format!("{name}-tcp"), ip);
        session.send("ping");
        let mut third = origin.accept();
        third.expect("ping");
        ([idle, waiting, halfway, session], [server, second, third])
    });
    assert_eq!((proxy.engine().connections(), in_flight(&proxy)), (16, 12));

    abort(&proxy);
    assert_eq!((proxy.engine().connections(), in_flight(&proxy)), (8, 6), "at once, not later");
    let [gone @ .., _, _] = &mut all;
    for (clients, servers) in gone {
        for client in clients {
            assert_eq!(client.rest(), (Vec::new(), End::Reset));
        }
        for server in servers {
            server.expect_gone();
        }
    }
    for ([mut idle, mut waiting, mut halfway, mut session], [mut server, mut second, mut third]) in
        all.into_iter().skip(2)
    {
        second.send("rest");
        halfway.expect("rest");
        server.send(ok("late"));
        assert_eq!(waiting.response().text(), "late");
        third.send("pong");
        session.expect("pong");
        idle.send(get("/"));
        // Over whichever of the two connections was idle last.
        drop((server, second));
        let (mut fresh, _) = wait_for("the request", || origin.is_wanted().then(|| origin.request()));
        fresh.send(ok("kept"));
        assert_eq!(idle.response().text(), "kept");
    }
}

#[test]
fn after_the_reset_the_address_is_served_as_before() {
    let origin = Answering::with(ok("x"));
    let proxy = listeners(origin.addr(), 2, "");
    for _ in 0..2 {
        let mut clients: Vec<_> = (0..20).map(|_| connect(&proxy, "any", VIRTUAL)).collect();
        for client in &mut clients {
            assert_eq!(exchange(client), None);
        }
        abort(&proxy);
        assert_eq!(proxy.engine().connections(), 0);
        for client in &mut clients {
            assert_eq!(client.rest(), (Vec::new(), End::Reset));
        }
    }
}

#[test]
fn a_reset_gives_back_the_place_in_the_queue() {
    let origin = Origin::new();
    let one = "max_conns = 1";
    let servers = format!("servers = [{{ address = \"{}\", {one} }}]", origin.addr());
    let proxy = Proxy::start_with(
        &format!(
            "[listener.any]\nbind = [\"0.0.0.0:80\"]\npool = \"p\"\n[pool.p]\n{servers}\nqueue = 1\nqueue_timeout = \"30s\"\n"
        ),
        |c| c.routers.push(router(&["127.0.0.2"], &[])),
    );
    let mut first = connect(&proxy, "any", Ipv4Addr::LOCALHOST);
    first.send(get("/1"));
    let (mut server, _) = origin.request();
    let mut queued = connect(&proxy, "any", VIRTUAL);
    queued.send(get("/2"));
    // The queue is full once it is there.
    wait_for("a full queue", || {
        let mut refused = connect(&proxy, "any", Ipv4Addr::LOCALHOST);
        refused.stream().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        refused.send(get("/3"));
        let mut byte = [0];
        matches!(std::io::Read::read(refused.stream(), &mut byte), Ok(1)).then_some(())
    });
    abort(&proxy);
    assert_eq!(queued.rest(), (Vec::new(), End::Reset));
    let mut next = connect(&proxy, "any", Ipv4Addr::LOCALHOST);
    next.send(get("/4"));
    server.send(ok("1"));
    first.response();
    assert_eq!(server.request().target(), "/4");
    server.send(ok("4"));
    assert_eq!(next.response().text(), "4");
}

#[test]
fn without_virtual_routers_no_connection_is_reset() {
    let (origin, proxy) = stage("", "");
    let mut session = tunnel(&origin, &proxy);
    wait(&mut proxy.engine().abort(&[Ipv4Addr::LOCALHOST.into()]));
    session.0.send("ping");
    session.1.expect("ping");
}

#[test]
fn only_tracked_pools_are_reported_and_a_single_server_that_refuses_is_not_up() {
    let (dead, alive) = (Refusing::new(), Answering::with(ok("x")));
    let config = format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\n\
         [[listener.l.route]]\npath = \"/dead\"\npool = \"dead\"\n[[listener.l.route]]\npool = \"mixed\"\n\
         [[listener.l.route]]\npath = \"/secret\"\npool = \"secret\"\n\
         [pool.dead]\nservers = [\"{0}\"]\n[pool.mixed]\nservers = [\"{0}\", \"{1}\"]\n[pool.secret]\nservers = [\"{1}\"]\n",
        dead.addr(),
        alive.addr()
    );
    let pool = |name: &str, up, total| PoolHealth { name: name.into(), up, total, judged: true };
    let proxy = Proxy::start_with(&config, |c| c.routers.push(router(&["127.0.0.2"], &["dead", "mixed"])));
    assert_eq!(proxy.engine().pools(), [pool("dead", 1, 1), pool("mixed", 2, 2)]);
    let mut client = proxy.connect();
    client.send(get("/dead"));
    assert_eq!(client.response().status(), 502);
    for _ in 0..2 {
        client.send(get("/"));
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(proxy.engine().pools(), [pool("dead", 0, 1), pool("mixed", 1, 2)]);
    assert!(Proxy::start(&config).engine().pools().is_empty());
}
