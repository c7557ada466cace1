//! The rules of the source tree that no compiler checks: which module may import which, how long a file may be, what
//! pure code may not mention, and what the top level holds.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// What each module may import beside itself: a module, or one part of it. Layers from the bottom up; nothing imports a
/// layer above its own, but for `config::model` and `config::value`, which are plain data.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // 1: pure cores, and what has no layer below it.
    ("time", &[]),
    ("sys", &[]),
    ("template", &[]),
    ("http1", &[]),
    ("route", &["config::model"]),
    ("balance", &[]),
    ("vrrp", &["time"]),
    ("health", &["time"]),
    ("recency", &[]),
    ("tls", &[]),
    ("proxy_protocol", &[]),
    ("admission", &["config::value", "recency", "time"]),
    // 2
    ("config", &["admission", "health", "proxy_protocol", "route", "telemetry", "template", "tls", "vrrp"]),
    ("net", &["sys", "time"]),
    ("http2", &["http1", "net", "time"]),
    ("telemetry", &["config::model", "template"]),
    ("ipc", &["config::model", "sys"]),
    // 3
    ("pool", &["balance", "config::model", "health", "recency", "time"]),
    ("snapshot", &["admission", "balance", "config::model", "pool", "route", "telemetry", "template", "time", "tls"]),
    ("dns", &["config::model", "snapshot::Addresses"]),
    // 4
    (
        "proxy",
        &[
            "admission",
            "config::model",
            "config::value",
            "health",
            "http1",
            "http2",
            "net",
            "pool",
            "proxy_protocol",
            "route",
            "snapshot",
            "sys",
            "telemetry",
            "template",
            "time",
            "tls",
        ],
    ),
    ("probe", &["config::model", "health", "net", "pool", "proxy_protocol", "sys", "time", "tls"]),
    ("vrrpd", &["config::model", "net", "sys", "time", "vrrp"]),
    // 5
    (
        "app",
        &[
            "config",
            "dns",
            "health",
            "ipc",
            "net",
            "probe",
            "proxy",
            "snapshot",
            "sys",
            "telemetry",
            "time",
            "tls",
            "vrrp",
            "vrrpd",
        ],
    ),
    ("main", &["app"]),
];

/// Modules that take the time as an argument and return values.
const PURE: &[&str] =
    &["admission", "http1", "balance", "health", "proxy_protocol", "recency", "route", "template", "time", "vrrp"];

/// What such a module may not mention.
const IMPURE: &[&str] =
    &["Instant::now", "SystemTime::now", "spawn", "sleep", "tracing", "tokio", "std::net::Tcp", "std::fs"];

/// Lines of a file without its tests.
const MOST_LINES: usize = 600;

/// Files that are longer, and how long.
const LONGER: &[(&str, usize)] = &[];

/// The visible entries of the top level.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "benches", "conf", "examples", "src", "tests"];

/// What builds and failing property tests leave there, and git ignores.
const UNTRACKED: &[&str] = &["target", "proptest-regressions"];

/// A source file.
struct Source {
    /// From the top level.
    path: String,
    text: String,
}

impl Source {
    /// The lines before its tests, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.text.lines().enumerate().map(|(i, line)| (i + 1, line));
        all.take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
    }

    /// The same without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Whether it holds nothing but tests.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/") || self.path.starts_with("tests/")
    }

    /// The top module it belongs to; none for `lib.rs`.
    fn module(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|m| *m != "lib")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `folder`.
fn sources(folder: &str) -> Vec<Source> {
    fn walk(folder: PathBuf, found: &mut Vec<Source>) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                // A package of its own may have been built here.
                if !path.ends_with("target") {
                    walk(path, found);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(root()).unwrap().display().to_string(), text });
            }
        }
    }
    let mut found = Vec::new();
    walk(root().join(folder), &mut found);
    assert!(!found.is_empty());
    found
}

