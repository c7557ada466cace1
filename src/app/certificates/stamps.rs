//! Whether files have changed, without reading them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What has changed no longer ago than this may change again without a trace: file systems have coarse clocks.
const COARSE: Duration = Duration::from_secs(2);

/// What a file system says of some paths. Equal ones that are settled mean equal contents.
#[derive(Debug, Clone, Default)]
pub(in crate::app) struct Stamps {
    of: BTreeMap<PathBuf, Option<Stamp>>,
    settled: bool,
}

/// A file or a folder at the end of all links. Its inode is written to with every change of it, and has no other clock than
/// the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamps {
    /// Of `paths` and of the folders that they are in, where something may be beside them; to be taken before they are read.
    pub(in crate::app) fn take<'p>(paths: impl Iterator<Item = &'p str>, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut stamps = Self { of: BTreeMap::new(), settled: true };
        for path in paths.map(Path::new) {
            for path in [Some(path), path.parent()].into_iter().flatten() {
                if !stamps.of.contains_key(path) {
                    let stamp = fs::metadata(path).ok().map(|about| Stamp {
                        device: about.dev(),
                        inode: about.ino(),
                        size: about.size(),
                        changed: (about.ctime(), about.ctime_nsec()),
                    });
                    stamps.settled &= stamp.is_none_or(|stamp| stamp.is_older(now));
                    stamps.of.insert(path.to_owned(), stamp);
                }
            }
        }
        stamps
    }

    /// Whether the next change of any of them will be seen.
    pub(in crate::app) fn are_settled(&self) -> bool {
        self.settled
    }
}

impl PartialEq for Stamps {
    fn eq(&self, other: &Self) -> bool {
        self.of == other.of
    }
}

impl Stamp {
    /// Whether its last change is long over at `now`, since 1970. One in the future, by another box's clock, never is.
    fn is_older(&self, now: Duration) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = u64::try_from(seconds).map_or(Duration::ZERO, Duration::from_secs);
        let nanos = u64::try_from(nanos).map_or(Duration::ZERO, Duration::from_nanos);
        changed + nanos + COARSE <= now
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::app::runner::tests::TempDir;

    /// Lets the clock of the file system go on: it is coarser than the steps of a test.
    fn tick(dir: &TempDir) {
        let now = || {
            fs::write(dir.join("tick"), "").unwrap();
            let about = fs::metadata(dir.join("tick")).unwrap();
            (about.ctime(), about.ctime_nsec())
        };
        let before = now();
        while now() == before {}
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        let dir = TempDir::new();
        let live = dir.join("live");
        let old = dir.join("archive/1/cert.pem");
        fs::create_dir_all(dir.join("archive/1")).unwrap();
        fs::create_dir_all(&live).unwrap();
        fs::write(&old, "one").unwrap();
        symlink(&old, live.join("cert.pem")).unwrap();
        let cert = live.join("cert.pem").display().to_string();
        let take = || Stamps::take([cert.as_str()].into_iter(), later());

        let mut before = take();
        assert!(before.are_settled() && before == take());
        let steps: [(&str, &dyn Fn()); 6] = [
            ("written to", &|| fs::write(&old, "two or more").unwrap()),
            ("certbot's link swapped", &|| {
                fs::create_dir_all(dir.join("archive/2")).unwrap();
                fs::write(dir.join("archive/2/cert.pem"), "two or more").unwrap();
                fs::remove_file(live.join("cert.pem")).unwrap();
                symlink(dir.join("archive/2/cert.pem"), live.join("cert.pem")).unwrap();
            }),
            ("another file renamed over it", &|| {
                fs::write(live.join("new"), "two or more").unwrap();
                fs::rename(live.join("new"), live.join("cert.pem")).unwrap();
            }),
            ("a file beside it", &|| fs::write(live.join("cert.ocsp"), "").unwrap()),
            ("gone", &|| fs::remove_file(live.join("cert.pem")).unwrap()),
            ("its folder gone", &|| fs::remove_dir_all(&live).unwrap()),
        ];
        for (what, change) in steps {
            tick(&dir);
            change();
            let after = take();
            assert!(before != after, "{what}");
            before = after;
        }
    }

    #[test]
    fn what_has_just_changed_may_change_again_unseen() {
        let dir = TempDir::new();
        fs::write(dir.join("file"), "").unwrap();
        let path = dir.join("file").display().to_string();
        let settled = |now| Stamps::take([path.as_str()].into_iter(), now).are_settled();
        assert!(!settled(SystemTime::now()));
        assert!(!settled(SystemTime::UNIX_EPOCH));
        assert!(settled(later()));
    }
}
