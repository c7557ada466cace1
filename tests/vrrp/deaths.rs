//! Processes that die or stand still: the address is never left without an owner for good, nor with two.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::Lab;
use crate::support::{kill, wait_for};
use crate::vrrp::boxes::{A_WHILE, ask_while, get, pair, vip};

#[test]
fn the_death_of_the_proxy_does_not_move_the_address_and_nobody_is_refused() {
    let Some(lab) = Lab::new(3) else { return };
    // A start on a busy box is no reason to give the address away here.
    let (owners, first, second) = pair(&lab, "proxy_grace = \"10s\"");
    let begin = Instant::now();
    let proxy = first.proxy_pid();
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        kill(proxy, Signal::KILL).unwrap();
        wait_for("another proxy", || (first.proxy_pid() != proxy).then_some(()));
    });
    // What the dead one had accepted is lost; the others waited for its successor.
    assert!(lost.iter().all(|e| !e.contains("refused")) && lost.len() <= 4, "{answered} answered, lost: {lost:?}");
    assert!(lab.hosts[2].run(|| get(vip(51))).is_ok_and(|body| body == "1"));
    assert!(owners.has_stayed(vip(51), 1, begin) && !owners.has_held(vip(51), 2, begin));
    assert_eq!((first.changes("r51").len(), second.changes("r51").len()), (2, 1));
}

#[test]
fn a_proxy_that_does_not_come_back_in_time_costs_the_address() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, first, _second) = pair(&lab, "proxy_grace = \"100ms\"");
    // Its successors die too: the supervisor waits longer and longer before it starts one.
    let died = Instant::now();
    while owners.of(vip(51)) == [1] {
        let proxy = first.proxy_pid();
        let _ = kill(proxy, Signal::KILL);
        wait_for("its end", || (first.status()["proxy"]["pid"] != proxy).then_some(()));
        assert!(died.elapsed() < Duration::from_secs(20), "{}", first.instance.log());
    }
    wait_for("an answer", || lab.hosts[2].run(|| get(vip(51))).ok().filter(|body| body == "2"));
    // It serves again, and its priority is the higher one.
    owners.settle(&[(vip(51), 1)], A_WHILE);
}

#[test]
fn the_death_of_the_vrrp_process_elects_nobody_and_moves_nothing() {
    let Some(lab) = Lab::new(2) else { return };
    // So long an interval that the start of a process on a busy box is no silence.
    let (owners, first, second) = pair(&lab, "advert_interval = \"1s\"");
    for _ in 0..2 {
        let begin = Instant::now();
        let process = first.vrrp_pid();
        kill(process, Signal::KILL).unwrap();
        wait_for("another vrrp process", || (first.vrrp_pid() != process).then_some(()));
        first.wait_for_state("r51", "active");
        second.wait_until_heard("r51", 3);
        assert!(owners.has_stayed(vip(51), 1, begin) && !owners.has_held(vip(51), 2, begin));
    }
    assert_eq!(second.changes("r51").len(), 1, "{}", second.instance.log());
    assert_eq!(first.why("r51"), "vrrp process replaced");
    // A backup's is replaced as quietly.
    let process = second.vrrp_pid();
    kill(process, Signal::KILL).unwrap();
    wait_for("another vrrp process", || (second.vrrp_pid() != process).then_some(()));
    second.wait_for_state("r51", "backup");
    second.wait_until_heard("r51", 3);
    assert!(second.changes("r51").iter().all(|change| change.to == "backup"), "{}", second.instance.log());
}

