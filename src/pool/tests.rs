pub(super) mod checks;
mod circuit;
mod ejection;
mod panic;
mod report;
mod roles;
mod slow_start;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::config::model::{self, Algorithm, Consistent, ServerAddress, ServerSpec};
use crate::template::Template;

use super::*;

pub(super) const INPUT: PickInput<'static> = Flow { client: IpAddr::V4(Ipv4Addr::LOCALHOST), key: b"key" };
pub(super) const NOW: Millis = Millis(1_000_000);

/// A server at 127.0.0.1:`port` with nginx's defaults, named by its port.
pub(super) fn spec(port: u16) -> ServerSpec {
    ServerSpec {
        address: ServerAddress::Ip((Ipv4Addr::LOCALHOST, port).into()),
        name: port.to_string().into(),
        weight: 1,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        max_conns: 0,
        slow_start: None,
        backup: false,
        down: false,
    }
}

pub(super) fn config(servers: Vec<ServerSpec>) -> model::Pool {
    let retry = model::Retry { retries: 2, on: model::RetryOn::default(), timeout: None, non_idempotent: false };
    model::Pool {
        name: "pool".into(),
        algorithm: Algorithm::RoundRobin,
        servers,
        fail_open: true,
        http_version: model::HttpVersion::Http1,
        tls: None,
        keepalive: 32,
        keepalive_timeout: Duration::from_secs(4),
        keepalive_requests: 1000,
        keepalive_time: Duration::from_secs(3600),
        queue: 0,
        queue_timeout: Duration::from_secs(5),
        send_proxy_protocol: None,
        source_addresses: Vec::new(),
        tcp_keepalive: None,
        connect_timeout: Duration::from_secs(5),
        retry,
        retry_budget: model::RetryBudget { percent: 20, min: 3 },
        fallback: None,
        panic_threshold: None,
        sticky: None,
        ejection: None,
        circuit_breaker: None,
        health_check: None,
        primaries: crate::health::roles::Policy::One,
    }
}

pub(super) fn build(config: model::Pool, previous: Option<&Pool>) -> Pool {
    build_with(config, &Overrides::default(), previous)
}

/// The same with what the operator says of servers.
pub(super) fn build_with(config: model::Pool, overrides: &Overrides, previous: Option<&Pool>) -> Pool {
    let fixed = |spec: &ServerSpec| match spec.address {
        ServerAddress::Ip(address) => vec![address],
        ServerAddress::Name { .. } => Vec::new(),
    };
    Pool::build(&Arc::new(config), fixed, overrides, previous)
}

fn strict(servers: Vec<ServerSpec>) -> model::Pool {
    model::Pool { fail_open: false, ..config(servers) }
}

/// A pool and one worker's state of it.
struct Worker {
    pool: Pool,
    state: PickState,
}

impl Worker {
    fn new(config: model::Pool) -> Self {
        let pool = build(config, None);
        Self { state: pool.new_state(1), pool }
    }

    fn try_pick(&mut self, tried: &mut Tried, now: Millis) -> Result<Lease, PickError> {
        self.pool.pick(&mut self.state, &INPUT, tried, now)
    }

    fn pick(&mut self, now: Millis) -> Result<Lease, PickError> {
        self.try_pick(&mut Tried::new(), now)
    }

    /// Names of the servers of one request each, all of which succeed.
    fn names(&mut self, now: Millis, count: usize) -> Vec<String> {
        let name = |picked: Result<Lease, PickError>| {
            picked.map_or_else(
                |error| format!("{error:?}"),
                |lease| {
                    lease.succeeded();
                    lease.server().name.to_string()
                },
            )
        };
        (0..count).map(|_| name(self.pick(now))).collect()
    }

    fn fail(&mut self, name: &str, now: Millis) -> Failure {
        let server = self.pool.servers().find(|server| &*server.name == name).unwrap();
        let max_fails = self.pool.members().find(|m| Arc::ptr_eq(&m.server, server)).unwrap().limits.max_fails;
        let lease = server.start(0, max_fails).unwrap();
        self.pool.on_failure(&mut self.state, &lease, now)
    }

