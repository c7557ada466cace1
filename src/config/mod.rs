//! The configuration: from files to what the rest of the program runs on.
//!
//! ```text
//! files -> document (places kept) -> merged for one node -> raw (as written) -> model (what it means)
//! ```
//!
//! A configuration is accepted as a whole or not at all, and everything that is wrong with it is reported at once, each
//! with its place. What the unprivileged process gets is the merged document as text ([`Loaded::effective`]): it opens no
//! file to become the same [`model::Config`] again.

mod attach;
mod decode;
mod diagnostic;
mod diff;
mod document;
mod help;
mod merge;
pub mod model;
mod nodes;
mod raw;
mod refresh;
mod resolve;
mod schema;
mod validate;
pub mod value;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use diff::{Change, ChangeKind, changes};
pub use refresh::{Refreshed, Refused, refresh};
pub use schema::{KeyDoc, reference_rows, schema};

use diagnostic::{Problems, Source, Sources};
use document::{Item, Secrets, Table, Value};
use model::{Attachments, Config};
use nodes::Node;
use resolve::Outside;

/// Which of the boxes that share a file this is.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `--node`; `None`: the short hostname.
    pub node: Option<String>,
}

/// A valid configuration.
#[derive(Clone)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// As one document that refers to nothing outside, secrets in clear; for [`parse_effective`].
    pub effective: String,
    /// The same for whoever has no use for the passwords of virtual routers: the process that talks to everybody.
    pub without_passwords: String,
    /// The contents of the files that it names, for whoever has the text only.
    pub attachments: Attachments,
    /// What is probably not meant.
    pub warnings: Diagnostics,
    /// The files it was read from, the main one first; none when it was [`restore`]d.
    pub files: Vec<PathBuf>,
    /// Of their contents, see [`checksum`].
    pub checksum: u32,
    masked: String,
}

impl Loaded {
    /// As [`Loaded::effective`], with stars for secrets.
    pub fn effective_masked(&self) -> String {
        self.masked.clone()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("files", &self.files).field("effective", &self.masked).finish_non_exhaustive()
    }
}

/// Reads the configuration in `path` as the node that `options` says.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    let node = options.node.clone().unwrap_or_else(hostname);
    let env = |name: &str| std::env::var_os(name);
    let (sources, table) = merge::read(path)?;
    load_node(path, &sources, table, &node, &env).map(|(loaded, _)| loaded)
}

/// Whether the configuration in `path` is valid for every `[node.*]` in it and the boxes fit together, or, without any,
/// on this box; the warnings.
///
/// # Errors
/// Everything that is wrong with it, on whichever node.
pub fn check_all_nodes(path: &Path) -> Result<Diagnostics, Diagnostics> {
    let env = |name: &str| std::env::var_os(name);
    let (sources, table) = merge::read(path)?;
    let mut names = merge::nodes(&table);
    if names.is_empty() {
        names.push(hostname());
    }
    let mut valid = Vec::new();
    let mut found = Vec::new();
    for name in names {
        match load_node(path, &sources, table.clone(), &name, &env) {
            Ok((loaded, table)) => {
                found.push((name, loaded.warnings));
                valid.push(Node { config: loaded.config, table });
            }
            Err(diagnostics) => found.push((name, diagnostics)),
        }
    }
    let mut problems = Problems::default();
    nodes::check(&valid, found.len(), &mut problems);
    let all = Diagnostics::over_nodes(found).and(sources.render(problems));
    if all.has_errors() { Err(all) } else { Ok(all) }
}

/// As [`load`], from what [`Loaded::effective`] was: an earlier configuration is back, whatever has become of the files. Only
/// certificates and keys are read again.
///
/// # Errors
/// What is wrong with `text` by the rules of this program.
pub fn restore(text: &str, node: &str) -> Result<Loaded, Diagnostics> {
    let mut table = parse_table(text);
    let attachments = attach::attach(&mut table, Path::new("/"));
    restore_with(text, node, attachments)
}

fn parse_table(text: &str) -> Table {
    Source::parse(PathBuf::new(), text.to_owned(), 0, &mut Problems::default()).table
}

/// As [`restore`], with the contents of files that came along; opens none.
///
/// # Errors
/// What is wrong with `text` by the rules of this program.
pub fn restore_with(text: &str, node: &str, attachments: Attachments) -> Result<Loaded, Diagnostics> {
    let config = parse_with(text, node, &attachments)?;
    let mut table = parse_table(text);
    resolve::mark_secrets(&mut table);
    Ok(Loaded {
        config,
        attachments,
        effective: text.to_owned(),
        without_passwords: document::to_text(&without_passwords(table.clone()), Secrets::Shown),
        warnings: Diagnostics::default(),
        files: Vec::new(),
        checksum: 0,
        masked: document::to_text(&table, Secrets::Masked),
    })
}

