mod grpc;
mod pace;
mod tls;

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::config::model::{ServerAddress, ServerSpec};
use crate::config::{model, parse_effective};
use crate::health::{Role, Verdict};
use crate::pool::{Pool, Server};

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);

/// How a server of a script answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    Bad,
    /// Never.
    Silent,
    /// Good, but after this long.
    Late(Duration),
    /// This box cannot ask.
    Hindered,
    /// Good, and it is that.
    Is(Role),
}

/// Servers whose answers the test sets, by port, and when each was asked.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<HashMap<u16, Scripted>>>);

#[derive(Debug, Default)]
struct Scripted {
    answer: Option<Answer>,
    asked: Vec<Instant>,
}

impl Script {
    fn set(&self, port: u16, answer: Answer) {
        self.0.lock().unwrap().entry(port).or_default().answer = Some(answer);
    }

    fn asked(&self, port: u16) -> Vec<Instant> {
        self.0.lock().unwrap().get(&port).map_or(Vec::new(), |server| server.asked.clone())
    }
}

impl Attempt for Script {
    async fn attempt(&self, target: &Target) -> Result<Option<Role>, Failure> {
        let answer = {
            let mut servers = self.0.lock().unwrap();
            let server = servers.entry(target.address.port()).or_default();
            server.asked.push(Instant::now());
            server.answer.unwrap_or(Answer::Good)
        };
        match answer {
            Answer::Good => Ok(None),
            Answer::Bad => Err(Failure::Status(503)),
            Answer::Silent => pending().await,
            Answer::Late(after) => {
                sleep(after).await;
                Ok(None)
            }
            Answer::Is(role) => Ok(Some(role)),
            Answer::Hindered => Err(Failure::Local(io::ErrorKind::AddrNotAvailable.into())),
        }
    }
}

/// The pools of a configuration whose pools are `text`.
fn pools(text: &str, previous: &[Arc<Pool>]) -> Vec<Arc<Pool>> {
    let text = format!("[global]\nrun_dir = \"/nowhere\"\n{text}");
    let config = parse_effective(&text, "box").unwrap_or_else(|errors| panic!("{errors}"));
    let fixed = |spec: &ServerSpec| match spec.address {
        ServerAddress::Ip(address) => vec![address],
        ServerAddress::Name { .. } => vec![([127, 0, 0, 9], 9).into()],
    };
    let build = |pool: &Arc<model::Pool>| {
        let before = previous.iter().find(|before| before.config.name == pool.name);
        Arc::new(Pool::build(pool, fixed, &model::Overrides::default(), before.map(|before| &**before)))
    };
    config.pools.iter().map(build).collect()
}

/// One pool of servers at these ports, checked with the defaults and `keys`.
fn pool(ports: impl IntoIterator<Item = u16>, keys: &str) -> Vec<Arc<Pool>> {
    let servers: Vec<String> = ports.into_iter().map(|port| format!("\"10.0.0.1:{port}\"")).collect();
    pools(&format!("[pool.p]\nservers = [{}]\n[pool.p.health_check]\n{keys}", servers.join(", ")), &[])
}

fn server(pools: &[Arc<Pool>], port: u16) -> Arc<Server> {
    pools.iter().flat_map(|pool| pool.servers()).find(|server| server.address.port() == port).unwrap().clone()
}

/// A script, what runs by it, and what it notifies.
fn stage() -> (Script, Checker<Script>, Arc<Notify>) {
    let (script, turned) = (Script::default(), Arc::new(Notify::new()));
    let checker = Checker::new(script.clone(), 7, turned.clone());
    (script, checker, turned)
}