    /// Requests in turn, retried on other servers as long as they come to one whose name ends in 9, which refuses.
    fn trace(&mut self, requests: usize) -> String {
        let mut request = || {
            let mut tried = Tried::new();
            let mut path = Vec::new();
            while let Ok(lease) = self.try_pick(&mut tried, NOW) {
                let name = lease.server().name.clone();
                let refuses = name.ends_with('9');
                path.push(name[4..].to_owned());
                if !refuses {
                    lease.succeeded();
                    break;
                }
                self.pool.on_failure(&mut self.state, &lease, NOW);
            }
            path.join(">")
        };
        (0..requests).map(|_| request()).collect::<Vec<_>>().join(" ")
    }
}

pub(super) fn at(ms: u64) -> Millis {
    Millis(NOW.0 + ms)
}

/// Recorded from nginx 1.22.1: the servers that each request was sent to, 9 refusing connections.
#[test]
fn retries_and_weights_after_failures_are_those_of_nginx() {
    let weighted = |port, weight| ServerSpec { weight, ..spec(port) };
    for fail_open in [false, true] {
        let run = |servers, requests| Worker::new(model::Pool { fail_open, ..config(servers) }).trace(requests);
        let refusing = ServerSpec { weight: 6, max_fails: 3, ..spec(23109) };
        assert_eq!(
            run(vec![weighted(23101, 4), refusing, weighted(23102, 2)], 20),
            "9>1 1 2 9>1 1 9>2 1 1 2 1 1 2 1 1 2 1 1 2 1 1"
        );
        let refusing = ServerSpec { weight: 2, max_fails: 0, ..spec(23109) };
        assert_eq!(
            run(vec![weighted(23101, 3), refusing, spec(23102)], 16),
            "1 9>1 2 1 9>1 1 2 1 9>1 1 9>1 2 1 9>1 1 2"
        );
        let refusing = ServerSpec { max_fails: 2, ..spec(23109) };
        let backup = |port, weight| ServerSpec { backup: true, ..weighted(port, weight) };
        assert_eq!(run(vec![refusing, backup(23101, 1), backup(23102, 2)], 12), "9>2 9>1 2 2 1 2 2 1 2 2 1 2");
    }
}

#[test]
fn max_fails_failures_make_a_server_unavailable_once() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_fails: 2, ..spec(1) }, spec(2)]));
    assert!(!worker.fail("1", NOW).became_unavailable);
    assert_eq!(worker.pool.available(NOW), 2);
    assert!(worker.fail("1", NOW).became_unavailable);
    assert!(!worker.fail("1", NOW).became_unavailable, "one log line per flip");
    assert_eq!(worker.pool.available(NOW), 1);
    assert_eq!(worker.names(NOW, 3), ["2", "2", "2"]);
    assert_eq!(worker.pool.servers().next().unwrap().failures(), 3);
}

#[test]
fn one_trial_per_fail_timeout_decides() {
    let mut worker = Worker::new(config(vec![spec(1), spec(2)]));
    worker.fail("1", NOW);
    assert_eq!(worker.names(at(10_000), 4), ["2"; 4], "not yet: nginx waits for more than fail_timeout");

    let mut trials: Vec<Lease> = (0..6).map(|_| worker.pick(at(10_001)).unwrap()).collect();
    trials.retain(|lease| &*lease.server().name == "1");
    assert_eq!(trials.len(), 1, "one trial, however many requests come meanwhile");
    assert!(!worker.pool.on_failure(&mut worker.state, &trials[0], at(10_050)).became_unavailable);
    assert_eq!(worker.names(at(20_050), 4), ["2"; 4], "the failed trial starts the time anew");

    let trial = (0..6).map(|_| worker.pick(at(20_051)).unwrap()).find(|lease| &*lease.server().name == "1").unwrap();
    assert!(trial.succeeded(), "available again");
    assert!(!trial.succeeded(), "said once");
    let mut names = worker.names(at(20_052), 2);
    names.sort();
    assert_eq!(names, ["1", "2"]);
}

#[test]
fn a_success_clears_failures_only_when_a_window_has_passed() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_fails: 2, ..spec(1) }, spec(2)]));
    worker.fail("1", NOW);
    worker.names(at(10_000), 4);
    assert!(worker.fail("1", at(10_000)).became_unavailable, "two failures within fail_timeout");

    let mut worker = Worker::new(config(vec![ServerSpec { max_fails: 2, ..spec(1) }, spec(2)]));
    worker.fail("1", NOW);
    worker.names(at(10_001), 4);
    assert!(!worker.fail("1", at(10_001)).became_unavailable, "a success in a new window has cleared the first");
}

