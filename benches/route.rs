//! What finding a route costs, and that it does not grow with the number of routes: `cargo bench --bench route`.
//!
//! Each case is `kind/requests/number of routes`. `hot` asks for the same ten paths over and over, as most traffic
//! does; `spread` asks for all of them in turn, and so also measures the misses of the processor's caches. The last
//! column is the ratio to the same case with few routes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule::config::model::{
    Action, Admission, HeaderEdits, HostPattern, Https, PathMatch, Policy, Retry, RetryOn, Route, Site,
};
use bascule::route::{Found, RouteTable};
use regex::bytes::Regex;

const RUNS: usize = 15;
const FINDS: usize = 100_000;
const FEW: usize = 10;
const MANY: usize = 10_000;

/// A request: host and path.
type Request = (String, String);

/// Makes sites with a number of routes, and a request for each.
type Build = fn(usize) -> (Vec<Site>, Vec<Request>);

fn main() {
    println!("{:<32} {:>10} {:>8}", "case", "ns/find", "ratio");
    for (kind, build) in [
        ("segments", segments as Build),
        ("raw_prefix", raw_prefixes),
        ("exact", exact),
        ("hosts", hosts),
        ("suffixes", suffixes),
    ] {
        for (requests, count) in [("hot", FEW), ("spread", MANY)] {
            compare(&format!("{kind}/{requests}"), [FEW, MANY].map(|routes| Case::new(build(routes), routes, count)));
        }
    }
    compare("regex/last", [1, FEW].map(|routes| Case::new(regexes(routes), routes, 1)));
}

/// One table, and what is asked of it.
struct Case {
    routes: usize,
    table: RouteTable,
    requests: Vec<Request>,
}

impl Case {
    /// Requests for the first `count` routes, as far as there are so many.
    fn new((sites, requests): (Vec<Site>, Vec<Request>), routes: usize, count: usize) -> Self {
        let count = count.min(requests.len());
        // A stride that has no factor in common with the number of requests visits each of them, in no order that a
        // prefetcher would guess.
        let requests = (0..FINDS).map(|i| requests[i * 7_919 % count].clone()).collect();
        Self { routes, table: RouteTable::build(&sites, "http"), requests }
    }

    /// Nanoseconds of one find.
    fn run(&self) -> f64 {
        let start = Instant::now();
        for (host, path) in &self.requests {
            let found = self.table.find(black_box(host.as_bytes()), b"GET", black_box(path.as_bytes()), &|_| None);
            assert!(matches!(black_box(found), Found::Route(_)));
        }
        start.elapsed().as_secs_f64() * 1e9 / self.requests.len() as f64
    }
}

/// Runs both in turn, and prints the best run of each: what disturbs a run only ever makes it slower.
fn compare(name: &str, cases: [Case; 2]) {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..RUNS {
        for (case, best) in cases.iter().zip(&mut best) {
            *best = best.min(case.run());
        }
    }
    for (case, nanos) in cases.iter().zip(best) {
        println!("{:<32} {nanos:>10.1} {:>8.2}", format!("{name}/{}", case.routes), nanos / best[0]);
    }
}

fn segments(count: usize) -> (Vec<Site>, Vec<Request>) {
    one_site(count, |i| (PathMatch::Segments(service(i).into()), format!("{}/users/42/orders", service(i))))
}

fn raw_prefixes(count: usize) -> (Vec<Site>, Vec<Request>) {
    let prefix = |i| PathMatch::Prefix { prefix: service(i).into(), before_regex: false };
    one_site(count, |i| (prefix(i), format!("{}users/42/orders", service(i))))
}

fn exact(count: usize) -> (Vec<Site>, Vec<Request>) {
    one_site(count, |i| (PathMatch::Exact(service(i).into()), service(i)))
}

fn regexes(count: usize) -> (Vec<Site>, Vec<Request>) {
    let regex = |i| PathMatch::Regex(Regex::new(&format!("^{}/[0-9]+$", service(i))).expect("a valid expression"));
    let (sites, requests) = one_site(count, |i| (regex(i), format!("{}/42", service(i))));
    // The last one is found after all others were tried.
    (sites, requests.into_iter().next_back().into_iter().collect())
}

fn hosts(count: usize) -> (Vec<Site>, Vec<Request>) {
    many_sites(count, |i| HostPattern::Exact(host(i).into()), host)
}

fn suffixes(count: usize) -> (Vec<Site>, Vec<Request>) {
    let suffix = |i| HostPattern::Suffix(format!(".{}", host(i)).into());
    many_sites(count, suffix, |i| format!("www.eu.{}", host(i)))
}

fn service(i: usize) -> String {
    format!("/api/v{}/service-{i:05}", i % 3)
}

fn host(i: usize) -> String {
    format!("shop-{i:05}.example.com")
}

fn one_site(count: usize, make: impl Fn(usize) -> (PathMatch, String)) -> (Vec<Site>, Vec<Request>) {
    let (paths, requests): (Vec<_>, Vec<_>) = (0..count).map(make).unzip();
    let requests = requests.into_iter().map(|path| ("www.example.com".to_owned(), path)).collect();
    (vec![site(Vec::new(), paths)], requests)
}

fn many_sites(
    count: usize,
    pattern: impl Fn(usize) -> HostPattern,
    host: impl Fn(usize) -> String,
) -> (Vec<Site>, Vec<Request>) {
    let sites = (0..count).map(|i| site(vec![pattern(i)], vec![PathMatch::Segments("/".into())])).collect();
    (sites, (0..count).map(|i| (host(i), "/index.html".to_owned())).collect())
}

fn site(hosts: Vec<HostPattern>, paths: Vec<PathMatch>) -> Site {
    let routes = paths.into_iter().map(|path| Arc::new(route(path))).collect();
    Site {
        name: "site".into(),
        hosts,
        listeners: vec!["http".into()],
        tls: Vec::new(),
        routes,
        access_log: None,
        error_pages: Arc::from([]),
        admission: Admission::default(),
        https: Https::default(),
    }
}

fn route(path: PathMatch) -> Route {
    let policy = Policy {
        host: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        x_forwarded: true,
        forwarded: false,
        request_id: false,
        max_body_size: None,
        request_buffering: 0,
        response_buffering: 0,
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(60),
        send_timeout: Duration::from_secs(60),
        tunnel_timeout: Duration::from_secs(3600),
        retry: Retry { retries: 0, on: RetryOn::default(), timeout: None, non_idempotent: false },
        error_pages: Arc::from([]),
        access_log: None,
    };
    Route {
        name: "route".into(),
        site: "site".into(),
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        action: Action::Close,
        admission: Admission::default(),
        policy,
        mirror: None,
    }
}
