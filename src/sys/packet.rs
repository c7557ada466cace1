//! Packet sockets: whole Ethernet frames of one interface (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Which frames a packet socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// None.
    Nothing,
    /// Those for this box, of every protocol, before anybody else sees them; not its own.
    Everything,
}

/// A nonblocking packet socket that is closed on exec, tied to the interface `ifindex`. What `filter` refuses is never
/// queued, not even while the socket is being made.
///
/// # Errors
/// Without CAP_NET_RAW, or when there is no such interface.
pub fn open(ifindex: u32, hears: Hears, filter: &[SockFilter]) -> io::Result<Socket> {
    // With protocol 0 nothing is received until bind names one.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    let protocol = match hears {
        Hears::Nothing => 0,
        Hears::Everything => {
            super::sockopt::set_ignore_outgoing(socket.as_fd())?;
            libc::ETH_P_ALL as u16
        }
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length are those of a live `sockaddr_ll`, which the kernel only reads.
    #[expect(unsafe_code, reason = "no library makes a `sockaddr_ll`")]
    let r = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if r == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// The present Ethernet address of the interface that the packet socket `fd` is tied to; `None` if it has no such address.
///
/// # Errors
/// What getsockname(2) says.
pub fn hardware_address(fd: BorrowedFd<'_>) -> io::Result<Option<[u8; 6]>> {
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointers are to a live, exclusively borrowed `sockaddr_ll` and to its length.
    #[expect(unsafe_code, reason = "no library reads a `sockaddr_ll`")]
    let r = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    let ethernet = matches!(address.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) && address.sll_halen == 6;
    Ok(if ethernet { address.sll_addr.first_chunk().copied() } else { None })
}
