//! What most tests begin with: two boxes and their configuration, and a client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::bascule::Bascule;
use super::owners::Owners;
use crate::lab::{Host, Lab};
use crate::support::PATIENCE;

/// Ten intervals of a [`router`].
pub(crate) const A_WHILE: Duration = Duration::from_secs(1);

/// Boxes 1 and 2, of priorities 200 and 100 and with `more` keys, the address on 1, and whoever watches them.
pub(crate) fn pair<'a>(lab: &'a Lab, more: &str) -> (Owners, Bascule<'a>, Bascule<'a>) {
    let owners = Owners::watch(lab);
    let first = Bascule::start(&lab.hosts[0], &router(51, 200, more));
    owners.wait_for(vip(51), &[1]);
    let second = Bascule::start(&lab.hosts[1], &router(51, 100, more));
    second.wait_until_heard("r51", 2);
    (owners, first, second)
}

/// A table `[vrrp.rVRID]` of version 3 every 100 ms, with the address of [`vip`], and with `more` keys, which come first.
pub(crate) fn router(vrid: u8, priority: u8, more: &str) -> String {
    let address = format!("[\"{}/24\"]", vip(vrid));
    let defaults = [("version", "3"), ("advert_interval", "\"100ms\""), ("virtual_addresses", &address)];
    let missing = defaults.iter().filter(|(key, _)| !more.lines().any(|line| line.starts_with(key)));
    let keys: String = missing.map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!("[vrrp.r{vrid}]\nvirtual_router_id = {vrid}\npriority = {priority}\n{keys}{more}\n")
}

/// The address of a [`router`].
pub(crate) fn vip(vrid: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, vrid])
}

/// Asks `ip` by HTTP, on a connection of its own; the body, which is the number of the box.
pub(crate) fn get(ip: IpAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, 80), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("answer {answer:?}"))),
    }
}

/// Clients in `host` that ask `ip` again and again while `act` runs: how many requests were answered, and what became of
/// the others.
pub(crate) fn ask_while(host: &Host, ip: IpAddr, act: impl FnOnce()) -> (usize, Vec<String>) {
    let over = AtomicBool::new(false);
    let client = || {
        let (mut answered, mut lost) = (0, Vec::new());
        while !over.load(Ordering::Relaxed) {
            match get(ip) {
                Ok(_) => answered += 1,
                Err(e) => lost.push(e.to_string()),
            }
        }
        (answered, lost)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| host.run(client))).collect();
        act();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().fold((0, Vec::new()), |(answered, mut lost), client| {
            let (more, others) = client.join().unwrap();
            lost.extend(others);
            (answered + more, lost)
        })
    })
}
