use proptest::prelude::*;

use super::super::rate::Undelayed;
use super::*;

const START: u64 = 1_000_000;

fn bounds(rate: Option<(u32, u32)>, concurrent: u32, max_keys: usize) -> Bounds {
    let second = Duration::from_secs(1);
    let rate = rate.map(|(count, burst)| Rate::new(NonZeroU32::new(count).unwrap(), second, burst, Undelayed::All));
    Bounds { rate, concurrent: NonZeroU32::new(concurrent), max_keys }
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Pass(_))
}

/// Twice the rate is offered to every key, never at regular times; what each gets is held against the rate.
fn error_in_per_cent(keys: usize) -> f64 {
    const PER_SECOND: u32 = 10;
    const SECONDS: u64 = 6;
    const BURST: u32 = 5;
    let table = Table::new(keys);
    let bounds = bounds(Some((PER_SECOND, BURST)), 0, keys);
    let ids: Vec<Key> = (0..keys).map(|i| table.key(&i.to_be_bytes())).collect();
    let mut passed = vec![0_u32; keys];
    let step = 1_000_000 / u64::from(2 * PER_SECOND);
    let mut random = 1_u64;
    let mut now = START;
    // Up to the moment at which the last turn of the last second is due.
    while now <= START + SECONDS * 1_000_000 {
        for (id, passed) in ids.iter().zip(&mut passed) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let jitter = (random >> 33) % step;
            *passed += u32::from(passes(table.decide(*id, &bounds, Micros(now + jitter))));
        }
        now += step;
    }
    assert_eq!((table.counts().keys, table.counts().evicted), (keys, 0));
    let expected = f64::from(PER_SECOND) * SECONDS as f64 + f64::from(BURST) + 1.0;
    let off = passed.iter().map(|&n| (f64::from(n) - expected).abs() / expected * 100.0);
    off.fold(0.0, f64::max)
}

#[test]
fn no_key_gets_two_per_cent_more_or_less_than_its_rate_of_1k_10k_and_100k_keys() {
    for keys in [1_000, 10_000, 100_000] {
        let error = error_in_per_cent(keys);
        assert!(error <= 2.0, "{keys} keys: {error} %");
    }
}

#[test]
fn in_flight_are_bounded_for_each_key() {
    let table = Arc::new(Table::new(100));
    let bounds = bounds(None, 2, 100);
    let (a, b) = (table.key(b"a"), table.key(b"b"));
    let seat = || {
        assert!(passes(table.decide(a, &bounds, Micros(START))));
        Seat::new(Arc::clone(&table), a)
    };
    let first = seat();
    let second = seat();
    assert_eq!(table.decide(a, &bounds, Micros(START)), Verdict::TooMany);
    assert!(passes(table.decide(b, &bounds, Micros(START))));
    assert_eq!((table.counts().in_flight, table.counts().rejected), (3, 1));
    drop(first);
    let _third = seat();
    drop(second);
    assert_eq!(table.counts().in_flight, 2);
}

#[test]
fn a_full_table_forgets_who_owes_nothing_then_the_least_recently_used_and_never_who_is_in_flight() {
    let table = Table::new(3);
    let slow = bounds(Some((1, 0)), 0, 3);
    let key = |name: &str| table.key(name.as_bytes());
    let at = |ms: u64| Micros(START + ms * 1000);
    for (name, ms) in [("a", 0), ("b", 500), ("c", 900)] {
        assert!(passes(table.decide(key(name), &slow, at(ms))));
    }
    // By now `a` is as if it had never come; the others still owe.
    assert!(passes(table.decide(key("d"), &slow, at(1000))));
    assert_eq!((table.counts().keys, table.counts().evicted), (3, 0));
    assert!(!passes(table.decide(key("b"), &slow, at(1001))), "b is known");
    // c is the one that came least recently.
    assert!(passes(table.decide(key("e"), &slow, at(1002))));
    assert_eq!((table.counts().keys, table.counts().evicted), (3, 1));
    assert!(!passes(table.decide(key("b"), &slow, at(1003))), "b is known still");
    assert!(passes(table.decide(key("c"), &slow, at(1004))), "c is not");

    let table = Table::new(2);
    let one = bounds(None, 1, 2);
    let key = |name: &str| table.key(name.as_bytes());
    assert!(passes(table.decide(key("a"), &one, at(0))) && passes(table.decide(key("b"), &one, at(0))));
    assert_eq!(table.decide(key("c"), &one, at(1)), Verdict::TooMany, "nobody can make room");
    table.leave(key("a"));
    assert!(passes(table.decide(key("c"), &one, at(1))));
    assert_eq!(table.counts(), Counts { keys: 2, in_flight: 2, passed: 3, rejected: 1, ..Counts::default() });
}

