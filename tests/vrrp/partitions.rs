//! Two masters that do not hear each other, and what becomes of them, and of their clients, when they do again.

use std::thread;

use bascule::vrrp::announce::Mac;

use crate::lab::{Host, INTERFACE, Lab};
use crate::support::wait_for;
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{A_WHILE, get, pair, router, vip};
use crate::vrrp::keepalived::{Keepalived, VrrpInstance};
use crate::vrrp::owners::Owners;
use crate::{cut, heal, partition};

/// A client that has the address at `owner`, and has just heard from it, so that it does not ask.
fn misled(client: &Host, owner: &Host) {
    let mac = Mac(owner.mac());
    client.ip(&format!("neighbour replace {} lladdr {mac} dev {INTERFACE} nud reachable", vip(51)));
}

/// Waits until the client has learnt that the address is at `owner`.
fn wait_until_known(client: &Host, owner: &Host) {
    let mac = Mac(owner.mac()).to_string();
    let known = || client.ip_output(&format!("neighbour show {}", vip(51))).contains(&mac).then_some(());
    wait_for("the client's table", known);
}

/// The same, and gets its answer.
fn wait_until_reached(client: &Host, owner: &Host) {
    wait_until_known(client, owner);
    assert_eq!(client.run(|| get(vip(51))).unwrap(), owner.number.to_string());
}

#[test]
fn after_a_split_one_master_is_left_and_clients_of_the_other_reach_it() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, two, client] = &lab.hosts[..] else { panic!("three hosts") };
    // Nobody asks anew in the time of this test.
    client.run(|| {
        let path = format!("/proc/sys/net/ipv4/neigh/{INTERFACE}/base_reachable_time_ms");
        std::fs::write(path, "3600000").unwrap();
    });
    let (owners, first, second) = pair(&lab, "");
    // Whoever's word crosses first.
    for _ in 0..5 {
        second.wait_until_heard("r51", 2);
        partition(&lab);
        owners.wait_for(vip(51), &[1, 2]);
        misled(client, two);
        heal(&lab);
        owners.settle(&[(vip(51), 1)], A_WHILE);
        wait_until_reached(client, one);
        assert_eq!(second.why("r51"), "a peer has a higher priority");
    }
    assert_eq!(first.changes("r51").len(), 2, "{}", first.instance.log());
}

#[test]
fn after_a_split_clients_of_ours_reach_keepalived() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, two, client] = &lab.hosts[..] else { panic!("three hosts") };
    let owners = Owners::watch(&lab);
    let addresses = [format!("{}/24", vip(51))];
    let instance = VrrpInstance {
        vrid: 51,
        version: 3,
        priority: 200,
        interval: "0.1",
        password: None,
        addresses: &addresses,
        unicast: None,
    };
    let _keepalived = Keepalived::start(two, &[instance]);
    owners.wait_for(vip(51), &[2]);
    let bascule = Bascule::start(one, &router(51, 100, ""));
    for _ in 0..5 {
        bascule.wait_until_heard("r51", 2);
        partition(&lab);
        owners.wait_for(vip(51), &[1, 2]);
        // Its first announcements, and the repetition after 5 s, are not what is waited for.
        misled(client, one);
        heal(&lab);
        owners.settle(&[(vip(51), 2)], A_WHILE);
        wait_until_known(client, two);
    }
}

#[test]
fn where_only_one_hears_the_other_there_are_two_masters_no_longer_than_that_lasts() {
    let play = |deaf: u8| {
        let Some(lab) = Lab::new(2) else { return };
        let (owners, first, second) = pair(&lab, "");
        cut(&lab, &format!("oifname port{deaf} meta l4proto 112"));
        if deaf == 2 {
            // It takes over, and is heard, and stays deaf to every answer.
            owners.wait_for(vip(51), &[1, 2]);
            first.instance.wait_for_log("two masters: a router of lower claim advertises our addresses");
        } else {
            // The master need not hear anybody.
            second.wait_until_heard("r51", 20);
            assert_eq!(owners.of(vip(51)), [1]);
        }
        heal(&lab);
        owners.settle(&[(vip(51), 1)], A_WHILE);
        if deaf == 2 {
            first.instance.wait_for_log("one master again");
        }
        assert_eq!(first.changes("r51").len(), 2, "{}", first.instance.log());
        assert_eq!(second.changes("r51").len(), if deaf == 2 { 3 } else { 1 }, "{}", second.instance.log());
    };
    thread::scope(|scope| {
        for deaf in [1, 2] {
            scope.spawn(move || play(deaf));
        }
    });
}
