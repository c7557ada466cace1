//! New connections that arrive while an address moves: their first segments are held, and sent on to the new owner.
//!
//! A client that nobody answers tries again after a second; held, it waits for as long as the move takes.
//!
//! Listeners are made deaf first ([`crate::net::listen::refuse_new_to`]), then the trap is opened. The other way round a client
//! could be answered here and be sent on too: then the new owner resets the connection that it has with us.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::util::{ipv4_checksum, ipv6_checksum};
use rustix::net::sockopt;
use socket2::Socket;

use crate::net::filter::{Filter, PACKET_TYPE};
use crate::sys::datagram;
use crate::sys::packet::{self, Hears};
use crate::vrrp::announce::{Mac, claim};
use crate::vrrpd::ether::{keep_claims_and, mac, send_frame};

/// Frames that are held at most; what comes after is left to the client's second attempt.
pub const MOST_HELD: usize = 4096;

/// Holds TCP connection attempts that come in by one interface for some addresses.
#[derive(Debug)]
pub struct SynTrap {
    socket: Socket,
    addresses: Vec<IpAddr>,
    /// Of the interface.
    mac: Mac,
    /// Held, one after the other.
    bytes: Vec<u8>,
    /// Where each of them is.
    frames: Vec<Range<usize>>,
    announced: Option<Mac>,
}

impl SynTrap {
    /// Holds from now on what [`SynTrap::collect`] will read.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, when there is no such interface or it is no Ethernet, or with more addresses than a filter can
    /// hold (hundreds).
    pub fn open(ifindex: u32, addresses: &[IpAddr]) -> io::Result<Self> {
        let socket = packet::open(ifindex, Hears::Everything, filter(addresses).program())?;
        // Best effort: with less, a burst loses some of what the clients send again.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE);
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, QUEUE);
        let mac = mac(&socket)?;
        let addresses = addresses.to_vec();
        Ok(Self { socket, addresses, mac, bytes: Vec::new(), frames: Vec::new(), announced: None })
    }

    /// Reads what has come; to be called whenever the descriptor is readable. Returns how many frames are held.
    ///
    /// # Errors
    /// The interface is down or gone; what is held stays.
    pub fn collect(&mut self) -> io::Result<usize> {
        // Twice what is held at most, for the announcements among them: a flood shall not keep the caller's thread.
        for _ in 0..2 * MOST_HELD {
            let mut frame = [0; LONGEST];
            let datagram = match datagram::receive(self.socket.as_fd(), &mut frame) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            let Some(frame) = frame.get(..datagram.len).filter(|_| !datagram.truncated) else { continue };
            match (claim(frame), segment(frame)) {
                (Some(claim), _) if self.addresses.contains(&claim.ip) && claim.mac != self.mac => {
                    self.announced = Some(claim.mac);
                }
                (None, Some(segment)) if self.frames.len() < MOST_HELD => {
                    let begin = self.bytes.len();
                    // Without the padding.
                    self.bytes.extend(frame.iter().take(segment.place.end));
                    self.frames.push(begin..self.bytes.len());
                }
                _ => {}
            }
        }
        Ok(self.frames.len())
    }

    /// Forgets what is held, and what has come until now.
    pub fn discard(&mut self) {
        // On an interface that is gone nothing more comes.
        let _ = self.collect();
        self.frames.clear();
        self.bytes.clear();
    }

    /// Who announced one of the addresses since the trap was opened, by what was collected: the last one.
    pub fn seen_announcement(&self) -> Option<Mac> {
        self.announced
    }

    /// Sends what is held on to `to`, and holds it no longer. Returns how many frames are still held because the interface
    /// takes no more at present.
    ///
    /// # Errors
    /// The interface is down or gone; what was not sent is still held.
    pub fn resend(&mut self, to: Mac) -> io::Result<usize> {
        let mut sent = 0;
        let mut result = Ok(());
        for place in &self.frames {
            let Some(frame) = self.bytes.get_mut(place.clone()) else { break };
            // Only whole segments are held.
            let _ = readdress(frame, self.mac, to);
            result = send_frame(&self.socket, frame);
            if result.is_err() {
                break;
            }
            sent += 1;
        }
        self.frames.drain(..sent);
        if self.frames.is_empty() {
            self.bytes.clear();
        }
        match result {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock && e.raw_os_error() != Some(libc::ENOBUFS) => Err(e),
            _ => Ok(self.frames.len()),
        }
    }
}

