//! Values of keys of `[pool.NAME.sticky]`.

use crate::config::decode::{self, Decode, Shape, choices};
use crate::config::diagnostic::Problems;
use crate::config::document::Item;

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum StickyType {
    Cookie,
    Source,
    Header,
}

choices!(StickyType { "cookie" => Self::Cookie, "source" => Self::Source, "header" => Self::Header });

/// `same_site`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum SameSite {
    Lax,
    Strict,
    None,
    Off,
}

choices!(SameSite { "Lax" => Self::Lax, "Strict" => Self::Strict, "None" => Self::None, "off" => Self::Off });
