use std::net::Ipv4Addr;

use super::*;
use crate::config;
use crate::pool::Tried;
use crate::snapshot::Addresses;
use crate::telemetry::access_log::Sinks;

const FILE: &str = r#"
[global]
run_dir = "/nowhere"
[listener.http]
bind = ["192.0.2.1:80"]
[listener.db]
bind = ["192.0.2.1:3306"]
protocol = "tcp"
pool = "db"
[site.shop]
hosts = ["shop.example.com", "*.shop.example.com"]
[[site.shop.route]]
name = "api-beta"
path = "/api"
headers = { X-Beta = "1" }
pool = "beta"
[[site.shop.route]]
name = "api"
path = "/api"
methods = ["GET"]
pool = "web"
mirror = { pool = "beta", share = "5%" }
[[site.shop.route]]
name = "rest"
path = "/api/old"
redirect = { status = 301, location = "https://$host/" }
[pool.web]
algorithm = "first"
servers = [{ address = "10.0.0.1:80", down = true }, "10.0.0.2:80", { address = "10.0.0.3:80", backup = true }]
[pool.beta]
algorithm = "hash"
hash_key = "$cookie_session"
servers = ["10.0.1.1:80", "10.0.1.2:80"]
[pool.db]
servers = ["db.example.com:3306"]
"#;

fn snapshot() -> Snapshot {
    let config = config::parse_effective(FILE, "box").unwrap_or_else(|errors| panic!("{errors}"));
    let sinks = Sinks::start().unwrap();
    Snapshot::build(Arc::new(config), Arc::default(), &Addresses::new(), &sinks, None)
}

fn ask(url: &str, method: &str, headers: &[(&str, &str)]) -> Result<Explanation, String> {
    ask_of(&snapshot(), url, method, headers)
}

fn ask_of(snapshot: &Snapshot, url: &str, method: &str, headers: &[(&str, &str)]) -> Result<Explanation, String> {
    let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let query = Query { url, method, headers: &headers, client: Ipv4Addr::LOCALHOST.into() };
    explain(snapshot, &query, Liveness::FileOnly)
}

#[test]
fn a_route_is_named_with_what_was_passed_over_and_the_server() {
    let found = ask("http://shop.example.com/api/x", "GET", &[]).unwrap();
    assert_eq!((&*found.listener, found.site.as_deref(), found.route.as_deref()), ("http", Some("shop"), Some("api")));
    assert_eq!(found.site_why, "its host, exactly");
    assert_eq!(found.passed_over, [PassedOver { name: "api-beta".into(), why: "it wants a header x-beta".into() }]);
    assert_eq!(found.mirror.as_deref(), Some("5 % of requests, to pool beta"));
    assert_eq!(found.server.as_deref(), Some("10.0.0.2:80"));
    let why: Vec<_> = found.not_eligible.iter().map(|p| (&*p.name, &*p.why)).collect();
    assert_eq!(
        why,
        [("10.0.0.1:80", "down = true in the file"), ("10.0.0.3:80", "a backup, and others are up")],
        "{found:?}"
    );
}

#[test]
fn conditions_wildcards_and_hash_keys_count() {
    let found =
        ask("http://a.shop.example.com/%61pi", "POST", &[("X-Beta", "1"), ("Cookie", "a=b; session=x")]).unwrap();
    assert_eq!(found.site_why, "its wildcard *.shop.example.com");
    assert_eq!((found.route.as_deref(), &*found.server_why), (Some("api-beta"), "by the hash of x"));
    assert_eq!(found.passed_over[0].why, "its methods are GET");
    let found = ask("http://shop.example.com/api/old", "GET", &[]).unwrap();
    assert_eq!(found.action, "redirect 301");
    assert!(found.passed_over.iter().any(|p| p.why.ends_with("the other one goes before it")), "{found:?}");
}