impl AsFd for SynTrap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A segment with all options and the data of TCP Fast Open fits; nothing longer begins a connection.
const LONGEST: usize = 2048;
/// Bytes of the socket's queues, by the kernel's reckoning, which adds about 1 KiB to each frame.
const QUEUE: usize = 8 << 20;

const ETHERNET: usize = 14;
const TCP: u8 = 6;

/// Keeps the beginnings of connections to `addresses`, and claims.
fn filter(addresses: &[IpAddr]) -> Filter {
    const IPV4: u32 = 14;
    const IPV6: u32 = 14;
    const FRAGMENT_OFFSET: u32 = 0x1fff;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const TO_THIS_BOX: u32 = 0;
    let keep = Filter::new().keep();
    // In promiscuous mode what others get comes by too, such as what was sent on to the new owner.
    let begins = |flags: Filter| flags.and(SYN | ACK).require(SYN).byte(PACKET_TYPE).require(TO_THIS_BOX);
    let whole = Filter::new()
        .byte(IPV4 + 9)
        .require(TCP.into())
        .half(IPV4 + 6)
        .when_any_bit(FRAGMENT_OFFSET, Filter::new().refuse());
    let v4 = begins(whole.byte_after_ipv4(IPV4, FLAGS)).when_ipv4_among(IPV4 + 16, addresses, keep).refuse();
    let v6 = begins(Filter::new().require(TCP.into()).byte(IPV6 + 40 + FLAGS));
    keep_claims_and(v4, v6.when_ipv6_among(IPV6 + 24, addresses, Filter::new().keep()).refuse())
}

/// A TCP segment in a frame.
struct Segment {
    place: Range<usize>,
    source: IpAddr,
    destination: IpAddr,
}

/// The segment in `frame`, by the lengths of its headers; `None` when there is no whole one.
fn segment(frame: &[u8]) -> Option<Segment> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
    let segment = match ethernet {
        [.., 0x08, 0x00] => {
            let header = packet.first_chunk::<20>()?;
            let [first, _, length_high, length_low, .., TCP, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header else {
                return None;
            };
            let begin = usize::from(first & 0xf) * 4;
            let end = usize::from(u16::from_be_bytes([*length_high, *length_low]));
            let source = Ipv4Addr::new(*s0, *s1, *s2, *s3).into();
            let destination = Ipv4Addr::new(*d0, *d1, *d2, *d3).into();
            Segment { place: ETHERNET + begin..ETHERNET + end, source, destination }
        }
        [.., 0x86, 0xdd] => {
            let header = packet.first_chunk::<40>()?;
            let [_, _, _, _, length_high, length_low, TCP, _, addresses @ ..] = header else { return None };
            let (source, destination) = addresses.split_first_chunk::<16>()?;
            let destination = Ipv6Addr::from(*destination.first_chunk::<16>()?).into();
            let end = 40 + usize::from(u16::from_be_bytes([*length_high, *length_low]));
            let source = Ipv6Addr::from(*source).into();
            Segment { place: ETHERNET + 40..ETHERNET + end, source, destination }
        }
        _ => return None,
    };
    frame.get(segment.place.clone()).filter(|tcp| tcp.len() >= 20)?;
    Some(segment)
}

