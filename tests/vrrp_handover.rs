//! Planned moves under load, which no client may notice. A program of its own, because `cargo test` runs one at a time: the
//! labs of `vrrp` beside it would take the processors from the boxes and from the clients.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "../src/vrrpd/lab.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod lab;
mod support;
#[allow(dead_code, reason = "other tests use the rest")]
mod vrrp {
    pub(crate) mod bascule;
    pub(crate) mod boxes;
    pub(crate) mod owners;
}

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::Lab;
use vrrp::boxes::{A_WHILE, ask_while, pair, vip};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_handover_moves_the_address_and_loses_no_request() {
    let Some(lab) = Lab::new(3) else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (owners, first, second) = pair(&lab, "handover_drain = \"5s\"");
    let begin = Instant::now();
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        for (from, to, host) in [(&first, &second, 2), (&second, &first, 1), (&first, &second, 2)] {
            let text = from.tell(&["vrrp", "handover"]);
            assert_eq!(text, "handed over: a peer holds the addresses\n");
            owners.wait_for(vip(51), &[host]);
            assert_eq!((from.why("r51"), to.why("r51")), ("handed over".into(), "the active router resigned".into()));
            // So that clients are well under way with the new owner.
            to.wait_for_state("r51", "active");
            owners.settle(&[(vip(51), host)], A_WHILE);
        }
    });
    assert!(lost.is_empty(), "{answered} answered, lost: {lost:?}");
    assert!(answered > 100, "{answered}");
    assert!(owners.longest_overlap(vip(51), begin) < Duration::from_secs(2));
    // Of higher priority, and told to give it away: it does not take it back.
    owners.settle(&[(vip(51), 2)], A_WHILE);
}

#[test]
fn a_stop_moves_the_address_and_loses_no_request() {
    let Some(lab) = Lab::new(3) else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (owners, mut first, _second) = pair(&lab, "handover_drain = \"5s\"");
    let (answered, lost) = ask_while(&lab.hosts[2], vip(51), || {
        first.tell(&["stop"]);
        assert_eq!(first.instance.wait().code(), Some(0));
        owners.settle(&[(vip(51), 2)], A_WHILE);
    });
    assert!(lost.is_empty(), "{answered} answered, lost: {lost:?}");
    assert!(answered > 100, "{answered}");
}
