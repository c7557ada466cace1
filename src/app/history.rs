//! The configurations that this box has run, on disk: what `history` shows and `rollback` goes back to.
//!
//! One file each in `state_dir`, whole and by itself: no later change of any file takes it away. They hold secrets, so only
//! the owner reads them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::replace::{Lasting, replace};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct History {
    dir: PathBuf,
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generation {
    /// Counts up on this box.
    pub(super) number: u64,
    /// When it came into force, seconds since 1970.
    pub(super) at: u64,
    /// How: started, reloaded, rolled back.
    pub(super) how: String,
    /// Who asked for it.
    pub(super) by: String,
    /// The node that it was made for.
    pub(super) node: String,
}

/// So many are kept.
const KEPT: usize = 10;
/// In front of the first line, which describes the generation.
const MARK: &str = "# bascule ";

impl History {
    /// That of `dir`, which is made if it is not there.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// All there are, the latest last. What cannot be read is left out.
    pub(super) fn list(&self) -> Vec<Generation> {
        let read = |number| self.read(number).ok().map(|(generation, _)| generation);
        self.numbers().into_iter().filter_map(read).collect()
    }

    /// A generation and its configuration.
    ///
    /// # Errors
    /// There is none of that number, or it cannot be read.
    pub(super) fn read(&self, number: u64) -> Result<(Generation, String), String> {
        let path = self.path(number);
        let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no generation {number}; `bascule history` lists what there is")
            }
            _ => format!("{}: {e}", path.display()),
        })?;
        let damaged = || format!("{} is damaged: it cannot be gone back to", path.display());
        let (first, text) = text.split_once('\n').ok_or_else(damaged)?;
        let generation = first.strip_prefix(MARK).and_then(|json| serde_json::from_str(json).ok());
        let generation: Generation = generation.ok_or_else(damaged)?;
        // Written in one go, so whole or not there; a disk can still lose the end of it.
        if generation.number == number { Ok((generation, text.to_owned())) } else { Err(damaged()) }
    }

    /// The number of the latest; 0: none.
    pub(super) fn latest(&self) -> u64 {
        self.numbers().last().copied().unwrap_or(0)
    }

    /// Keeps a configuration, and no more than ten.
    ///
    /// # Errors
    /// The disk is full, or not ours to write.
    pub(super) fn keep(&self, generation: &Generation, text: &str) -> io::Result<()> {
        let content = format!("{MARK}{}\n{text}", serde_json::to_string(generation)?);
        replace(&self.path(generation.number), content.as_bytes(), Lasting::Machine)?;
        let numbers = self.numbers();
        for old in numbers.iter().take(numbers.len().saturating_sub(KEPT)) {
            fs::remove_file(self.path(*old))?;
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("generation-{number:08}.toml"))
    }

    /// Ascending.
    fn numbers(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let number = |name: &str| name.strip_prefix("generation-")?.strip_suffix(".toml")?.parse().ok();
        let mut numbers: Vec<u64> = entries.flatten().filter_map(|e| number(e.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        Generation { number, at: 1_700_000_000, how: "reload".into(), by: "root".into(), node: "lb1".into() }
    }

    #[test]
    fn the_last_ten_are_kept_and_can_be_read() {
        let dir = std::env::temp_dir().join(format!("bascule-history-{}", std::process::id()));
        let history = History::open(&dir).unwrap();
        assert_eq!((history.latest(), history.list()), (0, vec![]));
        for number in 1..=13 {
            history.keep(&generation(number), &format!("[global]\n# {number}\n")).unwrap();
        }
        let numbers: Vec<u64> = history.list().iter().map(|g| g.number).collect();
        assert_eq!(numbers, (4..=13).collect::<Vec<_>>());
        assert_eq!(history.read(5).unwrap(), (generation(5), "[global]\n# 5\n".to_owned()));
        assert!(history.read(3).unwrap_err().contains("no generation 3"));
        fs::write(history.path(7), "half").unwrap();
        assert!(history.read(7).unwrap_err().contains("damaged"));
        assert_eq!(history.list().len(), 9);
        fs::remove_dir_all(dir).unwrap();
    }
}
