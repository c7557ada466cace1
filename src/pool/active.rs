//! The verdict of active checks on a server, for all workers.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::health::Verdict;

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// Written by the control runtime, read by every pick. Relaxed throughout: nothing else is ordered by it.
#[derive(Debug, Default)]
pub(super) struct Active(AtomicU8);

impl Active {
    /// The verdict, if there is one.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        match self.0.load(Ordering::Relaxed) {
            UP => Some(Verdict::Up),
            DOWN => Some(Verdict::Down),
            _ => None,
        }
    }

    /// Whether the verdict is that it is down.
    pub(super) fn is_down(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DOWN
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
