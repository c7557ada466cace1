//! Changes of links and addresses, as they happen.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::message::{Content, messages};
use super::{Address, LARGEST, Link, NetlinkError};

/// A change that [`Monitor`] heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An interface appeared or changed.
    Link(Link),
    /// The interface of this number is gone.
    LinkGone(u32),
    /// An address appeared or changed. IPv6: it receives from now on.
    AddressAdded(Address),
    /// An address is gone.
    AddressRemoved {
        /// Of this interface.
        ifindex: u32,
        /// The address.
        ip: IpAddr,
        /// Bits of its network.
        prefix: u8,
    },
    /// Changes were lost: everything must be asked for anew.
    Overrun,
}

/// Hears of changes of links and addresses, whoever makes them.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buf: Vec<u8>,
    /// Heard, not handed out yet.
    changes: VecDeque<Change>,
}

impl Monitor {
    /// Hears of what changes from now on, in the network namespace of the calling thread. Asking
    /// [`Netlink`](super::Netlink) for what is there after this misses nothing.
    ///
    /// # Errors
    /// No descriptor or memory is left.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            // Best effort: with less, more is asked for anew.
            let _ = sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE);
            let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
            socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Self { socket, buf: Vec::with_capacity(LARGEST), changes: VecDeque::new() })
    }

    /// The next change that waits; `None` when none does. The descriptor may be readable no longer while there are more.
    ///
    /// # Errors
    /// What recv(2) says; the socket stays of use.
    pub fn next_change(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(Some(change));
            }
            self.buf.clear();
            match self.socket.recv(&mut self.buf, libc::MSG_TRUNC) {
                Ok(len) if len > self.buf.len() => return Ok(Some(Change::Overrun)),
                Ok(_) => self.changes.extend(messages(&self.buf).filter_map(|message| change(message.content))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(Change::Overrun)),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Bytes that may wait, by the kernel's reckoning: some hundred changes of links, which are the largest.
const QUEUE: usize = 1 << 20;

fn change(content: Content) -> Option<Change> {
    match content {
        Content::Link(link) => Some(Change::Link(link)),
        Content::LinkGone(index) => Some(Change::LinkGone(index)),
        Content::Address(address) => Some(Change::AddressAdded(address)),
        Content::AddressGone(Address { ifindex, ip, prefix, .. }) => {
            Some(Change::AddressRemoved { ifindex, ip, prefix })
        }
        Content::Route { .. } | Content::Done | Content::Refused { .. } | Content::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrpd::lab::{Host, INTERFACE, Lab, wait};

    /// The first change that `wanted` takes; others are skipped.
    fn heard<T>(monitor: &mut Monitor, wanted: impl Fn(&Change) -> Option<T>) -> T {
        wait(|| monitor.next_change().unwrap().as_ref().and_then(&wanted), "the change")
    }

    fn monitor(host: &Host) -> Monitor {
        let mut monitor = host.run(|| Monitor::open().unwrap());
        while monitor.next_change().unwrap().is_some() {}
        monitor
    }

    #[test]
    fn a_link_that_goes_and_comes_is_heard() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut monitor = monitor(host);
        let running = |wanted| {
            move |change: &Change| match change {
                Change::Link(link) if &*link.name == INTERFACE && link.running == wanted => Some(link.up),
                _ => None,
            }
        };
        for (state, is) in [("down", false), ("up", true)] {
            lab.set_port(1, state);
            assert!(heard(&mut monitor, running(is)), "the carrier went, the switch did not");
        }
        host.ip(&format!("link set {INTERFACE} down"));
        assert!(!heard(&mut monitor, running(false)));
        host.ip(&format!("link set {INTERFACE} up name eth9"));
        heard(&mut monitor, |change| matches!(change, Change::Link(link) if &*link.name == "eth9").then_some(()));
        host.ip("link delete eth9");
        let gone = |change: &Change| if let Change::LinkGone(index) = change { Some(*index) } else { None };
        assert_eq!(heard(&mut monitor, gone), host.ifindex);
    }

    #[test]
    fn an_address_that_somebody_else_adds_or_deletes_is_heard() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut monitor = monitor(host);
        for (address, prefix) in [("192.0.2.100", 24), ("2001:db8::100", 128)] {
            let ip: IpAddr = address.parse().unwrap();
            host.ip(&format!("address add {address}/{prefix} dev {INTERFACE}"));
            let added = |change: &Change| match change {
                Change::AddressAdded(found) if found.ip == ip => Some((found.ifindex, found.prefix, found.tagged)),
                _ => None,
            };
            assert_eq!(heard(&mut monitor, added), (host.ifindex, prefix, false));
            host.ip(&format!("address delete {address}/{prefix} dev {INTERFACE}"));
            let removed = Change::AddressRemoved { ifindex: host.ifindex, ip, prefix };
            heard(&mut monitor, |change| (*change == removed).then_some(()));
        }
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let Some(lab) = Lab::new(1) else { return };
        let mut monitor = lab.in_switch(|| Monitor::open().unwrap());
        lab.set_port(1, "nomaster");
        lab.set_port(1, "alias end");
        let end = |change: &Change| match change {
            Change::LinkGone(index) => panic!("interface {index} is gone"),
            Change::Link(link) => (&*link.name == "port1").then_some(()),
            _ => None,
        };
        for _ in 0..2 {
            heard(&mut monitor, end);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        while let Some(change) = monitor.next_change().unwrap() {
            end(&change);
        }
    }

    #[test]
    fn lost_changes_are_reported_and_later_ones_are_heard() {
        let Some(lab) = Lab::new(1) else { return };
        let host = &lab.hosts[0];
        let mut monitor = monitor(host);
        sockopt::set_socket_recv_buffer_size(&monitor.socket, 1).unwrap();
        for n in 100..110 {
            host.ip(&format!("address add 192.0.2.{n}/32 dev {INTERFACE}"));
        }
        heard(&mut monitor, |change| (*change == Change::Overrun).then_some(()));
        while monitor.next_change().unwrap().is_some() {}
        host.ip(&format!("address delete 192.0.2.109/32 dev {INTERFACE}"));
        heard(&mut monitor, |change| matches!(change, Change::AddressRemoved { .. }).then_some(()));
    }
}