/// Waits for the next verdict; when it came.
async fn next(turned: &Notify) -> Instant {
    timeout(Duration::from_secs(3600), turned.notified()).await.expect("a verdict");
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn the_first_probe_decides_and_each_server_is_probed_once_an_interval() {
    let (script, mut checker, _) = stage();
    let start = Instant::now();
    script.set(2, Answer::Bad);
    let pools = pool(1..=10, "");
    checker.set_pools(&pools);
    assert_eq!((pools[0].up(), pools[0].has_been_judged()), (10, false), "up until proven down");
    sleep(INTERVAL).await;
    assert_eq!((pools[0].up(), pools[0].has_been_judged()), (9, true));
    sleep(INTERVAL * 9).await;
    for port in 1..=10 {
        let asked = script.asked(port);
        assert!(asked[0] < start + INTERVAL);
        assert!((9..=11).contains(&asked.len()), "{asked:?}");
        assert!(asked.windows(2).all(|two| (two[1] - two[0]).abs_diff(INTERVAL) <= Duration::from_millis(2)));
    }
    let mut first: Vec<_> = (1..=10).map(|port| script.asked(port)[0] - start).collect();
    first.sort();
    let gap = first.windows(2).map(|two| two[1] - two[0]).max();
    assert!(gap < Some(INTERVAL / 4), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_is_out_after_fall_probes_and_back_after_rise() {
    let (script, mut checker, turned) = stage();
    let pools = pool([1], "");
    let server = server(&pools, 1);
    checker.set_pools(&pools);
    next(&turned).await;
    assert_eq!(server.verdict(), Some(Verdict::Up));
    for (answer, longest) in [(Answer::Bad, INTERVAL * 3), (Answer::Silent, INTERVAL * 3 + TIMEOUT)] {
        script.set(1, answer);
        let asked = script.asked(1).len();
        let since = Instant::now();
        let down = next(&turned).await;
        assert_eq!(server.verdict(), Some(Verdict::Down));
        assert_eq!(script.asked(1).len() - asked, 3, "{answer:?}");
        assert!(down - since <= longest + Duration::from_millis(10), "{:?}", down - since);
        script.set(1, Answer::Good);
        let asked = script.asked(1).len();
        next(&turned).await;
        assert_eq!((server.verdict(), script.asked(1).len() - asked), (Some(Verdict::Up), 2));
    }
    assert!(timeout(INTERVAL * 10, turned.notified()).await.is_err(), "each verdict is told once");
}

#[tokio::test(start_paused = true)]
async fn there_are_never_two_probes_of_a_server_at_a_time() {
    let (script, mut checker, _) = stage();
    script.set(1, Answer::Late(Duration::from_secs(3)));
    let pools = pool([1], "timeout = \"5s\"");
    checker.set_pools(&pools);
    sleep(Duration::from_secs(60)).await;
    let asked = script.asked(1);
    assert!(asked.windows(2).all(|two| two[1] - two[0] >= Duration::from_secs(3)), "{asked:?}");
    assert!(asked.len() >= 19, "the next follows at once");
    assert_eq!(server(&pools, 1).verdict(), Some(Verdict::Up));
}

#[tokio::test(start_paused = true)]
async fn what_this_box_cannot_ask_says_nothing_of_the_server() {
    let (script, mut checker, turned) = stage();
    script.set(1, Answer::Hindered);
    let pools = pool([1], "");
    checker.set_pools(&pools);
    sleep(INTERVAL * 20).await;
    assert_eq!((server(&pools, 1).verdict(), pools[0].has_been_judged()), (None, false));
    script.set(1, Answer::Good);
    next(&turned).await;
    assert!(pools[0].has_been_judged());
    script.set(1, Answer::Hindered);
    sleep(INTERVAL * 20).await;
    assert_eq!(server(&pools, 1).verdict(), Some(Verdict::Up));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_what_it_changes() {
    let text = |ports: &[u16], keys: &str| {
        let servers: Vec<String> = ports.iter().map(|port| format!("\"10.0.0.1:{port}\"")).collect();
        format!("[pool.p]\nservers = [{}]\n{keys}", servers.join(", "))
    };
    let (script, mut checker, _) = stage();
    script.set(2, Answer::Bad);
    let one = pools(&text(&[1, 2, 3], "health_check = {}"), &[]);
    checker.set_pools(&one);
    sleep(INTERVAL * 5).await;
    let asked: Vec<_> = [1, 2, 3].map(|port| script.asked(port)).into();

    // A server goes, one comes, the others are probed as they were.
    let two = pools(&text(&[1, 2, 4], "health_check = {}"), &one);
    checker.set_pools(&two);
    sleep(INTERVAL + Duration::from_millis(10)).await;
    for (port, before) in [(1, &asked[0]), (2, &asked[1])] {
        let after = script.asked(port);
        // A second one may just be due: where in the interval a server's probes are depends on its number.
        assert!((1..=2).contains(&(after.len() - before.len())));
        assert!((after[before.len()] - before[before.len() - 1]).abs_diff(INTERVAL) <= Duration::from_millis(2));
    }
    assert_eq!((script.asked(3).len(), server(&one, 3).verdict()), (asked[2].len(), None), "it is forgotten");
    assert_eq!(server(&two, 4).verdict(), Some(Verdict::Up));

    // Another check, the same server: the verdict stays until it is disproved.
    let three = pools(&text(&[1, 2, 4], "health_check = { type = \"http\", interval = \"4s\", rise = 1 }"), &two);
    checker.set_pools(&three);
    assert_eq!(three[0].up(), 2);
    script.set(2, Answer::Good);
    sleep(INTERVAL * 2 + Duration::from_millis(10)).await;
    assert_eq!(three[0].up(), 3);

    // No checks any more.
    script.set(1, Answer::Bad);
    sleep(INTERVAL * 20).await;
    assert_eq!(three[0].up(), 2);
    let four = pools(&text(&[1, 2, 4], ""), &three);
    checker.set_pools(&four);
    let asked = script.asked(1).len();
    sleep(INTERVAL * 20).await;
    assert_eq!((four[0].up(), script.asked(1).len(), server(&four, 1).verdict()), (3, asked, None));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_failed_a_request_is_up_again_after_good_probes() {
    let (_, mut checker, _) = stage();
    let pools = pool([1], "");
    checker.set_pools(&pools);
    sleep(INTERVAL * 2).await;
    let mut state = pools[0].new_state(1);
    let flow = crate::balance::Flow { client: [127, 0, 0, 1].into(), key: b"" };
    let now = crate::time::Millis(1);
    let lease = pools[0].pick(&mut state, &flow, &mut crate::pool::Tried::new(), now).unwrap();
    pools[0].on_failure(&mut state, &lease, now);
    assert_eq!(pools[0].up(), 0);
    sleep(INTERVAL).await;
    assert_eq!(pools[0].up(), 0);
    sleep(INTERVAL + Duration::from_millis(10)).await;
    assert_eq!(pools[0].up(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_probed_once_the_checker_is_gone() {
    let (script, mut checker, _) = stage();
    let pools = pool([1], "");
    checker.set_pools(&pools);
    sleep(INTERVAL * 2).await;
    drop(checker);
    let asked = script.asked(1).len();
    sleep(INTERVAL * 5).await;
    assert_eq!(script.asked(1).len(), asked);
}

#[test]
fn targets_are_what_the_file_says() {
    let text = "[pool.p]\nsource_addresses = [\"::1\", \"192.0.2.1\", \"192.0.2.2\"]\n\
                servers = [\"10.0.0.1:80\", \"[2001:db8::1]:8080\", \"App.example.com.:81\", \"10.0.0.2:82\"]\n";
    let targets = |check: &str| -> Vec<(String, Option<String>, String)> {
        let pools = pools(&format!("{text}[pool.p.health_check]\n{check}"), &[]);
        let pool = &pools[0];
        let target = |(server, host): (&Arc<Server>, &Arc<str>)| {
            let target = Target::new(pool.config.health_check.as_ref().unwrap(), &pool.config, server, host);
            (target.address.to_string(), target.source.map(|source| source.to_string()), target.authority)
        };
        pool.checked().map(target).collect()
    };
    let row = |address: &str, source: &str, authority: &str| (address.into(), Some(source.into()), authority.into());
    assert_eq!(
        targets(""),
        [
            row("10.0.0.1:80", "192.0.2.1", "10.0.0.1"),
            row("[2001:db8::1]:8080", "::1", "[2001:db8::1]:8080"),
            row("127.0.0.9:9", "192.0.2.1", "app.example.com:9"),
            row("10.0.0.2:82", "192.0.2.1", "10.0.0.2:82"),
        ]
    );
    let port = targets("port = 8081");
    assert_eq!(port[0], row("10.0.0.1:8081", "192.0.2.1", "10.0.0.1:8081"));
    assert_eq!(port[1], row("[2001:db8::1]:8081", "::1", "[2001:db8::1]:8081"));
}

// === over the network

/// Nobody runs commands.
fn network() -> Network {
    Network::new(mpsc::unbounded_channel().0)
}

/// Probes `address` with a check of these keys; in words what came out.
async fn probe(address: SocketAddr, keys: &str) -> Result<(), String> {
    probe_from(address, "", keys).await
}

async fn probe_from(address: SocketAddr, pool: &str, keys: &str) -> Result<(), String> {
    let text = format!("[pool.p]\nservers = [\"{address}\"]\n{pool}\n[pool.p.health_check]\n{keys}");
    let pools = pools(&text, &[]);
    let check = pools[0].config.health_check.as_ref().unwrap();
    let (server, host) = pools[0].checked().next().unwrap();
    let target = Target::new(check, &pools[0].config, server, host);
    match timeout(Duration::from_millis(500), network().attempt(&target)).await {
        Ok(result) => result.map(|_| ()).map_err(|failure| failure.to_string()),
        Err(_) => Err("silence".into()),
    }
}

/// A server that answers every connection with `response` once it has got a head; the last head it got.
async fn answering(response: &'static str) -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let heads = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap_or(0);
            *heads.lock().unwrap() = String::from_utf8_lossy(&head[..n]).into_owned();
            let _ = stream.write_all(response.as_bytes()).await;
        }
    });
    (address, seen)
}

/// An address that refuses.
async fn refusing() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // Kept bound, so that nobody else gets the port.
    std::mem::forget(socket);
    address
}

#[tokio::test]
async fn a_tcp_probe_asks_for_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(probe(address, "").await, Ok(()));
    // The server sees those only that have something to say or to hear.
    assert_eq!(probe_from(address, "source_addresses = [\"127.0.0.7\"]", "send = \"x\"").await, Ok(()));
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.7");
    assert_eq!(probe(address, "expect_text = \"x\"").await, Err("silence".into()));
    assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.1");
    // An address that this box does not have now.
    assert_eq!(probe_from(address, "source_addresses = [\"192.0.2.77\"]", "").await, Ok(()));
    let refused = probe(refusing().await, "").await.unwrap_err();
    assert!(refused.starts_with("no connection: Connection refused"), "{refused}");
}

#[tokio::test]
async fn an_http_probe_judges_by_the_status() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let hinted = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let old = "HTTP/1.0 302 Found\r\n\r\n";
    for (response, expect, result) in [
        (ok, "", Ok(())),
        (hinted, "", Ok(())),
        (old, "", Ok(())),
        (unavailable, "", Err("status 503")),
        (unavailable, "expect = [\"2xx\", 503]", Ok(())),
        (old, "expect = \"2xx\"", Err("status 302")),
        (ok, "expect = 204", Err("status 200")),
    ] {
        let (address, _) = answering(response).await;
        let keys = format!("type = \"http\"\n{expect}");
        assert_eq!(probe(address, &keys).await, result.map_err(str::to_owned), "{response:?} {expect}");
    }
}

#[tokio::test]
async fn an_http_probe_sends_what_the_file_says() {
    let (address, seen) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    probe(address, "type = \"http\"").await.unwrap();
    let head = seen.lock().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get / http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {address}\r\n")) && head.contains("\r\nconnection: close\r\n"), "{head}");
    probe(address, "type = \"http\"\npath = \"/ready?full=1\"\nhost = \"shop.example.com\"").await.unwrap();
    let head = seen.lock().unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("get /ready?full=1 http/1.1\r\n") && head.contains("\r\nhost: shop.example.com\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_probe_of_a_server_that_expects_a_header_says_that_it_speaks_for_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut came = vec![0; header.len() + 4];
            stream.read_exact(&mut came).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            came
        };
        let keys = format!("send_proxy_protocol = \"{version}\"");
        let (result, came) = tokio::join!(probe_from(address, &keys, "type = \"http\""), server);
        assert_eq!((result, came), (Ok(()), [header, b"GET "].concat()), "{version}");
    }
}

#[tokio::test]
async fn what_is_not_a_response_is_a_failure() {
    let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(1 << 20)).into_boxed_str());
    for response in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 2000 OK\r\n\r\n", endless] {
        let (address, _) = answering(response).await;
        let failure = probe(address, "type = \"http\"").await.unwrap_err();
        assert!(failure.starts_with("no response: "), "{failure}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(probe(listener.local_addr().unwrap(), "type = \"http\"").await, Err("silence".into()));
}

