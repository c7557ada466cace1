//! `protocol = "tcp"` end to end, with the real binary.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "support/fault_origin.rs"]
mod fault_origin;
mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fault_origin::{
    BlackHole, Refusing, assert_reset, connect_small, descriptors, finish, handing_server, limit_descriptors,
    log_lines, read_to_end, receive_checked, reset, send_pattern, serve_on, server, without_root,
};
use socket2::{Domain, Socket, Type};
use support::{Instance, connect, echo, echo_server, free_addr, wait_for};

/// A running instance with one TCP listener.
struct Proxy {
    instance: Instance,
    addr: SocketAddr,
}

impl Proxy {
    /// In front of `servers`, with more keys of the listener and of the pool.
    fn start(servers: &[SocketAddr], listener: &str, pool: &str) -> Self {
        Self::start_with("", servers, listener, pool)
    }

    fn start_with(global: &str, servers: &[SocketAddr], listener: &str, pool: &str) -> Self {
        let addr = free_addr();
        let servers: Vec<_> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        let config = format!(
            "[global]\nworkers = 1\n{global}\n[access_log]\npath = \"{{dir}}/access.log\"\nformat = \"detailed\"\n\
             [listener.l]\nbind = [\"{addr}\"]\nprotocol = \"tcp\"\npool = \"p\"\n{listener}\n\
             [pool.p]\nservers = [{}]\n{pool}\n",
            servers.join(", ")
        );
        Self { instance: Instance::start(&config), addr }
    }

    fn connect(&self) -> TcpStream {
        connect(self.addr).unwrap()
    }

    /// A connection that is reset, be it while it is made.
    fn expect_reset(&self) {
        match connect(self.addr) {
            Ok(client) => assert_reset(&client),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    /// Its access log, once there are `count` lines.
    fn log(&self, count: usize) -> Vec<String> {
        log_lines(&self.instance.dir().join("access.log"), count)
    }
}

/// The value of `name=` in a line of the access log.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name}= in {line}"))
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    // The client is the first to have said everything.
    let mut client = proxy.connect();
    client.write_all(b"question").unwrap();
    finish(&client);
    let mut server = accepted.next();
    assert_eq!(read_to_end(&server), b"question");
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(read_to_end(&client), b"answer");
    // The server is.
    let mut client = proxy.connect();
    let mut server = accepted.next();
    server.write_all(b"greeting").unwrap();
    finish(&server);
    assert_eq!(read_to_end(&client), b"greeting");
    client.write_all(b"reply").unwrap();
    drop(client);
    assert_eq!(read_to_end(&server), b"reply");
    drop(server);
    for line in proxy.log(2) {
        assert_eq!(field(&line, "reason"), "-", "{line}");
    }
}

#[test]
fn a_session_leaves_a_line_in_the_access_log() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let mut client = proxy.connect();
    client.write_all(b"12345").unwrap();
    finish(&client);
    let mut server = accepted.next();
    let local_port = server.peer_addr().unwrap().port().to_string();
    assert_eq!(read_to_end(&server), b"12345");
    server.write_all(b"1234567").unwrap();
    drop(server);
    read_to_end(&client);
    let line = &proxy.log(1)[0];
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("] \"-\" 200 7 \"-\" \"-\" "), "status and bytes to the client: {line}");
    assert_eq!(field(line, "server"), format!("p/{addr}"));
    assert_eq!(field(line, "tries"), "1");
    assert_eq!(field(line, "local_port"), local_port);
    assert_eq!(field(line, "reason"), "-");
    for time in ["connect", "total"] {
        field(line, time).parse::<f64>().unwrap();
    }
}

#[test]
fn silence_for_idle_timeout_ends_a_session_and_bytes_keep_it() {
    let proxy = Proxy::start(&[echo_server()], "idle_timeout = \"1s\"", "");
    let silent = proxy.connect();
    let busy = proxy.connect();
    silent.set_nonblocking(true).unwrap();
    // The busy one talks at a pace of its own until the silent one is gone; it must then be there.
    wait_for("the end of the silent session", || {
        echo(&busy).unwrap();
        match (&silent).read(&mut [0]) {
            Ok(0) => Some(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            other => panic!("{other:?}"),
        }
    });
    echo(&busy).unwrap();
    let line = &proxy.log(1)[0];
    assert_eq!(field(line, "reason"), "idle_timeout");
    assert!(field(line, "total").parse::<f64>().unwrap() >= 1.0, "{line}");
}

#[test]
fn a_reset_of_the_client_resets_the_server() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let (client, server) = (proxy.connect(), accepted.next());
    pass_bytes(&client, &server);
    reset(client);
    assert_reset(&server);
    assert_eq!(field(&proxy.log(1)[0], "reason"), "client_gone");
}

