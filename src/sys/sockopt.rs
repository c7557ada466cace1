//! Socket options that neither rustix nor socket2 offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// IP_BIND_ADDRESS_NO_PORT: `bind` to an address with port 0 leaves the port to `connect`, which chooses it by the whole
/// 4-tuple (ip(7)).
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_bind_address_no_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of a live `c_int`, which the kernel only reads.
    #[expect(unsafe_code, reason = "no library wraps this option")]
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
