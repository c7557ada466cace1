//! New connections that arrive while an address moves: their first segments are held, and sent on to the new owner.
//!
//! Before the hold, listeners are made deaf to new connections ([`crate::net::listen::refuse_new_to`]), so that nobody
//! answers what is held. A held client would otherwise wait a second for its own second attempt.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::vrrp::announce::Mac;

/// Frames that are held at most; what comes after is left to the client's second attempt.
pub const MOST_HELD: usize = 4096;

/// Holds TCP connection attempts that come in by one interface for some addresses.
#[derive(Debug)]
pub struct SynTrap {
    socket: Socket,
    addresses: Vec<IpAddr>,
}

impl SynTrap {
    /// Holds from now on what [`SynTrap::collect`] will read.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, when there is no such interface, or with more addresses than a filter can hold (hundreds).
    pub fn open(ifindex: u32, addresses: &[IpAddr]) -> io::Result<Self> {
        unimplemented!("{ifindex} {addresses:?}")
    }

    /// Reads what has come; to be called whenever the descriptor is readable. Returns how many frames are held.
    ///
    /// # Errors
    /// The interface is down or gone; what is held stays.
    pub fn collect(&mut self) -> io::Result<usize> {
        unimplemented!("{:?} {:?}", self.socket, self.addresses)
    }

    /// Forgets what is held, and what has come until now.
    pub fn discard(&mut self) {
        unimplemented!()
    }

    /// Who announced one of the addresses since the trap was opened, by what was collected: the last one.
    pub fn seen_announcement(&self) -> Option<Mac> {
        unimplemented!()
    }

    /// Sends what is held on to `to`, and holds it no longer. Returns how many frames went out; `WouldBlock` is no error but
    /// leaves the rest for the next call.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn resend(&mut self, to: Mac) -> io::Result<usize> {
        unimplemented!("{to}")
    }
}

impl AsFd for SynTrap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
