//! Routes that want servers of a role: HTTP servers of which checks know who is the primary.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::bascule;
use crate::support::origin::{Answering, Origin};
use crate::support::wire::{Message, Peer, get, ok, post};
use crate::support::{Instance, free_addr, wait_for};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What the checks are told of the servers on two addresses, on one port: they speak as Redis does.
struct Cluster {
    port: u16,
    is_primary: [Arc<AtomicBool>; 2],
}

impl Cluster {
    /// The first is the primary.
    fn start() -> Self {
        let (first, second) = wait_for("a port that is free on both", || {
            let first = TcpListener::bind((A, 0)).ok()?;
            let second = TcpListener::bind((B, first.local_addr().ok()?.port())).ok()?;
            Some((first, second))
        });
        let port = first.local_addr().unwrap().port();
        let is_primary = [true, false].map(AtomicBool::new).map(Arc::new);
        for (listener, is_primary) in [first, second].into_iter().zip(is_primary.clone()) {
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let role = if is_primary.load(Ordering::SeqCst) { "role:master\r\n" } else { "role:slave\r\n" };
                    // A probe that has gone is no failure of the test.
                    let _ = stream.read(&mut [0; 64]);
                    let _ = stream.write_all(format!("${}\r\n{role}\r\n", role.len()).as_bytes());
                }
            });
        }
        Self { port, is_primary }
    }

    fn set(&self, which: usize, is_primary: bool) {
        self.is_primary[which].store(is_primary, Ordering::SeqCst);
    }

    /// The second takes over, seen first: the first loses its role to it.
    fn promote(&self, instance: &Instance) {
        self.set(1, true);
        instance.wait_for_log("several servers say that they are the primary");
        self.set(0, false);
        instance.wait_for_log("server is the primary, another was");
    }
}

/// bascule before two servers: writes are what is not below /read.
struct Scene {
    addr: SocketAddr,
    cluster: Cluster,
    instance: Instance,
}

