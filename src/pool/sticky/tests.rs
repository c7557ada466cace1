use crate::config::model::{Override, Overrides};
use crate::health::Verdict;
use crate::pool::tests::checks::with_checks;
use crate::pool::tests::{INPUT, NOW, at, build, build_with, config, spec};
use crate::pool::{PickError, PickState};

use super::*;

const SECRET: &str = "0123456789abcdef";

fn cookie(servers: Vec<model::ServerSpec>) -> model::Pool {
    let cookie =
        StickyCookie { name: "BASCULE".into(), secret: SECRET.into(), attributes: "; Path=/; HttpOnly".into() };
    model::Pool { sticky: Some(model::Sticky::Cookie(cookie)), ..config(servers) }
}

fn learned(key: StickyKey, servers: Vec<model::ServerSpec>) -> model::Pool {
    let table = StickyTable { key, max_entries: 1000, ttl: std::time::Duration::from_secs(60) };
    model::Pool { sticky: Some(model::Sticky::Learned(table)), ..config(servers) }
}

fn by_header(servers: Vec<model::ServerSpec>) -> model::Pool {
    learned(StickyKey::Header("x-user".into()), servers)
}

fn said(pool: &str, server: &str, duty: Duty) -> Overrides {
    let duty = Some(duty);
    Overrides(vec![Override { pool: pool.into(), server: server.into(), duty, weight: None }])
}

/// A client with one cookie, and a worker that serves it.
struct Client {
    cookie: Option<Vec<u8>>,
    state: PickState,
}

/// The value that the fields of a response set.
fn value(fields: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(fields).unwrap();
    text.strip_prefix("Set-Cookie: BASCULE=").unwrap().split(';').next().unwrap().as_bytes().to_vec()
}

impl Client {
    fn new(pool: &Pool) -> Self {
        Self { cookie: None, state: pool.new_state(1) }
    }

    /// A request that the picked server answers; whether it sets a cookie, which is kept.
    fn ask(&mut self, pool: &Pool, now: Millis) -> Result<(String, bool), PickError> {
        let mut tried = Tried::new();
        tried.stick_to(pool.stick_to_cookie(self.cookie.as_deref().into_iter()));
        let lease = pool.pick(&mut self.state, &INPUT, &mut tried, now)?;
        lease.succeeded();
        let fields = pool.keep(&tried, lease.server(), now);
        if let Some(fields) = fields {
            self.cookie = Some(value(fields));
        }
        Ok((lease.server().name.to_string(), fields.is_some()))
    }

    fn asks(&mut self, pool: &Pool) -> (String, bool) {
        self.ask(pool, NOW).unwrap()
    }
}

/// A request of the user `key`, answered.
fn of_user(pool: &Pool, key: &str, now: Millis) -> String {
    let mut tried = Tried::new();
    tried.stick_to(pool.stick_to_key(key.as_bytes(), now));
    let lease = pool.pick(&mut pool.new_state(1), &INPUT, &mut tried, now).unwrap();
    lease.succeeded();
    assert_eq!(pool.keep(&tried, lease.server(), now), None);
    lease.server().name.to_string()
}

fn users(pool: &Pool, now: Millis) -> Vec<String> {
    (0..200).map(|user| of_user(pool, &format!("user-{user}"), now)).collect()
}

fn three() -> Vec<model::ServerSpec> {
    vec![spec(1), spec(2), spec(3)]
}

fn fail(pool: &Pool, name: &str, now: Millis) {
    let server = pool.servers().find(|server| &*server.name == name).unwrap();
    server.start(0, 1).unwrap().failed(now);
}

#[test]
fn a_client_comes_back_to_the_server_of_its_cookie_which_is_set_once() {
    let pool = build(cookie(three()), None);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::new(&pool)).collect();
    let mut state = pool.new_state(1);
    for client in &mut clients {
        std::mem::swap(&mut client.state, &mut state);
        let (first, is_set) = client.asks(&pool);
        assert!(is_set);
        std::mem::swap(&mut client.state, &mut state);
        for _ in 0..5 {
            assert_eq!(client.asks(&pool), (first.clone(), false));
        }
    }
    assert_eq!(pool.sticky_report(NOW), Some(StickyReport { followed: 15, missed: 0, entries: 0 }));
}

