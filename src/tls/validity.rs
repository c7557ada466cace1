//! When a certificate is valid, and when somebody should renew it.

use super::Certificate;

/// So long before its end a certificate should have been renewed, seconds.
const NOTICE: i64 = 30 * DAY;

/// Of a certificate that does not live long: this part of its life. certbot renews what lives 90 days after 60 of them; what
/// has not been renewed a week later is a matter for people.
const PART_OF_LIFE: i64 = 4;

const DAY: i64 = 86_400;

/// Where in its life a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has not begun.
    NotYetValid,
    /// There is time.
    Valid,
    /// It should have been renewed.
    Expiring,
    /// It is over.
    Expired,
}

impl Standing {
    /// The word in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotYetValid => "not_yet_valid",
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
        }
    }
}

impl Certificate {
    /// Where in its life it is at `now`, seconds since 1970.
    pub fn standing(&self, now: i64) -> Standing {
        let life = self.not_after.saturating_sub(self.not_before);
        let notice = NOTICE.min(life / PART_OF_LIFE);
        if now > self.not_after {
            Standing::Expired
        } else if now < self.not_before {
            Standing::NotYetValid
        } else if self.not_after.saturating_sub(now) <= notice {
            Standing::Expiring
        } else {
            Standing::Valid
        }
    }

    /// Whole days left at `now`, seconds since 1970; below zero: since its end.
    pub fn days_left(&self, now: i64) -> i64 {
        self.not_after.saturating_sub(now).div_euclid(DAY)
    }
}
