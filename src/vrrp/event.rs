//! What the operator is told.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::Priority;
use crate::time::Micros;

/// State of a virtual router (RFC 9568 section 6.4; Fault is keepalived's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Takes no part.
    Initialize,
    /// Watches the Active Router.
    Backup,
    /// Holds the addresses.
    Active,
    /// No link: takes no part until there is one.
    Fault,
}

impl State {
    /// keepalived's name, which scripts know.
    pub fn keepalived(self) -> &'static str {
        match self {
            Self::Initialize => "STOP",
            Self::Backup => "BACKUP",
            Self::Active => "MASTER",
            Self::Fault => "FAULT",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active (master)",
            Self::Fault => "fault",
        })
    }
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The program started.
    Started,
    /// Priority 255.
    Owner,
    /// This process was replaced; nothing changed on the wire.
    Resumed,
    /// No advertisement for three intervals and the skew.
    PeerSilent,
    /// The Active Router said priority 0.
    PeerResigned,
    /// Our priority is higher, and preemption is allowed.
    Preempting,
    /// A peer has a higher priority.
    HigherPriority,
    /// A peer has the same priority and the higher address.
    Tie,
    /// A peer took over while this process stood still.
    Overtaken,
    /// A peer that is configured otherwise has a higher priority.
    Mismatch,
    /// A peer that is configured otherwise does not hear us, and goes on.
    Deaf,
    /// This box cannot serve, and a peer can.
    Unfit,
    /// The operator asked for it.
    HandedOver,
    /// The program ends.
    Stopped,
    /// The interface or its address is gone.
    NoLink,
    /// The interface is back.
    LinkUp,
    /// The sync group moved.
    Group,
}

impl Why {
    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Owner => "owner of the addresses",
            Self::Resumed => "vrrp process replaced",
            Self::PeerSilent => "no advertisement from the active router",
            Self::PeerResigned => "the active router resigned",
            Self::Preempting => "our priority is higher",
            Self::HigherPriority => "a peer has a higher priority",
            Self::Tie => "a peer has the same priority and a higher address",
            Self::Overtaken => "a peer took over while this process stood still",
            Self::Mismatch => "a peer that is configured otherwise has a higher priority",
            Self::Deaf => "a peer that is configured otherwise does not hear us",
            Self::Unfit => "this box cannot serve, and a peer can",
            Self::HandedOver => "handed over",
            Self::Stopped => "stopped",
            Self::NoLink => "the interface is down, or has no address",
            Self::LinkUp => "the interface is up",
            Self::Group => "with its sync group",
        }
    }
}

/// Something the operator may want to know. Each is reported once, not once a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A new state.
    Changed {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Why.
        why: Why,
    },
    /// Two masters: somebody with a lower claim speaks for the addresses too.
    Rival {
        /// Who.
        source: IpAddr,
        /// With which priority.
        priority: Priority,
    },
    /// It has stopped.
    RivalGone,
    /// Nobody took the addresses that were to be handed over.
    NoTaker,
    /// None of the hosts that decide answered: this box is cut off, and does not take the addresses.
    Isolated,
    /// This process stood still for so long that a peer may have taken over.
    Stalled {
        /// How late the advertisement is.
        late: Duration,
    },
    /// The addresses were lost three times in ten minutes.
    PreemptionHeld {
        /// Until when this box does not preempt.
        until: Micros,
    },
}
