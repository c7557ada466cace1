//! A box that runs Bascule.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::process::Output;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::lab::{Host, INTERFACE};
use crate::support::{Instance, bascule, comm, kill, wait_for};

/// A running instance; every process of it ends with it.
pub(crate) struct Bascule<'a> {
    pub(crate) host: &'a Host,
    pub(crate) instance: Instance,
    /// The processes that it has, or had.
    processes: RefCell<Vec<(u32, OwnedFd)>>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) why: String,
}

/// Keys that most tests want: nothing is waited for that a test would have to wait for too.
const DEFAULTS: &str = "preempt = \"immediate\"\npreempt_delay = \"off\"\nhandover_drain = \"off\"\n\
                        announce = { repeat = [], refresh = \"off\" }\n";

impl<'a> Bascule<'a> {
    /// Starts with the virtual routers of `config`, and answers HTTP on port 80 of every address with the host's number.
    /// Returns once it takes part.
    pub(crate) fn start(host: &'a Host, config: &str) -> Self {
        let this = Self { host, instance: Self::spawn(host, config), processes: RefCell::default() };
        this.wait_until_ready()
    }

    fn wait_until_ready(mut self) -> Self {
        self.instance.wait_for_notice("READY=1");
        self.vrrp_pid();
        self.proxy_pid();
        wait_for("its first status", || self.status()["vrrp"]["routers"][0].is_object().then_some(()));
        self
    }

    /// Goes over to the virtual routers of `config`.
    pub(crate) fn reload(&self, config: &str) {
        let folder = self.instance.dir().display().to_string();
        let text =
            Self::text(self.host, config).replacen("[global]", &format!("[global]\nrun_dir = \"{folder}/run\""), 1);
        std::fs::write(self.instance.config_file(), text).unwrap();
        self.tell(&["reload"]);
    }

    fn spawn(host: &Host, config: &str) -> Instance {
        host.run(|| Instance::spawn(&Self::text(host, config)))
    }

    fn text(host: &Host, config: &str) -> String {
        let number = host.number;
        format!(
            "[global]\nworkers = 1\n[listener.web]\nbind = [\"0.0.0.0:80\", \"[::]:80\"]\n\
             [site.all]\n[[site.all.route]]\nrespond = {{ body = \"{number}\" }}\n\
             [defaults.vrrp]\ninterface = \"{INTERFACE}\"\n{DEFAULTS}{config}"
        )
    }

    /// Starts again, once it has ended or was killed.
    pub(crate) fn restart(&mut self) {
        self.host.run(|| self.instance.restart());
        self.instance.wait_for_notice("READY=1");
        self.vrrp_pid();
        self.proxy_pid();
    }

    /// The command line, for this instance.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let file = self.instance.config_file();
        self.host.run(|| bascule(&[arguments, &["-c", &file]].concat()))
    }

    /// What a command that succeeds prints.
    pub(crate) fn tell(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `bascule status --json`; null while nobody answers.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).unwrap_or_default()
    }

    /// The status of a virtual router.
    pub(crate) fn router(&self, name: &str) -> Value {
        let status = self.status();
        let all = status["vrrp"]["routers"].as_array();
        all.and_then(|all| all.iter().find(|r| r["name"] == name)).cloned().unwrap_or_default()
    }

    /// Waits until a virtual router is in `state`.
    pub(crate) fn wait_for_state(&self, name: &str, state: &str) {
        wait_for(&format!("{name} to be {state}"), || (self.router(name)["state"] == state).then_some(()));
    }

    /// Waits until `count` more advertisements of peers were heard and understood.
    pub(crate) fn wait_until_heard(&self, name: &str, count: u64) {
        let heard = || self.router(name)["received"].as_u64();
        let before = heard().unwrap();
        wait_for("more advertisements", || heard().filter(|n| *n >= before + count));
    }

    /// A counter of what is not as it should be.
    pub(crate) fn count(&self, name: &str, reason: &str) -> u64 {
        let router = self.router(name);
        let all = router["drops"].as_array().unwrap_or_else(|| panic!("no counters of {name}: {router}"));
        all.iter().find(|pair| pair[0] == reason).map_or(0, |pair| pair[1].as_u64().unwrap())
    }

    /// All changes of state of a virtual router since the first start.
    pub(crate) fn changes(&self, name: &str) -> Vec<Change> {
        let marker = format!("state changed vrrp=\"{name}\" from=");
        let log = self.instance.log();
        let lines = log.lines().filter_map(|line| line.split_once(&marker));
        let change = |(_, rest): (&str, &str)| {
            let (from, rest) = rest.split_once(" to=").unwrap();
            let (to, why) = rest.split_once(" why=").unwrap();
            Change { from: from.to_owned(), to: to.to_owned(), why: why.trim_matches('"').to_owned() }
        };
        lines.map(change).collect()
    }

    /// Why it last changed its state.
    pub(crate) fn why(&self, name: &str) -> String {
        self.changes(name).pop().map_or(String::new(), |change| change.why)
    }

    /// The pid of the vrrp process, once there is one.
    pub(crate) fn vrrp_pid(&self) -> u32 {
        self.process("pid of the vrrp process", |status| status["vrrp"]["pid"].as_u64())
    }

    /// The pid of the proxy, once it is ready.
    pub(crate) fn proxy_pid(&self) -> u32 {
        let ready = |status: &Value| status["proxy"]["pid"].as_u64().filter(|_| status["proxy"]["ready"] == true);
        self.process("pid of the proxy", ready)
    }

    fn process(&self, what: &str, find: impl Fn(&Value) -> Option<u64>) -> u32 {
        let pid = wait_for(what, || u32::try_from(find(&self.status())?).ok());
        let mut known = self.processes.borrow_mut();
        if !known.iter().any(|(other, _)| *other == pid)
            && let Some(Ok(fd)) = Pid::from_raw(pid.cast_signed()).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        {
            known.push((pid, fd));
        }
        pid
    }

    /// Kills every process of it at once, so that none can clean up.
    pub(crate) fn kill_all(&mut self) {
        let pids = [self.instance.pid(), self.vrrp_pid(), self.proxy_pid()];
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in pids {
                kill(pid, signal).unwrap();
            }
        }
        self.instance.wait();
        self.wait_until_gone(&pids);
    }

    /// Waits for the end of processes.
    pub(crate) fn wait_until_gone(&self, pids: &[u32]) {
        for pid in pids {
            wait_for("the end of a process", || comm(*pid).is_none().then_some(()));
        }
    }
}

impl Drop for Bascule<'_> {
    fn drop(&mut self) {
        // The supervisor stops first, so that it starts nobody; without it the others would go on for a while.
        if self.instance.is_running() {
            let _ = kill(self.instance.pid(), Signal::STOP);
        }
        for (_, process) in self.processes.borrow().iter() {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}
