//! Advertisements on the wire: IP protocol 112, heard from and sent to one interface.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::net::clock;
use crate::net::filter::{Filter, NETWORK};
use crate::sys::datagram::{self, Datagram};
use crate::sys::sockopt::{set_receive_destination_v6, set_receive_time};
use crate::time::Micros;
use crate::vrrp::Family;
use crate::vrrp::packet::{Envelope, GROUP_V4, GROUP_V6, PROTOCOL, TTL};

/// Bytes of a buffer for [`Receiver::recv`]: of what is longer than an advertisement can be, the beginning is enough.
pub const LONGEST: usize = 8192;

/// A received packet of protocol 112; nothing of it has been checked but its IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<'a> {
    /// Sender.
    pub source: IpAddr,
    /// The group, or an address of this box.
    pub destination: IpAddr,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// When the kernel received it.
    pub at: Micros,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl Heard<'_> {
    /// What its IP header says.
    pub fn envelope(&self) -> Envelope {
        Envelope { source: self.source, destination: self.destination, ttl: self.ttl }
    }
}

/// Hears the advertisements of one family that come in by one interface, multicast and unicast.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
    family: Family,
    /// No packet that is still to be read arrived before this moment.
    empty_at: Cell<Micros>,
}

impl Receiver {
    /// Opens and joins the group.
    ///
    /// The socket belongs to the interface, not to its name: one that is deleted and made anew needs a new receiver. If it
    /// is the first socket of the box that wants times of arrival, the kernel begins to note them some milliseconds later;
    /// until then the time of a packet is that at which it is read.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface, or it has no IPv6.
    pub fn open(interface: &str, ifindex: u32, family: Family) -> io::Result<Self> {
        let empty_at = Cell::new(clock::micros());
        let socket = open(interface, family)?;
        // What arrives while the thread is held up must not be lost: a backup that misses adverts takes over. Beyond
        // the system's limit with CAP_NET_ADMIN only.
        if sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE).is_err() {
            socket.set_recv_buffer_size(QUEUE)?;
        }
        set_receive_time(socket.as_fd())?;
        match family {
            Family::V4 => {
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(ifindex))?;
            }
            Family::V6 => {
                socket.set_recv_hoplimit_v6(true)?;
                set_receive_destination_v6(socket.as_fd())?;
                // IPV6_MULTICAST_ALL is of no effect on a raw socket that is bound to no address.
                socket.attach_filter(no_other_group().program())?;
                socket.join_multicast_v6(&GROUP_V6, ifindex)?;
            }
        }
        Ok(Self { socket, family, empty_at })
    }

    /// The next packet that waits; `None` when none does.
    ///
    /// # Errors
    /// `InvalidData` for a packet that is no whole IP packet of protocol 112: it is gone, the next one may be asked for.
    /// Else what recvmsg(2) says; the socket stays of use.
    pub fn recv<'a>(&self, buf: &'a mut [u8]) -> io::Result<Option<Heard<'a>>> {
        let before = clock::micros();
        let datagram = match datagram::receive(self.socket.as_fd(), buf) {
            Ok(datagram) => datagram,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.empty_at.set(before);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let at = arrival(datagram.received, realtime(), clock::micros(), self.empty_at.get());
        let bytes = buf.get(..datagram.len).filter(|_| !datagram.truncated);
        let heard = bytes.and_then(|bytes| match self.family {
            Family::V4 => read_v4(bytes, at),
            Family::V6 => read_v6(bytes, &datagram, at),
        });
        heard.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends the advertisements of one source address by one interface.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    ifindex: u32,
    source: IpAddr,
}

