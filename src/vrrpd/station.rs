//! One virtual router's sockets, and what it needs to judge and to speak.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::model::{Preempt, VirtualRouter};
use crate::time::Micros;
use crate::vrrp::announce::announcement;
use crate::vrrp::event::Why;
use crate::vrrp::judge::Expectations;
use crate::vrrp::machine::{Memory, Preemption, Settings};
use crate::vrrp::packet::{Advert, Authentication, GROUP_V4, GROUP_V6};
use crate::vrrp::{Family, Priority};
use crate::vrrpd::arbiter::Arbiter;
use crate::vrrpd::ether::Ether;
use crate::vrrpd::handover::Handover;
use crate::vrrpd::report::{Fitness, Interface};
use crate::vrrpd::tally::Tally;
use crate::vrrpd::wire::Sender;

/// See the module's documentation.
#[derive(Debug)]
pub struct Station {
    /// As configured.
    pub config: Arc<VirtualRouter>,
    /// What its peers should say.
    pub expected: Expectations,
    /// What there is to speak by.
    pub interface: Option<Interface>,
    sender: Option<Sender>,
    /// By index of the place.
    ethers: Vec<Option<Ether>>,
    /// What it has heard.
    pub tally: Tally,
    /// What the rest of the box says.
    pub fitness: Fitness,
    /// What other interfaces say.
    pub tracked: Fitness,
    /// The addresses can be put on the box.
    pub able: bool,
    /// Why it is in its state.
    pub why: Option<Why>,
    /// The addresses are being taken off.
    pub releasing: bool,
    /// Frames to send, and when: in order.
    frames: Frames,
    /// The next advertisement offers the addresses to a peer.
    pub offers: bool,
    /// A handover under way.
    pub handover: Option<Handover>,
    /// A question under way.
    pub arbiter: Option<Arbiter>,
    /// How it begins, until it has.
    pub begin: Option<Begin>,
}

/// How a router begins once its interface is known.
#[derive(Debug)]
pub enum Begin {
    /// With nothing.
    Anew,
    /// Where a predecessor of this process stopped.
    Resumed(Memory),
}

/// Announcements to come: place, address, and how many frames each.
#[derive(Debug, Default)]
struct Frames {
    queue: VecDeque<(usize, IpAddr)>,
    next: Option<Micros>,
}

/// Frames that wait at most; a refresh comes anyway.
const MOST_FRAMES: usize = 4096;

/// What the machine needs of the configuration.
pub fn settings(config: &VirtualRouter) -> Settings {
    Settings {
        version: config.version,
        priority: config.priority,
        interval: config.advert_interval,
        preemption: match config.preempt {
            Preempt::Never => Preemption::Never,
            Preempt::WhenReady => Preemption::WhenReady,
            Preempt::Immediate => Preemption::Immediate,
        },
        preempt_delay: config.preempt_delay,
        startup_delay: config.startup_delay,
        repeat: config.announce.repeat.clone(),
        refresh: config.announce.refresh,
        linger: config.handover_linger,
        arbitrate: !config.arbitrate.is_empty(),
    }
}

/// What the judge needs of the configuration.
pub fn expectations(config: &VirtualRouter) -> Expectations {
    Expectations {
        vrid: config.vrid,
        version: config.version,
        password: config.password,
        interval: config.advert_interval,
        addresses: config.addresses.iter().map(|address| address.ip).collect(),
        peers: config.unicast_peers.clone(),
        check_source: config.check_source,
        check_ttl: config.check_ttl,
    }
}

impl Station {
    /// One without sockets.
    pub fn new(config: Arc<VirtualRouter>, fitness: Fitness, begin: Begin) -> Self {
        Self {
            expected: expectations(&config),
            config,
            interface: None,
            sender: None,
            ethers: Vec::new(),
            tally: Tally::default(),
            fitness,
            tracked: Fitness::good(),
            able: true,
            why: None,
            releasing: false,
            frames: Frames::default(),
            offers: false,
            handover: None,
            arbiter: None,
            begin: Some(begin),
        }
    }

