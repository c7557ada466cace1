//! The thread that speaks VRRP: hears advertisements, keeps the time, drives the machines, announces addresses.
//!
//! It is urgent (SCHED_FIFO) and does nothing that may wait: no file, no name, no lock, no log. What it has to tell goes to
//! others by queues. Everything received is handed in, with the time of its receipt, before any timer is looked at: a thread
//! that comes late does not take the silence in its own ears for that of its peers.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::model::VirtualRouter;
use crate::net::clock;
use crate::time::Micros;
use crate::vrrp::Family;
use crate::vrrp::cluster::Cluster;
use crate::vrrp::event::{Event, State};
use crate::vrrp::judge::{Reason, Verdict, judge};
use crate::vrrp::machine::{Action, Condition, INSISTENT, Memory, VirtualRouter as Machine};
use crate::vrrp::packet::{Envelope, Malformed, decode};
use crate::vrrpd::arbiter::Arbiter;
use crate::vrrpd::handover::{Doors, Handover};
use crate::vrrpd::mailbox::{Mailbox, Post};
use crate::vrrpd::report::{Finding, Fitness, Interface, Note, Order, Report, RouterStatus, Status};
use crate::vrrpd::station::{Begin, Station, settings};
use crate::vrrpd::tally::{Tally, Told};
use crate::vrrpd::timeout_until;
use crate::vrrpd::wire::{LONGEST, Receiver};

/// See the module's documentation.
#[derive(Debug)]
pub struct Speaker {
    cluster: Cluster,
    stations: Vec<Station>,
    /// By interface and family.
    ears: HashMap<(u32, Family), Receiver>,
    doors: Doors,
    /// What no router is concerned by.
    strangers: Tally,
    told: Told,
    stopping: bool,
    changed: bool,
    status_at: Micros,
    keeper: Post<Order>,
    reports: UnboundedSender<Report>,
}

/// Between two reports of everything, which also show that the thread lives.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// Packets of one socket in a row, so that a flood does not keep the timers from being looked at.
const BATCH: usize = 4096;

impl Speaker {
    /// Routers that begin, or go on, once their interfaces are known.
    pub fn new(
        routers: &[Arc<VirtualRouter>],
        fitness: Vec<Fitness>,
        memories: Vec<Option<Memory>>,
        doors: Doors,
        keeper: Post<Order>,
        reports: UnboundedSender<Report>,
    ) -> Self {
        let now = clock::micros();
        let mut cluster = Cluster::default();
        let mut groups: Vec<&str> = Vec::new();
        let mut stations = Vec::new();
        for ((config, fitness), memory) in routers.iter().zip(fitness).zip(memories) {
            let condition = Condition { link: false, fit: fitness.fit, ready: fitness.ready, adjust: fitness.adjust };
            let group = config.sync_group.as_deref().map(|name| {
                groups.iter().position(|known| *known == name).unwrap_or_else(|| {
                    groups.push(name);
                    groups.len() - 1
                })
            });
            cluster.add(Machine::new(settings(config), condition, now), group);
            let begin = memory.map_or(Begin::Anew, Begin::Resumed);
            stations.push(Station::new(Arc::clone(config), fitness, begin));
        }
        Self {
            cluster,
            stations,
            ears: HashMap::new(),
            doors,
            strangers: Tally::default(),
            told: Told::default(),
            stopping: false,
            changed: true,
            status_at: now,
            keeper,
            reports,
        }
    }

