//! Addresses and interfaces: put on, taken off, put back; announced; and what happens when an interface comes or goes.

use std::net::IpAddr;
use std::time::Instant;

use bascule::vrrp::Family;
use bascule::vrrp::packet::decode;
use bascule::vrrpd::{Ether, Receiver};

use crate::lab::{Host, INTERFACE, Lab};
use crate::support::wait_for;
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{A_WHILE, get, pair, router, vip};
use crate::vrrp::owners::Owners;

/// Hears claims of addresses in `host`.
fn listen(host: &Host) -> Ether {
    host.run(|| Ether::open_listening(host.ifindex).unwrap())
}

/// Waits for a claim of `ip` by `owner`; whatever others claim before is passed over.
fn wait_for_claim(ether: &Ether, ip: IpAddr, owner: &Host) {
    let claim = || ether.hear().unwrap().filter(|claim| claim.ip == ip && claim.mac.0 == owner.mac());
    wait_for(&format!("a claim of {ip}"), claim);
}

/// Passes over what was heard until now.
fn forget(ether: &Ether) {
    while ether.hear().unwrap().is_some() {}
}

#[test]
fn an_address_that_somebody_takes_away_is_put_back_and_announced_until_it_is_a_quarrel() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, _, client] = &lab.hosts[..] else { panic!("three hosts") };
    let (owners, first, second) = pair(&lab, "");
    let ether = listen(client);
    for times in 1..=5 {
        forget(&ether);
        one.ip(&format!("address del {}/24 dev {INTERFACE}", vip(51)));
        wait_for_claim(&ether, vip(51), one);
        owners.wait_for(vip(51), &[1]);
        let put_back = || (first.instance.log().matches(": put back").count() == times).then_some(());
        wait_for("what the log says of it", put_back);
    }
    assert_eq!((first.changes("r51").len(), second.changes("r51").len()), (2, 1));
    // Once more, and the peer may try.
    one.ip(&format!("address del {}/24 dev {INTERFACE}", vip(51)));
    owners.settle(&[(vip(51), 2)], A_WHILE);
    assert!(first.instance.log().contains("was taken off the box 5 times in a minute"), "{}", first.instance.log());
    let status = first.router("r51");
    assert_eq!(status["against"][0], "the addresses cannot be kept on this box", "{status}");
}

#[test]
fn a_link_that_goes_down_costs_the_address_until_it_is_back() {
    let Some(lab) = Lab::new(2) else { return };
    let one = &lab.hosts[0];
    let (owners, first, second) = pair(&lab, "");
    for down_and_up in [
        // By the administrator, and by the cable.
        [&(|| one.ip(&format!("link set {INTERFACE} down"))) as &dyn Fn(), &|| {
            one.ip(&format!("link set {INTERFACE} up"))
        }],
        [&|| lab.set_port(1, "down"), &|| lab.set_port(1, "up")],
    ] {
        second.wait_until_heard("r51", 2);
        down_and_up[0]();
        first.wait_for_state("r51", "fault");
        owners.settle(&[(vip(51), 2)], A_WHILE);
        assert_eq!(first.why("r51"), "the interface is down, or has no address");
        down_and_up[1]();
        owners.settle(&[(vip(51), 1)], A_WHILE);
        assert_eq!(second.why("r51"), "a peer has a higher priority");
    }
}

#[test]
fn a_stop_whose_interface_goes_meanwhile_ends() {
    let Some(lab) = Lab::new(1) else { return };
    let owners = Owners::watch(&lab);
    // Nobody takes the address, and so long is waited for somebody.
    let mut bascule = Bascule::start(&lab.hosts[0], &router(51, 100, "advert_interval = \"1s\""));
    owners.wait_for(vip(51), &[1]);
    bascule.tell(&["stop"]);
    lab.set_port(1, "down");
    owners.wait_for(vip(51), &[]);
    assert_eq!(bascule.instance.wait().code(), Some(0));
    assert_eq!(bascule.changes("r51").pop().unwrap().to, "initialize");
}

