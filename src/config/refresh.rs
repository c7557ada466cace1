//! A configuration that runs, with what is by now in the files of certificates and keys that it names.
//!
//! Its text is not read again. What belongs together (a chain and its key, the authorities and revocation lists of a table)
//! is taken together or not at all: half of it must never be in force, and one certificate that is broken keeps no other
//! from being renewed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::attach::{self, in_folder, keys_beside, ocsp_beside};
use super::document::{Item, Table, Value};
use super::model::{Attachment, Attachments};
use super::{Diagnostics, Loaded, Severity, parse_table, resolve, restore_with};

/// What was found.
#[derive(Debug)]
pub struct Refreshed {
    /// The same with what can be used of it; `None`: nothing that can is new.
    pub loaded: Option<Arc<Loaded>>,
    /// What cannot be used, and stays as it was.
    pub refused: Vec<Refused>,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its whole path; of several that belong together the first.
    pub file: String,
    /// What is wrong.
    pub why: String,
}

/// Looks at the files that `loaded` names.
pub fn refresh(loaded: &Loaded) -> Refreshed {
    let mut table = parse_table(&loaded.effective);
    let found = attach::attach(&mut table, Path::new("/"));
    refresh_with(loaded, &mut table, &found)
}

fn refresh_with(loaded: &Loaded, table: &mut Table, found: &Attachments) -> Refreshed {
    let before = &loaded.attachments;
    let paths = before.iter().chain(found.iter()).map(|(path, _)| path);
    let changed: BTreeSet<&str> = paths.filter(|path| before.get(path) != found.get(path)).collect();
    if changed.is_empty() {
        return Refreshed { loaded: None, refused: Vec::new() };
    }
    // Nearly always all of it is good.
    if let Ok(next) = with(loaded, found.clone()) {
        return Refreshed { loaded: Some(Arc::new(next)), refused: Vec::new() };
    }
    let mut refreshed = Refreshed { loaded: None, refused: Vec::new() };
    let mut groups = groups(table, [before, found], &changed);
    // What the document does not name is by itself: the authorities that the system trusts.
    let named: BTreeSet<String> = groups.iter().flatten().cloned().collect();
    groups.extend(changed.iter().filter(|path| !named.contains(**path)).map(|path| vec![(*path).to_owned()]));
    for group in groups {
        let mut tried = refreshed.loaded.as_ref().map_or(before, |loaded| &loaded.attachments).clone();
        for path in &group {
            tried.set(path, found.get(path).cloned());
        }
        match with(loaded, tried) {
            Ok(next) => refreshed.loaded = Some(Arc::new(next)),
            Err(errors) => {
                refreshed
                    .refused
                    .push(Refused { file: group.into_iter().next().unwrap_or_default(), why: first(&errors) });
            }
        }
    }
    refreshed
}

/// The same text with other files.
fn with(loaded: &Loaded, attachments: Attachments) -> Result<Loaded, Diagnostics> {
    let next = restore_with(&loaded.effective, &loaded.config.node, attachments)?;
    let Loaded { files, checksum, warnings, .. } = loaded;
    Ok(Loaded { files: files.clone(), checksum: *checksum, warnings: warnings.clone(), ..next })
}

fn first(errors: &Diagnostics) -> String {
    let error = errors.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
    error.map_or_else(String::new, |error| error.message.clone())
}

/// What of `changed` belongs together; each path is in one group, and the certificate first.
fn groups(table: &mut Table, states: [&Attachments; 2], changed: &BTreeSet<&str>) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut add = |paths: Vec<String>| {
        let mut group: Vec<String> = Vec::new();
        for path in paths.into_iter().filter(|path| changed.contains(path.as_str())) {
            if !group.contains(&path) {
                group.push(path);
            }
        }
        // A file that is named twice joins what it is named with.
        let (same, rest) = std::mem::take(&mut groups).into_iter().partition(|g| g.iter().any(|p| group.contains(p)));
        groups = rest;
        for path in Vec::<Vec<String>>::into_iter(same).flatten() {
            if !group.contains(&path) {
                group.push(path);
            }
        }
        groups.extend(Some(group).filter(|group| !group.is_empty()));
    };
    resolve::tables_called(table, &["tls"], &mut |tls| {
        // A client's certificate has its key beside it in the table.
        let mut others = Vec::new();
        for (key, item) in &*tls {
            match (key.as_str(), &item.value) {
                ("client_certificate", _) => certificate(item, states, &mut |paths| others.extend(paths)),
                ("certificates", Value::Array(entries)) => {
                    entries.iter().for_each(|entry| certificate(entry, states, &mut add));
                }
                ("certificates", _) => certificate(item, states, &mut add),
                (_, Value::Array(items)) => others.extend(items.iter().filter_map(Item::as_str).map(str::to_owned)),
                _ => others.extend(item.as_str().map(str::to_owned)),
            }
        }
        add(others);
    });
    groups
}

/// One of `certificates`: a file, a folder, or a table.
fn certificate(entry: &Item, states: [&Attachments; 2], add: &mut dyn FnMut(Vec<String>)) {
    let named = |key: &str| entry.as_table().and_then(|table| table.get(key)).and_then(Item::as_str);
    let Some(path) = entry.as_str().or_else(|| named("cert")) else { return };
    let of_file = |file: &str| -> Vec<String> {
        [file.to_owned()].into_iter().chain(keys_beside(file)).chain(ocsp_beside(file)).collect()
    };
    let [before, now] = states.map(|attachments| match attachments.get(path) {
        Some(Attachment::Folder(names)) => names.as_slice(),
        _ => &[],
    });
    if before.is_empty() && now.is_empty() {
        let beside = ["key", "ocsp"].into_iter().filter_map(named).map(str::to_owned);
        return add(of_file(path).into_iter().chain(beside).collect());
    }
    // What is new in a folder, and what is gone, is so by its list of names.
    let mut moved = vec![path.to_owned()];
    for name in before.iter().chain(now) {
        let group = of_file(&in_folder(path, name));
        if before.contains(name) && now.contains(name) {
            add(group);
        } else {
            moved.extend(group);
        }
    }
    add(moved);
}
