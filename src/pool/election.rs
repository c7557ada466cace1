//! Who is the primary of a pool: the decision of [`Roles`], made to hold for all workers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::health::Role;
use crate::health::roles::{Change, Observation, Roles, Standing};

use super::Server;

const UNKNOWN: u8 = 0;
const REPLICA: u8 = 1;
const PRIMARY: u8 = 2;
const CLAIMANT: u8 = 3;

/// Shared by the servers of a pool, and by its snapshots. Written by the control runtime only.
#[derive(Debug, Default)]
pub(super) struct Election {
    state: Mutex<State>,
    in_conflict: AtomicBool,
    conflicts: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    roles: Roles,
    members: Vec<Weak<Server>>,
}

/// What a server is, for every pick; and how often it has ceased to be the primary.
#[derive(Debug, Default)]
pub(super) struct Part {
    standing: AtomicU8,
    losses: AtomicU32,
}

/// What an observation has changed, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleChange {
    /// A server is the primary now; `from`: the one before.
    Elected {
        /// Its name.
        name: Arc<str>,
        /// The name of the one before, whose sessions end.
        from: Option<Arc<str>>,
    },
    /// The primary says that it is a replica; nobody is the primary.
    Resigned(Arc<str>),
    /// These servers say, again and again, that they are the primary.
    Conflict(Vec<Arc<str>>),
}

impl Part {
    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::SeqCst) {
            REPLICA => Standing::Replica,
            PRIMARY => Standing::Primary,
            CLAIMANT => Standing::Claimant,
            _ => Standing::Unknown,
        }
    }

    pub(super) fn losses(&self) -> u32 {
        self.losses.load(Ordering::SeqCst)
    }

    fn set(&self, standing: Standing) {
        let code = match standing {
            Standing::Unknown => UNKNOWN,
            Standing::Replica => REPLICA,
            Standing::Primary => PRIMARY,
            Standing::Claimant => CLAIMANT,
        };
        self.standing.store(code, Ordering::SeqCst);
    }
}

impl Election {
    /// See [`Roles::set_members`].
    pub(super) fn set_members(
        &self,
        policy: crate::health::roles::Policy,
        members: Vec<(Arc<Server>, bool)>,
    ) -> Option<RoleChange> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut state.members);
        let change = state.roles.set_members(policy, members.iter().map(|(server, usable)| (server.id, *usable)));
        state.members = members.iter().map(|(server, _)| Arc::downgrade(server)).collect();
        for gone in before.iter().filter_map(Weak::upgrade).filter(|s| members.iter().all(|(m, _)| m.id != s.id)) {
            gone.role.set(Standing::Unknown);
        }
        self.apply(&state, change, &before)
    }

    /// See [`Roles::on_observation`].
    pub(super) fn on_observation(&self, id: u32, seen: Observation) -> Option<RoleChange> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let change = state.roles.on_observation(id, seen);
        self.apply(&state, change, &[])
    }

    fn is_disputed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).roles.is_disputed()
    }

    pub(super) fn is_in_conflict(&self) -> bool {
        self.in_conflict.load(Ordering::Relaxed)
    }

    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    fn apply(&self, state: &State, change: Option<Change>, also: &[Weak<Server>]) -> Option<RoleChange> {
        let find = |id: u32| {
            let all = state.members.iter().chain(also).filter_map(Weak::upgrade);
            all.into_iter().find(|server| server.id == id)
        };
        let set = |wanted: bool| {
            for (id, standing) in state.roles.standings().filter(|(_, s)| (*s == Standing::Primary) == wanted) {
                if let Some(server) = find(id).filter(|server| server.role.standing() != standing) {
                    server.role.set(standing);
                }
            }
        };
        // The old one first, so that no two are the primary at any moment.
        set(false);
        let lost = match change {
            Some(Change::Elected { from, .. }) => from,
            Some(Change::Resigned(id)) => Some(id),
            Some(Change::Conflict) | None => None,
        };
        if let Some(server) = lost.and_then(find) {
            server.role.losses.fetch_add(1, Ordering::SeqCst);
        }
        set(true);
        self.in_conflict.store(state.roles.is_in_conflict(), Ordering::Relaxed);
        let name = |id: u32| find(id).map(|server| Arc::clone(&server.name));
        match change? {
            Change::Elected { id, from } => Some(RoleChange::Elected { name: name(id)?, from: from.and_then(name) }),
            Change::Resigned(id) => Some(RoleChange::Resigned(name(id)?)),
            Change::Conflict => {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
                let claimants = state.roles.standings().filter(|(_, s)| *s == Standing::Claimant);
                Some(RoleChange::Conflict(claimants.filter_map(|(id, _)| name(id)).collect()))
            }
        }
    }
}

impl Server {
    /// What it is, by its checks.
    pub fn standing(&self) -> Standing {
        self.role.standing()
    }

    /// How often it has ceased to be the primary, for who holds on to it as such.
    pub fn role_losses(&self) -> u32 {
        self.role.losses()
    }

    /// Takes in what a probe says of its role; what that has changed in its pool.
    pub fn observe_role(&self, seen: Observation) -> Option<RoleChange> {
        let change = self.election.on_observation(self.id, seen);
        // Those who wait for a server of a role may have one now.
        self.queue.on_release();
        change
    }

    /// Whether it is not settled which of several servers of its pool is the primary.
    pub fn is_role_disputed(&self) -> bool {
        self.election.is_disputed()
    }

    /// What it says of itself, for a successor.
    pub(super) fn claim(&self) -> Option<Role> {
        match self.standing() {
            Standing::Unknown => None,
            Standing::Replica => Some(Role::Replica),
            Standing::Primary | Standing::Claimant => Some(Role::Primary),
        }
    }

    /// Whether a request that wants `role` may go to it.
    pub(super) fn has_role(&self, role: Option<Role>) -> bool {
        match role {
            None => true,
            Some(Role::Primary) => self.standing() == Standing::Primary,
            Some(Role::Replica) => self.standing() == Standing::Replica,
        }
    }
}
