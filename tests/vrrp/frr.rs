//! FRR's vrrpd as the peer: version 3, multicast, on macvlans with the virtual router's own Ethernet address.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Host, INTERFACE, Lab};
use crate::run;
use crate::support::{TempDir, kill, wait_for};
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{A_WHILE, router, vip};
use crate::vrrp::owners::Owners;

/// A member of the group that its sockets belong to; FRR refuses to run as anybody else, root included.
const USER: &str = "frr";

/// A box with zebra, and now and then vrrpd.
struct Frr<'a> {
    host: &'a Host,
    dir: TempDir,
    zebra: Child,
    vrrpd: Option<Child>,
}

impl<'a> Frr<'a> {
    /// With the virtual routers of these ids and priorities; their addresses are on macvlans, as FRR wants it.
    fn start(host: &'a Host, routers: &[(u8, u8)]) -> Self {
        let dir = TempDir::new();
        let mut text = format!("interface {INTERFACE}\n");
        for (vrid, priority) in routers {
            let v4 = format!("vrrp4-{vrid}");
            let v6 = format!("vrrp6-{vrid}");
            for (name, kind) in [(&v4, 1), (&v6, 2)] {
                host.ip(&format!("link add {name} link {INTERFACE} type macvlan mode bridge"));
                host.ip(&format!("link set {name} address 00:00:5e:00:0{kind}:{vrid:02x} up"));
            }
            host.ip(&format!("address add {}/24 dev {v4}", vip(*vrid)));
            for ip in [link_local(*vrid), global(*vrid)] {
                host.ip(&format!("address add {ip}/64 dev {v6}"));
            }
            text += &format!(
                " vrrp {vrid} version 3\n vrrp {vrid} priority {priority}\n vrrp {vrid} advertisement-interval 100\n \
                 vrrp {vrid} ip {}\n vrrp {vrid} ipv6 {}\n vrrp {vrid} ipv6 {}\n",
                vip(*vrid),
                link_local(*vrid),
                global(*vrid)
            );
        }
        fs::write(dir.path().join("vrrpd.conf"), text).unwrap();
        fs::write(dir.path().join("zebra.conf"), "").unwrap();
        let id = |option| run("id", &[option, USER]).trim().parse().unwrap();
        chown(dir.path(), Some(id("-u")), Some(id("-g"))).unwrap();
        let zebra = daemon(host, &dir, "zebra", &["-A", "127.0.0.1"]);
        let mut this = Self { host, dir, zebra, vrrpd: None };
        wait_for("zebra", || this.file("zserv.api").exists().then_some(()));
        this.begin();
        this
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn begin(&mut self) {
        self.vrrpd = Some(daemon(self.host, &self.dir, "vrrpd", &[]));
        wait_for("vrrpd", || (!self.routers().is_empty()).then_some(()));
    }

    /// Ends vrrpd, which says that it resigns.
    fn end(&mut self) {
        let mut vrrpd = self.vrrpd.take().unwrap();
        kill(vrrpd.id(), Signal::TERM).unwrap();
        wait_for("vrrpd's end", || vrrpd.try_wait().unwrap());
    }

    fn routers(&self) -> Vec<Value> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(self.dir.path()).args(["-c", "show vrrp json"]).stderr(Stdio::null());
        let output = self.host.run(|| vtysh.output()).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until both families of a router are in `state`.
    fn wait_for_state(&self, vrid: u8, state: &str) {
        let is = |router: &Value| ["v4", "v6"].iter().all(|family| router[family]["status"] == state);
        wait_for(&format!("FRR's router {vrid} to be {state}"), || {
            self.routers().iter().find(|router| router["vrid"] == vrid).filter(|router| is(router)).map(drop)
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("vrrpd.log")).unwrap_or_default()
    }
}

fn daemon(host: &Host, dir: &TempDir, name: &str, more: &[&str]) -> Child {
    let file = |name: String| dir.path().join(name);
    let log = File::options().create(true).append(true).open(file(format!("{name}.log"))).unwrap();
    let mut command = Command::new(format!("/usr/lib/frr/{name}"));
    command.arg("--config_file").arg(file(format!("{name}.conf"))).arg("--pid_file").arg(file(format!("{name}.pid")));
    command.arg("--socket").arg(file("zserv.api".into())).arg("--vty_socket").arg(dir.path());
    command.args(["--vty_port", "0", "--user", USER, "--group", USER, "--log", "stdout"]).args(more);
    command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
    host.run(|| command.spawn()).unwrap_or_else(|e| panic!("{name} of frr: {e}; tests/run installs it"))
}

impl Drop for Frr<'_> {
    fn drop(&mut self) {
        for daemon in self.vrrpd.iter_mut().chain([&mut self.zebra]) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of vrrpd\n{}---", self.log());
        }
    }
}

