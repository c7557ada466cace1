//! Rate limits, limits of concurrency, and access lists.

use std::fmt::Write as _;

use bascule::proxy::LimitStatus;

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::{Message, get, ok};

/// A listener whose site has routes that answer by themselves: `routes` are name, path and keys of each. `more` are tables.
fn answering(listener: &str, site: &str, routes: &[(&str, &str)], more: &str) -> Proxy {
    let mut text = format!("[listener.l]\nbind = [\"127.0.0.1:80\"]\n{listener}\n[site.s]\n{site}\n");
    for (path, keys) in routes {
        write!(text, "[[site.s.route]]\npath = \"{path}\"\nrespond = {{ body = \"{path}\" }}\n{keys}\n").unwrap();
    }
    Proxy::start(&format!("{text}{more}\n"))
}

/// One request on a connection of its own.
fn ask(proxy: &Proxy, target: &str, fields: &str) -> Message {
    let mut client = proxy.connect();
    client.send(get(target).replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
    client.response()
}

fn statuses(proxy: &Proxy, target: &str, fields: &str, count: usize) -> Vec<u16> {
    (0..count).map(|_| ask(proxy, target, fields).status()).collect()
}

/// What status says of a limit.
fn limit(proxy: &Proxy, name: &str) -> LimitStatus {
    let limits = proxy.engine().status(|_| 0).limits;
    limits.into_iter().find(|limit| &*limit.name == name).expect("a limit of this name")
}

#[test]
fn after_the_burst_a_client_is_told_when_to_come_again() {
    let limit_table = "[limit.slow]\nrate = \"1/h\"\nburst = 2";
    let mut proxy = answering("", "limits = [\"slow\"]", &[("/", "")], limit_table);
    assert_eq!(statuses(&proxy, "/", "", 3), [200, 200, 200]);
    let refused = ask(&proxy, "/", "");
    assert_eq!(refused.status(), 429);
    let seconds: u32 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{seconds}");
    proxy.wait_for_log("GET / 429 reason=rate_limited tries=");
    let LimitStatus { passed, delayed, rejected, keys, evicted, .. } = limit(&proxy, "slow");
    assert_eq!((passed, delayed, rejected, keys, evicted), (3, 0, 1, 1, 0));
    // What the configuration refuses is no failure.
    assert!(proxy.engine().errors().errors.is_empty());
}

#[test]
fn a_key_may_be_a_header_and_without_one_there_is_no_limit() {
    let table = "[limit.key]\nkey = \"$http_x_api_key\"\nrate = \"1/h\"\nstatus = 503";
    let proxy = answering("", "", &[("/", "limits = [\"key\"]"), ("/free", "")], table);
    assert_eq!(statuses(&proxy, "/", "X-Api-Key: a\r\n", 2), [200, 503]);
    assert_eq!(statuses(&proxy, "/", "X-Api-Key: b\r\n", 2), [200, 503]);
    assert_eq!(statuses(&proxy, "/", "", 3), [200, 200, 200]);
    assert_eq!(statuses(&proxy, "/free", "X-Api-Key: a\r\n", 2), [200, 200]);
}

#[test]
fn a_table_is_bounded_and_says_what_it_forgot() {
    let table = "[limit.key]\nkey = \"$cookie_id\"\nrate = \"1/h\"\nmax_keys = 2";
    let proxy = answering("", "limits = [\"key\"]", &[("/", "")], table);
    for id in ["a", "b", "c"] {
        assert_eq!(statuses(&proxy, "/", &format!("Cookie: id={id}\r\n"), 1), [200]);
    }
    let LimitStatus { keys, evicted, .. } = limit(&proxy, "key");
    assert_eq!((keys, evicted), (2, 1));
    assert_eq!(statuses(&proxy, "/", "Cookie: id=c\r\n", 1), [429]);
    assert_eq!(statuses(&proxy, "/", "Cookie: id=a\r\n", 1), [200]);
}

#[test]
fn so_many_are_in_flight_at_a_time_and_tunnels_count_until_they_end() {
    let origin = Origin::new();
    let mut proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\nlimits = [\"one\"]\n[limit.one]\nconcurrent = 1\n\
         [pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    let mut first = proxy.connect();
    first.send(get("/first"));
    let (mut server, _) = origin.request();
    let second = ask(&proxy, "/second", "");
    assert_eq!((second.status(), second.field("retry-after")), (429, None));
    proxy.wait_for_log("/second 429 reason=too_many_concurrent");
    assert_eq!(limit(&proxy, "one").in_flight, 1);
    server.send(ok(""));
    assert_eq!(first.response().status(), 200);
    proxy.wait_for_log("/first 200");
    wait_for("the first to be over", || (limit(&proxy, "one").in_flight == 0).then_some(()));

    first.send(get("/ws").replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"));
    server.request();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(first.head().status(), 101);
    assert_eq!(ask(&proxy, "/third", "").status(), 429);
    drop((first, server));
    wait_for("the tunnel to end", || (limit(&proxy, "one").in_flight == 0).then_some(()));
}

#[test]
fn a_request_of_the_burst_waits_for_its_turn() {
    let table = "[limit.slow]\nrate = \"1/s\"\nburst = 5\ndelay = 1";
    let proxy = answering("", "limits = [\"slow\"]", &[("/", "")], table);
    let mut client = proxy.connect();
    // At once: the second comes early and goes on, the third waits.
    client.send([get("/"), get("/"), get("/")].concat());
    for _ in 0..3 {
        assert_eq!(client.response().status(), 200);
    }
    let LimitStatus { passed, delayed, rejected, .. } = limit(&proxy, "slow");
    assert_eq!((passed, delayed, rejected), (3, 1, 0));
}

#[test]
fn a_client_that_leaves_while_it_waits_is_not_served() {
    let table = "[limit.slow]\nrate = \"1/h\"\nburst = 9\ndelay = \"all\"\nconcurrent = 1";
    let mut proxy = answering("", "limits = [\"slow\"]", &[("/", "")], table);
    assert_eq!(ask(&proxy, "/", "").status(), 200);
    wait_for("the first to be over", || (limit(&proxy, "slow").in_flight == 0).then_some(()));
    let mut client = proxy.connect();
    client.send(get("/waits"));
    wait_for("it to wait", || (limit(&proxy, "slow").in_flight == 1).then_some(()));
    client.reset();
    proxy.wait_for_log("/waits 499 reason=client_gone");
    wait_for("its place to be free", || (limit(&proxy, "slow").in_flight == 0).then_some(()));
    assert_eq!(limit(&proxy, "slow").delayed, 1);
}

#[test]
fn a_reload_keeps_what_is_known_and_applies_the_new_rate() {
    let config = |limit: &str| {
        format!(
            "[listener.l]\nbind = [\"127.0.0.1:80\"]\n[[listener.l.route]]\nrespond = {{ body = \"\" }}\n\
             limits = [\"a\"]\n[limit.a]\n{limit}\n"
        )
    };
    let mut proxy = Proxy::start(&config("rate = \"1/h\""));
    assert_eq!(statuses(&proxy, "/", "", 2), [200, 429]);
    proxy.reload(&config("rate = \"1/h\"\nstatus = 418"));
    assert_eq!(statuses(&proxy, "/", "", 1), [418]);
    proxy.reload(&config("rate = \"1/h\"\nburst = 1"));
    assert_eq!(statuses(&proxy, "/", "", 2), [200, 429]);
    assert_eq!(limit(&proxy, "a").rejected, 3);
    // A million in a second pays back what an hour would.
    proxy.reload(&config("rate = \"1000000/s\""));
    wait_for("the debt to be paid", || (ask(&proxy, "/", "").status() == 200).then_some(()));
    // Another key is another table.
    proxy.reload(&config("rate = \"1/h\"\nkey = \"$host\""));
    assert_eq!(statuses(&proxy, "/", "", 2), [200, 429]);
    assert_eq!(limit(&proxy, "a").rejected, 1);
}

#[test]
fn a_dry_run_counts_and_refuses_nobody() {
    let table = "[limit.a]\nrate = \"1/h\"\ndry_run = true\n[limit.b]\nrate = \"1/h\"\nburst = 5\ndelay = \"all\"\n\
                 dry_run = true";
    let proxy = answering("", "limits = [\"a\", \"b\"]", &[("/", "")], table);
    assert_eq!(statuses(&proxy, "/", "", 3), [200, 200, 200]);
    let a = limit(&proxy, "a");
    assert_eq!((a.passed, a.rejected, a.dry_run), (1, 2, true));
    let b = limit(&proxy, "b");
    assert_eq!((b.passed, b.delayed, b.rejected), (3, 2, 0));
}

#[test]
fn what_one_limit_refuses_is_not_charged_to_another() {
    let table = "[limit.a]\nrate = \"1/h\"\nburst = 2\n[limit.b]\nrate = \"1/h\"";
    let routes = [("/both", "limits = [\"a\", \"b\"]"), ("/a", "limits = [\"a\"]")];
    let proxy = answering("", "", &routes, table);
    assert_eq!(statuses(&proxy, "/both", "", 4), [200, 429, 429, 429]);
    assert_eq!(statuses(&proxy, "/a", "", 3), [200, 200, 429]);
}

#[test]
fn the_limits_of_a_listener_hold_for_every_request_and_those_of_a_route_replace_its_site_s() {
    let table = "[limit.all]\nrate = \"1/h\"\nburst = 3\n[limit.site]\nrate = \"1/h\"\n[limit.route]\nrate = \"1/h\"";
    let routes = [("/a", ""), ("/b", "limits = [\"route\"]"), ("/c", "limits = []")];
    let proxy = answering("limits = [\"all\"]", "limits = [\"site\"]", &routes, table);
    assert_eq!(ask(&proxy, "/a", "").status(), 200);
    assert_eq!(ask(&proxy, "/nowhere", "").status(), 429, "the site's, where no route matches");
    assert_eq!(ask(&proxy, "/b", "").status(), 200);
    assert_eq!(statuses(&proxy, "/c", "", 3), [200, 200, 429], "the listener's");
}

#[test]
fn whom_a_site_or_a_route_denies_gets_403() {
    let routes = [("/", ""), ("/open", "allow = []"), ("/inner", "allow = [\"127.0.0.1\"]\ndeny = [\"127.0.0.0/8\"]")];
    let mut proxy = answering("", "deny = [\"127.0.0.0/8\"]", &routes, "");
    assert_eq!(ask(&proxy, "/", "").status(), 403);
    proxy.wait_for_log("GET / 403 reason=denied");
    assert_eq!(ask(&proxy, "/open", "").status(), 200);
    assert_eq!(ask(&proxy, "/inner", "").status(), 200);
    // A connection goes on after it.
    let mut client = proxy.connect();
    for (target, status) in [("/", 403), ("/open", 200)] {
        client.send(get(target));
        assert_eq!(client.response().status(), status);
    }
    let none = answering("", "deny = [\"127.0.0.0/8\"]", &[("/a", "")], "");
    assert_eq!(ask(&none, "/b", "").status(), 403, "also where no route matches");
}

#[test]
fn behind_a_trusted_proxy_it_is_the_client_that_counts() {
    let table = "[limit.client]\nrate = \"1/h\"\nprefix_ipv4 = 24";
    let site = "allow = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\nlimits = [\"client\"]";
    let listener = "trusted_proxies = [\"127.0.0.1\"]\nallow = [\"127.0.0.1\"]";
    let proxy = answering(listener, site, &[("/", "")], table);
    let from = |client: &str| ask(&proxy, "/", &format!("X-Forwarded-For: {client}\r\n")).status();
    assert_eq!([from("203.0.113.1"), from("203.0.113.2"), from("198.51.100.1")], [200, 429, 200]);
    assert_eq!(from("192.0.2.1"), 403);
    assert_eq!(ask(&proxy, "/", "").status(), 403, "the proxy itself");
    let untrusted = answering("", site, &[("/", "")], table);
    assert_eq!(ask(&untrusted, "/", "X-Forwarded-For: 203.0.113.1\r\n").status(), 403);
}

#[test]
fn whom_a_listener_denies_is_closed_at_accept_until_a_reload_lets_it_in() {
    let config = |keys: &str| {
        format!("[listener.l]\nbind = [\"127.0.0.1:80\"]\n{keys}\n[[listener.l.route]]\nrespond = {{ body = \"\" }}\n")
    };
    let mut proxy = Proxy::start(&config("deny = [\"127.0.0.0/8\"]"));
    proxy.connect().expect_end();
    let denied = |proxy: &Proxy| proxy.engine().status(|_| 0).listeners[0].denied;
    assert_eq!((denied(&proxy), proxy.engine().connections()), (1, 0));
    proxy.reload(&config("allow = [\"127.0.0.0/8\", \"::1\"]"));
    let let_in = || {
        let mut client = proxy.connect();
        client.try_send("GET / HTTP/1.0\r\n\r\n").ok()?;
        let (answer, _) = client.rest();
        answer.starts_with(b"HTTP/1.1 200 ").then_some(())
    };
    wait_for("the new list to be in force", let_in);
}