    /// Runs until it is told to end.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn run(mut self, notes: &Mailbox<Note>) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        loop {
            self.wait(notes)?;
            for note in notes.take() {
                if let Note::End = note {
                    self.changed = true;
                    self.report(clock::micros());
                    self.say(Report::Ended);
                    return Ok(());
                }
                self.obey(note);
                self.act();
            }
            self.hear(&mut buffer);
            let now = clock::micros();
            self.cluster.handle_timeout(now);
            self.act();
            self.turn(now);
            self.report(now);
        }
    }

    fn wait(&self, notes: &Mailbox<Note>) -> io::Result<()> {
        let stations = || self.stations.iter();
        let frames = stations().filter_map(Station::next_frame);
        let held = stations().filter_map(|s| s.handover.as_ref()?.next());
        let next = self.cluster.next_timeout().into_iter().chain(frames).chain(held).chain([self.status_at]).min();
        let ears = self.ears.values().map(AsFd::as_fd);
        let traps = stations().flat_map(|s| s.handover.iter().flat_map(Handover::descriptors));
        let arbiters = stations().filter_map(|s| s.arbiter.as_ref().map(AsFd::as_fd));
        let all = [notes.as_fd()].into_iter().chain(ears).chain(traps).chain(arbiters);
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, timeout_until(next, clock::micros()).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn say(&self, report: Report) {
        // Nobody listens any more: the process ends.
        let _ = self.reports.send(report);
    }

    // === what is heard

    fn hear(&mut self, buffer: &mut [u8]) {
        let places: Vec<(u32, Family)> = self.ears.keys().copied().collect();
        for place in places {
            for _ in 0..BATCH {
                let Some(ear) = self.ears.get(&place) else { break };
                match ear.recv(buffer) {
                    Ok(Some(heard)) => {
                        self.judge(place, &heard.envelope(), heard.payload, heard.at);
                        self.act();
                    }
                    Ok(None) => break,
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                        self.strangers.dropped(Reason::Malformed(Malformed::TooShort));
                    }
                    Err(e) => {
                        self.deaf(place, &e);
                        break;
                    }
                }
            }
        }
    }

    /// An ear is of no use any more. Who does not hear must not speak, until there is another.
    fn deaf(&mut self, place: (u32, Family), error: &io::Error) {
        if let Some(ear) = self.ears.remove(&place) {
            self.keeper.send(Order::Close(Box::new(ear)));
        }
        self.say(Report::Trouble(format!("VRRP is not heard any more: {error}; trying again")));
        for i in 0..self.stations.len() {
            if self.stations[i].ear() == Some(place) {
                self.set_interface(i, None, clock::micros());
                self.keeper.send(Order::Again(i));
            }
        }
    }

    /// The router on `place` that `vrid` is.
    fn station_of(&self, place: (u32, Family), vrid: u8) -> Option<usize> {
        self.stations.iter().position(|station| {
            let index = station.interface.as_ref().map(|interface| interface.index);
            index == Some(place.0) && station.config.family == place.1 && station.config.vrid.get() == vrid
        })
    }

    fn judge(&mut self, place: (u32, Family), envelope: &Envelope, payload: &[u8], at: Micros) {
        let now = clock::micros();
        // Counted for the router it was meant for, as far as that can be seen.
        let index = payload.get(1).and_then(|vrid| self.station_of(place, *vrid));
        let (advert, checksum) = match decode(payload, envelope) {
            Ok(decoded) => decoded,
            Err(flaw) => {
                let tally = index.map_or(&mut self.strangers, |i| &mut self.stations[i].tally);
                tally.dropped(Reason::Malformed(flaw));
                return;
            }
        };
        let Some(i) = index else {
            self.strangers.dropped(Reason::UnknownVrid);
            return self.find(None, Finding::UnknownVrid(envelope.source, advert.vrid.get()), now);
        };
        let station = &mut self.stations[i];
        match judge(&station.expected, station.source(), envelope, &advert, checksum) {
            Verdict::Peer(said) => {
                station.tally.heard(said, None, now);
                if !said.same_addresses {
                    self.find(Some(i), Finding::ListDiffers(said.source), now);
                }
                self.cluster.with(i, now, |router| router.handle_advert(said, at.min(now), now));
            }
            Verdict::Alive(mismatch, said) => {
                station.tally.heard(said, Some(mismatch), now);
                self.find(Some(i), Finding::Mismatch(mismatch, said.source), now);
                self.cluster.with(i, now, |router| router.handle_alive(mismatch, said, at.min(now), now));
            }
            Verdict::Drop(reason) => {
                station.tally.dropped(reason);
                let finding = match reason {
                    Reason::ForeignCluster => Finding::ForeignCluster(envelope.source),
                    Reason::OwnAddress => Finding::OwnAddress(envelope.source),
                    Reason::Source => Finding::Stranger(envelope.source),
                    Reason::Ttl => Finding::Far(envelope.source),
                    Reason::UnknownVrid | Reason::Malformed(_) => return,
                };
                self.find(Some(i), finding, now);
            }
        }
    }

    fn find(&mut self, router: Option<usize>, finding: Finding, now: Micros) {
        let news = match router.and_then(|i| self.stations.get_mut(i)) {
            Some(station) => station.tally.is_news(finding, now),
            None => self.told.is_news(finding, now),
        };
        if news {
            self.say(Report::Finding(router, finding));
        }
    }

    // === what is wanted

    fn obey(&mut self, note: Note) {
        let now = clock::micros();
        match note {
            Note::Interface(i, interface) => self.set_interface(i, interface, now),
            Note::Tracked(i, fitness) => self.change(i, now, |station| station.tracked = fitness),
            Note::Able(i, able) => self.change(i, now, |station| station.able = able),
            Note::Fitness(i, fitness) => self.change(i, now, |station| station.fitness = fitness),
            Note::Acquired(i) => self.cluster.with(i, now, |router| router.acquired(now)),
            Note::Restored(i) => self.cluster.with(i, now, |router| router.restored(now)),
            Note::Released(i) => {
                if let Some(station) = self.stations.get_mut(i) {
                    station.releasing = false;
                    // There is no address left for which the doors would be closed.
                    open_doors(station, &self.keeper);
                }
                self.cluster.with(i, now, Machine::released);
            }
            Note::Finished => {
                for i in 0..self.stations.len() {
                    self.cluster.with(i, now, Machine::finished);
                }
            }
            // A handover under way goes on with those that it closed.
            Note::Doors(doors) => self.doors = doors,
            Note::HandOver(i) => self.cluster.hand_over(i, now),
            Note::Stop | Note::StopNow => {
                self.stopping = true;
                for i in 0..self.stations.len() {
                    let at_once = matches!(note, Note::StopNow);
                    self.cluster.with(i, now, |router| if at_once { router.stop_now(now) } else { router.stop(now) });
                }
            }
            Note::End => {}
        }
        self.changed = true;
    }

    fn set_interface(&mut self, i: usize, interface: Option<Interface>, now: Micros) {
        let Some(station) = self.stations.get_mut(i) else { return };
        let family = station.config.family;
        let name = Arc::clone(&station.config.interface);
        if let Err(e) = station.set_interface(interface) {
            let text = format!("vrrp {}: cannot speak by {name}: {e}", station.config.name);
            self.say(Report::Trouble(text));
            self.keeper.send(Order::Again(i));
        }
        let used: Vec<(u32, Family)> = self.stations.iter().filter_map(Station::ear).collect();
        self.ears.retain(|place, _| used.contains(place));
        let index = self.stations.get(i).and_then(|s| s.interface.as_ref().map(|interface| interface.index));
        if let Some(index) = index.filter(|index| !self.ears.contains_key(&(*index, family))) {
            match Receiver::open(&name, index, family) {
                Ok(ear) => drop(self.ears.insert((index, family), ear)),
                Err(e) => {
                    self.say(Report::Trouble(format!("cannot hear VRRP on {name}: {e}")));
                    // Who cannot hear must not speak.
                    if let Some(station) = self.stations.get_mut(i) {
                        let _ = station.set_interface(None);
                    }
                    self.keeper.send(Order::Again(i));
                }
            }
        }
        let source = self.stations.get(i).and_then(Station::source);
        self.cluster.with(i, now, |router| router.set_source(source));
        self.change(i, now, |_| ());
        let begin = self.stations.get_mut(i).and_then(|station| station.begin.take());
        self.cluster.with(i, now, |router| match begin {
            Some(Begin::Anew) => router.start(now),
            Some(Begin::Resumed(memory)) => router.resume(&memory, now),
            None => {}
        });
    }

    /// Changes what a router's right depends on.
    fn change(&mut self, i: usize, now: Micros, f: impl FnOnce(&mut Station)) {
        let Some(station) = self.stations.get_mut(i) else { return };
        f(station);
        let all = station.fitness.and(&station.tracked);
        let condition = Condition {
            link: station.interface.is_some(),
            fit: all.fit && station.able,
            ready: all.ready,
            adjust: all.adjust,
        };
        self.cluster.set_condition(i, condition, now);
    }

    // === what is done

    fn act(&mut self) {
        while let Some((i, action)) = self.cluster.next_action() {
            let now = clock::micros();
            let Some(station) = self.stations.get_mut(i) else { continue };
            match action {
                Action::Advertise(priority) => {
                    // An offer is said so often that a successor of ours knows whom it inherits from.
                    let times = if std::mem::take(&mut station.offers) { INSISTENT } else { 1 };
                    let sent = (0..times).try_for_each(|_| station.advertise(priority));
                    if let Err(e) = sent
                        && station.tally.is_news(Finding::Unsent, now)
                    {
                        let text = format!("vrrp {}: advertisements cannot be sent: {e}", station.config.name);
                        self.say(Report::Trouble(text));
                    }
                }
                Action::Acquire => self.keeper.send(Order::Acquire(i)),
                Action::Announce => station.announce(station.config.announce.burst, now),
                Action::Refresh => station.announce(1, now),
                Action::Prepare => {
                    station.offers = true;
                    station.handover = station.interface.as_ref().map(|at| Handover::prepare(&self.doors, at));
                }
                Action::Hold => {
                    if let Some(handover) = &mut station.handover {
                        handover.close();
                    }
                    self.say(Report::Held);
                }
                Action::Unhold => open_doors(station, &self.keeper),
                Action::Release => {
                    station.stop_announcing();
                    station.releasing = true;
                    self.keeper.send(Order::Release(i));
                }
                Action::Arbitrate => {
                    // Without a socket nobody answers.
                    station.arbiter = station.interface.as_ref().and_then(|at| Arbiter::ask(at, &station.config).ok());
                }
                Action::Report(event) => {
                    self.changed = true;
                    if let Event::Changed { why, .. } = event {
                        station.why = Some(why);
                        station.arbiter = None;
                    }
                    self.say(Report::Event(i, event));
                }
            }
        }
    }

    /// What does not come from a machine.
    fn turn(&mut self, now: Micros) {
        for i in 0..self.stations.len() {
            let station = &mut self.stations[i];
            station.send_frames(now);
            if let Some(handover) = &mut station.handover {
                handover.turn(now);
            }
            if station.arbiter.as_ref().is_some_and(Arbiter::answered) {
                self.keeper.send(Order::Close(Box::new(station.arbiter.take())));
                self.cluster.with(i, now, |router| router.arbitrated(true, now));
                self.act();
            }
        }
    }

    fn report(&mut self, now: Micros) {
        if self.changed || self.status_at <= now {
            self.changed = false;
            self.status_at = now.after(STATUS_EVERY);
            let all = self.stations.iter().zip(self.cluster.routers());
            let routers = all.map(|(station, router)| status(station, router, now)).collect();
            self.say(Report::Status(Status { routers, drops: self.strangers.drops() }));
        }
        let out = || self.cluster.routers().all(|router| router.state() == State::Initialize);
        if self.stopping && out() && self.stations.iter().all(|station| !station.releasing) {
            self.stopping = false;
            self.say(Report::Stopped);
        }
    }
}

