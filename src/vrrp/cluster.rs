//! All virtual routers of a box. Those of a sync group hold their addresses together or not at all: the IPv4 and the IPv6
//! address of one service, or the two sides of a router (keepalived's `vrrp_sync_group`).
//!
//! Driven as a [`VirtualRouter`] is; calls go through [`Cluster::with`], which lets the rest of the group follow.

use super::event::State;
use super::machine::{Action, Condition, VirtualRouter};
use crate::time::Micros;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Cluster {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    router: VirtualRouter,
    /// Number of the sync group.
    group: Option<usize>,
    /// Its own condition; the router's is that of its group.
    condition: Condition,
}

impl Cluster {
    /// Adds a router, whose index is that of the call.
    pub fn add(&mut self, router: VirtualRouter, group: Option<usize>) {
        let condition = router.condition();
        self.members.push(Member { router, group, condition });
    }

    /// A router.
    pub fn get(&self, index: usize) -> Option<&VirtualRouter> {
        self.members.get(index).map(|member| &member.router)
    }

    /// All of them.
    pub fn routers(&self) -> impl Iterator<Item = &VirtualRouter> {
        self.members.iter().map(|member| &member.router)
    }

    /// Calls `f` on a router, after which the rest of its group follows it.
    pub fn with(&mut self, index: usize, now: Micros, f: impl FnOnce(&mut VirtualRouter)) {
        let Some(member) = self.members.get_mut(index) else { return };
        let before = member.router.state();
        f(&mut member.router);
        let (after, group) = (member.router.state(), member.group);
        if group.is_none() {
            return;
        }
        if before != after {
            self.follow(index, group, (before, after), now);
        }
        self.wait_for_each_other(group);
    }

    /// The rest of the group follows one that has changed its state.
    fn follow(&mut self, index: usize, group: Option<usize>, change: (State, State), now: Micros) {
        for (_, other) in self.members.iter_mut().enumerate().filter(|(i, m)| *i != index && m.group == group) {
            match change {
                (_, State::Active) => other.router.follow_up(now),
                // Ends with the rest of the program, by its own call.
                (State::Active, State::Initialize) => {}
                (State::Active, _) => other.router.follow_down(now),
                _ => {}
            }
        }
    }

    /// Nobody of a group claims its addresses while another hears an Active Router.
    fn wait_for_each_other(&mut self, group: Option<usize>) {
        let of_group = |m: &&Member| m.group == group;
        let Some(last) = self.members.iter().filter(of_group).filter_map(|m| m.router.silent_at()).max() else {
            return;
        };
        self.members.iter_mut().filter(|m| m.group == group).for_each(|m| m.router.wait_for_group(last));
    }

    /// Has a router give its addresses to a peer, and the rest of its group with it: one after the other, the peer's would
    /// take the first, find its twins still held, and give it back.
    pub fn hand_over(&mut self, index: usize, now: Micros) {
        let Some(group) = self.members.get(index).map(|member| member.group) else { return };
        for i in 0..self.members.len() {
            if i == index || (group.is_some() && self.members[i].group == group) {
                self.with(i, now, |router| router.hand_over(now));
            }
        }
    }

    /// What a router can do has changed. A group can do what all of it can: it gives everything away, or takes it, at once.
    pub fn set_condition(&mut self, index: usize, condition: Condition, now: Micros) {
        let Some(member) = self.members.get_mut(index) else { return };
        member.condition = condition;
        let group = member.group;
        let concerned = |i: usize, m: &Member| i == index || (group.is_some() && m.group == group);
        let all = || self.members.iter().enumerate().filter(|(i, m)| concerned(*i, m)).map(|(_, m)| m.condition);
        let common = Condition {
            link: false,
            fit: all().all(|c| c.fit && (c.link || group.is_none())),
            ready: all().all(|c| c.ready),
            adjust: all().map(|c| c.adjust).min().unwrap_or(0),
        };
        let changes: Vec<_> = self
            .members
            .iter()
            .enumerate()
            .filter(|(i, m)| concerned(*i, m))
            .map(|(i, m)| (i, Condition { link: m.condition.link, ..common }))
            .filter(|(i, condition)| self.get(*i).is_some_and(|router| router.condition() != *condition))
            .collect();
        for (i, condition) in changes {
            self.with(i, now, |router| router.set_condition(condition, now));
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Micros> {
        self.routers().filter_map(VirtualRouter::next_timeout).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Micros) {
        for index in 0..self.members.len() {
            if self.get(index).and_then(VirtualRouter::next_timeout).is_some_and(|at| at <= now) {
                self.with(index, now, |router| router.handle_timeout(now));
            }
        }
    }

    /// What is to be done next, and by which router.
    pub fn next_action(&mut self) -> Option<(usize, Action)> {
        self.members
            .iter_mut()
            .enumerate()
            .find_map(|(i, member)| member.router.next_action().map(|action| (i, action)))
    }
}

#[cfg(test)]
mod tests;