#[test]
fn without_a_supervisor_the_peer_takes_over_and_nothing_of_ours_is_left() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, mut first, second) = pair(&lab, "");
    let pids = [first.vrrp_pid(), first.proxy_pid()];
    first.instance.signal(Signal::KILL);
    first.instance.wait();
    owners.settle(&[(vip(51), 2)], A_WHILE);
    first.wait_until_gone(&pids);
    assert_eq!(second.why("r51"), "the active router resigned");
    assert!(lab.hosts[2].run(|| get(vip(51))).is_ok_and(|body| body == "2"));
    // With nobody to take over, the address goes all the same.
    let mut second = second;
    let pids = [second.vrrp_pid(), second.proxy_pid()];
    second.instance.signal(Signal::KILL);
    second.instance.wait();
    owners.wait_for(vip(51), &[]);
    second.wait_until_gone(&pids);
}

#[test]
fn what_a_box_that_died_left_behind_goes_at_its_next_start() {
    let Some(lab) = Lab::new(2) else { return };
    let (owners, mut first, _second) = pair(&lab, "preempt = \"never\"");
    first.kill_all();
    // Nobody is left to take it off.
    owners.wait_for(vip(51), &[1, 2]);
    first.restart();
    owners.settle(&[(vip(51), 2)], A_WHILE);
    first.wait_for_state("r51", "backup");
    assert!(first.instance.log().contains("192.0.2.51/24 was left by a process before this one: removed"));
}

#[test]
fn a_vrrp_process_that_stood_still_lets_go_of_what_a_peer_has_taken() {
    let stand_still = |long: Duration| {
        let Some(lab) = Lab::new(2) else { return };
        let (owners, first, second) = pair(&lab, "preempt = \"never\"");
        let process = first.vrrp_pid();
        kill(process, Signal::STOP).unwrap();
        second.wait_for_state("r51", "active");
        assert_eq!(second.why("r51"), "no advertisement from the active router");
        sleep(long);
        // Gone, if the supervisor has replaced it.
        let _ = kill(process, Signal::CONT);
        owners.settle(&[(vip(51), 2)], A_WHILE);
        first.wait_for_state("r51", "backup");
        assert_eq!(first.why("r51"), "a peer took over while this process stood still", "{}", first.instance.log());
        assert_eq!(second.changes("r51").len(), 2, "{}", second.instance.log());
    };
    // Shorter than the supervisor waits for it, and longer.
    std::thread::scope(|scope| {
        for seconds in [1, 5] {
            scope.spawn(move || stand_still(Duration::from_secs(seconds)));
        }
    });
}

#[test]
fn a_box_that_stood_still_lets_go_of_what_a_peer_has_taken() {
    let Some(lab) = Lab::new(2) else { return };
    let (owners, first, second) = pair(&lab, "preempt = \"never\"");
    let processes = [first.instance.pid(), first.vrrp_pid(), first.proxy_pid()];
    for pid in processes {
        kill(pid, Signal::STOP).unwrap();
    }
    second.wait_for_state("r51", "active");
    sleep(Duration::from_secs(3));
    for pid in processes {
        kill(pid, Signal::CONT).unwrap();
    }
    owners.settle(&[(vip(51), 2)], A_WHILE);
    first.wait_for_state("r51", "backup");
    assert_eq!(second.changes("r51").len(), 2, "{}", second.instance.log());
    assert_eq!(processes, [first.instance.pid(), first.vrrp_pid(), first.proxy_pid()], "something was ended for it");
}

#[test]
fn a_backup_that_stood_still_elects_nobody() {
    let Some(lab) = Lab::new(2) else { return };
    let (owners, first, second) = pair(&lab, "");
    let begin = Instant::now();
    for _ in 0..5 {
        let process = second.vrrp_pid();
        kill(process, Signal::STOP).unwrap();
        // Longer than the silence that it would believe in.
        sleep(Duration::from_secs(1));
        kill(process, Signal::CONT).unwrap();
        second.wait_until_heard("r51", 5);
    }
    assert!(owners.has_stayed(vip(51), 1, begin) && !owners.has_held(vip(51), 2, begin));
    assert_eq!((first.changes("r51").len(), second.changes("r51").len()), (2, 1), "{}", second.instance.log());
}
