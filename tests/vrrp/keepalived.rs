//! A box that runs keepalived 2.2.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::lab::{Host, INTERFACE};
use crate::support::{TempDir, comm, kill, wait_for};

/// A running keepalived: two processes, which end with it.
pub(crate) struct Keepalived {
    parent: Child,
    dir: TempDir,
}

/// One `vrrp_instance`.
pub(crate) struct VrrpInstance<'a> {
    pub(crate) vrid: u8,
    pub(crate) version: u8,
    pub(crate) priority: u8,
    /// As in the file: seconds.
    pub(crate) interval: &'a str,
    pub(crate) password: Option<&'a str>,
    /// With their prefixes.
    pub(crate) addresses: &'a [String],
    /// Own address and the peer's.
    pub(crate) unicast: Option<(String, String)>,
}

impl VrrpInstance<'_> {
    fn text(&self) -> String {
        let Self { vrid, version, priority, interval, password, addresses, unicast } = self;
        let authentication =
            password.map_or(String::new(), |p| format!("authentication {{\nauth_type PASS\nauth_pass {p}\n}}\n"));
        let unicast = unicast
            .as_ref()
            .map_or(String::new(), |(own, peer)| format!("unicast_src_ip {own}\nunicast_peer {{\n{peer}\n}}\n"));
        format!(
            "vrrp_instance r{vrid} {{\nstate BACKUP\ninterface {INTERFACE}\nvirtual_router_id {vrid}\n\
             version {version}\npriority {priority}\nadvert_int {interval}\n{authentication}{unicast}\
             virtual_ipaddress {{\n{}\n}}\n}}\n",
            addresses.join("\n")
        )
    }
}

impl Keepalived {
    pub(crate) fn start(host: &Host, instances: &[VrrpInstance<'_>]) -> Self {
        let dir = TempDir::new();
        let text: String = instances.iter().map(VrrpInstance::text).collect();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("keepalived.conf"), format!("global_defs {{\nrouter_id lab\n}}\n{text}")).unwrap();
        let log = File::create(file("log")).unwrap();
        let parent = host.run(|| {
            let mut command = Command::new("keepalived");
            command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
            command.arg("--use-file").arg(file("keepalived.conf"));
            command.arg("--pid").arg(file("pid")).arg("--vrrp_pid").arg(file("vrrp_pid"));
            command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log).spawn()
        });
        let parent = parent.expect("keepalived; tests/run installs it");
        let this = Self { parent, dir };
        wait_for("keepalived", || this.log().contains("Startup complete").then_some(()));
        this
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap()).into_owned()
    }

    /// The process that speaks VRRP.
    fn child(&self) -> Option<u32> {
        let pid = self.parent.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Stops it as a service manager would; it resigns.
    pub(crate) fn stop(mut self) {
        kill(self.parent.id(), Signal::TERM).unwrap();
        wait_for("keepalived's end", || self.parent.try_wait().unwrap());
    }

    /// Kills both processes, so that neither says a word, and the addresses stay.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Ok(None) = self.parent.try_wait() {
            // It would start another child.
            let _ = kill(self.parent.id(), Signal::STOP);
            let child = self.child();
            if let Some(child) = child {
                let _ = kill(child, Signal::KILL);
                wait_for("its child's end", || comm(child).is_none().then_some(()));
            }
            let _ = self.parent.kill();
            let _ = self.parent.wait();
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("--- log of keepalived\n{}---", self.log());
        }
    }
}
