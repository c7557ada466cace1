//! What plain requests are told of https, and browsers of staying there.

use std::sync::Arc;

/// `redirect_https` and `hsts` of a listener or a site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Https {
    /// `None`: nothing is said here; a site does as its listener, which does not redirect.
    pub redirect: Option<HttpsRedirect>,
    /// `None`: nothing is said here; a site does as its listener, which sends none.
    pub hsts: Option<Hsts>,
}

/// What becomes of a plain request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpsRedirect {
    /// It is served.
    Off,
    /// It is to come again by https.
    To {
        /// 301, 302, 307 or 308.
        status: u16,
        /// Where https is.
        port: u16,
    },
}

/// Strict-Transport-Security (RFC 6797).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hsts {
    /// Not sent.
    Off,
    /// The value of the field.
    Value(Arc<str>),
}

impl Https {
    /// What holds for a site that says this on a listener that says `outer`.
    pub fn within(&self, outer: &Self) -> Self {
        Self { redirect: self.redirect.or(outer.redirect), hsts: self.hsts.clone().or_else(|| outer.hsts.clone()) }
    }
}
