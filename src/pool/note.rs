//! Why something is as it is, and since when: kept beside a state that changes rarely, for people.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// One change of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What led to it.
    pub why: String,
    /// When it was; milliseconds of the machine's clock.
    pub since: u64,
}

/// The last change. Written when a state changes, which no request waits for: the lock is held for the time of a copy.
#[derive(Debug, Default)]
pub(super) struct LastNote(Mutex<Option<Note>>);

impl LastNote {
    /// Replaces it.
    pub(super) fn set(&self, why: impl Into<String>, since: Millis) {
        self.restore(Some(Note { why: why.into(), since: since.0 }));
    }

    /// Puts back what another process has noted.
    pub(super) fn restore(&self, note: Option<Note>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// The last one, if any.
    pub(super) fn get(&self) -> Option<Note> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
