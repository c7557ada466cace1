use std::sync::Arc;

use proptest::prelude::*;
use regex::bytes::Regex;

use super::*;
use crate::config::model::{
    Action, Admission, HeaderEdits, HostPattern, Https, PathMatch, Policy, Retry, RetryOn, ValueMatch,
};

/// A path condition as nginx writes it: `= /x`, `^~ /x`, `~ regex`, `/x`; and `segments /x`, which it has not.
fn path(text: &str) -> PathMatch {
    match text.split_once(' ') {
        Some(("=", path)) => PathMatch::Exact(path.into()),
        Some(("^~", path)) => PathMatch::Prefix { prefix: path.into(), before_regex: true },
        Some(("~", regex)) => PathMatch::Regex(Regex::new(regex).unwrap()),
        Some(("segments", path)) => PathMatch::Segments(path.into()),
        Some((other, _)) => panic!("{other}"),
        None => PathMatch::Prefix { prefix: text.into(), before_regex: false },
    }
}

fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.into(),
        site: "site".into(),
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        action: Action::Close,
        admission: Admission::default(),
        policy: policy(),
        mirror: None,
    }
}

fn policy() -> Policy {
    Policy {
        host: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        x_forwarded: true,
        forwarded: false,
        request_id: false,
        max_body_size: None,
        request_buffering: 0,
        response_buffering: 0,
        connect_timeout: std::time::Duration::from_secs(5),
        read_timeout: std::time::Duration::from_secs(60),
        send_timeout: std::time::Duration::from_secs(60),
        tunnel_timeout: std::time::Duration::from_secs(3600),
        retry: Retry { retries: 0, on: RetryOn::default(), timeout: None, non_idempotent: false },
        error_pages: Arc::from([]),
        access_log: None,
    }
}

/// A route named as its path.
fn written(text: &str) -> Route {
    route(text, path(text))
}

fn site(name: &str, hosts: &[&str], routes: impl IntoIterator<Item = Route>) -> Site {
    let host = |host: &&str| match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None => HostPattern::Exact((*host).into()),
    };
    Site {
        name: name.into(),
        hosts: hosts.iter().map(host).collect(),
        listeners: vec!["http".into()],
        tls: Vec::new(),
        routes: routes.into_iter().map(Arc::new).collect(),
        access_log: None,
        error_pages: Arc::from([]),
        admission: Admission::default(),
        https: Https::default(),
    }
}

fn table(routes: impl IntoIterator<Item = Route>) -> RouteTable {
    RouteTable::build(&[site("site", &[], routes)], "http")
}

fn name<'t>(found: Found<'t>) -> &'t str {
    match found {
        Found::Route(route) => &route.name,
        Found::NoRoute(Some(_)) => "no route",
        Found::NoRoute(None) => "no site",
    }
}

fn get<'t>(table: &'t RouteTable, path: &str) -> &'t str {
    name(table.find(b"host", b"GET", path.as_bytes(), &|_| None))
}

fn expect(routes: &[&str], wanted: &[(&str, &str)]) {
    let table = table(routes.iter().map(|text| written(text)));
    for (path, wanted) in wanted {
        assert_eq!(get(&table, path), *wanted, "{path} among {routes:?}");
    }
}

#[test]
fn the_example_of_nginx_s_manual_is_followed() {
    expect(
        &["= /", "/", "/documents/", "^~ /images/", r"~ (?i)\.(gif|jpg|jpeg)$"],
        &[
            ("/", "= /"),
            ("/index.html", "/"),
            ("/documents/document.html", "/documents/"),
            ("/images/1.gif", "^~ /images/"),
            ("/documents/1.jpg", r"~ (?i)\.(gif|jpg|jpeg)$"),
            ("/documents/1.JPG", r"~ (?i)\.(gif|jpg|jpeg)$"),
            ("/documents", "/"),
        ],
    );
}

#[test]
fn an_exact_path_wins_over_everything_and_matches_nothing_longer() {
    expect(&["~ ^/a", "^~ /a", "= /a", "/"], &[("/a", "= /a"), ("/a/", "^~ /a"), ("/ab", "^~ /a"), ("/b", "/")]);
}

#[test]
fn a_longer_prefix_without_before_regex_lets_expressions_win_again() {
    expect(&["^~ /a", "/a/b", "~ c$"], &[("/a/c", "^~ /a"), ("/a/b", "/a/b"), ("/a/b/c", "~ c$")]);
}

#[test]
fn the_first_of_several_matching_expressions_wins() {
    expect(&["/", r"~ ^/a", r"~ ^/a/b", r"~ b$"], &[("/a/b", "~ ^/a"), ("/c/b", "~ b$"), ("/c", "/")]);
}