fn link_local(vrid: u8) -> IpAddr {
    format!("fe80::{vrid}:1").parse().unwrap()
}

fn global(vrid: u8) -> IpAddr {
    format!("2001:db8::{vrid}:1").parse().unwrap()
}

#[test]
fn beside_frr_there_is_one_master_whoever_comes_or_goes() {
    const THEIRS: u8 = 51;
    const OURS: u8 = 52;
    let Some(lab) = Lab::new(2) else { return };
    let [own, peer] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let mut frr = Frr::start(peer, &[(THEIRS, 200), (OURS, 100)]);
    for vrid in [THEIRS, OURS] {
        frr.wait_for_state(vrid, "Master");
    }
    // Of FRR the addresses are always on its macvlans; only ours are watched.
    let hold = |vrid: u8, held: bool| {
        for ip in [vip(vrid), global(vrid)] {
            let is = || (owners.of(ip).contains(&own.number) == held).then_some(());
            wait_for(&format!("{ip} to be ours: {held}"), is);
        }
    };
    let v6 = |vrid: u8| {
        let list = format!("virtual_addresses = [\"{}/64\", \"{}/64\"]", link_local(vrid), global(vrid));
        // One id for both families, under two names.
        let text = router(vrid, if vrid == OURS { 200 } else { 100 }, &list);
        text.replacen(&format!("[vrrp.r{vrid}]"), &format!("[vrrp.six{vrid}]"), 1)
    };
    let config = [router(THEIRS, 100, ""), router(OURS, 200, ""), v6(THEIRS), v6(OURS)].concat();
    let mut bascule = Bascule::start(own, &config);
    hold(OURS, true);
    frr.wait_for_state(OURS, "Backup");
    for name in ["r51", "six51"] {
        bascule.wait_until_heard(name, 5);
        assert_eq!(bascule.changes(name).len(), 1, "{}", bascule.instance.log());
        let status = bascule.router(name);
        assert_eq!(status["peers"][0]["agrees"], true, "{status}");
        assert_eq!(status["drops"].as_array().map(Vec::len), Some(0), "{status}");
    }

    // It resigns, and comes back.
    frr.end();
    hold(THEIRS, true);
    for name in ["r51", "six51"] {
        bascule.wait_for_state(name, "active");
        assert_eq!(bascule.why(name), "the active router resigned");
    }
    frr.begin();
    frr.wait_for_state(THEIRS, "Master");
    hold(THEIRS, false);
    for name in ["r51", "six51"] {
        assert_eq!(bascule.why(name), "a peer has a higher priority");
    }
    frr.wait_for_state(OURS, "Backup");
    std::thread::sleep(A_WHILE);
    for (name, count) in [("r52", 2), ("six52", 2), ("r51", 3), ("six51", 3)] {
        assert_eq!(bascule.changes(name).len(), count, "{name}: {}", bascule.instance.log());
    }

    // It dies without a word.
    let mut vrrpd = frr.vrrpd.take().unwrap();
    vrrpd.kill().unwrap();
    vrrpd.wait().unwrap();
    hold(THEIRS, true);
    for name in ["r51", "six51"] {
        bascule.wait_for_state(name, "active");
        assert_eq!(bascule.why(name), "no advertisement from the active router");
    }
    frr.begin();
    frr.wait_for_state(THEIRS, "Master");
    hold(THEIRS, false);

    // Ours dies, comes back, and stops.
    bascule.kill_all();
    frr.wait_for_state(OURS, "Master");
    bascule.restart();
    frr.wait_for_state(OURS, "Backup");
    hold(OURS, true);
    bascule.tell(&["stop"]);
    assert_eq!(bascule.instance.wait().code(), Some(0));
    frr.wait_for_state(OURS, "Master");
    hold(OURS, false);
}
