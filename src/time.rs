//! Time as the pure cores see it: the machine's monotonic clock, handed in by the caller.

use std::time::Duration;

/// A point of CLOCK_MONOTONIC in whole milliseconds: never goes back, the same for every process of the machine, so that
/// a restarted proxy can take over the times its predecessor noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The point `d` after this one; saturates, sub-millisecond parts of `d` are rounded up.
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(to_millis(d)))
    }

    /// Milliseconds from `earlier` to this; 0 when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point of CLOCK_MONOTONIC in whole microseconds: what VRRP reckons in, whose skew is a 256th of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// The point `d` after this one; saturates, parts of a microsecond are dropped.
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The point `d` before this one; 0 when the clock had not begun.
    pub fn before(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds, rounded up, saturating.
pub fn to_millis(d: Duration) -> u64 {
    u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
