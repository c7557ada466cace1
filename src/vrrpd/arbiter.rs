//! Whether the network is there at all: asks some hosts by ARP or neighbour discovery, and hears whether one answers.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::vrrp::announce::question;
use crate::vrrpd::ether::Ether;
use crate::vrrpd::report::Interface;

/// One question under way.
#[derive(Debug)]
pub struct Arbiter {
    ether: Ether,
    targets: Vec<IpAddr>,
}

impl Arbiter {
    /// Asks `targets`, all by the router's interface.
    ///
    /// # Errors
    /// No packet socket, or no Ethernet.
    pub fn ask(interface: &Interface, targets: &[IpAddr]) -> io::Result<Self> {
        let ether = Ether::open_listening(interface.index)?;
        let mac = interface.mac.ok_or(io::ErrorKind::Unsupported)?;
        // Twice: one frame may be lost.
        for target in targets.iter().chain(targets) {
            if let Some(frame) = question(mac, interface.source, *target) {
                ether.send(frame.bytes())?;
            }
        }
        Ok(Self { ether, targets: targets.to_vec() })
    }

    /// Whether one has answered by now.
    pub fn answered(&self) -> bool {
        while let Ok(Some(claim)) = self.ether.hear() {
            if self.targets.contains(&claim.ip) {
                return true;
            }
        }
        false
    }
}

impl AsFd for Arbiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ether.as_fd()
    }
}
