//! What is wrong with a configuration, each with its place, an excerpt, the key's path and help.

use std::fmt;
use std::path::{Path, PathBuf};

use super::document::{self, Paths, Place, Table, Value};

/// Errors and warnings, in the order of the files. The text has a line end after each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
    /// The file as given.
    pub file: PathBuf,
    /// Line and column from 1, in characters; `None` when it is about the whole file.
    pub position: Option<(usize, usize)>,
    /// Path of the key, such as `pool.api.servers[1].weight`.
    pub key: Option<String>,
    /// What is wrong, without a final stop.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Where else to look.
    pub note: Option<String>,
    /// The nodes for which it is so; empty: whichever node runs.
    pub nodes: Vec<String>,
    excerpt: Option<Excerpt>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// Probably not what was meant.
    Warning,
}

/// Part of a line, secrets masked, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// In characters of `text`.
    start: usize,
    /// In characters, at least 1.
    width: usize,
}

/// One thing that is wrong, before its place is turned into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) place: Option<Place>,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// What is at another place.
    pub(super) note: Option<(String, Place)>,
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

/// The files of one configuration.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: PathBuf,
    pub(super) text: String,
    pub(super) table: Table,
    /// Places of secrets in it.
    pub(super) secrets: Vec<Place>,
    /// Whether lines may be shown.
    pub(super) quoted: bool,
}

impl Diagnostics {
    /// About a whole file.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        Self(vec![Diagnostic {
            severity: Severity::Error,
            file: file.to_owned(),
            position: None,
            key: None,
            message,
            help: None,
            note: None,
            nodes: Vec::new(),
            excerpt: None,
        }])
    }

    /// Each in turn.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// Those of several nodes as one list: what is the same for all of them once, the rest with the nodes' names.
    pub(super) fn over_nodes(lists: Vec<(String, Self)>) -> Self {
        let count = lists.len();
        let mut merged: Vec<Diagnostic> = Vec::new();
        for (node, list) in lists {
            for mut diagnostic in list.0 {
                match merged.iter_mut().find(|known| known.is_same(&diagnostic)) {
                    Some(known) => known.nodes.push(node.clone()),
                    None => {
                        diagnostic.nodes.push(node.clone());
                        merged.push(diagnostic);
                    }
                }
            }
        }
        for diagnostic in merged.iter_mut().filter(|d| d.nodes.len() == count) {
            diagnostic.nodes.clear();
        }
        Self(merged).sorted()
    }

    /// These and `more`.
    pub(super) fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self.sorted()
    }

    fn sorted(mut self) -> Self {
        let mut files: Vec<PathBuf> = Vec::new();
        for diagnostic in &self.0 {
            if !files.contains(&diagnostic.file) {
                files.push(diagnostic.file.clone());
            }
        }
        self.0.sort_by_key(|d| (files.iter().position(|file| *file == d.file), d.position));
        self
    }
}

impl Diagnostic {
    /// Whether it says the same as `other` of the same place, whatever the nodes.
    fn is_same(&self, other: &Self) -> bool {
        self.position == other.position && self.file == other.file && self.message == other.message
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|diagnostic| writeln!(f, "{diagnostic}"))
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, " {severity}: {}", self.message)?;
        let line = self.position.map_or(String::new(), |(line, _)| line.to_string());
        let indent = line.len();
        if let Some(Excerpt { text, start, width }) = &self.excerpt {
            write!(f, "\n {line} | {text}\n {:indent$} | {:start$}{:^<width$}", "", "", "")?;
        }
        let nodes = (!self.nodes.is_empty()).then(|| self.nodes.join(", "));
        let rows = [("key", &self.key), ("help", &self.help), ("note", &self.note), ("node", &nodes)];
        for (name, text) in rows {
            if let Some(text) = text {
                write!(f, "\n {:indent$} = {name}: {text}", "")?;
            }
        }
        Ok(())
    }
}

impl Problems {
    /// Something that makes the configuration unusable; the value to be filled in with the builder's methods.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, place, message.into())
    }

    /// Something that is probably not meant.
    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, place, message.into())
    }

    fn push(&mut self, severity: Severity, place: Place, message: String) -> &mut Problem {
        self.0.push(Problem { severity, place: Some(place), message, help: None, note: None });
        self.0.last_mut().expect("invariant: just pushed")
    }

    /// Whether any is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|p| p.severity == Severity::Error)
    }
}

impl Problem {
    /// How to mend it.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// How to mend it, if that is known.
    pub(super) fn maybe_help(&mut self, help: Option<String>) -> &mut Self {
        self.help = help;
        self
    }

    /// What is at another place.
    pub(super) fn note(&mut self, text: &str, place: Place) -> &mut Self {
        self.note = Some((text.to_owned(), place));
        self
    }
}

impl Sources {
    /// Adds a file; its number is the count of those before.
    pub(super) fn push(&mut self, source: Source) {
        self.0.push(source);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The files in the order in which they were read.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// The problems in order and in words, each once.
    pub(super) fn render(&self, problems: Problems) -> Diagnostics {
        // Next to errors, a warning is mostly a consequence of one: a pool is not used where its name is mistyped.
        let has_errors = problems.has_errors();
        let mut problems = problems.0;
        problems.retain(|problem| !has_errors || problem.severity == Severity::Error);
        problems.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
        // What is wrong in a table of defaults is found once for every table that takes it.
        problems.dedup();
        let index = |source: &Source| (Paths::new(&source.table), source.line_starts());
        let indexes: Vec<_> = if problems.is_empty() { Vec::new() } else { self.0.iter().map(index).collect() };
        let views: Vec<View<'_>> =
            self.0.iter().zip(&indexes).map(|(source, (paths, lines))| View { source, paths, lines }).collect();
        Diagnostics(problems.iter().map(|problem| problem.render(&views)).collect())
    }
}

/// A file with what is needed to find one's way in it.
struct View<'s> {
    source: &'s Source,
    paths: &'s Paths,
    /// Where lines begin.
    lines: &'s [usize],
}

