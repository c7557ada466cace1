use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn roles(policy: Policy, count: u32) -> Roles {
    let mut roles = Roles::default();
    roles.set_members(policy, (0..count).map(|id| (id, true)));
    roles
}

/// `0P` server 0 says primary, `R` replica, `x` its probe failed, `D` it is down.
fn run(roles: &mut Roles, script: &str) -> Vec<Option<Change>> {
    let step = |step: &str| {
        let (id, seen) = step.split_at(1);
        let seen = match seen {
            "P" => Observation::Says(Role::Primary),
            "R" => Observation::Says(Role::Replica),
            "x" => Observation::Failed,
            _ => Observation::Down,
        };
        roles.on_observation(id.parse().unwrap(), seen)
    };
    script.split_whitespace().map(step).collect()
}

/// After which script who is the primary, and whether there is a conflict.
#[test]
fn one_primary_is_taken_and_two_are_none() {
    for (script, primary, conflict) in [
        ("", None, false),
        ("0P 1R", Some(0), false),
        ("0R 1R", None, false),
        // A lost probe does not stop writes, the end of the server does.
        ("0P 1R 0x 0x", Some(0), false),
        ("0P 1R 0x 0D", None, false),
        // A promotion after a death: one failed probe of the old one is enough, in either order.
        ("0P 1R 0x 1P", Some(1), false),
        ("0P 1R 1P 0x", Some(1), false),
        ("0P 1R 0x 0D 1P", Some(1), false),
        // A planned one: whichever is seen first.
        ("0P 1R 0R 1P", Some(1), false),
        ("0P 1R 1P", None, false),
        ("0P 1R 1P 0R", Some(1), false),
        // Both insist.
        ("0P 1R 1P 0P", None, false),
        ("0P 1R 1P 0P 1P", None, true),
        ("0P 1R 1P 0P 1P 0x", None, true),
        ("0P 1R 1P 0P 1P 0x 0D", Some(1), false),
        ("0P 1R 1P 0P 1P 1R", Some(0), false),
        // The old one comes back and has not noticed.
        ("0P 1R 0x 1P 0P", None, false),
        ("0P 1R 0x 1P 0P 1P", None, false),
        ("0P 1R 0x 1P 0P 1P 0P", None, true),
    ] {
        let mut roles = roles(Policy::One, 2);
        run(&mut roles, script);
        assert_eq!((roles.primary(), roles.is_in_conflict()), (primary, conflict), "{script}");
    }
}

#[test]
fn the_connections_of_the_former_primary_end_when_there_is_another_or_it_resigns() {
    let elected = |id, from| Some(Change::Elected { id, from });
    for (script, changes) in [
        ("0P 0P 0x 0P", vec![elected(0, None), None, None, None]),
        ("0P 0x 1P", vec![elected(0, None), None, elected(1, Some(0))]),
        ("0P 0R 1P", vec![elected(0, None), Some(Change::Resigned(0)), elected(1, None)]),
        ("0P 0D 1P", vec![elected(0, None), None, elected(1, Some(0))]),
        ("0P 0D 0P", vec![elected(0, None), None, elected(0, None)]),
        // In a clash the one that was there keeps what it has.
        ("0P 1P 1R", vec![elected(0, None), None, elected(0, None)]),
        ("0P 1P 0P 1P 0P", vec![elected(0, None), None, None, Some(Change::Conflict), None]),
    ] {
        assert_eq!(run(&mut roles(Policy::One, 2), script), changes, "{script}");
    }
}

