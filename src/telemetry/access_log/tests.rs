use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::*;
use crate::template::{Template, Var};

/// Gives its text for every variable.
struct Text(String);

impl Variables for Text {
    fn write(&self, _: &Var, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.0.as_bytes());
        true
    }
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bascule-access-log-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LIMIT: Duration = Duration::from_secs(30);

fn spec(path: &Path) -> AccessLog {
    let format = LogFormat::Template(Template::parse("<$host>").unwrap());
    AccessLog { target: LogTarget::File(path.into()), format }
}

fn append(path: &Path) -> OwnedFd {
    OpenOptions::new().append(true).create(true).open(path).unwrap().into()
}

fn line(buffer: &mut LogBuffer, log: &Log, text: &str) {
    buffer.line(log, &Text(text.into()), UNIX_EPOCH);
}

fn stats(sinks: &Sinks, path: &Path) -> (u64, u64) {
    let target = LogTarget::File(path.into());
    let stats = sinks.stats().into_iter().find(|stats| stats.target == target).unwrap();
    (stats.written, stats.dropped)
}

#[test]
fn lines_of_a_worker_reach_their_files_in_order() {
    let directory = Directory::new("order");
    let sinks = Sinks::start().unwrap();
    let paths = [directory.file("a"), directory.file("b")];
    let logs = paths.each_ref().map(|path| {
        sinks.set_file(path, append(path));
        sinks.log(&spec(path))
    });
    let mut buffer = sinks.buffer();
    for i in 0..10_000 {
        line(&mut buffer, &logs[i % 2], &i.to_string());
    }
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    for (rest, path) in paths.iter().enumerate() {
        let wanted: String = (rest..10_000).step_by(2).map(|i| format!("<{i}>\n")).collect();
        assert_eq!(fs::read_to_string(path).unwrap(), wanted);
        assert_eq!(stats(&sinks, path), (5_000, 0));
    }
}

#[test]
fn lines_of_many_workers_are_all_whole() {
    let directory = Directory::new("workers");
    let path = directory.file("log");
    let sinks = Sinks::start().unwrap();
    sinks.set_file(&path, append(&path));
    let log = sinks.log(&spec(&path));
    thread::scope(|scope| {
        for worker in 0..4 {
            let (mut buffer, log) = (sinks.buffer(), &log);
            scope.spawn(move || (0..5_000).for_each(|i| line(&mut buffer, log, &format!("{worker} {i}"))));
        }
    });
    assert!(sinks.drain(LIMIT));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let mut wanted: Vec<String> = (0..20_000).map(|i| format!("<{} {}>", i / 5_000, i % 5_000)).collect();
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
}

#[test]
fn a_full_chunk_is_handed_over_without_a_flush() {
    let directory = Directory::new("chunk");
    let path = directory.file("log");
    let sinks = Sinks::start().unwrap();
    sinks.set_file(&path, append(&path));
    let log = sinks.log(&spec(&path));
    let mut buffer = sinks.buffer();
    line(&mut buffer, &log, &"x".repeat(CHUNK - 4));
    assert!(sinks.drain(LIMIT));
    assert_eq!(stats(&sinks, &path), (0, 0), "one byte less than a chunk waits");
    line(&mut buffer, &log, "");
    assert!(sinks.drain(LIMIT));
    assert_eq!(stats(&sinks, &path), (2, 0));
}

#[test]
fn dropping_a_buffer_hands_its_lines_over() {
    let directory = Directory::new("drop");
    let path = directory.file("log");
    let sinks = Sinks::start().unwrap();
    sinks.set_file(&path, append(&path));
    let log = sinks.log(&spec(&path));
    line(&mut sinks.buffer(), &log, "last words");
    assert!(sinks.drain(LIMIT));
    assert_eq!(fs::read_to_string(&path).unwrap(), "<last words>\n");
}

#[test]
fn after_a_reopen_lines_go_to_the_new_file_and_the_old_one_is_closed() {
    let directory = Directory::new("reopen");
    let (path, moved) = (directory.file("log"), directory.file("log.1"));
    let sinks = Sinks::start().unwrap();
    let log = sinks.log(&spec(&path));
    let mut buffer = sinks.buffer();
    let (mut old, writer) = pipe();
    sinks.set_file(&path, writer);
    line(&mut buffer, &log, "old");
    buffer.flush();
    assert!(sinks.drain(LIMIT));

    fs::write(&moved, "").unwrap();
    sinks.set_file(&path, append(&path));
    let mut text = String::new();
    // Ends only because the writer closes its end of the pipe, although no line has come since.
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "<old>\n");

    line(&mut buffer, &log, "new");
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    assert_eq!(fs::read_to_string(&path).unwrap(), "<new>\n");
}

fn pipe() -> (PipeReader, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, writer.into())
}

