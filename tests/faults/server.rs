//! Servers that refuse, hang, break off and say too much.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::http::{Client, Ending, OK, Reply, get, good_server, http_server};
use crate::fault_origin::{BlackHole, Refusing, handing_server, reset};
use crate::{Proxy, field};

/// Sends `text`, then resets the connection.
fn say_and_reset(stream: &mut TcpStream, text: &str) -> bool {
    stream.write_all(text.as_bytes()).unwrap();
    reset(stream.try_clone().unwrap());
    false
}

/// Reply and log line to one GET with a server that does `answer`.
fn exchange(pool: &str, answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> (Reply, String) {
    let proxy = Proxy::start(&[http_server(answer)], pool);
    let reply = get(proxy.http);
    (reply, proxy.log(1).remove(0))
}

#[test]
fn a_refused_request_goes_to_the_next_server() {
    let refusing = Refusing::new();
    let proxy = Proxy::start(&[refusing.addr, good_server()], "");
    for _ in 0..4 {
        assert_eq!(get(proxy.http).body, b"ok");
    }
    assert_eq!(proxy.log(4).iter().filter(|line| field(line, "tries") == "2").count(), 1);
}

#[test]
fn a_request_that_every_server_refuses_is_answered_502() {
    let refusing = [Refusing::new(), Refusing::new()];
    let proxy = Proxy::start(&refusing.each_ref().map(|r| r.addr), "");
    assert_eq!(get(proxy.http).status, 502);
    assert_eq!(field(&proxy.log(1)[0], "tries"), "2");
    assert_eq!(proxy.reason(1), "connect_refused");
}

#[test]
fn a_server_that_swallows_connection_attempts_is_given_up_after_connect_timeout() {
    let hole = BlackHole::new();
    let proxy = Proxy::start(&[hole.addr, good_server()], "connect_timeout = \"300ms\"");
    for _ in 0..2 {
        assert_eq!(get(proxy.http).body, b"ok");
    }
    assert!(proxy.log(2).iter().any(|line| field(line, "tries") == "2"));

    let proxy = Proxy::start(&[hole.addr], "connect_timeout = \"300ms\"");
    assert_eq!(get(proxy.http).status, 504);
    assert_eq!(proxy.reason(1), "connect_timeout");
}

#[test]
fn half_a_head_is_no_reply() {
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Le";
    let close = |stream: &mut TcpStream| {
        stream.write_all(HALF.as_bytes()).unwrap();
        false
    };
    let (reply, line) = exchange("", close);
    assert_eq!((reply.status, field(&line, "reason")), (502, "reset_before_head"));
    let (reply, line) = exchange("", |stream| say_and_reset(stream, HALF));
    assert_eq!((reply.status, field(&line, "reason")), (502, "reset_before_head"));
    let (reply, line) = exchange("read_timeout = \"300ms\"", |stream| stream.write_all(HALF.as_bytes()).is_ok());
    assert_eq!((reply.status, field(&line, "reason")), (504, "read_timeout"));
    // A request that may be repeated is, elsewhere.
    let proxy = Proxy::start(&[http_server(close), good_server()], "");
    for _ in 0..2 {
        assert_eq!(get(proxy.http).body, b"ok");
    }
}

#[test]
fn a_reset_inside_the_body_never_looks_like_its_end() {
    let bodies = [
        ("Content-Length: 100\r\n\r\npart", false),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", false),
        ("Transfer-Encoding: chunked\r\n\r\n64\r\npart", false),
        ("\r\npart", false),
        // An orderly end breaks off a body that has a length.
        ("Content-Length: 100\r\n\r\npart", true),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", true),
    ];
    for (text, orderly) in bodies {
        let (server, accepted) = handing_server();
        let proxy = Proxy::start(&[server], "");
        for version in ["1.1", "1.0"] {
            let mut client = Client::connect(proxy.http);
            client.send(&format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n")).unwrap();
            let mut stream = accepted.next();
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{text}").as_bytes()).unwrap();
            // The beginning has arrived when it breaks off.
            let (status, _) = client.reply_head().unwrap();
            assert_eq!(status, 200);
            if orderly {
                drop(stream)
            } else {
                reset(stream)
            }
            assert_eq!(ending(&mut client), Ending::Reset, "{text:?} to HTTP/{version}");
        }
        for line in proxy.log(2) {
            assert_eq!(field(&line, "reason"), "reset_in_body", "{text:?}");
        }
    }
}

/// How the connection ends, whatever comes before.
fn ending(client: &mut Client) -> Ending {
    match std::io::Read::read_to_end(&mut client.0, &mut Vec::new()) {
        Ok(_) => Ending::Closed,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ending::Reset,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_slow_reply_takes_longer_than_read_timeout_as_long_as_bytes_come() {
    let (reply, line) = exchange("read_timeout = \"2s\"", |stream| {
        for byte in OK {
            // The pace is the point: the whole takes more than the timeout.
            sleep(Duration::from_millis(60));
            stream.write_all(&[*byte]).unwrap();
        }
        true
    });
    assert_eq!((reply.status, &reply.body[..], reply.ending), (200, &b"ok"[..], Ending::Complete));
    assert!(field(&line, "total").parse::<f64>().unwrap() > 2.0, "{line}");
}

#[test]
fn a_body_that_stands_still_is_cut_after_read_timeout() {
    let (reply, line) = exchange("read_timeout = \"300ms\"", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").is_ok()
    });
    assert_eq!(reply.ending, Ending::Reset);
    assert!(b"part".starts_with(&reply.body), "{reply:?}");
    assert_eq!(field(&line, "reason"), "read_timeout");
}

#[test]
fn what_a_server_says_after_its_reply_reaches_nobody() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = http_server(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&[OK, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"].concat()).is_ok()
    });
    let proxy = Proxy::start(&[server], "");
    let mut client = Client::connect(proxy.http);
    for _ in 0..5 {
        assert_eq!(client.get().unwrap().body, b"ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5);
    let ports: std::collections::BTreeSet<_> =
        proxy.log(5).iter().map(|line| field(line, "local_port").to_owned()).collect();
    assert_eq!(ports.len(), 5, "a connection with bytes left over was used again");
}

#[test]
fn a_server_that_dies_while_idle_is_not_noticed_by_clients() {
    let (server, accepted) = handing_server();
    let proxy = Proxy::start(&[server], "keepalive_timeout = \"60s\"");
    let mut client = Client::connect(proxy.http);
    for round in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut stream = accepted.next();
        stream.write_all(OK).unwrap();
        assert_eq!(client.reply().unwrap().body, b"ok");
        // The idle connection goes, in order or not; the next request finds a new one.
        if round % 2 == 0 { drop(stream) } else { reset(stream) }
    }
}