#[test]
fn a_trial_that_finds_no_room_is_not_used_up() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_conns: 1, ..spec(1) }, spec(2)]));
    let member = &worker.pool.tiers[0].members[0];
    let held = member.lease(select::Failures::Respected, false, NOW).unwrap();
    held.failed(NOW);
    assert!(member.lease(select::Failures::Respected, false, at(10_001)).is_none());
    drop(held);
    assert!(worker.names(at(10_001), 2).contains(&"1".to_owned()));
}

#[test]
fn max_fails_0_counts_for_nothing() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_fails: 0, ..spec(1) }, spec(2)]));
    for _ in 0..5 {
        assert!(!worker.fail("1", NOW).became_unavailable);
    }
    assert_eq!(worker.names(NOW, 2), ["1", "2"]);
}

#[test]
fn a_single_server_is_never_unavailable_by_failures() {
    let mut worker = Worker::new(strict(vec![spec(1)]));
    assert!(!worker.fail("1", NOW).became_unavailable);
    assert_eq!(worker.names(NOW, 1), ["1"]);

    let mut worker = Worker::new(strict(vec![spec(1), ServerSpec { backup: true, ..spec(2) }]));
    assert!(worker.fail("1", NOW).became_unavailable, "a backup switches the rule off");
    assert_eq!(worker.names(NOW, 1), ["2"]);
}

#[test]
fn a_failed_server_is_up_again_only_after_a_success() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_fails: 2, ..spec(1) }, spec(2)]));
    assert_eq!((worker.pool.up(), worker.pool.total()), (2, 2));
    worker.fail("1", NOW);
    assert_eq!(worker.pool.up(), 2);
    worker.fail("1", NOW);
    assert_eq!(worker.pool.up(), 1);
    assert_eq!((worker.pool.available(at(10_001)), worker.pool.up()), (2, 1), "time alone heals nothing");
    let trial = (0..2).map(|_| worker.pick(at(10_001)).unwrap()).find(|l| &*l.server().name == "1").unwrap();
    assert_eq!(worker.pool.up(), 1, "nor does a trial");
    worker.pool.on_failure(&mut worker.state, &trial, at(10_002));
    assert_eq!(worker.pool.up(), 1);
    let trial = (0..2).map(|_| worker.pick(at(20_003)).unwrap()).find(|l| &*l.server().name == "1").unwrap();
    assert!(trial.succeeded());
    assert_eq!(worker.pool.up(), 2);
}

#[test]
fn a_single_server_that_fails_is_used_but_not_up() {
    let mut worker = Worker::new(strict(vec![ServerSpec { max_fails: 2, ..spec(1) }]));
    worker.fail("1", NOW);
    assert_eq!(worker.names(NOW, 1), ["1"]);
    worker.fail("1", NOW);
    assert_eq!(worker.pool.up(), 1, "a success in between");
    worker.fail("1", NOW);
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (0, 1));
    let next = Worker::new(strict(vec![ServerSpec { max_fails: 2, ..spec(1) }]));
    next.pool.import(&worker.pool.export(), NOW);
    assert_eq!(next.pool.up(), 0, "a successor knows it");
    assert_eq!(worker.names(at(1), 1), ["1"]);
    assert_eq!(worker.pool.up(), 1);
}

#[test]
fn what_is_not_to_count_does_not_take_a_server_down_either() {
    let servers = vec![ServerSpec { max_fails: 0, ..spec(1) }, ServerSpec { down: true, ..spec(2) }];
    let mut worker = Worker::new(config(servers));
    worker.fail("1", NOW);
    assert_eq!((worker.pool.up(), worker.pool.total()), (1, 2), "one is down as written");
}

#[test]
fn down_servers_get_nothing_whatever_happens() {
    let down = ServerSpec { down: true, ..spec(1) };
    assert_eq!(Worker::new(config(vec![down.clone()])).names(NOW, 1), ["NoServer"]);
    let mut worker = Worker::new(config(vec![down, spec(2)]));
    worker.fail("2", NOW);
    assert_eq!(worker.names(NOW, 3), ["2"; 3]);
}

