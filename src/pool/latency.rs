//! How long a server takes to answer: counts of times in buckets that grow with them, for percentiles of the last one to
//! two minutes.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Buckets of an octave: a time is told to within an eighth of itself, and read back in the middle of its bucket.
const PER_OCTAVE: u64 = 1 << BITS;
const BITS: u32 = 3;
/// Longer times count as the longest: 2^28 µs are four and a half minutes.
const OCTAVES: u32 = 28;
const BUCKETS: usize = ((OCTAVES - BITS) as usize + 1) << BITS;

/// Times in microseconds. Two sets of counts take turns every minute.
#[derive(Debug)]
pub struct Latency {
    sets: [[AtomicU32; BUCKETS]; 2],
    current: AtomicUsize,
}

/// Times in microseconds, each right to within 7 %, that so many of a hundred exchanges did not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of them.
    pub p50: u64,
    /// 90 of 100.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let set = || std::array::from_fn(|_| AtomicU32::new(0));
        Self { sets: [set(), set()], current: AtomicUsize::new(0) }
    }
}

impl Latency {
    /// Counts a time.
    pub fn record(&self, micros: u64) {
        let set = &self.sets[self.current.load(Ordering::Relaxed) & 1];
        set[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets the older of the two sets and goes on with it; to be called once a minute. What is counted while it is
    /// emptied may be lost.
    pub fn turn(&self) {
        let next = (self.current.load(Ordering::Relaxed) + 1) & 1;
        self.sets[next].iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.current.store(next, Ordering::Relaxed);
    }

    /// Of all that is counted; `None`: nothing is.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let [a, b] = &self.sets;
        let both = |(a, b): (&AtomicU32, &AtomicU32)| {
            u64::from(a.load(Ordering::Relaxed)) + u64::from(b.load(Ordering::Relaxed))
        };
        let counts: Vec<u64> = a.iter().zip(b).map(both).collect();
        let total: u64 = counts.iter().sum();
        let at = |percent: u64| {
            let rank = (total * percent).div_ceil(100);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            middle(found.unwrap_or(BUCKETS - 1))
        };
        (total > 0).then(|| Percentiles { p50: at(50), p90: at(90), p99: at(99) })
    }
}

/// The bucket of a time: exact up to 7, then by its highest four bits.
fn bucket(micros: u64) -> usize {
    let micros = micros.min((1 << OCTAVES) - 1);
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    (u64::from(shift) * PER_OCTAVE + (micros >> shift)) as usize
}

/// The time in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_OCTAVE {
        return bucket;
    }
    let shift = bucket / PER_OCTAVE - 1;
    let lowest = (bucket - shift * PER_OCTAVE) << shift;
    lowest + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_is_read_back_to_within_12_percent(micros in 0u64..(1 << OCTAVES)) {
            let read = middle(bucket(micros));
            prop_assert!(read.abs_diff(micros) * 100 <= micros * 12, "{micros} became {read}");
        }

        #[test]
        fn longer_times_are_in_later_buckets(micros in any::<u64>(), longer in any::<u64>()) {
            let (micros, longer) = (micros.min(longer), micros.max(longer));
            prop_assert!(bucket(micros) <= bucket(longer) && bucket(longer) < BUCKETS);
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let latency = Latency::default();
        assert_eq!(latency.percentiles(), None);
        (1..=100).for_each(|ms| latency.record(ms * 1000));
        let Percentiles { p50, p90, p99 } = latency.percentiles().unwrap();
        for (read, exact) in [(p50, 50_000), (p90, 90_000), (p99, 99_000u64)] {
            assert!(exact.abs_diff(read) * 100 <= exact * 12, "{exact}: {read}");
        }
        latency.turn();
        latency.record(7);
        assert_ne!(latency.percentiles().unwrap().p99, 7, "the last minute still counts");
        latency.turn();
        assert_eq!(latency.percentiles(), Some(Percentiles { p50: 7, p90: 7, p99: 7 }));
    }
}
