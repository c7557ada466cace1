//! Two boxes of ours: who takes an address when, and who leaves it to the other.

use std::time::{Duration, Instant};

use crate::lab::{INTERFACE, Lab};
use crate::support::wait_for;
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{A_WHILE, get, pair, router, vip};
use crate::vrrp::owners::Owners;
use crate::{cut, heal, run_in};

#[test]
fn two_instances_with_different_checksums_understand_each_other() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let configs = |priority: u8, checksum: &str| {
        [51, 52].map(|vrid| {
            let priority = if vrid == 51 { priority } else { 201 - priority };
            router(vrid, priority, &format!("v3_checksum = \"{checksum}\""))
        })
    };
    let mut first = Bascule::start(one, &configs(150, "rfc9568").concat());
    let second = Bascule::start(two, &configs(51, "pseudo_header").concat());
    owners.settle(&[(vip(51), 1), (vip(52), 2)], A_WHILE);
    for (bascule, router) in [(&first, "r52"), (&second, "r51")] {
        bascule.wait_until_heard(router, 3);
        let status = bascule.router(router);
        assert_eq!(status["drops"].as_array().map(Vec::len), Some(0), "{status}");
        assert_eq!(status["peers"][0]["agrees"], true, "{status}");
    }
    first.tell(&["stop"]);
    assert_eq!(first.instance.wait().code(), Some(0));
    owners.settle(&[(vip(51), 2), (vip(52), 2)], A_WHILE);
    assert_eq!(second.why("r51"), "the active router resigned");
}

#[test]
fn an_equal_or_lower_box_that_holds_the_address_keeps_it_from_one_that_never_preempts() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let holder = Bascule::start(one, &[router(51, 100, ""), router(52, 100, "")].concat());
    owners.wait_for(vip(51), &[1]);
    owners.wait_for(vip(52), &[1]);
    let other = Bascule::start(two, &[router(51, 200, "preempt = \"never\""), router(52, 100, "")].concat());
    other.wait_until_heard("r51", 20);
    owners.settle(&[(vip(51), 1), (vip(52), 1)], A_WHILE);
    assert_eq!((holder.changes("r51").len(), other.changes("r51").len()), (2, 1));
    // It is no less there when it is needed.
    drop(holder);
    owners.wait_for(vip(51), &[1, 2]);
    assert_eq!(other.why("r51"), "no advertisement from the active router");
}

#[test]
fn preemption_waits_until_the_box_has_been_ready_for_as_long_as_it_is_told() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let _holder = Bascule::start(one, &router(51, 100, ""));
    owners.wait_for(vip(51), &[1]);
    let begin = Instant::now();
    let other = Bascule::start(two, &router(51, 200, "preempt = \"when_ready\"\npreempt_delay = \"3s\""));
    owners.wait_for(vip(51), &[2]);
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(other.why("r51"), "our priority is higher");
}

