//! A real proxy process whose supervisor is the test: the messages between them, and what becomes of a guarded proxy.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bascule::config::model::{Attachments, Overrides};
use bascule::ipc::{self, Channel, FromProxy, Limits, ListenerSockets, ProxyChannel, Purpose, Setup, Start, ToProxy};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::{PATIENCE, comm, connect, echo, echo_server, kill, wait_for};
use crate::{Ended, gone};

/// A proxy with one TCP listener in front of a server that echoes.
struct Proxy {
    /// Who started it: a shell, which can be killed.
    parent: Ended,
    pid: u32,
    channel: ProxyChannel,
    /// A write end of the guard.
    guard: Option<OwnedFd>,
    addr: SocketAddr,
}

impl Proxy {
    /// Returns once it is ready.
    async fn start(guarded: bool) -> Self {
        let (ours, theirs) = ipc::socketpair().unwrap();
        let flag = if guarded { "--guarded" } else { "" };
        // Its standard input is given by number: that of a job in the background would be nothing.
        let script = format!("exec 3<&0; \"$0\" proxy --supervisor=$$ {flag} <&3 3<&- & exec 3<&-; exec 0<&-; wait");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_bascule")]).stdin(Stdio::from(theirs));
        let parent = Ended(shell.spawn().unwrap());
        drop(shell);
        let pid = wait_for("the proxy", || proxy_of(&parent.0));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = echo_server();
        let (read_end, guard) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let start = Start {
            node: "a".into(),
            setup: Setup {
                config: format!(
                    "[global]\nrun_dir = \"/run/bascule\"\n[listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\n\
                     pool = \"p\"\n[pool.p]\nservers = [\"{server}\"]\n"
                ),
                attachments: Attachments::default(),
                overrides: Overrides::default(),
                listeners: vec![ListenerSockets { name: "l".into(), addr, shards: 1 }],
                log_files: Vec::new(),
            },
            state: None,
            guarded,
            purpose: Purpose::Serve,
        };
        let mut channel: ProxyChannel = Channel::new(ours, Limits::OF_PROXY).unwrap();
        let fds = [read_end.as_fd(), listener.as_fd()];
        channel.send(&ToProxy::Start(start), &fds[usize::from(!guarded)..]).await.unwrap();
        assert!(matches!(hear(&mut channel).await, FromProxy::Ready));
        Self { parent, pid, channel, guard: Some(guard).filter(|_| guarded), addr }
    }

    async fn say(&self, message: ToProxy) {
        self.channel.send(&message, &[]).await.unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = connect(self.addr).unwrap();
        echo(&stream).unwrap();
        stream
    }
}

/// The proxy among the children of a process.
fn proxy_of(parent: &Child) -> Option<u32> {
    let pid = parent.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|p| p.parse().ok()).find(|&p| comm(p).as_deref() == Some("bascule-proxy"))
}

/// The next message but for those that come all the time.
async fn hear(channel: &mut ProxyChannel) -> FromProxy {
    let next = async {
        loop {
            match channel.recv().await.unwrap().expect("a message, not the end").0 {
                FromProxy::Heartbeat { .. } | FromProxy::State(_) => {}
                message => return message,
            }
        }
    };
    timeout(PATIENCE, next).await.expect("a message in time")
}

#[tokio::test]
async fn orders_are_carried_out_and_answered() {
    let mut proxy = Proxy::start(false).await;
    let old = proxy.connect();
    proxy.say(ToProxy::Quiet { on: true, twice: false }).await;
    // No router has the address, so nothing is reset; and nothing was said yet about being quiet.
    proxy.say(ToProxy::Abort { addresses: vec![proxy.addr.ip()], token: 7 }).await;
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Aborted { token: 7 }));
    echo(&old).unwrap();
    drop(old);
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Quieted));
    // Asked for twice, what came meanwhile is waited for as well.
    let (first, second) = (proxy.connect(), proxy.connect());
    echo(&second).unwrap();
    proxy.say(ToProxy::Quiet { on: false, twice: false }).await;
    proxy.say(ToProxy::Quiet { on: true, twice: true }).await;
    let late = proxy.connect();
    echo(&late).unwrap();
    drop((first, second));
    proxy.say(ToProxy::Abort { addresses: Vec::new(), token: 9 }).await;
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Aborted { token: 9 }));
    drop(late);
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Quieted));
    // Called off, the order is not answered.
    let new = proxy.connect();
    proxy.say(ToProxy::Quiet { on: true, twice: false }).await;
    proxy.say(ToProxy::Quiet { on: false, twice: false }).await;
    proxy.say(ToProxy::Abort { addresses: Vec::new(), token: 8 }).await;
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Aborted { token: 8 }));
    drop(new);
    proxy.say(ToProxy::Drain { timeout_ms: 1000 }).await;
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Drained));
}

