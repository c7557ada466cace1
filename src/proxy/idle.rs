//! Connections to the servers of one pool, of one worker: idle ones (nginx's `keepalive`), and those of HTTP/2, which are
//! shared.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::config::model;
use crate::net::wheel::Wheel;
use crate::proxy::link::Link;
use crate::proxy::link::shared::{Opener, Opening, Shared, Ticket};
use crate::time::Millis;

/// A connection to a server, and what counts towards its end.
#[derive(Debug)]
pub(crate) struct ServerConn {
    /// What carries it.
    pub(crate) link: Link,
    /// [`crate::pool::Server::id`] of the server it leads to.
    pub(crate) server: u32,
    /// When it was opened.
    pub(crate) born: Millis,
    /// Requests sent on it.
    pub(crate) requests: u32,
    /// [`crate::pool::Server::role_losses`] when it was last used for what ends with the role; `None`: it was not.
    pub(crate) losses: Option<u32>,
    /// Since when it is idle.
    idle_since: Millis,
}

impl ServerConn {
    /// A place on a shared connection.
    pub(crate) fn shared(ticket: Ticket, server: u32, born: Millis) -> Self {
        let requests = ticket.requests_before();
        Self { requests, ..Self::new(Link::Http2(Box::new(ticket.open())), server, born) }
    }

    /// A fresh connection.
    pub(crate) fn new(link: Link, server: u32, born: Millis) -> Self {
        Self { link, server, born, requests: 0, losses: None, idle_since: born }
    }

    fn may_be_used(&self, config: &model::Pool, now: Millis) -> bool {
        u128::from(now.since(self.idle_since)) < config.keepalive_timeout.as_millis() && self.may_be_kept(config, now)
    }

    fn may_be_kept(&self, config: &model::Pool, now: Millis) -> bool {
        self.requests < config.keepalive_requests
            && u128::from(now.since(self.born)) < config.keepalive_time.as_millis()
    }
}

/// Most recently used last.
#[derive(Debug, Default)]
pub(crate) struct IdleList {
    list: VecDeque<ServerConn>,
    /// Of HTTP/2, idle or not; the oldest first, so that those that a burst needed become idle.
    shared: Vec<Rc<Shared>>,
    /// Connections of HTTP/2 under way.
    openings: Vec<Rc<Opening>>,
}

impl IdleList {
    /// The warmest usable connection to `server`. `certain` asks the kernel whether the server has closed it: for
    /// requests that may not be sent twice.
    pub(crate) fn take(&mut self, server: u32, config: &model::Pool, now: Millis, certain: bool) -> Option<ServerConn> {
        while let Some(at) = self.list.iter().rposition(|c| c.server == server) {
            let conn = self.list.remove(at)?;
            let dead =
                !conn.may_be_used(config, now) || if certain { conn.link.is_stale_now() } else { conn.link.is_stale() };
            if !dead {
                return Some(conn);
            }
        }
        None
    }

    /// A place on a shared connection to `server`; `certain` as in [`IdleList::take`].
    pub(crate) fn take_place(
        &mut self,
        server: u32,
        config: &model::Pool,
        now: Millis,
        certain: bool,
    ) -> Option<Ticket> {
        let mut of_server = self.shared.iter().filter(|shared| shared.server == server);
        of_server.find_map(|shared| shared.ticket(config, now, certain))
    }

    /// A connection to `server` that is being made and has room for one more.
    pub(crate) fn opening_to(&self, server: u32) -> Option<Rc<Opening>> {
        self.openings.iter().find(|opening| opening.takes(server)).cloned()
    }

    /// Lets others know that a shared connection to `server` is being made.
    pub(crate) fn begin_opening(&mut self, server: u32) -> Opener {
        let (opening, opener) = Opening::new(server);
        self.openings.retain(|opening| opening.goes_on());
        self.openings.push(opening);
        opener
    }

    /// Shares a connection with whoever comes.
    pub(crate) fn share(&mut self, shared: Rc<Shared>) {
        self.shared.push(shared);
    }

    /// Keeps a connection whose exchange is complete; beyond `keepalive`, the one unused longest is closed.
    pub(crate) fn put(&mut self, mut conn: ServerConn, config: &model::Pool, now: Millis, wheel: &Rc<Wheel>) {
        if let Link::Http2(stream) = conn.link {
            stream.ticket().bind(conn.losses);
            return stream.see_out(wheel.timer());
        }
        if config.keepalive == 0 || !conn.may_be_kept(config, now) {
            return;
        }
        conn.idle_since = now;
        self.list.push_back(conn);
        while self.list.len() > config.keepalive {
            self.list.pop_front();
        }
    }

    /// Closes what is too old or was closed by its server.
    pub(crate) fn sweep(&mut self, config: &model::Pool, now: Millis) {
        self.list.retain(|c| c.may_be_used(config, now) && !c.link.is_stale());
        self.shared.retain(|c| c.may_be_used(config, now));
    }

    /// Closes those to servers of which `is_here` says that they are gone.
    pub(crate) fn keep_only(&mut self, is_here: impl Fn(u32) -> bool) {
        self.list.retain(|c| is_here(c.server));
        self.shared.retain(|c| is_here(c.server));
    }

    /// Closes those that are bound to a role that their server has lost; `losses`: how often that has lost it by now.
    pub(crate) fn close_lost(&mut self, losses: impl Fn(u32) -> Option<u32>) {
        self.list.retain(|c| c.losses.is_none() || c.losses == losses(c.server));
        self.shared.retain(|c| c.losses().is_none() || c.losses() == losses(c.server));
    }

    /// Closes all that are idle.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.shared.retain(|c| !c.is_idle());
    }
}
