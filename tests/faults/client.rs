//! Clients that stop reading, hardly send, or are very many.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::http::{Client, get, good_server};
use crate::fault_origin::{connect_small, handing_server, server};
use crate::support::{connect, wait_for};
use crate::{Keys, Proxy};

const GIB: u64 = 1 << 30;

/// Growth of the proxy's memory that any stalled transfer may cause, kilobytes.
const GROWTH: u64 = 16 * 1024;

/// Lets this process have `count` descriptors.
fn want_descriptors(count: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|now| now < count) {
        assert!(maximum.is_none_or(|most| most >= count), "this test needs {count} descriptors: ulimit -Hn");
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    }
}

/// Writes zeroes until `total` bytes are taken or nobody takes them; counts them meanwhile.
fn pour(mut stream: &TcpStream, total: u64, count: &AtomicU64) {
    let block = vec![0; 64 * 1024];
    while count.load(Ordering::Relaxed) < total && stream.write_all(&block).is_ok() {
        count.fetch_add(block.len() as u64, Ordering::Relaxed);
    }
}

/// Waits until a counter has stood still for a while.
fn stalled(count: &AtomicU64) -> u64 {
    let mut last = (u64::MAX, 0);
    wait_for("the flow to stand still", || {
        let now = count.load(Ordering::Relaxed);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (now > 0 && last.1 >= 40).then_some(now)
    })
}

/// Reads and throws away everything up to the end.
fn drain(mut stream: impl Read) -> u64 {
    let mut block = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut block).unwrap() {
            0 => return total,
            n => total += n as u64,
        }
    }
}

/// A server that sends `head`, then a gibibyte, whatever it is asked; and how much of that was taken.
fn gibibyte_server(head: &'static str) -> (SocketAddr, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let addr = server(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(head.as_bytes()).unwrap();
        pour(&stream, GIB, &counted);
    });
    (addr, count)
}

/// Asks for a gibibyte, takes nothing for a while, then all of it; the proxy's memory hardly grows.
fn stops_reading(to: impl Fn(&Proxy) -> SocketAddr, head: &'static str, request: &str) {
    let (addr, count) = gibibyte_server(head);
    let proxy = Proxy::start(&[addr], "");
    let before = proxy.memory("VmHWM");
    let mut client = connect_small(to(&proxy), 64 * 1024);
    client.write_all(request.as_bytes()).unwrap();
    let taken = stalled(&count);
    assert!(taken < GIB / 4, "{taken} bytes went somewhere");
    let grown = proxy.memory("VmHWM") - before;
    assert!(grown < GROWTH, "{grown} kB more while the client did not read");
    assert!(drain(&client) >= GIB);
    let grown = proxy.memory("VmHWM") - before;
    assert!(grown < GROWTH, "{grown} kB more in all");
    println!("a stalled gibibyte costs {grown} kB");
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[test]
fn a_client_that_stops_reading_a_gibibyte_costs_little_memory() {
    stops_reading(|p| p.http, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", ASK);
    // Until close, and so in chunks of ours.
    stops_reading(|p| p.http, "HTTP/1.1 200 OK\r\n\r\n", ASK);
    stops_reading(|p| p.tcp, "", "x");
}

#[test]
fn a_server_that_stops_reading_a_gibibyte_costs_little_memory() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "max_body_size = \"off\"");
    let heads = [
        (proxy.http, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1073741824\r\n\r\n"),
        (proxy.tcp, "x"),
    ];
    for (to, head) in heads {
        let before = proxy.memory("VmHWM");
        let mut client = connect(to).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        let count = AtomicU64::new(0);
        let server = accepted.next();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pour(&client, GIB, &count);
                // The end, for the server that waits for it.
                client.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let taken = stalled(&count);
            assert!(taken < GIB / 4, "{taken} bytes went somewhere");
            assert!(drain((&server).take(GIB)) == GIB);
        });
        let grown = proxy.memory("VmHWM") - before;
        assert!(grown < GROWTH, "{grown} kB more");
    }
}

#[test]
fn slow_heads_of_2000_clients_hold_up_nobody_and_end_with_408() {
    want_descriptors(5000);
    let keys = Keys { listener: "header_timeout = \"6s\"", ..Keys::default() };
    let proxy = Proxy::start_with(&[good_server()], &keys);
    get(proxy.http);
    let before = proxy.memory("VmRSS");
    let mut slow: Vec<_> = (0..2000).map(|_| connect(proxy.http).unwrap()).collect();
    for (round, part) in ["GET / HTTP/1.1\r\nHost", ": h\r\nX-A: ", "b\r\nX-", "C: d"].iter().enumerate() {
        for client in &mut slow {
            client.write_all(part.as_bytes()).unwrap();
        }
        let mut normal = Client::connect(proxy.http);
        for _ in 0..50 {
            assert_eq!(normal.get().unwrap().body, b"ok", "round {round}");
            assert_eq!(get(proxy.http).body, b"ok", "round {round}");
        }
    }
    let grown = proxy.memory("VmRSS").saturating_sub(before);
    assert!(grown < GROWTH, "{grown} kB more");
    println!("2,000 slow heads cost {grown} kB");
    for client in slow {
        assert_eq!(Client::new(client).reply().unwrap().status, 408);
    }
}

/// Idle keep-alive connections after a request each may cost this much memory, bytes.
const IDLE_COST: u64 = 1229;

#[test]
fn an_idle_connection_costs_little_memory() {
    const COUNT: u64 = 9000;
    want_descriptors(COUNT + 500);
    // Lines on their way to the access log are no cost of idle connections.
    let proxy = Proxy::start_with(&[good_server()], &Keys { log: None, ..Keys::default() });
    let mut idle = Vec::new();
    let open = || {
        let mut client = connect(proxy.http).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\nok") {
            let mut part = [0; 1024];
            let n = client.read(&mut part).unwrap();
            assert_ne!(n, 0);
            reply.extend_from_slice(&part[..n]);
        }
        client
    };
    // What is made once, buffers for instance, is no cost of a connection.
    idle.extend((0..100).map(|_| open()));
    let before = proxy.memory("VmRSS");
    idle.extend((0..COUNT).map(|_| open()));
    let each = (proxy.memory("VmRSS") - before) * 1024 / COUNT;
    println!("an idle connection costs {each} bytes");
    assert!(each <= IDLE_COST, "{each} bytes each");
    // They are alive, all of them.
    for client in idle.iter_mut().step_by(500) {
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_ne!(client.read(&mut [0; 1024]).unwrap(), 0);
    }
}

#[test]
fn a_client_that_leaves_inside_a_reply_takes_its_server_connection_along() {
    let (addr, accepted) = handing_server();
    let proxy = Proxy::start(&[addr], "");
    let mut client = Client::connect(proxy.http);
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut server = accepted.next();
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\npart").unwrap();
    client.reply_head().unwrap();
    drop(client);
    let block = [0; 65536];
    let error = wait_for("the end", || server.write(&block).err());
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert_eq!(proxy.reason(1), "client_gone");
}