#[test]
fn a_table_whose_bound_becomes_less_shrinks_and_other_shards_make_room_too() {
    let table = Table::new(4 * PER_SHARD);
    assert_eq!(table.shards.len(), 4);
    let many = bounds(Some((1, 0)), 0, 4 * PER_SHARD);
    for i in 0..4 * PER_SHARD as u64 {
        table.decide(table.key(&i.to_be_bytes()), &many, Micros(START));
    }
    assert_eq!(table.counts().keys, 4 * PER_SHARD);
    let few = bounds(Some((1, 0)), 0, 3);
    for i in 0..8 * PER_SHARD as u64 {
        table.decide(table.key(format!("new {i}").as_bytes()), &few, Micros(START + 1));
    }
    assert_eq!(table.counts().keys, 3);
}

#[test]
fn a_rate_that_changes_holds_for_what_is_owed() {
    let table = Table::new(10);
    let key = table.key(b"a");
    let slow = Rate::new(NonZeroU32::MIN, Duration::from_secs(3600), 1, Undelayed::All);
    let slow = Bounds { rate: Some(slow), ..bounds(None, 0, 10) };
    for expected in [true, true, false] {
        assert_eq!(passes(table.decide(key, &slow, Micros(START))), expected);
    }
    // Two requests ahead: at ten per second that is 200 ms, of which a burst of 1 forgives 100.
    let fast = bounds(Some((10, 1)), 0, 10);
    assert_eq!(table.decide(key, &fast, Micros(START)), Verdict::TooFast(Duration::from_millis(100)));
    assert!(passes(table.decide(key, &fast, Micros(START + 100_000))));
}

#[test]
fn what_is_taken_back_was_not_charged() {
    let table = Table::new(10);
    let key = table.key(b"a");
    let one = bounds(Some((1, 0)), 0, 10);
    for _ in 0..10 {
        assert!(passes(table.decide(key, &one, Micros(START))));
        table.take_back(key, &one);
    }
}

/// What [`Table`] is to do with one shard, in the plainest words.
#[derive(Default)]
struct Model {
    /// The least recently used first: name, debt as the time of the next turn, in flight.
    keys: Vec<(u8, u64, u32)>,
}

impl Model {
    fn decide(&mut self, name: u8, burst: u64, concurrent: u32, max: usize, now: u64) -> bool {
        let at = match self.keys.iter().position(|k| k.0 == name) {
            Some(at) => at,
            None => {
                for _ in 0..LOOKED_AT {
                    match self.keys.first().copied() {
                        Some(busy) if busy.2 > 0 => {
                            self.keys.remove(0);
                            self.keys.push(busy);
                        }
                        Some(idle) if idle.1 <= now => drop(self.keys.remove(0)),
                        _ => break,
                    }
                }
                if self.keys.len() >= max {
                    let Some(victim) = self.keys.iter().position(|k| k.2 == 0) else { return false };
                    let busy: Vec<_> = self.keys.drain(..victim).collect();
                    self.keys.remove(0);
                    self.keys.extend(busy);
                }
                self.keys.push((name, 0, 0));
                self.keys.len() - 1
            }
        };
        let mut key = self.keys.remove(at);
        let passes = key.2 < concurrent && key.1.saturating_sub(now) <= burst * 1000;
        if passes {
            key.1 = key.1.max(now) + 1000;
            key.2 += 1;
        }
        self.keys.push(key);
        passes
    }
}

proptest! {
    #[test]
    fn a_table_decides_as_a_plain_list_would(
        ops in proptest::collection::vec((0_u8..6, 0_u8..3, 0_u64..700), 1..120),
        burst in 0_u32..3,
    ) {
        let table = Table::new(4);
        let bounds = bounds(Some((1000, burst)), 2, 4);
        let mut model = Model::default();
        let mut now = START;
        for (name, op, pause) in ops {
            now += pause;
            let key = table.key(&[name]);
            if op == 0 {
                table.leave(key);
                if let Some(known) = model.keys.iter_mut().find(|k| k.0 == name) {
                    known.2 = known.2.saturating_sub(1);
                }
            } else {
                let expected = model.decide(name, burst.into(), 2, 4, now);
                prop_assert_eq!(passes(table.decide(key, &bounds, Micros(now))), expected);
            }
            prop_assert_eq!(table.counts().keys, model.keys.len());
            let in_flight: u32 = model.keys.iter().map(|k| k.2).sum();
            prop_assert_eq!(table.counts().in_flight, u64::from(in_flight));
        }
    }
}
