//! What verdicts of active checks do to picks.

use crate::config::model::{HealthCheck, Probe, TcpProbe};
use crate::health::{Pace, Thresholds, Verdict};

use super::*;

pub(super) fn checked(servers: Vec<ServerSpec>) -> model::Pool {
    with_checks(config(servers))
}

/// The same with checks.
pub(in crate::pool) fn with_checks(config: model::Pool) -> model::Pool {
    let check = HealthCheck {
        probe: Probe::Tcp(TcpProbe::default()),
        pace: Pace { interval: Duration::from_secs(2), fast_interval: Duration::from_secs(2), jitter: 0 },
        timeout: Duration::from_secs(1),
        thresholds: Thresholds { rise: 2, fall: 3 },
        initial: None,
        port: None,
        address: None,
        tls: false,
    };
    model::Pool { health_check: Some(Arc::new(check)), ..config }
}

fn judge(pool: &Pool, name: &str, verdict: Verdict) {
    pool.servers().find(|server| &*server.name == name).unwrap().judge(Some(verdict));
}

#[test]
fn servers_that_checks_find_down_get_nothing_even_when_all_are() {
    let mut worker = Worker::new(checked(vec![spec(1), spec(2), ServerSpec { backup: true, ..spec(3) }]));
    assert_eq!(worker.pool.up(), 3, "up until proven down");
    judge(&worker.pool, "1", Verdict::Down);
    assert_eq!(worker.names(NOW, 2), ["2"; 2]);
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (2, 2));
    judge(&worker.pool, "2", Verdict::Down);
    assert_eq!(worker.names(NOW, 1), ["3"]);
    judge(&worker.pool, "3", Verdict::Down);
    assert_eq!(worker.names(NOW, 1), ["NoServer"], "fail_open is for failures of requests");
    assert!(!worker.pool.has_untried(&Tried::new(), NOW));
    judge(&worker.pool, "1", Verdict::Up);
    assert_eq!(worker.names(NOW, 1), ["1"]);
}

#[test]
fn failing_open_stops_at_what_checks_say() {
    let mut worker = Worker::new(checked(vec![spec(1), spec(2)]));
    worker.fail("1", NOW);
    judge(&worker.pool, "2", Verdict::Down);
    assert_eq!(worker.names(NOW, 2), ["1"; 2]);
}

#[test]
fn a_server_that_comes_up_begins_anew() {
    let mut worker = Worker::new(checked(vec![spec(1), spec(2)]));
    worker.fail("1", NOW);
    judge(&worker.pool, "1", Verdict::Up);
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (1, 1), "the first verdict forgives nothing");
    judge(&worker.pool, "1", Verdict::Down);
    judge(&worker.pool, "1", Verdict::Up);
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (2, 2));
}

#[test]
fn a_server_that_is_well_is_up_again_without_traffic() {
    let mut worker = Worker::new(checked(vec![spec(1)]));
    worker.fail("1", NOW);
    assert_eq!(worker.pool.up(), 0);
    worker.pool.servers().for_each(|server| server.found_well());
    assert_eq!(worker.pool.up(), 1);

    let mut worker = Worker::new(checked(vec![spec(1), spec(2)]));
    worker.fail("1", NOW);
    worker.pool.servers().for_each(|server| server.found_well());
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (2, 1), "fail_timeout bounds picks as ever");
}

#[test]
fn verdicts_outlive_snapshots_but_not_the_checks() {
    let worker = Worker::new(checked(vec![spec(1), spec(2)]));
    judge(&worker.pool, "1", Verdict::Down);
    let next = build(checked(vec![spec(1), spec(2), spec(3)]), Some(&worker.pool));
    assert_eq!((next.up(), next.total()), (2, 3));
    let unchecked = build(config(vec![spec(1), spec(2)]), Some(&next));
    assert_eq!(unchecked.up(), 2);
    assert!(unchecked.checked().next().is_none());
}

#[test]
fn verdicts_are_handed_over_to_another_process() {
    let worker = Worker::new(checked(vec![spec(1), spec(2)]));
    judge(&worker.pool, "1", Verdict::Down);
    judge(&worker.pool, "2", Verdict::Up);
    let states: Vec<ServerState> =
        serde_json::from_str(&serde_json::to_string(&worker.pool.export()).unwrap()).unwrap();
    let next = Worker::new(checked(vec![spec(1), spec(2)]));
    next.pool.import(&states, NOW);
    assert_eq!((next.pool.up(), next.pool.has_been_judged()), (1, true));
    let unchecked = Worker::new(config(vec![spec(1), spec(2)]));
    unchecked.pool.import(&states, NOW);
    assert!(unchecked.pool.servers().all(|server| server.verdict().is_none()));
}

