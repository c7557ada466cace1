//! Boxes that are configured otherwise, as during every change of both files: one master in the end.

use std::thread;
use std::time::Duration;

use crate::lab::{Host, Lab};
use crate::support::wait_for;
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{router, vip};
use crate::vrrp::keepalived::{Keepalived, VrrpInstance};
use crate::vrrp::owners::Owners;

/// Ten intervals of version 3, and more than one of version 2.
const A_WHILE: Duration = Duration::from_millis(1500);

/// Keys that add an address.
const LONGER: &str = "virtual_addresses = [\"192.0.2.51/24\", \"192.0.2.77/24\"]";

/// keepalived's idea of the virtual router.
struct Theirs<'a> {
    version: u8,
    priority: u8,
    interval: &'a str,
    password: Option<&'a str>,
    addresses: &'a [&'a str],
    unicast: bool,
}

const THEIRS: Theirs<'static> = Theirs {
    version: 3,
    priority: 100,
    interval: "0.1",
    password: None,
    addresses: &["192.0.2.51/24"],
    unicast: false,
};

impl Theirs<'_> {
    fn start(&self, own: &Host, peer: &Host) -> Keepalived {
        let Self { version, priority, interval, password, unicast, .. } = *self;
        let addresses: Vec<_> = self.addresses.iter().map(|address| (*address).to_owned()).collect();
        let unicast = unicast.then(|| (own.v4().to_string(), peer.v4().to_string()));
        let instance = VrrpInstance { vrid: 51, version, priority, interval, password, addresses: &addresses, unicast };
        Keepalived::start(own, &[instance])
    }
}

#[test]
fn two_instances_with_different_lists_have_one_master() {
    let play = |priorities: [u8; 2], longer: usize| {
        let Some(lab) = Lab::new(2) else { return };
        let owners = Owners::watch(&lab);
        let config = |i: usize| router(51, priorities[i], if i == longer { LONGER } else { "" });
        let first = Bascule::start(&lab.hosts[0], &config(0));
        owners.wait_for(vip(51), &[1]);
        let second = Bascule::start(&lab.hosts[1], &config(1));
        second.wait_until_heard("r51", 10);
        // Not even a better one takes it from one whose list is another: that might not hear it.
        owners.settle(&[(vip(51), 1)], A_WHILE);
        assert_eq!(second.changes("r51").len(), 1, "{}", second.instance.log());
        assert!(second.count("r51", "list_differs") >= 10);
        second.instance.wait_for_log("a peer advertises another list of addresses: accepted");
        assert_eq!(second.router("r51")["peers"][0]["agrees"], false);
        first.tell(&["vrrp", "handover"]);
        owners.settle(&[(vip(51), 2)], A_WHILE);
        assert_eq!(second.why("r51"), "the active router resigned");
    };
    thread::scope(|scope| {
        for priorities in [[100, 200], [200, 100]] {
            for longer in [0, 1] {
                scope.spawn(move || play(priorities, longer));
            }
        }
    });
}

#[test]
fn beside_keepalived_with_another_list_there_is_one_master() {
    let play = |ours: u8, theirs: u8, longer: bool, ours_first: bool| {
        let Some(lab) = Lab::new(2) else { return };
        let [own, peer] = &lab.hosts[..] else { panic!("two hosts") };
        let owners = Owners::watch(&lab);
        // Longer than a busy box comes late.
        let list = if longer { LONGER } else { "" };
        let config = router(51, ours, &format!("advert_interval = \"300ms\"\n{list}"));
        let addresses: &[&str] = if longer { &["192.0.2.51/24"] } else { &["192.0.2.51/24", "192.0.2.77/24"] };
        let start = || Theirs { priority: theirs, interval: "0.3", addresses, ..THEIRS }.start(peer, own);
        let bascule;
        let _keepalived;
        if ours_first {
            bascule = Bascule::start(own, &config);
            owners.wait_for(vip(51), &[1]);
            // It drops what we say, and takes the address beside us; then we yield, whoever is the better one.
            _keepalived = start();
            owners.wait_for(vip(51), &[2]);
            let why = if ours < theirs {
                "a peer has a higher priority"
            } else {
                "a peer that is configured otherwise does not hear us"
            };
            assert_eq!(bascule.why("r51"), why);
        } else {
            _keepalived = start();
            owners.wait_for(vip(51), &[2]);
            bascule = Bascule::start(own, &config);
            bascule.wait_until_heard("r51", 10);
            assert_eq!(bascule.changes("r51").len(), 1, "{}", bascule.instance.log());
        }
        owners.settle(&[(vip(51), 2)], A_WHILE);
        // Nobody else is there to take it: no worse off than with the same list.
        _keepalived.stop();
        owners.settle(&[(vip(51), 1)], A_WHILE);
    };
    thread::scope(|scope| {
        for (ours, theirs) in [(200, 100), (100, 200)] {
            for longer in [false, true] {
                for ours_first in [false, true] {
                    scope.spawn(move || play(ours, theirs, longer, ours_first));
                }
            }
        }
    });
}

