//! What supervisor and vrrp process say to each other.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;
use crate::vrrp::event::{State, Why};
use crate::vrrp::machine::Memory;
use crate::vrrpd::report::{Fitness, Status};

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) enum ToVrrp {
    /// The first message. Descriptors: the write end of the proxy's guard, then the doors.
    Start(Start),
    /// What the rest of the box says of each router.
    Fitness(Vec<Fitness>),
    /// Another proxy serves. Descriptor: its pidfd.
    Proxy,
    /// Connections to virtual addresses come by other sockets from now on. Descriptors: the doors.
    Doors,
    /// Give the addresses of a router to a peer.
    HandOver {
        /// Its number.
        router: usize,
    },
    /// Give them to a peer if there is one, and take no more part; [`FromVrrp::Stopped`] follows.
    Stop,
    /// The same without waiting for anybody.
    StopNow,
    /// The answer to [`FromVrrp::Held`].
    Finished,
    /// The answer to [`FromVrrp::Leaving`].
    Aborted {
        /// As there.
        token: u64,
    },
    /// Another process is about to take over: keep the addresses, tell a last status, then [`FromVrrp::Retired`], and leave.
    Retire,
    /// Leave. The end of the channel without it means that the supervisor died.
    End,
}

/// All that the process needs to begin.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct Start {
    /// Name of this box.
    pub(in crate::app) node: String,
    /// The whole configuration as one TOML text.
    pub(in crate::app) config: String,
    /// As [`ToVrrp::Fitness`].
    pub(in crate::app) fitness: Vec<Fitness>,
    /// Of a process before this one, by name of the router.
    pub(in crate::app) memories: Vec<(Arc<str>, Memory)>,
    /// Number of listening sockets that take connections to virtual addresses.
    pub(in crate::app) doors: usize,
}

/// What the vrrp process says.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) enum FromVrrp {
    /// It runs, and waits for [`ToVrrp::Start`].
    Here,
    /// The answer to [`ToVrrp::Retire`]: nothing is sent or changed any more.
    Retired,
    /// Everything, after a change and several times a second.
    Status(Status),
    /// How its urgent thread is scheduled.
    Scheduling(String),
    /// A router has changed its state.
    Changed {
        /// Its number.
        router: usize,
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Why.
        why: Why,
    },
    /// A handover was not taken by anybody.
    NoTaker {
        /// Of this router.
        router: usize,
    },
    /// A peer has taken over, and waits until what is under way has been answered; then [`ToVrrp::Finished`].
    Held,
    /// Connections to these addresses are to be reset, then [`ToVrrp::Aborted`].
    Leaving {
        /// To be given back.
        token: u64,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Connections to these addresses that came since then are to be reset.
    Left {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// No router takes part any more, and no address is left.
    Stopped,
}

/// The supervisor's end.
pub(in crate::app) type ToVrrpChannel = Channel<FromVrrp, ToVrrp>;
/// The vrrp process's end.
pub(in crate::app) type FromVrrpChannel = Channel<ToVrrp, FromVrrp>;
