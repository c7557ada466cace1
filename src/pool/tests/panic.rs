//! Health is ignored when too few servers are well.

use crate::health::Verdict;

use super::*;

fn pool(servers: Vec<ServerSpec>) -> model::Pool {
    model::Pool { panic_threshold: Some(50), fail_open: false, ..checks::checked(servers) }
}

fn judge(pool: &Pool, name: &str, verdict: Verdict) {
    pool.servers().find(|server| &*server.name == name).unwrap().judge(Some(verdict));
}

fn news(pool: &Pool, now: Millis) -> Vec<(bool, usize, usize)> {
    let told = |news| match news {
        News::Panic { on, well, all } => (on, well, all),
        News::Returned(_) | News::Circuit(_) => unreachable!("nothing is ejected, and there is no circuit"),
    };
    pool.watch(now).into_iter().map(told).collect()
}

#[test]
fn below_the_threshold_all_are_used_and_that_is_told_once() {
    let backup = ServerSpec { backup: true, ..spec(9) };
    let mut worker = Worker::new(pool(vec![spec(1), spec(2), spec(3), spec(4), backup]));
    judge(&worker.pool, "1", Verdict::Down);
    judge(&worker.pool, "2", Verdict::Down);
    assert!(news(&worker.pool, NOW).is_empty(), "half of them is enough");
    assert_eq!(worker.names(NOW, 4), ["3", "4", "3", "4"]);

    worker.fail("3", NOW);
    assert_eq!(news(&worker.pool, NOW), [(true, 1, 4)]);
    assert!(news(&worker.pool, NOW).is_empty());
    assert_eq!(worker.pool.up(), 2, "what tells peers how this box is does not lie: one server and the backup");
    let mut names = worker.names(NOW, 4);
    names.sort();
    assert_eq!(names, ["1", "2", "3", "4"], "ill or not, but no backup");
    assert_eq!(worker.pool.panic_report(), PanicReport { since: Some(NOW), times: 1 });

    judge(&worker.pool, "1", Verdict::Up);
    assert_eq!(news(&worker.pool, at(1)).len(), 1);
    assert_eq!(worker.pool.panic_report(), PanicReport { since: None, times: 1 });
    assert!(!worker.names(at(1), 8).contains(&"2".to_owned()));
}

#[test]
fn what_the_file_takes_out_stays_out_and_does_not_count() {
    let down = |port| ServerSpec { down: true, ..spec(port) };
    let mut worker = Worker::new(pool(vec![spec(1), spec(2), down(3), down(4), down(5)]));
    judge(&worker.pool, "1", Verdict::Down);
    assert!(news(&worker.pool, NOW).is_empty(), "one of two");
    judge(&worker.pool, "2", Verdict::Down);
    assert_eq!(news(&worker.pool, NOW), [(true, 0, 2)]);
    assert_eq!(worker.names(NOW, 4), ["1", "2", "1", "2"]);
    let mut tried = Tried::new();
    let first = worker.try_pick(&mut tried, NOW).unwrap();
    assert!(worker.pool.has_untried(&tried, NOW), "a retry may go to the other");
    let second = worker.try_pick(&mut tried, NOW).unwrap();
    assert_ne!(first.server().id, second.server().id);
    assert!(!worker.pool.has_untried(&tried, NOW));
    assert_eq!(worker.try_pick(&mut tried, NOW).unwrap_err(), PickError::NoServer);
}

#[test]
fn a_reload_keeps_it_and_one_without_the_threshold_ends_it() {
    let worker = Worker::new(pool(vec![spec(1), spec(2)]));
    judge(&worker.pool, "1", Verdict::Down);
    judge(&worker.pool, "2", Verdict::Down);
    assert_eq!(news(&worker.pool, NOW).len(), 1);
    let next = build(pool(vec![spec(1), spec(2)]), Some(&worker.pool));
    assert!(next.is_in_panic() && news(&next, NOW).is_empty());
    let without = build(model::Pool { panic_threshold: None, ..pool(vec![spec(1), spec(2)]) }, Some(&next));
    assert!(!without.is_in_panic());
}