#[test]
fn an_interface_that_appears_late_is_waited_for() {
    let Some(lab) = Lab::new(1) else { return };
    let host = &lab.hosts[0];
    let owners = Owners::watch(&lab);
    let bascule = Bascule::start(host, &router(51, 100, "interface = \"late0\""));
    bascule.wait_for_state("r51", "fault");
    host.ip("link add late0 type veth peer name late1");
    host.ip("link set late1 up");
    host.ip("link set late0 up");
    // It has no address to speak from yet.
    bascule.wait_for_state("r51", "fault");
    host.ip("address add 192.0.2.99/24 dev late0");
    owners.wait_for(vip(51), &[1]);
    let shown = host.ip_output("-o address show dev late0");
    assert!(shown.contains("192.0.2.51/24"), "{shown}");
    host.ip("link delete late0");
    bascule.wait_for_state("r51", "fault");
    owners.wait_for(vip(51), &[]);
}

#[test]
fn addresses_are_put_on_as_configured_announced_and_only_some_advertised() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, two, client] = &lab.hosts[..] else { panic!("three hosts") };
    let owners = Owners::watch(&lab);
    let ether = listen(client);
    let ear = client.run(|| Receiver::open(INTERFACE, client.ifindex, Family::V4).unwrap());
    let keys = format!(
        "virtual_addresses = [\"192.0.2.51\", {{ address = \"198.51.100.7/24\", label = \"{INTERFACE}:vip\" }}]\n\
         excluded_addresses = [\"2001:db8::51/64\"]"
    );
    let v6 = "virtual_addresses = [\"fe80::52:1/64\", \"2001:db8::52:1/64\"]";
    let all = ["192.0.2.51", "198.51.100.7", "2001:db8::51", "fe80::52:1", "2001:db8::52:1"];
    let all = all.map(|ip| ip.parse::<IpAddr>().unwrap());
    let config = |priority| [router(51, priority, &keys), router(52, priority, v6)].concat();
    let first = Bascule::start(one, &config(200));
    for ip in all {
        wait_for_claim(&ether, ip, one);
        owners.wait_for(ip, &[1]);
    }
    let shown = |ip: &str| one.ip_output(&format!("-o address show dev {INTERFACE} to {ip}"));
    assert!(shown("192.0.2.51").contains("192.0.2.51/32"), "{}", shown("192.0.2.51"));
    let labelled = shown("198.51.100.7");
    assert!(labelled.contains("198.51.100.7/24") && labelled.contains(&format!("{INTERFACE}:vip")), "{labelled}");
    for ip in ["2001:db8::51", "2001:db8::52:1"] {
        // Nothing that a duplicate could spoil, nor that this box would speak from.
        let text = shown(ip);
        assert!(text.contains("/64") && text.contains("nodad") && text.contains("deprecated"), "{text}");
        assert!(!text.contains("tentative") && !text.contains("dadfailed"), "{text}");
    }
    let mut buffer = [0; 2048];
    let advert = wait_for("an advertisement", || {
        let heard = ear.recv(&mut buffer).unwrap()?;
        Some(decode(heard.payload, &heard.envelope()).unwrap().0)
    });
    assert_eq!(advert.addresses, all[..2]);

    let second = Bascule::start(two, &config(100));
    second.wait_until_heard("r51", 2);
    second.wait_until_heard("r52", 2);
    forget(&ether);
    first.tell(&["vrrp", "handover"]);
    owners.settle(&all.map(|ip| (ip, 2)), A_WHILE);
    for ip in all {
        wait_for_claim(&ether, ip, two);
    }
    assert!(client.run(|| get(all[4])).is_ok_and(|body| body == "2"));
}

#[test]
fn an_address_that_was_there_before_is_used_and_left_there() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    one.ip(&format!("address add {}/24 dev {INTERFACE}", vip(51)));
    let owners = Owners::watch(&lab);
    let mut first = Bascule::start(one, &router(51, 200, ""));
    first.wait_for_state("r51", "active");
    first.instance.wait_for_log("192.0.2.51 was on eth0 already, put by something else");
    let begin = Instant::now();
    let second = Bascule::start(two, &router(51, 100, ""));
    second.wait_until_heard("r51", 2);
    first.tell(&["vrrp", "handover"]);
    owners.wait_for(vip(51), &[1, 2]);
    first.tell(&["stop"]);
    first.instance.wait();
    first.restart();
    owners.settle(&[(vip(51), 1)], A_WHILE);
    assert!(owners.has_stayed(vip(51), 1, begin));
}
