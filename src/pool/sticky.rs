//! Clients that stay with their server.
//!
//! Before a pick, the shell says what it knows of the client ([`Pool::stick_to_cookie`] and its like give a [`Stick`], which goes
//! into [`super::Tried`]); the server that this names goes before the algorithm's choice as long as it may be used. Once a
//! server has answered, [`Pool::keep`] remembers it. A pool that is not sticky pays one branch at each of these places.
//!
//! - By cookie nothing is remembered here: the cookie names the server by a keyed hash, which is the same on both boxes and in
//!   every generation. Ids are made with the pool. Who looks one up needs no constant time: what the time tells of an id is
//!   less than what any client gets by asking for a page.
//! - By source or header, a client's first server is the best score for its key (rendezvous), which both boxes find alike. A
//!   bounded table remembers it, and keeps it through other weights, more servers, and the return of a server that was dead.
//!   The table is shared by the workers, behind a few locks that are held for moments, and is carried over reloads.

mod table;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::balance::{Balancer, stable_hash};
use crate::config::model::{self, Duty, StickyCookie, StickyKey, StickyTable};
use crate::health::Role;
use crate::time::{Millis, to_millis};

use super::select::Failures;
use super::{Lease, Member, Pool, Server, Standing, Tier, Tried};

use self::table::{Bounds, Table};

/// Bytes of an id in the cookie: 128 bits as hexadecimal digits.
const ID: usize = 32;

/// What is known of a client that is to stay with a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stick {
    /// Id of the server that it was on.
    server: Option<u32>,
    /// It has been here: it says so, or is remembered.
    known: bool,
    /// What it is remembered by.
    key: Option<u64>,
    /// The server had no room for it, and is not forgotten for that.
    full: bool,
}

/// What a pool needs to keep clients with servers.
#[derive(Debug)]
pub(super) struct Sticky {
    kind: Kind,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Kind {
    /// Sorted by id.
    Cookie(Box<[Named]>),
    Learned {
        table: Arc<Table>,
        bounds: Bounds,
        /// Of a source.
        mask: Option<(u8, u8)>,
    },
}

/// A server by its cookie.
#[derive(Debug)]
struct Named {
    id: [u8; ID],
    server: u32,
    /// The fields of a response that sets it.
    fields: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Counts {
    followed: AtomicU64,
    missed: AtomicU64,
}

/// What there is to say of a sticky pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StickyReport {
    /// Requests and sessions that came to the server that they were on before.
    pub followed: u64,
    /// Those that came to another, because it could not be used.
    pub missed: u64,
    /// Clients that are remembered.
    pub entries: u64,
}

impl Stick {
    /// The server that the client was on, if it is one of the pool.
    pub fn server(&self) -> Option<u32> {
        self.server
    }

    /// Whether the client has been here, as far as it says or is remembered.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether there is something to remember it by, other than a cookie.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// What decides where a client comes that is not remembered.
    pub(super) fn key(&self) -> Option<u64> {
        self.key
    }
}

impl Sticky {
    /// That of a new pool. What `previous` remembers is carried over if clients are known by the same.
    pub(super) fn build(config: &model::Pool, tiers: &[Tier], previous: Option<&Pool>) -> Option<Box<Self>> {
        let before = previous.and_then(|pool| Some((pool.sticky.as_deref()?, pool.config.sticky.as_ref()?)));
        let kind = match config.sticky.as_ref()? {
            model::Sticky::Cookie(cookie) => Kind::Cookie(ids(config, cookie, tiers)),
            model::Sticky::Learned(StickyTable { key, max_entries, ttl }) => {
                let carried = before.and_then(|(sticky, said)| match (&sticky.kind, said) {
                    (Kind::Learned { table, .. }, model::Sticky::Learned(said)) if said.key == *key => Some(table),
                    _ => None,
                });
                Kind::Learned {
                    table: carried.cloned().unwrap_or_default(),
                    bounds: Bounds { entries: *max_entries, ttl: to_millis(*ttl) },
                    mask: match key {
                        StickyKey::Source { mask } => Some(*mask),
                        StickyKey::Header(_) => None,
                    },
                }
            }
        };
        let counts = before.map_or_else(Arc::default, |(sticky, _)| Arc::clone(&sticky.counts));
        Some(Box::new(Self { kind, counts }))
    }

