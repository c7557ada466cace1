//! A note of the addresses that we put on interfaces, for whoever comes after a process of ours that was killed.
//!
//! One JSON file in the run directory, replaced as a whole. It is written before an address is added and after it was
//! removed, so that it may name an address too many, never one too few. The kernel's own mark
//! ([`TAG`](super::netlink::TAG)) says the same on Linux 5.18 and later.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::model::VirtualAddress;
use crate::sys::replace::{Lasting, replace};
use crate::vrrpd::netlink::{Address, Link};

/// An address of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Why the note cannot be read or written.
#[derive(Debug)]
pub enum JournalError {
    /// The boot cannot be told from another.
    Boot(io::Error),
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The file cannot be written, or not be put in place.
    Write(PathBuf, io::Error),
    /// The file holds something else.
    Garbage(PathBuf, serde_json::Error),
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boot(e) => write!(f, "cannot read {BOOT_ID}: {e}"),
            Self::Read(path, e) => write!(f, "cannot read {}: {e}", path.display()),
            Self::Write(path, e) => write!(f, "cannot write {}: {e}", path.display()),
            Self::Garbage(path, e) => write!(f, "{} is no list of addresses: {e}", path.display()),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Boot(e) | Self::Read(_, e) | Self::Write(_, e) => Some(e),
            Self::Garbage(_, e) => Some(e),
        }
    }
}

/// The note of this process.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    content: Content,
}

impl Journal {
    /// A note at `path` that begins with `entries`, which may be those of a process before this one. Writes nothing yet.
    ///
    /// # Errors
    /// Without /proc the boot cannot be told from another.
    pub fn new(path: &Path, entries: Vec<Entry>) -> Result<Self, JournalError> {
        Ok(Self { path: path.to_owned(), content: Content { boot: boot()?, addresses: entries } })
    }

    /// What it names.
    pub fn entries(&self) -> &[Entry] {
        &self.content.addresses
    }

    /// Notes `addresses`; to be called before they are put on their interfaces.
    ///
    /// # Errors
    /// The file cannot be written; it is as it was, and so is what [`Journal::entries`] says.
    pub fn record<'a>(&mut self, addresses: impl IntoIterator<Item = &'a VirtualAddress>) -> Result<(), JournalError> {
        let mut entries = self.content.addresses.clone();
        for entry in addresses.into_iter().map(entry) {
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        self.replace(entries)
    }

    /// Strikes `addresses`; to be called after they were removed.
    ///
    /// # Errors
    /// As [`Journal::record`].
    pub fn forget<'a>(&mut self, addresses: impl IntoIterator<Item = &'a VirtualAddress>) -> Result<(), JournalError> {
        let gone: Vec<_> = addresses.into_iter().map(entry).collect();
        let mut entries = self.content.addresses.clone();
        // Whatever its label was.
        let same = |one: &Entry, other: &Entry| {
            (&one.interface, one.ip, one.prefix) == (&other.interface, other.ip, other.prefix)
        };
        entries.retain(|entry| !gone.iter().any(|other| same(entry, other)));
        self.replace(entries)
    }

    fn replace(&mut self, entries: Vec<Entry>) -> Result<(), JournalError> {
        if entries == self.content.addresses {
            return Ok(());
        }
        let content = Content { boot: self.content.boot.clone(), addresses: entries };
        write(&self.path, &content).map_err(|e| JournalError::Write(self.path.clone(), e))?;
        self.content = content;
        Ok(())
    }
}

/// What the note at `path` names; nothing when there is none, or when it is of another boot, which no address survives.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(JournalError::Read(path.to_owned(), e)),
    };
    let content: Content = serde_json::from_slice(&text).map_err(|e| JournalError::Garbage(path.to_owned(), e))?;
    Ok(if content.boot == boot()? { content.addresses } else { Vec::new() })
}

/// Which of `addresses`, all that are on the box, are ours: marked, or named by `journal`.
pub fn stale(journal: &[Entry], links: &[Link], addresses: &[Address]) -> Vec<Address> {
    let named = |address: &Address| {
        let name = links.iter().find(|link| link.index == address.ifindex).map(|link| &*link.name);
        let is = |entry: &Entry| {
            name == Some(entry.interface.as_str()) && entry.ip == address.ip && entry.prefix == address.prefix
        };
        journal.iter().any(is)
    };
    addresses.iter().filter(|address| address.tagged || named(address)).cloned().collect()
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    boot: String,
    addresses: Vec<Entry>,
}

fn boot() -> Result<String, JournalError> {
    let id = std::fs::read_to_string(BOOT_ID).map_err(JournalError::Boot)?;
    Ok(id.trim().to_owned())
}

