//! New connections while an address moves to a peer: those that begin after the peer took over are its, though the
//! network still sends them here. Their first segments are kept from our listeners, and sent on once the peer has announced
//! itself, so that no client waits a second for its own second attempt.

use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::net::listen;
use crate::time::Micros;
use crate::vrrpd::report::Interface;
use crate::vrrpd::syn::SynTrap;

/// The listening sockets that take connections to virtual addresses.
#[derive(Debug, Clone, Default)]
pub struct Doors(pub Arc<[TcpListener]>);

/// One router's handover.
#[derive(Debug)]
pub struct Handover {
    doors: Doors,
    traps: Vec<SynTrap>,
    addresses: Vec<IpAddr>,
    closed: bool,
    /// When what is held may be sent on.
    resend_at: Option<Micros>,
    /// Something is held until then.
    waits: bool,
}

/// From the peer's announcement until connections are sent on to it: their clients must have heard it too, or they would
/// answer the peer by way of this box, which knows nothing of them.
const HEARD_BY_ALL: Duration = Duration::from_millis(2);

impl Handover {
    /// Gets ready. What cannot be had costs clients a second, no more.
    pub fn prepare(doors: &Doors, interface: &Interface) -> Self {
        let traps = interface.places.iter().filter_map(|place| SynTrap::open(place.index, &place.addresses).ok());
        Self {
            doors: doors.clone(),
            traps: traps.collect(),
            addresses: interface.places.iter().flat_map(|place| place.addresses.iter().copied()).collect(),
            closed: false,
            resend_at: None,
            waits: false,
        }
    }

    /// From now on new connections are the peer's.
    pub fn close(&mut self) {
        if self.traps.is_empty() {
            return;
        }
        self.closed = true;
        for door in self.doors.0.iter() {
            // One that stays open serves its clients as long as it can.
            let _ = listen::refuse_new_to(door, &self.addresses);
        }
        // What came before has been accepted.
        self.traps.iter_mut().for_each(SynTrap::discard);
    }

    /// New connections are ours again, if the addresses are.
    pub fn open(&mut self) {
        if std::mem::take(&mut self.closed) {
            for door in self.doors.0.iter() {
                let _ = listen::accept_new(door);
            }
        }
    }

    /// Reads what came, and sends it on if the peer has announced itself.
    pub fn turn(&mut self, now: Micros) {
        self.waits = false;
        for trap in &mut self.traps {
            // A trap whose interface is gone has nothing more to hold.
            let held = trap.collect().unwrap_or(0);
            if !self.closed {
                trap.discard();
            } else if let (Some(peer), true) = (trap.seen_announcement(), held > 0) {
                let at = *self.resend_at.get_or_insert(now.after(HEARD_BY_ALL));
                if at <= now {
                    let _ = trap.resend(peer);
                } else {
                    self.waits = true;
                }
            }
        }
    }

    /// When [`Self::turn`] is to be called, beside when a descriptor is readable.
    pub fn next(&self) -> Option<Micros> {
        self.resend_at.filter(|_| self.waits)
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.traps.iter().map(AsFd::as_fd)
    }
}