impl Problem {
    fn render(&self, files: &[View<'_>]) -> Diagnostic {
        let at = self.place.and_then(|place| Some((files.get(place.file)?, place)));
        let note = self.note.as_ref().and_then(|(text, place)| {
            let file = files.get(place.file)?;
            let (line, column) = file.position(*place);
            Some(format!("{text} {}:{line}:{column}", file.source.name.display()))
        });
        Diagnostic {
            severity: self.severity,
            file: at.map_or(PathBuf::new(), |(file, _)| file.source.name.clone()),
            position: at.map(|(file, place)| file.position(place)),
            key: at.and_then(|(file, place)| file.paths.find(place)).map(str::to_owned),
            message: self.message.clone(),
            help: self.help.clone(),
            note,
            nodes: Vec::new(),
            excerpt: at.filter(|(file, _)| file.source.quoted).map(|(file, place)| file.excerpt(place)),
        }
    }
}

impl View<'_> {
    /// Number of the line from 0, and where it begins.
    fn line(&self, place: Place) -> (usize, usize) {
        let number = self.lines.partition_point(|start| *start <= place.start).saturating_sub(1);
        (number, self.lines.get(number).copied().unwrap_or(0))
    }

    /// Line and column of the start of `place`, from 1.
    fn position(&self, place: Place) -> (usize, usize) {
        let (number, start) = self.line(place);
        let before = self.source.text.get(start..place.start).unwrap_or_default();
        (number + 1, before.chars().count() + 1)
    }

    /// The line of `place` as it may be shown on a terminal.
    fn excerpt(&self, place: Place) -> Excerpt {
        const BEFORE: usize = 60;
        const WIDTH: usize = 110;
        let (_, line_start) = self.line(place);
        let line = self.source.text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let line_end = line_start + line.len();
        let secrets: Vec<&Place> =
            self.source.secrets.iter().filter(|s| s.start < line_end && line_start < s.end).collect();
        let mut shown: Vec<char> = Vec::new();
        let (mut from, mut until) = (None, None);
        let mut hidden = None;
        for (i, c) in line.char_indices().map(|(i, c)| (line_start + i, c)) {
            if i >= place.start {
                from = from.or(Some(shown.len()));
            }
            if i >= place.end {
                until = until.or(Some(shown.len()));
            }
            // Of a secret three stars are left, so that not even its length is seen.
            let secret = secrets.iter().position(|s| s.start <= i && i < s.end);
            match secret {
                Some(_) if secret == hidden => {}
                Some(_) => shown.extend("***".chars()),
                None if c == '\t' => shown.push(' '),
                None if c.is_control() => shown.push('\u{fffd}'),
                None => shown.push(c),
            }
            hidden = secret;
        }
        let from = from.unwrap_or(shown.len());
        let until = until.unwrap_or(shown.len()).max(from + 1);
        let cut = if shown.len() <= WIDTH { 0 } else { from.saturating_sub(BEFORE) };
        let mut text: String = shown.iter().skip(cut).take(WIDTH).collect();
        if cut > 0 {
            text.replace_range(..text.chars().next().map_or(0, char::len_utf8), "…");
        }
        if shown.len() > cut + WIDTH {
            text.push('…');
        }
        let width = (until - from).min(WIDTH.saturating_sub(from - cut).max(1));
        Excerpt { text: text.trim_end().to_owned(), start: from - cut, width }
    }
}

impl Source {
    /// Reads `text` as file number `file` of a configuration.
    pub(super) fn parse(name: PathBuf, text: String, file: usize, problems: &mut Problems) -> Self {
        let (table, errors) = document::parse(&text, file);
        let mut source = Self { name, text, table, secrets: Vec::new(), quoted: true };
        for error in errors {
            source.secrets.extend(source.suspicious(error.place));
            problems.error(error.place, error.message);
        }
        source
    }

    fn line_starts(&self) -> Vec<usize> {
        let ends = self.text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        std::iter::once(0).chain(ends.map(|(i, _)| i + 1)).collect()
    }

    /// What may be a secret on a line that is not TOML, so that nothing says what it is.
    fn suspicious(&self, place: Place) -> Option<Place> {
        let start = place.start.min(self.text.len());
        let line_start = self.text.get(..start)?.rfind('\n').map_or(0, |i| i + 1);
        let line = self.text.get(line_start..)?.lines().next()?;
        let lower = line.to_ascii_lowercase();
        let word = super::resolve::SENSITIVE.iter().find_map(|word| lower.find(word).map(|at| at + word.len()))?;
        let value = word + line.get(word..)?.find('=')? + 1;
        Some(Place { file: place.file, start: line_start + value, end: line_start + line.len() })
    }
}

/// Places of everything in `table` that is never shown.
pub(super) fn secrets_in(table: &Table) -> Vec<Place> {
    let mut places = Vec::new();
    let mut note = |item: &document::Item| {
        if item.secret && matches!(item.value, Value::String(_)) {
            places.push(item.place);
        }
    };
    table.values().for_each(|item| item.walk(&mut note));
    places
}
