//! How long to wait: the two formulas of the protocol, and when an address is announced.

use std::time::Duration;

use super::types::{Interval, Priority, Version};
use crate::time::Micros;

/// Skew_Time: the better the priority, the sooner a silent router is taken over. RFC 9568 6.1 has it in proportion to the
/// interval, RFC 3768 6.1 in proportion to a second, whatever the interval.
pub fn skew(version: Version, priority: Priority, interval: Interval) -> Duration {
    let base = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval.get(),
    };
    base * (256 - u32::from(priority.0)) / 256
}

/// Active_Down_Interval (RFC 9568 6.1): silence for which the Active Router is taken for dead.
pub fn down_interval(version: Version, priority: Priority, interval: Interval) -> Duration {
    3 * interval.get() + skew(version, priority, interval)
}

/// When the addresses are announced, once they are there.
#[derive(Debug, Clone, Default)]
pub struct Announcements {
    /// Bursts to come.
    bursts: Vec<Micros>,
    /// The next single frame.
    refresh: Option<Micros>,
    last: Option<Micros>,
}

/// What is to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A burst for each address.
    Burst,
    /// One frame for each address.
    Single,
}

/// Bursts because of a rival are at least so far apart, however often it speaks.
const RIVAL_GAP: Duration = Duration::from_millis(100);
/// After a rival was heard, and after a handover: once more when it has let go for certain, and once for whoever missed that.
pub const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

impl Announcements {
    /// The addresses were just taken: the first burst is due `settle` from now, the others `repeat` after it.
    pub fn begin(&mut self, now: Micros, settle: Duration, repeat: impl Iterator<Item = Duration>, refresh: Duration) {
        let first = now.after(settle);
        self.bursts = vec![first];
        self.bursts.extend(repeat.map(|delay| first.after(delay)));
        self.refresh = (!refresh.is_zero()).then(|| first.after(refresh));
        self.last = None;
    }

    /// Somebody else may have announced them: again now, and again when that is surely over.
    pub fn contest(&mut self, now: Micros) {
        let soonest = self.last.map_or(now, |last| last.after(RIVAL_GAP).max(now));
        let from = |delay: Duration| now.after(delay).max(soonest);
        // What the last contest wanted is wanted of this one, later.
        let pending = self.bursts.iter().filter(|at| **at < soonest).count();
        self.bursts.drain(..pending);
        let own: Vec<_> = std::iter::once(soonest).chain(AGAIN.into_iter().map(from)).collect();
        self.bursts.retain(|at| *at > now.after(AGAIN[1]));
        self.bursts.splice(0..0, own);
    }

    /// The addresses are gone.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// When [`Self::due`] has something next.
    pub fn next(&self) -> Option<Micros> {
        self.bursts.iter().copied().chain(self.refresh).min()
    }

    /// What is due; to be asked until there is nothing.
    pub fn due(&mut self, now: Micros, refresh: Duration) -> Option<Due> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        let burst = self.bursts.iter().any(|at| *at <= now);
        self.bursts.retain(|at| *at > now);
        self.last = Some(now);
        // A burst refreshes too.
        self.refresh = self.refresh.map(|_| now.after(refresh));
        Some(if burst { Due::Burst } else { Due::Single })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formulas_are_those_of_the_rfcs() {
        let second = Interval::from_secs(1).unwrap();
        let five = Interval::from_secs(5).unwrap();
        let fast = Interval::from_centis(10).unwrap();
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        assert_eq!(ms(skew(Version::V3, Priority(100), second)), 609.375);
        assert_eq!(ms(skew(Version::V3, Priority(100), fast)), 60.9375);
        assert_eq!(ms(skew(Version::V2, Priority(100), five)), 609.375, "version 2 skews by seconds");
        assert_eq!(ms(skew(Version::V3, Priority(254), second)), 7.8125);
        assert_eq!(ms(skew(Version::V3, Priority::LAST, second)), 996.09375);
        assert_eq!(ms(down_interval(Version::V2, Priority(100), five)), 15_609.375);
        assert_eq!(ms(down_interval(Version::V3, Priority(100), fast)), 360.9375);
    }

    fn all(a: &mut Announcements, until: u64) -> Vec<(u64, Due)> {
        let mut found = Vec::new();
        while let Some(at) = a.next().filter(|at| at.0 <= until) {
            found.extend(a.due(at, Duration::from_secs(60)).map(|due| (at.0 / 1000, due)));
        }
        found
    }

    #[test]
    fn a_taken_address_is_announced_at_once_again_and_for_ever() {
        let mut a = Announcements::default();
        let repeat = [1, 5].map(Duration::from_secs);
        a.begin(Micros(0), Duration::ZERO, repeat.into_iter(), Duration::from_secs(60));
        let expected =
            [(0, Due::Burst), (1000, Due::Burst), (5000, Due::Burst), (65_000, Due::Single), (125_000, Due::Single)];
        assert_eq!(all(&mut a, 130_000_000), expected);
        a.end();
        assert_eq!(a.next(), None);
    }

    #[test]
    fn a_rival_that_never_stops_gets_no_storm() {
        let mut a = Announcements::default();
        a.begin(Micros(0), Duration::ZERO, std::iter::empty(), Duration::ZERO);
        assert_eq!(all(&mut a, 0), [(0, Due::Burst)]);
        let mut bursts = Vec::new();
        for ms in (1000..2000).step_by(10) {
            a.contest(Micros(ms * 1000));
            bursts.extend(all(&mut a, ms * 1000));
        }
        assert_eq!(bursts.len(), 10, "{bursts:?}");
        // The last was heard at 1990 ms.
        assert_eq!(all(&mut a, 9_000_000), [(2000, Due::Burst), (2090, Due::Burst), (2990, Due::Burst)]);
    }
}
