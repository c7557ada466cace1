//! From TOML values to Rust values, noting everything that is wrong on the way instead of stopping at the first.
//!
//! The `table!` macro declares a table of the file once: keys, types, defaults and their documentation. From it come
//! the decoder, the check for unknown keys, the JSON schema and the reference. Defaults are written as in the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::str::FromStr;

use super::diagnostic::Problems;
use super::document::{self, Item, Place, Table, Value};
use super::help;
use super::value::{Cidr, Period, Size, ValueError};

/// What can be made from a TOML value.
pub(super) trait Decode: Sized {
    /// What it looks like in the file.
    const SHAPE: &'static Shape;

    /// The value, or `None` with what is wrong noted in `problems`.
    fn decode(item: &Item, problems: &mut Problems) -> Option<Self>;
}

/// The keys of a table that `table!` declares.
pub(super) trait Keys: Sized {
    /// Its own keys.
    const KEYS: &'static [Key];

    /// The value of a table whose keys are known to be right; never fails, what is wrong is noted.
    fn read(table: &Table, place: Place, problems: &mut Problems) -> Self;

    /// The keys that are written in the file, with their places.
    fn given(&self) -> Vec<(&'static str, Place)>;
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    /// As in the file.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) doc: &'static str,
    /// As it would be written in the file.
    pub(super) default: Option<&'static str>,
    /// What its value looks like.
    pub(super) shape: &'static Shape,
}

/// What a value looks like in the file.
#[derive(Debug)]
pub(super) enum Shape {
    /// true or false.
    Boolean,
    /// This boolean only.
    Only(bool),
    /// An integer from .. to.
    Integer(i64, i64),
    /// A string; what it holds, and a regular expression for editors.
    Text(&'static str, &'static str),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An array.
    List(&'static Self),
    /// A table with names of the operator's choice.
    Named(&'static Self),
    /// A table with these keys, in groups.
    Table(&'static [&'static [Key]]),
    /// Any of these.
    OneOf(&'static [&'static Self]),
    /// The tables of the file again, and these keys.
    File(&'static [Key]),
}

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    value: T,
    /// Of the key.
    pub(super) key: Place,
    /// Of the value; of a default, the table.
    pub(super) place: Place,
    /// Written in the file, not a default.
    pub(super) given: bool,
    /// Not to be shown.
    pub(super) secret: bool,
}

/// The value of a key that has no default.
#[derive(Debug, Clone)]
pub(super) enum Field<T> {
    /// Not in the file.
    Absent,
    /// In the file, but wrong, which is noted.
    Bad(Place),
    /// In the file.
    Given(At<T>),
}

/// `"off"`, or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrOff<T>(pub(super) Option<T>);

/// An array.
#[derive(Debug, Clone)]
pub(super) struct List<T> {
    items: Vec<At<T>>,
    /// No element was left out because something is wrong with it.
    pub(super) complete: bool,
}

/// One value or several.
#[derive(Debug, Clone)]
pub(super) struct Several<T>(pub(super) List<T>);

/// An integer from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int<const MIN: u32, const MAX: u32>(pub(super) u32);

/// A size of `MIN` to `MAX` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes<const MIN: u64, const MAX: u64>(pub(super) u64);

/// Tables by name.
pub(super) type Named<T> = BTreeMap<String, At<T>>;

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for List<T> {
    type Target = [At<T>];

    fn deref(&self) -> &[At<T>] {
        &self.items
    }
}

impl<T> At<T> {
    /// What was decoded from `item`.
    fn new(value: T, item: &Item) -> Self {
        Self { value, key: item.key, place: item.place, given: true, secret: item.secret }
    }

    /// What `f` makes of the value, at the same place.
    pub(super) fn map<U>(&self, f: impl FnOnce(&T) -> U) -> At<U> {
        At { value: f(&self.value), key: self.key, place: self.place, given: self.given, secret: self.secret }
    }

