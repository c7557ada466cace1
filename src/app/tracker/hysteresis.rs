//! From results to a verdict: pure.

/// Good after `rise` successes in a row, bad after `fall` failures; the first result decides at once.
#[derive(Debug)]
pub(super) struct Hysteresis {
    rise: u32,
    fall: u32,
    good: Option<bool>,
    /// Results in a row that contradict the verdict.
    against: u32,
}

impl Hysteresis {
    pub(super) fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, good: None, against: 0 }
    }

    /// Takes a result; the verdict, if it is a new one.
    pub(super) fn result(&mut self, success: bool) -> Option<bool> {
        let needed = match self.good {
            None => 0,
            Some(good) if good == success => {
                self.against = 0;
                return None;
            }
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return None;
        }
        self.good = Some(success);
        self.against = 0;
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results and the verdicts after each: `+` success or good, `-` failure or bad.
    fn verdicts(rise: u32, fall: u32, results: &str) -> String {
        let mut hysteresis = Hysteresis::new(rise, fall);
        let mut good = true;
        let after = results.chars().map(|result| {
            good = hysteresis.result(result == '+').unwrap_or(good);
            if good { '+' } else { '-' }
        });
        after.collect()
    }

    #[test]
    fn verdicts_follow_results() {
        for (rise, fall, results, expected) in [
            (1, 1, "+-+--+", "+-+--+"),
            // The first decides.
            (3, 3, "-", "-"),
            (3, 3, "+", "+"),
            // Then a row is needed, without a gap.
            (2, 3, "+--+---", "++++++-"),
            (2, 3, "-+-++-++", "----++++"),
            (3, 1, "+-++-+++", "+------+"),
            // Neither is a row of none, or of one.
            (0, 0, "+-+", "+-+"),
            (u32::MAX, u32::MAX, "-++++", "-----"),
        ] {
            assert_eq!(verdicts(rise, fall, results), expected, "rise {rise}, fall {fall}: {results}");
        }
    }

    #[test]
    fn only_a_new_verdict_is_said() {
        let mut hysteresis = Hysteresis::new(1, 2);
        let said: Vec<_> = [true, true, false, false, false, true].map(|result| hysteresis.result(result)).into();
        assert_eq!(said, [Some(true), None, None, Some(false), None, Some(true)]);
    }
}
