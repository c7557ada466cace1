//! A TOML document whose every key and value knows its place, so that tables of several files can be merged and errors
//! still point to where something was written.

use std::collections::{BTreeMap, HashMap};

use toml::de::{DeArray, DeTable, DeValue};

/// A range of bytes in one of the files of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// Number of the file.
    pub(super) file: usize,
    /// First byte.
    pub(super) start: usize,
    /// Behind the last byte.
    pub(super) end: usize,
}

/// The keys of a table with their values.
pub(super) type Table = BTreeMap<String, Item>;

/// A value, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Where its key is; of an array's element, where the element is.
    pub(super) key: Place,
    /// Where the value is; of a table, its header.
    pub(super) place: Place,
    /// The value.
    pub(super) value: Value,
    /// Never shown.
    pub(super) secret: bool,
}

/// What a TOML value can be here.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A string.
    String(String),
    /// An integer that fits.
    Integer(i64),
    /// true or false.
    Boolean(bool),
    /// An array.
    Array(Vec<Item>),
    /// A table of any notation.
    Table(Table),
    /// What no key takes: its kind.
    Other(&'static str),
}

/// Why a text is not TOML, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// Parses `text` as file number `file`; with errors, what could be read in spite of them comes along.
pub(super) fn parse(text: &str, file: usize) -> (Table, Vec<SyntaxError>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.into_iter().map(|error| {
        let span = error.span().unwrap_or(0..0);
        SyntaxError { place: Place { file, start: span.start, end: span.end }, message: error.message().to_owned() }
    });
    (convert_table(table.get_ref(), file), errors.collect())
}

fn convert_table(table: &DeTable<'_>, file: usize) -> Table {
    let convert = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        (name.clone().into_owned(), convert_item(value, place(file, key.span()), file))
    };
    table.iter().map(convert).collect()
}

fn convert_array(array: &DeArray<'_>, file: usize) -> Vec<Item> {
    array.iter().map(|value| convert_item(value, place(file, value.span()), file)).collect()
}

fn convert_item(value: &toml::Spanned<DeValue<'_>>, key: Place, file: usize) -> Item {
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map_or(Value::Other("integer of more than 64 bits"), Value::Integer),
        DeValue::Float(_) => Value::Other("number with a fraction"),
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(_) => Value::Other("date or time"),
        DeValue::Array(array) => Value::Array(convert_array(array, file)),
        DeValue::Table(table) => Value::Table(convert_table(table, file)),
    };
    Item { key, place: place(file, value.span()), value: converted, secret: false }
}

fn place(file: usize, span: std::ops::Range<usize>) -> Place {
    Place { file, start: span.start, end: span.end }
}

impl Item {
    /// The same place with another value.
    pub(super) fn with(&self, value: Value) -> Self {
        Self { key: self.key, place: self.place, value, secret: self.secret }
    }

    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The keys of a table.
    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The keys of a table.
    pub(super) fn as_table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "string",
            Value::Integer(_) => "integer",
            Value::Boolean(_) => "boolean",
            Value::Array(_) => "array",
            Value::Table(_) => "table",
            Value::Other(kind) => kind,
        }
    }

    /// Calls `f` for this and everything inside.
    pub(super) fn walk<'i>(&'i self, f: &mut impl FnMut(&'i Self)) {
        f(self);
        match &self.value {
            Value::Array(items) => items.iter().for_each(|item| item.walk(f)),
            Value::Table(table) => table.values().for_each(|item| item.walk(f)),
            Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
    }
}

/// The paths of everything in a document by place, such as `pool.api.servers[1].weight`.
#[derive(Debug, Default)]
pub(super) struct Paths {
    paths: HashMap<Place, String>,
    /// Strings by their first byte: an error may be about a part of one.
    strings: BTreeMap<usize, Place>,
}

impl Paths {
    /// Of the document `table`.
    pub(super) fn new(table: &Table) -> Self {
        let mut paths = Self::default();
        paths.add_table(table, "");
        paths
    }

    /// The path of what is at `place`.
    pub(super) fn find(&self, place: Place) -> Option<&str> {
        let around = || self.strings.range(..=place.start).next_back().filter(|(_, string)| place.end <= string.end);
        let path = self.paths.get(&place).or_else(|| self.paths.get(around()?.1));
        path.map(String::as_str)
    }

    fn add_table(&mut self, table: &Table, path: &str) {
        let dot = if path.is_empty() { "" } else { "." };
        for (name, item) in table {
            let quoted = (!is_bare(name)).then(|| format!("{name:?}"));
            self.add(item, format!("{path}{dot}{}", quoted.as_ref().unwrap_or(name)));
        }
    }

    fn add(&mut self, item: &Item, path: String) {
        match &item.value {
            Value::Table(table) => self.add_table(table, &path),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, item)| self.add(item, format!("{path}[{i}]")))
            }
            Value::String(_) => drop(self.strings.insert(item.place.start, item.place)),
            Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
        // The first element of an array of tables has the place of the array, and is meant.
        self.paths.entry(item.place).or_insert_with(|| path.clone());
        self.paths.entry(item.key).or_insert(path);
    }
}

/// Whether a key needs no quotes.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// The table as TOML text; secrets as `secret` says.
pub(super) fn to_text(table: &Table, secrets: Secrets) -> String {
    toml::to_string(&to_toml(table, secrets)).unwrap_or_default()
}

/// What is printed for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Itself.
    Shown,
    /// Stars.
    Masked,
}

fn to_toml(table: &Table, secrets: Secrets) -> toml::Table {
    table.iter().filter_map(|(name, item)| Some((name.clone(), item_to_toml(item, secrets)?))).collect()
}

fn item_to_toml(item: &Item, secrets: Secrets) -> Option<toml::Value> {
    Some(match &item.value {
        Value::String(_) if item.secret && secrets == Secrets::Masked => toml::Value::String("***".into()),
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Integer(n) => toml::Value::Integer(*n),
        Value::Boolean(b) => toml::Value::Boolean(*b),
        Value::Array(items) => {
            toml::Value::Array(items.iter().filter_map(|item| item_to_toml(item, secrets)).collect())
        }
        Value::Table(table) => toml::Value::Table(to_toml(table, secrets)),
        Value::Other(_) => return None,
    })
}
