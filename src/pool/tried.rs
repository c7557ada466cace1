//! Which servers a request has been on, and which it may go to at all.

use crate::config::model::{Fallback, RoleRule};
use crate::health::Role;
use crate::health::roles::Standing;

use super::Server;

use super::Stick;

/// The servers one request has tried. They are known by their ids, so that the set stays right when a retry comes to a
/// newer snapshot. No allocation up to [`Tried::INLINE`] servers.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    inline: [u32; Self::INLINE],
    len: usize,
    more: Vec<u32>,
    wanted: Option<Wanted>,
    stick: Stick,
}

/// Only servers of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of this one.
    pub role: Role,
    /// When none of `role` can be used.
    pub fallback: Fallback,
}

impl Wanted {
    /// Whether `server`, picked as the primary, has ceased to be it since.
    pub fn is_lost_by(self, server: &Server) -> bool {
        let standing = server.standing();
        let may_fall_back = self.fallback != Fallback::None && standing == Standing::Replica;
        self.role == Role::Primary && standing != Standing::Primary && !may_fall_back
    }

    /// Whether `has` is true of what is wanted, or of what is fallen back to; without a wish of any server.
    pub(super) fn finds(wanted: Option<Self>, has: impl Fn(Option<Role>) -> bool) -> bool {
        let Some(Self { role, fallback }) = wanted else { return has(None) };
        has(Some(role)) || matches!(fallback, Fallback::To(role) if has(role))
    }
}

impl From<RoleRule> for Wanted {
    fn from(RoleRule { role, fallback, .. }: RoleRule) -> Self {
        Self { role, fallback }
    }
}

impl Tried {
    /// Servers held without allocation; more retries than that are rare.
    pub const INLINE: usize = 7;

    /// Nothing tried yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing tried yet, and only servers of a role are wanted; `None`: any server.
    pub fn wanting(wanted: Option<Wanted>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// What is wanted.
    pub fn wanted(&self) -> Option<Wanted> {
        self.wanted
    }

    /// What is known of the client, which is to stay with its server.
    pub fn stick_to(&mut self, stick: Stick) {
        self.stick = stick;
    }

    pub(super) fn stick(&self) -> Stick {
        self.stick
    }

    pub(super) fn stick_mut(&mut self) -> &mut Stick {
        &mut self.stick
    }

    /// Whether nothing has been tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many servers have been tried.
    pub fn len(&self) -> usize {
        self.len + self.more.len()
    }

    /// Whether the server of this id has been tried.
    pub fn contains(&self, id: u32) -> bool {
        self.inline[..self.len].contains(&id) || self.more.contains(&id)
    }

    pub(super) fn insert(&mut self, id: u32) {
        match self.inline.get_mut(self.len) {
            Some(free) => {
                *free = id;
                self.len += 1;
            }
            None => self.more.push(id),
        }
    }
}