#[tokio::test]
async fn a_tcp_probe_says_its_line_and_looks_for_the_answer() {
    let (address, seen) = answering("+PONG\r\n").await;
    assert_eq!(probe(address, "send = \"PING\\r\\n\"\nexpect_text = \"PONG\"").await, Ok(()));
    assert_eq!(*seen.lock().unwrap(), "PING\r\n");
    let missed = probe(address, "send = \"PING\\r\\n\"\nexpect_text = \"QUIT\"").await.unwrap_err();
    assert_eq!(missed, "expect_text is not in the answer, which begins with \"+PONG\\r\\n\"");
    // Nobody speaks first here.
    assert_eq!(probe(address, "expect_text = \"PONG\"").await, Err("silence".into()));
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_is_looked_through() {
    let endless: &'static str = Box::leak("a".repeat(1 << 20).into_boxed_str());
    let (address, _) = answering(endless).await;
    let missed = probe(address, "send = \"x\"\nexpect_text = \"b\"").await.unwrap_err();
    assert_eq!(missed, format!("expect_text is not in the answer, which begins with \"{}\"", "a".repeat(64)));
    let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n\r\n{endless}b").into_boxed_str());
    let (address, _) = answering(endless).await;
    assert!(probe(address, "type = \"http\"\nexpect_text = \"b\"").await.unwrap_err().contains("begins with \"aaa"));
}

#[tokio::test]
async fn an_http_probe_has_its_method_and_fields_and_reads_the_body() {
    let body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nread\r\n2\r\ny!\r\n0\r\n\r\n";
    let (address, seen) = answering(body).await;
    let keys =
        "type = \"http\"\nmethod = \"OPTIONS\"\nheaders = { Authorization = \"Basic eDp5\", User-Agent = \"me\" }\n";
    assert_eq!(probe(address, &format!("{keys}expect_text = \"ready!\"")).await, Ok(()));
    let head = seen.lock().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("options / http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: basic edp5\r\n") && head.contains("\r\nuser-agent: me\r\n"), "{head}");
    assert_eq!(head.matches("user-agent").count(), 1);
    let missed = probe(address, &format!("{keys}expect_text = \"steady\"")).await.unwrap_err();
    assert_eq!(missed, "expect_text is not in the answer, which begins with \"ready!\"");
}

