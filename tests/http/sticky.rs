//! Clients that stay with their server.

use std::net::SocketAddr;

use crate::support::origin::{Answering, Origin, Refusing};
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{Message, Peer, ok};

const COOKIE: &str = "[pool.p.sticky]\ntype = \"cookie\"\nsecret = \"a secret of both boxes\"\n";

fn servers(names: &[&'static str]) -> Vec<Answering> {
    names.iter().map(|name| Answering::with(ok(name))).collect()
}

fn config(servers: &[SocketAddr], keys: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|addr| format!("\"{addr}\"")).collect();
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [{}]\n{keys}\n",
        servers.join(", ")
    )
}

fn addrs(servers: &[Answering]) -> Vec<SocketAddr> {
    servers.iter().map(Answering::addr).collect()
}

/// A request with these fields, on a connection of its own.
fn ask(proxy: &Proxy, fields: &str) -> Message {
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    client.response()
}

/// The cookie that a response sets, as the client sends it back.
fn cookie(response: &Message) -> Option<String> {
    let set = response.field("set-cookie")?;
    Some(format!("Cookie: {}\r\n", set.split(';').next().unwrap()))
}

/// What status says was followed and missed.
fn counts(proxy: &Proxy) -> (u64, u64) {
    let status = proxy.engine().status(|_| 0);
    (status.pools[0].sticky_followed, status.pools[0].sticky_missed)
}