impl Sender {
    /// Opens.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface or `source` is not an address of it.
    pub fn open(interface: &str, ifindex: u32, source: IpAddr) -> io::Result<Self> {
        let socket = open(interface, Family::of(source))?;
        // A raw socket of a protocol receives that protocol: this one shall not queue what nobody reads.
        socket.attach_filter(Filter::new().refuse().program())?;
        match source {
            IpAddr::V4(_) => {
                socket.set_ttl_v4(TTL.into())?;
                socket.set_multicast_ttl_v4(TTL.into())?;
                socket.set_tos_v4(INTERNETWORK_CONTROL)?;
                socket.set_multicast_loop_v4(false)?;
                // Clears the DF bit, and with it the kernel gives each packet an identification, as keepalived does.
                sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
                sockopt::set_ip_multicast_if_with_ifindex(
                    &socket,
                    &Ipv4Addr::UNSPECIFIED,
                    &Ipv4Addr::UNSPECIFIED,
                    ifindex,
                )?;
            }
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(TTL.into())?;
                socket.set_multicast_hops_v6(TTL.into())?;
                socket.set_tclass_v6(INTERNETWORK_CONTROL)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_if_v6(ifindex)?;
            }
        }
        // After the type of service, which sets it too.
        socket.set_priority(PRIORITY)?;
        socket.bind(&address(source, ifindex).into())?;
        Ok(Self { socket, ifindex, source })
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Sends `payload`, whose checksum is the caller's, to the group or to one peer; never waits.
    ///
    /// # Errors
    /// What sendto(2) says: the interface is down, the peer is unreachable, the queue is full, a firewall refuses it.
    pub fn send(&self, payload: &[u8], destination: IpAddr) -> io::Result<()> {
        // All or nothing: it is one packet.
        self.socket.send_to(payload, &address(destination, self.ifindex).into()).map(drop)
    }
}

/// Differentiated services field, class selector 6, as keepalived sends it.
const INTERNETWORK_CONTROL: u32 = 0xc0;
/// Of the queues between us and the wire: the first band; 802.1p where a VLAN maps it. The highest without a privilege.
const PRIORITY: u32 = 6;
/// Bytes of the receive queue: some thousand packets with what the kernel reckons for each.
const QUEUE: usize = 2 << 20;

fn open(interface: &str, family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::from(i32::from(PROTOCOL))))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// Refuses what goes to other groups of IPv6 that this box is in.
fn no_other_group() -> Filter {
    let destination = NETWORK.wrapping_add(24);
    let to_group = Filter::new().when_ipv6_among(destination, &[GROUP_V6.into()], Filter::new().keep()).refuse();
    Filter::new().byte(destination).when(0xff, to_group).keep()
}

fn address(ip: IpAddr, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, 0),
        // The interface of a link-local address or group; of no meaning for others.
        IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, ifindex).into(),
    }
}

