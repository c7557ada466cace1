//! Ethernet frames in and out of one interface: announcements, and questions with their answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::vrrp::announce::{Claim, Mac};

/// A packet socket of one interface, for ARP and neighbour discovery.
#[derive(Debug)]
pub struct Ether {
    socket: Socket,
}

impl Ether {
    /// One that only sends.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        unimplemented!("{ifindex}")
    }

    /// One that also hears ARP and neighbour advertisements.
    ///
    /// # Errors
    /// As [`Ether::open`].
    pub fn open_listening(ifindex: u32) -> io::Result<Self> {
        unimplemented!("{ifindex}")
    }

    /// The present address of the interface.
    ///
    /// # Errors
    /// It has none: it is no Ethernet, or is gone.
    pub fn mac(&self) -> io::Result<Mac> {
        unimplemented!("{:?}", self.socket)
    }

    /// Sends `frame`, which begins with the Ethernet header.
    ///
    /// # Errors
    /// The interface is down or gone, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        unimplemented!("{:?}{frame:?}", self.socket)
    }

    /// The next claim that waits, of others; `None` when none does.
    ///
    /// # Errors
    /// The interface went down (once; it is heard again when it is up), or is gone.
    pub fn hear(&self) -> io::Result<Option<Claim>> {
        unimplemented!("{:?}", self.socket)
    }
}

impl AsFd for Ether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether this box forwards IPv6 packets that come in by `interface`: what the Router flag of an advertisement says.
pub fn is_router(interface: &str) -> bool {
    unimplemented!("{interface}")
}
