//! Which of the servers that say they are the primary is taken for it.
//!
//! A claim is as fresh as the last probe: one good probe makes it, one that says replica takes it back, and one that fails
//! makes it doubtful until `fall` of them have ended it. New work goes to at most one server at any moment:
//! - One claim, fresh or doubtful: that server, so that a lost probe does not stop writes.
//! - A fresh claim beside doubtful ones: the fresh one, so that a promotion after a death waits for one failed probe, not
//!   for `fall` of them.
//! - Two fresh claims: none. It is usually a promotion seen in the wrong order, over when the old primary is probed next.
//!   When every claimant has repeated its claim, it is a conflict: from then on a failed probe settles nothing, only a
//!   server that says replica, is down, or is gone does.
//!
//! With [`Policy::First`] (all may be written to, and one is to be), two claims are no conflict.

use serde::{Deserialize, Serialize};

/// What a server says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows another server.
    Replica,
}

/// What is done with several primaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// There is to be one: with two, neither gets anything new.
    #[default]
    One,
    /// The first in file order; `failback`: also when another is in use and works.
    First {
        /// Whether an earlier server is gone back to at once.
        failback: bool,
    },
}

/// What a probe, or the lack of one, says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A good probe.
    Says(Role),
    /// A probe failed, and the server is not down yet.
    Failed,
    /// The server is down, or not checked any more.
    Down,
}

/// What a server is to those who pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing is known.
    #[default]
    Unknown,
    /// A replica.
    Replica,
    /// The primary.
    Primary,
    /// It says that it is the primary, and is not taken for it.
    Claimant,
}

impl Standing {
    /// The word in status.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Replica => Some("replica"),
            Self::Primary => Some("primary"),
            Self::Claimant => Some("claimant"),
        }
    }
}

/// What an observation has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This server is the primary now; `from`: another was before.
    Elected {
        /// Which.
        id: u32,
        /// The one before, whose connections are to end.
        from: Option<u32>,
    },
    /// This server was the primary and says it is a replica: its connections are to end.
    Resigned(u32),
    /// Several servers insist on being the primary.
    Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    None,
    Replica,
    Fresh,
    Doubtful,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    id: u32,
    /// By the operator and the file.
    usable: bool,
    claim: Claim,
    /// It has claimed again since there were two.
    insists: bool,
}

/// The servers of one pool.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    policy: Policy,
    /// In file order.
    members: Vec<Member>,
    primary: Option<u32>,
    /// The last primary: it keeps its connections until another is elected, or it resigns.
    holder: Option<u32>,
    conflict: bool,
}

impl Roles {
    /// These servers, in file order, from now on; those known before keep their claims. `usable`: the operator lets it
    /// have new work.
    pub fn set_members(&mut self, policy: Policy, members: impl Iterator<Item = (u32, bool)>) -> Option<Change> {
        let known = std::mem::take(&mut self.members);
        let member = |(id, usable)| {
            let before = known.iter().find(|member| member.id == id);
            before.map_or(Member { id, usable, claim: Claim::None, insists: false }, |m| Member { usable, ..*m })
        };
        self.members = members.map(member).collect();
        self.policy = policy;
        self.elect()
    }

    /// Takes in what was seen of a server; one that is not a member is ignored.
    pub fn on_observation(&mut self, id: u32, seen: Observation) -> Option<Change> {
        let member = self.members.iter_mut().find(|member| member.id == id)?;
        let clash = member.claim == Claim::Fresh;
        member.claim = match (seen, member.claim) {
            (Observation::Says(Role::Primary), _) => Claim::Fresh,
            (Observation::Says(Role::Replica), _) => Claim::Replica,
            (Observation::Failed, Claim::Fresh) => Claim::Doubtful,
            (Observation::Failed, before) => before,
            (Observation::Down, _) => Claim::None,
        };
        member.insists |= clash && seen == Observation::Says(Role::Primary);
        self.elect()
    }

    /// The one that gets new work for a primary.
    pub fn primary(&self) -> Option<u32> {
        self.primary
    }

    /// Whether several servers insist on being the primary.
    pub fn is_in_conflict(&self) -> bool {
        self.conflict
    }

    /// Whether several servers say that they are the only primary, and have not all repeated it yet.
    pub fn is_disputed(&self) -> bool {
        let fresh = self.members.iter().filter(|member| member.claim == Claim::Fresh).count();
        self.policy == Policy::One && !self.conflict && fresh > 1
    }

    /// What each server is.
    pub fn standings(&self) -> impl Iterator<Item = (u32, Standing)> {
        self.members.iter().map(|member| {
            let standing = match member.claim {
                _ if self.primary == Some(member.id) => Standing::Primary,
                Claim::None => Standing::Unknown,
                Claim::Replica => Standing::Replica,
                Claim::Fresh | Claim::Doubtful => Standing::Claimant,
            };
            (member.id, standing)
        })
    }

    fn elect(&mut self) -> Option<Change> {
        let had = self.primary;
        let was_conflict = self.conflict;
        // In a conflict a claim stands until it is taken back or the server is down.
        let counts = |member: &&Member| member.claim == Claim::Fresh || was_conflict && member.claim == Claim::Doubtful;
        let claims = self.members.iter().filter(counts).count();
        if claims < 2 || self.policy != Policy::One {
            self.conflict = false;
            self.members.iter_mut().for_each(|member| member.insists = false);
        } else {
            self.conflict |= self.members.iter().all(|member| member.claim != Claim::Fresh || member.insists);
        }
        self.primary = match self.policy {
            Policy::One if claims > 1 => None,
            Policy::One => self.only().or_else(|| self.held(had)),
            Policy::First { failback } => self.first(had, failback),
        };
        let holder = self.holder.filter(|id| self.claim_of(*id).is_some());
        match self.primary {
            Some(id) if self.holder == Some(id) && had == Some(id) => None,
            Some(id) => {
                let from = self.holder.replace(id).filter(|from| *from != id);
                Some(Change::Elected { id, from })
            }
            None if self.conflict && !was_conflict => Some(Change::Conflict),
            None if holder.is_some_and(|id| self.claim_of(id) == Some(Claim::Replica)) => {
                self.holder = None;
                holder.map(Change::Resigned)
            }
            None => None,
        }
    }

    fn claim_of(&self, id: u32) -> Option<Claim> {
        self.members.iter().find(|member| member.id == id).map(|member| member.claim)
    }

    /// The one fresh claim, of at most one.
    fn only(&self) -> Option<u32> {
        self.members.iter().find(|member| member.claim == Claim::Fresh).map(|member| member.id)
    }

    /// Without a fresh claim: the primary of before, whose probe failed.
    fn held(&self, had: Option<u32>) -> Option<u32> {
        let last = had.or(self.holder)?;
        (self.claim_of(last) == Some(Claim::Doubtful)).then_some(last)
    }

    fn first(&self, had: Option<u32>, failback: bool) -> Option<u32> {
        let of = |claim| self.members.iter().filter(move |member| member.usable && member.claim == claim);
        let present = had.or(self.holder);
        let stays = of(Claim::Fresh).chain(of(Claim::Doubtful)).find(|member| Some(member.id) == present);
        let first = of(Claim::Fresh).next();
        // A fresh claim goes before a doubtful one, but for a server that is to be stayed with.
        let chosen = if failback { first.or(stays) } else { stays.or(first) };
        chosen.map(|member| member.id)
    }
}

#[cfg(test)]
mod tests;
