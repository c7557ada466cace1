//! Servers that are sick: ejected, or killed while there is load.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::origin::{Answering, Origin, Refusing};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{get, ok};

fn pool(servers: &[SocketAddr], keys: &str) -> Proxy {
    let servers: Vec<_> = servers.iter().map(|addr| format!("\"{addr}\"")).collect();
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [{}]\n{keys}\n",
        servers.join(", ")
    ))
}

fn status(proxy: &Proxy) -> u16 {
    let mut client = proxy.connect();
    client.send(get("/"));
    client.response().status()
}

/// What status says of the servers, and how often each was ejected.
fn states(proxy: &Proxy) -> Vec<(&'static str, u64)> {
    let status = proxy.engine().status(|_| 0);
    status.pools[0].servers.iter().map(|server| (server.state, server.ejections)).collect()
}

#[test]
fn a_server_that_answers_500_in_a_row_is_ejected_though_nothing_is_retried() {
    let broken = Answering::with("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    let well = Answering::with(ok("well"));
    let proxy = pool(
        &[broken.addr(), well.addr()],
        "ejection = { consecutive_5xx = 3, ejection_time = \"1h\", max_ejection_time = \"2h\" }",
    );
    let statuses: Vec<_> = (0..12).map(|_| status(&proxy)).collect();
    let bad = statuses.iter().filter(|&&status| status == 500).count();
    assert_eq!((bad, broken.requests().len()), (3, 3), "{statuses:?}");
    assert_eq!(states(&proxy), [("ejected", 1), ("up", 0)]);
}

#[test]
fn without_ejection_a_500_is_the_clients_business() {
    let broken = Answering::with("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    let well = Answering::with(ok("well"));
    let proxy = pool(&[broken.addr(), well.addr()], "");
    let bad = (0..12).filter(|_| status(&proxy) == 500).count();
    assert!(bad > 3, "{bad}");
    assert_eq!(states(&proxy), [("up", 0), ("up", 0)]);
}

/// A server that can be killed: its connections and its port close at once, whatever runs on them.
struct Mortal {
    addr: SocketAddr,
    served: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: thread::JoinHandle<()>,
}

impl Mortal {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (served, dead, open) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let shared = (Arc::clone(&served), Arc::clone(&dead), Arc::clone(&open));
        let acceptor = thread::spawn(move || {
            let (served, dead, open): (_, _, Arc<Mutex<Vec<TcpStream>>>) = shared;
            while let Ok((stream, _)) = listener.accept() {
                // Under the lock, so that no connection is opened behind the back of who kills.
                let mut open = open.lock().unwrap();
                if dead.load(Ordering::SeqCst) {
                    return;
                }
                open.push(stream.try_clone().unwrap());
                let served = Arc::clone(&served);
                thread::spawn(move || serve(stream, &served));
            }
        });
        Self { addr, served, dead, open, acceptor }
    }

    fn kill(self) {
        let open = self.open.lock().unwrap();
        self.dead.store(true, Ordering::SeqCst);
        open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(open);
        // The listener closes when its thread sees the next connection.
        drop(TcpStream::connect(self.addr));
        self.acceptor.join().unwrap();
    }
}

fn serve(mut stream: TcpStream, served: &AtomicUsize) {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
            _ => return,
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmortal").is_err() {
                return;
            }
            served.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_server_killed_under_load_fails_no_idempotent_request() {
    const CLIENTS: usize = 8;
    let mortal = Mortal::new();
    let others = [Answering::with(ok("one")), Answering::with(ok("two"))];
    let proxy = pool(
        &[mortal.addr, others[0].addr(), others[1].addr()],
        // All clients may be on the server that dies.
        &format!("retries = 2\nretry_budget = {{ min = {CLIENTS} }}"),
    );
    let killed = AtomicBool::new(false);
    let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Vec<u16> = thread::scope(|scope| {
        let client = || {
            let mut failed = Vec::new();
            let mut client = proxy.connect();
            let mut left = 100;
            while left > 0 {
                let was_killed = killed.load(Ordering::SeqCst);
                client.send(get("/"));
                let status = client.response().status();
                if status != 200 {
                    failed.push(status);
                    client = proxy.connect();
                }
                let count = if was_killed { &after } else { &before };
                count.fetch_add(1, Ordering::SeqCst);
                left -= usize::from(was_killed);
            }
            failed
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        wait_for("load on the server", || (mortal.served.load(Ordering::SeqCst) > 200).then_some(()));
        mortal.kill();
        killed.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(failed, [0; 0], "after {before:?} requests before the kill and {after:?} behind it");
    assert_eq!(states(&proxy)[0].0, "failed", "the death was noticed under load");
}

/// Two pools with fallbacks, the last one well.
fn chain(first: &[SocketAddr], second: SocketAddr, last: SocketAddr, keys: &str) -> Proxy {
    let servers: Vec<_> = first.iter().map(|addr| format!("\"{addr}\"")).collect();
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"a\"\n\
         [pool.a]\nservers = [{}]\nfallback_pool = \"b\"\n{keys}\n\
         [pool.b]\nservers = [{{ address = \"{second}\", down = true }}]\nfallback_pool = \"c\"\n\
         [pool.c]\nservers = [\"{last}\"]\n",
        servers.join(", ")
    ))
}

fn body(proxy: &Proxy) -> String {
    let mut client = proxy.connect();
    client.send(get("/"));
    let response = client.response();
    String::from_utf8_lossy(&response.body).into_owned()
}

#[test]
fn a_pool_without_an_available_server_leaves_its_requests_to_its_fallback_and_takes_them_back() {
    let (dead, unused, sorry) = (Refusing::new(), Answering::with(ok("b")), Answering::with(ok("sorry")));
    let proxy = chain(&[dead.addr()], unused.addr(), sorry.addr(), "fail_timeout = \"1s\"");
    let fallbacks = || {
        let pools = proxy.engine().status(|_| 0).pools;
        pools.into_iter().map(|pool| pool.fallback.map(|name| name.to_string())).collect::<Vec<_>>()
    };
    let to_c = Some("c".to_owned());
    assert_eq!(fallbacks(), [None, to_c.clone(), None]);
    // The only server of a pool with a fallback can fail; the request that sees it fail is answered as ever.
    assert_eq!(status(&proxy), 502);
    assert_eq!(fallbacks(), [to_c.clone(), to_c, None]);
    assert_eq!(body(&proxy), "sorry");
    assert!(unused.requests().is_empty(), "a server that the file takes out is not available");
    let origin = dead.relent();
    let answers = thread::spawn(move || {
        let (mut server, _) = origin.request();
        server.send(ok("first"));
        server
    });
    wait_for("the trial of the first pool", || (body(&proxy) == "first").then_some(()));
    let _server = answers.join().unwrap();
    assert_eq!(fallbacks()[0], None);
}

#[test]
fn servers_that_are_full_are_available_and_the_fallback_is_not_asked() {
    let (origin, unused, sorry) = (Origin::new(), Answering::with(ok("b")), Answering::with(ok("sorry")));
    let proxy = chain(&[origin.addr()], unused.addr(), sorry.addr(), "max_conns = 1");
    let mut first = proxy.connect();
    first.send(get("/"));
    let (mut server, _) = origin.request();
    assert_eq!(status(&proxy), 502);
    server.send(ok("first"));
    assert_eq!(first.response().status(), 200);
    assert!(sorry.requests().is_empty());
}