#[test]
fn segments_end_at_borders_and_raw_prefixes_anywhere() {
    expect(
        &["segments /api", "segments /api/v1", "/ap"],
        &[
            ("/api", "segments /api"),
            ("/api/", "segments /api"),
            ("/api/x", "segments /api"),
            ("/apix", "/ap"),
            ("/api/v1", "segments /api/v1"),
            ("/api/v1/x", "segments /api/v1"),
            ("/api/v10", "segments /api"),
            ("/a", "no route"),
        ],
    );
    expect(&["segments /"], &[("/", "segments /"), ("/x", "segments /"), ("*", "no route")]);
    expect(&["segments /dir/"], &[("/dir/", "segments /dir/"), ("/dir/x", "segments /dir/"), ("/dir", "no route")]);
}

#[test]
fn of_two_routes_with_the_same_path_the_first_in_the_file_is_taken() {
    let first = table([route("one", path("/a")), route("two", path("segments /a"))]);
    assert_eq!(get(&first, "/a/x"), "one");
    let second = table([route("one", path("segments /a")), route("two", path("/a"))]);
    assert_eq!((get(&second, "/a/x"), get(&second, "/ax")), ("one", "two"));
}

#[test]
fn routes_whose_conditions_fail_count_as_not_there() {
    let methods = |mut route: Route, methods: &[&str]| {
        route.methods = methods.iter().map(|&m| m.into()).collect();
        route
    };
    let table = table([
        methods(route("exact post", path("= /a")), &["POST"]),
        methods(route("long put", path("^~ /a")), &["PUT", "DELETE"]),
        methods(route("long patch", path("^~ /a")), &["PATCH"]),
        methods(route("regex get", path("~ a")), &["GET"]),
        route("rest", path("/")),
    ]);
    for (method, wanted) in [
        ("POST", "exact post"),
        ("DELETE", "long put"),
        ("PATCH", "long patch"),
        ("GET", "regex get"),
        ("get", "rest"),
        ("HEAD", "rest"),
    ] {
        assert_eq!(name(table.find(b"h", method.as_bytes(), b"/a", &|_| None)), wanted, "{method}");
    }
}

#[test]
fn all_header_conditions_must_hold() {
    let header = |name: &str, value: ValueMatch| HeaderMatch { name: name.into(), value };
    let mut canary = written("/");
    canary.name = "canary".into();
    canary.headers = vec![
        header("x-canary", ValueMatch::Present),
        header("x-version", ValueMatch::Exact("2".into())),
        header("user-agent", ValueMatch::Regex(Regex::new("curl").unwrap())),
    ];
    let table = table([canary, written("/")]);
    let with = |headers: &[(&str, &'static str)]| {
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_bytes());
        name(table.find(b"h", b"GET", b"/", &header)).to_owned()
    };
    assert_eq!(with(&[("x-canary", ""), ("x-version", "2"), ("user-agent", "a curl 1")]), "canary");
    assert_eq!(with(&[("x-version", "2"), ("user-agent", "a curl 1")]), "/");
    assert_eq!(with(&[("x-canary", ""), ("x-version", "22"), ("user-agent", "a curl 1")]), "/");
    assert_eq!(with(&[("x-canary", ""), ("x-version", "2"), ("user-agent", "wget")]), "/");
    assert_eq!(with(&[]), "/");
}

#[test]
fn headers_are_not_asked_for_by_routes_without_conditions() {
    let table = table([written("/")]);
    let found = table.find(b"h", b"GET", b"/", &|name| panic!("asked for {name}"));
    assert_eq!(name(found), "/");
}

#[test]
fn the_site_is_that_of_the_exact_host_then_the_longest_suffix_then_the_default() {
    let named = |name: &str| [route(name, path("/"))];
    let sites = [
        site("default", &[], named("default")),
        site("example", &["*.example.com"], named("example")),
        site("shop", &["*.shop.example.com", "shop.example.com"], named("shop")),
        site("v6", &["[::1]"], named("v6")),
    ];
    let table = RouteTable::build(&sites, "http");
    for (host, wanted) in [
        ("shop.example.com", "shop"),
        ("Shop.Example.COM:8080", "shop"),
        ("shop.example.com.", "shop"),
        ("shop.example.com.:80", "shop"),
        ("a.shop.example.com", "shop"),
        ("a.b.shop.example.com", "shop"),
        ("www.example.com", "example"),
        ("xshop.example.com", "example"),
        ("example.com", "default"),
        (".example.com", "default"),
        ("notexample.com", "default"),
        ("[::1]:80", "v6"),
        ("[::1]", "v6"),
        ("10.0.0.1", "default"),
        ("", "default"),
        (":80", "default"),
    ] {
        assert_eq!(name(table.find(host.as_bytes(), b"GET", b"/", &|_| None)), wanted, "{host}");
    }
    let long = [&[b'a'; 300][..], b".example.com"].concat();
    assert_eq!(name(table.find(&long, b"GET", b"/", &|_| None)), "default");
}