#[test]
fn without_fail_open_failures_empty_a_pool() {
    let mut worker = Worker::new(strict(vec![spec(1), spec(2)]));
    worker.fail("1", NOW);
    worker.fail("2", NOW);
    assert_eq!(worker.names(at(1), 1), ["NoServer"]);
}

#[test]
fn with_fail_open_failures_never_empty_a_tier_and_a_success_ends_them() {
    let mut worker = Worker::new(config(vec![spec(1), spec(2), ServerSpec { down: true, ..spec(3) }]));
    worker.fail("1", NOW);
    worker.fail("2", NOW);
    assert_eq!(worker.pool.available(NOW), 0);
    let leases: Vec<Lease> = (0..4).map(|_| worker.pick(at(1)).unwrap()).collect();
    let on = |name| leases.iter().find(|lease| &*lease.server().name == name).unwrap();
    let (a, b) = (on("1"), on("2"));
    assert!(a.succeeded());
    b.failed(at(2));
    assert!(!b.succeeded(), "not after a failure since it was picked");
    assert_eq!(worker.names(at(3), 3), ["1"; 3], "who lives is now known");
}

#[test]
fn a_backup_that_works_is_preferred_to_failing_open() {
    let backup = ServerSpec { backup: true, max_conns: 1, ..spec(3) };
    let mut worker = Worker::new(config(vec![spec(1), spec(2), backup]));
    worker.fail("1", NOW);
    worker.fail("2", NOW);
    let held = worker.pick(at(1)).unwrap();
    assert_eq!(&*held.server().name, "3");
    let open = worker.pick(at(1)).unwrap();
    assert_ne!(&*open.server().name, "3", "the backup is full, so the servers are tried");
    drop(held);
    worker.fail("3", at(1));
    assert_ne!(worker.names(at(1), 1), ["3"], "all have failed: servers before backups");
}

#[test]
fn one_request_tries_each_server_once() {
    let mut worker = Worker::new(config((1..=20).map(spec).collect()));
    let mut tried = Tried::new();
    let ids: std::collections::HashSet<u32> =
        (0..20).map(|_| worker.try_pick(&mut tried, NOW).unwrap().server().id).collect();
    assert_eq!((ids.len(), tried.len()), (20, 20));
    assert_eq!(worker.try_pick(&mut tried, NOW).unwrap_err(), PickError::NoServer);
}

#[test]
fn what_was_tried_is_known_in_the_next_snapshot_too() {
    let old = build(config(vec![spec(1), spec(2)]), None);
    let mut tried = Tried::new();
    let lease = old.pick(&mut old.new_state(0), &INPUT, &mut tried, NOW).unwrap();
    assert_eq!(&*lease.server().name, "1");
    let new = build(config(vec![spec(2), spec(1)]), Some(&old));
    let mut state = new.new_state(0);
    assert_eq!(&*new.pick(&mut state, &INPUT, &mut tried, NOW).unwrap().server().name, "2");
    assert!(new.on_failure(&mut state, &lease, NOW).became_unavailable, "a lease of the old one reports to the new");
}

#[test]
fn max_conns_is_kept_and_told_apart_from_no_server() {
    let limited = |port| ServerSpec { max_conns: 2, ..spec(port) };
    let mut worker = Worker::new(config(vec![limited(1), limited(2)]));
    let mut leases: Vec<Lease> = (0..4).map(|_| worker.pick(NOW).unwrap()).collect();
    assert_eq!(worker.pick(NOW).unwrap_err(), PickError::AllBusy);
    assert_eq!(worker.pool.in_flight(), 4);
    let freed = leases.remove(1).server().name.clone();
    assert_eq!(worker.names(NOW, 1), [freed.to_string()]);
    drop(leases);
    assert_eq!(worker.pool.in_flight(), 0);
    assert_eq!(worker.pool.servers().map(|server| server.requests()).sum::<u64>(), 5);
}

#[test]
fn a_failed_server_and_a_full_one_are_busy_not_gone() {
    let mut worker = Worker::new(config(vec![ServerSpec { max_conns: 1, ..spec(1) }, spec(2)]));
    worker.fail("2", NOW);
    let _held = worker.pick(NOW).unwrap();
    assert_eq!(worker.pick(NOW).unwrap_err(), PickError::AllBusy, "one server lives: not the case for failing open");
}

