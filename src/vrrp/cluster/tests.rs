use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::vrrp::judge::Said;
use crate::vrrp::machine::{Preemption, Settings};
use crate::vrrp::types::{Interval, Priority, Version};

const GOOD: Condition = Condition { link: true, fit: true, ready: true, adjust: 0 };
const SECOND: u64 = 1_000_000;

fn pair() -> Cluster {
    let settings = Settings {
        version: Version::V3,
        priority: Priority(150),
        interval: Interval::from_secs(1).unwrap(),
        preemption: Preemption::Immediate,
        preempt_delay: Duration::ZERO,
        startup_delay: Duration::ZERO,
        repeat: Vec::new(),
        refresh: Duration::ZERO,
        linger: Duration::from_millis(200),
        arbitrate: false,
    };
    let mut cluster = Cluster::default();
    for group in [Some(0), Some(0), None] {
        cluster.add(VirtualRouter::new(settings.clone(), GOOD, Micros(0)), group);
    }
    for i in 0..3 {
        cluster.with(i, Micros(0), |router| router.start(Micros(0)));
    }
    cluster
}

fn states(cluster: &Cluster) -> Vec<State> {
    cluster.routers().map(VirtualRouter::state).collect()
}

fn said(priority: u8) -> Said {
    Said {
        source: IpAddr::from([192, 0, 2, 11]),
        priority: Priority(priority),
        interval: Interval::from_secs(1).unwrap(),
        same_addresses: true,
        checksum: None,
    }
}

fn drain(cluster: &mut Cluster) -> Vec<(usize, Action)> {
    std::iter::from_fn(|| cluster.next_action()).collect()
}

#[test]
fn a_group_rises_and_falls_together_and_nobody_else_with_it() {
    use State::{Active, Backup};
    let mut cluster = pair();
    // The loner hears a master; the first of the group never does, the second does for a while.
    for t in 1..=8 {
        let now = Micros(t * SECOND);
        cluster.handle_timeout(now);
        cluster.with(2, now, |router| router.handle_advert(said(200), now, now));
        if t <= 4 {
            cluster.with(1, now, |router| router.handle_advert(said(200), now, now));
            assert_eq!(states(&cluster), [Backup; 3], "a part of the group claims its addresses");
        }
    }
    assert_eq!(states(&cluster), [Active, Active, Backup]);
    drain(&mut cluster);
    // The first loses its contest: the second offers its address to the peer's twin.
    let now = Micros(8 * SECOND);
    cluster.with(0, now, |router| router.handle_advert(said(200), now, now));
    assert_eq!(states(&cluster), [Backup, Active, Backup]);
    assert!(drain(&mut cluster).contains(&(1, Action::Advertise(Priority::RESIGN))));
    cluster.with(1, now, |router| router.handle_advert(said(200), now, now));
    cluster.handle_timeout(Micros(8 * SECOND + 200_000));
    assert_eq!(states(&cluster), [Backup, Backup, Backup]);
}

#[test]
fn a_group_is_handed_over_at_once_and_can_do_what_all_of_it_can() {
    let resigning = |cluster: &mut Cluster| -> Vec<usize> {
        let actions = drain(cluster).into_iter();
        actions.filter(|(_, action)| *action == Action::Advertise(Priority::RESIGN)).map(|(i, _)| i).collect()
    };
    let mut cluster = pair();
    cluster.handle_timeout(Micros(4 * SECOND));
    drain(&mut cluster);
    cluster.hand_over(1, Micros(5 * SECOND));
    assert_eq!(resigning(&mut cluster), [0, 1]);

    let mut cluster = pair();
    cluster.handle_timeout(Micros(4 * SECOND));
    drain(&mut cluster);
    cluster.set_condition(1, Condition { adjust: -20, ready: false, ..GOOD }, Micros(5 * SECOND));
    let priorities: Vec<_> = cluster.routers().map(|r| r.priority().0).collect();
    assert_eq!(priorities, [130, 130, 150]);
    assert_eq!(cluster.routers().map(|r| r.condition().ready).collect::<Vec<_>>(), [false, false, true]);
    cluster.set_condition(0, Condition { fit: false, ..GOOD }, Micros(6 * SECOND));
    assert_eq!(resigning(&mut cluster), [0, 1]);
}

#[test]
fn one_without_a_link_makes_its_group_unfit_and_only_its_group() {
    let mut cluster = pair();
    cluster.handle_timeout(Micros(4 * SECOND));
    assert_eq!(states(&cluster), [State::Active; 3]);
    drain(&mut cluster);
    cluster.set_condition(0, Condition { link: false, ..GOOD }, Micros(5 * SECOND));
    assert_eq!(states(&cluster), [State::Fault, State::Active, State::Active]);
    let priorities: Vec<_> = cluster.routers().map(|r| r.priority().0).collect();
    assert_eq!(priorities, [1, 1, 150]);
    assert!(drain(&mut cluster).contains(&(1, Action::Advertise(Priority::RESIGN))));
    cluster.set_condition(0, GOOD, Micros(6 * SECOND));
    let priorities: Vec<_> = cluster.routers().map(|r| r.priority().0).collect();
    assert_eq!(priorities, [150; 3]);
}
