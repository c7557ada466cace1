use std::net::IpAddr;

use super::*;
use crate::vrrp::{Checksum, Family, Interval, Password, Priority, Version};

/// A virtual router with only what has no default.
const ROUTER: &str = "
    [vrrp.a]
    interface = 'eth0'
    virtual_router_id = 51
    version = 2
    virtual_addresses = ['192.0.2.100/24']
";

/// [`ROUTER`] beside [`LEAST`], with `more` in its table and behind it.
fn with(more: &str) -> String {
    format!("{LEAST}{ROUTER}{more}\n")
}

fn router(text: &str) -> Arc<VirtualRouter> {
    Arc::clone(&load_text(text).config.routers[0])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What `check_all_nodes` says of `text`.
fn over_nodes(text: &str) -> Result<String, String> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("bascule-nodes-{}-{number}.toml", std::process::id()));
    fs::write(&file, text).unwrap();
    let found = check_all_nodes(&file);
    fs::remove_file(&file).unwrap();
    found.map(|warnings| warnings.to_string()).map_err(|errors| errors.to_string())
}

#[test]
fn a_virtual_router_has_the_documented_defaults() {
    let secs = Duration::from_secs;
    let router = router(&with(""));
    assert_eq!((&*router.name, &*router.interface, router.vrid.get()), ("a", "eth0", 51));
    assert_eq!((router.version, router.family, router.priority), (Version::V2, Family::V4, Priority(100)));
    assert_eq!(Some(router.advert_interval), Interval::from_secs(1));
    assert!(router.password.is_none() && router.source.is_none() && router.unicast_peers.is_empty());
    assert!(router.check_source && router.check_ttl && router.v3_checksum == Checksum::PseudoHeader);
    let address = VirtualAddress { ip: ip("192.0.2.100"), prefix: 24, interface: "eth0".into(), label: None };
    assert_eq!((&*router.addresses, &*router.excluded), (&[address][..], &[][..]));
    assert_eq!((router.preempt, router.preempt_delay), (Preempt::WhenReady, secs(10)));
    assert_eq!(router.startup_delay, Duration::ZERO);
    let announce = Announce { burst: 5, repeat: vec![secs(1), secs(5)], refresh: secs(60), interval: Duration::ZERO };
    assert_eq!(router.announce, announce);
    let millis = [router.proxy_grace, router.handover_drain, router.handover_linger].map(|period| period.as_millis());
    assert_eq!(millis, [500, 5000, 200]);
    assert!(router.track_pools.is_none() && router.track_interfaces.is_empty());
    assert!(router.track_files.is_empty() && router.track_scripts.is_empty() && router.sync_group.is_none());
    assert!(router.arbitrate.is_empty() && router.notify.is_none() && router.webhook.is_none());
}

#[test]
fn a_virtual_router_as_written() {
    let config = load_in(FULL, "lb1", Path::new("conf"), &[]).unwrap().config;
    let [one, two] = &*config.routers else { panic!("two virtual routers") };
    assert_eq!((one.priority, one.password), (Priority(150), Some(Password::new("secret"))));
    assert_eq!(one.addresses[1].label.as_deref(), Some("eth0:vip"));
    assert_eq!((one.excluded[0].ip, one.excluded[0].prefix), (ip("2001:db8::100"), 64));
    assert_eq!((&*one.unicast_peers, one.source), (&[ip("192.0.2.12")][..], Some(ip("192.0.2.11"))));
    let pools = one.track_pools.as_ref().unwrap();
    assert_eq!((&*pools.pools, pools.any), (&["web".into(), "api".into()][..], false));
    let interfaces: Vec<_> = one.track_interfaces.iter().map(|tracked| (&*tracked.name, tracked.weight)).collect();
    assert_eq!(interfaces, [("eth1", None), ("eth2", Some(-20))]);
    assert_eq!(
        (one.track_files[0].path.as_path(), one.track_files[0].weight),
        (Path::new("/etc/bascule/priority"), Some(1))
    );
    let script = &one.track_scripts[0];
    assert_eq!(
        (script.command.program.as_path(), &*script.command.arguments),
        (Path::new("/usr/bin/test"), &["-e".to_owned(), "/etc/bascule/up".to_owned()][..])
    );
    assert_eq!((script.interval, script.timeout), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!((script.rise, script.fall, script.weight), (1, 1, Some(20)));
    assert_eq!(
        (one.sync_group.as_deref(), one.webhook.as_deref()),
        (Some("edge"), Some("http://192.0.2.50:8000/vrrp"))
    );
    assert_eq!(one.notify.as_ref().unwrap().arguments, ["--verbose"]);
    assert_eq!((two.version, two.v3_checksum), (Version::V3, Checksum::PseudoHeader));
    for (address, is_virtual) in
        [("192.0.2.100", true), ("2001:db8::100", true), ("192.0.2.102", true), ("192.0.2.11", false)]
    {
        assert_eq!(config.is_virtual(ip(address)), is_virtual, "{address}");
    }
}

#[test]
fn without_a_prefix_an_address_is_a_network_of_one() {
    let router = router(&with("excluded_addresses = ['192.0.2.101', '2001:db8::1', { address = '192.0.2.102/31' }]"));
    assert_eq!(router.excluded.iter().map(|address| address.prefix).collect::<Vec<_>>(), [32, 128, 31]);
}

#[test]
fn an_address_must_be_one_of_a_host() {
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.0/24",
        "192.0.2.255/24",
        "::",
        "::1",
        "ff02::1",
        "::ffff:192.0.2.1",
        "192.0.2.1/0",
        "192.0.2.1/33",
        "192.0.2.1/+8",
        "2001:db8::1/129",
        "2001:db8::1/",
        "192.0.2.100/24 dev eth1",
        "example.com",
    ] {
        let text = with(&format!("excluded_addresses = ['{address}']"));
        assert!(load_in(&text, "box", Path::new(""), &[]).is_err(), "{address}");
    }
}

