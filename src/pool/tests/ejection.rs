//! Errors in a row leave a server out.

use super::*;

fn limits() -> model::Ejection {
    model::Ejection {
        consecutive_5xx: 5,
        consecutive_gateway_errors: 3,
        ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejected: 10,
    }
}

fn pool(servers: u16, limits: model::Ejection) -> model::Pool {
    model::Pool { ejection: Some(limits), ..config((1..=servers).map(spec).collect()) }
}

impl Worker {
    /// Tells of outcomes on a server; those that ejected it, in milliseconds.
    fn outcomes(&self, name: &str, outcome: Outcome, count: usize, now: Millis) -> Vec<u64> {
        let server = self.pool.servers().find(|server| &*server.name == name).unwrap();
        let one = || self.pool.note_outcome(&server.start(0, 1).unwrap(), outcome, now).map(|ejected| ejected.time);
        (0..count).filter_map(|_| one()).collect()
    }
}

fn returned(pool: &Pool, now: Millis) -> Vec<String> {
    let told = |news| match news {
        News::Returned(server) => server.name.to_string(),
        News::Panic { .. } | News::Circuit(_) => unreachable!("there is neither threshold nor circuit"),
    };
    pool.watch(now).into_iter().map(told).collect()
}

#[test]
fn errors_in_a_row_eject_and_a_good_answer_begins_anew() {
    use Outcome::{GatewayError, Good, ServerError};
    let mut worker = Worker::new(pool(3, limits()));
    assert!(worker.outcomes("1", ServerError, 4, NOW).is_empty());
    assert!(worker.outcomes("1", Good, 1, NOW).is_empty());
    assert!(worker.outcomes("1", ServerError, 4, NOW).is_empty());
    assert_eq!(worker.outcomes("1", ServerError, 1, NOW), [30_000]);
    assert_eq!(worker.names(NOW, 4), ["2", "3", "2", "3"]);
    assert_eq!((worker.pool.up(), worker.pool.available(NOW)), (2, 2));
    assert_eq!(worker.pool.report(NOW)[0].condition, ServerCondition::Ejected);

    assert!(returned(&worker.pool, at(29_999)).is_empty());
    assert_eq!(returned(&worker.pool, at(30_000)), ["1"]);
    assert!(returned(&worker.pool, at(30_000)).is_empty(), "told once");
    assert_eq!((worker.pool.up(), worker.pool.available(at(30_000))), (3, 3));

    assert_eq!(worker.outcomes("1", GatewayError, 3, at(30_001)), [60_000], "again, soon: twice as long");
}

#[test]
fn a_server_error_that_is_none_of_a_gateway_breaks_that_row_only() {
    use Outcome::{GatewayError, ServerError};
    let worker = Worker::new(pool(3, limits()));
    assert!(worker.outcomes("1", GatewayError, 2, NOW).is_empty());
    assert!(worker.outcomes("1", ServerError, 1, NOW).is_empty());
    assert!(worker.outcomes("1", GatewayError, 1, NOW).is_empty());
    assert_eq!(worker.outcomes("1", GatewayError, 1, NOW).len(), 1, "five errors");
}

#[test]
fn as_many_as_max_ejected_allows_but_never_the_last() {
    let eject = |worker: &Worker, servers: u16| -> usize {
        (1..=servers).map(|n| worker.outcomes(&n.to_string(), Outcome::GatewayError, 10, NOW).len()).sum()
    };
    for (servers, percent, expected) in [(1, 100, 0), (2, 10, 1), (3, 100, 2), (20, 10, 2), (20, 50, 10)] {
        let worker = Worker::new(pool(servers, model::Ejection { max_ejected: percent, ..limits() }));
        assert_eq!(eject(&worker, servers), expected, "{percent} % of {servers}");
    }
}

#[test]
fn a_count_of_0_is_not_looked_at_and_without_the_table_nothing_is() {
    let off = model::Ejection { consecutive_gateway_errors: 0, consecutive_5xx: 0, ..limits() };
    let worker = Worker::new(pool(3, off));
    assert!(worker.outcomes("1", Outcome::GatewayError, 100, NOW).is_empty());
    let worker = Worker::new(config(vec![spec(1), spec(2)]));
    assert!(worker.outcomes("1", Outcome::GatewayError, 100, NOW).is_empty());
}

#[test]
fn statuses_are_what_they_are() {
    let table = [(200, Outcome::Good), (404, Outcome::Good), (500, Outcome::ServerError), (501, Outcome::ServerError)];
    for (status, outcome) in table {
        assert_eq!(Outcome::of_status(status), outcome);
    }
    assert!((502..=504).all(|status| Outcome::of_status(status) == Outcome::GatewayError));
    assert_eq!(Outcome::of_status(599), Outcome::ServerError);
}

#[test]
fn reloads_and_successors_keep_it() {
    let worker = Worker::new(pool(3, limits()));
    worker.outcomes("1", Outcome::GatewayError, 3, NOW);
    let next = build(pool(3, limits()), Some(&worker.pool));
    assert_eq!(next.available(NOW), 2);
    let without = build(config((1..=3).map(spec).collect()), Some(&next));
    assert_eq!((without.available(NOW), without.up()), (3, 3));

    let states: Vec<ServerState> = serde_json::from_value(serde_json::to_value(next.export()).unwrap()).unwrap();
    let successor = build(pool(3, limits()), None);
    successor.import(&states, at(1));
    assert_eq!((successor.available(at(1)), successor.up()), (2, 2));
    assert_eq!(returned(&successor, at(30_000)), ["1"]);
    assert_eq!(successor.servers().next().unwrap().ejections(), 1);
}

proptest! {
    /// Whatever happens: no more are out than may be, and one always is left.
    #[test]
    fn no_more_are_out_than_may_be(
        servers in 1_u16..12,
        percent in 1_u32..=100,
        events in vec((0_u16..12, 0_u8..3, 0_u64..20_000), 0..400),
    ) {
        let worker = Worker::new(pool(servers, model::Ejection { max_ejected: percent, ..limits() }));
        let most = (usize::from(servers) * percent as usize / 100).max(1).min(usize::from(servers) - 1);
        let mut now = NOW;
        for (server, outcome, passed) in events {
            now = Millis(now.0 + passed);
            worker.pool.watch(now);
            let outcome = [Outcome::Good, Outcome::ServerError, Outcome::GatewayError][usize::from(outcome)];
            worker.outcomes(&(server % servers + 1).to_string(), outcome, 2, now);
            let out = usize::from(servers) - worker.pool.available(now);
            prop_assert!(out <= most, "{out} of {servers} at {percent} %");
        }
        worker.pool.watch(Millis(now.0 + 300_000));
        prop_assert_eq!(worker.pool.up(), usize::from(servers), "all come back");
    }
}
