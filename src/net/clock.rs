//! The monotonic clock.

use rustix::time::{ClockId, clock_gettime};

use crate::time::{Micros, Millis};

/// CLOCK_MONOTONIC now.
pub fn now() -> Millis {
    let t = clock_gettime(ClockId::Monotonic);
    Millis(u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000)
}

/// CLOCK_MONOTONIC now, in microseconds; for durations in logs.
pub fn now_micros() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1000
}

/// CLOCK_MONOTONIC now, for VRRP.
pub fn micros() -> Micros {
    Micros(now_micros())
}
