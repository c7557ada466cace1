//! What the running instance tells: status, errors, explain, to whom, and the names for completion.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::Answering;
use crate::support::{Instance, TempDir, connect, echo, free_addr, kill, wait_for};
use crate::{bascule, config};

/// Runs a command against the instance.
fn run(instance: &Instance, args: &[&str]) -> Output {
    let file = instance.config_file();
    let (first, rest) = args.split_at(1);
    let args: Vec<&str> = first.iter().copied().chain(["-c", &file]).chain(rest.iter().copied()).collect();
    bascule(&args)
}

/// What a command that succeeds prints.
fn tell(instance: &Instance, args: &[&str]) -> String {
    let output = run(instance, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(instance: &Instance, command: &str) -> Value {
    serde_json::from_str(&tell(instance, &[command, "--json"])).unwrap()
}

fn get(addr: SocketAddr, target: &str) -> String {
    let mut stream = connect(addr).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// A server that answers.
fn server() -> Answering {
    Answering::with(*b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
}

/// An HTTP listener on `addr` in front of `servers`, without an access log.
fn http(addr: SocketAddr, servers: &[SocketAddr], pool: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|s| format!("\"{s}\"")).collect();
    format!(
        "[global]\n[listener.web]\nbind = [\"{addr}\"]\n[[listener.web.route]]\nname = \"api\"\npath = \"/api\"\n\
         methods = [\"GET\"]\npool = \"p\"\n[pool.p]\nservers = [{}]\n{pool}\n",
        servers.join(", ")
    )
}

/// Adds every field of `value` by its path, as the README writes it.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let inner: Vec<(String, &Value)> = match value {
        // What is below these is explained in a row of its own.
        _ if path == "vrrp.routers" || path.ends_with("latency_us") => Vec::new(),
        Value::Object(object) if path.is_empty() => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Object(object) => object.iter().map(|(key, value)| (format!("{path}.{key}"), value)).collect(),
        Value::Array(array) => array.iter().filter(|v| v.is_object()).map(|v| (format!("{path}[]"), v)).collect(),
        _ => Vec::new(),
    };
    if inner.is_empty() {
        found.insert(path.to_owned());
    }
    inner.iter().for_each(|(path, value)| fields(value, path, found));
}

#[test]
fn the_readme_documents_the_fields_of_a_real_document() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = readme.split("<!-- status -->").nth(1).unwrap().split("<!-- /status -->").next().unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    let documented: BTreeSet<String> = table.lines().filter_map(row).collect();
    let instance = Instance::start(&http(free_addr(), &[server().addr()], "[limit.a]\nrate = \"10/s\""));
    let mut found = BTreeSet::new();
    fields(&json(&instance, "status"), "", &mut found);
    let is_always = |field: &&String| !field.starts_with("vrrp.") || *field == "vrrp.routers";
    assert_eq!(found, documented.iter().filter(is_always).cloned().collect());
}

#[test]
fn status_tells_of_listeners_pools_and_servers() {
    let (addr, origin) = (free_addr(), server());
    let instance = Instance::start(&http(addr, &[origin.addr()], ""));
    assert!(get(addr, "/api").starts_with("HTTP/1.1 200 "));
    let status = json(&instance, "status");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["proxy"]["trouble"], Value::Null);
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["accepted"]), (&"web".into(), &1.into()), "{status:#}");
    let server = &status["pools"][0]["servers"][0];
    assert_eq!((&server["state"], &server["requests"], &server["failures"]), (&"up".into(), &1.into(), &0.into()));
    assert!(server["latency_us"]["p99"].as_u64().unwrap() > 0, "{server:#}");
    let text = tell(&instance, &["status"]);
    assert!(text.lines().next().unwrap().ends_with(" serves, no virtual routers, all of 1 servers up"), "{text}");
    assert!(
        text.contains("\npool p (round_robin): 1 of 1 up, 0 in flight, 1 requests, 0 failures, p99 at most "),
        "{text}"
    );
}