/// CLOCK_REALTIME since its epoch.
fn realtime() -> Duration {
    let now = clock_gettime(ClockId::Realtime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// When a packet arrived that the kernel stamped with `stamp`, by the monotonic clock, which is `now` when the other is
/// `realtime`.
///
/// The clock of the stamps jumps when somebody sets it: the packet is neither of the future, nor from before the last time
/// that the queue was `empty_at`.
fn arrival(stamp: Option<Duration>, realtime: Duration, now: Micros, empty_at: Micros) -> Micros {
    let age = stamp.map_or(Duration::ZERO, |stamp| realtime.saturating_sub(stamp));
    now.before(age).max(empty_at).min(now)
}

/// The kernel hands out IPv4 packets with their header, whole (defragmented) and of the length that it checked; all of it
/// is looked at nevertheless.
fn read_v4(packet: &[u8], at: Micros) -> Option<Heard<'_>> {
    let header = packet.first_chunk::<20>()?;
    let [first, _, length_high, length_low, _, _, fragment_high, fragment_low, ttl, PROTOCOL, _, _, addresses @ ..] =
        header
    else {
        return None;
    };
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    let header_len = usize::from(first & 0xf) * 4;
    let fragment = u16::from_be_bytes([*fragment_high, *fragment_low]);
    // More fragments follow, or this is not the first.
    if first >> 4 != 4 || header_len < 20 || fragment & 0x3fff != 0 {
        return None;
    }
    // Not to the end of what was received: short frames are padded.
    let payload = packet.get(header_len..usize::from(u16::from_be_bytes([*length_high, *length_low])))?;
    let source = Ipv4Addr::new(*s0, *s1, *s2, *s3).into();
    let destination = Ipv4Addr::new(*d0, *d1, *d2, *d3).into();
    Some(Heard { source, destination, ttl: *ttl, at, payload })
}

/// The kernel takes the IPv6 header off.
fn read_v6<'a>(payload: &'a [u8], datagram: &Datagram, at: Micros) -> Option<Heard<'a>> {
    let (source, destination) = (datagram.source?.into(), datagram.destination?.into());
    Some(Heard { source, destination, ttl: datagram.hop_limit?, at, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::vrrpd::lab::{Host, INTERFACE, Lab, wait};

    fn receiver(host: &Host, family: Family) -> Receiver {
        host.run(|| Receiver::open(INTERFACE, host.ifindex, family).unwrap())
    }

    fn sender(host: &Host, source: IpAddr) -> Sender {
        host.run(|| Sender::open(INTERFACE, host.ifindex, source).unwrap())
    }

    /// Whether something waits at `receiver` within `limit`.
    fn readable(receiver: &Receiver, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap();
        poll(&mut [PollFd::new(receiver, PollFlags::IN)], Some(&limit)).unwrap() > 0
    }

    fn heard<'a>(receiver: &Receiver, buf: &'a mut [u8]) -> Heard<'a> {
        assert!(readable(receiver, Duration::from_secs(5)), "nothing is heard");
        receiver.recv(buf).unwrap().unwrap()
    }

    /// Whether the kernel has begun to note times of arrival.
    fn notes_times(receiver: &Receiver, send: impl Fn()) -> Option<()> {
        send();
        let sent = clock::micros();
        std::thread::sleep(Duration::from_millis(10));
        (heard(receiver, &mut [0; 2048]).at.since(sent) < Duration::from_millis(5)).then_some(())
    }

    #[test]
    fn what_is_sent_is_heard_with_its_time_and_its_255_hops() {
        let Some(lab) = Lab::new(2) else { return };
        let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
        let cases = [
            (one.v4(), two.v4(), GROUP_V4.into()),
            (one.link_local(), two.link_local(), GROUP_V6.into()),
            (one.v6(), two.v6(), GROUP_V6.into()),
        ];
        for (source, peer, group) in cases {
            let (own, receiver) = (receiver(one, Family::of(source)), receiver(two, Family::of(source)));
            let sender = sender(one, source);
            assert_eq!(sender.source(), source);
            wait(|| notes_times(&receiver, || sender.send(b"a first advert", group).unwrap()), "times of arrival");
            for destination in [group, peer] {
                let mut buf = [0; 2048];
                assert_eq!(receiver.recv(&mut buf).unwrap(), None);
                let before = clock::micros();
                sender.send(b"an advert", destination).unwrap();
                let sent = clock::micros();
                // What waits is as old as it is.
                std::thread::sleep(Duration::from_millis(50));
                let heard = heard(&receiver, &mut buf);
                assert_eq!(
                    Heard { at: sent, ..heard },
                    Heard { source, destination, ttl: 255, at: sent, payload: b"an advert" }
                );
                assert!(heard.at >= before && heard.at.since(sent) < Duration::from_millis(40), "{before:?} {heard:?}");
                assert_eq!(receiver.recv(&mut buf).unwrap(), None);
            }
            assert!(!readable(&own, Duration::from_millis(20)), "the sender hears itself");
        }
    }

    #[test]
    fn packets_are_internetwork_control_and_may_be_fragmented() {
        let Some(lab) = Lab::new(2) else { return };
        let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
        let receiver = receiver(two, Family::V4);
        let sender = sender(one, one.v4());
        for destination in [GROUP_V4.into(), two.v4()] {
            sender.send(b"an advert", destination).unwrap();
            assert!(readable(&receiver, Duration::from_secs(5)));
            let mut packet = [0; 64];
            let datagram = datagram::receive(receiver.as_fd(), &mut packet).unwrap();
            assert_eq!((datagram.len, packet[1]), (29, 0xc0));
            assert_eq!(packet[6] & 0x40, 0, "DF is set");
        }
    }

    #[test]
    fn other_groups_are_not_heard_even_when_the_box_is_in_them() {
        let Some(lab) = Lab::new(2) else { return };
        let [one, two] = &lab.hosts[..] else { panic!("two hosts") };
        let cases = [(one.v4(), "224.0.0.19"), (one.link_local(), "ff02::13")];
        for (source, group) in cases {
            let receiver = receiver(two, Family::of(source));
            let group: IpAddr = group.parse().unwrap();
            let _member = two.run(|| {
                let member = Socket::new(Domain::for_address(address(group, 0)), Type::DGRAM, None).unwrap();
                match group {
                    IpAddr::V4(group) => {
                        member.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(two.ifindex)).unwrap();
                    }
                    IpAddr::V6(group) => member.join_multicast_v6(&group, two.ifindex).unwrap(),
                }
                member
            });
            sender(one, source).send(b"an advert", group).unwrap();
            assert!(!readable(&receiver, Duration::from_millis(20)), "{group} is heard");
        }
    }

    #[test]
    fn a_source_of_another_box_is_an_error() {
        let Some(lab) = Lab::new(1) else { return };
        for source in ["192.0.2.77", "fe80::77"] {
            let host = &lab.hosts[0];
            let error = host.run(|| Sender::open(INTERFACE, host.ifindex, source.parse().unwrap()).unwrap_err());
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    #[test]
    fn jumps_of_the_wall_clock_do_no_harm() {
        let secs = Duration::from_secs;
        let (now, empty_at) = (Micros(100_000_000), Micros(90_000_000));
        let at = |stamp| arrival(stamp, secs(1000), now, empty_at);
        assert_eq!(at(Some(secs(1000))), now);
        assert_eq!(at(Some(secs(997))), Micros(97_000_000));
        assert_eq!(at(Some(secs(500))), empty_at, "the clock went forward");
        assert_eq!(at(Some(secs(2000))), now, "the clock went back");
        assert_eq!(at(None), now);
    }

    /// A packet with some options in its header, and padded.
    fn packet(options: u8) -> Vec<u8> {
        let mut packet = vec![0x45 + options, 0xc0, 0, 23 + 4 * options, 0, 1, 0, 0, 254, 112, 0, 0];
        packet.extend([192, 0, 2, 11, 224, 0, 0, 18]);
        packet.resize(20 + 4 * usize::from(options), 1);
        packet.extend([1, 2, 3]);
        packet.resize(46, 0);
        packet
    }

    #[test]
    fn padding_and_options_are_no_payload() {
        for options in 0..4 {
            let packet = packet(options);
            let heard = read_v4(&packet, Micros(7)).unwrap();
            assert_eq!(
                heard,
                Heard {
                    source: [192, 0, 2, 11].into(),
                    destination: GROUP_V4.into(),
                    ttl: 254,
                    at: Micros(7),
                    payload: &[1, 2, 3],
                }
            );
        }
    }

    #[test]
    fn what_is_no_whole_packet_of_the_protocol_is_malformed() {
        // Version, header length, total length, fragment offset, more fragments, protocol.
        let faults = [(0, 0x65), (0, 0x44), (0, 0x4f), (2, 1), (3, 19), (3, 47), (6, 0x20), (7, 1), (9, 113)];
        for (at, value) in faults {
            let mut packet = packet(0);
            packet[at] = value;
            assert_eq!(read_v4(&packet, Micros(7)), None, "byte {at} is {value:#x}");
        }
        assert!(read_v4(&packet(0)[..23], Micros(7)).is_some());
        assert_eq!(read_v4(&packet(0)[..22], Micros(7)), None);
    }

    proptest! {
        #[test]
        fn no_packet_panics(mut packet in prop::collection::vec(any::<u8>(), 0..80), likely in any::<bool>()) {
            if likely && packet.len() > 20 {
                packet[0] = 0x40 | packet[0] & 0xf;
                packet[2] = 0;
                packet[9] = 112;
            }
            read_v4(&packet, Micros(0));
        }
    }
}
