//! From what is written to what it means: every reference resolved, every default and inherited setting filled in.
//!
//! Nothing stops at the first mistake: functions note what is wrong and go on with what they have, and the configuration
//! exists only when nothing was noted.

mod admission;
mod check;
mod global;
mod https;
mod listener;
mod log;
mod passthrough;
mod pool;
mod role;
mod route;
mod server_tls;
mod settings;
mod sick;
mod site;
mod split;
mod sticky;
mod tls;
mod track;
mod vrrp;

use std::sync::Arc;

use super::decode::{At, Decode, Named};
use super::diagnostic::Problems;
use super::document::{Item, Place, Table, Value};
use super::help;
use super::merge::TOP;
use super::model::{Attachments, Config, Limit};
use super::raw::{RawFile, RawPool};
use crate::template::{Scope, Template};
use log::Logs;

/// What the validation of a table needs beside the table.
struct Context<'f> {
    problems: &'f mut Problems,
    file: &'f RawFile,
    logs: Logs,
    /// Names of pools that are used.
    used: Vec<String>,
    limits: Vec<Arc<Limit>>,
    /// Names of limits that are used.
    used_limits: Vec<String>,
    /// What the files are that it names.
    attachments: &'f Attachments,
    /// Seconds since 1970, where dates count.
    now: Option<i64>,
}

/// The configuration that `table` and `attachments` mean on the box called `node`; `now`, in seconds since 1970, if dates are
/// looked at.
pub(super) fn validate(
    table: Table,
    attachments: &Attachments,
    node: &str,
    now: Option<i64>,
    problems: &mut Problems,
) -> Option<Config> {
    let top = Item { key: TOP, place: TOP, value: Value::Table(table), secret: false };
    let file = RawFile::decode(&top, problems)?;
    let mut cx = Context {
        problems,
        file: &file,
        logs: Logs::default(),
        used: Vec::new(),
        limits: Vec::new(),
        used_limits: Vec::new(),
        attachments,
        now,
    };
    cx.limits = admission::limits(&mut cx);
    let pools = pool::pools(&mut cx);
    let listeners = listener::listeners(&mut cx);
    let sites = site::sites(&listeners, &mut cx);
    https::warn_of_dead_ends(&listeners, &sites, &mut cx);
    let routers = vrrp::routers(&mut cx);
    let global = global::global(&mut cx)?;
    let config = Config {
        admin: global::admin(&global, &mut cx)?,
        global,
        node: node.into(),
        dns: global::dns(&mut cx),
        listeners,
        sites,
        limits: std::mem::take(&mut cx.limits),
        pools,
        routers,
    };
    cx.warn_unused();
    (!problems.has_errors()).then_some(config)
}

impl<'f> Context<'f> {
    /// The pool called `name`, which is used from now on.
    fn pool(&mut self, name: &At<String>) -> Option<&'f At<RawPool>> {
        let pool = self.file.pool.get(&**name);
        match pool {
            Some(_) => self.used.push((**name).clone()),
            None => self.unknown("pool", name, &self.file.pool),
        }
        pool
    }

    /// Notes that there is no table `[kind.NAME]`.
    fn unknown<T>(&mut self, kind: &str, name: &At<String>, known: &Named<T>) {
        let near = help::nearest(name, known.keys().map(String::as_str));
        let help = near.map(|near| format!("did you mean \"{near}\"?"));
        let help = help.or_else(|| known.is_empty().then(|| format!("there is no [{kind}.NAME] at all")));
        self.problems.error(name.place, format!("there is no {kind} \"{}\"", **name)).maybe_help(help);
    }

    /// The template in `text`, for the moment `scope`.
    fn template(&mut self, text: &At<String>, scope: Scope) -> Option<Template> {
        let error = match Template::parse_for(text, scope) {
            Ok(template) => return Some(template),
            Err(error) => error,
        };
        if text.secret {
            self.problems
                .error(text.place, "a `$` in this text starts no variable that has a value here")
                .help("write `$$` for a dollar sign");
        } else {
            let rest = text[error.offset..].bytes().skip(1);
            let name = rest.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'{' | b'}')).count();
            let place = part(text, error.offset, 1 + name);
            self.problems.error(place, error.message).maybe_help(error.help);
        }
        None
    }

    /// The regular expression in `pattern`.
    fn regex(&mut self, pattern: &At<String>) -> Option<regex::bytes::Regex> {
        let error = match regex::bytes::Regex::new(pattern) {
            Ok(regex) => return Some(regex),
            Err(error) => error,
        };
        let syntax = regex_syntax::ParserBuilder::new().utf8(false).build().parse(pattern).err();
        let (span, message) = match &syntax {
            Some(regex_syntax::Error::Parse(error)) => (error.span(), error.kind().to_string()),
            Some(regex_syntax::Error::Translate(error)) => (error.span(), error.kind().to_string()),
            _ => {
                self.problems.error(pattern.place, format!("this regular expression cannot be used: {error}"));
                return None;
            }
        };
        let (start, end) = if pattern.secret { (0, pattern.len()) } else { (span.start.offset, span.end.offset) };
        self.problems.error(part(pattern, start, end.max(start + 1) - start), format!("regular expression: {message}"));
        None
    }

    fn warn_unused(&mut self) {
        for (name, pool) in self.file.pool.iter().filter(|(name, _)| !self.used.contains(name)) {
            self.problems.warning(pool.key, format!("pool \"{name}\" is not used by any route or listener"));
        }
        for (name, limit) in self.file.limit.iter().filter(|(name, _)| !self.used_limits.contains(name)) {
            self.problems.warning(limit.key, format!("limit \"{name}\" is not used by any listener, site or route"));
        }
        if self.file.listener.is_empty() {
            self.problems
                .warning(TOP, "there is no listener: nothing will be served")
                .help("add [listener.http] with bind = [\"0.0.0.0:80\"] and a pool");
        }
    }
}

/// The place of `len` bytes from `offset` of a string, when it is written without escapes; else of the whole.
fn part(text: &At<String>, offset: usize, len: usize) -> Place {
    let Place { file, start, end } = text.place;
    let quote = 1;
    let plain = end - start == text.len() + 2 * quote;
    let start_of_part = start + quote + offset;
    // A mistake at the end of the text is shown at the quote.
    if plain { Place { file, start: start_of_part, end: (start_of_part + len).min(end) } } else { text.place }
}

/// Notes a name that is not fit for logs, metrics and the command line.
fn check_name(kind: &str, name: &str, key: Place, problems: &mut Problems) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        problems.error(key, format!("not the name of a {kind}")).help("1 to 64 letters, digits, `_`, `-` and `.`");
    }
}

/// Whether `text` can be a part of a host name; `_` is not, but is in use.
fn is_label(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether `text` can be the value of a header (RFC 9110 section 5.5).
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

/// Whether `text` is a token (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