#[test]
fn a_server_that_is_down_is_named_with_the_reason_and_the_time() {
    let (addr, dead, other) = (free_addr(), free_addr(), server());
    let check = "health_check = { interval = \"100ms\", timeout = \"1s\", fall = 1 }";
    let instance = Instance::start(&http(addr, &[dead, other.addr()], check));
    let server = wait_for("the verdict", || {
        let server = json(&instance, "status")["pools"][0]["servers"][0].clone();
        (server["state"] == "down").then_some(server)
    });
    assert!(server["why"].as_str().unwrap().starts_with("health check: "), "{server:#}");
    assert!(server["for_seconds"].is_u64());
    let text = tell(&instance, &["status"]);
    assert!(text.contains(", 1 OF 2 SERVERS NOT UP\n"), "{text}");
    assert!(text.contains(&format!("\n  {dead} DOWN for ")), "{text}");
    // The proxy that replaces this one knows it too.
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    wait_for("the reason handed over", || {
        let status = json(&instance, "status");
        (status["pools"][0]["servers"][0]["why"] == server["why"]).then_some(())
    });
}

#[test]
fn passive_failures_have_a_reason_too() {
    let (addr, dead, other) = (free_addr(), free_addr(), server());
    let instance = Instance::start(&http(addr, &[dead, other.addr()], "max_fails = 1\nfail_timeout = \"60s\""));
    for _ in 0..2 {
        assert!(get(addr, "/api").starts_with("HTTP/1.1 200 "));
    }
    let server = &json(&instance, "status")["pools"][0]["servers"][0];
    assert_eq!((&server["state"], &server["failures"]), (&"failed".into(), &1.into()), "{server:#}");
    assert_eq!(server["why"], "max_fails reached, the last: connect_refused");
}