/// As [`parse_with`], where no certificates are named.
///
/// # Errors
/// As there.
pub fn parse_effective(text: &str, node: &str) -> Result<Config, Diagnostics> {
    parse_with(text, node, &Attachments::default())
}

/// The configuration that [`Loaded::effective`] and [`Loaded::attachments`] were made from; opens no file.
///
/// # Errors
/// What is wrong with `text`; lines of it are not quoted, for they may hold secrets.
pub fn parse_with(text: &str, node: &str, attachments: &Attachments) -> Result<Config, Diagnostics> {
    let mut problems = Problems::default();
    let mut source = Source::parse(PathBuf::from("effective configuration"), text.to_owned(), 0, &mut problems);
    source.quoted = false;
    let mut table = source.table.clone();
    let mut sources = Sources::default();
    sources.push(source);
    if problems.has_errors() {
        return Err(sources.render(problems));
    }
    resolve::mark_secrets(&mut table);
    resolve::resolve(&mut table, &Outside::Nothing, &mut problems);
    match validate::validate(table, attachments, node, None, &mut problems) {
        Some(config) if !problems.has_errors() => Ok(config),
        _ => Err(sources.render(problems)),
    }
}

/// What `node` runs, and the table that it is made from.
fn load_node(
    path: &Path,
    sources: &Sources,
    table: Table,
    node: &str,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(Loaded, Table), Diagnostics> {
    let mut problems = Problems::default();
    let (mut table, node) = merge::for_node(table, node, &mut problems);
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve::resolve(&mut table, &Outside::Box { folder, env }, &mut problems);
    fill_in_directories(&mut table, env);
    let attachments = attach::attach(&mut table, folder);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|t| i64::try_from(t.as_secs()).ok());
    let config = validate::validate(table.clone(), &attachments, &node, now, &mut problems);
    let failed = problems.has_errors();
    let warnings = sources.render(problems);
    match config {
        Some(config) if !failed => {
            let loaded = Loaded {
                config,
                effective: document::to_text(&table, Secrets::Shown),
                without_passwords: document::to_text(&without_passwords(table.clone()), Secrets::Shown),
                attachments,
                warnings,
                files: sources.iter().map(|source| source.name.clone()).collect(),
                checksum: sum(sources.iter().map(|source| source.text.as_bytes())),
                masked: document::to_text(&table, Secrets::Masked),
            };
            Ok((loaded, table))
        }
        _ => Err(warnings),
    }
}

/// A checksum of the contents of `files`, to see whether they are still what was loaded; `None`: one cannot be read.
pub fn checksum(files: &[PathBuf]) -> Option<u32> {
    let contents: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>().ok()?;
    Some(sum(contents.iter().map(Vec::as_slice)))
}

fn sum<'a>(contents: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for text in contents {
        hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(text);
    }
    hash.finalize()
}

/// A document in which no virtual router has a password; as valid as the one with them.
fn without_passwords(mut table: Table) -> Table {
    let routers = table.get_mut("vrrp").and_then(Item::as_table_mut);
    for router in routers.into_iter().flat_map(|routers| routers.values_mut()).filter_map(Item::as_table_mut) {
        router.remove("authentication");
    }
    table
}

/// Directories depend on who starts the program: the process that is started later, as another user, must find them in the
/// document.
fn fill_in_directories(table: &mut Table, env: &dyn Fn(&str) -> Option<OsString>) {
    let item = |value| Item { key: merge::TOP, place: merge::TOP, value, secret: false };
    let global = table.entry("global".to_owned()).or_insert_with(|| item(Value::Table(Table::new())));
    let Some(global) = global.as_table_mut() else { return };
    let uid = rustix::process::getuid();
    let folder = |name: &str| env(name).and_then(|dir| dir.into_string().ok()).filter(|dir| dir.starts_with('/'));
    let written = match global.get("run_dir").map(|item| &item.value) {
        Some(Value::String(dir)) => Some(dir.clone()),
        _ => None,
    };
    let run_dir = match folder("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => "/run/bascule".to_owned(),
        Some(dir) => format!("{dir}/bascule"),
        None => format!("/tmp/bascule-{}", uid.as_raw()),
    };
    // An instance with a folder of its own has a state of its own.
    let state_dir = match (&written, folder("XDG_STATE_HOME"), folder("HOME")) {
        (Some(dir), ..) => format!("{dir}/state"),
        (None, ..) if uid.is_root() => "/var/lib/bascule".to_owned(),
        (None, Some(dir), _) => format!("{dir}/bascule"),
        (None, None, Some(home)) => format!("{home}/.local/state/bascule"),
        (None, None, None) => format!("{run_dir}/state"),
    };
    global.entry("run_dir".to_owned()).or_insert_with(|| item(Value::String(run_dir)));
    global.entry("state_dir".to_owned()).or_insert_with(|| item(Value::String(state_dir)));
}

/// The short hostname.
fn hostname() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
