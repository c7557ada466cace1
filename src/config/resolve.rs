//! Takes what a file only refers to into the document: secrets and error pages.
//!
//! After this the configuration is one document that opens nothing, which is what the unprivileged process gets.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::decode::{Decode, Keys};
use super::diagnostic::Problems;
use super::document::{Item, Table, Value};
use super::raw::{RawErrorPage, RawSecret};
use super::value::Size;

/// Where secrets and files come from.
pub(super) enum Outside<'w> {
    /// This box.
    Box {
        /// Relative paths start here.
        folder: &'w Path,
        /// The environment.
        env: &'w dyn Fn(&str) -> Option<OsString>,
    },
    /// Nowhere: everything is in the document.
    Nothing,
}

/// Parts of names of keys whose values are never shown, lower case.
pub(super) const SENSITIVE: &[&str] =
    &["authorization", "authentication", "auth_pass", "cookie", "token", "secret", "password", "api-key", "apikey"];

/// Larger error pages are a mistake: each is kept in memory and sent without regard to its size.
const MAX_PAGE: u64 = 64 * 1024;

/// A header value may be as large as a header.
const MAX_SECRET: u64 = 32 * 1024;

/// Marks what is secret in `table` before anything else is done with it, wherever it is: the key may be in a wrong place.
pub(super) fn mark_secrets(table: &mut Table) {
    for (name, item) in table {
        let name = name.to_ascii_lowercase();
        mark(item, SENSITIVE.iter().any(|part| name.contains(part)));
        // A name that is no secret, unlike what else is called so.
        if let Some(cookie) = item.as_table_mut().filter(|_| name == "sticky").and_then(|table| table.get_mut("cookie"))
        {
            cookie.secret = false;
        }
    }
}

fn mark(item: &mut Item, secret: bool) {
    item.secret |= secret;
    match &mut item.value {
        Value::Array(items) => items.iter_mut().for_each(|item| mark(item, secret)),
        Value::Table(table) => mark_secrets(table),
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
    }
}

/// Replaces every reference by what it refers to.
pub(super) fn resolve(table: &mut Table, outside: &Outside<'_>, problems: &mut Problems) {
    header_values(table, &mut |item| {
        // A secret is taken as it is, and a value is a template.
        inline_secret(item, |text| text.replace('$', "$$"), outside, problems);
    });
    tables_called(table, &["authentication", "health_check"], &mut |authentication| {
        if let Some(item) = authentication.get_mut("password") {
            inline_secret(item, |text| text, outside, problems);
        }
    });
    tables_called(table, &["sticky"], &mut |sticky| {
        if let Some(item) = sticky.get_mut("secret") {
            inline_secret(item, |text| text, outside, problems);
        }
    });
    tables_called(table, &["error_pages"], &mut |pages| {
        for page in pages.values_mut() {
            inline_page(page, outside, problems);
        }
    });
}

/// Calls `f` with each value of every header that is set or added.
fn header_values(table: &mut Table, f: &mut dyn FnMut(&mut Item)) {
    tables_called(table, &["request_headers", "response_headers"], &mut |edits| {
        for key in ["set", "add"] {
            for item in edits.get_mut(key).and_then(Item::as_table_mut).into_iter().flat_map(Table::values_mut) {
                match &mut item.value {
                    Value::Array(items) => items.iter_mut().for_each(&mut *f),
                    _ => f(item),
                }
            }
        }
    });
}

