//! What a site says of https on one of its listeners.

use std::sync::Arc;

use crate::config::model::{self, Hsts, HttpsRedirect};

/// What a request by http and one by https get besides. Where there is nothing of it there is none, so that others look at
/// one pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// Status, and the port of https.
    pub redirect: Option<(u16, u16)>,
    /// The line of Strict-Transport-Security with its end; empty: none is sent.
    pub hsts: Box<[u8]>,
}

impl Https {
    /// What holds for `own` on a listener that says `outer`.
    pub(super) fn new(own: &model::Https, outer: &model::Https) -> Option<Arc<Self>> {
        let model::Https { redirect, hsts } = own.within(outer);
        let redirect = match redirect {
            Some(HttpsRedirect::To { status, port }) => Some((status, port)),
            Some(HttpsRedirect::Off) | None => None,
        };
        let hsts = match hsts {
            Some(Hsts::Value(value)) => format!("Strict-Transport-Security: {value}\r\n").into_bytes(),
            Some(Hsts::Off) | None => Vec::new(),
        };
        let https = Self { redirect, hsts: hsts.into() };
        (https.redirect.is_some() || !https.hsts.is_empty()).then(|| Arc::new(https))
    }

    /// The same for a route with these changes to responses: one that names the field itself has its own way.
    pub(super) fn of_route(this: &Arc<Self>, edits: &model::HeaderEdits) -> Option<Arc<Self>> {
        const NAME: &str = "strict-transport-security";
        let named = |name: &str| name.eq_ignore_ascii_case(NAME);
        let names = edits.remove.iter().map(|name| &**name);
        let pairs = edits.set.iter().chain(&edits.add).map(|(name, _)| &**name);
        if this.hsts.is_empty() || !names.chain(pairs).any(named) {
            return Some(Arc::clone(this));
        }
        this.redirect.map(|redirect| Arc::new(Self { redirect: Some(redirect), hsts: Box::default() }))
    }
}