#[test]
fn a_reset_of_the_server_resets_the_client() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let (client, server) = (proxy.connect(), accepted.next());
    // Before the proxy has seen the connection made, this would be a failure to connect.
    pass_bytes(&client, &server);
    reset(server);
    assert_reset(&client);
    assert_eq!(field(&proxy.log(1)[0], "reason"), "reset_in_body");
}

#[test]
fn a_reset_after_a_half_close_is_passed_on_while_the_other_side_is_silent() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let client = proxy.connect();
    finish(&client);
    let server = accepted.next();
    assert_eq!(read_to_end(&server), b"");
    reset(client);
    assert_eq!(field(&proxy.log(1)[0], "reason"), "client_gone");
    // What a socket hears after its end of stream shows when it is written to.
    wait_for("the reset", || (&server).write(b"x").err());
    let client = proxy.connect();
    let server = accepted.next();
    finish(&server);
    assert_eq!(read_to_end(&client), b"");
    reset(server);
    assert_eq!(field(&proxy.log(2)[1], "reason"), "reset_in_body");
    wait_for("the reset", || (&client).write(b"x").err());
}

#[test]
fn a_reset_is_passed_on_while_the_other_side_does_not_read() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    for (client_resets, ended) in [(true, 1), (false, 2)] {
        let client = proxy.connect();
        let server = accepted.next();
        let (source, dest) = if client_resets { (client, server) } else { (server, client) };
        source.set_nonblocking(true).unwrap();
        let mut quiet = 0;
        // Until nothing has been taken for a while: both sockets, the proxy between them included, are full.
        wait_for("full buffers", || {
            quiet = if (&source).write(&[0; 65536]).is_ok() { 0 } else { quiet + 1 };
            (quiet > 20).then_some(())
        });
        reset(source);
        proxy.log(ended);
        assert_reset(&dest);
    }
    let reasons: Vec<_> = proxy.log(2).iter().map(|line| field(line, "reason").to_owned()).collect();
    assert_eq!(reasons, ["client_gone", "reset_in_body"]);
}

#[test]
fn another_server_is_tried_when_one_refuses_and_the_refusing_one_is_left_out() {
    let refusing = Refusing::new();
    let good = echo_server();
    let proxy = Proxy::start(&[refusing.addr, good], "", "max_fails = 1\nfail_timeout = \"600s\"");
    for _ in 0..6 {
        echo(&proxy.connect()).unwrap();
    }
    let lines = proxy.log(6);
    let tries: Vec<_> = lines.iter().map(|line| field(line, "tries")).collect();
    assert_eq!(tries.iter().filter(|&&t| t == "2").count(), 1, "{tries:?}");
    assert_eq!(tries.iter().filter(|&&t| t == "1").count(), 5, "{tries:?}");
    for line in &lines {
        assert_eq!(field(line, "server"), format!("p/{good}"));
    }
}

#[test]
fn a_failed_server_is_tried_again_after_fail_timeout() {
    let refusing = Refusing::new();
    let first = refusing.addr;
    let proxy = Proxy::start(&[first, echo_server()], "", "max_fails = 1\nfail_timeout = \"1s\"");
    for _ in 0..4 {
        echo(&proxy.connect()).unwrap();
    }
    serve_on(refusing.listen(), |mut stream| {
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
    });
    let mut sessions = 4;
    wait_for("a session on the server that is back", || {
        echo(&proxy.connect()).unwrap();
        sessions += 1;
        proxy.log(sessions).iter().any(|line| field(line, "server") == format!("p/{first}")).then_some(())
    });
}

