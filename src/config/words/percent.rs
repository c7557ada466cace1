//! Shares: `"50%"`.

use crate::config::decode::{self, Decode, Shape};
use crate::config::diagnostic::Problems;
use crate::config::document::Item;

/// 1 to 100 per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Percent(pub(in crate::config) u32);

impl Decode for Percent {
    const SHAPE: &'static Shape = &Shape::Text("percentage", "^(100|[1-9][0-9]?)%$");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let text = decode::text(item, "a share such as \"50%\"", problems)?;
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| (1..=100).contains(percent));
        if percent.is_none() {
            problems.error(item.place, "not a share").help("\"1%\" to \"100%\", in whole per cent");
        }
        percent.map(Self)
    }
}
