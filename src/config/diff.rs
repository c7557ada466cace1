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

/// Everything that is different, in the order of the keys; then files.
pub fn changes(before: &Loaded, after: &Loaded) -> Vec<Change> {
    let parse = |text: &str| text.parse::<Table>().unwrap_or_default();
    let real = [parse(&before.effective), parse(&after.effective)];
    let shown = [parse(&before.masked), parse(&after.masked)];
    let mut found = Vec::new();
    tables([&real[0], &real[1]], [&shown[0], &shown[1]], "", &mut found);
    files(before, after, &mut found);
    found
}

/// Compares the files that the texts name, and those beside them.
fn files(before: &Loaded, after: &Loaded, found: &mut Vec<Change>) {
    let mut note =
        |path: &str, what: &str, kind| found.push(Change { path: path.to_owned(), what: what.to_owned(), kind });
    // One that a text names is new or gone as its key is, and that is said.
    let is_named = |loaded: &Loaded, path: &str| loaded.effective.contains(&format!("\"{path}\""));
    for (path, attachment) in after.attachments.iter() {
        match before.attachments.get(path) {
            Some(known) if known == attachment => {}
            Some(_) => note(path, "other contents", ChangeKind::Changed),
            None if is_named(after, path) => {}
            None => note(path, "a file that was not there", ChangeKind::Added),
        }
    }
    for (path, _) in before.attachments.iter() {
        if after.attachments.get(path).is_none() && !is_named(before, path) {
            note(path, "a file that is gone", ChangeKind::Removed);
        }
    }
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
                let part = |at: usize| shown[at].get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                arrays([a, b], [part(0), part(1)], &path, found);
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

/// What is other in tables of two arrays that are named alike, and what an array has more, and less. Tables are named by what
/// tells them apart.
fn arrays(real: [&[Value]; 2], shown: [&[Value]; 2], path: &str, found: &mut Vec<Change>) {
    let [before, after] = real;
    let mut gone: Vec<usize> = (0..before.len()).filter(|&i| !after.contains(&before[i])).collect();
    let mut new: Vec<usize> = (0..after.len()).filter(|&i| !before.contains(&after[i])).collect();
    let were_same = gone.is_empty() && new.is_empty();
    // An array of secrets may be shown as a whole.
    let name = |at: usize, i: usize| shown[at].get(i).map_or_else(|| "a secret".to_owned(), label);
    gone.retain(|&i| {
        let named_alike =
            |&j: &usize| before[i].is_table() && after[j].is_table() && label(&before[i]) == label(&after[j]);
        let Some(at) = new.iter().position(named_alike) else { return true };
        let j = new.remove(at);
        let (Some(a), Some(b)) = (before[i].as_table(), after[j].as_table()) else { return true };
        let none = Table::new();
        let part = |at: usize, i: usize| shown[at].get(i).and_then(Value::as_table).unwrap_or(&none);
        tables([a, b], [part(0, i), part(1, j)], &format!("{path}[{}]", name(0, i)), found);
        false
    });
    let gone = gone.iter().map(|&i| format!("-{}", name(0, i)));
    let new = new.iter().map(|&i| format!("+{}", name(1, i)));
    let all: Vec<String> = gone.chain(new).collect();
    let what = match all.len() {
        0 if were_same => "another order".to_owned(),
        0 => return,
        n if n > MOST => format!("{} ... and {} more", all[..MOST].join(" "), n - MOST),
        _ => all.join(" "),
    };
    found.push(Change { path: path.to_owned(), what, kind: ChangeKind::Changed });
}

/// Differences of a list that are named.
const MOST: usize = 12;
/// Characters of a value that are shown.
const LONGEST: usize = 80;

/// An element of a list: of a table, what names it.
fn label(value: &Value) -> String {
    let of_table = |table: &Table| {
        let keys = ["name", "address", "path", "path_prefix", "path_exact", "path_regex", "sni", "alpn", "pool"];
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

    #[test]
    fn secrets_of_lists_are_not_shown_either() {
        let pool = |token: &str| {
            let header = format!("request_headers = {{ add = {{ Authorization = [\"{token}\", \"x\"] }} }}\n");
            loaded(&format!(
                "[listener.web]\nbind = [\"127.0.0.1:80\"]\n[[listener.web.route]]\npool = \"a\"\n{header}\
                 [pool.a]\nservers = [\"10.0.0.1:80\"]\n{header}"
            ))
        };
        let found = changes(&pool("hunter-1"), &pool("hunter-22"));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| !line.contains("hunter")), "{lines:?}");
    }

    #[test]
    fn a_table_that_changes_in_a_list_is_told_by_its_key() {
        let pool = |weight: u32, more: &str| {
            loaded(&format!(
                "{BASE}[pool.a]\nservers = [{{ address = \"10.0.0.1:80\", weight = {weight} }}, \"10.0.0.2:80\"{more}]\n"
            ))
        };
        let lines = |before: &Loaded, after: &Loaded| -> Vec<String> {
            changes(before, after).iter().map(ToString::to_string).collect()
        };
        assert_eq!(lines(&pool(1, ""), &pool(2, "")), ["~ pool.a.servers[\"10.0.0.1:80\"].weight: 1 -> 2"]);
        assert_eq!(
            lines(&pool(1, ""), &pool(2, ", \"10.0.0.3:80\"")),
            ["~ pool.a.servers[\"10.0.0.1:80\"].weight: 1 -> 2", "~ pool.a.servers: +\"10.0.0.3:80\""]
        );
    }

    #[test]
    fn a_weight_that_changes_in_a_list_of_a_list_is_told() {
        let split = |weights: [u32; 2], more: &str| {
            loaded(&format!(
                "[listener.web]\nbind = [\"127.0.0.1:80\"]\n[[listener.web.route]]\npath = \"/\"\n\
                 pools = [{{ pool = \"a\", weight = {} }}, {{ pool = \"b\", weight = {} }}{more}]\n\
                 [pool.a]\nservers = [\"10.0.0.1:80\"]\n[pool.b]\nservers = [\"10.0.0.2:80\"]\n",
                weights[0], weights[1]
            ))
        };
        let lines = |before: &Loaded, after: &Loaded| -> Vec<String> {
            changes(before, after).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            lines(&split([95, 5], ""), &split([90, 10], "")),
            [
                "~ site.web.route[\"/\"].pools[\"a\"].weight: 95 -> 90",
                "~ site.web.route[\"/\"].pools[\"b\"].weight: 5 -> 10",
            ]
        );
        let condition = ", { pool = \"b\", cookies = { beta = \"1\" } }";
        assert_eq!(
            lines(&split([95, 5], condition), &split([95, 5], &condition.replace("\"1\"", "\"2\""))),
            ["~ site.web.route[\"/\"].pools[\"b\"].cookies.beta: \"1\" -> \"2\""]
        );
        assert_eq!(lines(&split([95, 5], ""), &split([95, 5], condition)), ["~ site.web.route[\"/\"].pools: +\"b\""]);
    }
}
