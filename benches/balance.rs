//! Picking a server and giving it back, on one thread: nanoseconds per operation, the best of several rounds.
//!
//! `cargo bench --bench balance`; names are `group/case/servers`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule::balance::Flow;
use bascule::config::model::{
    Algorithm, Consistent, HealthCheck, HttpVersion, Pool as Config, Probe, Retry, RetryBudget, RetryOn, ServerAddress,
    ServerSpec, TcpProbe,
};
use bascule::health::{Pace, Thresholds};
use bascule::pool::{Lease, Pool, Tried};
use bascule::template::Template;
use bascule::time::Millis;

const PICKS: u32 = 200_000;
const ROUNDS: usize = 9;

fn main() {
    let hash = |consistent| Algorithm::Hash { key: Template::parse("$uri").expect("a valid template"), consistent };
    let algorithms = [
        ("round_robin", Algorithm::RoundRobin),
        ("least_conn", Algorithm::LeastConn),
        ("ip_hash", Algorithm::IpHash { mask: None }),
        ("random_two", Algorithm::RandomTwo),
        ("hash", hash(Consistent::None)),
        ("hash_ketama", hash(Consistent::Ketama)),
        ("hash_maglev", hash(Consistent::Maglev)),
        ("first", Algorithm::First),
    ];
    for (name, algorithm) in &algorithms {
        for servers in [3, 100] {
            let pool = build(algorithm, servers, None);
            report(&format!("pick/{name}/{servers}"), PICKS, || pick_all(&pool));
        }
    }
    for (name, algorithm) in &algorithms[..2] {
        for servers in [3, 100] {
            let pool = build(algorithm, servers, Some(checks()));
            report(&format!("pick_checked/{name}/{servers}"), PICKS, || pick_all(&pool));
        }
    }
    for (name, algorithm) in &algorithms[5..7] {
        report(&format!("build/{name}/100"), 1, || drop(black_box(build(algorithm, 100, None))));
    }
}

fn pick_all(pool: &Pool) {
    let mut state = pool.new_state(1);
    for n in 0..PICKS {
        let client = IpAddr::V4(Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)));
        let key = n.to_le_bytes();
        let input = Flow { client, key: &key };
        let lease: Lease = pool.pick(&mut state, &input, &mut Tried::new(), Millis(1)).expect("all are available");
        black_box(&lease).succeeded();
    }
}

fn report(name: &str, operations: u32, mut run: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    println!("{name:<28} {:>12.1} ns/op", best.as_secs_f64() * 1e9 / f64::from(operations));
}

fn checks() -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        probe: Probe::Tcp(TcpProbe::default()),
        pace: Pace { interval: Duration::from_secs(2), fast_interval: Duration::from_secs(2), jitter: 0 },
        timeout: Duration::from_secs(1),
        thresholds: Thresholds { rise: 2, fall: 3 },
        initial: None,
        port: None,
        address: None,
        tls: false,
    })
}

fn build(algorithm: &Algorithm, servers: u16, health_check: Option<Arc<HealthCheck>>) -> Pool {
    let spec = |n: u16| ServerSpec {
        address: ServerAddress::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000 + n))),
        name: n.to_string().into(),
        weight: 1,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        max_conns: 0,
        slow_start: None,
        backup: false,
        down: false,
    };
    let config = Config {
        name: "bench".into(),
        algorithm: algorithm.clone(),
        servers: (0..servers).map(spec).collect(),
        fail_open: true,
        http_version: HttpVersion::Http1,
        tls: None,
        send_proxy_protocol: None,
        keepalive: 32,
        keepalive_timeout: Duration::from_secs(4),
        keepalive_requests: 1000,
        keepalive_time: Duration::from_secs(3600),
        queue: 0,
        queue_timeout: Duration::from_secs(5),
        source_addresses: Vec::new(),
        tcp_keepalive: None,
        connect_timeout: Duration::from_secs(5),
        retry: Retry { retries: 2, on: RetryOn::default(), timeout: None, non_idempotent: false },
        retry_budget: RetryBudget { percent: 20, min: 3 },
        fallback: None,
        panic_threshold: None,
        sticky: None,
        ejection: None,
        circuit_breaker: None,
        health_check,
        primaries: bascule::health::roles::Policy::One,
    };
    let address = |spec: &ServerSpec| match spec.address {
        ServerAddress::Ip(address) => vec![address],
        ServerAddress::Name { .. } => Vec::new(),
    };
    Pool::build(&Arc::new(config), address, &Default::default(), None)
}
