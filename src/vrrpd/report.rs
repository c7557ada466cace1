//! What the two threads say: to each other, and to whoever runs them.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::model::Weight;
use crate::vrrp::announce::Mac;
use crate::vrrp::event::{Event, State, Why};
use crate::vrrp::judge::Mismatch;
use crate::vrrp::machine::Memory;
use crate::vrrpd::handover::Doors;

/// To the thread that speaks VRRP. Routers are numbered as in the configuration.
#[derive(Debug)]
pub enum Note {
    /// Of the keeper: what there is to speak by; `None`: nothing.
    Interface(usize, Option<Interface>),
    /// Of the keeper: what other interfaces say of the router.
    Tracked(usize, Fitness),
    /// Of the keeper: the addresses can be put on the box, or cannot.
    Able(usize, bool),
    /// Of the keeper: the addresses are there.
    Acquired(usize),
    /// Of the keeper: the addresses are gone.
    Released(usize),
    /// Of the keeper: somebody took addresses away, and they are back.
    Restored(usize),
    /// What the rest of the box says of the router.
    Fitness(usize, Fitness),
    /// New connections come by these sockets from now on.
    Doors(Doors),
    /// What was under way when peers took over has been answered.
    Finished,
    /// Hand over this router.
    HandOver(usize),
    /// Hand over what can be, end in any case; [`Report::Stopped`] follows.
    Stop,
    /// The same without waiting for anybody.
    StopNow,
    /// Tell a last status, then [`Report::Ended`], and end the thread; the addresses stay.
    End,
}

/// To the thread that keeps addresses and watches interfaces.
#[derive(Debug)]
pub enum Order {
    /// Put the addresses of a router on the box.
    Acquire(usize),
    /// Take them off, once what runs over them has ended.
    Release(usize),
    /// It has ended: the answer to [`Report::Leaving`].
    Aborted(u64),
    /// Nobody is there to end it any more: addresses go at once from now on.
    Alone,
    /// The sockets of a router are of no use any more: say its interface again in a moment.
    Again(usize),
    /// Close what is in here: closing a packet socket waits for the whole kernel to have forgotten it, which is nothing for
    /// the urgent thread.
    Close(Box<dyn Any + Send>),
    /// End the thread.
    End,
}

/// To whoever runs the threads.
#[derive(Debug)]
pub enum Report {
    /// A router's machine has something to tell.
    Event(usize, Event),
    /// Something on the wire that the operator should know; said at most once in a while for each sender.
    Finding(Option<usize>, Finding),
    /// Addresses are about to leave the box: end what runs over them, then [`Order::Aborted`]. They go soon in any case.
    Leaving {
        /// To be given back.
        token: u64,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// A peer has taken over, and waits until what is under way has been answered: see to it, then [`Note::Finished`].
    Held,
    /// They have left: end what came in between.
    Left(Vec<IpAddr>),
    /// Something that is wrong with the box, as a sentence.
    Trouble(String),
    /// Something worth a line.
    Remark(String),
    /// Everything, after a change, and several times a second: the thread lives.
    Status(Status),
    /// After [`Note::End`]: nothing more comes from the wire, and nothing goes there.
    Ended,
    /// After [`Note::Stop`]: no router takes part, and no address is left.
    Stopped,
}

/// Something heard that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// A live peer that is configured otherwise.
    Mismatch(Mismatch, IpAddr),
    /// A peer whose list of addresses is not ours.
    ListDiffers(IpAddr),
    /// Another cluster with our virtual router id.
    ForeignCluster(IpAddr),
    /// Our own address as a sender's: a loop, or a duplicate address.
    OwnAddress(IpAddr),
    /// Somebody who is not one of `unicast_peers`.
    Stranger(IpAddr),
    /// An advertisement that came through a router.
    Far(IpAddr),
    /// A virtual router id that is not configured here.
    UnknownVrid(IpAddr, u8),
    /// Our own advertisements are refused by the kernel.
    Unsent,
}

/// What there is to speak by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its Ethernet address, if it is an Ethernet.
    pub mac: Option<Mac>,
    /// Source of advertisements.
    pub source: IpAddr,
    /// Where addresses are announced.
    pub places: Vec<Place>,
}

/// An interface with virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub index: u32,
    /// Its Ethernet address; without, nothing is announced.
    pub mac: Option<Mac>,
    /// This box forwards what comes in by it.
    pub is_router: bool,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// What something says of a router's right to hold its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitness {
    /// May hold them.
    pub fit: bool,
    /// May take them from a lower priority.
    pub ready: bool,
    /// Added to the priority.
    pub adjust: i16,
    /// Why not, or why less; empty when all is well.
    pub why: Vec<String>,
}

impl Fitness {
    /// Nothing to say against it.
    pub fn good() -> Self {
        Self { fit: true, ready: true, adjust: 0, why: Vec::new() }
    }

