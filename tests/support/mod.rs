//! Runs the real binary for tests: a folder, a port and a configuration of its own each, everything ended and removed
//! when the test ends, however it ends.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; a helper that fails fails the test"
)]

pub(crate) mod frames;
pub(crate) mod h2_origin;
pub(crate) mod origin;
pub(crate) mod pki;
pub(crate) mod proxy;
pub(crate) mod tls_origin;
pub(crate) mod wire;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest that anything here waits for something that should come at once: a loaded machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that is removed with its owner.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bascule-test-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address of loopback that nothing listens on.
pub(crate) fn free_addr() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Calls `probe` until it returns something; panics with `what` after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The binary with `args`, run to its end.
pub(crate) fn bascule(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bascule")).args(args).env_remove("NOTIFY_SOCKET").output().unwrap()
}

/// A running `bascule run`.
pub(crate) struct Instance {
    program: PathBuf,
    child: Child,
    notify: UnixDatagram,
    dir: TempDir,
}

impl Instance {
    /// Starts with `config`, in which `{dir}` stands for the folder of this instance; `run_dir` is set when `[global]`
    /// comes first, as it must. Returns once it serves.
    pub(crate) fn start(config: &str) -> Self {
        let mut instance = Self::spawn(config);
        instance.wait_for_notice("READY=1");
        instance
    }

    /// Starts without waiting.
    pub(crate) fn spawn(config: &str) -> Self {
        Self::spawn_program(Path::new(env!("CARGO_BIN_EXE_bascule")), config)
    }

    /// Starts another copy of the binary.
    pub(crate) fn spawn_program(program: &Path, config: &str) -> Self {
        let dir = TempDir::new();
        let folder = dir.path().display().to_string();
        let rest = config.trim_start().strip_prefix("[global]").expect("a test's configuration begins with [global]");
        let text = format!("[global]\nrun_dir = \"{folder}/run\"\n{}", rest.replace("{dir}", &folder));
        fs::write(dir.path().join("bascule.toml"), text).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { program: program.to_owned(), child: launch(program, dir.path()), notify, dir }
    }

    /// Starts once more, in the same folder, without waiting; the one before must have ended.
    pub(crate) fn restart(&mut self) {
        assert!(!self.is_running());
        // Its notices are no news.
        let mut buffer = [0; 256];
        while self.notify.recv(&mut buffer).is_ok() {}
        self.child = launch(&self.program, self.dir.path());
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config_file(&self) -> String {
        self.dir.path().join("bascule.toml").display().to_string()
    }

    /// What it wrote to stderr so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    /// Waits for a line of its log that contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_for(text, || self.log().contains(text).then_some(()));
    }

    /// Waits for a message to the service manager.
    pub(crate) fn wait_for_notice(&mut self, notice: &str) {
        wait_for(notice, || {
            let mut buffer = [0; 256];
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended with {status} before {notice}");
            }
            let n = self.notify.recv(&mut buffer).ok()?;
            String::from_utf8_lossy(&buffer[..n]).contains(notice).then_some(())
        });
    }

    /// Reads away the messages to the service manager, whose queue holds ten.
    pub(crate) fn forget_notices(&self) {
        while self.notify.recv(&mut [0; 256]).is_ok() {}
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The proxy's pid, once there is one that carries its name.
    pub(crate) fn proxy_pid(&self) -> u32 {
        wait_for("a proxy", || self.proxy())
    }

    /// The pid of a proxy other than `old`.
    pub(crate) fn next_proxy_pid(&self, old: u32) -> u32 {
        wait_for("another proxy", || self.proxy().filter(|&pid| pid != old))
    }

    fn proxy(&self) -> Option<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let mut pids = children.split_whitespace().filter_map(|p| p.parse().ok());
        pids.find(|&pid| comm(pid).as_deref() == Some("bascule-proxy"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The proxy ends with it; one that a test stopped is ended by the parent-death signal all the same.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}---", self.dir.path().display(), self.log());
        }
    }
}

fn launch(program: &Path, dir: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("stderr"));
    Command::new(program)
        .args(["run", "-c"])
        .arg(dir.join("bascule.toml"))
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::null())
        .stderr(log.unwrap())
        .spawn()
        .unwrap()
}

/// Sends `signal` to `pid`, which must be a process that the test started.
pub(crate) fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

/// The name of a process; `None` when it is gone, or dead and not reaped.
pub(crate) fn comm(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned()));
    field("State:").filter(|s| !s.starts_with('Z'))?;
    field("Name:")
}

/// A field of /proc/PID/status.
pub(crate) fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in /proc/{pid}/status")).trim().to_owned()
}

/// One connection, or the reason why not, at once; its reads end after [`PATIENCE`].
pub(crate) fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A server that sends back what it gets, until the test process ends.
pub(crate) fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    addr
}

/// Sends a word and waits for its echo.
pub(crate) fn echo(stream: &TcpStream) -> io::Result<()> {
    let mut stream = stream;
    let mut answer = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}
