//! Plain requests that are sent to https, Strict-Transport-Security, and challenges of ACME.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::TempDir;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Message, reply};

/// A proxy with `listener`'s keys, and the sites of `sites`; pool `p` is `origin`.
fn start(origin: &Origin, listener: &str, sites: &str) -> Proxy {
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\n{listener}\n{sites}\n[pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ))
}

fn ask(proxy: &Proxy, request: impl AsRef<[u8]>) -> Message {
    let mut client = proxy.connect();
    client.send(request);
    client.response()
}

/// The response to a request that comes to the server, which answers with `fields`.
fn served(origin: &Origin, proxy: &Proxy, request: &str, fields: &str) -> Message {
    let mut client = proxy.connect();
    client.send(request);
    let (mut server, _) = origin.request();
    server.send(reply("200 OK", &format!("Connection: close\r\n{fields}"), "ok"));
    client.response()
}

#[test]
fn plain_requests_are_sent_to_the_same_place_by_https() {
    let origin = Origin::new();
    let sites = r#"
        [site.rest]
        [[site.rest.route]]
        path = "/known"
        pool = "p"
        deny = ["127.0.0.0/8"]
        [site.plain]
        hosts = ["plain.test"]
        redirect_https = false
        [[site.plain.route]]
        pool = "p"
        [site.moved]
        hosts = ["moved.test"]
        redirect_https = { status = 301, port = 8443 }
        [[site.moved.route]]
        respond = {}
    "#;
    let mut proxy = start(&origin, "redirect_https = true", sites);
    for (host, line, status, location) in [
        ("shop.test", "GET /known/%2e%2e/x?y=%20", 308, "https://shop.test/known/%2e%2e/x?y=%20"),
        ("Shop.test:80", "HEAD /unknown", 308, "https://shop.test/unknown"),
        ("moved.test:81", "DELETE /a", 301, "https://moved.test:8443/a"),
    ] {
        let mut client = proxy.connect();
        // Nothing of it is in the way of the next request.
        for _ in 0..2 {
            client.send(format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let response = if line.starts_with("HEAD") { client.head() } else { client.response() };
            assert_eq!((response.status(), response.field("location")), (status, Some(location)), "{host} {line}");
            assert_eq!(response.field("strict-transport-security"), None);
        }
        proxy.wait_for_log(&format!("{line} {status} reason=- tries=-"));
    }
    let response = ask(&proxy, "POST /known HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(response.status(), 308);
    assert_eq!(ask(&proxy, "GET / HTTP/1.0\r\n\r\n").status(), 400);
    assert!(!origin.is_wanted());
    assert_eq!(served(&origin, &proxy, "GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n", "").status(), 200);
}

#[test]
fn what_came_by_https_to_a_trusted_proxy_is_not_sent_there_again() {
    let origin = Origin::new();
    let listener = r#"
        pool = "p"
        redirect_https = true
        hsts = { max_age = "1d", include_subdomains = true }
        trusted_proxies = ["127.0.0.0/8"]
    "#;
    let proxy = start(&origin, listener, "");
    let by = |proto: &str| format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Proto: {proto}\r\n\r\n");
    assert_eq!(ask(&proxy, by("http")).status(), 308);

    let servers_own = "Strict-Transport-Security: max-age=1\r\nstrict-transport-security: max-age=2\r\n";
    for fields in ["", servers_own] {
        let response = served(&origin, &proxy, &by("https"), fields);
        assert_eq!(response.status(), 200);
        assert_eq!(response.all("strict-transport-security"), ["max-age=86400; includeSubDomains"]);
    }

    // Nobody else can say so.
    let proxy = start(&origin, "pool = \"p\"\nredirect_https = true", "");
    assert_eq!(ask(&proxy, by("https")).status(), 308);
    assert!(!origin.is_wanted());
}

#[test]
fn browsers_are_told_to_stay_once_and_with_our_own_answers_too() {
    let origin = Origin::new();
    let sites = r#"
        [site.rest]
        hosts = ["shop.test"]
        [[site.rest.route]]
        path = "/denied"
        pool = "p"
        deny = ["127.0.0.0/8"]
        [[site.rest.route]]
        path = "/fixed"
        respond = { body = "fixed" }
        [[site.rest.route]]
        path = "/own"
        respond = {}
        response_headers = { set = { strict-transport-security = "max-age=7" } }
        [[site.rest.route]]
        path = "/server"
        pool = "p"
        response_headers = { remove = ["Strict-Transport-Security"] }
        [site.off]
        hosts = ["off.test"]
        hsts = false
        [[site.off.route]]
        path = "/"
        pool = "p"
    "#;
    let proxy = start(&origin, "hsts = true\ntrusted_proxies = [\"127.0.0.1\"]", sites);
    let by = |proto: &str, host: &str, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {proto}\r\n\r\n")
    };
    let year = &["max-age=31536000"][..];
    for (host, path, status, expected) in [
        ("shop.test", "/fixed", 200, year),
        ("shop.test", "/denied", 403, year),
        ("shop.test", "/unknown", 404, year),
        ("unknown.test", "/", 404, year),
        ("shop.test", "/%zz", 400, year),
        ("shop.test", "/own", 200, &["max-age=7"]),
    ] {
        let response = ask(&proxy, by("https", host, path));
        assert_eq!(response.status(), status, "{host}{path}");
        assert_eq!(response.all("strict-transport-security"), expected, "{host}{path}");
        let response = ask(&proxy, by("http", host, path));
        let expected = if path == "/own" { expected } else { &[] };
        assert_eq!(response.all("strict-transport-security"), expected, "plain {host}{path}");
    }
    let servers_own = "Strict-Transport-Security: max-age=1\r\n";
    let response = served(&origin, &proxy, &by("https", "shop.test", "/server"), servers_own);
    assert_eq!(response.field("strict-transport-security"), None);
    let response = served(&origin, &proxy, &by("https", "off.test", "/"), servers_own);
    assert_eq!(response.all("strict-transport-security"), ["max-age=1"]);
}

/// A webroot with everything that is not to be sent.
fn webroot(dir: &Path) {
    let folder = dir.join(".well-known/acme-challenge");
    fs::create_dir_all(folder.join("folder")).unwrap();
    fs::write(folder.join("token-_1"), "token-_1.thumbprint").unwrap();
    fs::write(folder.join("largest"), vec![b'x'; 64 << 10]).unwrap();
    fs::write(folder.join("larger"), vec![b'x'; (64 << 10) + 1]).unwrap();
    fs::write(folder.join("with.dot"), "no token").unwrap();
    fs::write(dir.join("outside"), "secret").unwrap();
    symlink("token-_1", folder.join("beside")).unwrap();
    symlink(dir.join("outside"), folder.join("absolute")).unwrap();
    symlink("../../../outside", folder.join("above")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
}

#[test]
fn challenges_are_answered_from_the_webroot_before_anything_else() {
    let origin = Origin::new();
    let dir = TempDir::new();
    webroot(dir.path());
    let listener = format!(
        "pool = \"p\"\nredirect_https = true\nacme_challenge_dir = \"{}\"\nlimits = [\"few\"]",
        dir.path().display()
    );
    let sites = "[limit.few]\nkey = \"$http_x_limit\"\nrate = \"1/h\"\n";
    let mut proxy = start(&origin, &listener, sites);
    let at = |line: &str, fields: &str| {
        let (method, rest) = line.split_once(' ').unwrap();
        format!("{method} /.well-known/acme-challenge/{rest} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n")
    };
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(at("GET token-_1", ""));
        let response = client.response();
        assert_eq!((response.status(), response.text()), (200, "token-_1.thumbprint"));
        client.send(at("HEAD token-_1", ""));
        let response = client.head();
        assert_eq!((response.status(), response.field("content-length")), (200, Some("19")));
    }
    proxy.wait_for_log("GET /.well-known/acme-challenge/token-_1 200 reason=- tries=-");
    assert_eq!(ask(&proxy, at("GET largest?x", "")).body.len(), 64 << 10);
    assert_eq!(ask(&proxy, at("GET beside", "")).text(), "token-_1.thumbprint");
    for line in [
        "GET missing",
        "GET ",
        "GET .",
        "GET ..",
        "GET ../../outside",
        "GET %2e%2e/%2e%2e/outside",
        "GET folder/",
        "GET folder",
        "GET pipe",
        "GET larger",
        "GET with.dot",
        "GET absolute",
        "GET above",
        "POST token-_1",
        "DELETE token-_1",
    ] {
        let response = ask(&proxy, at(line, ""));
        assert_eq!(response.status(), 404, "{line}");
        let (method, rest) = line.split_once(' ').unwrap();
        proxy.wait_for_log(&format!("{method} /.well-known/acme-challenge/{rest} 404 reason=no_challenge"));
    }
    // Everything else goes its way.
    for path in ["/", "/.well-known/acme-challenge", "/.well-known/other", "/.well-known//acme-challenge/token-_1"] {
        assert_eq!(ask(&proxy, format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).status(), 308, "{path}");
    }
    // What the listener limits is limited here.
    assert_eq!(ask(&proxy, at("GET token-_1", "X-Limit: a\r\n")).status(), 200);
    assert_eq!(ask(&proxy, at("GET token-_1", "X-Limit: a\r\n")).status(), 429);
    assert!(!origin.is_wanted());
    fs::remove_dir_all(dir.path().join(".well-known")).unwrap();
    assert_eq!(ask(&proxy, at("GET token-_1", "")).status(), 404);
}