    /// A default of the table at `place`.
    pub(super) fn default(value: T, place: Place) -> Self {
        Self { value, key: place, place, given: false, secret: false }
    }
}

impl<T> Field<T> {
    /// The value, if there is a good one.
    pub(super) fn get(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    /// Whether the key is not in the file.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Where the key is.
    pub(super) fn key(&self) -> Option<Place> {
        match self {
            Self::Given(at) => Some(at.key),
            Self::Bad(key) => Some(*key),
            Self::Absent => None,
        }
    }

    /// The value; when the key is not in the file, that is noted as an error of the table at `place`.
    pub(super) fn required(&self, name: &str, place: Place, problems: &mut Problems) -> Option<&At<T>> {
        if self.is_absent() {
            problems.error(place, format!("`{name}` is missing"));
        }
        self.get()
    }
}

/// Declares a table of the file.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        struct $Name:ident $(with $($part:ident: $Part:ident),+)? {
            $( $(#[doc = $doc:literal])+ $key:ident: $Type:ty $(= $default:tt)?, )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub(in crate::config) struct $Name {
            $($(pub(in crate::config) $part: $Part,)+)?
            $($(#[doc = $doc])+ pub(in crate::config) $key: table!(@type $Type $(, $default)?),)*
        }

        impl Keys for $Name {
            const KEYS: &'static [Key] = &[$(Key {
                name: decode::key_name(stringify!($key)),
                doc: concat!($($doc),+),
                default: table!(@text $($default)?),
                shape: <$Type as Decode>::SHAPE,
            }),*];

            fn read(table: &Table, place: Place, problems: &mut Problems) -> Self {
                Self {
                    $($($part: $Part::read(table, place, problems),)+)?
                    $($key: table!(@read $Type, $key, table, place, problems $(, $default)?),)*
                }
            }

            fn given(&self) -> Vec<(&'static str, Place)> {
                let mut given = Vec::new();
                $(
                    let place = table!(@given self.$key $(, $default)?);
                    given.extend(place.map(|place| (decode::key_name(stringify!($key)), place)));
                )*
                given
            }
        }

        impl Decode for $Name {
            const SHAPE: &'static Shape = &Shape::Table(&[Self::KEYS, $($($Part::KEYS),+)?]);

            fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
                let table = decode::known_keys(item, Self::SHAPE, problems)?;
                Some(Self::read(table, item.place, problems))
            }
        }
    };
    (@type $Type:ty, $default:tt) => { At<$Type> };
    (@type $Type:ty) => { Field<$Type> };
    (@text $default:tt) => { Some(stringify!($default)) };
    (@text) => { None };
    (@read $Type:ty, $key:ident, $table:ident, $place:ident, $problems:ident, $default:tt) => {{
        static DEFAULT: LazyLock<$Type> = LazyLock::new(|| decode::default(stringify!($default)));
        match table!(@read $Type, $key, $table, $place, $problems) {
            Field::Given(at) => at,
            Field::Absent | Field::Bad(_) => At::default(DEFAULT.clone(), $place),
        }
    }};
    (@read $Type:ty, $key:ident, $table:ident, $place:ident, $problems:ident) => {{
        // Only a default has the place of its table.
        let _ = $place;
        decode::field::<$Type>($table, decode::key_name(stringify!($key)), $problems)
    }};
    (@given $field:expr, $default:tt) => { $field.given.then_some($field.key) };
    (@given $field:expr) => { $field.key() };
}
pub(super) use table;

/// The key that a field stands for: one that is a word of Rust has a mark before it.
pub(super) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// The table in `item`, unknown keys noted.
pub(super) fn known_keys<'i>(item: &'i Item, shape: &Shape, problems: &mut Problems) -> Option<&'i Table> {
    let Some(table) = item.as_table() else {
        wrong_type(item, "a table", problems);
        return None;
    };
    let Shape::Table(groups) = shape else { return Some(table) };
    let known = || groups.iter().copied().flatten().map(|key| key.name);
    for (name, item) in table.iter().filter(|(name, _)| known().all(|known| known != *name)) {
        problems.error(item.key, format!("unknown key `{name}`")).maybe_help(help::for_unknown_key(name, known()));
    }
    Some(table)
}

