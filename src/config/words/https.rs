//! Values of `redirect_https` and `hsts`.

use crate::config::decode::{self, Decode, Int, Keys, Shape};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Table, Value};
use crate::config::raw::{RawHsts, RawRedirectHttps};

/// `redirect_https` in any form; `None`: false.
#[derive(Debug, Clone)]
pub(in crate::config) struct RedirectHttps(pub(in crate::config) Option<RawRedirectHttps>);

impl Decode for RedirectHttps {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Boolean, <Int<301, 308>>::SHAPE, RawRedirectHttps::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Integer(_) => {
                let table = Table::from([("status".to_owned(), item.clone())]);
                Some(Self(Some(RawRedirectHttps::read(&table, item.place, problems))))
            }
            _ => on_or_table(item, "true, false, a status or { status = 301, port = 443 }", problems).map(Self),
        }
    }
}

/// `hsts` in any form; `None`: false.
#[derive(Debug, Clone)]
pub(in crate::config) struct StrictTransport(pub(in crate::config) Option<RawHsts>);

impl Decode for StrictTransport {
    const SHAPE: &'static Shape = &Shape::OneOf(&[&Shape::Boolean, RawHsts::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        on_or_table(item, "true, false or { max_age = \"365d\" }", problems).map(Self)
    }
}

/// A table, which `true` stands for with all its defaults; `Some(None)` for `false`.
fn on_or_table<T: Keys + Decode>(item: &Item, expected: &str, problems: &mut Problems) -> Option<Option<T>> {
    match &item.value {
        Value::Boolean(on) => Some(on.then(|| T::read(&Table::new(), item.place, problems))),
        Value::Table(_) => T::decode(item, problems).map(Some),
        _ => {
            decode::wrong_type(item, expected, problems);
            None
        }
    }
}
