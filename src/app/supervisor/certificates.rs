//! Looks after certificates: files that change are in force without a reload, and what runs out is told.
//!
//! ```text
//! a timer ─▶ (their files: changed? read? usable?) ─▶ what can be used ─▶ as a reload of the same configuration
//!             a thread                             └▶ what cannot ─▶ told
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::reload::{Wanted, What};
use super::{Flow, Supervisor, identity};
use crate::app::at;
use crate::app::background::in_background;
use crate::app::certificates::{self, CertificateEvent, Happened, Refusals, Reminders, Stamps, seconds};
use crate::app::notifier::Notifier;
use crate::config::model::Config;
use crate::config::{self, Loaded, Refreshed};
use crate::tls::{Certificate, Standing};

/// What is known of certificates beside the configuration.
pub(super) struct Certificates {
    /// When they are looked at next.
    at: Instant,
    looking: Option<oneshot::Receiver<Look>>,
    /// The configuration whose files were like this when they were read. Any other has not been compared with its files.
    seen: Option<(Arc<Loaded>, Stamps)>,
    refusals: Refusals,
    reminders: Reminders,
    notifier: Option<Notifier>,
}

/// What a look has found.
pub(super) struct Look {
    /// Whose files were looked at.
    of: Arc<Loaded>,
    stamps: Stamps,
    /// `None`: they have not changed since they were seen.
    found: Option<Refreshed>,
}

/// What [`Certificates::next`] has waited for.
pub(super) enum CertificatesDue {
    Time,
    Looked(Option<Look>),
}

/// So often dates are looked at where files are not.
const DATES: Duration = Duration::from_secs(600);

impl Certificates {
    pub(super) fn new() -> Self {
        Self {
            at: Instant::now(),
            looking: None,
            seen: None,
            refusals: Refusals::default(),
            reminders: Reminders::default(),
            notifier: None,
        }
    }

    /// What is due next. Only waits: cancel-safe.
    pub(super) async fn next(&mut self) -> CertificatesDue {
        match &mut self.looking {
            Some(looking) => CertificatesDue::Looked(looking.await.ok()),
            None => {
                at(Some(self.at)).await;
                CertificatesDue::Time
            }
        }
    }

    /// For the status.
    pub(super) fn status(&self, config: &Config) -> Value {
        certificates::status(config, &self.refusals, seconds(SystemTime::now()))
    }

    /// Begins to look at the files of `loaded`, on a thread: a file system may be slow.
    fn look(&mut self, loaded: &Arc<Loaded>) {
        let of = Arc::clone(loaded);
        let seen = self.seen.take().filter(|(known, stamps)| Arc::ptr_eq(known, loaded) && stamps.are_settled());
        let seen = seen.map(|(_, stamps)| stamps).filter(|_| !self.refusals.are_fresh());
        self.looking = Some(in_background(move || {
            let stamps = Stamps::take(of.attachments.iter().map(|(path, _)| path), SystemTime::now());
            let found = (seen.as_ref() != Some(&stamps)).then(|| config::refresh(&of));
            Look { of, stamps, found }
        }));
    }
}

impl Supervisor {
    pub(super) async fn on_certificates(&mut self, due: CertificatesDue) -> Flow {
        match due {
            CertificatesDue::Time => {
                let interval = self.loaded.config.global.certificate_check_interval;
                self.certificates.at = Instant::now() + interval.unwrap_or(DATES);
                self.remind();
                if interval.is_some() && self.loaded.attachments.iter().next().is_some() {
                    self.certificates.look(&Arc::clone(&self.loaded));
                }
                ControlFlow::Continue(())
            }
            CertificatesDue::Looked(look) => {
                self.certificates.looking = None;
                match look {
                    // Without a thread it is for the next time.
                    None => ControlFlow::Continue(()),
                    Some(look) => self.on_looked(look).await,
                }
            }
        }
    }

    async fn on_looked(&mut self, Look { of, stamps, found }: Look) -> Flow {
        // A reload came between, which has read them itself.
        if !Arc::ptr_eq(&of, &self.loaded) {
            return ControlFlow::Continue(());
        }
        let Some(Refreshed { loaded, refused }) = found else {
            self.certificates.seen = Some((of, stamps));
            return ControlFlow::Continue(());
        };
        for refused in self.certificates.refusals.note(refused) {
            let config::Refused { file, why } = &refused;
            error!(file, why, "a certificate or key cannot be used: the one before stays in force");
            self.tell_of(Happened::Refused, file, None, why.clone());
        }
        let Some(next) = loaded else {
            self.certificates.seen = Some((of, stamps));
            return ControlFlow::Continue(());
        };
        // It waits for what is under way, and is found again.
        if !self.reload.is_idle() || self.stop_at.is_some() || self.leaving {
            return ControlFlow::Continue(());
        }
        // Seen only once it is in force.
        self.certificates.seen = Some((Arc::clone(&next), stamps));
        let by = "certificate_check_interval".to_owned();
        let wanted = Wanted { what: What::Certificates(next), dry_run: false, confirm: None, by, reply: None };
        self.reload(wanted).await
    }

    /// Tells of what is new in force after `before`.
    pub(super) fn tell_of_replaced(&mut self, before: &Loaded) {
        let after = Arc::clone(&self.loaded);
        for certificate in certificates::replaced(&before.config, &after.config) {
            let days = certificate.days_left(seconds(SystemTime::now()));
            let names = certificate.names.join(", ");
            info!(file = %certificate.name, names, days_left = days, "another certificate is in force");
            self.tell_of(Happened::Replaced, &certificate.name, Some(certificate), ends(days));
        }
    }

    /// Tells of what runs out.
    fn remind(&mut self) {
        let (loaded, now) = (Arc::clone(&self.loaded), seconds(SystemTime::now()));
        for (certificate, standing) in self.certificates.reminders.due(&loaded.config, now) {
            let (file, days) = (&certificate.name, certificate.days_left(now));
            let names = certificate.names.join(", ");
            match standing {
                Standing::Valid => {}
                Standing::NotYetValid => warn!(%file, names, "this certificate is not valid yet"),
                Standing::Expiring => {
                    warn!(%file, names, days_left = days, "this certificate should have been renewed")
                }
                Standing::Expired => error!(%file, names, days_left = days, "this certificate has expired"),
            }
            if let Some(what) = Happened::of(standing) {
                self.tell_of(what, file, Some(certificate), ends(days));
            }
        }
    }

    /// Tells whom `[global]` names.
    fn tell_of(&mut self, what: Happened, file: &str, certificate: Option<&Arc<Certificate>>, why: String) {
        let config = &self.loaded.config;
        if config.global.notify.is_none() && config.global.webhook.is_none() {
            return;
        }
        let program = &self.program;
        let notifier = self
            .certificates
            .notifier
            .get_or_insert_with(|| Notifier::start(identity(&config.global.script_user), program));
        let event = CertificateEvent { what, file, certificate, why, at: SystemTime::now() };
        notifier.push(event.news(config));
    }
}

fn ends(days: i64) -> String {
    match days {
        ..0 => "it has expired".to_owned(),
        0 => "it expires today".to_owned(),
        1 => "it expires tomorrow".to_owned(),
        _ => format!("it expires in {days} days"),
    }
}