#[test]
fn the_interval_is_what_the_version_can_say() {
    let interval = |version: u8, text: &str| {
        let text = with(&format!("advert_interval = '{text}'")).replace("version = 2", &format!("version = {version}"));
        let loaded = load_in(&text, "box", Path::new(""), &[]).map_err(|errors| errors.to_string());
        loaded.map(|loaded| loaded.config.routers[0].advert_interval.get().as_millis())
    };
    assert_eq!(interval(2, "255s"), Ok(255_000));
    assert_eq!(interval(3, "10ms"), Ok(10));
    assert_eq!(interval(3, "40950ms"), Ok(40_950));
    for (version, text, nearest) in [
        (2, "1500ms", "\"2s\""),
        (2, "100ms", "\"1s\""),
        (2, "256s", "\"255s\""),
        (3, "15ms", "\"20ms\""),
        (3, "1ms", "\"10ms\""),
        (3, "365d", "\"40950ms\""),
    ] {
        let error = interval(version, text).unwrap_err();
        assert!(error.contains(nearest), "{error}");
    }
}

#[test]
fn the_password_comes_from_outside_and_is_never_shown() {
    for (written, env) in [("'hunter$2'", &[][..]), ("{ env = 'VRRP' }", &[("VRRP", "hunter$2")][..])] {
        let text = with(&format!("authentication = {{ password = {written} }}"));
        let loaded = load_in(&text, "box", Path::new(""), env).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.config.routers[0].password, Some(Password::new("hunter$2")));
        let again = parse_effective(&loaded.effective, "box").unwrap();
        assert_eq!(again.routers[0].password, Some(Password::new("hunter$2")));
        for shown in [loaded.effective_masked(), format!("{loaded:?}"), format!("{:?}", loaded.config)] {
            assert!(!shown.contains("hunter") && shown.contains("***"), "{shown}");
        }
    }
    let long = load_text(&with("authentication = { type = 'pass', password = 'hunter890' }"));
    assert_eq!(long.config.routers[0].password, Some(Password::new("hunter89")), "as keepalived cuts it");
    let warnings = long.warnings.to_string();
    assert!(warnings.contains("only the first 8 bytes") && !warnings.contains("hunter"), "{warnings}");
    let text = with("authentication = { password = { file = '/etc/hostname' } }");
    let errors = parse_effective(&text, "box").unwrap_err().to_string();
    assert!(errors.contains("a reference where everything must be in the document"), "{errors}");
}

#[test]
fn a_secret_in_a_wrong_place_is_not_shown_either() {
    for wrong in ["auth_pass = 'hunter2'", "authentication = 'hunter2'", "authentication = { auth_pass = 'hunter2' }"] {
        let errors = errors(&with(wrong));
        assert!(!errors.contains("hunter"), "{errors}");
    }
}

#[test]
fn defaults_of_virtual_routers_are_for_their_version() {
    let text = with(
        "[vrrp.b]\ninterface = 'eth0'\nvirtual_router_id = 52\nversion = 3\nvirtual_addresses = ['192.0.2.101']\n\
         [defaults.vrrp]\npriority = 7\nv3_checksum = 'rfc9568'\n\
         authentication = { password = 'x' }\nannounce.burst = 2",
    );
    let config = load_text(&text).config;
    let [a, b] = &*config.routers else { panic!("two virtual routers") };
    assert_eq!(
        (a.priority, a.password, a.v3_checksum),
        (Priority(7), Some(Password::new("x")), Checksum::PseudoHeader)
    );
    assert_eq!((b.priority, b.password, b.v3_checksum), (Priority(7), None, Checksum::Rfc9568));
    assert_eq!((a.announce.burst, b.announce.burst), (2, 2));
}