    /// What chooses the first server of a client, if that is not the pool's algorithm.
    pub(super) fn balancer(config: &model::Pool, nodes: &[crate::balance::Node]) -> Option<Balancer> {
        let learned = matches!(config.sticky, Some(model::Sticky::Learned(_)));
        learned.then(|| Balancer::rendezvous(nodes))
    }

    /// Counts the first pick of a request.
    pub(super) fn count(&self, tried: &Tried, lease: &Lease) {
        let stick = tried.stick();
        if stick.known && tried.len() == 1 {
            let followed = stick.server == Some(lease.server().id);
            let counter = if followed { &self.counts.followed } else { &self.counts.missed };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The ids of all servers, sorted.
fn ids(config: &model::Pool, cookie: &StickyCookie, tiers: &[Tier]) -> Box<[Named]> {
    let named = |member: &Member| {
        let server = &member.server;
        let spec = config.servers.iter().find(|spec| spec.name == server.name);
        let by_name = spec.is_some_and(|spec| matches!(spec.address, model::ServerAddress::Name { .. }));
        let id = id(&cookie.secret, &config.name, server, by_name);
        let StickyCookie { name, attributes, .. } = cookie;
        let value = String::from_utf8_lossy(&id);
        // A cache that is shared must not hand one client's cookie to others.
        let fields = format!("Set-Cookie: {name}={value}{attributes}\r\nCache-Control: private\r\n");
        Named { id, server: server.id, fields: fields.into_bytes().into() }
    };
    let mut ids: Vec<Named> = tiers.iter().flat_map(|tier| &tier.members).map(named).collect();
    ids.sort_by_key(|named| named.id);
    ids.into()
}

/// What names a server in a cookie. Of a host name, each address is a server of its own; one that is written as an address
/// goes by its name, so that it may move.
fn id(secret: &str, pool: &str, server: &Server, by_name: bool) -> [u8; ID] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("invariant: HMAC takes keys of any length");
    // Neither name has a zero byte.
    for part in [pool, &*server.name] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    if by_name {
        mac.update(server.address.to_string().as_bytes());
    }
    let mut text = String::with_capacity(ID);
    for byte in &mac.finalize().into_bytes()[..ID / 2] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let mut id = [0; ID];
    id.copy_from_slice(text.as_bytes());
    id
}

impl Pool {
    /// Whether clients stay with servers.
    pub fn is_sticky(&self) -> bool {
        self.sticky.is_some()
    }

    /// What is known of a client with these values of the pool's cookie: the first that names a server counts.
    pub fn stick_to_cookie<'c>(&self, values: impl Iterator<Item = &'c [u8]>) -> Stick {
        let Some(Sticky { kind: Kind::Cookie(ids), .. }) = self.sticky.as_deref() else { return Stick::default() };
        let mut stick = Stick::default();
        for value in values {
            stick.known = true;
            if let Ok(at) = ids.binary_search_by(|named| named.id[..].cmp(value)) {
                stick.server = Some(ids[at].server);
                break;
            }
        }
        stick
    }

    /// What is known of a client at this address.
    pub fn stick_to_source(&self, client: IpAddr, now: Millis) -> Stick {
        let Some(Sticky { kind: Kind::Learned { mask: Some(mask), .. }, .. }) = self.sticky.as_deref() else {
            return Stick::default();
        };
        // A client on a dual-stack socket is the same as on an IPv4 one.
        match client.to_canonical() {
            IpAddr::V4(ip) => {
                let bits = u32::MAX.checked_shl(32 - u32::from(mask.0)).unwrap_or(0);
                self.stick_to_key(&(ip.to_bits() & bits).to_be_bytes(), now)
            }
            IpAddr::V6(ip) => {
                let bits = u128::MAX.checked_shl(128 - u32::from(mask.1)).unwrap_or(0);
                self.stick_to_key(&(ip.to_bits() & bits).to_be_bytes(), now)
            }
        }
    }

    /// What is known of a client with this key, such as the value of a header; nothing of an empty one.
    pub fn stick_to_key(&self, key: &[u8], now: Millis) -> Stick {
        let Some(Sticky { kind: Kind::Learned { table, bounds, .. }, .. }) = self.sticky.as_deref() else {
            return Stick::default();
        };
        if key.is_empty() {
            return Stick::default();
        }
        let key = stable_hash(key);
        let server = table.get(key, *bounds, now);
        Stick { server, known: server.is_some(), key: Some(key), full: false }
    }

    /// A server has answered, or taken the connection: the client stays with it. What a response says of it, fields with their
    /// line ends, unless the client knows it already.
    pub fn keep(&self, tried: &Tried, server: &Server, now: Millis) -> Option<&[u8]> {
        let Stick { server: known, key, full, .. } = tried.stick();
        // Its own server is only busy.
        if full {
            return None;
        }
        match &self.sticky.as_deref()?.kind {
            Kind::Cookie(_) if known == Some(server.id) => None,
            Kind::Cookie(ids) => ids.iter().find(|named| named.server == server.id).map(|named| &*named.fields),
            Kind::Learned { table, bounds, .. } => {
                table.set(key?, server.id, *bounds, now);
                None
            }
        }
    }

    /// What there is to say of it, if clients stay with servers.
    pub fn sticky_report(&self, now: Millis) -> Option<StickyReport> {
        let Sticky { kind, counts } = self.sticky.as_deref()?;
        let entries = match kind {
            Kind::Cookie(_) => 0,
            Kind::Learned { table, bounds, .. } => table.len(*bounds, now),
        };
        let [followed, missed] = [&counts.followed, &counts.missed].map(|count| count.load(Ordering::Relaxed));
        Some(StickyReport { followed, missed, entries })
    }

    /// The server that the client was on, as far as it may be used in this round but for the load on it.
    pub(super) fn own_server(
        &self,
        role: Option<Role>,
        failures: Failures,
        tried: &Tried,
        now: Millis,
    ) -> Option<&Member> {
        let id = tried.stick().server.filter(|id| !tried.contains(*id))?;
        self.tiers.iter().find_map(|tier| {
            let member = tier.members.iter().find(|member| member.server.id == id)?;
            let is_open = failures != Failures::Ignored || self.is_open(tier, role, now);
            (is_open && member.serves_its_own(failures, now) && member.server.has_role(role)).then_some(member)
        })
    }

    /// Starts a request on the server that the client was on, if that may be used.
    pub(super) fn follow(
        &self,
        role: Option<Role>,
        failures: Failures,
        tried: &mut Tried,
        now: Millis,
    ) -> Option<Lease> {
        let member = self.own_server(role, failures, tried, now)?;
        // Its weight may be growing, which is about new clients.
        let lease = member.lease(failures, false, now);
        match &lease {
            Some(_) => tried.insert(member.server.id),
            None if member.is_full() => tried.stick_mut().full = true,
            None => {}
        }
        lease
    }
}

impl Member {
    /// Whether a client that was on it before may go on: unlike others also while it drains.
    fn serves_its_own(&self, failures: Failures, now: Millis) -> bool {
        let drains = self.standing == Standing::Off(Duty::Drain);
        let is_down = if drains { self.checked && self.server.health.active.is_down() } else { self.is_down() };
        match failures {
            Failures::Respected => {
                !is_down && !self.server.health.passive.is_unavailable(self.limits, now) && !self.is_out(now)
            }
            Failures::Ignored => !is_down,
            Failures::Panic => drains || self.may_panic(),
        }
    }

    /// Whether its `max_conns` are in flight.
    pub(super) fn is_full(&self) -> bool {
        self.max_conns > 0 && self.server.in_flight() >= self.max_conns
    }
}
