//! The files in `conf/` are valid, and `full.toml` has every key with its default.

use std::fs;
use std::path::Path;

use bascule::config::{self, KeyDoc};

#[test]
fn every_shipped_file_is_valid_without_warnings() {
    for file in ["conf/bascule.toml", "conf/full.toml"] {
        let warnings = config::check_all_nodes(Path::new(file)).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(warnings.is_empty(), "{warnings}");
    }
}

#[test]
fn the_full_file_has_every_key_with_its_default() {
    let text = fs::read_to_string("conf/full.toml").unwrap();
    let rows = config::reference_rows();
    let missing: Vec<String> = rows.iter().filter_map(|row| problem(row, &text)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_full_file_has_no_key_without_a_comment() {
    let text = fs::read_to_string("conf/full.toml").unwrap();
    for row in config::reference_rows().iter().filter(|row| row.kind != "table") {
        let documented = lines_of(row.key, &text).any(|line| line.contains('#'));
        assert!(documented || inline(row.key, &text), "`{}` of {:?} has no comment", row.key, row.tables);
    }
}

/// What `text` does not say about a key.
fn problem(row: &KeyDoc, text: &str) -> Option<String> {
    let KeyDoc { tables, key, default, .. } = row;
    if row.kind == "table" {
        let header = |prefix: &str| text.contains(&format!("[{prefix}{key}")) || text.contains(&format!(".{key}"));
        let there = header("") || lines_of(key, text).next().is_some() || inline(key, text);
        return (!there).then(|| format!("no table `{key}` of {tables:?}"));
    }
    let mut lines = lines_of(key, text).peekable();
    if lines.peek().is_none() && !inline(key, text) {
        return Some(format!("no `{key}` of {tables:?}"));
    }
    let default = (*default)?;
    let says =
        |line: &str| line.contains(&format!("{key} = {default}")) || line.contains(&format!("default {default}"));
    let said = lines.any(says)
        || text.contains(&format!("{key}: default {default}"))
        || text.contains(&format!("{key} default {default}"));
    (!said).then(|| format!("`{key}` of {tables:?} does not say that its default is {default}"))
}

/// Lines that begin with the key, a `#` in front or not, or with the header of a table that is its value.
fn lines_of<'t>(key: &str, text: &'t str) -> impl Iterator<Item = &'t str> {
    let (start, header) = (format!("{key} = "), format!(".{key}]]"));
    let is_of = move |line: &&str| line.trim_start_matches("# ").starts_with(&start) || line.contains(&header);
    text.lines().filter(is_of)
}

/// Whether the key is in an inline table.
fn inline(key: &str, text: &str) -> bool {
    text.contains(&format!("{{ {key} = ")) || text.contains(&format!(", {key} = "))
}
