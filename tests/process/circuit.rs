//! The circuit breaker of the real binary: what it tells, and who keeps it.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::bascule;
use crate::support::origin::Answering;
use crate::support::wire::{Peer, get, reply};
use crate::support::{Instance, free_addr, wait_for};

/// bascule before a server that answers 500 until it is well.
struct Scene {
    addr: SocketAddr,
    instance: Instance,
    server: Answering,
    well: Arc<AtomicBool>,
}

impl Scene {
    fn start(open_time: &str) -> Self {
        let (addr, well) = (free_addr(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&well);
        let server = Answering::new(move |_| {
            let status = if seen.load(Ordering::SeqCst) { "200 OK" } else { "500 Internal Server Error" };
            reply(status, "", "").into()
        });
        let instance = Instance::start(&format!(
            "[global]\nworkers = 2\n[listener.web]\nbind = [\"{addr}\"]\npool = \"p\"\n[pool.p]\nservers = [\"{}\"]\n\
             [pool.p.circuit_breaker]\nerror_rate = \"50%\"\nmin_requests = 3\nopen_time = \"{open_time}\"\n\
             half_open_requests = 2\n",
            server.addr()
        ));
        Self { addr, instance, server, well }
    }

    fn ask(&self) -> u16 {
        let mut client = Peer::connect(self.addr);
        client.send(get("/"));
        client.response().status()
    }

    fn said(&self, args: &[&str]) -> String {
        let file = self.instance.config_file();
        let output = bascule(&[args, &["-c", &file]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn circuit(&self) -> Value {
        let status: Value = serde_json::from_str(&self.said(&["status", "--json"])).unwrap();
        status["pools"][0]["circuit"].clone()
    }

    fn lines(&self, text: &str) -> usize {
        self.instance.log().matches(text).count()
    }
}

#[test]
fn an_open_circuit_is_told_of_everywhere_and_goes_on_in_the_next_program() {
    let scene = Scene::start("1h");
    assert_eq!([0; 4].map(|_| scene.ask()), [500, 500, 500, 503]);
    assert_eq!(scene.lines("circuit is open"), 1, "{}", scene.instance.log());
    let text = scene.said(&["status"]);
    assert!(
        text.contains("\n  CIRCUIT OPEN for ") && text.contains(", opened once: nothing is sent to it\n"),
        "{text}"
    );
    let why = scene.said(&["explain", &format!("http://{}/", scene.addr)]);
    assert!(why.contains("503 circuit_open"), "{why}");
    // The supervisor is told once a second what a successor is to know.
    wait_for("the state to be handed on", || (scene.circuit()["for_seconds"].as_u64()? >= 2).then_some(()));
    let before = scene.instance.proxy_pid();
    scene.said(&["upgrade"]);
    scene.instance.next_proxy_pid(before);
    assert_eq!((scene.ask(), scene.server.requests().len()), (503, 3));
    assert_eq!((&scene.circuit()["state"], &scene.circuit()["opened"]), (&"open".into(), &1.into()));
}

#[test]
fn a_circuit_opens_and_half_opens_and_closes_with_a_line_of_the_log_each() {
    let scene = Scene::start("200ms");
    assert_eq!([0; 3].map(|_| scene.ask()), [500; 3]);
    scene.well.store(true, Ordering::SeqCst);
    wait_for("trials", || (scene.circuit()["state"] == "half_open").then_some(()));
    assert_eq!((scene.ask(), &scene.circuit()["state"]), (200, &"half_open".into()));
    assert_eq!((scene.ask(), &scene.circuit()["state"]), (200, &"closed".into()));
    let lines = ["circuit is open", "circuit is half open", "circuit is closed again"].map(|text| scene.lines(text));
    assert_eq!(lines, [1, 1, 1], "{}", scene.instance.log());
    let text = scene.said(&["status"]);
    assert!(text.contains("\n  circuit closed for ") && text.contains(", opened once\n"), "{text}");
}