#[test]
fn a_cookie_is_set_once_names_the_server_on_both_boxes_and_is_not_forwarded() {
    let origins = servers(&["one", "two", "three"]);
    let text = config(&addrs(&origins), COOKIE);
    let (proxy, other_box) = (Proxy::start(&text), Proxy::start(&text));
    let first = ask(&proxy, "");
    let set = first.field("set-cookie").unwrap().to_owned();
    assert!(set.starts_with("BASCULE=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    assert_eq!(first.field("cache-control"), Some("private"));
    let own = cookie(&first).unwrap();
    for proxy in [&proxy, &other_box] {
        for _ in 0..4 {
            let again = ask(proxy, &own.replace("Cookie: ", "Cookie: a=1; ").replace("\r\n", "; b=2\r\n"));
            assert_eq!(again.text(), first.text());
            assert_eq!((again.field("set-cookie"), again.field("cache-control")), (None, None));
        }
    }
    assert_eq!((counts(&proxy), counts(&other_box)), ((4, 0), (4, 0)));
    let seen = origins.iter().flat_map(Answering::requests).collect::<Vec<_>>();
    assert!(seen.iter().filter(|request| request.field("cookie") == Some("a=1; b=2")).count() == 8, "{seen:?}");
    // Nothing is left of a field in which it is alone.
    ask(&proxy, &own);
    let seen = origins.iter().flat_map(Answering::requests).collect::<Vec<_>>();
    assert_eq!(seen.iter().filter(|request| request.field("cookie").is_none()).count(), 2);
}

#[test]
fn forged_cookies_are_ignored_and_replaced() {
    let origins = servers(&["one", "two"]);
    let proxy = Proxy::start(&config(&addrs(&origins), COOKIE));
    let own = cookie(&ask(&proxy, "")).unwrap();
    let cut = own.replace("\r\n", "").split_at(own.len() - 4).0.to_owned() + "\r\n";
    for forged in ["Cookie: BASCULE=\r\n", "Cookie: BASCULE=00000000000000000000000000000000\r\n", &cut] {
        assert!(cookie(&ask(&proxy, forged)).is_some(), "{forged}");
    }
    // One of another name or case is none of ours.
    let other = own.replace("BASCULE", "bascule");
    assert!(cookie(&ask(&proxy, &other)).is_some());
    // Of several, the one that is right counts.
    let both = format!("Cookie: BASCULE=old\r\n{own}");
    assert_eq!(cookie(&ask(&proxy, &both)), None);
    let other_secret = Proxy::start(&config(&addrs(&origins), &COOKIE.replace("both", "other")));
    assert!(cookie(&ask(&other_secret, &own)).is_some());
}

#[test]
fn attributes_are_as_configured() {
    let origins = servers(&["one"]);
    let keys = format!(
        "{COOKIE}cookie = \"SRV\"\npath = \"/app\"\ndomain = \"a.test\"\nhttp_only = false\nsecure = true\n\
         same_site = \"None\"\nmax_age = \"2h\"\n"
    );
    let proxy = Proxy::start(&config(&addrs(&origins), &keys));
    let answer = ask(&proxy, "");
    let (name, rest) = answer.field("set-cookie").unwrap().split_once(';').unwrap();
    assert_eq!(rest, " Path=/app; Domain=a.test; Max-Age=7200; Secure; SameSite=None");
    assert_eq!((name.len(), name.starts_with("SRV=")), (4 + 32, true));
}

#[test]
fn a_server_that_dies_hands_its_clients_over_for_good() {
    let dead = Refusing::new();
    let origins = servers(&["alive"]);
    let text = |first: SocketAddr| {
        config(&[first, origins[0].addr()], &format!("max_fails = 1\nfail_timeout = \"1s\"\n{COOKIE}"))
            .replace(&format!("\"{first}\""), &format!("{{ address = \"{first}\", name = \"first\" }}"))
    };
    let proxy = Proxy::start(&text(dead.addr()));
    // On the other box it is still well.
    let well = Answering::with(ok("first"));
    let other_box = Proxy::start(&text(well.addr()));
    let first = [ask(&other_box, ""), ask(&other_box, "")].into_iter().find(|answer| answer.text() == "first").unwrap();
    let own_of_dead = cookie(&first).unwrap();
    let moved = ask(&proxy, &own_of_dead);
    assert_eq!(moved.text(), "alive");
    let own = cookie(&moved).expect("failover sets another cookie");
    let origin = dead.relent();
    // It is back, as new clients see; who has moved stays.
    let answers = std::thread::spawn(move || {
        let (mut server, _) = origin.request();
        server.send(ok("back"));
        (server, origin)
    });
    wait_for("the trial of the server", || (ask(&proxy, "").text() == "back").then_some(()));
    let _kept = answers.join().unwrap();
    assert_eq!((ask(&proxy, &own).text(), cookie(&ask(&proxy, &own))), ("alive", None));
}

#[test]
fn a_full_server_is_passed_by_once_and_keeps_its_client() {
    let (busy, free) = (Origin::new(), Answering::with(ok("free")));
    let proxy = Proxy::start(&config(&[busy.addr(), free.addr()], &format!("max_conns = 1\n{COOKIE}")));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let (mut server, _) = busy.request();
    server.send(ok("busy"));
    let own = cookie(&client.response()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n".to_owned() + &own + "\r\n");
    server.request();
    let other = ask(&proxy, &own);
    assert_eq!((other.text(), cookie(&other)), ("free", None));
    server.send(ok("busy"));
    assert_eq!(client.response().text(), "busy");
}

#[test]
fn an_upgrade_sets_the_cookie_too() {
    let origin = Origin::new();
    let proxy = Proxy::start(&config(&[origin.addr()], COOKIE));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (mut server, _) = origin.request();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = client.head();
    assert_eq!(head.status(), 101);
    assert!(head.field("set-cookie").unwrap().starts_with("BASCULE="));
}

#[test]
fn a_reload_keeps_clients_with_their_servers_whatever_else_changes() {
    let origins = servers(&["one", "two", "three", "four"]);
    let all = addrs(&origins);
    let text = |servers: &[SocketAddr], more: &str| {
        format!("[global]\nworkers = 1\n{}", config(servers, &format!("{more}{COOKIE}")))
    };
    let mut proxy = Proxy::start(&text(&all[..3], ""));
    let clients: Vec<_> = (0..3).map(|_| ask(&proxy, "")).collect();
    proxy.reload(&text(&[all[3], all[2], all[1], all[0]], "algorithm = \"least_conn\"\n"));
    for first in &clients {
        let again = ask(&proxy, &cookie(first).unwrap());
        assert_eq!((again.text(), cookie(&again)), (first.text(), None));
    }
    // One that is gone is gone.
    proxy.reload(&text(&[all[3]], ""));
    assert!(clients.iter().all(|first| ask(&proxy, &cookie(first).unwrap()).text() == "four"));
}

#[test]
fn the_value_of_a_header_finds_the_same_server_on_both_boxes_and_stays_there() {
    let origins = servers(&["one", "two", "three"]);
    let keys = "[pool.p.sticky]\ntype = \"header\"\nheader = \"X-User\"\n";
    let text = |servers: &[SocketAddr]| format!("[global]\nworkers = 2\n{}", config(servers, keys));
    let all = addrs(&origins);
    let (mut proxy, other_box) = (Proxy::start(&text(&all[..2])), Proxy::start(&text(&all[..2])));
    let users = |proxy: &Proxy| -> Vec<String> {
        (0..20).map(|user| ask(proxy, &format!("X-User: user-{user}\r\n")).text().to_owned()).collect()
    };
    let found = users(&proxy);
    assert!(found.contains(&"one".to_owned()) && found.contains(&"two".to_owned()), "{found:?}");
    assert_eq!(users(&other_box), found);
    assert_eq!(users(&proxy), found);
    assert_eq!(counts(&proxy), (20, 0));
    assert_eq!(proxy.engine().status(|_| 0).pools[0].sticky_entries, 20);
    // A server that comes takes nobody away.
    proxy.reload(&text(&all));
    assert_eq!(users(&proxy), found);
    assert!(ask(&proxy, "X-User: user-1\r\n").field("set-cookie").is_none());
}

#[test]
fn a_source_is_the_client_behind_a_trusted_proxy() {
    let origins = servers(&["one", "two"]);
    let text = config(&addrs(&origins), "[pool.p.sticky]\ntype = \"source\"\nmask = { ipv4 = 24 }\n")
        .replace("pool = \"p\"\n[pool", "trusted_proxies = [\"127.0.0.1\"]\npool = \"p\"\n[pool");
    let proxy = Proxy::start(&text);
    let of = |client: &str| ask(&proxy, &format!("X-Forwarded-For: {client}\r\n")).text().to_owned();
    let nets: Vec<String> = (0..16).map(|net| of(&format!("192.0.{net}.1"))).collect();
    assert!(nets.contains(&"one".to_owned()) && nets.contains(&"two".to_owned()), "{nets:?}");
    for (net, server) in nets.iter().enumerate() {
        assert_eq!(of(&format!("192.0.{net}.200")), *server);
    }
    assert_eq!(proxy.engine().status(|_| 0).pools[0].sticky_entries, 16);
}

#[test]
fn tcp_sessions_of_a_source_come_to_the_same_server() {
    let origins = [Origin::new(), Origin::new(), Origin::new()];
    let all: Vec<_> = origins.iter().map(Origin::addr).collect();
    let text = config(&all, "[pool.p.sticky]\ntype = \"source\"\n")
        .replace("pool = \"p\"\n[pool", "protocol = \"tcp\"\npool = \"p\"\n[pool");
    let proxy = Proxy::start(&text);
    let mut taken = Vec::new();
    for _ in 0..5 {
        let client = Peer::connect(proxy.addr());
        taken.push(wait_for("a session", || origins.iter().position(Origin::is_wanted)));
        drop(origins[taken[0]].accept());
        drop(client);
    }
    assert!(taken.iter().all(|server| *server == taken[0]), "{taken:?}");
    assert_eq!(counts(&proxy), (4, 0));
}
