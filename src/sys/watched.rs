//! A descriptor that tokio watches only once asked to.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open descriptor and, from the first [`Watched::watch`] on, its place in the runtime's epoll set.
#[derive(Debug)]
pub struct Watched {
    // Declared, and so dropped, before the descriptor.
    registered: OnceCell<AsyncFd<Number>>,
    fd: OwnedFd,
}

/// The number of the descriptor that the `Watched` around it owns.
#[derive(Debug)]
pub struct Number(RawFd);

impl AsRawFd for Number {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Watched {
    /// Takes a nonblocking descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self { registered: OnceCell::new(), fd }
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Its registration, if it has one.
    pub fn registered(&self) -> Option<&AsyncFd<Number>> {
        self.registered.get()
    }

    /// Its registration, made now if there is none.
    ///
    /// # Errors
    /// When the kernel has no room for one more watch.
    pub fn watch(&self) -> io::Result<&AsyncFd<Number>> {
        if let Some(w) = self.registered.get() {
            return Ok(w);
        }
        // SAFETY: `fd` is owned by the same value, never replaced or handed out, and dropped after `registered`; the
        // number therefore names this open file for as long as the registration lives.
        #[expect(unsafe_code, reason = "tokio cannot see that the descriptor outlives the registration beside it")]
        let w = unsafe {
            AsyncFd::register_with_interest(Number(self.fd.as_raw_fd()), Interest::READABLE | Interest::WRITABLE)
        }
        .map_err(|e| e.into_parts().1)?;
        Ok(self.registered.get_or_init(|| w))
    }
}
