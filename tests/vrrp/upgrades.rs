//! Upgrades of a box with virtual routers: nobody is elected, no address moves, and nothing of it is heard on the wire.

use std::time::Instant;

use rustix::process::Signal;

use crate::lab::Lab;
use crate::support::{kill, wait_for};
use crate::vrrp::boxes::{A_WHILE, ask_while, pair, vip};

#[test]
fn an_upgrade_of_either_box_elects_nobody_and_moves_nothing() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, first, second) = pair(&lab, "");
    let begin = Instant::now();
    let before = first.router("r51");
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        for which in [&first, &second, &first] {
            let pids = [which.instance.pid(), which.vrrp_pid(), which.proxy_pid()];
            let said = which.tell(&["upgrade"]);
            let now = [which.instance.pid(), which.vrrp_pid(), which.proxy_pid()];
            assert!(now[0] == pids[0] && now[1] != pids[1] && now[2] != pids[2], "{said}");
            assert!(said.contains(&format!("vrrp {} -> {}", pids[1], now[1])), "{said}");
            first.wait_for_state("r51", "active");
            second.wait_until_heard("r51", 5);
        }
    });
    assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    assert!(owners.has_stayed(vip(51), 1, begin) && !owners.has_held(vip(51), 2, begin));
    // The one that holds it goes on as it was, and so do its counts.
    let after = first.router("r51");
    assert_eq!(
        (&after["state"], &after["why"], &after["priority"]),
        (&before["state"], &before["why"], &before["priority"])
    );
    assert!(
        after["sent"].as_u64() > before["sent"].as_u64()
            && after["for_seconds"].as_u64() >= before["for_seconds"].as_u64()
    );
    // Who was replaced says so, and nothing else.
    let changes = first.changes("r51");
    assert!(changes[2..].iter().all(|change| change.why == "vrrp process replaced"), "{changes:?}");
    assert!(second.changes("r51").iter().all(|change| change.to == "backup"), "{}", second.instance.log());
    let peer = &second.router("r51")["peers"][0];
    assert_eq!(peer["priority"], 200);
}

#[test]
fn a_supervisor_that_dies_after_an_upgrade_still_hands_the_address_over() {
    let Some(lab) = Lab::new(2) else { return };
    let (owners, mut first, second) = pair(&lab, "");
    first.tell(&["upgrade"]);
    let pids = [first.vrrp_pid(), first.proxy_pid()];
    kill(first.instance.pid(), Signal::KILL).unwrap();
    first.instance.wait();
    owners.settle(&[(vip(51), 2)], A_WHILE);
    first.wait_until_gone(&pids);
    assert_eq!(second.why("r51"), "the active router resigned");
}

#[test]
fn a_stop_after_an_upgrade_hands_the_address_over() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, mut first, second) = pair(&lab, "");
    first.tell(&["upgrade"]);
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        first.instance.signal(Signal::TERM);
        second.wait_for_state("r51", "active");
        wait_for("the end", || (!first.instance.is_running()).then_some(()));
    });
    assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    owners.settle(&[(vip(51), 2)], A_WHILE);
}
