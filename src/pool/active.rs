//! The verdict of active checks on a server, for all workers.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::health::Verdict;

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;
/// `initial_state`, which no probe has confirmed yet.
const PRESUMED_UP: u8 = 3;
const PRESUMED_DOWN: u8 = 4;

/// Written by the control runtime, read by every pick. Relaxed throughout: nothing else is ordered by it.
#[derive(Debug, Default)]
pub(super) struct Active(AtomicU8);

impl Active {
    /// The verdict, if there is one; a presumed one counts.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        match self.0.load(Ordering::Relaxed) {
            UP | PRESUMED_UP => Some(Verdict::Up),
            DOWN | PRESUMED_DOWN => Some(Verdict::Down),
            _ => None,
        }
    }

    /// Whether the verdict is that it is down.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), DOWN | PRESUMED_DOWN)
    }

    /// Whether the verdict is of no probe.
    pub(super) fn is_presumed(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), PRESUMED_UP | PRESUMED_DOWN)
    }

    /// Presumes a verdict where there is none.
    pub(super) fn presume(&self, verdict: Verdict) {
        let code = match verdict {
            Verdict::Up => PRESUMED_UP,
            Verdict::Down => PRESUMED_DOWN,
        };
        // Fails where there is one, which is better than this.
        let _ = self.0.compare_exchange(UNKNOWN, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Replaces the verdict.
    pub(super) fn set(&self, verdict: Option<Verdict>) {
        let code = match verdict {
            None => UNKNOWN,
            Some(Verdict::Up) => UP,
            Some(Verdict::Down) => DOWN,
        };
        self.0.store(code, Ordering::Relaxed);
    }
}
