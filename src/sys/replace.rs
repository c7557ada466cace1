//! Files that are replaced whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What of a file outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// The process.
    Process,
    /// The machine: the content is on the disk before the name is.
    Machine,
}

/// Makes `content` the file at `path`, readable by its owner only: readers see the old file or the new one, whole. It is
/// written beside it first, with the extension `new`.
///
/// # Errors
/// The folder cannot be written to, or the disk is full; the old file is as it was.
pub(crate) fn replace(path: &Path, content: &[u8], lasting: Lasting) -> io::Result<()> {
    let new = path.with_extension("new");
    // What a process left that died over it may be of another owner, or a link.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    if lasting == Lasting::Machine {
        file.sync_data()?;
    }
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_file_is_new_and_nothing_is_left_beside_it_or_written_elsewhere() {
        let folder = std::env::temp_dir().join(format!("bascule-replace-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, other) = (folder.join("state.json"), folder.join("other"));
        fs::write(&other, "kept").unwrap();
        symlink(&other, folder.join("state.new")).unwrap();
        for lasting in [Lasting::Process, Lasting::Machine] {
            replace(&path, b"content", lasting).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((fs::read(&other).unwrap(), fs::read_dir(&folder).unwrap().count()), (b"kept".to_vec(), 2));
        fs::remove_dir_all(folder).unwrap();
    }
}