#[test]
fn what_goes_nowhere_is_explained_too() {
    let found = ask("http://other.example.com/", "GET", &[]).unwrap();
    assert_eq!((&*found.action, found.site), ("404 no_route", None));
    let found = ask("http://shop.example.com/", "GET", &[]).unwrap();
    assert_eq!(found.route_why, "none of 3 routes of the site takes it");
    assert!(ask("http://shop.example.com/../..", "GET", &[]).unwrap().action.starts_with("400: "));
    assert!(ask("http://shop.example.com:81/", "GET", &[]).unwrap_err().contains("192.0.2.1:80 (http)"));
    for wrong in ["shop.example.com", "https://a/", "http://a:x/", "tcp://a:1", "http://a/ b\r\nX: y"] {
        assert!(ask(wrong, "GET", &[]).map_or(true, |found| found.action.starts_with("400")), "{wrong}");
    }
}

#[test]
fn failures_that_would_leave_nobody_are_explained_away_by_fail_open() {
    let snapshot = snapshot();
    let pool = snapshot.pools.iter().find(|pool| &*pool.config.name == "beta").unwrap();
    let ask = || ask_of(&snapshot, "http://shop.example.com/api", "GET", &[("X-Beta", "1"), ("Cookie", "session=x")]);
    let (mut state, input) = (pool.new_state(1), PickInput { client: Ipv4Addr::LOCALHOST.into(), key: b"x" });
    let mut tried = Tried::new();
    let mut fail = || {
        let lease = pool.pick(&mut state, &input, &mut tried, clock::now()).unwrap();
        while !pool.on_failure(&mut state, &lease, clock::now()).is_failed {}
        lease.server().name.clone()
    };
    let first = fail();
    let found = ask().unwrap();
    assert_eq!((&found.not_eligible[0].name, &*found.not_eligible[0].why), (&first, "failed"));
    assert_ne!(found.server, Some(first));
    fail();
    let found = ask().unwrap();
    assert!(found.not_eligible.is_empty() && found.server_why.ends_with("(fail_open)"), "{found:?}");
}

#[test]
fn a_tcp_listener_leads_to_its_pool() {
    let found = ask("tcp://192.0.2.1:3306", "GET", &[]).unwrap();
    assert_eq!((&*found.listener, found.pool.as_deref()), ("db", Some("db")));
    assert_eq!(found.server, None);
    assert_eq!(found.not_eligible[0].why, "its name was not looked up");
}

#[test]
fn lists_and_limits_are_named_with_what_decides() {
    let text = FILE
        .replace("[listener.http]\n", "[listener.http]\nlimits = [\"all\"]\ndeny = [\"192.0.2.0/24\"]\n")
        .replace("pool = \"web\"\n", "pool = \"web\"\nlimits = [\"key\", \"all\"]\ndeny = [\"10.0.0.0/8\"]\n")
        + "[limit.all]\nconcurrent = 5\nprefix_ipv4 = 24\n[limit.key]\nkey = \"$http_x_key\"\nrate = \"10/s\"\nburst = 9\n\
           delay = 3\ndry_run = true\n";
    let config = config::parse_effective(&text, "box").unwrap_or_else(|errors| panic!("{errors}"));
    let sinks = Sinks::start().unwrap();
    let snapshot = Snapshot::build(Arc::new(config), Arc::default(), &Addresses::new(), &sinks, None);
    let ask = |client: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let url = "http://shop.example.com/api";
        let query = Query { url, method: "GET", headers: &headers, client: client.parse().unwrap() };
        explain(&snapshot, &query, Liveness::FileOnly).unwrap()
    };
    let found = ask("198.51.100.7", &[("X-Key", "a")]);
    let whys: Vec<_> = found.limits.iter().map(|limit| format!("{} {}", limit.name, limit.why)).collect();
    assert_eq!(
        whys,
        [
            "all 5 at a time; key 198.51.100.7/24",
            "key 10/s, burst 9, delayed but for the first 3; key a; dry_run: nobody is refused"
        ]
    );
    assert!(ask("198.51.100.7", &[]).limits[1].why.contains("its key is empty: not limited"));
    assert_eq!(ask("10.1.1.1", &[]).action, "403 denied");
    let found = ask("192.0.2.9", &[]);
    assert_eq!((&*found.action, found.route), ("closed at accept: denied", None));
    assert_eq!(found.access, ["listener http: 192.0.2.9 is denied by 192.0.2.0/24"]);
}
