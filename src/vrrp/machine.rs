//! One virtual router: who holds its addresses, as far as this box is concerned.
//!
//! ```text
//!              start (priority 255)
//!   Initialize ─────────────────────────────▶ Active ──────────── phases ───────────────┐
//!       │  start                             ▲     │    Holding    adverts every interval│
//!       ▼                  silence, resigned │     │    Offering   said priority 0, waits│
//!     Backup ────────────────────────────────┘     │               for a peer's advert   │
//!       ▲   ◀──────────────────────────────────────┘    Lingering  a peer has taken over,│
//!       │         a better advert, handed over                     answers what is left  │
//!       ▼                                               Listening  after a stall, before │
//!     Fault   no link: neither speaks nor holds                    it speaks again ──────┘
//! ```
//!
//! Driven by calls that each take `now`, which never goes back: what was heard, what the box can do, what the operator wants,
//! and [`VirtualRouter::handle_timeout`] at [`VirtualRouter::next_timeout`] at the earliest, after everything received until
//! then was handed in. After each call [`VirtualRouter::next_action`] is to be asked until there is nothing, the actions
//! carried out in that order. RFC 9568 section 6.4 is followed except where a comment says otherwise.

mod active;
mod backup;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Event, State, Why};
use super::judge::{Mismatch, Said};
use super::timing::Announcements;
use super::types::{Interval, Priority, Version};
use crate::time::Micros;

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// 2 or 3.
    pub version: Version,
    /// 1 to 255.
    pub priority: Priority,
    /// Between our advertisements.
    pub interval: Interval,
    /// When a lower priority is taken over from.
    pub preemption: Preemption,
    /// For how long the condition for it must have held.
    pub preempt_delay: Duration,
    /// After the start nothing is claimed for so long.
    pub startup_delay: Duration,
    /// Announcements after the first.
    pub repeat: Vec<Duration>,
    /// Time between announcements for as long as the addresses are held; zero: none.
    pub refresh: Duration,
    /// How long what is in flight is answered after a planned handover.
    pub linger: Duration,
    /// Silence is believed only after [`Action::Arbitrate`].
    pub arbitrate: bool,
}

/// When a lower priority is taken over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// Never.
    Never,
    /// When [`Condition::ready`].
    WhenReady,
    /// Always.
    Immediate,
}

/// What this box can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// The interface is there, is up, and has an address to speak from.
    pub link: bool,
    /// It can serve. Without, it holds the addresses only when nobody else does.
    pub fit: bool,
    /// It serves, and is warm.
    pub ready: bool,
    /// Added to the priority.
    pub adjust: i16,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send an advertisement of this priority.
    Advertise(Priority),
    /// Put the addresses on this box, then call [`VirtualRouter::acquired`].
    Acquire,
    /// Announce each address by a burst.
    Announce,
    /// Announce each address by one frame.
    Refresh,
    /// The addresses are about to be handed over: get ready to [`Action::Hold`].
    Prepare,
    /// A peer has taken over and announces the addresses in a moment: new connections are its.
    Hold,
    /// The addresses stay here: new connections are ours after all.
    Unhold,
    /// End what runs over the addresses, take them off this box, then call [`VirtualRouter::released`].
    Release,
    /// Ask whether the network is there at all, then call [`VirtualRouter::arbitrated`].
    Arbitrate,
    /// Tell the operator.
    Report(Event),
}

/// What a successor of this process needs, so that nothing is decided anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// It held the addresses.
    pub active: bool,
    /// It gave them away on request.
    pub yielded: bool,
    /// When they were lost unplanned, microseconds.
    pub losses: Vec<u64>,
    /// No preemption before.
    pub held_until: u64,
    /// It stood still before it ended: a peer may have taken over.
    #[serde(default)]
    pub stalled: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct VirtualRouter {
    settings: Settings,
    /// Source of our advertisements.
    own: Option<IpAddr>,
    condition: Condition,
    role: Role,
    since: Micros,
    ready_since: Micros,
    claims_from: Micros,
    /// See [`VirtualRouter::wait_for_group`].
    group_until: Micros,
    yielded: bool,
    losses: VecDeque<Micros>,
    held_until: Micros,
    announcements: Announcements,
    last_sent: Micros,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum Role {
    Initialize,
    Backup(Backup),
    Active(Active),
    Fault { back_at: Option<Micros> },
}

#[derive(Debug)]
struct Backup {
    /// The Active Router's last advertisement, or the begin of its silence.
    basis: Micros,
    wait: Wait,
    /// How often in a row the Active Router has resigned.
    resignations: u8,
    /// Active_Adver_Interval: the Active Router's (version 3), else ours.
    interval: Interval,
    master: Option<Said>,
    /// When the Active Router was last heard, also if that does not count.
    heard: Micros,
    /// Arbitration is under way until then at most.
    arbitrating: Option<Micros>,
    /// To be said once our addresses are gone, so that whoever has them now announces them.
    last_word: Option<Priority>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Active_Down_Interval.
    Silence,
    /// Skew_Time, after priority 0.
    Resigned,
    /// Priority 0 was heard, and this box cannot serve: silence, and all the time that an offer takes.
    Unable,
}

#[derive(Debug)]
struct Active {
    next_advert: Micros,
    phase: Phase,
    /// The predecessor resigned, and may serve still: how long it is waited for. Zero: not at all.
    inherited: Duration,
    /// The addresses are on this box.
    acquired: bool,
    /// Somebody else who speaks for the addresses, since when, and when it was last heard.
    rival: Option<(Micros, Micros)>,
    /// The same of somebody who cannot understand us.
    deaf: Option<(Micros, Micros)>,
    /// While unfit: when the addresses are offered again.
    offer_at: Option<Micros>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Holding,
    Offering { until: Micros, cause: Cause },
    Lingering { until: Micros, cause: Cause },
    Listening { until: Micros },
}

/// Why the addresses are given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// This box cannot serve.
    Unfit,
    /// The operator asked for it.
    Handover,
    /// The program ends.
    Stop,
    /// The rest of the sync group has moved.
    Group,
}