#[test]
fn beside_keepalived_of_another_version_interval_or_cast_there_is_one_master() {
    // Ours and theirs that cannot understand each other; the counter.
    let cases = [
        ("", Theirs { version: 2, interval: "1", ..THEIRS }, "version_mismatch"),
        ("version = 2\nadvert_interval = \"1s\"", Theirs { interval: "1", ..THEIRS }, "version_mismatch"),
        ("version = 2\nadvert_interval = \"1s\"", Theirs { version: 2, interval: "2", ..THEIRS }, "interval_mismatch"),
        ("", Theirs { unicast: true, ..THEIRS }, "cast_mismatch"),
        ("unicast_peers = [\"192.0.2.2\"]", THEIRS, "cast_mismatch"),
    ];
    let play = |keys: &str, theirs: &Theirs<'_>, counter: &str, ours: u8| {
        let Some(lab) = Lab::new(2) else { return };
        let [own, peer] = &lab.hosts[..] else { panic!("two hosts") };
        let owners = Owners::watch(&lab);
        let bascule = Bascule::start(own, &router(51, ours, keys));
        owners.wait_for(vip(51), &[1]);
        let _keepalived = theirs.start(peer, own);
        owners.wait_for(vip(51), &[2]);
        // Its silence would be over by now.
        wait_for("what is counted", || (bascule.count("r51", counter) >= 5).then_some(()));
        owners.settle(&[(vip(51), 2)], A_WHILE);
        assert_eq!(bascule.changes("r51").len(), 3, "{}", bascule.instance.log());
        let why = if ours > theirs.priority { " does not hear us" } else { " has a higher priority" };
        assert_eq!(bascule.why("r51"), format!("a peer that is configured otherwise{why}"));
    };
    thread::scope(|scope| {
        for (keys, theirs, counter) in &cases {
            for ours in [50, 150] {
                scope.spawn(move || play(keys, theirs, counter, ours));
            }
        }
    });
}

#[test]
fn a_wrong_password_keeps_a_backup_a_backup_and_takes_nothing_from_a_master() {
    let Some(lab) = Lab::new(2) else { return };
    let [own, peer] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let keys = "version = 2\nadvert_interval = \"1s\"\nauthentication = { password = \"secret\" }";
    let theirs = Theirs { version: 2, priority: 150, interval: "1", password: Some("wrong"), ..THEIRS };
    let keepalived = theirs.start(peer, own);
    owners.wait_for(vip(51), &[2]);
    let bascule = Bascule::start(own, &router(51, 200, keys));
    wait_for("five intervals", || (bascule.count("r51", "authentication_mismatch") >= 5).then_some(()));
    owners.settle(&[(vip(51), 2)], A_WHILE);
    assert_eq!(bascule.changes("r51").len(), 1);
    bascule.instance.wait_for_log("a peer has another password, or one on one box only");
    // A master believes nobody who does not know it.
    keepalived.stop();
    owners.wait_for(vip(51), &[1]);
    let before = bascule.count("r51", "authentication_mismatch");
    let _keepalived = Theirs { priority: 250, ..theirs }.start(peer, own);
    owners.wait_for(vip(51), &[1, 2]);
    wait_for("its word", || (bascule.count("r51", "authentication_mismatch") > before).then_some(()));
    // Longer than a master is doubted.
    thread::sleep(Duration::from_secs(5));
    assert_eq!((bascule.router("r51")["state"].as_str(), owners.of(vip(51))), (Some("active"), vec![1, 2]));
}
