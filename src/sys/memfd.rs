//! Payloads of messages in anonymous memory that nobody can change any more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Why a received payload is refused.
#[derive(Debug)]
pub enum MemfdError {
    /// Its sender could still change or shrink it, or it is no memfd at all.
    NotSealed,
    /// It is longer than allowed.
    TooLong {
        /// Its length in bytes.
        len: u64,
    },
    /// It could not be read.
    Read(io::Error),
}

impl std::fmt::Display for MemfdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSealed => f.write_str("payload is not a sealed memfd"),
            Self::TooLong { len } => write!(f, "payload of {len} bytes is too long"),
            Self::Read(e) => write!(f, "payload cannot be read: {e}"),
        }
    }
}

impl std::error::Error for MemfdError {}

/// A sealed memfd that holds `payload`.
///
/// # Errors
/// No memory or no free descriptor.
pub fn sealed(payload: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"bascule", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(payload)?;
    fcntl_add_seals(&file, seals())?;
    Ok(file.into())
}

/// What `fd` holds, at most `max` bytes.
///
/// The seals are looked at before anything else: reading an arbitrary descriptor of an untrusted sender could block, and
/// a file that shrinks while it is read is a trap.
///
/// # Errors
/// See [`MemfdError`].
pub fn read_sealed(fd: OwnedFd, max: usize) -> Result<Vec<u8>, MemfdError> {
    if !fcntl_get_seals(fd.as_fd()).is_ok_and(|s| s.contains(seals())) {
        return Err(MemfdError::NotSealed);
    }
    let file = File::from(fd);
    let len = file.metadata().map_err(MemfdError::Read)?.len();
    let size = usize::try_from(len).ok().filter(|&n| n <= max).ok_or(MemfdError::TooLong { len })?;
    let mut payload = vec![0; size];
    // At an offset: the file position is shared with the sender.
    file.read_exact_at(&mut payload, 0).map_err(MemfdError::Read)?;
    Ok(payload)
}

fn seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_payload_is_read_back_and_cannot_be_written() {
        let fd = sealed(b"abc").unwrap();
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert_eq!(read_sealed(fd, 3).unwrap(), b"abc");
    }

    #[test]
    fn a_longer_payload_than_allowed_is_refused() {
        let fd = sealed(b"abcd").unwrap();
        assert!(matches!(read_sealed(fd, 3), Err(MemfdError::TooLong { len: 4 })));
    }

    #[test]
    fn what_is_not_sealed_is_refused_unread() {
        let open = memfd_create(c"open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read_sealed(open, 10), Err(MemfdError::NotSealed)));
        let (never_readable, _writer) = rustix::pipe::pipe().unwrap();
        assert!(matches!(read_sealed(never_readable, 10), Err(MemfdError::NotSealed)));
    }
}
