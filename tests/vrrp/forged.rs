//! Forged and broken advertisements: each is counted by its name, and none changes a state that it should not.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bascule::vrrp::packet::{Advert, Authentication, PROTOCOL};
use bascule::vrrp::{Interval, Password, Version};

use crate::lab::{Host, Lab};
use crate::support::wait_for;
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::router;
use crate::vrrp::forger::{Forger, advert};

/// One kind of virtual router: its id, keys, and the addresses that it advertises.
struct Kind {
    vrid: u8,
    version: Version,
    keys: &'static str,
    addresses: &'static [&'static str],
    password: Option<&'static str>,
    unicast: bool,
}

const V3: Kind =
    Kind { vrid: 51, version: Version::V3, keys: "", addresses: &["192.0.2.51"], password: None, unicast: false };
const PASS: Kind = Kind {
    vrid: 52,
    version: Version::V2,
    keys: "version = 2\nadvert_interval = \"1s\"\nauthentication = { password = \"secret\" }",
    addresses: &["192.0.2.52"],
    password: Some("secret"),
    unicast: false,
};
const UNICAST: Kind = Kind {
    vrid: 53,
    version: Version::V3,
    keys: "unicast_peers = [\"192.0.2.2\"]",
    addresses: &["192.0.2.53"],
    password: None,
    unicast: true,
};
const V6: Kind = Kind {
    vrid: 54,
    version: Version::V3,
    keys: "virtual_addresses = [\"fe80::54:1/64\", \"2001:db8::54:1/64\"]",
    addresses: &["fe80::54:1", "2001:db8::54:1"],
    password: None,
    unicast: false,
};
const KINDS: [&Kind; 4] = [&V3, &PASS, &UNICAST, &V6];

impl Kind {
    fn name(&self) -> String {
        format!("r{}", self.vrid)
    }

    /// What a peer of this priority says.
    fn advert(&self, priority: u8) -> Advert {
        let interval = match self.version {
            Version::V2 => Interval::from_secs(1),
            Version::V3 => Interval::from_centis(10),
        };
        let addresses: Vec<IpAddr> = self.addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let password = self.password.map(|text| Authentication::Pass(Password::new(text)));
        Advert {
            authentication: password.unwrap_or(Authentication::None),
            ..advert(self.version, self.vrid, priority, interval.unwrap(), &addresses)
        }
    }

    /// Somebody at `host` who speaks for it.
    fn forger(&self, host: &Host) -> Forger {
        let forger = Forger::new(host, if self.addresses[0].contains(':') { host.link_local() } else { host.v4() });
        if self.unicast { forger.to([192, 0, 2, 1].into()) } else { forger }
    }
}

/// Sends a valid advertisement, spoilt in some way.
type Send = Box<dyn Fn(&Forger, Advert) + Sync>;

/// A flaw: of which router, what is sent, and the counter, `None` where it concerns no router.
struct Flaw {
    of: &'static Kind,
    counter: &'static str,
    send: Send,
}

fn flaw(of: &'static Kind, counter: &'static str, send: impl Fn(&Forger, Advert) + Sync + 'static) -> Flaw {
    Flaw { of, counter, send: Box::new(send) }
}

/// Changes bytes, and mends the checksum.
fn edited(of: &'static Kind, counter: &'static str, edit: fn(&mut Vec<u8>)) -> Flaw {
    flaw(of, counter, move |forger, advert| {
        forger.advertise(&advert, |bytes| {
            edit(bytes);
            mend(bytes, of.version == Version::V3, forger);
        });
    })
}