#[test]
fn no_servers_is_an_answer() {
    let name = ServerAddress::Name { host: "app.example".into(), port: 80 };
    let mut worker = Worker::new(config(vec![ServerSpec { address: name, ..spec(1) }]));
    assert_eq!(worker.pick(NOW).unwrap_err(), PickError::NoServer);
    assert_eq!(worker.pool.available(NOW), 0);
}

#[test]
fn every_address_of_a_name_is_a_server() {
    let name = ServerSpec { address: ServerAddress::Name { host: "app.example".into(), port: 80 }, ..spec(1) };
    let config = Arc::new(strict(vec![name]));
    let address = |last| SocketAddr::from(([192, 0, 2, last], 80));
    let old = Pool::build(&config, |_| vec![address(1), address(2), address(1)], &Overrides::default(), None);
    assert_eq!(old.servers().map(|server| server.address).collect::<Vec<_>>(), [address(1), address(2)]);
    let lease = old.pick(&mut old.new_state(0), &INPUT, &mut Tried::new(), NOW).unwrap();
    assert!(lease.failed(NOW).became_unavailable, "two addresses: not a single server");
    let new = Pool::build(&config, |_| vec![address(3), address(1)], &Overrides::default(), Some(&old));
    let servers: Vec<_> = new.servers().collect();
    assert!(Arc::ptr_eq(servers[1], lease.server()), "the one that stays keeps health and counters");
    assert_eq!((servers[0].failures(), servers[1].in_flight(), new.available(NOW)), (0, 1, 1));
}

#[test]
fn servers_survive_a_reload_by_pool_name_and_address() {
    let old = build(config(vec![spec(1), spec(2)]), None);
    let carried = |new: model::Pool| {
        let new = build(new, Some(&old));
        new.servers().filter(|server| old.servers().any(|o| Arc::ptr_eq(o, server))).count()
    };
    assert_eq!(carried(config(vec![ServerSpec { weight: 7, max_conns: 3, backup: true, ..spec(2) }, spec(1)])), 2);
    assert_eq!(carried(config(vec![ServerSpec { name: "other".into(), ..spec(1) }, spec(2)])), 1);
    assert_eq!(carried(config(vec![ServerSpec { address: spec(3).address, ..spec(1) }, spec(2)])), 1);
    assert_eq!(carried(model::Pool { name: "other".into(), ..config(vec![spec(1), spec(2)]) }), 0);
}

#[test]
fn state_is_handed_over_to_another_process() {
    let mut worker = Worker::new(config(vec![spec(1), spec(2)]));
    worker.names(NOW, 4);
    worker.fail("2", NOW);
    let json = serde_json::to_string(&worker.pool.export()).unwrap();
    let states: Vec<ServerState> = serde_json::from_str(&json).unwrap();

    let mut next = Worker::new(config(vec![spec(1), spec(2), spec(3)]));
    next.pool.import(&states, at(5));
    let mut exported = next.pool.export();
    exported.truncate(2);
    assert_eq!(exported, states);
    assert_eq!((next.pool.in_flight(), next.pool.available(at(10_000)), next.pool.available(at(10_001))), (0, 2, 3));
    assert!(!next.names(at(5), 4).contains(&"2".to_owned()));

    let other = Worker::new(model::Pool { name: "other".into(), ..config(vec![spec(1), spec(2)]) });
    other.pool.import(&states, NOW);
    assert_eq!(other.pool.available(NOW), 2);
}

#[test]
fn a_time_in_the_future_locks_nobody_out() {
    let mut worker = Worker::new(config(vec![spec(1), spec(2)]));
    worker.fail("1", at(1_000_000_000));
    let next = Worker::new(config(vec![spec(1), spec(2)]));
    next.pool.import(&worker.pool.export(), NOW);
    assert_eq!((next.pool.available(at(10_000)), next.pool.available(at(10_001))), (1, 2));
}