#[tokio::test]
async fn a_guarded_proxy_serves_after_the_death_of_its_supervisor_until_the_guard_is_released() {
    let mut proxy = Proxy::start(true).await;
    let old = proxy.connect();
    kill(proxy.parent.0.id(), Signal::KILL).unwrap();
    proxy.parent.0.wait().unwrap();
    // What else a dying supervisor closes.
    let (ours, _) = ipc::socketpair().unwrap();
    proxy.channel = Channel::new(ours, Limits::OF_PROXY).unwrap();
    // Longer than it takes to find out.
    tokio::time::sleep(Duration::from_secs(1)).await;
    echo(&old).unwrap();
    proxy.connect();
    // What is written to the guard means nothing.
    let mut guard = fs::File::from(proxy.guard.take().unwrap());
    guard.write_all(b"x").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    echo(&old).unwrap();
    drop(guard);
    gone(proxy.pid);
}

#[tokio::test]
async fn a_guarded_proxy_ends_with_the_guard_also_while_it_is_supervised() {
    let mut proxy = Proxy::start(true).await;
    proxy.connect();
    drop(proxy.guard.take());
    gone(proxy.pid);
}

#[tokio::test]
async fn a_supervisor_that_lives_ends_a_guarded_proxy_by_closing_the_channel() {
    let mut proxy = Proxy::start(true).await;
    let (ours, _) = ipc::socketpair().unwrap();
    proxy.channel = Channel::new(ours, Limits::OF_PROXY).unwrap();
    gone(proxy.pid);
    assert!(proxy.guard.is_some());
}

#[tokio::test]
async fn a_guard_that_is_missing_is_an_error() {
    let (ours, theirs) = ipc::socketpair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bascule"));
    command.args(["proxy", &format!("--supervisor={}", std::process::id()), "--guarded"]).stdin(Stdio::from(theirs));
    let mut proxy = Ended(command.spawn().unwrap());
    let channel: ProxyChannel = Channel::new(ours, Limits::OF_PROXY).unwrap();
    let start = Start {
        node: "a".into(),
        setup: Setup {
            config: String::new(),
            attachments: Attachments::default(),
            overrides: Overrides::default(),
            listeners: Vec::new(),
            log_files: Vec::new(),
        },
        state: None,
        guarded: true,
        purpose: Purpose::Serve,
    };
    channel.send(&ToProxy::Start(start), &[]).await.unwrap();
    let status = wait_for("its end", || proxy.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_proxy_that_retires_leaves_the_queue_and_finishes_what_it_has() {
    let mut proxy = Proxy::start(false).await;
    let session = proxy.connect();
    proxy.say(ToProxy::Retire).await;
    // Called off by nothing.
    proxy.say(ToProxy::Quiet { on: false, twice: false }).await;
    proxy.say(ToProxy::Abort { addresses: Vec::new(), token: 1 }).await;
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Aborted { token: 1 }));
    echo(&session).unwrap();
    drop(session);
    assert!(matches!(hear(&mut proxy.channel).await, FromProxy::Drained));
    assert_eq!(comm(proxy.pid).as_deref(), Some("bascule-proxy"));
}

#[tokio::test]
async fn a_proxy_whose_channel_ends_retires_and_leaves_when_it_was_told_so_before() {
    let proxy = Proxy::start(false).await;
    let session = proxy.connect();
    proxy.say(ToProxy::RetireAtEnd { on: true }).await;
    let Proxy { parent: _parent, pid, channel, .. } = proxy;
    drop(channel);
    echo(&session).unwrap();
    echo(&session).unwrap();
    drop(session);
    wait_for("its end", || comm(pid).is_none().then_some(()));
}

#[tokio::test]
async fn what_another_proxy_has_counted_is_counted_on() {
    let mut proxy = Proxy::start(false).await;
    drop(proxy.connect());
    let since = state(&mut proxy.channel, 1).await;
    let until = since.replace("\"requests\":1", "\"requests\":41");
    assert_ne!(since, until);
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    proxy.say(ToProxy::Count { since: raw(&since), until: raw(&until) }).await;
    state(&mut proxy.channel, 41).await;
}

/// The state in which the one server has had so many requests.
async fn state(channel: &mut ProxyChannel, requests: u32) -> String {
    let next = async {
        loop {
            if let FromProxy::State(state) = channel.recv().await.unwrap().expect("a message, not the end").0
                && state.get().contains(&format!("\"requests\":{requests},"))
            {
                return state.get().to_owned();
            }
        }
    };
    timeout(PATIENCE, next).await.expect("a state in time")
}
