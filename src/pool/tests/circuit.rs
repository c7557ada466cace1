//! The circuit breaker of a pool.

use crate::health::breaker::{Limits as Errors, Phase};

use super::*;

const OFF: model::CircuitBreaker =
    model::CircuitBreaker { max_connections: 0, max_pending: 0, max_requests: 0, max_retries: 0, errors: None };

fn errors() -> model::CircuitBreaker {
    let errors = Errors { error_rate: 50, window: 10_000, min_requests: 4, open_time: 30_000, half_open_requests: 2 };
    model::CircuitBreaker { errors: Some(errors), ..OFF }
}

fn pool(limits: model::CircuitBreaker) -> model::Pool {
    model::Pool { circuit_breaker: Some(limits), ..config(vec![spec(1), spec(2)]) }
}

impl Worker {
    /// A try that has its pass and its share.
    fn begin(&mut self, of: Use, now: Millis) -> Result<Lease, Overflow> {
        let pass = self.pool.admit(now).expect("a closed circuit");
        let lease = self.pick(now).expect("a server");
        self.pool.occupy(lease, pass, of)
    }

    /// Tries one after the other, as many as are let through.
    fn tries(&mut self, outcome: Outcome, count: usize, now: Millis) -> usize {
        let mut through = 0;
        for _ in 0..count {
            let Ok(pass) = self.pool.admit(now) else { continue };
            let lease = self.pick(now).unwrap();
            let lease = self.pool.occupy(lease, pass, Use::Request).unwrap();
            self.pool.note_outcome(&lease, outcome, now);
            through += 1;
        }
        through
    }
}

fn told(pool: &Pool, now: Millis) -> Vec<Turn> {
    let turn = |news| match news {
        News::Circuit(turn) => turn,
        News::Panic { .. } | News::Returned(_) => unreachable!("neither threshold nor ejection"),
    };
    pool.watch(now).into_iter().map(turn).collect()
}

fn phase(pool: &Pool) -> Phase {
    pool.circuit_report().unwrap().phase
}

#[test]
fn errors_open_it_and_good_trials_close_it_and_each_change_is_told_once() {
    let mut worker = Worker::new(pool(errors()));
    assert_eq!(worker.tries(Outcome::ServerError, 10, NOW), 4);
    assert_eq!(told(&worker.pool, NOW), [Turn::Opened { errors: 4, of: 4 }]);
    assert_eq!(told(&worker.pool, NOW), []);
    assert!(!worker.pool.has_news());
    assert_eq!(worker.pool.admit(at(1_500)).unwrap_err().retry_after(), 29, "rounded up");
    assert_eq!(worker.tries(Outcome::Good, 10, at(29_999)), 0);
    // Status alone sees that it is time.
    assert_eq!(told(&worker.pool, at(30_000)), [Turn::HalfOpened]);
    assert_eq!(worker.tries(Outcome::Good, 1, at(30_000)), 1);
    assert_eq!(phase(&worker.pool), Phase::HalfOpen);
    assert_eq!(worker.tries(Outcome::Good, 5, at(30_001)), 5);
    assert_eq!(told(&worker.pool, at(30_001)), [Turn::Closed]);
    let report = worker.pool.circuit_report().unwrap();
    assert_eq!((report.phase, report.since, report.opened), (Phase::Closed, Some(at(30_001)), 1));
}

#[test]
fn a_trial_that_ends_without_an_outcome_makes_room_and_one_with_an_outcome_does_not() {
    let mut worker = Worker::new(pool(errors()));
    worker.tries(Outcome::GatewayError, 4, NOW);
    let now = at(30_000);
    let [first, second] = [0, 1].map(|_| worker.begin(Use::Request, now).unwrap());
    let refused = worker.pool.admit(now).unwrap_err();
    assert_eq!((refused.retry_after(), worker.pool.would_admit(now)), (1, Err(refused)));
    drop(first);
    let third = worker.begin(Use::Request, now).unwrap();
    worker.pool.note_outcome(&second, Outcome::Good, now);
    drop(second);
    assert!(worker.pool.admit(now).is_err(), "one is good, one under way");
    worker.pool.note_outcome(&third, Outcome::GatewayError, now);
    assert_eq!(phase(&worker.pool), Phase::Open);
    assert_eq!(worker.pool.admit(now).unwrap_err().rest, 30_000);
}