#[test]
fn retries_are_a_share_of_the_active_requests() {
    let mut worker = Worker::new(config(vec![spec(1), spec(2)]));
    let idle: Vec<RetryPermit> = std::iter::from_fn(|| worker.pool.try_retry()).take(10).collect();
    assert_eq!(idle.len(), 3, "the minimum");
    let _active: Vec<Lease> = (0..29).map(|_| worker.pick(NOW).unwrap()).collect();
    let more: Vec<RetryPermit> = std::iter::from_fn(|| worker.pool.try_retry()).take(10).collect();
    assert_eq!(idle.len() + more.len(), 5, "20 % of 29");
    drop(more);
    let next = build(config(vec![spec(1)]), Some(&worker.pool));
    assert!(next.try_retry().is_none(), "those of the old snapshot count in the new one");
    drop(idle);
    assert!(next.try_retry().is_some());

    let none = model::Pool { retry_budget: model::RetryBudget { percent: 0, min: 0 }, ..config(vec![spec(1)]) };
    assert!(build(none, None).try_retry().is_none());
}

/// One server with room for `max_conns`, and a line of `queue`.
fn queued(max_conns: u32, queue: u32) -> model::Pool {
    model::Pool { queue, ..config(vec![ServerSpec { max_conns, ..spec(1) }]) }
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_is_waited_for_in_order() {
    let pool = build(queued(1, 10), None);
    let state = RefCell::new(pool.new_state(0));
    let held = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).unwrap();
    let served = RefCell::new(Vec::new());
    let wait = async |n: u32| {
        let lease = pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await.unwrap();
        served.borrow_mut().push(n);
        tokio::task::yield_now().await;
        drop(lease);
    };
    let newcomer = async {
        drop(held);
        let picked = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW);
        assert_eq!(picked.unwrap_err(), PickError::AllBusy, "there is room, but others came first");
        wait(4).await;
    };
    tokio::join!(wait(1), wait(2), wait(3), newcomer);
    assert_eq!(*served.borrow(), [1, 2, 3, 4]);
    assert!(!pool.queue.has_line());
    assert!(pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_line_is_bounded_in_length_and_time() {
    let pool = build(queued(1, 2), None);
    let state = RefCell::new(pool.new_state(0));
    let _held = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).unwrap();
    let start = tokio::time::Instant::now();
    let wait = async || {
        let error = pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await.unwrap_err();
        (error, start.elapsed().as_secs())
    };
    let waits = tokio::join!(wait(), wait(), wait());
    use PickError::{QueueFull, QueueTimeout};
    assert_eq!(waits, ((QueueTimeout, 5), (QueueTimeout, 5), (QueueFull, 0)));
    let waits = tokio::join!(wait(), wait());
    assert_eq!(waits, ((QueueTimeout, 10), (QueueTimeout, 10)), "who left made room");

    let pool = build(queued(1, 0), None);
    let state = RefCell::new(pool.new_state(0));
    let _held = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).unwrap();
    let error = pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await.unwrap_err();
    assert_eq!(error, PickError::AllBusy, "no queue");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_holds_up_nobody() {
    let pool = build(queued(1, 10), None);
    let state = RefCell::new(pool.new_state(0));
    let held = pool.pick(&mut state.borrow_mut(), &INPUT, &mut Tried::new(), NOW).unwrap();
    let wait = async || pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await;
    let given_up = tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(wait(), wait()) });
    let (given_up, patient, ()) = tokio::join!(given_up, wait(), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(held);
    });
    assert!(given_up.is_err());
    assert!(patient.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_for_one_server_does_not_hold_up_the_line() {
    let long = ServerSpec { max_conns: 1, ..spec(1) };
    let pool = build(model::Pool { queue: 10, ..config(vec![long, ServerSpec { max_conns: 1, ..spec(2) }]) }, None);
    let state = RefCell::new(pool.new_state(0));
    let pick = |tried: &mut Tried| pool.pick(&mut state.borrow_mut(), &INPUT, tried, NOW);
    let long = pick(&mut Tried::new()).unwrap();
    let mut tried = Tried::new();
    drop(pick(&mut tried).unwrap());
    let served = Cell::new(0);
    tokio::join!(
        async {
            let lease = pool.pick_or_wait(&state, &INPUT, &mut tried, || NOW).await.unwrap();
            assert_eq!((&*lease.server().name, served.get()), ("1", 5));
        },
        async {
            for _ in 0..5 {
                let lease = pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await.unwrap();
                assert_eq!(&*lease.server().name, "2");
                served.set(served.get() + 1);
            }
            drop(long);
        }
    );
}

/// Runs `each(worker number)` on `count` threads that start together.
fn on_threads(count: u64, each: impl Fn(u64) + Sync) {
    let barrier = Barrier::new(usize::try_from(count).unwrap());
    thread::scope(|scope| {
        for n in 0..count {
            let (barrier, each) = (&barrier, &each);
            scope.spawn(move || {
                barrier.wait();
                each(n);
            });
        }
    });
}

#[test]
fn threads_share_one_trial_per_fail_timeout() {
    let pool = build(config(vec![spec(1), spec(2)]), None);
    let failing = pool.servers().next().unwrap().clone();
    let lease = failing.start(0, 1).unwrap();
    lease.failed(NOW);
    for round in 1..=200 {
        let now = at(round * 20_000);
        let trials = AtomicU32::new(0);
        on_threads(4, |seed| {
            let mut state = pool.new_state(seed);
            for _ in 0..20 {
                let picked = pool.pick(&mut state, &INPUT, &mut Tried::new(), now).unwrap();
                if picked.server().id == failing.id {
                    trials.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(trials.into_inner(), 1);
        lease.failed(now);
    }
}

#[test]
fn threads_never_exceed_max_conns_and_leave_nothing_behind() {
    let limited = |port| ServerSpec { max_conns: 2, ..spec(port) };
    let algorithms = [Algorithm::RoundRobin, Algorithm::LeastConn, Algorithm::RandomTwo];
    for algorithm in algorithms {
        let pool = build(model::Pool { algorithm, ..config(vec![limited(1), limited(2), limited(3)]) }, None);
        let served = AtomicU32::new(0);
        // What `in_flight` says may be more than it ever was: its two counters move while it reads them.
        let held = [const { AtomicU32::new(0) }; 3];
        on_threads(8, |seed| {
            let mut state = pool.new_state(seed);
            for n in 0..5_000 {
                let now = at(n);
                let Ok(lease) = pool.pick(&mut state, &INPUT, &mut Tried::new(), now) else { continue };
                served.fetch_add(1, Ordering::Relaxed);
                let held = &held[usize::from(lease.server().address.port()) - 1];
                assert!(held.fetch_add(1, Ordering::SeqCst) < 2);
                if (n + seed) % 7 == 0 {
                    pool.on_failure(&mut state, &lease, now);
                } else {
                    lease.succeeded();
                }
                held.fetch_sub(1, Ordering::SeqCst);
            }
        });
        assert_eq!(pool.in_flight(), 0);
        let requests: u64 = pool.servers().map(|server| server.requests()).sum();
        assert_eq!(requests, u64::from(served.into_inner()));
    }
}

#[test]
fn threads_that_wait_are_all_served() {
    let pool = build(queued(2, 1000), None);
    let (served, held) = (AtomicU32::new(0), AtomicU32::new(0));
    on_threads(4, |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let state = RefCell::new(pool.new_state(seed));
        let request = async || {
            for _ in 0..200 {
                let lease = pool.pick_or_wait(&state, &INPUT, &mut Tried::new(), || NOW).await.unwrap();
                assert!(held.fetch_add(1, Ordering::SeqCst) < 2);
                tokio::task::yield_now().await;
                held.fetch_sub(1, Ordering::SeqCst);
                drop(lease);
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        runtime.block_on(async { tokio::join!(request(), request(), request()) });
    });
    assert_eq!((served.into_inner(), pool.in_flight()), (4 * 3 * 200, 0));
    assert!(!pool.queue.has_line());
}

#[derive(Debug, Clone)]
enum Op {
    Pick { worker: usize, retry: bool },
    Drop(prop::sample::Index),
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    Wait(u64),
    Reload(Vec<usize>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let op = prop_oneof![
        6 => (0..2_usize, any::<bool>()).prop_map(|(worker, retry)| Op::Pick { worker, retry }),
        2 => index().prop_map(Op::Drop),
        2 => index().prop_map(Op::Succeed),
        2 => index().prop_map(Op::Fail),
        2 => (0..15_000_u64).prop_map(Op::Wait),
        1 => vec(0..6_usize, 0..6).prop_map(Op::Reload),
    ];
    vec(op, 0..80)
}

proptest! {
    /// Any sequence of events keeps the promises of `pick`, and in the end nothing is in flight.
    #[test]
    fn any_sequence_of_events_keeps_the_promises(
        ops in ops(), fail_open in any::<bool>(), which in 0..4_usize,
    ) {
        let key = Template::parse("k").unwrap();
        let algorithm = [
            Algorithm::RoundRobin, Algorithm::LeastConn, Algorithm::RandomTwo,
            Algorithm::Hash { key, consistent: Consistent::Ketama },
        ][which].clone();
        let all = [
            spec(1),
            ServerSpec { max_conns: 2, max_fails: 3, ..spec(2) },
            ServerSpec { weight: 3, max_fails: 0, ..spec(3) },
            ServerSpec { backup: true, max_conns: 1, ..spec(4) },
            ServerSpec { down: true, ..spec(5) },
            ServerSpec { backup: true, ..spec(6) },
        ];
        let configure = |chosen: &[usize]| {
            let servers = all.iter().enumerate().filter(|(i, _)| chosen.contains(i)).map(|(_, s)| s.clone()).collect();
            model::Pool { algorithm: algorithm.clone(), fail_open, ..config(servers) }
        };
        let mut pool = build(configure(&[0, 1, 2, 3, 4, 5]), None);
        let mut states = [pool.new_state(1), pool.new_state(2)];
        let mut leases: Vec<Lease> = Vec::new();
        let mut tried = Tried::new();
        let mut now = NOW;
        for op in ops {
            match op {
                Op::Pick { worker, retry } => {
                    if !retry {
                        tried = Tried::new();
                    }
                    let before = tried.clone();
                    let available = pool.available(now);
                    match pool.pick(&mut states[worker], &INPUT, &mut tried, now) {
                        Ok(lease) => {
                            let server = lease.server();
                            prop_assert!(!before.contains(server.id) && tried.contains(server.id));
                            prop_assert!(&*server.name != "5");
                            let max_conns = pool.members().find(|m| m.server.id == server.id).unwrap().max_conns;
                            prop_assert!(max_conns == 0 || server.in_flight() <= max_conns);
                            prop_assert!(available > 0 || fail_open);
                            leases.push(lease);
                        }
                        Err(PickError::NoServer) => {
                            let mut left = pool.members().filter(|m| !m.is_down() && !before.contains(m.server.id));
                            prop_assert!(!left.any(|m| m.is_available(now)));
                        }
                        Err(error) => {
                            prop_assert_eq!(error, PickError::AllBusy);
                            prop_assert!(pool.members().any(|m| m.max_conns > 0 && m.server.in_flight() >= m.max_conns));
                        }
                    }
                }
                Op::Drop(i) if !leases.is_empty() => drop(leases.swap_remove(i.index(leases.len()))),
                Op::Succeed(i) if !leases.is_empty() => {
                    i.get(&leases).succeeded();
                }
                Op::Fail(i) if !leases.is_empty() => {
                    let failure = pool.on_failure(&mut states[0], i.get(&leases), now);
                    prop_assert!(!failure.became_unavailable || i.get(&leases).server().failures() > 0);
                }
                Op::Drop(_) | Op::Succeed(_) | Op::Fail(_) => {}
                Op::Wait(ms) => now = Millis(now.0 + ms),
                Op::Reload(chosen) => {
                    pool = build(configure(&chosen), Some(&pool));
                    states = [pool.new_state(1), pool.new_state(2)];
                }
            }
            let held = leases.iter().filter(|lease| pool.servers().any(|s| Arc::ptr_eq(s, lease.server()))).count();
            prop_assert_eq!(pool.in_flight(), u64::try_from(held).unwrap());
        }
        leases.clear();
        prop_assert_eq!(pool.in_flight(), 0);
    }
}

#[test]
fn a_fallback_is_told_once_when_it_begins_and_once_when_it_ends() {
    let with_fallback = || model::Pool { fallback: Some("other".into()), ..config(vec![spec(1)]) };
    let pool = build(with_fallback(), None);
    let primary = Some(Wanted { role: Role::Primary, fallback: model::Fallback::None });
    let told = |pool: &Pool| [true, true, false, false].map(|on| pool.falls_back(None, on));
    assert_eq!(told(&pool), [true, false, true, false]);
    assert!(pool.falls_back(primary, true) && !pool.falls_back(None, false), "each role for itself");
    let next = build(with_fallback(), Some(&pool));
    assert!(!next.falls_back(primary, true), "a reload is no change");
    let without = build(config(vec![spec(1)]), Some(&next));
    assert!(build(with_fallback(), Some(&without)).falls_back(primary, true), "it begins anew");
}
