//! Links and addresses of the box, by rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use netlink_sys::Socket;

use crate::config::model::VirtualAddress;
use crate::vrrp::Family;
use crate::vrrp::announce::Mac;

/// Marks our addresses (IFA_PROTO, Linux 5.18 and later; older kernels ignore it).
pub const TAG: u8 = 0xb5;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, for as long as it exists.
    pub index: u32,
    /// Its name, which may change.
    pub name: Arc<str>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Switched on by the administrator.
    pub up: bool,
    /// Switched on, with a carrier, and usable (IFF_RUNNING).
    pub running: bool,
    /// Largest packet.
    pub mtu: u32,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// IPv4: the interface's name, or one that begins with it.
    pub label: Option<Arc<str>>,
    /// Put there by us or an earlier process of ours ([`TAG`]).
    pub tagged: bool,
    /// IPv4: not the first of its network, never used as source.
    pub secondary: bool,
    /// IPv6: not used as source while there is another.
    pub deprecated: bool,
    /// IPv6: cannot be used yet, or is a duplicate.
    pub tentative: bool,
}

/// What [`Netlink::add`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The address was not there, and is now.
    New,
    /// It was there already, put by an earlier process of ours: it is ours to remove.
    Ours,
    /// It was there already, put by somebody else: it is not ours to remove.
    Adopted,
}

/// What [`Netlink::remove`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The address was there, and is not any more.
    Removed,
    /// It was gone already, or its interface is.
    Absent,
}

/// A request that failed.
#[derive(Debug)]
pub enum NetlinkError {
    /// No socket.
    Socket(io::Error),
}

/// Asks and orders; each call waits for the kernel's answer, which comes at once.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No descriptor or memory is left.
    pub fn open() -> Result<Self, NetlinkError> {
        unimplemented!()
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel refuses, or its answer cannot be read.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        unimplemented!("{:?} {}", self.socket, self.sequence)
    }

    /// All addresses.
    ///
    /// # Errors
    /// As [`Netlink::links`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        unimplemented!()
    }

    /// The addresses that we or an earlier process of ours put there.
    ///
    /// # Errors
    /// As [`Netlink::links`].
    pub fn addresses_tagged(&mut self) -> Result<Vec<Address>, NetlinkError> {
        unimplemented!()
    }

    /// Puts `address` on the interface `ifindex`.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, when there is no such interface, it has no IPv6, or the label is not of it.
    pub fn add(&mut self, address: &VirtualAddress, ifindex: u32) -> Result<Added, NetlinkError> {
        unimplemented!("{address:?} {ifindex}")
    }

    /// Takes `ip` off the interface `ifindex`.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn remove(&mut self, ip: IpAddr, prefix: u8, ifindex: u32) -> Result<Removed, NetlinkError> {
        unimplemented!("{ip} {prefix} {ifindex}")
    }
}

/// A change that [`Monitor`] heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An interface appeared or changed.
    Link(Link),
    /// The interface of this number is gone.
    LinkGone(u32),
    /// An address appeared or changed.
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
}

impl Monitor {
    /// Hears of what changes from now on, in the network namespace of the calling thread. Asking [`Netlink`] for what
    /// is there after this misses nothing.
    ///
    /// # Errors
    /// No descriptor or memory is left.
    pub fn open() -> Result<Self, NetlinkError> {
        unimplemented!()
    }

    /// The next change that waits; `None` when none does.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub fn next_change(&mut self) -> io::Result<Option<Change>> {
        unimplemented!()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The source of advertisements by the interface `ifindex`: its primary IPv4 address, or a link-local IPv6 address that
/// is in use; never one of `exclude` (the virtual ones), nor one that we put there.
pub fn source_address(addresses: &[Address], ifindex: u32, family: Family, exclude: &[IpAddr]) -> Option<IpAddr> {
    unimplemented!("{addresses:?} {ifindex} {family:?} {exclude:?}")
}
