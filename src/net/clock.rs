//! The clocks: the monotonic one, and that of the wall.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// Seconds since 1970 now, for what is written down; 0: the clock is set to before that.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// CLOCK_MONOTONIC now, for VRRP.
pub fn micros() -> Micros {
    Micros(now_micros())
}