#[tokio::test(start_paused = true)]
async fn while_a_verdict_turns_probes_come_faster() {
    let (script, mut checker, turned) = stage();
    let pools = pool([1], "fast_interval = \"200ms\"\nfall = 3\nrise = 2");
    checker.set_pools(&pools);
    next(&turned).await;
    script.set(1, Answer::Bad);
    next(&turned).await;
    let asked = script.asked(1);
    let gaps: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(gaps, [2000, 200, 200], "the first bad one is a whole interval after the good one");
    script.set(1, Answer::Good);
    next(&turned).await;
    sleep(INTERVAL * 2).await;
    let asked = script.asked(1);
    let gaps: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(gaps[..6], [2000, 200, 200, 2000, 200, 2000], "once it is settled they are as slow as ever");
}

/// What is logged, as text.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_flaps_at_every_probe_is_followed_and_logged_once_a_flip() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (script, mut checker, turned) = stage();
    let pools = pool([1], "rise = 1\nfall = 1");
    checker.set_pools(&pools);
    next(&turned).await;
    let flow = crate::balance::Flow { client: [127, 0, 0, 1].into(), key: b"" };
    for flip in 1..=20 {
        let bad = flip % 2 == 1;
        script.set(1, if bad { Answer::Bad } else { Answer::Good });
        next(&turned).await;
        let (mut state, mut tried) = (pools[0].new_state(1), crate::pool::Tried::new());
        let picked = pools[0].pick(&mut state, &flow, &mut tried, crate::time::Millis(1));
        assert_eq!(picked.is_ok(), !bad, "flip {flip}");
        let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), flip, "{lines}");
        let word = if bad { "server is down" } else { "server is up" };
        assert!(lines.lines().last().is_some_and(|line| line.contains(word)), "{lines}");
    }
    assert_eq!(script.asked(1).len(), 21, "every probe was a flip");
}

