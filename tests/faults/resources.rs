//! The box runs out of something, or the proxy dies.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use super::http::{Client, OK, get, good_server, read_head};
use super::netns::Namespace;
use crate::fault_origin::{assert_reset, handing_server, limit_descriptors, restore_descriptors, without_root};
use crate::support::{PATIENCE, comm, connect, kill, wait_for};
use crate::{Keys, Proxy};

/// Checks that nothing is there to read, and that the connection is open.
fn assert_waits(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn without_descriptors_clients_wait_and_are_served_when_there_are_some() {
    if without_root() {
        return;
    }
    // Limits of a process can be changed by its own user only, unless one may do everything.
    let keys = Keys { global: "user = \"root\"", ..Keys::default() };
    let proxy = Proxy::start_with(&[good_server()], &keys);
    let pid = proxy.instance.proxy_pid();
    get(proxy.http);
    let since = Instant::now();
    limit_descriptors(pid, 20);
    let silent: Vec<_> = (0..60).map(|_| connect(proxy.http).unwrap()).collect();
    proxy.instance.wait_for_log("out of file descriptors");
    let mut waiting = Client::connect(proxy.http);
    waiting.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_waits(waiting.0.get_ref());
    // Those that hold the descriptors leave.
    drop(silent);
    assert_eq!(waiting.reply().unwrap().body, b"ok");
    // Again, and the operator raises the limit.
    let silent: Vec<_> = (0..60).map(|_| connect(proxy.http).unwrap()).collect();
    let mut waiting = Client::connect(proxy.http);
    waiting.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_waits(waiting.0.get_ref());
    restore_descriptors(pid);
    assert_eq!(waiting.reply().unwrap().body, b"ok");
    drop(silent);
    let seconds = usize::try_from(since.elapsed().as_secs()).unwrap();
    let said = proxy.instance.log().matches("out of file descriptors").count();
    // Two listeners may say so, once a second each.
    assert!(said <= 2 * (seconds + 1), "{said} times in {seconds} s");
}

#[test]
fn a_request_for_which_no_port_is_left_is_told_apart_from_a_failed_server() {
    if without_root() {
        return;
    }
    Namespace::new().run(|| {
        let (addr, accepted) = handing_server();
        let pool = "max_fails = 1\nfail_timeout = \"600s\"\nfail_open = false";
        let proxy = Proxy::start(&[addr], pool);
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
        let mut held: Vec<_> = (1..=4)
            .map(|n| {
                let mut client = Client::new(connect_from(n, proxy.http));
                client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                let mut server = BufReader::new(accepted.next());
                read_head(&mut server).unwrap().expect("a request");
                (client, server)
            })
            .collect();
        let mut refused = Client::new(connect_from(5, proxy.http));
        assert_eq!(refused.get().unwrap().status, 502);
        assert_eq!(proxy.reason(1), "ports_exhausted");
        assert_reset(&connect_from(6, proxy.tcp));
        assert_eq!(proxy.reason(2), "ports_exhausted");
        // The server is not blamed: as soon as one of its connections is free again, it is used.
        let (mut client, mut server) = held.remove(0);
        server.get_mut().write_all(OK).unwrap();
        assert_eq!(client.reply().unwrap().body, b"ok");
        refused.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        read_head(&mut server).unwrap().expect("a request");
        server.get_mut().write_all(OK).unwrap();
        assert_eq!(refused.reply().unwrap().body, b"ok");
    });
}

#[test]
fn each_of_source_addresses_has_all_the_ports() {
    if without_root() {
        return;
    }
    Namespace::new().run(|| {
        let (addr, accepted) = handing_server();
        let proxy = Proxy::start(&[addr], "source_addresses = [\"127.0.0.2\", \"127.0.0.3\"]");
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
        let mut sources = Vec::new();
        let held: Vec<_> = (1..=8)
            .map(|n| {
                let mut client = Client::new(connect_from(n, proxy.http));
                client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                let server = accepted.next();
                sources.push(server.peer_addr().unwrap().ip().to_string());
                (client, server)
            })
            .collect();
        sources.sort();
        assert_eq!(sources, [["127.0.0.2"; 4], ["127.0.0.3"; 4]].concat());
        assert_eq!(Client::new(connect_from(9, proxy.http)).get().unwrap().status, 502);
        assert_eq!(proxy.reason(1), "ports_exhausted");
        drop(held);
    });
}

/// A connection from a port outside every range: one bound to a port of the range would take it from everybody.
fn connect_from(port: u16, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + port)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

#[test]
fn a_full_disk_holds_up_no_request() {
    let keys = Keys { log: Some("/dev/full"), ..Keys::default() };
    let proxy = Proxy::start_with(&[good_server()], &keys);
    let requests = |count| {
        let mut client = Client::connect(proxy.http);
        for _ in 0..count {
            assert_eq!(client.get().unwrap().body, b"ok");
        }
    };
    requests(200);
    proxy.instance.wait_for_log("access log lines are dropped");
    for _ in 0..10 {
        requests(500);
    }
    let said = proxy.instance.log().matches("access log lines are dropped").count();
    assert_eq!(said, 1, "{}", proxy.instance.log());
}

/// What became of a request while the proxy was killed.
#[derive(Debug)]
struct Outcome {
    /// When its connection was begun.
    begun: Instant,
    /// When its answer came, or why none did.
    answered: std::io::Result<Instant>,
}

#[test]
fn a_killed_proxy_under_load_refuses_nobody_and_serves_all_that_come_later() {
    let proxy = Proxy::start(&[good_server()], "");
    let addr = proxy.http;
    get(addr);
    let pid = proxy.instance.proxy_pid();
    let over = AtomicBool::new(false);
    let outcomes = Mutex::new(Vec::new());
    let (killed, gone) = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let stream = connect(addr).expect("a connection, whatever happens to the proxy");
                    let answered = Client::new(stream).get().map(|reply| {
                        assert_eq!(reply.body, b"ok");
                        Instant::now()
                    });
                    outcomes.lock().unwrap().push(Outcome { begun, answered });
                }
            });
        }
        let served = |n: usize| {
            let before = outcomes.lock().unwrap().len();
            wait_for("requests", || (outcomes.lock().unwrap().len() > before + n).then_some(()));
        };
        served(500);
        let killed = Instant::now();
        kill(pid, Signal::KILL).unwrap();
        wait_for("its end", || comm(pid).is_none().then_some(()));
        // Said once it is reaped, all its threads included.
        proxy.instance.wait_for_log("proxy lost");
        let gone = Instant::now();
        proxy.instance.next_proxy_pid(pid);
        served(500);
        over.store(true, Ordering::Relaxed);
        (killed, gone)
    });
    let outcomes = outcomes.into_inner().unwrap();
    let lost: Vec<_> = outcomes.iter().filter(|o| o.answered.is_err()).collect();
    assert!(lost.iter().all(|o| o.begun < gone), "{lost:?}");
    // One of each client at most was in its hands.
    assert!(lost.len() <= 8, "{lost:?}");
    let back = outcomes.iter().filter(|o| o.begun > killed).filter_map(|o| o.answered.as_ref().ok()).min();
    println!("{} of {} requests lost, served again after {:?}", lost.len(), outcomes.len(), *back.unwrap() - killed);
}