impl Scene {
    fn start(servers: [SocketAddr; 2], keys: &str) -> Self {
        let (addr, cluster) = (free_addr(), Cluster::start());
        let [a, b] = servers;
        let instance = Instance::start(&format!(
            "[global]\nworkers = 1\n[listener.web]\nbind = [\"{addr}\"]\npool = \"db\"\nrole = \"primary\"\n{keys}\n\
             [[listener.web.route]]\npath = \"/read\"\npool = \"db\"\nrole = \"replica\"\n\
             [pool.db]\nservers = [{{ address = \"{a}\", name = \"a\" }}, {{ address = \"{b}\", name = \"b\" }}]\n\
             health_check = {{ type = \"redis\", port = {}, interval = \"100ms\", timeout = \"5s\" }}\n",
            cluster.port
        ));
        wait_for("the roles", || {
            let servers = pool(&instance)["servers"].clone();
            (servers[0]["role"] == "primary" && servers[1]["role"] == "replica").then_some(())
        });
        Self { addr, cluster, instance }
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> Message {
        let mut client = Peer::connect(self.addr);
        client.send(request);
        client.response()
    }

    /// Waits until one exchange has failed, of all there were, for this reason.
    fn wait_for_reason(&self, reason: &str) {
        wait_for(reason, || {
            let errors: Value = serde_json::from_str(&said(&self.instance, &["errors", "--json"])).unwrap();
            let errors = errors["errors"].as_array().unwrap();
            (errors.len() == 1 && errors[0]["reason"] == *reason).then_some(())
        });
    }
}

fn said(instance: &Instance, args: &[&str]) -> String {
    let file = instance.config_file();
    let output = bascule(&[args, &["-c", &file]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pool(instance: &Instance) -> Value {
    let status: Value = serde_json::from_str(&said(instance, &["status", "--json"])).unwrap();
    status["pools"][0].clone()
}

#[test]
fn writes_go_to_the_primary_and_reads_to_replicas_and_a_promotion_moves_both() {
    let servers = [Answering::on(A, |_| ok("a").into()), Answering::on(B, |_| ok("b").into())];
    let scene = Scene::start(servers.each_ref().map(Answering::addr), "");
    let both = || [post("/write", "x"), get("/read")].map(|request| scene.ask(request).text().to_owned());
    assert_eq!(both(), ["a", "b"]);
    let text = said(&scene.instance, &["status"]);
    assert!(text.contains("\n  primary a, 1 replica\n"), "{text}");

    scene.cluster.promote(&scene.instance);
    assert_eq!(both(), ["b", "a"]);

    scene.cluster.set(1, false);
    scene.instance.wait_for_log("the primary has become a replica, and there is no other");
    assert_eq!(scene.ask(post("/write", "x")).status(), 503);
    assert_eq!(scene.ask(get("/read")).status(), 200);
    scene.wait_for_reason("no_role");
    let why = said(&scene.instance, &["explain", &format!("http://{}/write", scene.addr)]);
    assert!(why.contains("503 no_role"), "{why}");
    let text = said(&scene.instance, &["status"]);
    assert!(text.contains("\n  NO PRIMARY, 2 replicas, 1 role conflict so far\n"), "{text}");
}

#[test]
fn two_primaries_get_no_writes_and_status_names_them() {
    let servers = [Answering::on(A, |_| ok("a").into()), Answering::on(B, |_| ok("b").into())];
    let scene = Scene::start(servers.each_ref().map(Answering::addr), "");
    scene.cluster.set(1, true);
    scene.instance.wait_for_log("several servers say that they are the primary");
    assert_eq!(scene.ask(post("/write", "x")).status(), 503);
    scene.wait_for_reason("no_role");
    let text = said(&scene.instance, &["status"]);
    assert!(
        text.contains("  ROLE CONFLICT: a, b say that they are the primary, and none gets anything new\n"),
        "{text}"
    );
}

#[test]
fn a_former_primary_loses_what_is_under_way_and_what_is_idle() {
    let [old, new] = [A, B].map(Origin::on);
    let scene = Scene::start([old.addr(), new.addr()], "");
    let [mut writer, mut reader, mut other] = [0; 3].map(|_| Peer::connect(scene.addr));
    writer.send(post("/write", "x"));
    let (mut of_writer, _) = old.request();
    // May be sent twice, and is: what the old one would answer is not waited for.
    reader.send(get("/again"));
    let (mut of_reader, _) = old.request();
    other.send(post("/done", "x"));
    let (mut idle, _) = old.request();
    idle.send(ok("done"));
    assert_eq!(other.response().text(), "done");

    scene.cluster.promote(&scene.instance);
    assert_eq!(writer.response().status(), 503);
    of_writer.expect_gone();
    of_reader.expect_gone();
    idle.expect_gone();
    scene.wait_for_reason("role_lost");
    let (mut of_reader, again) = new.request();
    assert_eq!(again.target(), "/again");
    of_reader.send(ok("new"));
    assert_eq!(reader.response().text(), "new");
}

#[test]
fn half_of_a_response_of_a_former_primary_is_no_whole_one() {
    let [old, new] = [A, B].map(Origin::on);
    let scene = Scene::start([old.addr(), new.addr()], "");
    let mut client = Peer::connect(scene.addr);
    client.send(post("/write", "x"));
    let (mut server, _) = old.request();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ");
    assert_eq!(client.head().status(), 200);
    client.expect("half ");
    scene.cluster.promote(&scene.instance);
    client.expect_gone();
    server.expect_gone();
    scene.wait_for_reason("role_lost");
}

#[test]
fn with_keep_what_is_under_way_goes_on() {
    let [old, new] = [A, B].map(Origin::on);
    let scene = Scene::start([old.addr(), new.addr()], "on_role_loss = \"keep\"");
    let mut client = Peer::connect(scene.addr);
    client.send(post("/write", "x"));
    let (mut server, _) = old.request();
    scene.cluster.promote(&scene.instance);
    server.send(ok("late"));
    assert_eq!(client.response().text(), "late");
}