/// The value of the key `name`.
pub(super) fn field<T: Decode>(table: &Table, name: &str, problems: &mut Problems) -> Field<T> {
    let Some(item) = table.get(name) else { return Field::Absent };
    match T::decode(item, problems) {
        Some(value) => Field::Given(At::new(value, item)),
        None => Field::Bad(item.key),
    }
}

/// A default as `table!` has it.
pub(super) fn default<T: Decode>(text: &str) -> T {
    let (table, errors) = document::parse(&format!("default = {text}"), 0);
    let mut problems = Problems::default();
    let item = table.get("default").filter(|_| errors.is_empty());
    item.and_then(|item| T::decode(item, &mut problems)).expect("invariant: a test decodes every default")
}

/// Notes that `item` is of the wrong kind.
pub(super) fn wrong_type(item: &Item, expected: &str, problems: &mut Problems) {
    problems.error(item.place, format!("expected {expected}, found {}", with_article(item.kind())));
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// The string in `item`.
pub(super) fn text<'i>(item: &'i Item, expected: &str, problems: &mut Problems) -> Option<&'i str> {
    let text = item.as_str();
    if text.is_none() {
        wrong_type(item, expected, problems);
    }
    text
}

impl Decode for bool {
    const SHAPE: &'static Shape = &Shape::Boolean;

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Boolean(b) => return Some(*b),
            Value::String(text) if matches!(text.as_str(), "on" | "yes" | "true") => {
                problems.error(item.place, "expected true or false, found a string").help("write true");
            }
            Value::String(text) if matches!(text.as_str(), "off" | "no" | "false") => {
                problems.error(item.place, "expected true or false, found a string").help("write false");
            }
            _ => wrong_type(item, "true or false", problems),
        }
        None
    }
}

impl Decode for String {
    const SHAPE: &'static Shape = &Shape::Text("text", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        text(item, "a string", problems).map(Self::from)
    }
}

impl<const MIN: u32, const MAX: u32> Decode for Int<MIN, MAX> {
    const SHAPE: &'static Shape = &Shape::Integer(MIN as i64, MAX as i64);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let Value::Integer(n) = item.value else {
            wrong_type(item, "an integer", problems);
            return None;
        };
        let value = u32::try_from(n).ok().filter(|n| (MIN..=MAX).contains(n)).map(Self);
        if value.is_none() {
            problems.error(item.place, format!("{n} is out of range: {MIN} to {MAX}"));
        }
        value
    }
}

/// Reads a value from its text.
fn parsed<T: FromStr<Err = ValueError>>(item: &Item, text: &str, problems: &mut Problems) -> Option<T> {
    text.parse()
        .map_err(|error: ValueError| problems.error(item.place, error.to_string()).maybe_help(error.help()))
        .ok()
}

impl Decode for Period {
    const SHAPE: &'static Shape = &Shape::Text("duration", "^[0-9]+(ms|s|m|h|d)$");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let value: Self = match &item.value {
            // Its own text says which unit is missing.
            Value::Integer(n) => parsed(item, &n.to_string(), problems),
            _ => parsed(item, text(item, "a duration such as \"5s\"", problems)?, problems),
        }?;
        if value.get().is_zero() {
            problems.error(item.place, "the duration must not be zero");
            return None;
        }
        Some(value)
    }
}

impl Decode for Size {
    const SHAPE: &'static Shape =
        &Shape::OneOf(&[&Shape::Text("size", "^[0-9]+(KiB|MiB|GiB)?$"), &Shape::Integer(0, i64::MAX)]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Integer(n) => parsed(item, &n.to_string(), problems),
            _ => parsed(item, text(item, "a size such as \"64KiB\"", problems)?, problems),
        }
    }
}

impl<const MIN: u64, const MAX: u64> Decode for Bytes<MIN, MAX> {
    const SHAPE: &'static Shape = Size::SHAPE;

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let size = Size::decode(item, problems)?;
        if (MIN..=MAX).contains(&size.get()) {
            return Some(Self(size.get()));
        }
        problems.error(item.place, format!("{size} is out of range: {} to {}", Size::new(MIN), Size::new(MAX)));
        None
    }
}