fn entry(address: &VirtualAddress) -> Entry {
    let VirtualAddress { ip, prefix, interface, label } = address;
    Entry { interface: interface.to_string(), ip: *ip, prefix: *prefix, label: label.as_deref().map(str::to_owned) }
}

/// Not synced: it is of no use after what only a sync survives.
fn write(path: &Path, content: &Content) -> io::Result<()> {
    replace(path, &serde_json::to_vec(content)?, Lasting::Process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of a test's own, removed with its owner.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bascule-journal-{}-{test}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("addresses.json")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn address(ip: &str, label: Option<&str>) -> VirtualAddress {
        VirtualAddress { ip: ip.parse().unwrap(), prefix: 24, interface: "eth0".into(), label: label.map(Into::into) }
    }

    #[test]
    fn what_is_recorded_and_not_forgotten_is_read_by_the_next_process() {
        let folder = Folder::new("record");
        assert_eq!(read(&folder.file()).unwrap(), []);
        let mut journal = Journal::new(&folder.file(), Vec::new()).unwrap();
        let (one, two) = (address("192.0.2.100", Some("eth0:vip")), address("2001:db8::100", None));
        journal.record([&one, &two]).unwrap();
        journal.record([&one]).unwrap();
        let text = std::fs::read_to_string(folder.file()).unwrap();
        let addresses = r#""addresses":[{"interface":"eth0","ip":"192.0.2.100","prefix":24,"label":"eth0:vip"},{"interface":"eth0","ip":"2001:db8::100","prefix":24}]"#;
        assert!(text.contains(addresses), "{text}");
        let mut next = Journal::new(&folder.file(), read(&folder.file()).unwrap()).unwrap();
        assert_eq!(next.entries(), journal.entries());
        next.forget([&address("192.0.2.100", None)]).unwrap();
        assert_eq!(read(&folder.file()).unwrap(), [entry(&two)]);
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "the new file is left");
    }

    #[test]
    fn a_note_of_another_boot_names_nothing() {
        let folder = Folder::new("boot");
        Journal::new(&folder.file(), Vec::new()).unwrap().record([&address("192.0.2.100", None)]).unwrap();
        let text = std::fs::read_to_string(folder.file()).unwrap();
        std::fs::write(folder.file(), text.replace(&boot().unwrap(), "b2c9fa68-0000-0000-0000-000000000000")).unwrap();
        assert_eq!(read(&folder.file()).unwrap(), []);
    }

    #[test]
    fn garbage_is_reported_with_its_place() {
        let folder = Folder::new("garbage");
        for garbage in ["", "{", "[]", r#"{"boot":"x","addresses":[{"interface":"eth0","ip":"nowhere","prefix":1}]}"#] {
            std::fs::write(folder.file(), garbage).unwrap();
            let error = read(&folder.file()).unwrap_err().to_string();
            assert!(error.contains("addresses.json is no list of addresses: "), "{error}");
        }
        std::fs::remove_file(folder.file()).unwrap();
        std::fs::create_dir(folder.file()).unwrap();
        assert!(read(&folder.file()).unwrap_err().to_string().starts_with("cannot read "));
    }

    #[test]
    fn what_cannot_be_written_is_not_recorded() {
        let mut journal = Journal::new(Path::new("/proc/nowhere/addresses.json"), Vec::new()).unwrap();
        let error = journal.record([&address("192.0.2.100", None)]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /proc/nowhere/addresses.json: "), "{error}");
        assert_eq!(journal.entries(), []);
    }

    #[test]
    fn stale_is_what_is_tagged_or_noted_and_nothing_else() {
        let link = |index, name: &str| Link { index, name: name.into(), mac: None, up: true, running: true, mtu: 1500 };
        let on = |ifindex, ip: &str, tagged| Address {
            ifindex,
            ip: ip.parse().unwrap(),
            prefix: 24,
            label: None,
            tagged,
            secondary: false,
            deprecated: false,
            tentative: false,
        };
        let journal = [entry(&address("192.0.2.100", None)), entry(&address("192.0.2.103", None))];
        let addresses = [
            on(2, "192.0.2.1", false),
            on(2, "192.0.2.100", false),
            on(3, "192.0.2.100", false),
            Address { prefix: 32, ..on(2, "192.0.2.100", false) },
            on(3, "192.0.2.101", true),
            // Its interface is not known.
            on(4, "192.0.2.103", false),
        ];
        let stale = stale(&journal, &[link(2, "eth0"), link(3, "eth1")], &addresses);
        assert_eq!(stale, [addresses[1].clone(), addresses[4].clone()]);
    }
}