#[test]
fn a_client_whose_servers_all_refuse_is_reset() {
    let refusing = [Refusing::new(), Refusing::new()];
    let proxy = Proxy::start(&refusing.each_ref().map(|r| r.addr), "", "");
    proxy.expect_reset();
    let line = &proxy.log(1)[0];
    assert!(line.contains(" \"-\" 502 0 "), "{line}");
    assert_eq!(field(line, "tries"), "2");
    assert_eq!(field(line, "reason"), "connect_refused");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_after_connect_timeout() {
    let hole = BlackHole::new();
    let proxy = Proxy::start(&[hole.addr, echo_server()], "", "connect_timeout = \"300ms\"\nmax_fails = 0");
    for _ in 0..2 {
        echo(&proxy.connect()).unwrap();
    }
    let lines = proxy.log(2);
    let slow = lines.iter().find(|line| field(line, "tries") == "2").expect("a session that tried both");
    assert!(field(slow, "connect").parse::<f64>().unwrap() >= 0.3, "{slow}");

    let proxy = Proxy::start(&[hole.addr], "", "connect_timeout = \"300ms\"");
    proxy.expect_reset();
    assert_eq!(field(&proxy.log(1)[0], "reason"), "connect_timeout");
}

#[test]
fn connections_to_servers_come_from_source_addresses_in_turn() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let addr = server(move |mut stream| {
        noted.lock().unwrap().push(stream.peer_addr().unwrap().ip().to_string());
        stream.write_all(b"x").unwrap();
    });
    let proxy = Proxy::start(&[addr], "", "source_addresses = [\"127.0.0.2\", \"127.0.0.3\"]");
    for _ in 0..4 {
        assert_eq!(read_to_end(&proxy.connect()), b"x");
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
}

#[test]
fn keep_alive_probes_are_on_towards_client_and_server() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "tcp_keepalive = \"7s\"", "tcp_keepalive = \"9s\"");
    let (client, server) = (proxy.connect(), accepted.next());
    pass_bytes(&client, &server);
    let towards_client = keepalive_in(proxy.addr, client.local_addr().unwrap());
    let towards_server = keepalive_in(server.peer_addr().unwrap(), addr);
    assert!((1..=7).contains(&towards_client), "{towards_client}");
    assert!((1..=9).contains(&towards_server), "{towards_server}");
}

/// Passes a byte each way.
fn pass_bytes(mut client: &TcpStream, mut server: &TcpStream) {
    client.write_all(b"q").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"a").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

/// Seconds until the keep-alive timer of the connection goes off (/proc/net/tcp: timer 2, in hundredths of a second).
fn keepalive_in(local: SocketAddr, remote: SocketAddr) -> u64 {
    let hex = |a: SocketAddr| match a.ip() {
        std::net::IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), a.port()),
        std::net::IpAddr::V6(_) => panic!("IPv4 only"),
    };
    let ends = format!("{} {} 01 ", hex(local), hex(remote));
    wait_for("a keep-alive timer", || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let line = table.lines().find(|line| line.contains(&ends))?;
        let timer = line.split_whitespace().find_map(|word| word.strip_prefix("02:"))?;
        Some(u64::from_str_radix(timer, 16).unwrap().div_ceil(100))
    })
}

#[test]
fn connections_beyond_max_connections_are_closed_at_accept() {
    let proxy = Proxy::start(&[echo_server()], "max_connections = 2", "");
    let first = proxy.connect();
    let second = proxy.connect();
    echo(&first).unwrap();
    echo(&second).unwrap();
    assert_eq!(read_to_end(&proxy.connect()), b"");
    proxy.instance.wait_for_log("max_connections reached");
    echo(&first).unwrap();
    drop(second);
    wait_for("room for another", || echo(&proxy.connect()).ok());
}

const MIB_64: usize = 64 * 1024 * 1024;

/// 64 MiB each way at once: lengths and checksums of what was sent and received.
fn bulk_both_ways(client: &TcpStream, server: &TcpStream) {
    thread::scope(|scope| {
        let up = scope.spawn(|| send_pattern(client, 1, MIB_64 / 65536));
        let down = scope.spawn(|| send_pattern(server, 2, MIB_64 / 65536));
        let got_up = scope.spawn(|| receive_checked(server));
        let got_down = receive_checked(client);
        assert_eq!(got_up.join().unwrap(), (MIB_64, up.join().unwrap()));
        assert_eq!(got_down, (MIB_64, down.join().unwrap()));
    });
}