fn flaws() -> Vec<Flaw> {
    let far = |forger: &Forger, advert: Advert| forger.send(&forger.encode(&advert), 254);
    let other_list = |ip: &'static str| {
        move |forger: &Forger, advert: Advert| {
            forger.advertise(&Advert { addresses: vec![ip.parse().unwrap()], ..advert }, |_| ());
        }
    };
    let other_password = |authentication| {
        move |forger: &Forger, advert: Advert| forger.advertise(&Advert { authentication, ..advert }, |_| ())
    };
    vec![
        flaw(&V3, "ttl", far),
        flaw(&PASS, "ttl", far),
        flaw(&UNICAST, "ttl", far),
        flaw(&V6, "ttl", far),
        flaw(&V3, "checksum", |forger, advert| forger.advertise(&advert, |bytes| bytes[6] ^= 0x55)),
        flaw(&PASS, "checksum", |forger, advert| forger.advertise(&advert, |bytes| bytes[6] ^= 0x55)),
        flaw(&V6, "checksum", |forger, advert| forger.advertise(&advert, |bytes| bytes[6] ^= 0x55)),
        edited(&V3, "version", |bytes| bytes[0] = 0x41),
        edited(&V6, "version", |bytes| bytes[0] = 0x11),
        edited(&V3, "type", |bytes| bytes[0] = 0x32),
        edited(&V3, "length", |bytes| bytes.push(0)),
        edited(&V3, "length", |bytes| bytes[3] = 9),
        edited(&PASS, "length", |bytes| bytes.truncate(12)),
        // Signed, as keepalived 2.4 does.
        edited(&V3, "length", |bytes| bytes.extend([0xab; 28])),
        // UCarp: version 2, type 1, its id, authentication of 7 words, then a counter and a hash.
        edited(&V3, "length", |bytes| {
            bytes.splice(0.., [0x21, 51, 0, 7, 0, 1, 0, 0]);
            bytes.extend([0xab; 28]);
        }),
        edited(&V6, "length", |bytes| bytes.truncate(24)),
        flaw(&V3, "too_short", |forger, _| forger.send(&[0x31, 51, 255, 1, 0], 255)),
        edited(&V3, "no_addresses", |bytes| {
            bytes[3] = 0;
            bytes.truncate(8);
        }),
        edited(&V3, "no_interval", |bytes| bytes[5] = 0),
        edited(&PASS, "no_interval", |bytes| bytes[5] = 0),
        edited(&PASS, "authentication_type", |bytes| bytes[4] = 2),
        flaw(&PASS, "authentication_mismatch", other_password(Authentication::Pass(Password::new("Secret")))),
        flaw(&PASS, "authentication_mismatch", other_password(Authentication::None)),
        flaw(&V3, "foreign_cluster", other_list("192.0.2.99")),
        flaw(&V6, "foreign_cluster", other_list("fe80::99")),
    ]
}

