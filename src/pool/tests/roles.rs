//! Picks that want servers of a role.

use crate::config::model::Fallback;
use crate::health::Role;
use crate::health::roles::{Observation, Policy, Standing};

use super::checks::checked;
use super::*;

const PRIMARY: Observation = Observation::Says(Role::Primary);
const REPLICA: Observation = Observation::Says(Role::Replica);

fn see(pool: &Pool, name: &str, seen: Observation) -> Option<RoleChange> {
    pool.servers().find(|server| &*server.name == name).unwrap().observe_role(seen)
}

fn started(config: model::Pool) -> Pool {
    let pool = build(config, None);
    assert_eq!(pool.settle_roles(), None);
    pool
}

/// Who gets the next of such requests, and whether a retry could go anywhere else after.
fn pick(pool: &Pool, role: Role, fallback: Fallback) -> Option<String> {
    let mut tried = Tried::wanting(Some(Wanted { role, fallback }));
    let could = pool.has_untried(&tried, NOW);
    let picked = pool.pick(&mut pool.new_state(1), &INPUT, &mut tried, NOW).ok();
    assert_eq!(could, picked.is_some());
    picked.map(|lease| lease.server().name.to_string())
}

#[test]
fn writes_go_to_the_primary_and_reads_to_replicas() {
    let pool = started(checked(vec![spec(1), spec(2)]));
    assert_eq!(pick(&pool, Role::Primary, Fallback::None), None, "nothing is known yet");
    assert_eq!(pick(&pool, Role::Replica, Fallback::To(None)).as_deref(), Some("1"), "any");
    see(&pool, "2", PRIMARY);
    see(&pool, "1", REPLICA);
    assert_eq!(pick(&pool, Role::Primary, Fallback::None).as_deref(), Some("2"));
    assert_eq!(pick(&pool, Role::Replica, Fallback::None).as_deref(), Some("1"));
    pool.servers().next().unwrap().judge(Some(crate::health::Verdict::Down));
    assert_eq!(pick(&pool, Role::Replica, Fallback::None), None);
    assert_eq!(pick(&pool, Role::Replica, Fallback::To(Some(Role::Primary))).as_deref(), Some("2"));
}

#[test]
fn failures_of_the_only_primary_do_not_lock_it_out_because_replicas_are_well() {
    let pool = started(checked(vec![spec(1), spec(2)]));
    see(&pool, "1", PRIMARY);
    see(&pool, "2", REPLICA);
    let mut tried = Tried::wanting(Some(Wanted { role: Role::Primary, fallback: Fallback::None }));
    let mut state = pool.new_state(1);
    let lease = pool.pick(&mut state, &INPUT, &mut tried, NOW).unwrap();
    pool.on_failure(&mut state, &lease, NOW);
    assert_eq!(pick(&pool, Role::Primary, Fallback::None).as_deref(), Some("1"), "fail_open is per role");
}

#[test]
fn two_that_insist_get_nothing_new_and_the_former_loses_its_sessions_to_the_winner() {
    let pool = started(checked(vec![spec(1), spec(2)]));
    let [one, _] = [0, 1].map(|i| pool.servers().nth(i).unwrap().clone());
    see(&pool, "1", PRIMARY);
    for name in ["2", "1", "2"] {
        assert_eq!(one.role_losses(), 0);
        see(&pool, name, PRIMARY);
        assert_eq!(pick(&pool, Role::Primary, Fallback::None), None);
    }
    assert_eq!((pool.conflicts(), one.standing()), ((true, 1), Standing::Claimant));
    let change = see(&pool, "1", REPLICA);
    assert_eq!(change, Some(RoleChange::Elected { name: "2".into(), from: Some("1".into()) }));
    assert_eq!((pool.conflicts(), one.role_losses()), ((false, 1), 1));
    assert_eq!(pick(&pool, Role::Primary, Fallback::None).as_deref(), Some("2"));
}

#[test]
fn roles_outlive_a_reload_and_the_process() {
    let config = checked(vec![spec(1), spec(2)]);
    let pool = started(config.clone());
    see(&pool, "1", PRIMARY);
    see(&pool, "2", REPLICA);
    let next = build(checked(vec![spec(3), spec(1), spec(2)]), Some(&pool));
    assert_eq!(next.settle_roles(), None);
    assert_eq!(pick(&next, Role::Primary, Fallback::None).as_deref(), Some("1"));
    let successor = build(config, None);
    successor.import(&pool.export(), NOW);
    assert_eq!(pick(&successor, Role::Primary, Fallback::None).as_deref(), Some("1"));
    assert_eq!(pick(&successor, Role::Replica, Fallback::None).as_deref(), Some("2"));
}

#[test]
fn of_two_masters_the_first_is_used() {
    let config = model::Pool { primaries: Policy::First { failback: true }, ..checked(vec![spec(1), spec(2)]) };
    let pool = started(config);
    see(&pool, "2", PRIMARY);
    see(&pool, "1", PRIMARY);
    assert_eq!(pick(&pool, Role::Primary, Fallback::None).as_deref(), Some("1"));
    see(&pool, "1", Observation::Failed);
    assert_eq!(pick(&pool, Role::Primary, Fallback::None).as_deref(), Some("2"));
}
