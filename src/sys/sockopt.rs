//! Socket options that neither rustix nor socket2 offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// IP_BIND_ADDRESS_NO_PORT: `bind` to an address with port 0 leaves the port to `connect`, which chooses it by the whole
/// 4-tuple (ip(7)).
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_bind_address_no_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// SO_TIMESTAMPNS: each datagram comes with the CLOCK_REALTIME of its arrival.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_receive_time(fd: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)
}

/// IPV6_RECVPKTINFO: each datagram comes with its destination and the interface.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_receive_destination_v6(fd: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
}

/// PACKET_IGNORE_OUTGOING: a packet socket of all protocols does not see what this box sends (packet(7)).
///
/// # Errors
/// What setsockopt(2) says; Linux before 4.20 does not know it.
pub fn set_ignore_outgoing(fd: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING)
}

fn switch_on(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of a live `c_int`, which the kernel only reads.
    #[expect(unsafe_code, reason = "no library wraps these options")]
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