#[test]
fn a_pool_has_been_judged_once_every_server_was() {
    assert!(Worker::new(config(vec![spec(1)])).pool.has_been_judged(), "without checks");
    let down = ServerSpec { down: true, ..spec(3) };
    assert!(Worker::new(checked(vec![down.clone()])).pool.has_been_judged(), "nothing to check");
    let name = ServerSpec { address: ServerAddress::Name { host: "a".into(), port: 80 }, ..spec(4) };
    assert!(!Worker::new(checked(vec![name.clone()])).pool.has_been_judged(), "no address");

    let worker = Worker::new(checked(vec![spec(1), ServerSpec { backup: true, ..spec(2) }, down, name]));
    assert_eq!(worker.pool.checked().count(), 2);
    judge(&worker.pool, "1", Verdict::Up);
    assert!(!worker.pool.has_been_judged());
    judge(&worker.pool, "2", Verdict::Down);
    assert!(worker.pool.has_been_judged());
    let more = build(checked(vec![spec(1), spec(9)]), Some(&worker.pool));
    assert!(more.has_been_judged(), "a server that comes later changes nothing");
    let without = build(config(vec![spec(1)]), Some(&more));
    assert!(without.has_been_judged());
    assert!(!build(checked(vec![spec(9)]), Some(&without)).has_been_judged(), "these checks are new");
}

#[tokio::test(start_paused = true)]
async fn who_waits_learns_of_a_verdict() {
    let servers = vec![ServerSpec { max_conns: 1, ..spec(1) }, ServerSpec { max_conns: 1, ..spec(2) }];
    let pool = build(model::Pool { queue: 10, ..checked(servers) }, None);
    judge(&pool, "2", Verdict::Down);
    let state = RefCell::new(pool.new_state(1));
    let busy = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).unwrap();
    let wait = async || pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await;
    let then = async |name, verdict| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        judge(&pool, name, verdict);
    };
    let (picked, ()) = tokio::join!(wait(), then("2", Verdict::Up));
    let picked = picked.unwrap();
    assert_eq!(&*picked.server().name, "2");
    judge(&pool, "2", Verdict::Down);
    let (picked, ()) = tokio::join!(wait(), then("1", Verdict::Down));
    assert_eq!(picked.unwrap_err(), PickError::NoServer, "waiting would not help any more");
    drop(busy);
}

/// `pool` with checks that begin with a verdict.
fn beginning(with: Verdict, pool: model::Pool) -> model::Pool {
    let check = pool.health_check.as_deref().unwrap().clone();
    model::Pool { health_check: Some(Arc::new(HealthCheck { initial: Some(with), ..check })), ..pool }
}

#[test]
fn a_server_begins_as_the_file_says_until_it_is_checked() {
    let servers = || vec![spec(1), spec(2)];
    for (with, up) in [(Verdict::Down, 0), (Verdict::Up, 2)] {
        let worker = Worker::new(beginning(with, checked(servers())));
        assert_eq!((worker.pool.up(), worker.pool.has_been_judged()), (up, false), "{with:?}");
        // A successor is told nothing that nobody has found out.
        assert!(worker.pool.export().iter().all(|state| state.verdict.is_none()));
        judge(&worker.pool, "1", with);
        judge(&worker.pool, "2", with);
        assert!(worker.pool.has_been_judged());
    }
}

#[test]
fn what_a_former_proxy_found_out_wins_over_the_initial_state() {
    let before = Worker::new(checked(vec![spec(1), spec(2)]));
    judge(&before.pool, "1", Verdict::Up);
    let mut after = Worker::new(beginning(Verdict::Down, checked(vec![spec(1), spec(2)])));
    after.pool.import(&before.pool.export(), NOW);
    assert_eq!(after.names(NOW, 2), ["1"; 2]);
    assert!(!after.pool.has_been_judged(), "of 2 nothing is known");
}

#[test]
fn only_servers_that_do_not_serve_yet_begin_down() {
    let worker = Worker::new(config(vec![spec(1)]));
    let with = beginning(Verdict::Down, checked(vec![spec(1), spec(2)]));
    let next = build(with, Some(&worker.pool));
    let verdicts: Vec<_> = next.servers().map(|server| server.verdict()).collect();
    assert_eq!(verdicts, [None, Some(Verdict::Down)], "checks that are new take nobody out unasked");
}
