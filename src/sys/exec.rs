//! Becoming another program under the same process id, and what the one before left open for it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::FdFlags;

/// What was open beside standard input, output and error when this process began, by number.
#[derive(Debug)]
pub struct Inherited(BTreeMap<RawFd, OwnedFd>);

impl Inherited {
    /// Takes hold of all of it, and keeps it from the processes we start. To be called once, before anything is opened and
    /// before the first thread starts. Without /proc it is empty, and then nothing can be started from /proc either.
    pub fn take_all() -> Self {
        let own = format!("/proc/{}/fd", std::process::id());
        let Ok(open) = std::fs::read_dir(&own) else { return Self(BTreeMap::new()) };
        let is_itself =
            |path: &std::path::Path| std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == own.as_str());
        let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<RawFd>().ok().map(|n| (n, entry));
        let numbers = open.flatten().filter_map(number).filter(|(n, entry)| *n > 2 && !is_itself(&entry.path()));
        let owned = |n| {
            #[expect(unsafe_code, reason = "a descriptor by its number is what exec leaves")]
            // SAFETY: /proc lists it as open; it is not the directory's own, which is the only one opened since the process
            // began, so that nothing else in it owns the number.
            let fd = unsafe { OwnedFd::from_raw_fd(n) };
            // Nothing to do about one that refuses; it stays as it was.
            let _ = close_on_exec(&fd, true);
            fd
        };
        let numbers: Vec<RawFd> = numbers.map(|(n, _)| n).collect();
        Self(numbers.into_iter().map(|n| (n, owned(n))).collect())
    }

    /// The descriptor of number `n`, once.
    pub fn take(&mut self, n: RawFd) -> Option<OwnedFd> {
        self.0.remove(&n)
    }

    /// Leaves what was not taken open, for whoever in this process may know of it.
    pub fn leave_open(self) {
        self.0.into_values().for_each(std::mem::forget);
    }
}

/// Whether `fd` is closed when a program is executed.
///
/// # Errors
/// The kernel refuses, which it never does for an open descriptor.
pub fn close_on_exec(fd: impl AsFd, closed: bool) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, if closed { FdFlags::CLOEXEC } else { FdFlags::empty() })?)
}

/// What becomes of signals to the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// They wait, also across [`exec`].
    Blocked,
    /// They are delivered, those that waited too.
    Delivered,
}

/// Has all signals to the calling thread wait, or come.
pub fn set_signals(signals: Signals) {
    let how = match signals {
        Signals::Blocked => libc::SIG_BLOCK,
        Signals::Delivered => libc::SIG_UNBLOCK,
    };
    // SAFETY: the set is a plain value that `sigfillset` initialises, and the calls write nothing else.
    #[expect(unsafe_code, reason = "rustix leaves the signal mask to the C library")]
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        // Fails only for an unknown `how`.
        libc::pthread_sigmask(how, &raw const all, ptr::null_mut());
    }
}

/// Executes `program` in place of this one with `arguments`, the first of which is its name, and with our environment.
/// Returns only when that fails, and then nothing has changed. Threads other than the calling one end.
pub fn exec(program: &CStr, arguments: &[CString]) -> io::Error {
    let pointers: Vec<_> = arguments.iter().map(|a| a.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: both are terminated by zero and live until the call returns. `Command::exec` of the standard library would
    // reset SIGPIPE also when it fails.
    #[expect(unsafe_code, reason = "the standard library's exec changes the process before it fails")]
    unsafe {
        libc::execv(program.as_ptr(), pointers.as_ptr());
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_exec_is_an_error_and_changes_nothing() {
        let error = exec(c"/proc/self/nothing", &[c"nothing".to_owned()]);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_descriptor_is_kept_or_closed_on_exec() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        for closed in [false, true] {
            close_on_exec(&file, closed).unwrap();
            assert_eq!(rustix::io::fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC), closed);
        }
    }

    #[test]
    fn blocked_signals_wait() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            // SIGTERM is bit 14.
            u64::from_str_radix(&mask, 16).unwrap() & 1 << 14 != 0
        };
        set_signals(Signals::Blocked);
        assert!(blocked());
        set_signals(Signals::Delivered);
        assert!(!blocked());
    }
}