#[test]
fn connections_requests_and_what_waits_are_bounded_and_counted() {
    let limits = model::CircuitBreaker { max_connections: 3, max_pending: 1, max_requests: 2, ..OFF };
    let mut worker = Worker::new(pool(limits));
    let mut request = worker.begin(Use::Request, NOW).unwrap();
    let other = worker.begin(Use::Request, NOW).unwrap();
    assert_eq!(worker.begin(Use::Request, NOW).unwrap_err(), Overflow, "two requests");
    let session = worker.begin(Use::Session, NOW).unwrap();
    // What was refused holds nothing.
    assert_eq!(worker.pool.in_flight(), 3);
    assert_eq!(worker.begin(Use::Session, NOW).unwrap_err(), Overflow, "three connections");
    // As a tunnel it is a connection only.
    request.end_request();
    drop(session);
    let third = worker.begin(Use::Request, NOW).unwrap();
    assert_eq!(worker.begin(Use::Request, NOW).unwrap_err(), Overflow, "three connections");
    let waiting = worker.pool.wait_for_connection().unwrap();
    assert_eq!(worker.pool.wait_for_connection().unwrap_err(), Overflow);
    drop((waiting, request, other, third));
    assert!(worker.pool.wait_for_connection().is_ok_and(|pending| pending.is_some()));
    assert!([0; 3].map(|_| worker.begin(Use::Session, NOW)).iter().all(Result::is_ok));
    let counts = OverflowCounts { connections: 2, pending: 1, requests: 1, retries: 0 };
    assert_eq!(worker.pool.circuit_report().unwrap().overflows, counts);
}

#[test]
fn retries_are_bounded_by_the_smaller_of_budget_and_max_retries() {
    for (max_retries, percent, min, expected, counted) in [(1, 20, 3, 1, 1), (9, 20, 3, 3, 0), (0, 20, 3, 3, 0)] {
        let retry_budget = model::RetryBudget { percent, min };
        let limits = model::CircuitBreaker { max_retries, ..OFF };
        let pool = build(model::Pool { retry_budget, ..pool(limits) }, None);
        let mut permits = Vec::new();
        while let Some(permit) = pool.try_retry() {
            permits.push(permit);
        }
        let counts = pool.circuit_report().unwrap().overflows.retries;
        assert_eq!((permits.len(), counts), (expected, counted), "max_retries = {max_retries}");
    }
}

#[test]
fn reloads_and_successors_keep_it() {
    let mut worker = Worker::new(pool(errors()));
    let share = model::CircuitBreaker { max_requests: 1, ..errors() };
    worker.tries(Outcome::ServerError, 4, NOW);
    let next = build(pool(share.clone()), Some(&worker.pool));
    assert_eq!((phase(&next), next.admit(NOW).unwrap_err().rest), (Phase::Open, 30_000));

    let bounds_only = build(pool(model::CircuitBreaker { errors: None, ..share.clone() }), Some(&next));
    assert!(bounds_only.admit(NOW).is_ok_and(|pass| pass.is_none()));
    assert_eq!(phase(&bounds_only), Phase::Closed);
    assert!(build(config(vec![spec(1)]), Some(&next)).circuit_report().is_none());

    let states: Vec<ServerState> = serde_json::from_value(serde_json::to_value(next.export()).unwrap()).unwrap();
    let successor = build(pool(share), None);
    successor.import(&states, at(10_000));
    assert_eq!(successor.admit(at(10_000)).unwrap_err().rest, 20_000);
    assert_eq!(successor.circuit_report().unwrap().opened, 1);
    assert_eq!(told(&successor, at(30_000)), [Turn::HalfOpened]);
}

#[test]
fn workers_together_let_no_more_trials_through_than_may_be() {
    let mut worker = Worker::new(pool(errors()));
    worker.tries(Outcome::ServerError, 4, NOW);
    told(&worker.pool, NOW);
    let (pool, barrier) = (&worker.pool, Barrier::new(8));
    let through: usize = thread::scope(|scope| {
        let admit = || {
            barrier.wait();
            // Kept: a trial that is dropped makes room.
            (0..100).filter_map(|_| pool.admit(at(30_000)).ok()).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(admit)).collect();
        let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        all.iter().map(Vec::len).sum()
    });
    assert_eq!(through, 2);
    assert_eq!(told(pool, at(30_000)), [Turn::HalfOpened]);
}
