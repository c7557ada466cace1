//! How clients stay with their servers.

use std::fmt;
use std::time::Duration;

/// `[pool.NAME.sticky]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// The client is told its server's id, and says it again: HAProxy's `cookie ... insert indirect`.
    Cookie(StickyCookie),
    /// We remember the client: HAProxy's `stick on`.
    Learned(StickyTable),
}

/// The cookie that names a server.
#[derive(Clone, PartialEq, Eq)]
pub struct StickyCookie {
    /// A token.
    pub name: Box<str>,
    /// Key of the servers' ids, at least 16 bytes; never shown.
    pub secret: Box<str>,
    /// What follows the value in Set-Cookie: `; Path=/; HttpOnly`.
    pub attributes: Box<str>,
}

impl fmt::Debug for StickyCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attributes, .. } = self;
        let mut shown = f.debug_struct("StickyCookie");
        shown.field("name", name).field("secret", &"***").field("attributes", attributes).finish()
    }
}

/// What is remembered of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyTable {
    /// What a client is known by.
    pub key: StickyKey,
    /// Clients at most.
    pub max_entries: u32,
    /// Since a client was last seen.
    pub ttl: Duration,
}

/// What a client is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StickyKey {
    /// Its address.
    Source {
        /// Bits that count, for IPv4 and for IPv6.
        mask: (u8, u8),
    },
    /// The value of a request header of this name, lower case.
    Header(Box<str>),
}

impl Sticky {
    /// `type` in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cookie(_) => "cookie",
            Self::Learned(StickyTable { key: StickyKey::Source { .. }, .. }) => "source",
            Self::Learned(StickyTable { key: StickyKey::Header(_), .. }) => "header",
        }
    }

    /// The name of the cookie, if it is one.
    pub fn cookie(&self) -> Option<&str> {
        match self {
            Self::Cookie(cookie) => Some(&cookie.name),
            Self::Learned(_) => None,
        }
    }
}