    /// Takes the sockets of another interface, or of the same after a change.
    ///
    /// # Errors
    /// It cannot speak by it.
    pub fn set_interface(&mut self, interface: Option<Interface>) -> io::Result<()> {
        self.sender = None;
        self.ethers.clear();
        self.interface = None;
        let Some(interface) = interface else { return Ok(()) };
        self.sender = Some(Sender::open(&self.config.interface, interface.index, interface.source)?);
        // An address that cannot be announced is served all the same.
        self.ethers = interface.places.iter().map(|place| Ether::open(place.index).ok()).collect();
        self.interface = Some(interface);
        Ok(())
    }

    /// Source of its advertisements.
    pub fn source(&self) -> Option<IpAddr> {
        self.interface.as_ref().map(|interface| interface.source)
    }

    /// Where it hears.
    pub fn ear(&self) -> Option<(u32, Family)> {
        self.interface.as_ref().map(|interface| (interface.index, self.config.family))
    }

    /// Says `priority` to everybody.
    ///
    /// # Errors
    /// The last one that the kernel gave; the others were sent to all the same.
    pub fn advertise(&mut self, priority: Priority) -> io::Result<()> {
        let (Some(sender), config) = (&self.sender, &self.config) else { return Ok(()) };
        let advert = Advert {
            version: config.version,
            vrid: config.vrid,
            priority,
            interval: config.advert_interval,
            authentication: config.password.map_or(Authentication::None, Authentication::Pass),
            addresses: self.expected.addresses.clone(),
        };
        let group = match config.family {
            Family::V4 => IpAddr::V4(GROUP_V4),
            Family::V6 => IpAddr::V6(GROUP_V6),
        };
        let mut result = Ok(());
        let peers = config.unicast_peers.iter().filter(|peer| **peer != sender.source());
        let multicast = config.unicast_peers.is_empty().then_some(&group);
        for destination in peers.chain(multicast) {
            let bytes = advert.encode(sender.source(), *destination, config.v3_checksum);
            match sender.send(&bytes, *destination) {
                Ok(()) => self.tally.sent += 1,
                Err(e) => result = Err(e),
            }
        }
        result
    }

    /// Announces each address by `count` frames, now and as the pace allows.
    pub fn announce(&mut self, count: u32, now: Micros) {
        let Some(interface) = &self.interface else { return };
        for _ in 0..count {
            let all = interface.places.iter().enumerate();
            let each = all.flat_map(|(at, place)| place.addresses.iter().map(move |address| (at, *address)));
            self.frames.queue.extend(each);
        }
        self.frames.queue.truncate(MOST_FRAMES);
        self.frames.next.get_or_insert(now);
        self.send_frames(now);
    }

    /// Sends the frames that are due.
    pub fn send_frames(&mut self, now: Micros) {
        let Some(interface) = &self.interface else { return self.stop_announcing() };
        let pace = self.config.announce.interval;
        while let Some(at) = self.frames.next.filter(|at| *at <= now) {
            let Some((index, address)) = self.frames.queue.pop_front() else {
                self.frames.next = None;
                return;
            };
            let place = interface.places.get(index);
            if let (Some(place), Some(Some(ether))) = (place, self.ethers.get(index))
                && let Some(mac) = place.mac
            {
                // A full queue of the card costs this frame; others follow.
                let _ = ether.send(announcement(mac, address, place.is_router).bytes());
            }
            self.frames.next = Some(if pace.is_zero() { at } else { now.after(pace) });
        }
    }

    /// When frames are due.
    pub fn next_frame(&self) -> Option<Micros> {
        self.frames.next.filter(|_| !self.frames.queue.is_empty())
    }

    /// Says nothing of what waits: the addresses are somebody else's now.
    pub fn stop_announcing(&mut self) {
        self.frames = Frames::default();
    }
}