#[test]
fn without_a_default_site_an_unknown_host_has_none_and_a_known_one_is_told() {
    let table = RouteTable::build(&[site("shop", &["shop"], [written("/a")])], "http");
    assert!(matches!(table.find(b"other", b"GET", b"/a", &|_| None), Found::NoRoute(None)));
    match table.find(b"shop", b"GET", b"/b", &|_| None) {
        Found::NoRoute(Some(site)) => assert_eq!(&*site.name, "shop"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sites_of_other_listeners_are_not_seen() {
    let mut internal = site("internal", &["shop"], [written("/internal")]);
    internal.listeners = vec!["admin".into()];
    let sites = [internal, site("public", &["shop"], [written("/")])];
    assert_eq!(get_on(&sites, "http"), "/");
    assert_eq!(get_on(&sites, "admin"), "/internal");
    assert_eq!(get_on(&sites, "none"), "no site");
}

fn get_on(sites: &[Site], listener: &str) -> String {
    name(RouteTable::build(sites, listener).find(b"shop", b"GET", b"/internal", &|_| None)).to_owned()
}

#[test]
fn a_table_may_yield_values_of_the_caller() {
    let sites = [site("a", &["a"], [written("/x"), written("/yy")])];
    let table = RouteTable::build_with(&sites, "http", |route| route.name.len(), |site| site.name.to_string());
    assert_eq!(table.find(b"a", b"GET", b"/yy", &|_| None), Found::Route(&3));
    assert_eq!(table.find(b"a", b"GET", b"/z", &|_| None), Found::NoRoute(Some(&"a".to_owned())));
}

#[test]
fn hosts_are_normalised() {
    for (host, normal) in [
        ("A.b", Some("a.b")),
        ("a:80", Some("a")),
        ("a.:80", Some("a")),
        ("a:", Some("a")),
        ("[2001:DB8::1]:443", Some("[2001:db8::1]")),
        ("[2001:db8::1", Some("[2001:db8::1")),
        ("", None),
        (".", None),
        (":80", None),
    ] {
        let mut buffer = [0; MAX_HOST];
        assert_eq!(normalise_host(host.as_bytes(), &mut buffer), normal.map(str::as_bytes), "{host}");
    }
    let mut buffer = [0; MAX_HOST];
    assert_eq!(normalise_host(&[b'a'; MAX_HOST], &mut buffer).map(<[u8]>::len), Some(MAX_HOST));
    assert_eq!(normalise_host(&[b'a'; MAX_HOST + 1], &mut buffer), None);
}

/// nginx's rule in its plainest form: every route looked at, one after the other.
fn reference<'r>(routes: &'r [Route], path: &str) -> Option<&'r str> {
    let exact = routes.iter().find(|r| matches!(&r.path, PathMatch::Exact(p) if **p == *path));
    let matched = |r: &Route| match &r.path {
        PathMatch::Prefix { prefix, .. } => path.strip_prefix(&**prefix).map(|_| prefix.len()),
        PathMatch::Segments(prefix) => path
            .strip_prefix(&**prefix)
            .filter(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
            .map(|_| prefix.len()),
        PathMatch::Exact(_) | PathMatch::Regex(_) => None,
    };
    // The first of the longest: `max_by_key` alone would give the last.
    let prefix = routes.iter().rev().filter(|r| matched(r).is_some()).max_by_key(|r| matched(r));
    let before_regex = prefix.is_some_and(|r| matches!(r.path, PathMatch::Prefix { before_regex: true, .. }));
    let regex = routes.iter().find(|r| matches!(&r.path, PathMatch::Regex(x) if x.is_match(path.as_bytes())));
    let regex = regex.filter(|_| !before_regex);
    exact.or(regex).or(prefix).map(|r| &*r.name)
}

proptest! {
    #[test]
    fn the_table_finds_what_looking_at_every_route_finds(
        routes in prop::collection::vec(("(= |\\^~ |~ |segments |)", "(/[ab]{0,2}){1,3}"), 0..12),
        paths in prop::collection::vec("(/[ab]{0,3}){1,4}", 1..8),
    ) {
        let routes: Vec<Route> = routes
            .iter()
            .enumerate()
            .map(|(i, (kind, text))| route(&i.to_string(), path(&format!("{kind}{text}"))))
            .collect();
        let table = table(routes.clone());
        for path in &paths {
            prop_assert_eq!(get(&table, path), reference(&routes, path).unwrap_or("no route"), "{}", path);
        }
    }

    #[test]
    fn no_host_and_no_path_does_harm(host: Vec<u8>, path: Vec<u8>) {
        let table = RouteTable::build(&[site("s", &["a", "*.a"], [written("/"), written("segments /a")])], "http");
        let found = table.find(&host, b"GET", &path, &|_| None);
        prop_assert!(matches!(found, Found::NoRoute(_)) || path.starts_with(b"/"));
    }
}