#[test]
fn both_boxes_and_every_generation_know_the_servers_by_the_same_cookies() {
    let pool = build(cookie(three()), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    // Another process, with more servers in another order and other weights.
    let other = build(cookie(vec![spec(4), spec(3), spec(2), model::ServerSpec { weight: 9, ..spec(1) }]), None);
    assert_eq!(client.asks(&other), (server, false));
    let ids = |config| {
        let pool = build(config, None);
        let Kind::Cookie(ids) = &pool.sticky.as_deref().unwrap().kind else { panic!("by cookie") };
        ids.iter().map(|named| named.id).collect::<Vec<_>>()
    };
    let first = ids(cookie(three()));
    assert_eq!(first.len(), 3);
    let renamed = model::Pool { name: "other".into(), ..cookie(three()) };
    let mut rekeyed = cookie(three());
    let Some(model::Sticky::Cookie(key)) = &mut rekeyed.sticky else { panic!("by cookie") };
    key.secret = "another secret of 16".into();
    for others in [ids(renamed), ids(rekeyed)] {
        assert!(first.iter().all(|id| !others.contains(id)));
    }
}

/// HMAC-SHA-256 of `pool\0` `1\0`, by another program (Python's hmac): boxes of other versions must agree.
#[test]
fn ids_never_change() {
    let pool = build(cookie(vec![spec(1)]), None);
    let mut client = Client::new(&pool);
    client.asks(&pool);
    assert_eq!(client.cookie.as_deref().unwrap(), b"843638329a89679b07eb7d3ba645e341");
}

#[test]
fn a_cookie_that_names_no_server_is_ignored_and_replaced() {
    let pool = build(cookie(three()), None);
    let mut client = Client::new(&pool);
    client.asks(&pool);
    let good = client.cookie.clone().unwrap();
    let cut = good[..31].to_vec();
    let longer = [&good[..], b"0"].concat();
    let upper = good.to_ascii_uppercase();
    for forged in [cut, longer, upper, Vec::new(), vec![b'0'; 32], vec![0xff; 32]] {
        client.cookie = Some(forged);
        assert!(client.asks(&pool).1);
    }
    // Of several, the first that names one.
    let values = [&b"forged"[..], &good, b"0"];
    assert!(pool.stick_to_cookie(values.into_iter()).server().is_some());
    assert_eq!(pool.sticky_report(NOW).unwrap().missed, 6);
}

#[test]
fn addresses_of_one_name_are_told_apart_and_an_address_may_move_behind_its_name() {
    let named = |port: u16, address: &[u16]| {
        let host = model::ServerAddress::Name { host: "web".into(), port };
        let servers = vec![model::ServerSpec { address: host, name: "web".into(), ..spec(port) }];
        let addresses: Vec<_> = address.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
        Pool::build(&Arc::new(cookie(servers)), |_| addresses.clone(), &Overrides::default(), None)
    };
    let pool = named(80, &[1, 2]);
    let mut client = Client::new(&pool);
    client.asks(&pool);
    let address = |pool: &Pool, client: &Client| {
        let stick = pool.stick_to_cookie(client.cookie.as_deref().into_iter());
        pool.servers().find(|server| Some(server.id) == stick.server()).map(|server| server.address)
    };
    let before = address(&pool, &client).unwrap();
    assert_eq!(address(&named(80, &[2, 3, 1]), &client), Some(before), "one more changes nothing for the others");
    assert_eq!(address(&named(80, &[3]), &client), None);
    let moved = |port| build(cookie(vec![model::ServerSpec { name: "a".into(), ..spec(port) }]), None);
    let pool = moved(1);
    let mut client = Client::new(&pool);
    client.asks(&pool);
    assert_eq!(address(&moved(2), &client).map(|address| address.port()), Some(2));
}

#[test]
fn a_server_in_drain_serves_its_own_clients_and_no_others() {
    let first = build(cookie(vec![spec(1), spec(2)]), None);
    let mut client = Client::new(&first);
    let (server, _) = client.asks(&first);
    let pool = build_with(cookie(vec![spec(1), spec(2)]), &said("pool", &server, Duty::Drain), Some(&first));
    for _ in 0..3 {
        assert_eq!(client.asks(&pool), (server.clone(), false));
        assert_ne!(Client::new(&pool).asks(&pool).0, server);
    }
    // In maintenance it serves nobody, and the client has another for good.
    let gone = build_with(cookie(vec![spec(1), spec(2)]), &said("pool", &server, Duty::Maintenance), Some(&pool));
    let (other, is_set) = client.asks(&gone);
    assert!(is_set && other != server);
    assert_eq!(client.asks(&build(cookie(vec![spec(1), spec(2)]), Some(&gone))), (other, false));
}

#[test]
fn a_server_that_is_down_by_file_or_checks_is_left_even_while_it_drains() {
    let two = || with_checks(cookie(vec![spec(1), spec(2)]));
    let first = build(two(), None);
    let mut client = Client::new(&first);
    let (server, _) = client.asks(&first);
    let drained = build_with(two(), &said("pool", &server, Duty::Drain), Some(&first));
    assert_eq!(client.asks(&drained).0, server);
    drained.servers().find(|s| *s.name == *server).unwrap().judge(Some(Verdict::Down));
    let id = client.cookie.clone();
    assert_ne!(client.asks(&drained).0, server);
    client.cookie = id;
    let down = |spec: model::ServerSpec| model::ServerSpec { down: *spec.name == *server, ..spec };
    let pool = build(cookie(vec![down(spec(1)), down(spec(2))]), None);
    assert_ne!(client.asks(&pool).0, server);
}

#[test]
fn a_server_that_fails_loses_its_clients_for_good() {
    let pool = build(cookie(vec![spec(1), spec(2)]), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    fail(&pool, &server, NOW);
    let (other, is_set) = client.asks(&pool);
    assert!(is_set && other != server);
    // It is back, and they stay where they are now.
    let later = at(60_000);
    assert_eq!(client.ask(&pool, later).unwrap(), (other, false));
    assert_eq!(pool.sticky_report(NOW), Some(StickyReport { followed: 1, missed: 1, entries: 0 }));
}

#[test]
fn a_retry_goes_elsewhere_and_is_remembered() {
    let pool = build(cookie(vec![spec(1), spec(2)]), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    let mut tried = Tried::new();
    tried.stick_to(pool.stick_to_cookie(client.cookie.as_deref().into_iter()));
    let first = pool.pick(&mut client.state, &INPUT, &mut tried, NOW).unwrap();
    assert_eq!(*first.server().name, *server);
    let second = pool.pick(&mut client.state, &INPUT, &mut tried, NOW).unwrap();
    assert_ne!(*second.server().name, *server);
    assert!(pool.keep(&tried, second.server(), NOW).is_some());
    assert_eq!(pool.sticky_report(NOW), Some(StickyReport { followed: 1, missed: 0, entries: 0 }), "one request");
}

#[test]
fn a_server_that_is_full_is_left_for_a_request_only() {
    let full = |port| model::ServerSpec { max_conns: 1, ..spec(port) };
    let pool = build(cookie(vec![full(1), full(2)]), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    let busy = pool.servers().find(|s| *s.name == *server).unwrap().start(0, 1);
    let (other, is_set) = client.asks(&pool);
    assert!(other != server && !is_set);
    drop(busy);
    assert_eq!(client.asks(&pool), (server, false));
}

#[test]
fn a_client_stays_with_the_backup_that_it_was_given() {
    let pool = build(cookie(vec![spec(1), model::ServerSpec { backup: true, ..spec(2) }]), None);
    fail(&pool, "1", NOW);
    let mut client = Client::new(&pool);
    assert_eq!(client.asks(&pool), ("2".to_owned(), true));
    let later = at(60_000);
    assert_eq!(client.ask(&pool, later).unwrap(), ("2".to_owned(), false));
    assert_eq!(Client::new(&pool).ask(&pool, later).unwrap().0, "1");
}

#[test]
fn when_all_have_failed_the_own_server_is_tried_first() {
    let pool = build(cookie(three()), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    ["1", "2", "3"].iter().for_each(|name| fail(&pool, name, NOW));
    assert_eq!(client.asks(&pool), (server, false));
}

#[test]
fn slow_start_and_its_limit_are_for_new_clients() {
    let slow =
        |port| model::ServerSpec { slow_start: Some(std::time::Duration::from_secs(100)), max_conns: 4, ..spec(port) };
    let pool = build(cookie(vec![slow(1), slow(2)]), None);
    let mut client = Client::new(&pool);
    let (server, _) = client.asks(&pool);
    let own = pool.servers().find(|s| *s.name == *server).unwrap();
    own.begin_slow_start();
    let busy = own.start(0, 1);
    assert_eq!(client.asks(&pool), (server.clone(), false));
    assert_ne!(Client::new(&pool).asks(&pool).0, server);
    drop(busy);
}

#[test]
fn both_boxes_give_a_user_the_same_first_server() {
    let (one, other) = (build(by_header(three()), None), build(by_header(vec![spec(3), spec(1), spec(2)]), None));
    let found = users(&one, NOW);
    assert_eq!(found, users(&other, NOW));
    for server in ["1", "2", "3"] {
        let count = found.iter().filter(|name| *name == server).count();
        assert!((40..100).contains(&count), "{server}: {count}");
    }
    assert_eq!(one.sticky_report(NOW).unwrap().entries, 200);
}

#[test]
fn users_stay_through_more_servers_and_other_weights_and_the_return_of_the_dead() {
    let first = build(by_header(three()), None);
    let before = users(&first, NOW);
    let heavier = vec![spec(1), spec(2), model::ServerSpec { weight: 50, ..spec(3) }, spec(4), spec(5)];
    let pool = build(by_header(heavier), Some(&first));
    assert_eq!(users(&pool, NOW), before);
    fail(&pool, "1", NOW);
    let meanwhile = users(&pool, NOW);
    assert!(!meanwhile.contains(&"1".to_owned()));
    assert!(before.iter().zip(&meanwhile).all(|(a, b)| a == "1" || a == b), "only who had to move has moved");
    let later = at(30_000);
    assert_eq!(users(&pool, later), meanwhile, "it is back, and nobody moves again");
    // A minute without a word, and they are new.
    let forgotten = at(200_000);
    assert_eq!(pool.sticky_report(forgotten).unwrap().entries, 0);
    assert_ne!(users(&pool, forgotten), meanwhile);
}

#[test]
fn what_is_remembered_by_another_header_is_forgotten() {
    let first = build(by_header(three()), None);
    users(&first, NOW);
    let other = build(learned(StickyKey::Header("x-session".into()), three()), Some(&first));
    assert_eq!(other.sticky_report(NOW).unwrap().entries, 0);
    let none = build(config(three()), Some(&other));
    assert_eq!((none.sticky_report(NOW), none.is_sticky()), (None, false));
}

#[test]
fn without_the_header_the_algorithm_decides() {
    let pool = build(by_header(vec![spec(1), spec(2)]), None);
    let mut state = pool.new_state(1);
    let mut ask = || {
        let mut tried = Tried::new();
        tried.stick_to(pool.stick_to_key(b"", NOW));
        let lease = pool.pick(&mut state, &INPUT, &mut tried, NOW).unwrap();
        assert_eq!(pool.keep(&tried, lease.server(), NOW), None);
        lease.server().name.to_string()
    };
    assert_eq!([ask(), ask(), ask(), ask()], ["1", "2", "1", "2"]);
    assert_eq!(pool.sticky_report(NOW).unwrap(), StickyReport::default());
}

#[test]
fn sources_are_compared_by_the_bits_of_the_mask() {
    let key = |mask, client: &str| {
        let pool = build(learned(StickyKey::Source { mask }, three()), None);
        pool.stick_to_source(client.parse().unwrap(), NOW).key().unwrap()
    };
    let all = (32, 128);
    assert_eq!(key(all, "192.0.2.1"), key(all, "::ffff:192.0.2.1"));
    assert_ne!(key(all, "192.0.2.1"), key(all, "192.0.2.2"));
    assert_eq!(key((24, 64), "192.0.2.1"), key((24, 64), "192.0.2.200"));
    assert_ne!(key((24, 64), "192.0.2.1"), key((24, 64), "192.0.3.1"));
    assert_eq!(key((24, 64), "2001:db8::1"), key((24, 64), "2001:db8::ffff"));
    assert_ne!(key((24, 64), "2001:db8::1"), key((24, 64), "2001:db8:0:1::1"));
    assert_ne!(key(all, "2001:db8::1"), key(all, "2001:db8::2"));
    assert_ne!(key((1, 1), "128.0.0.0"), key((1, 1), "127.0.0.0"));
}