#[test]
fn without_a_descriptor_lines_are_dropped_and_counted() {
    let path = PathBuf::from("/nowhere/log");
    let sinks = Sinks::start().unwrap();
    let log = sinks.log(&spec(&path));
    let mut buffer = sinks.buffer();
    line(&mut buffer, &log, "1");
    line(&mut buffer, &log, "2");
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    assert_eq!((stats(&sinks, &path), sinks.dropped()), ((0, 2), 2));
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let directory = Directory::new("full");
    let path = directory.file("log");
    let sinks = Sinks::start().unwrap();
    sinks.set_file(&path, File::options().write(true).open("/dev/full").unwrap().into());
    let log = sinks.log(&spec(&path));
    let mut buffer = sinks.buffer();
    for _ in 0..10 {
        line(&mut buffer, &log, "lost");
    }
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    assert_eq!(stats(&sinks, &path), (0, 10));

    sinks.set_file(&path, append(&path));
    line(&mut buffer, &log, "room again");
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    assert_eq!(fs::read_to_string(&path).unwrap(), "<room again>\n");
    assert_eq!((stats(&sinks, &path), sinks.dropped()), ((1, 10), 10));
}

#[test]
fn what_does_not_fit_into_the_backlog_is_dropped_and_counted_and_the_worker_goes_on() {
    let directory = Directory::new("backlog");
    let path = directory.file("log");
    let (sinks, writer) = Sinks::new();
    sinks.set_file(&path, append(&path));
    let log = sinks.log(&spec(&path));
    let mut buffer = sinks.buffer();
    let text = "x".repeat(1000);
    let lines = 2 * BACKLOG as u64 / 1000;
    for _ in 0..lines {
        line(&mut buffer, &log, &text);
    }
    buffer.flush();
    let dropped = sinks.dropped();
    assert!(dropped > lines / 3 && dropped < lines, "{dropped} of {lines}");

    let writer = thread::spawn(|| writer.run());
    assert!(sinks.drain(LIMIT));
    assert_eq!(stats(&sinks, &path), (lines - dropped, dropped));
    line(&mut buffer, &log, "room again");
    buffer.flush();
    assert!(sinks.drain(LIMIT));
    assert_eq!(stats(&sinks, &path), (lines - dropped + 1, dropped));

    drop((buffer, sinks));
    writer.join().unwrap();
}

#[test]
fn equal_descriptions_share_a_log_and_equal_targets_a_stream() {
    let (sinks, _writer) = Sinks::new();
    let one = spec(Path::new("/a"));
    let json = AccessLog { format: LogFormat::Json, ..one.clone() };
    let (first, again, other) = (sinks.log(&one), sinks.log(&one.clone()), sinks.log(&json));
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(Arc::ptr_eq(&first.sink, &other.sink));
    assert_eq!(sinks.stats().len(), 1);
}

#[test]
fn a_target_that_is_used_no_more_is_closed_by_the_sweep_and_its_slot_used_again() {
    let sinks = Sinks::start().unwrap();
    let (mut reader, writer) = pipe();
    let kept = sinks.log(&spec(Path::new("/kept")));
    let log = sinks.log(&spec(Path::new("/gone")));
    sinks.set_file(Path::new("/gone"), writer);
    let mut buffer = sinks.buffer();
    line(&mut buffer, &log, "pending");
    sinks.sweep();
    assert_eq!(sinks.stats().len(), 2, "both are in use");

    let slot = log.sink.slot();
    drop(log);
    sinks.sweep();
    assert_eq!(sinks.stats().len(), 2, "a line is pending");
    let next = sinks.log(&spec(Path::new("/next")));
    assert_ne!(next.sink.slot(), slot);
    drop(next);

    buffer.flush();
    assert!(sinks.drain(LIMIT));
    sinks.sweep();
    assert_eq!(sinks.stats().len(), 1);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "<pending>\n");
    assert_eq!(sinks.log(&spec(Path::new("/next"))).sink.slot(), slot);
    assert_eq!(kept.sink.slot(), 0);
}

#[test]
fn without_a_writer_lines_are_counted_as_dropped() {
    let (sinks, writer) = Sinks::new();
    drop(writer);
    let log = sinks.log(&spec(Path::new("/a")));
    line(&mut sinks.buffer(), &log, "lost");
    assert_eq!(sinks.dropped(), 1);
    assert!(!sinks.drain(LIMIT));
}

#[test]
fn the_record_is_not_asked_for_the_time() {
    let directory = Directory::new("time");
    let path = directory.file("log");
    let sinks = Sinks::start().unwrap();
    sinks.set_file(&path, append(&path));
    let format = LogFormat::Template(Template::parse("$msec $host").unwrap());
    let log = sinks.log(&AccessLog { format, ..spec(&path) });
    sinks.buffer().line(&log, &Text("record".into()), UNIX_EPOCH + Duration::from_millis(1_500));
    assert!(sinks.drain(LIMIT));
    assert_eq!(fs::read_to_string(&path).unwrap(), "1.500 record\n");
}