#[test]
fn bulk_goes_through_pipes_unharmed_both_ways_at_once() {
    if without_root() {
        return;
    }
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let pid = proxy.instance.proxy_pid();
    let pipes = || descriptors(pid).iter().filter(|d| d.starts_with("pipe:")).count();
    let before = pipes();
    // Only a flow that fills its buffers is spliced, and on a busy machine not every sender keeps ahead of the proxy.
    let spliced = (0..5).any(|_| {
        let client = proxy.connect();
        bulk_both_ways(&client, &accepted.next());
        pipes() > before
    });
    assert!(spliced, "nothing was spliced");
    let line = &proxy.log(1)[0];
    assert!(line.contains(&format!(" \"-\" 200 {MIB_64} ")), "{line}");
    // A pipe that served one session serves others, and gives them nothing but their own.
    for _ in 0..3 {
        let client = proxy.connect();
        bulk_both_ways(&client, &accepted.next());
    }
    let most = before + 2 * 2;
    assert!(pipes() <= most, "{} descriptors of pipes, {before} before: more than two of one direction each", pipes());
}

#[test]
fn bulk_is_copied_when_no_pipe_can_be_made() {
    if without_root() {
        return;
    }
    let (addr, accepted) = handing_server();
    // Limits of a process can be changed by its own user only, unless one may do everything.
    let proxy = Proxy::start_with("user = \"root\"", &[addr], "", "");
    let client = proxy.connect();
    let server = accepted.next();
    let pid = proxy.instance.proxy_pid();
    limit_descriptors(pid, 0);
    let before = descriptors(pid).len();
    bulk_both_ways(&client, &server);
    assert!(descriptors(pid).len() <= before);
    assert_eq!(field(&proxy.log(1)[0], "reason"), "-");
}

#[test]
fn a_slow_reader_gets_all_of_what_was_sent_before_the_end() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let client = connect_small(proxy.addr, 4096);
    let server = accepted.next();
    let sender = thread::spawn(move || send_pattern(&server, 3, 64));
    let (length, sum) = receive_checked(&client);
    assert_eq!((length, sum), (64 * 65536, sender.join().unwrap()));
    // The client's direction is still open.
    drop(client);
    assert_eq!(field(&proxy.log(1)[0], "reason"), "-");
}

#[test]
fn sessions_of_one_worker_do_not_wait_for_each_other() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "", "");
    let pairs: Vec<_> = (0..200).map(|_| (proxy.connect(), accepted.next())).collect();
    for (client, server) in &pairs {
        pass_bytes(client, server);
    }
    for (client, server) in pairs.iter().rev() {
        pass_bytes(client, server);
    }
    // No deadline was set that a session could have run into.
    client_read_blocks(&pairs[0].0);
}

/// Checks that the connection is open and nothing is there to read.
fn client_read_blocks(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let error = (&*stream).read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}

#[test]
fn a_client_has_so_many_connections_at_a_time() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "limits = [\"few\"]", "[limit.few]\nconcurrent = 2\nrate = \"1/h\"\nburst = 2");
    let (first, second) = (proxy.connect(), proxy.connect());
    let servers = [accepted.next(), accepted.next()];
    proxy.expect_reset();
    let line = &proxy.log(1)[0];
    assert!(line.contains("\" 503 0 "), "{line}");
    assert_eq!(field(line, "reason"), "too_many_concurrent");
    // One of them ends; who was refused was not charged, so that one of the burst is left.
    drop(servers);
    assert_eq!(read_to_end(&first), b"");
    drop(first);
    proxy.log(2);
    let _third = proxy.connect();
    let _server = accepted.next();
    drop(second);
    proxy.log(3);
    proxy.expect_reset();
    assert_eq!(field(&proxy.log(4)[3], "reason"), "rate_limited");
}

#[test]
fn whom_a_listener_denies_reaches_no_server() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "allow = [\"127.0.0.2\"]", "");
    assert_eq!(read_to_end(&proxy.connect()), b"");
    let allowed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    allowed.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    allowed.connect(&proxy.addr.into()).unwrap();
    assert_eq!(accepted.next().peer_addr().unwrap().ip(), proxy.addr.ip());
}