#[test]
fn nothing_is_claimed_before_the_startup_delay_is_over() {
    let Some(lab) = Lab::new(1) else { return };
    let owners = Owners::watch(&lab);
    let begin = Instant::now();
    let _bascule = Bascule::start(&lab.hosts[0], &router(51, 100, "startup_delay = \"3s\""));
    owners.wait_for(vip(51), &[1]);
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn a_handover_that_nobody_takes_is_an_error_and_changes_nothing() {
    let Some(lab) = Lab::new(1) else { return };
    let owners = Owners::watch(&lab);
    let bascule = Bascule::start(&lab.hosts[0], &router(51, 100, ""));
    owners.wait_for(vip(51), &[1]);
    let begin = Instant::now();
    let output = bascule.command(&["vrrp", "handover"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no peer took the addresses: this box keeps them"), "{text}");
    assert!(owners.has_stayed(vip(51), 1, begin));
    assert_eq!(bascule.changes("r51").len(), 2);
    let output = bascule.command(&["vrrp", "handover", "r99"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no virtual router \"r99\""));
}

#[test]
fn a_box_in_maintenance_holds_nothing_that_another_can_hold() {
    let Some(lab) = Lab::new(2) else { return };
    let (owners, first, second) = pair(&lab, "");
    first.tell(&["vrrp", "maintenance", "on"]);
    owners.settle(&[(vip(51), 2)], A_WHILE);
    let router = first.router("r51");
    assert_eq!((&router["priority"], &router["against"][0]), (&1.into(), &"maintenance".into()), "{router}");
    // With both in maintenance the holder goes on, and does not take turns with the other.
    let begin = Instant::now();
    second.tell(&["vrrp", "maintenance", "on"]);
    second.wait_for_state("r51", "active");
    wait_for("its offer", || (second.router("r51")["leaving"] == false).then_some(()));
    owners.settle(&[(vip(51), 2)], 2 * A_WHILE);
    assert!(owners.has_stayed(vip(51), 2, begin), "the address moved between two boxes that cannot serve");
    first.tell(&["vrrp", "maintenance", "off"]);
    owners.settle(&[(vip(51), 1)], A_WHILE);
    second.tell(&["vrrp", "maintenance", "off"]);
    owners.settle(&[(vip(51), 1)], A_WHILE);
}

#[test]
fn routers_of_a_sync_group_move_together() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let v6 = "virtual_addresses = [\"fe80::52:1/64\", \"2001:db8::52:1/64\"]\nsync_group = \"edge\"";
    let both = |priority| [router(51, priority, "sync_group = \"edge\""), router(52, priority, v6)].concat();
    let (v4, v6) = (vip(51), "2001:db8::52:1".parse().unwrap());
    let first = Bascule::start(one, &both(200));
    owners.settle(&[(v4, 1), (v6, 1)], A_WHILE);
    let second = Bascule::start(two, &both(100));
    second.wait_until_heard("r51", 2);
    first.tell(&["vrrp", "handover", "r51"]);
    owners.settle(&[(v4, 2), (v6, 2)], A_WHILE);
    second.tell(&["vrrp", "handover", "r52"]);
    owners.settle(&[(v4, 1), (v6, 1)], A_WHILE);
    assert!([first.why("r51"), first.why("r52")].contains(&"with its sync group".to_owned()));
    // Half of the network fails for the holder: the other half comes along.
    one.ip(&format!("address del fe80::1/64 dev {INTERFACE}"));
    one.ip(&format!("-6 address flush dev {INTERFACE} scope link"));
    owners.settle(&[(v4, 2), (v6, 2)], A_WHILE);
}

#[test]
fn the_owner_of_an_address_takes_it_without_waiting_and_never_takes_its_own_off() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    // Not the one it speaks from: Linux hears nothing from an address that the box itself holds.
    one.ip(&format!("address add {}/24 dev {INTERFACE}", vip(51)));
    let owners = Owners::watch(&lab);
    let begin = Instant::now();
    let mut owner = Bascule::start(one, &router(51, 255, ""));
    owner.wait_for_state("r51", "active");
    assert_eq!(owner.changes("r51")[0].why, "owner of the addresses");
    let other = Bascule::start(two, &router(51, 100, ""));
    other.wait_until_heard("r51", 10);
    owners.settle(&[(vip(51), 1)], A_WHILE);
    owner.tell(&["stop"]);
    owner.instance.wait();
    owners.wait_for(vip(51), &[1, 2]);
    owner.restart();
    owner.wait_for_state("r51", "active");
    owners.settle(&[(vip(51), 1)], A_WHILE);
    assert_eq!(other.why("r51"), "a peer has a higher priority");
    assert!(owners.has_stayed(vip(51), 1, begin));
}

#[test]
fn a_box_that_is_cut_off_from_everybody_takes_nothing_where_that_is_arbitrated() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, two, gateway] = &lab.hosts[..] else { panic!("three hosts") };
    let owners = Owners::watch(&lab);
    let arbitrate = format!("arbitrate = [\"{}\"]", gateway.v4());
    let first = Bascule::start(one, &router(51, 200, ""));
    owners.wait_for(vip(51), &[1]);
    let second = Bascule::start(two, &router(51, 100, &arbitrate));
    second.wait_until_heard("r51", 2);
    // A switch that forwards nothing, and keeps the link up.
    cut(&lab, "oifname port2");
    second.instance.wait_for_log("none of `arbitrate` answers");
    owners.settle(&[(vip(51), 1)], A_WHILE);
    heal(&lab);
    second.wait_until_heard("r51", 2);
    assert_eq!(second.changes("r51").len(), 1);
    drop(first);
    owners.wait_for(vip(51), &[1, 2]);
    // What it held is still on the box of one that was killed; its neighbours reach the other.
    let body = || gateway.run(|| get(vip(51))).ok().filter(|body| body == "2");
    wait_for("the new owner's answer", body);
    assert_eq!(run_in(gateway, "ip", &["neighbour", "show", "192.0.2.51"]).matches("02:00:00:00:00:02").count(), 1);
}
