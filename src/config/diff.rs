//! What is different between two configurations, key by key.

use std::fmt;

use toml::{Table, Value};

use super::Loaded;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's path: `pool.api.retries`.
    pub path: String,
    /// What it is, for people: secrets masked.
    pub what: String,
    /// Whether the key is there before, and after.
    pub kind: ChangeKind,
}

/// Kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// There was none.
    Added,
    /// There is none.
    Removed,
    /// It is other than it was.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {}", self.path)?;
        if self.what.is_empty() { Ok(()) } else { write!(f, ": {}", self.what) }
    }
}

/// Everything that is different, in the order of the keys.
pub fn changes(before: &Loaded, after: &Loaded) -> Vec<Change> {
    let parse = |text: &str| text.parse::<Table>().unwrap_or_default();
    let real = [parse(&before.effective), parse(&after.effective)];
    let shown = [parse(&before.masked), parse(&after.masked)];
    let mut found = Vec::new();
    tables([&real[0], &real[1]], [&shown[0], &shown[1]], "", &mut found);
    found
}

/// Compares what is `real`, says what may be `shown`.
fn tables(real: [&Table; 2], shown: [&Table; 2], path: &str, found: &mut Vec<Change>) {
    let [before, after] = real;
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let text = |at: usize| shown[at].get(key).map_or_else(String::new, short);
        match (before.get(key), after.get(key)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(Value::Table(a)), Some(Value::Table(b))) => {
                let none = Table::new();
                let part = |at: usize| shown[at].get(key).and_then(Value::as_table).unwrap_or(&none);
                tables([a, b], [part(0), part(1)], &path, found);
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                let what = lists(a, b);
                found.push(Change { path, what, kind: ChangeKind::Changed });
            }
            (Some(_), Some(_)) => {
                let what = match (text(0), text(1)) {
                    (a, b) if a == b => "another secret".to_owned(),
                    (a, b) => format!("{a} -> {b}"),
                };
                found.push(Change { path, what, kind: ChangeKind::Changed });
            }
            (None, Some(value)) => {
                let what = if value.is_table() { String::new() } else { text(1) };
                found.push(Change { path, what, kind: ChangeKind::Added });
            }
            (Some(value), None) => {
                let what = if value.is_table() { String::new() } else { text(0) };
                found.push(Change { path, what, kind: ChangeKind::Removed });
            }
            (None, None) => {}
        }
    }
}

/// What an array has more, and less. None holds a secret but in tables, which are named by what tells them apart.
fn lists(before: &[Value], after: &[Value]) -> String {
    let gone = before.iter().filter(|value| !after.contains(value)).map(|value| format!("-{}", label(value)));
    let new = after.iter().filter(|value| !before.contains(value)).map(|value| format!("+{}", label(value)));
    let all: Vec<String> = gone.chain(new).collect();
    match all.len() {
        0 => "another order".to_owned(),
        n if n > MOST => format!("{} ... and {} more", all[..MOST].join(" "), n - MOST),
        _ => all.join(" "),
    }
}

/// Differences of a list that are named.
const MOST: usize = 12;
/// Characters of a value that are shown.
const LONGEST: usize = 80;

/// An element of a list: of a table, what names it.
fn label(value: &Value) -> String {
    let of_table = |table: &Table| {
        let keys = ["name", "address", "path", "path_prefix", "path_exact", "path_regex", "pool"];
        keys.iter().find_map(|key| table.get(*key)).map_or_else(|| "{...}".to_owned(), short)
    };
    value.as_table().map_or_else(|| short(value), of_table)
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, LoadOptions};

    fn loaded(text: &str) -> Loaded {
        let dir = std::env::temp_dir().join(format!("bascule-diff-{}-{}", std::process::id(), text.len()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("bascule.toml");
        std::fs::write(&file, text).unwrap();
        let loaded = config::load(&file, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        std::fs::remove_dir_all(dir).unwrap();
        loaded
    }

    const BASE: &str = "[listener.web]\nbind = [\"127.0.0.1:80\"]\npool = \"a\"\n";

    #[test]
    fn what_is_new_gone_and_other_is_named_by_its_key() {
        let before = loaded(&format!(
            "{BASE}[pool.a]\nservers = [\"10.0.0.1:80\", {{ address = \"10.0.0.2:80\", weight = 2 }}]\nretries = 1\n\
             [pool.b]\nservers = [\"10.0.0.9:80\"]\n"
        ));
        let after = loaded(&format!(
            "{BASE}[pool.a]\nservers = [\"10.0.0.1:80\", \"10.0.0.3:80\"]\nretries = 2\nkeepalive = 7\n"
        ));
        let lines: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "+ pool.a.keepalive: 7",
                "~ pool.a.retries: 1 -> 2",
                "~ pool.a.servers: -\"10.0.0.2:80\" +\"10.0.0.3:80\"",
                "- pool.b",
            ]
        );
        assert_eq!(changes(&after, &after), []);
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let vrrp = |password: &str| {
            loaded(&format!(
                "{BASE}[pool.a]\nservers = [\"10.0.0.1:80\"]\n[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 1\n\
                 version = 2\nauthentication = {{ type = \"pass\", password = \"{password}\" }}\n\
                 virtual_addresses = [\"192.0.2.1/24\"]\n"
            ))
        };
        let found = changes(&vrrp("secret-1"), &vrrp("secret-22"));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["~ vrrp.v.authentication.password: another secret"]);
    }
}