#[test]
fn a_status_that_counts_as_a_failure_is_the_reason() {
    let (addr, ill) = (free_addr(), Answering::with(*b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"));
    let pool = "max_fails = 1\nfail_timeout = \"60s\"\nretry_on = [\"connect\", \"http_503\"]";
    let instance = Instance::start(&http(addr, &[ill.addr(), server().addr()], pool));
    for _ in 0..2 {
        assert!(get(addr, "/api").starts_with("HTTP/1.1 200 "));
    }
    let server = &json(&instance, "status")["pools"][0]["servers"][0];
    assert_eq!(
        (&server["state"], &server["why"]),
        (&"failed".into(), &"max_fails reached, the last: status 503".into())
    );
}

#[test]
fn a_proxy_that_hangs_costs_status_its_part_only() {
    let addr = free_addr();
    let instance = Instance::start(&config(addr, "proxy_watchdog = \"60s\""));
    let proxy = instance.proxy_pid();
    kill(proxy, Signal::STOP).unwrap();
    let status = json(&instance, "status");
    let trouble = status["proxy"]["trouble"].as_str().unwrap();
    assert!(trouble.starts_with("no answer for ") && trouble.ends_with('s'), "{trouble}");
    assert_eq!((&status["generation"], &status["listeners"]), (&1.into(), &Value::Null));
    let text = tell(&instance, &["status"]);
    assert!(text.contains(" DOES NOT ANSWER, ") && text.contains("\nproxy: no answer for "), "{text}");
    let refused = run(&instance, &["errors"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("proxy: no answer for "));
    kill(proxy, Signal::CONT).unwrap();
    wait_for("the proxy's answer", || json(&instance, "status")["proxy"]["trouble"].is_null().then_some(()));
}

#[test]
fn failed_exchanges_are_kept_without_secrets() {
    let (addr, tcp) = (free_addr(), free_addr());
    let dead = [free_addr(), free_addr()];
    let tcp_part = format!(
        "[listener.db]\nbind = [\"{tcp}\"]\nprotocol = \"tcp\"\npool = \"q\"\n[pool.q]\nservers = [\"{}\"]\n",
        dead[0]
    );
    let instance = Instance::start(&http(addr, &dead, &tcp_part));
    assert!(tell(&instance, &["errors"]).starts_with("no exchange has failed"));
    assert!(get(addr, "/api?token=s3cret&n=1").starts_with("HTTP/1.1 502 "));
    assert!(get(addr, "/nowhere").starts_with("HTTP/1.1 404 "));
    assert!(connect(tcp).map_or(true, |client| echo(&client).is_err()));
    let all = wait_for("three failures", || {
        let all = json(&instance, "errors")["errors"].as_array().unwrap().clone();
        (all.len() == 3).then_some(all)
    });
    let first = &all[0];
    assert_eq!(first["path"], "/api?token=***&n=***");
    let fields = ["listener", "host", "method", "route", "pool", "reason"].map(|key| first[key].as_str().unwrap());
    assert_eq!(fields, ["web", "a.example", "GET", "api", "p", "connect_refused"]);
    assert_eq!((&first["status"], first["tries"].as_array().unwrap().len()), (&502.into(), 2), "{first:#}");
    assert_eq!(first["tries"][1]["reason"], "connect_refused");
    assert_eq!((&all[1]["reason"], &all[1]["route"]), (&"no_route".into(), &Value::Null));
    assert_eq!((&all[2]["listener"], &all[2]["pool"]), (&"db".into(), &"q".into()));
    assert_eq!(all[2]["tries"][0]["address"], dead[0].to_string());
    let text = tell(&instance, &["errors"]);
    assert!(!text.contains("s3cret") && text.contains("Start the service, or correct its address or port."), "{text}");
}

#[test]
fn explain_says_where_a_request_would_go_and_sends_nothing() {
    let (addr, tcp, dead, server) = (free_addr(), free_addr(), free_addr(), server());
    let more = format!(
        "max_fails = 1\nfail_timeout = \"60s\"\nretries = 1\n[[listener.web.route]]\npath = \"/\"\n\
         headers = {{ X-Beta = \"1\" }}\nrespond = {{ body = \"\" }}\n[listener.db]\nbind = [\"{tcp}\"]\n\
         protocol = \"tcp\"\npool = \"p\"\n"
    );
    // The route comes behind the pool's table, where TOML allows it.
    let (head, pool) = (http(addr, &[dead, server.addr()], ""), more.split_once("[[").unwrap());
    let text = head.replace("[pool.p]", &format!("[[{}[pool.p]\n{}", pool.1, pool.0));
    let mut instance = Instance::start(&text);
    let url = format!("http://{addr}/api/x");
    get(addr, "/api");
    let found = tell(&instance, &["explain", &url, "-H", "X-Beta: 1"]);
    assert!(found.contains("route     api (path /api on segment borders)"), "{found}");
    assert!(found.contains(&format!("server    {}", server.addr())), "{found}");
    assert!(
        found.contains(&format!("not     {dead} (failed: max_fails reached, the last: connect_refused)")),
        "{found}"
    );
    let post = tell(&instance, &["explain", &url, "--method", "POST", "-H", "X-Beta: 1"]);
    assert!(post.contains("not     api (its methods are GET)") && post.contains("action    respond 200"), "{post}");
    let none = tell(&instance, &["explain", &format!("http://{addr}/other")]);
    assert!(none.contains("it wants a header x-beta") && none.contains("action    404 no_route"), "{none}");
    let session = tell(&instance, &["explain", &format!("tcp://{tcp}")]);
    assert!(session.contains("listener  db") && session.contains("action    pool p"), "{session}");
    let wrong = run(&instance, &["explain", "http://a.example:1/"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains(&format!("those there are: {addr} (web)")));
    let before = json(&instance, "status")["pools"][0]["servers"][1]["requests"].clone();
    assert_eq!(before, 1, "explaining has started a request");
    instance.signal(Signal::TERM);
    instance.wait();
    let found = tell(&instance, &["explain", &url]);
    assert!(found.starts_with("no instance runs: ") && found.contains("route     api "), "{found}");
}

/// Asks for status as nobody, with a supplementary group or without.
fn as_nobody(instance: &Instance, group: &str) -> Output {
    let socket = instance.dir().join("run/admin.sock");
    let program = instance.dir().join("bascule-for-all");
    if !program.exists() {
        fs::hard_link(env!("CARGO_BIN_EXE_bascule"), &program)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_bascule"), &program).map(drop))
            .unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", &format!("--groups={group}")]).arg(program);
    command.args(["status", "--socket"]).arg(socket).output().unwrap()
}

#[test]
fn only_root_ourselves_and_the_group_may_ask() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some(),
            "run as root, or set BASCULE_TEST_UNPRIVILEGED"
        );
        return;
    }
    let groups = fs::read_to_string("/etc/group").unwrap();
    // A group that nobody is not in by itself.
    let group = groups.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|g| g[0] == "adm").unwrap();
    let addr = free_addr();
    let text = config(addr, "").replace("[listener.l]", "[admin]\ngroup = \"adm\"\n[listener.l]");
    let instance = Instance::start(&text);
    let socket = instance.dir().join("run/admin.sock");
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid().to_string().as_str()), (0o660, group[2]));
    let refused = as_nobody(&instance, "65534");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("members of [admin] group"), "{refused:?}");
    // Where the file's mode lets everybody in, the kernel's word on who asks still counts.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let refused = as_nobody(&instance, "65534");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("refused to nobody (uid 65534): only root, "), "{text}");
    instance.wait_for_log("refused to nobody (uid 65534)");
    let served = as_nobody(&instance, group[2]);
    assert!(served.status.success(), "{served:?}");
}

