//! Wall clock time as access logs write it.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use crate::template::Var;

/// Writes times of day in one zone. One per worker: the texts of the current second are kept, since many lines fall
/// into it.
#[derive(Debug)]
pub struct LogClock {
    zone: TimeZone,
    second: Cell<i64>,
    local: Cell<[u8; LOCAL_LEN]>,
    iso: Cell<[u8; ISO_LEN]>,
}

const LOCAL_LEN: usize = "21/Nov/2026:11:22:33 +0000".len();
const ISO_LEN: usize = "2026-11-21T11:22:33+00:00".len();

impl LogClock {
    /// A clock in `zone`.
    pub fn new(zone: TimeZone) -> Self {
        let clock = Self { zone, second: Cell::new(0), local: Cell::new([0; LOCAL_LEN]), iso: Cell::new([0; ISO_LEN]) };
        clock.set_texts(0);
        clock
    }

    /// Appends the value of `$time_local`, `$time_iso8601` or `$msec` at `now`; false for every other variable.
    pub fn write(&self, var: &Var, now: SystemTime, out: &mut Vec<u8>) -> bool {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        match var {
            Var::TimeLocal => {
                self.turn_to(since_epoch);
                out.extend_from_slice(&self.local.get());
            }
            Var::TimeIso8601 => {
                self.turn_to(since_epoch);
                out.extend_from_slice(&self.iso.get());
            }
            Var::Msec => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{}.{:03}", since_epoch.as_secs(), since_epoch.subsec_millis());
            }
            _ => return false,
        }
        true
    }

    fn turn_to(&self, since_epoch: Duration) {
        let second = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        if second != self.second.replace(second) {
            self.set_texts(second);
        }
    }

    fn set_texts(&self, second: i64) {
        self.local.set(self.text("%d/%b/%Y:%H:%M:%S %z", second));
        self.iso.set(self.text("%Y-%m-%dT%H:%M:%S%:z", second));
    }

    /// `second` in the format, which gives `N` bytes for every year of four digits; dashes for any other.
    fn text<const N: usize>(&self, format: &str, second: i64) -> [u8; N] {
        let text = format_second(&self.zone, format, second);
        text.as_bytes().try_into().unwrap_or([b'-'; N])
    }
}

/// `second` after the epoch, as `format` says; the epoch itself when there is no such day.
pub(super) fn format_second(zone: &TimeZone, format: &str, second: i64) -> String {
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone());
    strtime::format(format, &time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(clock: &LogClock, var: &Var, millis: u64) -> String {
        let mut out = Vec::new();
        assert!(clock.write(var, UNIX_EPOCH + Duration::from_millis(millis), &mut out));
        String::from_utf8(out).unwrap()
    }

    fn berlin() -> LogClock {
        LogClock::new(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap())
    }

    #[test]
    fn times_are_written_as_nginx_writes_them() {
        let clock = LogClock::new(TimeZone::UTC);
        let millis = 1_795_260_153_007;
        assert_eq!(written(&clock, &Var::TimeLocal, millis), "21/Nov/2026:11:22:33 +0000");
        assert_eq!(written(&clock, &Var::TimeIso8601, millis), "2026-11-21T11:22:33+00:00");
        assert_eq!(written(&clock, &Var::Msec, millis), "1795260153.007");
    }

    #[test]
    fn the_zone_s_offset_follows_daylight_saving() {
        let clock = berlin();
        let change = 1_792_890_000_000; // 2026-10-25 01:00 UTC
        assert_eq!(written(&clock, &Var::TimeLocal, change - 1), "25/Oct/2026:02:59:59 +0200");
        assert_eq!(written(&clock, &Var::TimeLocal, change), "25/Oct/2026:02:00:00 +0100");
        assert_eq!(written(&clock, &Var::TimeIso8601, change - 1), "2026-10-25T02:59:59+02:00");
    }

    #[test]
    fn a_kept_text_is_used_for_its_own_second_only() {
        let clock = berlin();
        for millis in [0, 999, 1000, 1999, 86_400_000, 0] {
            let fresh = written(&berlin(), &Var::TimeLocal, millis);
            assert_eq!(written(&clock, &Var::TimeLocal, millis), fresh, "{millis}");
        }
    }

    #[test]
    fn a_clock_before_the_epoch_or_after_all_calendars_does_no_harm() {
        let clock = LogClock::new(TimeZone::UTC);
        let mut out = Vec::new();
        assert!(clock.write(&Var::TimeLocal, UNIX_EPOCH - Duration::from_secs(1), &mut out));
        assert_eq!(out, b"01/Jan/1970:00:00:00 +0000");
        assert_eq!(written(&clock, &Var::TimeIso8601, u64::MAX / 1_000), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn other_variables_are_not_its_business() {
        let mut out = Vec::new();
        assert!(!LogClock::new(TimeZone::UTC).write(&Var::Host, UNIX_EPOCH, &mut out));
        assert!(out.is_empty());
    }
}
