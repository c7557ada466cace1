use super::*;
use crate::health::breaker::Limits;

fn breaker(written: &str) -> Option<CircuitBreaker> {
    load_text(&format!("{LEAST}circuit_breaker = {written}\n")).config.pools[0].circuit_breaker.clone()
}

#[test]
fn a_circuit_breaker_has_the_documented_defaults_and_0_is_no_limit() {
    assert_eq!(breaker("\"off\""), None);
    let none = CircuitBreaker { max_connections: 0, max_pending: 0, max_requests: 0, max_retries: 0, errors: None };
    assert_eq!(breaker("{ max_pending = 7 }"), Some(CircuitBreaker { max_pending: 7, ..none.clone() }));
    let errors = Limits { error_rate: 50, window: 10_000, min_requests: 20, open_time: 10_000, half_open_requests: 3 };
    assert_eq!(breaker("{ error_rate = \"50%\" }"), Some(CircuitBreaker { errors: Some(errors), ..none }));
}

#[test]
fn a_pool_may_be_without_the_one_of_the_defaults_or_change_a_part_of_it() {
    let with = |own: &str| {
        let defaults = "[defaults.pool]\ncircuit_breaker = { max_requests = 5, max_retries = 2 }\n";
        let found = load_text(&format!("{LEAST}{own}\n{defaults}")).config.pools[0].circuit_breaker.clone();
        found.map(|breaker| (breaker.max_requests, breaker.max_retries))
    };
    assert_eq!(with(""), Some((5, 2)));
    assert_eq!(with("circuit_breaker = { max_requests = 9 }"), Some((9, 2)));
    assert_eq!(with("circuit_breaker = \"off\""), None);
}