#[tokio::test]
async fn another_address_may_be_probed() {
    let (address, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let elsewhere = SocketAddr::new("127.0.0.99".parse().unwrap(), address.port());
    assert!(probe(elsewhere, "type = \"http\"").await.unwrap_err().starts_with("no connection"));
    assert_eq!(probe(elsewhere, "type = \"http\"\naddress = \"127.0.0.1\"").await, Ok(()));
}

#[tokio::test]
async fn an_answer_may_have_to_match_a_pattern() {
    let (address, _) = answering("220-mail\r\n220 ready\r\n").await;
    let keys = |pattern: &str| format!("send = \"x\"\nexpect_text = {{ regex = '{pattern}' }}");
    assert_eq!(probe(address, &keys("(?m)^220 ")).await, Ok(()));
    let missed = probe(address, &keys("^250 ")).await.unwrap_err();
    assert!(missed.starts_with("expect_text is not in the answer, which begins with \"220-mail"), "{missed}");
    // The whole body, however it comes.
    let body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nready\r\n4\r\n not\r\n0\r\n\r\n";
    let (address, _) = answering(body).await;
    let keys = |pattern: &str| format!("type = \"http\"\nexpect_text = {{ regex = '{pattern}' }}");
    assert!(probe(address, &keys("^ready$")).await.is_err());
    assert_eq!(probe(address, &keys("^ready.not$")).await, Ok(()));
}

#[tokio::test]
async fn whoever_runs_commands_says_what_came_of_them() {
    let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
    let pools =
        pools("[pool.p]\nservers = [\"10.0.0.1:80\"]\nhealth_check = { type = \"exec\", command = [\"/c\"] }\n", &[]);
    let (server, host) = pools[0].checked().next().unwrap();
    let check = pools[0].config.health_check.as_ref().unwrap();
    let target = Target::new(check, &pools[0].config, server, host);
    assert_eq!(target.limit(), None, "who runs it bounds it");
    tokio::spawn(async move {
        let mut answers = [Some(Ok(())), Some(Err(Failure::Exec("exit status: 1".into()))), None].into_iter();
        while let (Some(order), Some(answer)) = (ordered.recv().await, answers.next()) {
            assert_eq!((&*order.target.pool, &*order.target.server), ("p", "10.0.0.1:80"));
            // Without an answer: dropped.
            if let Some(answer) = answer {
                let _ = order.reply.send(answer);
            }
        }
    });
    let network = Network::new(orders);
    let says = async || network.attempt(&target).await.map_err(|failure| (failure.is_local(), failure.to_string()));
    assert_eq!(says().await, Ok(None));
    assert_eq!(says().await, Err((false, "exit status: 1".into())));
    assert_eq!(says().await, Err((true, "this box cannot probe: the supervisor has run no command".into())));
}
