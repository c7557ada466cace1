//! Receiving a datagram together with what the kernel knows about it.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A received datagram; beside `len` each field is there only if the socket is of the right kind and was asked for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes in the buffer.
    pub len: usize,
    /// There were more.
    pub truncated: bool,
    /// Sender's address, of an IPv6 socket. An IPv4 raw socket has it in the header.
    pub source: Option<Ipv6Addr>,
    /// Sender's hardware address, of a packet socket.
    pub hardware_source: Option<[u8; 6]>,
    /// IPv6 destination (IPV6_RECVPKTINFO).
    pub destination: Option<Ipv6Addr>,
    /// Interface it came in by (IPV6_RECVPKTINFO).
    pub ifindex: Option<u32>,
    /// IPv6 hop limit (IPV6_RECVHOPLIMIT).
    pub hop_limit: Option<u8>,
    /// CLOCK_REALTIME of its arrival (SO_TIMESTAMPNS).
    pub received: Option<Duration>,
}

/// The next datagram on `fd`, without waiting.
///
/// # Errors
/// `WouldBlock` when there is none; else what recvmsg(2) says.
pub fn receive(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Datagram> {
    // Large enough for every address and for all that may be switched on; the kernel cuts what does not fit.
    let mut name = Aligned([0; 128]);
    let mut control = Aligned([0; 256]);
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: integers and pointers, for which zero is a value; some C libraries have private padding between them.
    #[expect(unsafe_code, reason = "the structure has no constructor")]
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.0.as_mut_ptr().cast();
    message.msg_namelen = name.0.len() as _;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: each pointer is to a live, exclusively borrowed buffer of the length beside it.
    #[expect(unsafe_code, reason = "no library reads these control messages")]
    let r = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(r).map_err(|_| io::Error::last_os_error())?;

    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    let mut datagram = Datagram { len: len.min(buf.len()), truncated, ..Datagram::default() };
    let name_len = usize::try_from(message.msg_namelen).unwrap_or(0);
    read_name(name.0.get(..name_len).unwrap_or_default(), &mut datagram);
    let control_len = message.msg_controllen as usize;
    read_control(control.0.get(..control_len).unwrap_or_default(), &mut datagram);
    Ok(datagram)
}

/// Control messages begin at multiples of a `usize`.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// Takes the sender from a `sockaddr_in6` or `sockaddr_ll`.
fn read_name(name: &[u8], datagram: &mut Datagram) {
    let Some(family) = name.first_chunk().map(|c| libc::c_int::from(u16::from_ne_bytes(*c))) else { return };
    let field = |at: usize| name.get(at..);
    match family {
        libc::AF_INET6 => datagram.source = field(8).and_then(|f| f.first_chunk::<16>()).map(|c| Ipv6Addr::from(*c)),
        libc::AF_PACKET if name.get(11) == Some(&6) => {
            datagram.hardware_source = field(12).and_then(|f| f.first_chunk()).copied();
        }
        _ => {}
    }
}

/// Takes what is known from a list of `cmsghdr`, each with its data.
fn read_control(mut rest: &[u8], datagram: &mut Datagram) {
    const WORD: usize = size_of::<usize>();
    // cmsg_len, cmsg_level, cmsg_type; the data follows without padding where a word is 4 or 8 bytes long.
    const HEADER: usize = WORD + 8;
    loop {
        let int = |at: usize| rest.get(at..).and_then(|f| f.first_chunk()).map(|c| libc::c_int::from_ne_bytes(*c));
        let Some(len) = rest.first_chunk().map(|c| usize::from_ne_bytes(*c)) else { return };
        let (Some(level), Some(kind), Some(data)) = (int(WORD), int(WORD + 4), rest.get(HEADER..len)) else { return };
        read_one(level, kind, data, datagram);
        let Some(next) = rest.get(len.next_multiple_of(WORD)..) else { return };
        rest = next;
    }
}

fn read_one(level: libc::c_int, kind: libc::c_int, data: &[u8], datagram: &mut Datagram) {
    let after = |at: usize| data.get(at..).and_then(|f| f.first_chunk::<4>()).map(|c| u32::from_ne_bytes(*c));
    match (level, kind) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => datagram.received = read_timespec(data),
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            datagram.hop_limit = after(0).and_then(|limit| u8::try_from(limit).ok());
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            datagram.destination = data.first_chunk::<16>().map(|c| Ipv6Addr::from(*c));
            datagram.ifindex = after(16);
        }
        _ => {}
    }
}

/// A `timespec`, whose two fields have one size: that of a word, or 8 bytes on a 32-bit machine with 64-bit time.
fn read_timespec(data: &[u8]) -> Option<Duration> {
    let (secs, nanos) = match data.len() {
        16 => {
            let (secs, rest) = data.split_first_chunk()?;
            (i64::from_ne_bytes(*secs), i64::from_ne_bytes(*rest.first_chunk()?))
        }
        8 => {
            let (secs, rest) = data.split_first_chunk()?;
            (i32::from_ne_bytes(*secs).into(), i32::from_ne_bytes(*rest.first_chunk()?).into())
        }
        _ => return None,
    };
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(secs).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
        let len = 16 + data.len();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(len.next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn every_prefix_of_a_control_buffer_is_read_without_panicking() {
        let mut control = message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes());
        let mut info = [0xfe; 20];
        info[16..].copy_from_slice(&7_u32.to_ne_bytes());
        control.extend(message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info));
        let stamp: Vec<u8> = [5_i64, 6].iter().flat_map(|n| n.to_ne_bytes()).collect();
        control.extend(message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &stamp));
        for len in 0..control.len() {
            read_control(&control[..len], &mut Datagram::default());
        }
        let mut datagram = Datagram::default();
        read_control(&control, &mut datagram);
        assert_eq!(datagram.hop_limit, Some(255));
        assert_eq!(datagram.ifindex, Some(7));
        assert_eq!(datagram.destination, Some(Ipv6Addr::from([0xfe; 16])));
        assert_eq!(datagram.received, Some(Duration::new(5, 6)));
    }

    #[test]
    fn a_length_that_leads_nowhere_ends_the_list() {
        for len in [0, 1, 15, usize::MAX] {
            let mut control = message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes());
            control[..8].copy_from_slice(&len.to_ne_bytes());
            let mut datagram = Datagram::default();
            read_control(&control, &mut datagram);
            assert_eq!(datagram, Datagram::default());
        }
    }
}
