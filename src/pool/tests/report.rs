//! What a pool says of its servers.

use crate::health::Verdict;
use crate::pool::report::ServerCondition as Condition;

use super::checks::checked;
use super::*;

fn conditions(pool: &Pool, now: Millis) -> Vec<Condition> {
    pool.report(now).iter().map(|report| report.condition).collect()
}

#[test]
fn a_server_is_unknown_until_its_checks_have_spoken() {
    let pool = build(checked(vec![spec(1), ServerSpec { down: true, ..spec(2) }]), None);
    assert_eq!(conditions(&pool, NOW), [Condition::Unknown, Condition::Disabled]);
    let server = Arc::clone(pool.servers().next().unwrap());
    server.judge(Some(Verdict::Down));
    server.note_verdict("refused", at(7));
    let report = &pool.report(NOW)[0];
    assert_eq!(
        (report.condition, &report.note),
        (Condition::Down, &Some(Note { why: "refused".into(), since: at(7).0 }))
    );
    server.judge(Some(Verdict::Up));
    server.note_verdict("2 in a row", at(9));
    let report = &pool.report(NOW)[0];
    assert_eq!((report.condition, report.note.as_ref().unwrap().since), (Condition::Up, at(9).0));
    server.judge(None);
    assert_eq!(pool.report(NOW)[0].note, None, "no checks, no word of them");
}

#[test]
fn failures_are_told_also_of_a_single_server_that_is_used_all_the_same() {
    let mut worker = Worker::new(config(vec![spec(1)]));
    let lease = worker.pick(NOW).unwrap();
    let failure = worker.pool.on_failure(&mut worker.state, &lease, NOW);
    assert_eq!(failure, Failure { became_unavailable: false, is_failed: true });
    lease.server().note_failures("refused", NOW);
    assert_eq!(conditions(&worker.pool, NOW), [Condition::Failed]);
    assert_eq!(worker.pool.report(NOW)[0].note.as_ref().unwrap().why, "refused");
    drop(lease);
    worker.names(NOW, 1);
    assert_eq!(conditions(&worker.pool, NOW), [Condition::Up]);
}

#[test]
fn a_preview_is_what_a_fresh_worker_would_pick_and_starts_nothing() {
    let servers = vec![ServerSpec { down: true, ..spec(1) }, spec(2), ServerSpec { backup: true, ..spec(3) }];
    let mut worker = Worker::new(config(servers));
    let name = |pool: &Pool| pool.preview(&INPUT, &Tried::new(), NOW).map(|server| server.name.to_string());
    assert_eq!(name(&worker.pool).as_deref(), Some("2"));
    assert_eq!((worker.pool.in_flight(), worker.pool.servers().map(|s| s.requests()).sum::<u64>()), (0, 0));
    worker.fail("2", NOW);
    assert_eq!(name(&worker.pool).as_deref(), Some("3"));
    let none = build(config(vec![ServerSpec { down: true, ..spec(1) }]), None);
    assert_eq!(name(&none), None);
}