/// Ends a handover: new connections are ours again, if the addresses are.
fn open_doors(station: &mut Station, keeper: &Post<Order>) {
    if let Some(mut handover) = station.handover.take() {
        handover.open();
        keeper.send(Order::Close(Box::new(handover)));
    }
}

fn status(station: &Station, router: &Machine, now: Micros) -> RouterStatus {
    let all = station.fitness.and(&station.tracked);
    let mut against = all.why;
    if station.interface.is_none() {
        against.push(format!("interface {} is down, or has no address to speak from", station.config.interface));
    }
    if !station.able {
        against.push("the addresses cannot be kept on this box".to_owned());
    }
    let config = &station.config;
    RouterStatus {
        name: Arc::clone(&config.name),
        state: router.state(),
        for_seconds: now.since(router.since()).as_secs(),
        why: station.why,
        leaving: router.is_leaving(),
        priority: router.priority().0,
        configured_priority: config.priority.0,
        against,
        ready: router.condition().ready,
        interface: Arc::clone(&config.interface),
        virtual_router_id: config.vrid.get(),
        version: config.version.number(),
        addresses: config.all_addresses().map(|address| address.ip).collect(),
        peers: station.tally.peers(now),
        sent: station.tally.sent,
        received: station.tally.received,
        drops: station.tally.drops(),
        memory: router.memory(),
    }
}