#[test]
fn without_a_group_the_socket_is_the_owners_and_an_unknown_one_is_an_error() {
    let addr = free_addr();
    let instance = Instance::start(&config(addr, ""));
    let mode = fs::metadata(instance.dir().join("run/admin.sock")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let addr = free_addr();
    let text = config(addr, "").replace("[listener.l]", "[admin]\ngroup = \"no-such-group\"\n[listener.l]");
    let mut other = Instance::spawn(&text);
    assert_eq!(other.wait().code(), Some(1));
    assert!(other.log().contains("there is no group \"no-such-group\""), "{}", other.log());
}

#[test]
fn a_socket_that_is_there_is_replaced_if_nobody_answers_and_nothing_else_is() {
    let dir = TempDir::new();
    let path = dir.path().join("socket");
    let with_socket = || {
        let admin = format!("[admin]\nsocket = \"{}\"\n[listener.l]", path.display());
        config(free_addr(), "").replace("[listener.l]", &admin)
    };
    let refused = |why: &str| {
        let mut instance = Instance::spawn(&with_socket());
        assert_eq!(instance.wait().code(), Some(1));
        assert!(instance.log().contains(why), "{}", instance.log());
    };
    fs::write(&path, "important").unwrap();
    refused("there is a file that is no socket; remove it");
    assert_eq!(fs::read_to_string(&path).unwrap(), "important");
    fs::remove_file(&path).unwrap();
    // Somebody else's, who answers; then he is gone.
    let other = UnixListener::bind(&path).unwrap();
    if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_none() {
        chown(&path, Some(65534), Some(65534)).unwrap();
    }
    refused("somebody answers there");
    drop(other);
    let instance = Instance::start(&with_socket());
    assert_eq!(json(&instance, "status")["pid"], instance.pid());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn what_changes_something_is_logged_with_who_asked() {
    let mut instance = Instance::start(&config(free_addr(), ""));
    tell(&instance, &["stop"]);
    instance.wait_for_log("asked by the operator");
    assert!(instance.log().contains("(uid "), "{}", instance.log());
    assert_eq!(instance.wait().code(), Some(0));
}

#[test]
fn completions_know_the_commands_and_the_names() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(bascule(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("explain") && script.contains("bascule names routers"), "{shell}: {script}");
    }
    let instance = Instance::start(&config(free_addr(), ""));
    let file = instance.config_file();
    let names = bascule(&["names", "-c", &file, "servers"]);
    assert!(String::from_utf8(names.stdout).unwrap().starts_with("p/127.0.0.1:"));
    let nobody = bascule(&["names", "--socket", "/nowhere/socket", "servers"]);
    assert!(nobody.stdout.is_empty() && nobody.status.success());
    // Bash itself, where there is one: the name of a server behind `server drain` completes.
    let script = format!(
        "source <({bascule} completions bash); bascule() {{ {bascule} \"$@\" -c {file}; }}; COMP_WORDS=(bascule server drain p); \
         COMP_CWORD=3; _bascule_with_names bascule p drain 2>/dev/null; echo \"${{COMPREPLY[@]}}\"",
        bascule = env!("CARGO_BIN_EXE_bascule")
    );
    if let Ok(output) = Command::new("bash").args(["-c", &script]).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("p/127.0.0.1:"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    }
}
