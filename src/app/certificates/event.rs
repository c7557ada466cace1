//! What happens to certificates, for the `notify` command and the `webhook` of `[global]`.
//!
//! A command is told, after its own arguments, `CERTIFICATE`, the file, the event and the reason. A webhook is told
//!
//! ```json
//! {
//!   "event": "certificate_expiring",
//!   "certificate": "/etc/letsencrypt/live/shop/fullchain.pem",
//!   "names": ["shop.example.com"],
//!   "not_after": "2026-02-20T12:00:00Z",
//!   "days_left": 20,
//!   "why": "it expires in 20 days",
//!   "node": "lb1",
//!   "time": "2026-01-31T23:59:59.123Z"
//! }
//! ```
//!
//! `names` is empty, `not_after` and `days_left` are null where a file cannot be used.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::app::notifier::{News, date, timestamp};
use crate::config::model::Config;
use crate::tls::{Certificate, Standing};

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum Happened {
    /// Another one from the same file is in force.
    Replaced,
    /// What is in the file cannot be used, and the one before stays.
    Refused,
    /// It should have been renewed.
    Expiring,
    /// It is over.
    Expired,
}

/// Something that happened to a certificate.
#[derive(Debug)]
pub(in crate::app) struct CertificateEvent<'c> {
    pub(in crate::app) what: Happened,
    /// The file.
    pub(in crate::app) file: &'c str,
    /// What is in it; `None`: nothing that can be used.
    pub(in crate::app) certificate: Option<&'c Arc<Certificate>>,
    pub(in crate::app) why: String,
    pub(in crate::app) at: SystemTime,
}

impl Happened {
    /// The word in events.
    fn name(self) -> &'static str {
        match self {
            Self::Replaced => "certificate_replaced",
            Self::Refused => "certificate_refused",
            Self::Expiring => "certificate_expiring",
            Self::Expired => "certificate_expired",
        }
    }

    /// What is told of a certificate that is this; `None`: nothing.
    pub(in crate::app) fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Expiring => Some(Self::Expiring),
            Standing::Expired => Some(Self::Expired),
            Standing::Valid | Standing::NotYetValid => None,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    event: &'a str,
    certificate: &'a str,
    names: &'a [Box<str>],
    not_after: Option<String>,
    days_left: Option<i64>,
    why: &'a str,
    node: &'a str,
    time: String,
}

impl CertificateEvent<'_> {
    /// For those whom `config` names.
    pub(in crate::app) fn news(&self, config: &Config) -> News {
        let Self { what, file, certificate, why, at } = self;
        let now = seconds(*at);
        let body = Body {
            event: what.name(),
            certificate: file,
            names: certificate.map_or(&[], |certificate| &certificate.names),
            not_after: certificate.map(|certificate| date(certificate.not_after)),
            days_left: certificate.map(|certificate| certificate.days_left(now)),
            why,
            node: &config.node,
            time: timestamp(*at),
        };
        News {
            about: format!("{file} {}", what.name()),
            arguments: ["CERTIFICATE", file, what.name(), why].map(str::to_owned).into(),
            body: serde_json::to_vec(&body).expect("invariant: text and numbers are always JSON"),
            command: config.global.notify.clone(),
            webhook: config.global.webhook.clone(),
        }
    }
}

/// Seconds since 1970; 0 before.
pub(in crate::app) fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
