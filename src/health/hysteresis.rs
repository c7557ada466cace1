//! From results of probes to a verdict that does not flap.

use serde::{Deserialize, Serialize};

/// What checks say of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It answers as it should.
    Up,
    /// It does not.
    Down,
}

/// How many results in a row turn a verdict. Less than 1 is taken as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Good ones, until a server that is down is up.
    pub rise: u32,
    /// Bad ones, until a server that is up is down.
    pub fall: u32,
}

/// The verdict on one server, and the results in a row that speak against it.
///
/// The first result decides alone: until then nothing is known, and a server of which nothing is known is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    verdict: Option<Verdict>,
    against: u32,
}

/// Counts the good probes in a row since requests to the server last failed, so that a server which gets no requests can
/// show that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quiet {
    failures: u64,
    good: u32,
}

impl Hysteresis {
    /// Begins with a verdict that is known from before, or with none.
    pub fn new(verdict: Option<Verdict>) -> Self {
        Self { verdict, against: 0 }
    }

    /// The verdict now.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Whether the last results speak against the verdict.
    pub fn is_turning(&self) -> bool {
        self.against > 0
    }

    /// Takes a result in. Gives the verdict when this result has made it another, or the first.
    pub fn on_result(&mut self, good: bool, thresholds: Thresholds) -> Option<Verdict> {
        let says = if good { Verdict::Up } else { Verdict::Down };
        let needed = match self.verdict {
            Some(verdict) if verdict == says => {
                self.against = 0;
                return None;
            }
            Some(Verdict::Up) => thresholds.fall,
            Some(Verdict::Down) => thresholds.rise,
            None => 1,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Self::new(Some(says));
        self.verdict
    }
}

impl Quiet {
    /// Takes a result in; `failures` is how many requests to the server have failed, ever. True when `enough` probes in a
    /// row have gone well since the last of them.
    pub fn on_result(&mut self, good: bool, failures: u64, enough: u32) -> bool {
        if !good || failures != self.failures {
            *self = Self { failures, good: 0 };
        }
        self.good = self.good.saturating_add(u32::from(good));
        self.good >= enough.max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What comes out for each of `results`: `+` good, `-` bad, `U` and `D` a new verdict, `.` none.
    fn run(verdict: Option<Verdict>, rise: u32, fall: u32, results: &str) -> String {
        let mut hysteresis = Hysteresis::new(verdict);
        let result = |c| match hysteresis.on_result(c == '+', Thresholds { rise, fall }) {
            Some(Verdict::Up) => 'U',
            Some(Verdict::Down) => 'D',
            None => '.',
        };
        results.chars().map(result).collect()
    }

    #[test]
    fn verdicts_turn_after_rise_and_fall_results_in_a_row() {
        let (up, down) = (Some(Verdict::Up), Some(Verdict::Down));
        for (verdict, rise, fall, results, out) in [
            (None, 2, 3, "+---++", "U..D.U"),
            (None, 2, 3, "-++", "D.U"),
            (None, 1000, 1000, "-", "D"),
            (up, 2, 3, "--+---", ".....D"),
            (up, 2, 3, "----", "..D."),
            (down, 2, 3, "+-+-+-", "......"),
            (down, 2, 3, "++++", ".U.."),
            (up, 1, 1, "-+-+", "DUDU"),
            (up, 0, 0, "-+", "DU"),
        ] {
            assert_eq!(run(verdict, rise, fall, results), out, "{verdict:?} {rise} {fall} {results}");
        }
    }

    proptest! {
        #[test]
        fn each_verdict_comes_once_and_only_after_enough_results(
            rise in 1_u32..5, fall in 1_u32..5, results in vec(any::<bool>(), 0..200),
        ) {
            let mut hysteresis = Hysteresis::new(None);
            let (mut last, mut row, mut before) = (None, 0, None);
            for good in results {
                row = if before == Some(good) { row + 1 } else { 1 };
                before = Some(good);
                let change = hysteresis.on_result(good, Thresholds { rise, fall });
                if let Some(verdict) = change {
                    prop_assert_ne!(last, change, "said twice");
                    prop_assert_eq!(verdict == Verdict::Up, good);
                    let needed = match last { None => 1, Some(Verdict::Up) => fall, Some(Verdict::Down) => rise };
                    prop_assert_eq!(row, needed, "neither early nor late");
                    last = change;
                }
                prop_assert_eq!(hysteresis.verdict(), last);
                let opposed = match last { Some(Verdict::Up) => !good, _ => good };
                let needed = if last == Some(Verdict::Up) { fall } else { rise };
                prop_assert!(!opposed || row < needed, "late");
            }
        }
    }

    #[test]
    fn quiet_begins_anew_with_every_failure_of_a_request() {
        let mut quiet = Quiet::default();
        let mut said = |results: &[(bool, u64)]| -> Vec<bool> {
            results.iter().map(|(good, failures)| quiet.on_result(*good, *failures, 2)).collect()
        };
        assert_eq!(said(&[(true, 0), (true, 0), (true, 0)]), [false, true, true]);
        assert_eq!(said(&[(true, 1), (true, 1)]), [false, true]);
        assert_eq!(said(&[(false, 1), (true, 1), (true, 3), (true, 3)]), [false, false, false, true]);
    }
}
