//! The virtual routers of the file change while the box holds their addresses.

use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::Instant;

use crate::lab::Lab;
use crate::support::{bascule, wait_for};
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{A_WHILE, ask_while, pair, router, vip};

/// Whether an address is on the box.
fn has(bascule: &Bascule<'_>, ip: IpAddr) -> bool {
    let text = bascule.host.run(|| super::super::run("ip", &["-o", "address", "show"]));
    text.contains(&format!(" {ip}/"))
}

#[test]
fn what_is_held_is_held_on_whatever_else_changes() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, first, second) = pair(&lab, "");
    let begin = Instant::now();
    let list = |ips: &[u8]| {
        let all: Vec<String> = ips.iter().map(|n| format!("\"{}/24\"", vip(*n))).collect();
        format!("virtual_addresses = [{}]\n", all.join(", "))
    };
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        // The priority: the next advertisement has it.
        first.reload(&router(51, 180, ""));
        wait_for("the other priority", || (second.router("r51")["peers"][0]["priority"] == 180).then_some(()));
        // An address more, first here, then there: it is served at once.
        first.reload(&router(51, 180, &list(&[51, 77])));
        wait_for("the new address", || has(&first, vip(77)).then_some(()));
        second.reload(&router(51, 100, &list(&[51, 77])));
        second.wait_until_heard("r51", 3);
        assert!(!has(&second, vip(77)));
        // And less.
        first.reload(&router(51, 180, ""));
        wait_for("the end of the new address", || (!has(&first, vip(77))).then_some(()));
        second.reload(&router(51, 100, ""));
        second.wait_until_heard("r51", 3);
        // Another router beside it.
        first.reload(&[router(51, 180, ""), router(52, 180, "")].concat());
        owners.wait_for(vip(52), &[1]);
    });
    assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    assert!(owners.has_stayed(vip(51), 1, begin) && !owners.has_held(vip(51), 2, begin));
    let elected = |which: &Bascule<'_>| which.changes("r51").into_iter().filter(|c| c.to == "active").count();
    assert_eq!(elected(&second), 0, "{}", second.instance.log());
    assert_eq!(first.router("r51")["configured_priority"], 180);
}

#[test]
fn while_addresses_are_handed_over_nothing_changes() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, first, _second) = pair(&lab, "handover_drain = \"2s\"");
    // It asks nothing, so that the drain waits for it.
    let _idle = lab.hosts[2].run(|| TcpStream::connect((vip(51), 80))).unwrap();
    thread::scope(|scope| {
        let (host, file) = (first.host, first.instance.config_file());
        let handover = scope.spawn(move || host.run(|| bascule(&["vrrp", "handover", "-c", &file])));
        first.instance.wait_for_log("before the addresses go");
        let output = first.command(&["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("addresses are being handed over; try again"), "{said}");
        assert!(handover.join().unwrap().status.success());
    });
    owners.settle(&[(vip(51), 2)], A_WHILE);
    first.tell(&["reload"]);
}

#[test]
fn a_router_that_is_gone_gives_its_address_away_and_no_request_is_lost() {
    let Some(lab) = Lab::new(3) else { return };
    let (owners, first, second) = pair(&lab, "");
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        first.reload("");
        owners.wait_for(vip(51), &[2]);
    });
    assert!(answered > 0 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    assert_eq!(second.why("r51"), "the active router resigned");
    wait_for("no vrrp process", || (first.status()["vrrp"]["routers"] == serde_json::json!([])).then_some(()));
    // The program can be replaced all the same, and what is under way goes on.
    let said = first.tell(&["upgrade"]);
    assert!(said.contains("upgraded from version"), "{said}");
    // It comes back.
    first.reload(&router(51, 200, ""));
    owners.settle(&[(vip(51), 1)], A_WHILE);
}
