//! Whether the network is there at all: asks some hosts by ARP or neighbour discovery, and hears whether one answers.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::model::{self, VirtualRouter};
use crate::sys::procfs;
use crate::vrrp::Family;
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
    /// Asks the hosts that `config` names, by the router's interface.
    ///
    /// # Errors
    /// No packet socket, or no Ethernet.
    pub fn ask(interface: &Interface, config: &VirtualRouter) -> io::Result<Self> {
        let ether = Ether::open_listening(interface.index)?;
        let mac = interface.mac.ok_or(io::ErrorKind::Unsupported)?;
        // Twice: one frame may be lost.
        let host = |arbiter: &model::Arbiter| match arbiter {
            // Of the kernel's memory, not of a disk.
            model::Arbiter::Gateway => procfs::gateway(&config.interface, config.family == Family::V4),
            model::Arbiter::Host(host) => Some(*host),
        };
        let targets: Vec<IpAddr> = config.arbitrate.iter().filter_map(host).collect();
        for target in targets.iter().chain(&targets) {
            if let Some(frame) = question(mac, interface.source, *target) {
                ether.send(frame.bytes())?;
            }
        }
        Ok(Self { ether, targets })
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