/// Makes `frame` one from `own` to `to`. The client's address would teach switches that the client is here.
///
/// The checksum is reckoned anew: from a client on the same machine (veth, virtio) it comes unfinished, for the hardware
/// that is not there to complete, and a packet socket passes it on as it is.
fn readdress(frame: &mut [u8], own: Mac, to: Mac) -> Option<()> {
    let Segment { place, source, destination } = segment(frame)?;
    let tcp = frame.get_mut(place)?;
    // The word at byte 16 is the checksum.
    let sum = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ipv4_checksum(tcp, 8, &[], &s, &d, IpNextHeaderProtocols::Tcp),
        (IpAddr::V6(s), IpAddr::V6(d)) => ipv6_checksum(tcp, 8, &[], &s, &d, IpNextHeaderProtocols::Tcp),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    tcp.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
    let (destination, rest) = frame.split_first_chunk_mut()?;
    *destination = to.0;
    *rest.first_chunk_mut()? = own.0;
    Some(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::num::NonZeroUsize;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::config::model::VirtualAddress;
    use crate::net::listen::{self, Options, accept_new, refuse_new_to};
    use crate::vrrp::announce::announcement;
    use crate::vrrpd::lab::{Host, INTERFACE, Lab, wait};
    use crate::vrrpd::{Ether, Netlink};

    const ADDRESSES: [&str; 2] = ["192.0.2.100", "2001:db8::100"];
    const PORT: u16 = 8080;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn listeners(host: &Host) -> Vec<TcpListener> {
        let shards = NonZeroUsize::new(1).unwrap();
        let options = Options { backlog: 64, keepalive: None, freebind: true, shards, joins: false };
        let bind = |address| listen::bind(&"web".into(), SocketAddr::new(ip(address), PORT), &options).unwrap();
        host.run(|| ADDRESSES.iter().flat_map(|address| bind(address)).collect())
    }

    /// Puts the addresses on `host`, ready to receive.
    fn add_addresses(host: &Host) {
        let mut netlink = host.run(|| Netlink::open().unwrap());
        for ip in ADDRESSES.map(ip) {
            let prefix = if ip.is_ipv4() { 32 } else { 128 };
            let address = VirtualAddress { ip, prefix, interface: INTERFACE.into(), label: None };
            netlink.add(&address, host.ifindex).unwrap();
        }
        assert!(netlink.await_reception(&ADDRESSES.map(ip), host.ifindex, Duration::from_secs(5)).unwrap());
    }

    fn connect(host: &Host, address: &str) -> io::Result<TcpStream> {
        // Less than a client waits before it tries again.
        host.run(|| TcpStream::connect_timeout(&SocketAddr::new(ip(address), PORT), Duration::from_millis(900)))
    }

    #[test]
    fn a_connection_that_begins_while_the_address_moves_is_answered_by_the_new_owner() {
        let Some(lab) = Lab::new(3) else { return };
        let [client, old, new] = &lab.hosts[..] else { panic!("three hosts") };
        let (old_listeners, new_listeners) = (listeners(old), listeners(new));
        add_addresses(old);
        // Both are in the client's neighbour table, and the trap is not confused by what came before.
        ADDRESSES.iter().for_each(|address| drop(connect(client, address).unwrap()));
        let list = ADDRESSES.map(ip);
        old_listeners.iter().for_each(|listener| refuse_new_to(listener, &list).unwrap());
        let mut trap = old.run(|| SynTrap::open(old.ifindex, &list).unwrap());
        assert_eq!(trap.collect().unwrap(), 0);

        std::thread::scope(|scope| {
            let started = Instant::now();
            let clients: Vec<_> =
                (0..6).map(|n| scope.spawn(move || connect(client, ADDRESSES[n % 2]).unwrap())).collect();
            wait(|| (trap.collect().unwrap() == 6).then_some(()), "six segments");
            assert_eq!(trap.seen_announcement(), None);

            add_addresses(new);
            let ether = new.run(|| Ether::open(new.ifindex).unwrap());
            list.iter().for_each(|ip| ether.send(announcement(Mac(new.mac()), *ip, false).bytes()).unwrap());
            let seen = || {
                trap.collect().unwrap();
                trap.seen_announcement()
            };
            let owner = wait(seen, "the announcement");
            assert_eq!(owner, Mac(new.mac()));
            ADDRESSES.iter().for_each(|address| old.ip(&format!("address del {address} dev {INTERFACE}")));
            assert_eq!(trap.resend(owner).unwrap(), 0);
            let streams: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
            assert!(started.elapsed() < Duration::from_millis(900), "the clients had to try again");
            for _ in 0..3 {
                for listener in &new_listeners {
                    let peer = wait(|| listener.accept().ok(), "the connection").1;
                    assert!(streams.iter().any(|stream| stream.local_addr().unwrap() == peer));
                }
            }
        });
        // One connection each, from before the hold.
        assert!(old_listeners.iter().all(|listener| listener.accept().is_ok() && listener.accept().is_err()));
        assert_eq!(trap.resend(Mac(new.mac())).unwrap(), 0);
        old_listeners.iter().for_each(|listener| accept_new(listener).unwrap());
    }

    #[test]
    fn only_beginnings_of_connections_to_the_addresses_are_held() {
        let Some(lab) = Lab::new(2) else { return };
        let [client, host] = &lab.hosts[..] else { panic!("two hosts") };
        add_addresses(host);
        host.ip(&format!("address add 192.0.2.101 dev {INTERFACE}"));
        let listeners = listeners(host);
        let mut trap = host.run(|| SynTrap::open(host.ifindex, &[ip(ADDRESSES[0])]).unwrap());
        for (address, held) in [(ADDRESSES[0], 1), (ADDRESSES[1], 1), (ADDRESSES[0], 2)] {
            let mut stream = connect(client, address).unwrap();
            stream.write_all(b"hello").unwrap();
            drop(stream);
            assert_eq!(trap.collect().unwrap(), held);
        }
        assert_eq!(connect(client, "192.0.2.101").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // What this box begins is no business of the trap either.
        let out = host.run(|| TcpStream::connect(SocketAddr::new(ip(ADDRESSES[0]), PORT)).unwrap());
        drop((out, listeners));
        assert_eq!(trap.collect().unwrap(), 2);
    }

    #[test]
    fn hundreds_of_addresses_fit_a_filter() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let addresses: Vec<_> = (0..200_u16).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, n])).collect();
        host.run(|| SynTrap::open(host.ifindex, &addresses).unwrap());
    }

    fn frame(v6: bool) -> Vec<u8> {
        let (kind, header): (&[u8], &[u8]) = match v6 {
            false => (&[8, 0], &[0x46, 0, 0, 44, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 100, 1, 1, 1, 1]),
            true => (&[0x86, 0xdd], &[0x60, 0, 0, 0, 0, 20, 6, 64]),
        };
        let mut frame = [&[1; 12], kind, header].concat();
        if v6 {
            frame.extend([0xfe; 32]);
        }
        frame.extend([0x30, 0x39, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0x12, 0x34, 0, 0]);
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn a_frame_goes_from_us_to_the_new_owner_with_a_whole_checksum() {
        let (own, to) = (Mac([2; 6]), Mac([4; 6]));
        for v6 in [false, true] {
            let mut frame = frame(v6);
            let before = frame.clone();
            readdress(&mut frame, own, to).unwrap();
            assert_eq!(frame[..12], [[4; 6], [2; 6]].concat());
            let place = segment(&frame).unwrap().place;
            assert_eq!((place.len(), place.end), (20, frame.len() - 4), "without the padding");
            assert_eq!(frame[12..place.start + 16], before[12..place.start + 16]);
            // The sum over pseudo-header and segment, checksum included, is zero when complemented.
            let addresses = place.start - if v6 { 32 } else { 12 }..place.start - if v6 { 0 } else { 4 };
            let words = [&frame[addresses], &[0, 6, 0, 20], &frame[place]].concat();
            let total: u32 = words.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            assert_eq!((total & 0xffff) + (total >> 16), 0xffff);
        }
    }

    proptest! {
        #[test]
        fn no_frame_panics(v6 in any::<bool>(), len in 0_usize..90, at in 0_usize..90, value in any::<u8>()) {
            let mut frame = frame(v6);
            frame.truncate(len);
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            readdress(&mut frame, Mac([2; 6]), Mac([4; 6]));
        }
    }
}
