//! A small file that is parsed again when it changes.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a file says, as of the last look.
#[derive(Debug)]
pub(super) struct WatchedFile<T> {
    path: PathBuf,
    seen: Mutex<Option<Seen<T>>>,
}

#[derive(Debug)]
struct Seen<T> {
    stamp: Option<Stamp>,
    value: Arc<T>,
}

/// Differs after every change, whether the file was written in place or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl<T> WatchedFile<T> {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: Mutex::new(None) }
    }

    /// What the file says now. A file that cannot be read counts as empty.
    pub(super) fn current(&self, parse: impl FnOnce(&str) -> T) -> Arc<T> {
        // Taken before the content: a write in between is then seen by the next look.
        let stamp = std::fs::metadata(&self.path).ok().map(|metadata| Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        });
        // A parser that panicked has left the old value in place.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = &*seen
            && seen.stamp == stamp
        {
            return Arc::clone(&seen.value);
        }
        let content = std::fs::read(&self.path).unwrap_or_default();
        let value = Arc::new(parse(&String::from_utf8_lossy(&content)));
        *seen = Some(Seen { stamp, value: Arc::clone(&value) });
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_parsed_again_only_after_a_change() {
        let folder = std::env::temp_dir().join(format!("bascule-watched-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let file = WatchedFile::new(&path);
        let read = || file.current(str::to_owned);

        assert_eq!(*read(), "", "missing");
        std::fs::write(&path, "one").unwrap();
        assert_eq!(*read(), "one", "created");
        assert!(Arc::ptr_eq(&read(), &read()), "unchanged");
        std::fs::write(folder.join("new"), "two").unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        assert_eq!(*read(), "two", "replaced by one of the same length");
        std::fs::write(&path, "three").unwrap();
        assert_eq!(*read(), "three", "written in place");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(*read(), "", "removed");
    }
}
