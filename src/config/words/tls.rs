//! Values of keys of `tls`.

use crate::config::decode::{self, Decode, Keys, Shape, choices};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Table, Value};
use crate::config::raw::{RawCertificate, RawPoolTls};
use crate::tls;

/// `profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct TlsProfile(pub(in crate::config) tls::Profile);

choices!(TlsProfile { "intermediate" => Self(tls::Profile::Intermediate), "modern" => Self(tls::Profile::Modern) });

/// `client_auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct ClientAuthMode(pub(in crate::config) tls::ClientAuthMode);

choices!(ClientAuthMode {
    "off" => Self(tls::ClientAuthMode::Off),
    "optional" => Self(tls::ClientAuthMode::Optional),
    "required" => Self(tls::ClientAuthMode::Required),
});

/// One of `certificates` in either form.
#[derive(Debug, Clone)]
pub(in crate::config) struct Certificate(pub(in crate::config) RawCertificate);

impl Decode for Certificate {
    const SHAPE: &'static Shape = &Shape::OneOf(&[String::SHAPE, RawCertificate::SHAPE]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        super::short_form(item, "cert", problems).map(Self)
    }
}

/// `tls` of a pool: true is a table in which nothing is said.
#[derive(Debug, Clone)]
pub(in crate::config) struct PoolTls(pub(in crate::config) RawPoolTls);

impl Decode for PoolTls {
    const SHAPE: &'static Shape = &Shape::OneOf(&[RawPoolTls::SHAPE, &Shape::Only(true)]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Boolean(true) => Some(Self(RawPoolTls::read(&Table::new(), item.place, problems))),
            _ => RawPoolTls::decode(item, problems).map(Self),
        }
    }
}