/// Calls `f` with every table that has one of `names`, wherever it is.
pub(super) fn tables_called(table: &mut Table, names: &[&str], f: &mut dyn FnMut(&mut Table)) {
    for (name, item) in table {
        match &mut item.value {
            Value::Table(inner) if names.contains(&name.as_str()) => f(inner),
            Value::Table(inner) => tables_called(inner, names, f),
            Value::Array(items) => {
                items.iter_mut().filter_map(Item::as_table_mut).for_each(|inner| tables_called(inner, names, f));
            }
            Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
    }
}

/// Replaces a reference by what `written` makes of the secret.
fn inline_secret(
    item: &mut Item,
    written: impl FnOnce(String) -> String,
    outside: &Outside<'_>,
    problems: &mut Problems,
) {
    if item.as_table().is_none() {
        return;
    }
    item.secret = true;
    if let Some(text) = secret(item, outside, problems) {
        item.value = Value::String(written(text));
    }
}

/// The secret that `item` refers to.
fn secret(item: &Item, outside: &Outside<'_>, problems: &mut Problems) -> Option<String> {
    let RawSecret { file, env, credential } = RawSecret::decode(item, problems)?;
    let given = [file.key(), env.key(), credential.key()].into_iter().flatten().count();
    if given != 1 {
        problems.error(item.place, "a secret is one of `file`, `env` and `credential`");
        return None;
    }
    let Outside::Box { folder, env: variable } = outside else {
        problems.error(item.place, "a reference where everything must be in the document");
        return None;
    };
    if let Some(name) = env.get() {
        let value = variable(name).and_then(|value| value.into_string().ok());
        if value.is_none() {
            problems.error(name.place, format!("no environment variable `{}` with text", **name));
        }
        return value;
    }
    let (place, path) = match (file.get(), credential.get()) {
        (Some(file), _) => (file.place, folder.join(&**file)),
        (None, Some(name)) => {
            let Some(directory) = variable("CREDENTIALS_DIRECTORY") else {
                problems
                    .error(name.place, "there are no credentials: CREDENTIALS_DIRECTORY is not set")
                    .help("the systemd unit needs LoadCredential= or SetCredential=");
                return None;
            };
            if name.contains('/') || name.is_empty() || name.starts_with('.') {
                problems.error(name.place, "not the name of a credential");
                return None;
            }
            (name.place, PathBuf::from(directory).join(&**name))
        }
        (None, None) => return None,
    };
    let text = match read(&path, MAX_SECRET) {
        Ok(text) => text,
        Err(error) => {
            problems.error(place, format!("{} {error}", path.display()));
            return None;
        }
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Some(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Replaces `file` by `body`, and `content_type` by the file's unless it is given.
fn inline_page(item: &mut Item, outside: &Outside<'_>, problems: &mut Problems) {
    let place = item.place;
    let Some(table) = item.as_table_mut().filter(|table| table.contains_key("file")) else { return };
    // What is wrong with the table itself is noted when it is decoded.
    let page = RawErrorPage::read(table, place, &mut Problems::default());
    let Some(file) = page.file.get() else { return };
    if let Some(body) = page.body.key() {
        problems.error(file.key, "an error page has `body` or `file`, not both").note("`body` is at", body);
        return;
    }
    let Outside::Box { folder, .. } = outside else {
        problems.error(file.key, "a reference where everything must be in the document");
        return;
    };
    let path = folder.join(&**file);
    let body = match read(&path, MAX_PAGE) {
        Ok(body) => body,
        Err(error) => {
            problems.error(file.place, format!("{} {error}", path.display()));
            return;
        }
    };
    let Some(item) = table.remove("file") else { return };
    if !table.contains_key("content_type")
        && let Some(content_type) = content_type(&path)
    {
        table.insert("content_type".into(), item.with(Value::String(content_type.into())));
    }
    table.insert("body".into(), item.with(Value::String(body)));
}

fn content_type(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "html" | "htm" => Some("text/html; charset=utf-8"),
        "json" => Some("application/json"),
        "txt" => Some("text/plain; charset=utf-8"),
        "xml" => Some("application/xml"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// Why a file is not used; the text goes behind its name.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(std::io::Error),
    TooLarge(u64),
    NotUtf8 { line: usize },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::TooLarge(max) => write!(f, "is larger than {}", Size::new(*max)),
            Self::NotUtf8 { line } => write!(f, "is not UTF-8 in line {line}"),
        }
    }
}

/// The text of a file of at most `max` bytes.
pub(super) fn read(path: &Path, max: u64) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    // Reading bounds it, not the size the file claims: it may be a pipe.
    let file = File::open(path).map_err(ReadError::Io)?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > max {
        return Err(ReadError::TooLarge(max));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        ReadError::NotUtf8 { line: valid.iter().filter(|b| **b == b'\n').count() + 1 }
    })
}
