//! A note of the addresses that we put on interfaces, for whoever comes after a process of ours that was killed.
//!
//! One JSON file in the run directory, replaced as a whole. It is written before an address is added and after it was
//! removed, so that it may name an address too many, never one too few. The kernel's own mark ([`super::netlink::TAG`]) says
//! the same on Linux 5.18 and later.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::model::VirtualAddress;
use crate::vrrpd::netlink::{Address, Link};

/// An address of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Its label.
    pub label: Option<String>,
}

/// Why the note cannot be read or written.
#[derive(Debug)]
pub enum JournalError {
    /// The file.
    Io(PathBuf, io::Error),
}

/// The note of this process.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Journal {
    /// A note at `path` that begins with `entries`, which may be those of a process before this one. Writes nothing yet.
    ///
    /// # Errors
    /// Without /proc the boot cannot be told from another.
    pub fn new(path: &Path, entries: Vec<Entry>) -> Result<Self, JournalError> {
        unimplemented!("{path:?} {entries:?}")
    }

    /// What it names.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Notes `addresses`; to be called before they are put on their interfaces.
    ///
    /// # Errors
    /// The file cannot be written; it is as it was.
    pub fn record(&mut self, addresses: &[VirtualAddress]) -> Result<(), JournalError> {
        unimplemented!("{addresses:?} {:?}", self.path)
    }

    /// Strikes `addresses`; to be called after they were removed.
    ///
    /// # Errors
    /// As [`Journal::record`].
    pub fn forget(&mut self, addresses: &[VirtualAddress]) -> Result<(), JournalError> {
        unimplemented!("{addresses:?}")
    }
}

/// What the note at `path` names; nothing when there is none, or when it is of another boot, which no address survives.
///
/// # Errors
/// The file cannot be read, or is not ours.
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    unimplemented!("{path:?}")
}

/// Which of `addresses`, all that are on the box, are ours: marked, or named by `journal`.
pub fn stale(journal: &[Entry], links: &[Link], addresses: &[Address]) -> Vec<Address> {
    unimplemented!("{journal:?} {links:?} {addresses:?}")
}