#[test]
fn of_many_primaries_the_first_is_used() {
    for (failback, script, primary) in [
        (true, "1P 0P", Some(0)),
        (false, "1P 0P", Some(1)),
        (false, "1P 0P 1x", Some(1)),
        (true, "0P 1P 0x", Some(1)),
        (false, "1P 0P 1x 1D", Some(0)),
        (true, "0P 1P 0D 0P", Some(0)),
        (false, "0P 1P 0D 0P", Some(1)),
        (true, "0x", None),
    ] {
        let mut roles = roles(Policy::First { failback }, 2);
        run(&mut roles, script);
        assert_eq!((roles.primary(), roles.is_in_conflict()), (primary, false), "{failback} {script}");
    }
    let mut roles = roles(Policy::First { failback: false }, 2);
    run(&mut roles, "1P 0P");
    roles.set_members(Policy::First { failback: false }, [(0, true), (1, false)].into_iter());
    assert_eq!(roles.primary(), Some(0), "drained by the operator");
}

#[test]
fn claims_outlive_a_reload_and_end_with_their_server() {
    let mut roles = roles(Policy::One, 2);
    run(&mut roles, "0P 1R");
    assert_eq!(roles.set_members(Policy::One, [(1, true), (0, true), (2, true)].into_iter()), None);
    assert_eq!(roles.primary(), Some(0));
    roles.set_members(Policy::One, [(1, true), (2, true)].into_iter());
    assert_eq!(roles.primary(), None);
    assert_eq!(run(&mut roles, "2P"), [Some(Change::Elected { id: 2, from: Some(0) })]);
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        Just(Observation::Says(Role::Primary)),
        Just(Observation::Says(Role::Replica)),
        Just(Observation::Failed),
        Just(Observation::Down),
    ]
}

proptest! {
    #[test]
    fn the_primary_is_the_only_one_whose_last_good_word_was_primary(steps in vec((0_u32..4, observation()), 0..200)) {
        let mut roles = roles(Policy::One, 4);
        let mut last = [None; 4];
        let mut connected = None;
        for (id, seen) in steps {
            let change = roles.on_observation(id, seen);
            last[id as usize] = Some(seen);
            let says = |id: &u32| last[*id as usize] == Some(Observation::Says(Role::Primary));
            let claimants: Vec<u32> = (0..4).filter(says).collect();
            match roles.primary() {
                Some(primary) => prop_assert!(
                    claimants == [primary] || claimants.is_empty() && last[primary as usize] == Some(Observation::Failed),
                    "{primary} is the primary, and {claimants:?} say so"
                ),
                None => prop_assert!(claimants.len() != 1 || roles.is_in_conflict(), "{claimants:?}"),
            }
            // Who has connections is told of its end before, or as, another gets the first.
            match change {
                Some(Change::Elected { id, from }) => {
                    prop_assert_eq!(roles.primary(), Some(id));
                    prop_assert!(from != Some(id) && (connected.is_none() || connected == from || connected == Some(id)));
                    connected = Some(id);
                }
                Some(Change::Resigned(id)) => {
                    prop_assert_eq!(connected.take(), Some(id));
                }
                Some(Change::Conflict) => prop_assert!(roles.is_in_conflict() && roles.primary().is_none()),
                None => {}
            }
            let primaries = roles.standings().filter(|(_, standing)| *standing == Standing::Primary).count();
            prop_assert!(primaries <= 1 && (primaries == 1) == roles.primary().is_some());
        }
    }

    #[test]
    fn a_promotion_is_followed_with_the_next_probe_of_each(
        steps in vec((0_u32..3, observation()), 0..60), dead: bool, old_first: bool,
    ) {
        let mut roles = roles(Policy::One, 3);
        for (id, seen) in steps {
            roles.on_observation(id, seen);
        }
        // A quiet time: 0 is the primary, and there is no conflict.
        for (id, role) in [(1, Role::Replica), (2, Role::Replica), (0, Role::Primary)] {
            roles.on_observation(id, Observation::Says(role));
        }
        prop_assert_eq!(roles.primary(), Some(0));
        let old = if dead { Observation::Failed } else { Observation::Says(Role::Replica) };
        let mut probes = [(0, old), (1, Observation::Says(Role::Primary))];
        if !old_first {
            probes.reverse();
        }
        for (id, seen) in probes {
            roles.on_observation(id, seen);
        }
        prop_assert_eq!(roles.primary(), Some(1));
    }
}
