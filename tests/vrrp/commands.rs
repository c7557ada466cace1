//! What the command line says: `listen`, `release`, `status`, and a second instance.

use std::fs;
use std::process::Output;
use std::thread;

use rustix::process::Signal;

use crate::lab::{Host, INTERFACE, Lab};
use crate::support::{Instance, TempDir, bascule, wait_for};
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::{pair, router, vip};
use crate::vrrp::owners::Owners;

/// Runs a command in `host` for a file of these virtual routers.
fn command(host: &Host, routers: &str, arguments: &[&str]) -> Output {
    let dir = TempDir::new();
    let file = dir.path().join("bascule.toml");
    let run_dir = dir.path().join("run");
    let text = format!("[global]\nrun_dir = {run_dir:?}\n[defaults.vrrp]\ninterface = \"{INTERFACE}\"\n{routers}");
    fs::write(&file, text).unwrap();
    host.run(|| bascule(&[arguments, &["-c", file.to_str().unwrap()]].concat()))
}

#[test]
fn listening_claims_nothing_and_tells_what_does_not_agree() {
    let Some(lab) = Lab::new(2) else { return };
    let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
    let owners = Owners::watch(&lab);
    let v2 = "version = 2\nadvert_interval = \"1s\"\n";
    let pass = format!("{v2}authentication = {{ password = \"secret\" }}");
    let master = [router(51, 150, ""), router(52, 150, &pass)].concat();
    let _master = Bascule::start(one, &master);
    owners.wait_for(vip(51), &[1]);
    owners.wait_for(vip(52), &[1]);
    let list = |addresses: &str| format!("virtual_addresses = [{addresses}]");
    let pair = |first: String| [first, router(52, 100, &pass)].concat();
    // Another file, and what is said of it.
    let cases = [
        (pair(router(51, 100, "")), None),
        (pair(router(51, 150, "")), Some("`priority` is 150 in the file too")),
        (pair(router(51, 100, v2)), Some("`version` is the other one in the file")),
        (pair(router(51, 100, "advert_interval = \"200ms\"")), Some("`advert_interval` is 200ms in the file")),
        (pair(router(51, 100, &list("\"192.0.2.51/24\", \"192.0.2.77/24\""))), Some("192.0.2.77 is in the file only")),
        (pair(router(51, 100, &list("\"192.0.2.77/24\""))), Some("another cluster with our id")),
        (pair(router(51, 100, "unicast_peers = [\"192.0.2.1\"]")), Some("multicast; the file has `unicast_peers`")),
        (pair(router(61, 100, &list("\"192.0.2.51/24\""))), Some("virtual_router_id is 61 in [vrrp.r61]")),
        ([router(51, 100, ""), router(52, 100, v2)].concat(), Some("`authentication` is another in the file")),
        (
            [router(51, 100, ""), router(52, 100, &pass.replace("1s", "2s"))].concat(),
            Some("`advert_interval` is 2s in the file"),
        ),
    ];
    thread::scope(|scope| {
        let listen = |routers| scope.spawn(move || command(two, routers, &["vrrp", "listen"]));
        let runs: Vec<_> = cases.iter().map(|(routers, said)| (said, listen(routers))).collect();
        for (said, run) in runs {
            let output = run.join().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert!(
                text.contains("192.0.2.1: vrid 51 on eth0: version 3, priority 150, every 100ms"),
                "{text}{errors}"
            );
            match said {
                None => {
                    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
                    assert!(!text.contains("MISMATCH"), "{text}");
                }
                Some(said) => {
                    assert_eq!(output.status.code(), Some(1), "{said}: {text}{errors}");
                    let lines: Vec<_> = text.lines().filter(|line| line.contains("MISMATCH")).collect();
                    assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {text}");
                }
            }
        }
    });
    assert_eq!(owners.of(vip(51)), [1]);
}

#[test]
fn listening_where_nobody_speaks_says_so() {
    let Some(lab) = Lab::new(1) else { return };
    let output = command(&lab.hosts[0], &router(51, 100, ""), &["vrrp", "listen"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing was heard in 5s on eth0"));
    let output = command(&lab.hosts[0], &router(51, 100, "interface = \"none0\""), &["vrrp", "listen"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no interface none0"));
}

#[test]
fn releasing_takes_off_what_a_dead_instance_left_and_nothing_of_a_living_one() {
    let Some(lab) = Lab::new(1) else { return };
    let owners = Owners::watch(&lab);
    let mut instance = Bascule::start(&lab.hosts[0], &router(51, 100, ""));
    owners.wait_for(vip(51), &[1]);
    let output = instance.command(&["vrrp", "release"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another instance"));
    assert_eq!(owners.of(vip(51)), [1]);
    instance.kill_all();
    assert_eq!(owners.of(vip(51)), [1]);
    assert_eq!(instance.tell(&["vrrp", "release"]), "removed 192.0.2.51/24 from eth0\n");
    owners.wait_for(vip(51), &[]);
    assert_eq!(instance.tell(&["vrrp", "release"]), "nothing of ours is on this box\n");
}

#[test]
fn status_says_who_holds_what() {
    let Some(lab) = Lab::new(2) else { return };
    let (_owners, first, second) = pair(&lab, "");
    let text = first.tell(&["status"]);
    assert!(text.contains(" serves, holds all of 1 virtual routers"), "{text}");
    assert!(text.contains("r51 on eth0: active (master) for "), "{text}");
    let text = second.tell(&["status"]);
    assert!(text.contains(" serves, holds none of 1 virtual routers"), "{text}");
    assert!(text.contains("heard: 192.0.2.1 with priority 200, "), "{text}");
}

#[test]
fn a_second_instance_with_the_admin_socket_of_the_first_is_refused() {
    let Some(lab) = Lab::new(1) else { return };
    let dir = TempDir::new();
    let admin = format!("[admin]\nsocket = \"{}\"\n", dir.path().join("socket").display());
    let first = Bascule::start(&lab.hosts[0], &format!("{}{admin}", router(51, 100, "")));
    first.wait_for_state("r51", "active");
    let config = format!(
        "[global]\n{admin}[listener.l]\nbind = [\"0.0.0.0:81\"]\n[site.s]\n[[site.s.route]]\nrespond = {{ body = \"\" }}\n"
    );
    let mut second = lab.hosts[0].run(|| Instance::spawn(&config));
    let status = wait_for("its end", || (!second.is_running()).then(|| second.wait()));
    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains("somebody answers there"), "{}", second.log());
    assert_eq!(first.router("r51")["state"], "active");
    // What a dead one left is no obstacle.
    let mut first = first;
    first.kill_all();
    first.restart();
    first.wait_for_state("r51", "active");
    first.instance.signal(Signal::TERM);
    assert_eq!(first.instance.wait().code(), Some(0));
}
