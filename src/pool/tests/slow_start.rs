//! Weights that grow.

use crate::health::Verdict;

use super::*;

const SECONDS: u64 = 100;

fn slow(port: u16) -> ServerSpec {
    ServerSpec { slow_start: Some(Duration::from_secs(SECONDS)), max_fails: 3, ..spec(port) }
}

fn of(servers: Vec<ServerSpec>, algorithm: Algorithm) -> model::Pool {
    model::Pool { algorithm, ..config(servers) }
}

fn server<'p>(pool: &'p Pool, name: &str) -> &'p Arc<Server> {
    pool.servers().find(|server| &*server.name == name).unwrap()
}

/// How many of 10 000 picks at each tenth of the slow start of server 1 come to it.
fn shares(algorithm: Algorithm, servers: u16) -> Vec<u32> {
    let mut worker = Worker::new(of((1..=servers).map(slow).collect(), algorithm));
    server(&worker.pool, "1").begin_slow_start();
    worker.names(NOW, 1);
    let share = |tenth: u64| {
        let now = Millis(NOW.0 + tenth * SECONDS * 100);
        worker.names(now, 10_000).iter().filter(|name| *name == "1").count() as u32
    };
    (0..=11).map(share).collect()
}

/// `weight` is the part of its weight that the server has: with `others` at full weight its share of the picks is
/// `weight / (weight + others)`.
fn assert_line(shares: &[u32], others: f64, tolerance: f64) {
    for (tenth, picks) in shares.iter().enumerate() {
        let weight = (tenth as f64 / 10.0).min(1.0);
        let expected = weight / (weight + others) * 10_000.0;
        let off = (f64::from(*picks) - expected).abs();
        assert!(off <= tolerance, "{picks} picks at tenth {tenth}, not {expected}: {shares:?}");
    }
}

#[test]
fn round_robin_and_least_conn_follow_the_line() {
    // Nothing is in flight between the picks: least_conn is the round robin of equals.
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConn] {
        assert_line(&shares(algorithm.clone(), 4), 3.0, 15.0);
        assert_line(&shares(algorithm, 2), 1.0, 15.0);
    }
}

#[test]
fn random_two_follows_the_line() {
    // Each of three is in two of three pairs, and wins half of them: the share grows with the part of the picks that the
    // server takes part in.
    let shares = shares(Algorithm::RandomTwo, 3);
    for (tenth, picks) in shares.iter().enumerate() {
        let expected = (tenth as f64 / 10.0).min(1.0) * 10_000.0 / 3.0;
        assert!((f64::from(*picks) - expected).abs() < 250.0, "{picks} at tenth {tenth}, not {expected}: {shares:?}");
    }
}

#[test]
fn least_conn_with_load_gives_a_part_of_the_load() {
    let mut worker = Worker::new(of(vec![slow(1), slow(2)], Algorithm::LeastConn));
    server(&worker.pool, "1").begin_slow_start();
    worker.names(NOW, 1);
    let now = Millis(NOW.0 + SECONDS * 250);
    let leases: Vec<_> = (0..100).map(|_| worker.pick(now).unwrap()).collect();
    assert_eq!(server(&worker.pool, "1").in_flight(), 20, "a quarter of the weight of the other");
    drop(leases);
}

#[test]
fn hashing_and_first_ignore_it() {
    let key = Template::parse("$uri").unwrap();
    for algorithm in
        [Algorithm::First, Algorithm::IpHash { mask: None }, Algorithm::Hash { key, consistent: Consistent::Ketama }]
    {
        let mut worker = Worker::new(of(vec![slow(1), slow(2)], algorithm));
        let before = worker.names(NOW, 5);
        worker.pool.servers().for_each(|server| server.begin_slow_start());
        assert_eq!(worker.names(NOW, 5), before);
    }
}

#[test]
fn it_begins_when_a_server_comes_back_and_never_at_the_start() {
    let pool = checks::checked(vec![slow(1), slow(2)]);
    let mut worker = Worker::new(pool.clone());
    assert!(!worker.pool.is_growing(NOW), "a start");
    server(&worker.pool, "1").judge(Some(Verdict::Up));
    assert!(!worker.pool.is_growing(NOW), "the first verdict");
    server(&worker.pool, "1").judge(Some(Verdict::Down));
    server(&worker.pool, "1").judge(Some(Verdict::Up));
    assert!(worker.pool.is_growing(NOW), "checks");
    let later = Millis(NOW.0 + SECONDS * 1000);
    assert!(!worker.pool.is_growing(later), "it has grown");

    for _ in 0..3 {
        worker.fail("1", later);
    }
    let trial = later.after(Duration::from_secs(11));
    assert!(!worker.pool.is_growing(trial));
    worker.names(trial, 4);
    assert!(worker.pool.is_growing(trial), "a trial that succeeded");

    let next = build(pool, Some(&worker.pool));
    assert!(next.is_growing(trial), "a reload changes nothing");
    let without = build(config(vec![spec(1), spec(2)]), Some(&next));
    assert!(!without.is_growing(trial));
    let again = build(config(vec![slow(1), slow(2)]), Some(&without));
    assert!(!again.is_growing(trial), "what came back before there was a slow start has its weight");
    let more = build(config(vec![slow(1), slow(2), slow(3)]), Some(&again));
    let shares: Vec<_> = more.report(trial).iter().map(|report| report.share).collect();
    assert_eq!(shares, [100, 100, 0], "a server that joins");
    let others = build(config(vec![slow(4), slow(5)]), Some(&more));
    assert!(!others.is_growing(trial), "nobody takes the load meanwhile");
}

#[test]
fn an_operator_who_says_ready_begins_it() {
    let off = ServerSpec { down: true, ..slow(1) };
    let worker = Worker::new(config(vec![off, slow(2)]));
    let next = build(config(vec![slow(1), slow(2)]), Some(&worker.pool));
    let shares: Vec<_> = next.report(NOW).iter().map(|report| report.share).collect();
    assert_eq!(shares, [0, 100]);
}

#[test]
fn a_single_server_has_all_of_its_weight() {
    let worker = Worker::new(config(vec![slow(1)]));
    server(&worker.pool, "1").begin_slow_start();
    assert!(!worker.pool.is_growing(NOW));
}

#[test]
fn max_conns_grows_too() {
    let limited = |port| ServerSpec { max_conns: 10, ..slow(port) };
    let mut worker = Worker::new(config(vec![limited(1), limited(2)]));
    server(&worker.pool, "1").begin_slow_start();
    worker.names(NOW, 1);
    for (tenth, expected) in [(0, 1), (5, 5), (10, 10)] {
        let now = Millis(NOW.0 + tenth * SECONDS * 100);
        let leases: Vec<_> = std::iter::from_fn(|| worker.pick(now).ok()).collect();
        let of_first = leases.iter().filter(|lease| &*lease.server().name == "1").count();
        assert_eq!((of_first, leases.len()), (expected, expected + 10), "at tenth {tenth}");
    }
}

#[test]
fn a_successor_goes_on_where_it_was() {
    let mut worker = Worker::new(config(vec![slow(1), slow(2)]));
    server(&worker.pool, "1").begin_slow_start();
    worker.names(NOW, 1);
    let now = Millis(NOW.0 + SECONDS * 500);
    let next = Worker::new(config(vec![slow(1), slow(2)]));
    next.pool.import(&worker.pool.export(), now);
    assert_eq!(next.pool.report(now)[0].share, 50);
}