    /// What something that works or not says by its weight (keepalived's rule): a positive one is added while it works, a
    /// negative one while it does not, and without one it decides.
    pub fn of_weight(weight: Weight, works: bool, why: impl FnOnce() -> String) -> Self {
        let against = |this: Self| if works { Self::good() } else { Self { why: vec![why()], ..this } };
        match weight {
            None => against(Self { fit: false, ..Self::good() }),
            Some(weight) if weight >= 0 => Self { adjust: if works { weight } else { 0 }, ..against(Self::good()) },
            Some(weight) => against(Self { adjust: weight, ..Self::good() }),
        }
    }

    /// What both say.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            fit: self.fit && other.fit,
            ready: self.ready && other.ready,
            adjust: self.adjust.saturating_add(other.adjust),
            why: self.why.iter().chain(&other.why).cloned().collect(),
        }
    }
}

/// All there is to know, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// As in the configuration.
    pub routers: Vec<RouterStatus>,
    /// What was heard and is for none of them, by name; only those that happened.
    pub drops: Vec<(String, u64)>,
}

impl Status {
    /// This, of a process that has replaced the one of `before` on purpose: its counts go on, and so does a state that it
    /// was handed.
    pub fn after(mut self, before: &Self) -> Self {
        for router in &mut self.routers {
            let Some(old) = before.routers.iter().find(|old| old.name == router.name) else { continue };
            router.sent += old.sent;
            router.received += old.received;
            router.drops = sum(&old.drops, &router.drops);
            let handed = matches!(router.why, Some(Why::Resumed | Why::Started) | None);
            if handed && router.state == old.state {
                router.why = old.why;
                router.for_seconds += old.for_seconds;
            }
        }
        self.drops = sum(&before.drops, &self.drops);
        self
    }
}

/// Both counts of every name.
fn sum(before: &[(String, u64)], now: &[(String, u64)]) -> Vec<(String, u64)> {
    let mut all = before.to_vec();
    for (name, count) in now {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += count,
            None => all.push((name.clone(), *count)),
        }
    }
    all
}

/// One virtual router, for `status` and for a successor of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The table's name.
    pub name: Arc<str>,
    /// Its state.
    pub state: State,
    /// Seconds in it.
    pub for_seconds: u64,
    /// Why it is in it.
    pub why: Option<Why>,
    /// It is giving its addresses away.
    pub leaving: bool,
    /// In force.
    pub priority: u8,
    /// As in the file.
    pub configured_priority: u8,
    /// What speaks against this box.
    pub against: Vec<String>,
    /// It serves, and may preempt as far as that goes.
    pub ready: bool,
    /// Where it speaks.
    pub interface: Arc<str>,
    /// Its id.
    pub virtual_router_id: u8,
    /// 2 or 3.
    pub version: u8,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Who else speaks for them.
    pub peers: Vec<PeerStatus>,
    /// Advertisements sent.
    pub sent: u64,
    /// Advertisements of peers heard and understood.
    pub received: u64,
    /// What was heard and not as it should be, by name; only those that happened.
    pub drops: Vec<(String, u64)>,
    /// For a successor.
    pub memory: Memory,
}

/// Somebody who speaks for our addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who.
    pub address: IpAddr,
    /// With which priority.
    pub priority: u8,
    /// Milliseconds since it was last heard.
    pub heard_ms_ago: u64,
    /// Its advertisements are as ours would be.
    pub agrees: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(state: State, why: Why, for_seconds: u64, sent: u64) -> Status {
        let router = RouterStatus {
            name: "a".into(),
            state,
            for_seconds,
            why: Some(why),
            leaving: false,
            priority: 100,
            configured_priority: 100,
            against: Vec::new(),
            ready: true,
            interface: "eth0".into(),
            virtual_router_id: 1,
            version: 3,
            addresses: Vec::new(),
            peers: Vec::new(),
            sent,
            received: 1,
            drops: vec![("ttl".to_owned(), 2)],
            memory: Memory::default(),
        };
        Status { routers: vec![router], drops: Vec::new() }
    }

    #[test]
    fn a_process_that_was_replaced_on_purpose_leaves_its_counts_and_its_state() {
        let before = router(State::Active, Why::PeerSilent, 100, 50);
        let now = router(State::Active, Why::Resumed, 3, 7).after(&before);
        let one = &now.routers[0];
        assert_eq!((one.why, one.for_seconds, one.sent, one.received), (Some(Why::PeerSilent), 103, 57, 2));
        assert_eq!(one.drops, [("ttl".to_owned(), 4)]);
        // What has changed since is its successor's.
        let now = router(State::Backup, Why::HandedOver, 3, 7).after(&before);
        assert_eq!((now.routers[0].why, now.routers[0].for_seconds), (Some(Why::HandedOver), 3));
        let other = Status::default();
        assert_eq!(router(State::Active, Why::Resumed, 3, 7).after(&other), router(State::Active, Why::Resumed, 3, 7));
    }
}
