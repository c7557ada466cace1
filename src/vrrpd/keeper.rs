//! The thread that keeps the addresses: puts them on the box and takes them off, puts back what somebody else took away,
//! and watches the interfaces.
//!
//! Whatever changes, the kernel is asked for everything there is, and what that means is worked out anew: a change that is
//! missed, or comes in another order, does no harm.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::model::{VirtualAddress, VirtualRouter};
use crate::net::clock;
use crate::time::Micros;
use crate::vrrp::Priority;
use crate::vrrpd::ether::{SolicitedGroups, is_router};
use crate::vrrpd::journal::{self, Journal};
use crate::vrrpd::mailbox::{Mailbox, Post};
use crate::vrrpd::netlink::{Added, Address, Link, Monitor, Netlink, NetlinkError, source_address};
use crate::vrrpd::report::{Fitness, Interface, Note, Order, Place, Report};
use crate::vrrpd::timeout_until;

/// For the proxy to end what runs over addresses that leave.
const ABORT_LIMIT: Duration = Duration::from_millis(60);
/// Until addresses that could not be added, or were taken away too often, are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The kernel makes an IPv6 address receive some time after it was added, usually a fraction of a millisecond.
const RECEPTION_LIMIT: Duration = Duration::from_millis(50);
/// Until sockets that failed are made anew.
const SOCKETS_AGAIN: Duration = Duration::from_secs(1);
/// So many losses of addresses to somebody else within the window are a quarrel that this box does not win.
const FLAPS: usize = 5;
const FLAP_WINDOW: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub struct Keeper {
    netlink: Netlink,
    monitor: Monitor,
    /// None where the kernel has no IPv6.
    groups: Option<SolicitedGroups>,
    journal: Journal,
    links: Vec<Link>,
    addresses: Vec<Address>,
    seats: Vec<Seat>,
    /// Somebody ends connections before addresses go.
    attended: bool,
    tokens: u64,
    speaker: Post<Note>,
    reports: UnboundedSender<Report>,
}

/// A router, as its addresses are concerned.
#[derive(Debug)]
struct Seat {
    config: Arc<VirtualRouter>,
    /// The addresses are to be on the box.
    held: bool,
    /// Waits until what runs over them has ended.
    leaving: Option<(u64, Micros)>,
    /// Adding them failed, or they are quarrelled over; when to try again.
    retry_at: Option<Micros>,
    /// When the interface is to be said again.
    again_at: Option<Micros>,
    /// When somebody took them away.
    flaps: Vec<Micros>,
    /// Of these, the ones that were there before us: never deleted.
    adopted: Vec<IpAddr>,
    said: Option<Option<Interface>>,
    tracked: Option<Fitness>,
}

impl Keeper {
    /// Looks at the box; what an earlier process left behind goes, except of `resumed` routers, which hold it still.
    ///
    /// # Errors
    /// No netlink, or no run directory.
    pub fn open(
        routers: &[Arc<VirtualRouter>],
        resumed: &[bool],
        note: &Path,
        speaker: Post<Note>,
        reports: UnboundedSender<Report>,
    ) -> Result<Self, String> {
        let monitor = Monitor::open().map_err(|e| e.to_string())?;
        let netlink = Netlink::open().map_err(|e| e.to_string())?;
        let noted = journal::read(note).unwrap_or_else(|e| {
            let _ = reports.send(Report::Trouble(format!("{e}: what a killed process left behind may stay")));
            Vec::new()
        });
        let journal = Journal::new(note, noted).map_err(|e| e.to_string())?;
        let seat = |(i, config): (usize, &Arc<VirtualRouter>)| Seat {
            config: Arc::clone(config),
            held: resumed.get(i).copied().unwrap_or(false),
            leaving: None,
            retry_at: None,
            again_at: None,
            flaps: Vec::new(),
            adopted: Vec::new(),
            said: None,
            tracked: None,
        };
        let seats = routers.iter().enumerate().map(seat).collect();
        let (links, addresses, attended, tokens) = (Vec::new(), Vec::new(), true, 0);
        let groups = SolicitedGroups::open().ok();
        let mut this =
            Self { netlink, monitor, groups, journal, links, addresses, seats, attended, tokens, speaker, reports };
        this.look().map_err(|e| e.to_string())?;
        this.clear_up();
        for i in 0..this.seats.len() {
            // The configuration may have others by now.
            if this.seats[i].held && !this.missing(i).is_empty() {
                this.put(i);
            }
        }
        this.look().map_err(|e| e.to_string())?;
        this.compare();
        Ok(this)
    }