#[test]
fn nodes_are_the_peers_of_each_other() {
    let text = with(
        "unicast_peers = 'nodes'\n[node.lb1]\naddress = '192.0.2.11'\n[node.lb2]\naddress = '192.0.2.12'\n\
         vrrp.a.priority = 90\n[node.lb3]\naddress = '192.0.2.13'\nvrrp.a.priority = 80\n",
    );
    for (node, others) in [
        ("lb1", ["192.0.2.12", "192.0.2.13"]),
        ("LB2", ["192.0.2.11", "192.0.2.13"]),
        ("lb3", ["192.0.2.11", "192.0.2.12"]),
    ] {
        let loaded = load_in(&text, node, Path::new(""), &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.config.routers[0].unicast_peers, others.map(ip), "{node}");
        let again = parse_effective(&loaded.effective, node).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(again.routers[0].unicast_peers, others.map(ip), "{node}");
    }
    assert_eq!(over_nodes(&text), Ok(String::new()));
    let alone = errors(&with("unicast_peers = 'nodes'"));
    assert!(alone.contains("there is no other [node.NAME]"), "an empty list would be multicast: {alone}");
    let errors = parse_effective(&with("unicast_peers = 'nodes'"), "box").unwrap_err().to_string();
    assert!(errors.contains("a reference where everything must be in the document"), "{errors}");
}

#[test]
fn boxes_of_one_file_fit_together() {
    let check = |on_lb1: &str, on_lb2: &str| {
        over_nodes(&with(&format!("[node.lb1.vrrp.a]\npriority = 101\n{on_lb1}\n[node.lb2.vrrp.a]\n{on_lb2}\n")))
    };
    assert_eq!(check("", ""), Ok(String::new()));
    assert_eq!(check("interface = 'eth1'", "preempt = 'never'\nadvert_interval = '1000ms'"), Ok(String::new()));
    for (on_lb2, expected) in [
        ("priority = 101", "lb1 and lb2 have the same priority 101"),
        ("virtual_router_id = 52", "`virtual_router_id`: lb1 has 51, lb2 has 52"),
        ("version = 3", "`version`: lb1 has 2, lb2 has 3"),
        ("advert_interval = '2s'", "`advert_interval`: lb1 has 1s, lb2 has 2s"),
        ("virtual_addresses = ['192.0.2.9']", "lb1 has 192.0.2.100/24, lb2 has 192.0.2.9/32"),
        ("unicast_peers = ['192.0.2.11']", "`unicast_peers`: lb1 has multicast, lb2 has unicast"),
        ("authentication = { password = 'hunter2' }", "lb1 and lb2 have different passwords, or only one has any"),
    ] {
        let errors = check("", on_lb2).unwrap_err();
        assert!(errors.contains(expected) && !errors.contains("hunter"), "{errors}");
        assert_eq!(errors.matches("error:").count(), 1, "{errors}");
    }
    let same_list = "virtual_addresses = ['192.0.2.9', '192.0.2.100/24']";
    let other_order = "virtual_addresses = ['192.0.2.100/24', '192.0.2.9']";
    assert_eq!(check(same_list, other_order), Ok(String::new()));
}

#[test]
fn a_virtual_router_on_one_box_only_is_no_help() {
    let text = format!("{LEAST}{}[node.lb2]\n", ROUTER.replace("[vrrp.a]", "[node.lb1.vrrp.a]"));
    let warnings = over_nodes(&text).unwrap();
    assert!(warnings.contains("only lb1 has virtual router \"a\""), "{warnings}");
}

#[test]
fn the_admin_socket_is_in_the_run_dir() {
    let socket = |text: &str| load_text(&format!("{LEAST}[global]\nrun_dir = '/x'\n{text}")).config.admin.socket;
    assert_eq!(socket(""), Path::new("/x/admin.sock"));
    assert_eq!(socket("[admin]\nsocket = '/run/y'\n"), Path::new("/run/y"));
    let group = |text: &str| load_text(&format!("{LEAST}[global]\nrun_dir = '/x'\n{text}")).config.admin.group;
    assert_eq!(group("[admin]\ngroup = 'adm'\n").as_deref(), Some("adm"));
    assert_eq!(group(""), None);
    assert!(errors(&format!("{LEAST}[admin]\ngroup = ''\n")).contains("cannot be empty"));
    assert!(errors(&format!("{LEAST}[admin]\nsocket = 'y'\n")).contains("not a whole path"));
    let long = "x".repeat(108);
    assert!(errors(&format!("{LEAST}[admin]\nsocket = '/{long}'\n")).contains("at most 107 bytes"));
}

#[test]
fn webhooks_are_urls() {
    let hook = |url: &str| load_in(&with(&format!("webhook = '{url}'")), "box", Path::new(""), &[]);
    for url in ["http://a", "http://a/", "http://a.example:8000/x?y=z", "http://192.0.2.1", "http://[::1]:80/"] {
        assert_eq!(hook(url).unwrap().config.routers[0].webhook.as_deref(), Some(url));
    }
    for url in [
        "",
        "http://",
        "http:///x",
        "http://a:0/",
        "http://a:+1",
        "http://u:p@a/",
        "http://a b/",
        "http://[a]/",
        "ftp://a",
    ] {
        assert!(hook(url).is_err(), "{url}");
    }
    assert!(hook("https://a").unwrap_err().to_string().contains("nothing is posted by TLS"));
}