/// Writes the right checksum.
fn mend(bytes: &mut [u8], pseudo: bool, forger: &Forger) {
    bytes[6..8].fill(0);
    let mut all = bytes.to_vec();
    if all.len() % 2 == 1 {
        all.push(0);
    }
    if pseudo {
        for ip in [forger.source, forger.destination] {
            match ip {
                IpAddr::V4(ip) => all.extend(ip.octets()),
                IpAddr::V6(ip) => all.extend(ip.octets()),
            }
        }
        all.extend([0, PROTOCOL, 0, bytes.len() as u8]);
    }
    let mut sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// The counter of what concerns no router.
fn strange(bascule: &Bascule<'_>, counter: &str) -> u64 {
    let all = bascule.status()["vrrp"]["drops"].as_array().cloned().unwrap_or_default();
    all.iter().find(|pair| pair[0] == counter).map_or(0, |pair| pair[1].as_u64().unwrap())
}

/// Sends each flaw three times from `host`, in the words of a peer of `priority`, and looks at its counter.
fn send_all(bascule: &Bascule<'_>, host: &Host, priority: u8) {
    const TIMES: u64 = 3;
    for Flaw { of, counter, send } in flaws() {
        let forger = of.forger(host);
        let before = bascule.count(&of.name(), counter);
        for _ in 0..TIMES {
            send(&forger, of.advert(priority));
        }
        wait_for(&format!("{counter} of {}", of.name()), || {
            let now = bascule.count(&of.name(), counter);
            assert!(now <= before + TIMES, "{counter}: {before}, then {now}");
            (now == before + TIMES).then_some(())
        });
    }
    let forger = V3.forger(host);
    for (vrid, counter) in [(99, "unknown_vrid"), (0, "vrid_zero")] {
        let before = strange(bascule, counter);
        for _ in 0..TIMES {
            forger.advertise(&V3.advert(priority), |bytes| {
                bytes[1] = vrid;
                mend(bytes, true, &forger);
            });
        }
        wait_for(counter, || (strange(bascule, counter) == before + TIMES).then_some(()));
    }
}

fn config() -> String {
    KINDS.map(|kind| router(kind.vrid, 100, kind.keys)).concat()
}

#[test]
fn a_master_counts_what_is_broken_or_forged_and_yields_to_none_of_it() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, _, stranger] = &lab.hosts[..] else { panic!("three hosts") };
    let bascule = Bascule::start(one, &config());
    for kind in KINDS {
        bascule.wait_for_state(&kind.name(), "active");
    }
    // The peer of the unicast router says what is wrong with it; everybody may multicast.
    send_all(&bascule, &lab.hosts[1], 255);
    // One who is not among the peers, and has the highest priority.
    let forger = UNICAST.forger(stranger);
    for _ in 0..3 {
        forger.advertise(&UNICAST.advert(255), |_| ());
    }
    wait_for("what strangers say", || (bascule.count("r53", "source") == 3).then_some(()));
    bascule.instance.wait_for_log("advertisements of one not in `unicast_peers`: ignored");
    // Our own address. Over IPv4 the kernel lets nothing in that comes from it.
    let forger = Forger::new(stranger, one.link_local());
    for _ in 0..3 {
        forger.advertise(&V6.advert(255), |_| ());
    }
    wait_for("our own address", || (bascule.count("r54", "own_address") == 3).then_some(()));
    Forger::new(stranger, one.v4()).advertise(&V3.advert(255), |_| ());
    for kind in KINDS {
        assert_eq!(bascule.changes(&kind.name()).len(), 2, "{}", bascule.instance.log());
        let sent = |router: &str| bascule.router(router)["sent"].as_u64().unwrap();
        let before = sent(&kind.name());
        wait_for("its next advertisement", || (sent(&kind.name()) > before).then_some(()));
    }
    // And one that is as it should be is believed.
    V3.forger(stranger).advertise(&V3.advert(255), |_| ());
    wait_for("the change", || (bascule.changes("r51").len() > 2).then_some(()));
    assert_eq!(bascule.changes("r51")[2].why, "a peer has a higher priority");
}

#[test]
fn a_backup_counts_what_is_broken_or_forged_and_takes_over_for_none_of_it() {
    let Some(lab) = Lab::new(3) else { return };
    let [one, two, _] = &lab.hosts[..] else { panic!("three hosts") };
    let masters = KINDS.map(|kind| (kind.forger(two), kind.advert(200)));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Somebody who is master of them all.
            while !over.load(Ordering::Relaxed) {
                for (forger, advert) in &masters {
                    forger.advertise(advert, |_| ());
                }
                thread::sleep(Duration::from_millis(30));
            }
        });
        let _ends = End(&over);
        let bascule = Bascule::start(one, &config());
        for kind in KINDS {
            bascule.wait_until_heard(&kind.name(), 3);
        }
        // In the words of the master itself, that it resigns.
        send_all(&bascule, two, 0);
        for kind in KINDS {
            bascule.wait_until_heard(&kind.name(), 20);
            assert_eq!(bascule.changes(&kind.name()).len(), 1, "{}", bascule.instance.log());
        }
    });
}

/// Ends a thread with the test, however that ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
