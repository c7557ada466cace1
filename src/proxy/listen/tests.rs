use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::*;
use crate::config;
use crate::net::memory::{Memory, pair};
use crate::net::transport::Closed;
use crate::proxy::abort::{Order, abort_loop};
use crate::proxy::clients::Done;
use crate::snapshot::{Addresses, Snapshot};
use crate::telemetry::access_log::Sinks;

const CONFIG: &str = r#"
    [global]
    run_dir = "/run/bascule"
    [listener.l]
    bind = ["127.0.0.1:80"]
    [[site.s.route]]
    respond = { body = "fine" }
"#;

/// A worker on [`CONFIG`] and what its connections share.
fn worker() -> (Rc<Worker>, Rc<ListenerCtx>) {
    let config = Arc::new(config::parse_effective(CONFIG, "node").expect("a valid configuration"));
    let sinks = Sinks::start().expect("a log writer");
    let snapshot = Snapshot::build(Arc::clone(&config), Arc::default(), &Addresses::new(), &sinks, None);
    let shared = Shared {
        generation: AtomicU64::new(snapshot.generation),
        snapshot: ArcSwap::from_pointee(snapshot),
        draining: AtomicBool::new(false),
        oldest: AtomicU64::new(0),
        retired: AtomicBool::new(false),
        connections: AtomicUsize::new(0),
        accepting: AtomicUsize::new(0),
        accepted: AtomicU64::new(0),
        hostname: String::new(),
        node: Arc::from("node"),
        none_left: Notify::new(),
        errors: crate::proxy::errors::Recent::default(),
    };
    let listener = &config.listeners[0];
    let ctx = ListenerCtx {
        name: Arc::clone(&listener.name),
        place: Place::at(0),
        address: listener.bind[0],
        http: listener.http.clone(),
        access: None,
        expected: None,
        handshake_timeout: None,
        tcp: None,
        max_connections: None,
        counters: Arc::default(),
        max_total: 10,
        tracked: false,
    };
    (Worker::new(Arc::new(shared), sinks.buffer(), 1), Rc::new(ctx))
}

/// A client whose bytes cannot be read without a panic.
struct Poisonous(Memory);

impl Transport for Poisonous {
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0.poll_recv(cx, buf) {
            Poll::Ready(read) => panic!("injected, on {read:?}"),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, bufs)
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.0.poll_closed(cx)
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_broken(cx)
    }

    fn shutdown(&self) -> io::Result<()> {
        self.0.shutdown()
    }

    fn set_abort(&self) {
        self.0.set_abort();
    }

    fn plain(&self) -> Option<&Sock> {
        None
    }
}

#[test]
fn a_panic_ends_its_connection_and_no_other() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let (worker, ctx) = worker();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let open = || Open::new(&worker.shared, &ctx).expect("room");
        let (good, near) = pair(1 << 16);
        spawn_http(Conn::new(near, Rc::clone(&worker), Rc::clone(&ctx), peer, 1), open());
        let (bad, near) = pair(1 << 16);
        spawn_http(Conn::new(Poisonous(near), Rc::clone(&worker), Rc::clone(&ctx), peer, 2), open());
        tokio::task::yield_now().await;
        assert_eq!(ctx.counters.open.load(Ordering::Relaxed), 2);

        bad.give(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        while ctx.counters.open.load(Ordering::Relaxed) == 2 {
            tokio::task::yield_now().await;
        }
        assert!(bad.received().is_empty());
        for _ in 0..2 {
            good.give(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            tokio::task::yield_now().await;
            let answer = String::from_utf8(good.received()).expect("text");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("fine"), "{answer}");
        }
        assert_eq!(worker.shared.connections.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn what_waits_to_be_accepted_is_reset_with_its_address_and_the_rest_is_served() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let (worker, ctx) = worker();
        let ctx = ListenerCtx { address: "0.0.0.0:0".parse().unwrap(), tracked: true, ..Rc::into_inner(ctx).unwrap() };
        let listener = TcpListener::bind(ctx.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        // No accept loop: everything stays in the queue.
        worker.shards.borrow_mut().push(Shard::new(1, listener.into(), Rc::new(ctx)));
        let mut clients =
            [1, 2, 2, 1].map(|last| TcpStream::connect(((Ipv4Addr::from([127, 0, 0, last])), port)).unwrap());
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        }
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::task::spawn_local(abort_loop(Rc::clone(&worker), inbox));
        let (mut done, part) = Done::new();
        orders.send(Order { addresses: vec![Ipv4Addr::new(127, 0, 0, 2).into()], done: part }).unwrap();
        done.wait().await;
        for client in &mut clients[1..3] {
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        while worker.shared.connections.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        for client in clients.iter_mut().step_by(3) {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    });
}
