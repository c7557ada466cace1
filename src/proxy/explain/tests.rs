use std::net::Ipv4Addr;

use super::*;
use crate::config;
use crate::config::model::{Attachment, Attachments};
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
    snapshot_of(FILE)
}

fn snapshot_of(file: &str) -> Snapshot {
    let config = config::parse_effective(file, "box").unwrap_or_else(|errors| panic!("{errors}"));
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
    let snapshot = snapshot_of(&text);
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

/// A sticky pool behind a route that is shared out.
fn shared() -> Snapshot {
    snapshot_of(
        r#"
[global]
run_dir = "/nowhere"
[listener.http]
bind = ["192.0.2.1:80"]
[site.all]
listeners = ["http"]
[[site.all.route]]
split_key = "$arg_user"
pools = [{ pool = "web", weight = 3 }, { pool = "beta", weight = 1, headers = { X-Beta = true } }, { pool = "cc", cookies = { cc = true } }]
[pool.web]
servers = ["10.0.0.1:80", "10.0.0.2:80"]
sticky = { type = "cookie", secret = "0123456789abcdef" }
[pool.beta]
servers = ["10.0.1.1:80", "10.0.1.2:80"]
sticky = { type = "header", header = "X-User" }
[pool.cc]
servers = ["10.0.1.1:80", "10.0.1.2:80"]
sticky = { type = "source" }
"#,
    )
}

#[test]
fn a_shared_route_says_who_comes_where_and_why() {
    let snapshot = shared();
    let ask = |target: &str, headers: &[(&str, &str)]| {
        let found = ask_of(&snapshot, &format!("http://a{target}"), "GET", headers).unwrap();
        (found.pool.unwrap().to_string(), found.split.unwrap())
    };
    let shares = "web 3 of 4, beta by condition and 1 of 4, cc by condition; here";
    let meets = |pool: &str| (pool.to_owned(), format!("{shares} {pool}, it meets the conditions"));
    assert_eq!(ask("/", &[("X-Beta", "1")]), meets("beta"));
    assert_eq!(ask("/", &[("Cookie", "a=1; cc=")]), meets("cc"));
    assert_eq!(ask("/", &[]), ("web".to_owned(), format!("{shares} web, for example: drawn by lot")));
    let by_key: Vec<_> = (0..20).map(|user| ask(&format!("/?user={user}"), &[])).collect();
    for (user, (pool, why)) in by_key.iter().enumerate() {
        assert_eq!(*why, format!("{shares} {pool}, by the hash of {user}"));
    }
    assert!(by_key.iter().any(|(pool, _)| pool == "web") && by_key.iter().any(|(pool, _)| pool == "beta"));
}

#[test]
fn what_is_known_of_a_client_is_explained() {
    let snapshot = shared();
    let ask = |headers: &[(&str, &str)]| ask_of(&snapshot, "http://a/", "GET", headers).unwrap();
    assert_eq!(ask(&[]).sticky.as_deref(), Some("no cookie BASCULE, which is set"));
    let found = ask(&[("Cookie", "BASCULE=x")]);
    assert_eq!(found.sticky.as_deref(), Some("cookie BASCULE names no server of the pool, and is set anew"));
    let web = snapshot.pools.iter().find(|pool| &*pool.config.name == "web").unwrap();
    let second = web.servers().nth(1).unwrap();
    let fields = String::from_utf8(web.keep(&Tried::new(), second, clock::now()).unwrap().to_vec()).unwrap();
    let cookie = fields.strip_prefix("Set-Cookie: ").unwrap().split(';').next().unwrap();
    let found = ask(&[("Cookie", cookie)]);
    assert_eq!(found.sticky.as_deref(), Some("cookie BASCULE names 10.0.0.2:80"));
    assert_eq!((found.server.as_deref(), &*found.server_why), (Some("10.0.0.2:80"), "the one that the client was on"));

    assert_eq!(ask(&[("X-Beta", "1")]).sticky.as_deref(), Some("no header x-user: as the algorithm says"));
    let found = ask(&[("X-Beta", "1"), ("X-User", "u")]);
    assert_eq!(found.sticky.as_deref(), Some("header x-user is not remembered: its hash decides"));
    assert_eq!(found.server_why, "by the hash of what is sticky");
    let cc = snapshot.pools.iter().find(|pool| &*pool.config.name == "cc").unwrap();
    let found = ask(&[("Cookie", "cc=1")]);
    assert_eq!(found.sticky.as_deref(), Some("address 127.0.0.1 is not remembered: its hash decides"));
    let mut tried = Tried::new();
    tried.stick_to(cc.stick_to_source(Ipv4Addr::LOCALHOST.into(), clock::now()));
    let other = cc.servers().find(|server| Some(&server.name) != found.server.as_ref()).unwrap();
    cc.keep(&tried, other, clock::now());
    let again = ask(&[("Cookie", "cc=1")]);
    assert_eq!(again.sticky, Some(format!("address 127.0.0.1 was on {}", other.name)));
    assert_eq!(again.server.as_ref(), Some(&other.name));
}

#[test]
fn a_plain_request_that_is_sent_to_https_says_where_to() {
    let file = FILE.replace(
        "bind = [\"192.0.2.1:80\"]",
        "bind = [\"192.0.2.1:80\"]\nredirect_https = { port = 8443 }\nhsts = true\nacme_challenge_dir = \"/var/www/acme\"\n\
         trusted_proxies = [\"127.0.0.1\"]",
    );
    let snapshot = snapshot_of(&file);
    let found = ask_of(&snapshot, "http://shop.example.com/api?x", "GET", &[]).unwrap();
    assert_eq!(found.action, "redirect_https 308 to https://shop.example.com:8443/api?x");
    assert_eq!(found.hsts.as_deref(), Some("max-age=31536000"));
    let found = ask_of(&snapshot, "http://other.example.com/", "GET", &[]).unwrap();
    assert_eq!((found.site, &*found.action), (None, "redirect_https 308 to https://other.example.com:8443/"));
    let found = ask_of(&snapshot, "http://shop.example.com/api", "GET", &[("X-Forwarded-Proto", "https")]).unwrap();
    assert_eq!(found.action, "pool web");
    let found = ask_of(&snapshot, "http://shop.example.com/.well-known/acme-challenge/x", "GET", &[]).unwrap();
    assert_eq!(found.action, "challenge from acme_challenge_dir = /var/www/acme");
}

const PASSTHROUGH: &str = r#"
[listener.tls]
bind = ["192.0.2.1:443"]
protocol = "tls_passthrough"
[[listener.tls.tls_route]]
sni = ["shop.example.com", "*.example.com"]
pool = "shop"
[[listener.tls.tls_route]]
sni = ["*.example.com"]
alpn = ["h2"]
pool = "h2"
[[listener.tls.tls_route]]
alpn = ["acme-tls/1"]
pool = "acme"
[pool.shop]
servers = ["10.0.0.1:443"]
[pool.h2]
servers = ["10.0.0.2:443"]
[pool.acme]
servers = ["10.0.0.3:443"]
"#;

#[test]
fn tls_that_is_passed_through_goes_by_name_and_protocol() {
    let snapshot = snapshot_of(&format!("[global]\nrun_dir = \"/nowhere\"\n{PASSTHROUGH}"));
    for (url, route, why, pool) in [
        ("tls://Shop.example.com", "tls_route 1", "sni shop.example.com", Some("shop")),
        ("tls://a.b.example.com:443/", "tls_route 1", "sni *.example.com", Some("shop")),
        ("tls://a.example.com?alpn=http/1.1,h2", "tls_route 2", "sni *.example.com, alpn h2", Some("h2")),
        ("tls://192.0.2.1?alpn=acme-tls/1", "tls_route 3", "any name, alpn acme-tls/1", Some("acme")),
        ("tls://192.0.2.1", "none", "no tls_route has the name and the protocols", None),
        ("tls://elsewhere.test", "none", "no tls_route has the name and the protocols", None),
    ] {
        let found = ask_of(&snapshot, url, "GET", &[]).unwrap();
        assert_eq!((&*found.listener, found.route.as_deref(), &*found.route_why), ("tls", Some(route), why), "{url}");
        assert_eq!(found.pool.as_deref(), pool, "{url}");
        assert_eq!(found.action.contains("unrecognized_name: no_route"), pool.is_none(), "{url}: {}", found.action);
    }
    for (url, error) in [
        ("tls://shop.example.com:8443", "no tls_passthrough listener on port 8443"),
        ("tls://shop.example.com?sni=x", "there is only alpn="),
        ("tls://shop.example.com:x", "the port is not a number"),
    ] {
        assert!(ask_of(&snapshot, url, "GET", &[]).unwrap_err().contains(error), "{url}");
    }
}

#[test]
fn by_https_the_certificate_and_what_clients_must_show_are_named() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = |host: &str| {
        let params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
    };
    let mut attachments = Attachments::default();
    for (path, host) in [("/tls/a.pem", "a.test"), ("/tls/b.pem", "b.test")] {
        attachments.insert(path.to_owned(), Attachment::File { bytes: pem(host).as_bytes().into(), open: false });
    }
    let text = r#"
[global]
run_dir = "/nowhere"
[listener.plain]
bind = ["0.0.0.0:80"]
pool = "p"
[listener.web]
bind = ["0.0.0.0:443"]
pool = "p"
tls = { certificates = ["/tls/a.pem"] }
[site.b]
hosts = ["b.test"]
listeners = ["web"]
tls = { certificates = ["/tls/b.pem"], client_auth = "required", client_ca = "/tls/a.pem" }
[[site.b.route]]
pool = "p"
[pool.p]
servers = ["10.0.0.1:80"]
"#;
    let config = config::parse_with(text, "box", &attachments).unwrap_or_else(|errors| panic!("{errors}"));
    let sinks = Sinks::start().unwrap();
    let snapshot = Snapshot::build(Arc::new(config), Arc::default(), &Addresses::new(), &sinks, None);
    let ask = |url: &str| ask_of(&snapshot, url, "GET", &[]).unwrap();
    let tls = |url: &str| ask(url).tls.unwrap_or_default();
    let versions = "TLS 1.2 or 1.3, certificate";
    assert_eq!(tls("https://a.test/"), format!("{versions} /tls/a.pem (ECDSA)"));
    assert_eq!(tls("https://c.test/"), format!("{versions} /tls/a.pem (ECDSA), which is not for this host"));
    assert_eq!(tls("https://b.test/"), format!("{versions} /tls/b.pem (ECDSA); the client needs a certificate"));
    assert_eq!(ask("http://a.test:443/").action, "400: plain_http");
    assert_eq!(ask("https://a.test:80/").action, "closed: the listener does not speak TLS");
    assert_eq!(ask("https://b.test/").pool.as_deref(), Some("p"));
}
