use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::config;
use crate::net::memory::{Memory, pair};
use crate::net::transport::Closed;
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
    let snapshot = Snapshot::build(Arc::clone(&config), &Addresses::new(), &sinks, None);
    let shared = Shared {
        generation: AtomicU64::new(snapshot.generation),
        snapshot: ArcSwap::from_pointee(snapshot),
        draining: AtomicBool::new(false),
        connections: AtomicUsize::new(0),
        accepting: AtomicUsize::new(0),
        accepted: AtomicU64::new(0),
        hostname: String::new(),
        node: Arc::from("node"),
        none_left: Notify::new(),
    };
    let listener = &config.listeners[0];
    let ctx = ListenerCtx {
        name: Arc::clone(&listener.name),
        index: 0,
        address: listener.bind[0],
        http: listener.http.clone(),
        tcp: None,
        max_connections: None,
        counters: Arc::default(),
        max_total: 10,
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
