//! What the decision of a limit costs, and that it grows little with the number of keys: `cargo bench --bench limit`.
//!
//! Each case is `kind/number of keys`, on one thread. Keys come in an order that no prefetcher would guess, so that with
//! many of them the misses of the processor's caches are measured too. `passed` and `refused` are decisions about a rate,
//! `concurrent` one about a rate and about what is in flight together with its end, `new` a key that makes another go from
//! a full table. The last column is the share of a request that takes 12.7 microseconds.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule::admission::{Bounds, Rate, Seat, Table, Undelayed, Verdict};
use bascule::time::Micros;

const RUNS: usize = 15;
const DECISIONS: u32 = 200_000;
const REQUEST_NS: f64 = 12_700.0;

fn main() {
    println!("{:<28} {:>12} {:>12}", "case", "ns/decision", "% of request");
    for keys in [1_000, 10_000, 100_000] {
        // Both owe for ever, so that the table stays full.
        let [passed, refused] = [1_000_000, 0].map(|burst| {
            let rate = Rate::new(NonZeroU32::MIN, Duration::from_secs(3600), burst, Undelayed::All);
            Bounds { rate: Some(rate), concurrent: None, max_keys: keys }
        });
        measure("passed", keys, &passed, keys);
        measure("refused", keys, &refused, keys);
        measure("concurrent", keys, &Bounds { concurrent: NonZeroU32::new(10), ..passed }, keys);
        measure("new", keys, &refused, 16 * keys);
    }
}

/// `asked` different keys come to a table of `keys`.
fn measure(kind: &str, keys: usize, bounds: &Bounds, asked: usize) {
    let table = Arc::new(Table::new(keys));
    let mut now = 1_000_000;
    let mut next = 0_u32;
    let asked = u32::try_from(asked).expect("fewer than 2^32");
    let mut run = |decisions: u32| {
        let start = Instant::now();
        for _ in 0..decisions {
            // A stride without a common factor visits each of them.
            next = (next + 7_919) % asked;
            now += 1;
            let key = table.key(&Ipv4Addr::from_bits(black_box(next)).octets());
            let verdict = black_box(table.decide(key, bounds, Micros(now)));
            if bounds.concurrent.is_some() && matches!(verdict, Verdict::Pass(_)) {
                drop(Seat::new(Arc::clone(&table), key));
            }
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(decisions)
    };
    // All of them are there.
    run(asked);
    let best = (0..RUNS).map(|_| run(DECISIONS)).fold(f64::INFINITY, f64::min);
    println!("{:<28} {best:>12.1} {:>12.2}", format!("{kind}/{keys}"), best / REQUEST_NS * 100.0);
}
