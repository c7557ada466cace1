//! When servers are probed, and what they count as meanwhile.

use super::*;
use crate::health::roles::Standing;

/// Milliseconds from each probe of the server at `port` to the next.
fn gaps(script: &Script, port: u16) -> Vec<u128> {
    script.asked(port).windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn jitter_brings_probes_forward_and_never_puts_them_off() {
    let (script, mut checker, turned) = stage();
    let pools = pool(1..=3, "jitter = \"20%\"\nfast_interval = \"1s\"");
    checker.set_pools(&pools);
    sleep(INTERVAL * 100).await;
    let all: Vec<Vec<u128>> = (1..=3).map(|port| gaps(&script, port)).collect();
    for gaps in &all {
        // The timer rounds up to a millisecond.
        assert!(gaps.len() >= 99 && gaps.iter().all(|gap| (1600..=2002).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap < 1700) && gaps.iter().any(|gap| *gap > 1900), "{gaps:?}");
    }
    assert_ne!(all[0][..90], all[1][..90]);
    while timeout(Duration::from_millis(1), turned.notified()).await.is_ok() {}
    script.set(1, Answer::Silent);
    let since = Instant::now();
    next(&turned).await;
    assert!(since.elapsed() <= INTERVAL + Duration::from_secs(2) + TIMEOUT + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_begins_down_gets_nothing_until_enough_probes_are_good() {
    let (script, mut checker, turned) = stage();
    let pools = pool([1], "initial_state = \"down\"");
    let server = server(&pools, 1);
    assert_eq!((server.verdict(), pools[0].up()), (Some(Verdict::Down), 0), "before anything is probed");
    checker.set_pools(&pools);
    assert!(!pools[0].has_been_judged());
    next(&turned).await;
    assert_eq!((server.verdict(), script.asked(1).len()), (Some(Verdict::Up), 2));
    assert!(pools[0].has_been_judged());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_begins_up_is_out_after_as_many_bad_probes_as_any() {
    let (script, mut checker, turned) = stage();
    script.set(1, Answer::Bad);
    let pools = pool([1, 2], "initial_state = \"up\"");
    checker.set_pools(&pools);
    while server(&pools, 1).verdict() == Some(Verdict::Up) {
        next(&turned).await;
    }
    assert_eq!(script.asked(1).len(), 3);
    assert!(!server(&pools, 2).is_presumed(), "its first good probe has confirmed it");
    let note = pools[0].report(crate::time::Millis(0)).into_iter().find_map(|server| server.note).unwrap();
    assert_eq!(note.why, "health check: status 503");
}

#[tokio::test(start_paused = true)]
async fn the_initial_state_says_so_until_a_probe_agrees() {
    let (script, mut checker, turned) = stage();
    script.set(1, Answer::Hindered);
    let pools = pool([1], "initial_state = \"down\"");
    checker.set_pools(&pools);
    sleep(INTERVAL * 3).await;
    let why = |pools: &[Arc<Pool>]| pools[0].report(crate::time::Millis(0)).remove(0).note.unwrap().why;
    assert_eq!(why(&pools), "initial_state; not checked yet");
    assert!(!pools[0].has_been_judged());
    script.set(1, Answer::Bad);
    next(&turned).await;
    assert_eq!(why(&pools), "health check: status 503");
    assert!(pools[0].has_been_judged());
}

/// A pool of databases at these ports.
fn databases(ports: impl IntoIterator<Item = u16>, keys: &str) -> Vec<Arc<Pool>> {
    pool(ports, &format!("type = \"redis\"\n{keys}"))
}

#[tokio::test(start_paused = true)]
async fn while_a_role_changes_the_whole_pool_is_probed_faster() {
    let (script, mut checker, turned) = stage();
    script.set(1, Answer::Is(Role::Primary));
    script.set(2, Answer::Is(Role::Replica));
    let pools = databases([1, 2], "interval = \"10s\"\nfast_interval = \"500ms\"");
    checker.set_pools(&pools);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(server(&pools, 1).standing(), Standing::Primary);
    assert!(gaps(&script, 1).iter().all(|gap| *gap >= 9999), "{:?}", gaps(&script, 1));
    while timeout(Duration::from_millis(1), turned.notified()).await.is_ok() {}

    // A promotion by hand, in the wrong order: both say that they are the primary until the first is told.
    script.set(2, Answer::Is(Role::Primary));
    let claimed = script.asked(2).len();
    while script.asked(2).len() == claimed {
        sleep(Duration::from_millis(10)).await;
    }
    script.set(1, Answer::Is(Role::Replica));
    let since = Instant::now();
    next(&turned).await;
    assert_eq!(server(&pools, 2).standing(), Standing::Primary);
    assert!(since.elapsed() <= Duration::from_millis(520), "the first is asked soon: {:?}", since.elapsed());
    let asked = [1, 2].map(|port| script.asked(port).len());
    sleep(Duration::from_secs(40)).await;
    let more = [1, 2].map(|port| script.asked(port).len());
    for (before, after) in asked.into_iter().zip(more) {
        assert!(after - before <= 6, "once it is settled they are as slow as ever");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_found_out_fast_and_then_watched_at_leisure() {
    let (script, mut checker, _) = stage();
    script.set(1, Answer::Is(Role::Primary));
    script.set(2, Answer::Is(Role::Primary));
    let pools = databases([1, 2], "interval = \"10s\"\nfast_interval = \"500ms\"");
    checker.set_pools(&pools);
    sleep(Duration::from_secs(12)).await;
    assert_eq!(pools[0].conflicts(), (true, 1), "without them it would take up to 20 s");
    let before = script.asked(1).len();
    sleep(Duration::from_secs(100)).await;
    assert!(script.asked(1).len() - before <= 11, "{:?}", gaps(&script, 1));
}

/// Paused, the clock goes on by itself when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn a_black_hole_is_out_in_time_whatever_it_swallows() {
    let kinds = ["tcp", "http", "grpc", "mysql", "postgres", "redis"];
    let hello = "send = \"hello\"\nexpect_text = \"hello\"";
    for accepts in [false, true] {
        for kind in kinds {
            let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            // The kernel accepts and nobody answers; or it drops what comes, as its queue is full.
            listener.listen(if accepts { 128 } else { 0 }).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let _full: Vec<_> = (0..4)
                .filter(|_| !accepts)
                .map(|_| {
                    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                    client.set_nonblocking(true).unwrap();
                    let _ = client.connect(&address.into());
                    client
                })
                .collect();
            let keys = if kind == "tcp" { hello } else { "" };
            let text = format!(
                "[pool.p]\nservers = [\"{address}\"]\n[pool.p.health_check]\ntype = \"{kind}\"\ninitial_state = \"up\"\n{keys}"
            );
            let pools = pools(&text, &[]);
            let turned = Arc::new(Notify::new());
            let mut checker = Checker::new(network(), 7, turned.clone());
            let since = Instant::now();
            checker.set_pools(&pools);
            next(&turned).await;
            let (server, took) = (server(&pools, address.port()), since.elapsed());
            assert_eq!(server.verdict(), Some(Verdict::Down));
            assert!(took <= INTERVAL * 3 + TIMEOUT + Duration::from_millis(20), "{kind} {accepts}: {took:?}");
            assert!(took >= INTERVAL * 2 + TIMEOUT, "{kind} {accepts}: three probes, each silent: {took:?}");
        }
    }
}