    /// Does what it is told until it is told to end.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn run(mut self, orders: &Mailbox<Order>) -> io::Result<()> {
        loop {
            let times = |s: &Seat| [s.leaving.map(|(_, at)| at), s.retry_at, s.again_at];
            let next = self.seats.iter().flat_map(times).flatten().min();
            let mut fds = [
                PollFd::from_borrowed_fd(orders.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN),
            ];
            let timeout = timeout_until(next, clock::micros());
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for order in orders.take() {
                match order {
                    Order::Acquire(i) => self.acquire(i),
                    Order::Release(i) => self.release(i),
                    Order::Aborted(token) => self.aborted(token),
                    Order::Alone => {
                        self.attended = false;
                        self.finish_all();
                    }
                    Order::Again(i) => {
                        if let Some(seat) = self.seats.get_mut(i) {
                            seat.again_at = Some(clock::micros().after(SOCKETS_AGAIN));
                        }
                    }
                    Order::Close(closed) => drop(closed),
                    Order::End => return Ok(()),
                }
            }
            self.hear_changes();
            self.due(clock::micros());
        }
    }

    fn say(&self, report: Report) {
        // Nobody listens any more: the process ends.
        let _ = self.reports.send(report);
    }

    fn hear_changes(&mut self) {
        let mut changed = false;
        loop {
            match self.monitor.next_change() {
                Ok(Some(_)) => changed = true,
                Ok(None) => break,
                Err(e) => {
                    self.say(Report::Trouble(format!("changes of interfaces are not heard any more: {e}")));
                    // A new one hears what comes; what was missed is looked at now.
                    match Monitor::open() {
                        Ok(monitor) => self.monitor = monitor,
                        Err(e) => self.say(Report::Trouble(e.to_string())),
                    }
                    changed = true;
                    break;
                }
            }
        }
        if changed {
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        match self.look() {
            Ok(()) => self.compare(),
            Err(e) => self.say(Report::Trouble(format!("interfaces cannot be looked at: {e}"))),
        }
    }

    fn look(&mut self) -> Result<(), NetlinkError> {
        self.links = self.netlink.links()?;
        self.addresses = self.netlink.addresses()?;
        Ok(())
    }

    /// Takes away what is ours by mark or note and is not to be held.
    fn clear_up(&mut self) {
        let held: Vec<IpAddr> =
            self.seats.iter().filter(|s| s.held).flat_map(|s| s.config.all_addresses().map(|a| a.ip)).collect();
        for stale in journal::stale(self.journal.entries(), &self.links, &self.addresses) {
            if held.contains(&stale.ip) {
                continue;
            }
            let Address { ip, prefix, ifindex, .. } = stale;
            match self.netlink.remove(ip, prefix, ifindex) {
                Ok(_) => {
                    self.say(Report::Remark(format!("{ip}/{prefix} was left by a process before this one: removed")))
                }
                Err(e) => {
                    self.say(Report::Trouble(format!("{ip}/{prefix} was left by a process before this one: {e}")))
                }
            }
        }
    }

    /// What the box is now, against what was said of it and what should be.
    fn compare(&mut self) {
        for i in 0..self.seats.len() {
            let interface = self.interface(i);
            let tracked = self.tracked(i);
            let seat = &mut self.seats[i];
            if seat.tracked.as_ref() != Some(&tracked) {
                seat.tracked = Some(tracked.clone());
                self.speaker.send(Note::Tracked(i, tracked));
            }
            if seat.said.as_ref() != Some(&interface) {
                for place in interface.iter().flat_map(|interface| &interface.places) {
                    join(self.groups.as_ref(), place);
                }
                seat.said = Some(interface.clone());
                self.speaker.send(Note::Interface(i, interface));
            }
            self.restore(i);
        }
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| *link.name == *name)
    }

    /// What the router has to speak by, if it is all there and up.
    fn interface(&self, i: usize) -> Option<Interface> {
        let seat = &self.seats[i];
        let config = &seat.config;
        let link = self.link(&config.interface).filter(|link| link.up && link.running)?;
        let source = match config.source {
            Some(source) => self.addresses.iter().any(|a| a.ip == source && !a.tentative).then_some(source),
            None => {
                // An owner's address is the interface's own.
                let virtual_ones: Vec<IpAddr> = match config.priority {
                    Priority::OWNER => Vec::new(),
                    _ => self.seats.iter().flat_map(|s| s.config.all_addresses().map(|a| a.ip)).collect(),
                };
                source_address(&self.addresses, link.index, config.family, &virtual_ones)
            }
        };
        let mut places: Vec<Place> = Vec::new();
        for address in seat.config.all_addresses() {
            let at = self.link(&address.interface).filter(|link| link.up && link.running)?;
            match places.iter_mut().find(|place| place.index == at.index) {
                Some(place) => place.addresses.push(address.ip),
                None => places.push(Place {
                    index: at.index,
                    mac: at.mac,
                    is_router: is_router(&at.name),
                    addresses: vec![address.ip],
                }),
            }
        }
        Some(Interface { index: link.index, mac: link.mac, source: source?, places })
    }

    /// What other interfaces say of the router.
    fn tracked(&self, i: usize) -> Fitness {
        let mut all = Fitness::good();
        for tracked in &self.seats[i].config.track_interfaces {
            let up = self.link(&tracked.name).is_some_and(|link| link.up && link.running);
            all = all.and(&Fitness::of_weight(tracked.weight, up, || format!("interface {} is down", tracked.name)));
        }
        all
    }

    /// Puts back what somebody took away.
    fn restore(&mut self, i: usize) {
        let seat = &self.seats[i];
        if !seat.held || seat.leaving.is_some() || seat.retry_at.is_some() {
            return;
        }
        let missing = self.missing(i);
        if missing.is_empty() {
            return;
        }
        let now = clock::micros();
        let seat = &mut self.seats[i];
        seat.flaps.retain(|at| now.since(*at) < FLAP_WINDOW);
        seat.flaps.push(now);
        let name = Arc::clone(&seat.config.name);
        if seat.flaps.len() > FLAPS {
            seat.retry_at = Some(now.after(FLAP_WINDOW));
            self.speaker.send(Note::Able(i, false));
            self.say(Report::Trouble(format!(
                "vrrp {name}: {} was taken off the box {FLAPS} times in a minute by something else: offered to the peer; \
                 look for systemd-networkd, NetworkManager, or another keepalived",
                missing.join(", ")
            )));
            return;
        }
        self.say(Report::Trouble(format!(
            "vrrp {name}: {} was taken off the box by something else: put back",
            missing.join(", ")
        )));
        if self.put(i) {
            self.speaker.send(Note::Restored(i));
        }
    }

    /// Addresses of a router that are not on the box. Without a link the kernel takes IPv6 addresses away itself, and the
    /// router lets go: those are not meant.
    fn missing(&self, i: usize) -> Vec<String> {
        let is_missing = |address: &&VirtualAddress| {
            self.link(&address.interface).is_some_and(|link| {
                link.up && !self.addresses.iter().any(|a| a.ifindex == link.index && a.ip == address.ip)
            })
        };
        self.seats[i].config.all_addresses().filter(is_missing).map(|address| address.ip.to_string()).collect()
    }

    fn acquire(&mut self, i: usize) {
        self.finish(i);
        let Some(seat) = self.seats.get_mut(i) else { return };
        seat.held = true;
        if self.put(i) {
            self.speaker.send(Note::Acquired(i));
        }
    }

    /// Puts the addresses on the box; false when that failed, which is said.
    fn put(&mut self, i: usize) -> bool {
        let wanted: Vec<VirtualAddress> = self.seats[i].config.all_addresses().cloned().collect();
        let noted: HashSet<IpAddr> = self.journal.entries().iter().map(|entry| entry.ip).collect();
        if let Err(e) = self.journal.record(&wanted) {
            self.say(Report::Trouble(format!("{e}: after a crash the addresses may have to be removed by hand")));
        }
        for address in &wanted {
            let Some(index) = self.link(&address.interface).map(|link| link.index) else {
                return self.failed(i, &format!("there is no interface {}", address.interface));
            };
            // IPv4 knows an address several times, by the length of its prefix.
            let same =
                |a: &&Address| a.ifindex == index && a.ip == address.ip && a.prefix != address.prefix && !a.tagged;
            let foreign = self.addresses.iter().find(same).map(|a| a.prefix);
            let added = foreign.map_or_else(|| self.netlink.add(address, index), |_| Ok(Added::Adopted));
            match added {
                Ok(Added::New | Added::Ours) => {}
                Ok(Added::Adopted) if noted.contains(&address.ip) => {}
                Ok(Added::Adopted) => {
                    // Not ours to remove, whoever reads the note.
                    if let Err(e) = self.journal.forget([address]) {
                        self.say(Report::Trouble(e.to_string()));
                    }
                    let seat = &mut self.seats[i];
                    if !seat.adopted.contains(&address.ip) {
                        seat.adopted.push(address.ip);
                        let (ip, at) = (address.ip, &address.interface);
                        let text = format!(
                            "{ip} was on {at} already, put by something else: used, and not removed when it moves; \
                             if it is left over: ip address del {ip}/{} dev {at}",
                            foreign.unwrap_or(address.prefix)
                        );
                        self.say(Report::Trouble(text));
                    }
                }
                Err(e) => return self.failed(i, &e.to_string()),
            }
        }
        self.await_reception(&wanted);
        let seat = &mut self.seats[i];
        if seat.retry_at.take().is_some() {
            self.speaker.send(Note::Able(i, true));
        }
        true
    }

    /// Waits until IPv6 addresses receive: announced before, they would cost their clients a second.
    fn await_reception(&mut self, addresses: &[VirtualAddress]) {
        for link in self.links.clone() {
            let on = addresses.iter().filter(|address| *address.interface == *link.name && address.ip.is_ipv6());
            let ips: Vec<IpAddr> = on.map(|address| address.ip).collect();
            if ips.is_empty() {
                continue;
            }
            match self.netlink.await_reception(&ips, link.index, RECEPTION_LIMIT) {
                Ok(true) => {}
                Ok(false) => self.say(Report::Trouble(format!("{ips:?} on {} receive nothing yet", link.name))),
                Err(e) => self.say(Report::Trouble(e.to_string())),
            }
        }
    }

    fn failed(&mut self, i: usize, why: &str) -> bool {
        let seat = &mut self.seats[i];
        let name = Arc::clone(&seat.config.name);
        let again = seat.retry_at.replace(clock::micros().after(RETRY)).is_some();
        if !again {
            self.speaker.send(Note::Able(i, false));
            self.say(Report::Trouble(format!("vrrp {name}: the addresses cannot be put on this box: {why}")));
        }
        false
    }

    fn release(&mut self, i: usize) {
        let Some(seat) = self.seats.get_mut(i) else { return };
        if !self.attended {
            self.take_off(i);
            return;
        }
        self.tokens += 1;
        let token = self.tokens;
        seat.leaving = Some((token, clock::micros().after(ABORT_LIMIT)));
        let addresses = seat.config.all_addresses().map(|address| address.ip).collect();
        self.say(Report::Leaving { token, addresses });
    }

    fn aborted(&mut self, token: u64) {
        let waits = |seat: &Seat| seat.leaving.is_some_and(|(awaited, _)| awaited == token);
        if let Some(i) = self.seats.iter().position(waits) {
            self.finish(i);
        }
    }

    fn finish_all(&mut self) {
        (0..self.seats.len()).for_each(|i| self.finish(i));
    }

    /// Ends a release under way.
    fn finish(&mut self, i: usize) {
        if self.seats.get(i).is_some_and(|seat| seat.leaving.is_some()) {
            self.take_off(i);
        }
    }

    /// Takes the addresses off the box.
    fn take_off(&mut self, i: usize) {
        let seat = &mut self.seats[i];
        // What kept them off this box does so until `retry_at`, or they would be back as soon as they have moved.
        (seat.held, seat.leaving) = (false, None);
        let adopted = std::mem::take(&mut self.seats[i].adopted);
        let ours: Vec<VirtualAddress> =
            self.seats[i].config.all_addresses().filter(|a| !adopted.contains(&a.ip)).cloned().collect();
        for address in &ours {
            // Without its interface an address is gone.
            let Some(index) = self.link(&address.interface).map(|link| link.index) else { continue };
            if let Err(e) = self.netlink.remove(address.ip, address.prefix, index) {
                self.say(Report::Trouble(e.to_string()));
            }
        }
        if let Err(e) = self.journal.forget(&ours) {
            self.say(Report::Trouble(e.to_string()));
        }
        self.speaker.send(Note::Released(i));
        self.say(Report::Left(ours.iter().map(|address| address.ip).collect()));
    }

    fn due(&mut self, now: Micros) {
        for i in 0..self.seats.len() {
            if self.seats[i].leaving.is_some_and(|(_, at)| at <= now) {
                self.take_off(i);
            }
            let seat = &mut self.seats[i];
            if seat.again_at.is_some_and(|at| at <= now) {
                (seat.again_at, seat.said) = (None, None);
                self.look_again();
            }
            let seat = &mut self.seats[i];
            if seat.retry_at.is_none_or(|at| at > now) {
                continue;
            }
            if seat.held {
                seat.flaps.clear();
                if self.put(i) {
                    self.speaker.send(Note::Restored(i));
                }
            } else {
                seat.retry_at = None;
                self.speaker.send(Note::Able(i, true));
            }
        }
    }
}

/// Hears who asks for the IPv6 addresses of `place` before they are there.
fn join(groups: Option<&SolicitedGroups>, place: &Place) {
    for ip in &place.addresses {
        if let (Some(groups), IpAddr::V6(ip)) = (groups, ip) {
            // Without it the kernel joins when the address is added, a moment later.
            let _ = groups.join(*ip, place.index);
        }
    }
}
