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

/// SO_PEERGROUPS: the supplementary groups that the peer of a Unix socket had when it connected.
///
/// # Errors
/// What getsockopt(2) says; Linux before 4.13 does not know it.
pub fn peer_groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size =
            libc::socklen_t::try_from(groups.len() * size_of::<libc::gid_t>()).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the pointer is that of a live vector of `size` bytes, of which the kernel writes at most as many, and
        // every value is a gid.
        #[expect(unsafe_code, reason = "no library wraps this option")]
        let r = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = size as usize / size_of::<libc::gid_t>();
        let error = io::Error::last_os_error();
        match (r, error.raw_os_error()) {
            (0, _) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // Then `size` says how many there are.
            (_, Some(libc::ERANGE)) if count > groups.len() => groups.resize(count, 0),
            _ => return Err(error),
        }
    }
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