/// Code of the library that is not a test.
fn code() -> Vec<Source> {
    sources("src").into_iter().filter(|s| !s.is_test()).collect()
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Places in `sources` where `pattern` matches.
fn places<'a>(sources: impl IntoIterator<Item = &'a Source>, pattern: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for source in sources {
        let hits = source.code().filter(|(_, line)| pattern.is_match(line));
        found.extend(hits.map(|(n, line)| format!("{}:{n}: {}", source.path, line.trim())));
    }
    found
}

#[test]
fn imports_point_down() {
    // Not inside a string, such as a filter of the log.
    let path = Regex::new(r"(?:^|[^\w,])(?:crate|bascule)::(\w+)(?:::(\w+))?").unwrap();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in code() {
        let Some(module) = source.module() else { continue };
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module {module} is not in the table of layers", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for import in path.captures_iter(line) {
                let whole = &import[1];
                let part = import.get(2).map_or(String::new(), |p| format!("{whole}::{}", p.as_str()));
                match allowed.iter().find(|a| **a == whole || **a == part) {
                    _ if whole == module => {}
                    Some(entry) => drop(used.insert((module.to_owned(), *entry))),
                    None => wrong.push(format!(
                        "{}:{n}: {module} may not import {whole} here: {}",
                        source.path,
                        line.trim()
                    )),
                }
            }
        }
    }
    assert_none("imports against the layers", &wrong);
    let all = MAY_IMPORT.iter().flat_map(|(module, to)| to.iter().map(|to| ((*module).to_owned(), *to)));
    let idle: Vec<_> = all.filter(|entry| !used.contains(entry)).map(|(from, to)| format!("{from} -> {to}")).collect();
    assert_none("allowed and not used", &idle);
}

#[test]
fn imports_name_one_module_each() {
    // What the test above cannot read.
    assert_none("imports of several modules at once", &places(&code(), r"\bcrate::(\{|\*)"));
    assert_none("ways around the name of a module", &places(&code(), r"\bsuper::super::super\b"));
}

#[test]
fn pure_modules_have_no_clock_no_task_and_no_log() {
    let pure: Vec<_> = code().into_iter().filter(|s| s.module().is_some_and(|m| PURE.contains(&m))).collect();
    assert!(pure.len() >= PURE.len());
    for word in IMPURE {
        assert_none(&format!("{word} in a pure module"), &places(&pure, &format!(r"\b{word}")));
    }
}

#[test]
fn unsafe_code_is_in_sys_only() {
    let elsewhere: Vec<_> = sources("src").into_iter().filter(|s| s.module() != Some("sys")).collect();
    assert_none("unsafe code outside src/sys", &places(&elsewhere, r"\bunsafe\b"));
    assert!(!places(&code(), r"\bunsafe\b").is_empty(), "the pattern finds nothing even in src/sys");
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    for folder in ["src", "tests", "benches"] {
        let files: Vec<_> = sources(folder).into_iter().filter(|s| s.path != "tests/tidy.rs").collect();
        assert_none("unfinished code", &places(&files, r"\b(todo|unimplemented|dbg)!"));
        assert_none("tests that do not run", &places(&files, r"#\[ignore"));
    }
    assert_none("lints silenced without expecting them", &places(&code(), r"#!?\[allow\("));
}

#[test]
fn no_file_is_too_long_to_read() {
    for source in code() {
        let lines = source.lines().count();
        let longer = LONGER.iter().find(|(path, _)| *path == source.path);
        let most = longer.map_or(MOST_LINES, |(_, most)| *most);
        assert!(lines <= most, "{}: {lines} lines without tests, {most} at most", source.path);
        assert!(longer.is_none() || lines > MOST_LINES, "{} is short enough to leave the list", source.path);
    }
}

#[test]
fn the_top_level_holds_what_it_should_and_nothing_else() {
    let entries = fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let visible: BTreeSet<_> =
        entries.filter(|name| !name.starts_with('.') && !UNTRACKED.contains(&name.as_str())).collect();
    assert_eq!(visible, TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect());
}
