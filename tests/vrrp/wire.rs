//! Another's opinion of what we send: tshark.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bascule::vrrp::announce::Mac;
use rustix::process::Signal;

use crate::lab::{Host, Lab};
use crate::run;
use crate::support::{TempDir, kill, wait_for};
use crate::vrrp::bascule::Bascule;
use crate::vrrp::boxes::router;

/// What passes by the port of host 1.
struct Capture {
    tshark: Child,
    dir: TempDir,
}

impl Capture {
    fn start(lab: &Lab) -> Self {
        const FILTER: &str = "ip proto 112 or ip6 proto 112 or arp or (icmp6 and ip6[40] == 136)";
        let dir = TempDir::new();
        let tshark = lab.in_switch(|| {
            let mut command = Command::new("tshark");
            command.args(["-i", "port1", "-f", FILTER, "-w"]).arg(dir.path().join("pcap"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        });
        let this = Self { tshark: tshark.expect("tshark; tests/run installs it"), dir };
        // It writes the file's header once it hears.
        wait_for("tshark", || std::fs::metadata(this.path()).is_ok_and(|file| file.len() > 0).then_some(()));
        this
    }

    fn path(&self) -> String {
        self.dir.path().join("pcap").display().to_string()
    }

    fn stop(&mut self) {
        kill(self.tshark.id(), Signal::INT).unwrap();
        wait_for("tshark's end", || self.tshark.try_wait().unwrap());
    }

    /// Fields of the packets that a display filter lets pass.
    fn read(&self, filter: &str, options: &[&str], fields: &[&str]) -> Vec<Vec<String>> {
        let path = self.path();
        let mut arguments = vec!["-n", "-r", &path, "-Y", filter, "-T", "fields"];
        options.iter().for_each(|option| arguments.extend(["-o", option]));
        fields.iter().for_each(|field| arguments.extend(["-e", field]));
        let text = run("tshark", &arguments);
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tshark.kill();
        let _ = self.tshark.wait();
    }
}

fn mac(host: &Host) -> String {
    Mac(host.mac()).to_string()
}

#[test]
fn tshark_finds_nothing_wrong_with_what_we_send() {
    let Some(lab) = Lab::new(2) else { return };
    let one = &lab.hosts[0];
    let mut capture = Capture::start(&lab);
    let v2 = "version = 2\nadvert_interval = \"1s\"\n";
    let keys = [
        (51, String::new()),
        (52, "v3_checksum = \"rfc9568\"".to_owned()),
        (53, v2.to_owned()),
        (54, format!("{v2}authentication = {{ password = \"secret\" }}")),
        (55, "unicast_peers = [\"192.0.2.2\"]".to_owned()),
        (56, "virtual_addresses = [\"fe80::56:1/64\", \"2001:db8::56:1/64\"]".to_owned()),
        (
            57,
            "virtual_addresses = [\"2001:db8::57:1/64\"]\nunicast_peers = [\"2001:db8::2\"]\n\
             unicast_source = \"2001:db8::1\""
                .to_owned(),
        ),
    ];
    let config: String = keys.iter().map(|(vrid, keys)| router(*vrid, 100, keys)).collect();
    let bascule = Bascule::start(one, &config);
    for (vrid, _) in &keys {
        bascule.wait_for_state(&format!("r{vrid}"), "active");
    }
    let sent = |vrid: u8| bascule.router(&format!("r{vrid}"))["sent"].as_u64().unwrap_or_default();
    wait_for("three advertisements of each", || keys.iter().all(|(vrid, _)| sent(*vrid) >= 3).then_some(()));
    bascule.command(&["stop", "--now"]);
    // Priority 0, too.
    thread::sleep(Duration::from_millis(300));
    capture.stop();

    let fields = [
        "vrrp.checksum.status",
        "ip.ttl",
        "ip.dsfield.dscp",
        "ipv6.hlim",
        "ipv6.tclass.dscp",
        "eth.src",
        "eth.dst",
        "vrrp.prio",
        "_ws.malformed",
    ];
    for (vrid, _) in &keys {
        let options: &[&str] = if *vrid == 52 { &["vrrp.v3_checksum_as_in_v2:TRUE"] } else { &[] };
        let packets = capture.read(&format!("vrrp.virt_rtr_id == {vrid}"), options, &fields);
        assert!(packets.len() >= 4, "{vrid}: {packets:?}");
        let (priorities, multicast): (Vec<_>, Vec<_>) = packets.iter().map(|p| (p[7].as_str(), p[6].as_str())).unzip();
        assert_eq!((priorities[0], priorities.last()), ("100", Some(&"0")), "{vrid}: {packets:?}");
        let destination = match vrid {
            55 | 57 => mac(&lab.hosts[1]),
            56 => "33:33:00:00:00:12".to_owned(),
            _ => "01:00:5e:00:00:12".to_owned(),
        };
        assert!(multicast.iter().all(|to| *to == destination), "{vrid}: {packets:?}");
        for packet in packets {
            let network = if *vrid < 56 { ["255", "48", "", ""] } else { ["", "", "255", "48"] };
            assert_eq!(packet[0], "1", "{vrid}: the checksum of {packet:?} is wrong");
            assert_eq!(packet[1..5], network, "{vrid}: {packet:?}");
            assert_eq!((&packet[5], packet[8].as_str()), (&mac(one), ""), "{vrid}: {packet:?}");
        }
    }
    // Neither checksum passes for the other.
    let other = capture.read("vrrp.virt_rtr_id == 52", &[], &["vrrp.checksum.status"]);
    assert!(other.iter().all(|packet| packet[0] == "0"), "{other:?}");

    let fields = ["arp.src.proto_ipv4", "arp.dst.proto_ipv4", "arp.src.hw_mac", "eth.dst"];
    let announced = capture.read("arp.isgratuitous == 1", &[], &fields);
    for vrid in 51..=55 {
        let ip = format!("192.0.2.{vrid}");
        let expected = [ip.clone(), ip, mac(one), "ff:ff:ff:ff:ff:ff".to_owned()];
        assert_eq!(announced.iter().filter(|frame| ***frame == expected).count(), 5, "{announced:?}");
    }
    let fields =
        ["icmpv6.nd.na.flag.o", "icmpv6.nd.na.flag.s", "icmpv6.opt.linkaddr", "ipv6.hlim", "icmpv6.checksum.status"];
    for ip in ["fe80::56:1", "2001:db8::56:1", "2001:db8::57:1"] {
        let filter = format!("icmpv6.nd.na.target_address == {ip} && ipv6.dst == ff02::1");
        let announced = capture.read(&filter, &[], &fields);
        let expected = ["1".to_owned(), "0".to_owned(), mac(one), "255".to_owned(), "1".to_owned()];
        assert_eq!(announced.iter().filter(|frame| ***frame == expected).count(), 5, "{ip}: {announced:?}");
    }
}