/// How long a peer that has taken over from one who resigned waits at most until it announces: what its predecessor has
/// accepted is answered in that time, and nothing is lost to it, for the predecessor serves on. One that is done sooner says
/// priority 0 once more.
const SETTLE: Duration = Duration::from_millis(32);
/// The same for one that says priority 0 so often at once: it is one of us, and will say when it is done. Shorter than its
/// linger.
const SETTLE_OURS: Duration = Duration::from_millis(150);
/// keepalived says priority 0 once or twice.
pub const INSISTENT: u8 = 3;
/// A link must have been up for so long: ports that come up bounce.
const LINK_SETTLE: Duration = Duration::from_millis(500);

impl VirtualRouter {
    /// A router that does nothing until [`Self::start`].
    pub fn new(settings: Settings, condition: Condition, now: Micros) -> Self {
        Self {
            settings,
            own: None,
            condition,
            role: Role::Initialize,
            since: now,
            ready_since: now,
            claims_from: now,
            group_until: Micros(0),
            yielded: false,
            losses: VecDeque::new(),
            held_until: Micros(0),
            announcements: Announcements::default(),
            last_sent: Micros(0),
            actions: VecDeque::new(),
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        match self.role {
            Role::Initialize => State::Initialize,
            Role::Backup(_) => State::Backup,
            Role::Active(_) => State::Active,
            Role::Fault { .. } => State::Fault,
        }
    }

    /// Since when.
    pub fn since(&self) -> Micros {
        self.since
    }

    /// What the box can do, as last said.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// The Active Router, as a Backup knows it.
    pub fn master(&self) -> Option<Said> {
        match &self.role {
            Role::Backup(backup) => backup.master,
            Role::Initialize | Role::Active(_) | Role::Fault { .. } => None,
        }
    }

    /// Whether the addresses are being given away.
    pub fn is_leaving(&self) -> bool {
        let Role::Active(active) = &self.role else { return false };
        match active.phase {
            Phase::Offering { .. } | Phase::Lingering { .. } => true,
            Phase::Holding | Phase::Listening { .. } => false,
        }
    }

    /// Priority in force: the configured one and the weights, 1 while the box cannot serve. An owner is one whatever the
    /// weights say (as keepalived).
    pub fn priority(&self) -> Priority {
        if !self.condition.fit {
            return Priority::LAST;
        }
        if self.settings.priority == Priority::OWNER {
            return Priority::OWNER;
        }
        let sum = i32::from(self.settings.priority.0) + i32::from(self.condition.adjust);
        Priority(u8::try_from(sum.clamp(1, 254)).unwrap_or(1))
    }

    /// What a successor needs.
    pub fn memory(&self) -> Memory {
        Memory {
            active: self.state() == State::Active,
            yielded: self.yielded,
            losses: self.losses.iter().map(|at| at.0).collect(),
            held_until: self.held_until.0,
            stalled: false,
        }
    }

    /// The source of our advertisements: ties are decided by it.
    pub fn set_source(&mut self, own: Option<IpAddr>) {
        self.own = own;
    }

    /// Begins to take part.
    pub fn start(&mut self, now: Micros) {
        self.claims_from = now.after(self.settings.startup_delay);
        self.ready_since = now;
        if !self.condition.link {
            self.enter(Role::Fault { back_at: None }, Why::NoLink, now);
        } else if self.priority() == Priority::OWNER {
            // RFC 9568 6.4.1 (100): the owner is not asked to wait.
            self.promote(Why::Owner, now);
        } else {
            self.enter_backup(None, now, Why::Started, now);
        }
    }

    /// Goes on where a predecessor that died left off: the addresses are still on the box.
    pub fn resume(&mut self, memory: &Memory, now: Micros) {
        self.yielded = memory.yielded;
        self.losses = memory.losses.iter().map(|at| Micros(*at)).collect();
        self.held_until = Micros(memory.held_until);
        self.ready_since = now;
        if memory.active && self.condition.link && memory.stalled {
            let interval = self.settings.interval.get();
            self.take(Why::Resumed, Phase::Listening { until: now.after(interval + interval / 8) }, now);
            self.push(Action::Acquire);
        } else if memory.active && self.condition.link {
            self.promote(Why::Resumed, now);
        } else {
            if memory.active {
                // The link went while nobody ran.
                self.push(Action::Release);
            }
            self.start(now);
            self.claims_from = now;
        }
    }

    /// A peer's advertisement, received at `at`.
    pub fn handle_advert(&mut self, said: Said, at: Micros, now: Micros) {
        match &mut self.role {
            Role::Initialize | Role::Fault { .. } => {}
            Role::Backup(_) => self.backup_heard(said, at, now),
            Role::Active(_) => self.active_heard(said, at, now),
        }
    }

    /// An advertisement of a live peer that we do not understand each other with, received at `at`.
    pub fn handle_alive(&mut self, mismatch: Mismatch, said: Said, at: Micros, now: Micros) {
        // Who resigns is not there any more, whatever it thinks of our configuration.
        if said.priority == Priority::RESIGN {
            return;
        }
        let loses = self.loses_to(&said);
        match &mut self.role {
            Role::Initialize | Role::Fault { .. } => {}
            Role::Backup(backup) => {
                backup.basis = backup.basis.max(at);
                backup.wait = Wait::Silence;
                // The slower of the two: its next word may be that far away.
                backup.interval = self.settings.interval.max(said.interval);
                backup.arbitrating = None;
                (backup.master, backup.heard) = (Some(said), at);
            }
            Role::Active(active) => match (active.phase, mismatch) {
                (Phase::Offering { .. } | Phase::Lingering { .. } | Phase::Listening { .. }, _) => {
                    self.active_heard(said, at, now);
                }
                // Whoever does not know the password is not to take the addresses by talking.
                (Phase::Holding, Mismatch::Authentication) => {}
                (Phase::Holding, Mismatch::Version | Mismatch::Interval | Mismatch::Cast) => {
                    if loses {
                        self.yield_to(said, Why::Mismatch, now);
                        return;
                    }
                    self.doubt(said, at, now);
                }
            },
        }
    }

    /// What this box can do has changed.
    pub fn set_condition(&mut self, condition: Condition, now: Micros) {
        let before = std::mem::replace(&mut self.condition, condition);
        if condition.ready && !before.ready {
            self.ready_since = now;
        }
        if before.link != condition.link {
            self.link_changed(now);
        }
        if before.fit && !condition.fit {
            match &mut self.role {
                // Someone who cannot serve waits for full silence, whoever resigns.
                Role::Backup(backup) if backup.wait == Wait::Resigned => backup.wait = Wait::Unable,
                Role::Backup(_) => {}
                Role::Active(active) if matches!(active.phase, Phase::Holding | Phase::Listening { .. }) => {
                    self.lost(now);
                    self.offer(Cause::Unfit, now);
                }
                Role::Active(_) | Role::Initialize | Role::Fault { .. } => {}
            }
        } else if !before.fit
            && condition.fit
            && let Role::Active(active) = &mut self.role
        {
            active.offer_at = None;
            if let Phase::Offering { cause: Cause::Unfit, .. } = active.phase {
                active.phase = Phase::Holding;
            }
            if active.phase == Phase::Holding {
                self.advertise(now);
            }
        }
    }

    /// Gives the addresses to a peer; the caller has drained what could be drained. Nothing happens unless it holds them.
    pub fn hand_over(&mut self, now: Micros) {
        if let Role::Active(Active { phase: Phase::Holding | Phase::Listening { .. }, .. }) = &self.role {
            self.offer(Cause::Handover, now);
        }
    }

    /// Gives the addresses to a peer if there is one, and takes no more part. [`State::Initialize`] is reported when it is
    /// done; no later than the longest skew, a margin, and the linger.
    pub fn stop(&mut self, now: Micros) {
        match &mut self.role {
            Role::Initialize => {}
            Role::Backup(_) | Role::Fault { .. } => self.enter(Role::Initialize, Why::Stopped, now),
            Role::Active(active) => match &mut active.phase {
                Phase::Offering { cause, .. } | Phase::Lingering { cause, .. } => *cause = Cause::Stop,
                Phase::Holding | Phase::Listening { .. } => self.offer(Cause::Stop, now),
            },
        }
    }

    /// Lets go at once, and takes no more part.
    pub fn stop_now(&mut self, now: Micros) {
        match &self.role {
            Role::Active(active) => {
                if !matches!(active.phase, Phase::Lingering { .. }) {
                    self.push(Action::Advertise(Priority::RESIGN));
                }
                self.release(Role::Initialize, Why::Stopped, now);
            }
            Role::Backup(_) | Role::Fault { .. } => self.enter(Role::Initialize, Why::Stopped, now),
            Role::Initialize => {}
        }
    }

    /// Another of its sync group has an Active Router until then at least: a Backup claims nothing before (as keepalived),
    /// or the group would hold its addresses in part.
    pub fn wait_for_group(&mut self, until: Micros) {
        self.group_until = until;
    }

    /// The rest of its sync group has taken its addresses.
    pub fn follow_up(&mut self, now: Micros) {
        if let Role::Backup(_) = &self.role {
            self.promote(Why::Group, now);
        }
    }

    /// The rest of its sync group has given its addresses away.
    pub fn follow_down(&mut self, now: Micros) {
        if let Role::Active(Active { phase: Phase::Holding | Phase::Listening { .. }, .. }) = &self.role {
            self.offer(Cause::Group, now);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Micros> {
        match &self.role {
            Role::Initialize => None,
            Role::Fault { back_at } => *back_at,
            Role::Backup(backup) => backup.arbitrating.or_else(|| self.down_at()),
            Role::Active(active) => {
                let phase = match active.phase {
                    Phase::Holding => active.next_advert,
                    Phase::Offering { until, .. } | Phase::Lingering { until, .. } | Phase::Listening { until } => {
                        until
                    }
                };
                let others =
                    [self.announcements_next(active), active.offer_at.filter(|_| active.phase == Phase::Holding)];
                others.into_iter().flatten().chain([phase]).min()
            }
        }
    }

    /// Does what is due. Everything received until `now` must have been handed in.
    pub fn handle_timeout(&mut self, now: Micros) {
        match &mut self.role {
            Role::Initialize => {}
            Role::Fault { back_at } => {
                if back_at.is_some_and(|at| at <= now) {
                    self.enter_backup(None, now, Why::LinkUp, now);
                }
            }
            Role::Backup(_) => self.backup_due(now),
            Role::Active(_) => self.active_due(now),
        }
    }

    /// What is to be done next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn link_changed(&mut self, now: Micros) {
        if self.condition.link {
            if let Role::Fault { back_at } = &mut self.role {
                *back_at = Some(now.after(LINK_SETTLE));
            }
            return;
        }
        match &mut self.role {
            Role::Initialize => {}
            Role::Fault { back_at } => *back_at = None,
            Role::Backup(_) => self.enter(Role::Fault { back_at: None }, Why::NoLink, now),
            Role::Active(Active {
                phase: Phase::Offering { cause: Cause::Stop, .. } | Phase::Lingering { cause: Cause::Stop, .. },
                ..
            }) => self.release(Role::Initialize, Why::Stopped, now),
            Role::Active(_) => {
                self.lost(now);
                // It may be one direction, or one address, that is gone.
                self.push(Action::Advertise(Priority::RESIGN));
                self.release(Role::Fault { back_at: None }, Why::NoLink, now);
            }
        }
    }

    fn promote(&mut self, why: Why, now: Micros) {
        self.take(why, Phase::Holding, now);
        // First the word, then the addresses: whoever held them lets go meanwhile (RFC 9568 6.4.2 (405)).
        self.advertise(now);
        self.push(Action::Acquire);
    }

    fn take(&mut self, why: Why, phase: Phase, now: Micros) {
        let active = Active {
            next_advert: now,
            phase,
            inherited: self.settle(),
            acquired: false,
            rival: None,
            deaf: None,
            offer_at: (!self.condition.fit).then(|| now.after(active::OFFER_AGAIN)),
        };
        self.yielded = false;
        self.enter(Role::Active(active), why, now);
    }

    fn new_backup(&self, master: Option<Said>, basis: Micros) -> Backup {
        let learned = master.filter(|_| self.settings.version == Version::V3).map(|said| said.interval);
        Backup {
            basis,
            wait: Wait::Silence,
            resignations: 0,
            interval: learned.unwrap_or(self.settings.interval),
            master,
            heard: basis,
            arbitrating: None,
            last_word: None,
        }
    }

    fn enter_backup(&mut self, master: Option<Said>, basis: Micros, why: Why, now: Micros) {
        let backup = self.new_backup(master, basis);
        self.enter(Role::Backup(backup), why, now);
    }

    fn enter(&mut self, role: Role, why: Why, now: Micros) {
        let from = self.state();
        self.role = role;
        self.since = now;
        self.push(Action::Report(Event::Changed { from, to: self.state(), why }));
    }
}

#[cfg(test)]
mod tests;