impl Decode for Cidr {
    const SHAPE: &'static Shape = &Shape::Text("network", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        parsed(item, text(item, "a network such as \"10.0.0.0/8\"", problems)?, problems)
    }
}

impl Decode for IpAddr {
    const SHAPE: &'static Shape = &Shape::Text("address", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let address = text(item, "an IP address", problems)?.parse().ok();
        if address.is_none() {
            problems.error(item.place, "not an IP address");
        }
        address
    }
}

impl Decode for SocketAddr {
    const SHAPE: &'static Shape = &Shape::Text("address and port", "");

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        const EXPECTED: &str = "an address with its port such as \"192.0.2.1:80\"";
        if let Value::Integer(port) = item.value {
            problems
                .error(item.place, format!("expected {EXPECTED}, found an integer"))
                .help(help::for_all_addresses(port));
            return None;
        }
        let text = text(item, EXPECTED, problems)?;
        let address = text.parse().ok();
        if address.is_none() {
            let help = help::for_address(text);
            problems.error(item.place, "not an IP address with a port").maybe_help(help);
        }
        address
    }
}

impl<T: Decode> Decode for OrOff<T> {
    const SHAPE: &'static Shape = &Shape::OneOf(&[T::SHAPE, &Shape::Choice(&["off"])]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::String(text) if text == "off" => Some(Self(None)),
            Value::Boolean(false) => {
                problems.error(item.place, "expected a value, found a boolean").help("write \"off\"");
                None
            }
            _ => T::decode(item, problems).map(|value| Self(Some(value))),
        }
    }
}

impl<T: Decode> Decode for List<T> {
    const SHAPE: &'static Shape = &Shape::List(T::SHAPE);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let Value::Array(items) = &item.value else {
            wrong_type(item, "an array", problems);
            return None;
        };
        let decoded = items.iter().filter_map(|item| Some(At::new(T::decode(item, problems)?, item)));
        let decoded: Vec<At<T>> = decoded.collect();
        Some(Self { complete: decoded.len() == items.len(), items: decoded })
    }
}

impl<T: Decode> Decode for Several<T> {
    const SHAPE: &'static Shape = &Shape::OneOf(&[T::SHAPE, &Shape::List(T::SHAPE)]);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        match &item.value {
            Value::Array(_) => List::decode(item, problems).map(Self),
            _ => {
                T::decode(item, problems).map(|value| Self(List { items: vec![At::new(value, item)], complete: true }))
            }
        }
    }
}

impl<T: Decode> Decode for Named<T> {
    const SHAPE: &'static Shape = &Shape::Named(T::SHAPE);

    fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
        let Some(table) = item.as_table() else {
            wrong_type(item, "a table", problems);
            return None;
        };
        let decode = |(name, item): (&String, &Item)| Some((name.clone(), At::new(T::decode(item, problems)?, item)));
        Some(table.iter().filter_map(decode).collect())
    }
}

/// Declares which strings stand for which values.
macro_rules! choices {
    ($Type:ty { $($name:literal => $value:expr),+ $(,)? }) => {
        impl Decode for $Type {
            const SHAPE: &'static Shape = &Shape::Choice(&[$($name),+]);

            fn decode(item: &Item, problems: &mut Problems) -> Option<Self> {
                const NAMES: &[&str] = &[$($name),+];
                match item.as_str() {
                    $(Some($name) => return Some($value),)+
                    _ => decode::no_choice(item, NAMES, problems),
                }
                None
            }
        }
    };
}
pub(super) use choices;

/// Notes that `item` is none of `names`.
pub(super) fn no_choice(item: &Item, names: &[&str], problems: &mut Problems) {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let expected = match names.as_slice() {
        [one] => one.clone(),
        [some @ .., last] => format!("{} or {last}", some.join(", ")),
        [] => String::new(),
    };
    let Some(found) = item.as_str() else { return wrong_type(item, &expected, problems) };
    let help = help::for_unknown_word(found, names.iter().map(|name| name.trim_matches('"')));
    problems.error(item.place, format!("expected {expected}, found \"{found}\"")).maybe_help(help);
}
