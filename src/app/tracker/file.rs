//! One tracked file (keepalived's `track_file`): a number that an operator or a program writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{Said, Teller, starts};
use crate::config::model::Weight;
use crate::sys::exec::{Signals, set_signals};
use crate::vrrpd::report::Fitness;

/// How often a file is read.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest content; a number is shorter.
const LONGEST: usize = 64;
/// keepalived's bounds: times the least weight, more than lies between two priorities.
const LEAST: i16 = -254;
const MOST: i16 = 254;

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Number(i16),
    /// There is no file, or nothing in it.
    Nothing,
    /// Something else; what is wrong with it.
    Garbage(String),
}

/// A thread that reads files one after the other, so that a file system that hangs stops nothing else. It ends with the last
/// of these.
#[derive(Debug, Clone)]
pub(super) struct Reader(mpsc::Sender<(PathBuf, oneshot::Sender<Content>)>);

/// A file that can be asked for its number.
#[derive(Debug)]
pub(super) struct FileProbe {
    path: PathBuf,
    reader: Reader,
}

impl Reader {
    pub(super) fn start() -> Self {
        let (sender, requests) = mpsc::channel::<(PathBuf, oneshot::Sender<Content>)>();
        let serve = move || {
            // They are the main thread's: it must know when none is on its way.
            set_signals(Signals::Blocked);
            for (path, reply) in requests {
                // Nobody waits for it when the tracker is gone.
                let _ = reply.send(read(&path));
            }
        };
        if let Err(e) = std::thread::Builder::new().name("tracked-files".to_owned()).spawn(serve) {
            error!(error = %e, "no thread to read tracked files: they count as 0");
        }
        Self(sender)
    }
}

impl FileProbe {
    pub(super) fn new(path: PathBuf, reader: Reader) -> Self {
        Self { path, reader }
    }

    async fn content(&self) -> Content {
        let (reply, content) = oneshot::channel();
        let sent = self.reader.0.send((self.path.clone(), reply)).is_ok();
        // Without a thread, which has been said.
        let none = Content::Nothing;
        if sent { content.await.unwrap_or(none) } else { none }
    }
}

/// Reads the file for ever, and tells its number.
pub(super) async fn watch(probe: FileProbe, teller: Teller) {
    let path = probe.path.display();
    let mut starts = starts(PERIOD);
    let mut last = None;
    let mut complained = false;
    loop {
        starts.tick().await;
        let content = probe.content().await;
        let number = match content {
            Content::Number(number) => number,
            Content::Nothing | Content::Garbage(_) => 0,
        };
        match content {
            Content::Garbage(reason) if !complained => {
                warn!(file = %path, reason, "no number in a tracked file: it counts as 0");
                complained = true;
            }
            Content::Garbage(_) => {}
            Content::Number(_) | Content::Nothing => complained = false,
        }
        if last.replace(number) != Some(number) {
            info!(file = %path, number, "tracked file");
            teller.tell(Said::Number(number)).await;
        }
    }
}

/// What `number` in the file at `path` says by `weight`: their product is added to the priority, and one below keepalived's
/// bounds means that this box must not hold the addresses; without a weight, any number but 0 does.
pub(super) fn fitness(path: &Path, number: i16, weight: Weight) -> Fitness {
    let (fit, adjust) = match weight {
        None => (number == 0, 0),
        Some(weight) => {
            let adjust = number.saturating_mul(weight);
            (adjust > LEAST, adjust)
        }
    };
    let against = !fit || adjust < 0;
    let why = against.then(|| format!("file {} says {number}", path.display()));
    Fitness { fit, adjust, why: why.into_iter().collect(), ..Fitness::good() }
}

fn read(path: &Path) -> Content {
    match bytes(path) {
        Ok(bytes) => parse(&bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Content::Nothing,
        Err(e) => Content::Garbage(e.to_string()),
    }
}

/// The beginning of a file, one byte more than may be there.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // First without opening it: an open makes some devices act, and a named pipe's writer believe in a reader.
    let flags = |flags: OFlags| flags.bits().cast_signed();
    let found = File::options().read(true).custom_flags(flags(OFlags::PATH)).open(path)?;
    if !found.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::options().read(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY)).open(itself)?;
    let mut bytes = Vec::with_capacity(LONGEST + 1);
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Content {
    if bytes.len() > LONGEST {
        return Content::Garbage(format!("longer than {LONGEST} bytes"));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Content::Garbage("not text".to_owned()) };
    let text = text.trim();
    match text.parse::<i64>() {
        Ok(number) => Content::Number(number.clamp(LEAST.into(), MOST.into()) as i16),
        Err(_) if text.is_empty() => Content::Nothing,
        // The content is not repeated: the file may be another one than meant.
        Err(_) => Content::Garbage("not a whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn content_is_a_number_nothing_or_garbage() {
        let garbage = |reason: &str| Content::Garbage(reason.to_owned());
        for (text, content) in [
            ("5", Content::Number(5)),
            (" \t-20\r\n", Content::Number(-20)),
            ("+7\n", Content::Number(7)),
            ("0", Content::Number(0)),
            ("-0", Content::Number(0)),
            // Far is far.
            ("255", Content::Number(254)),
            ("-9999999999", Content::Number(-254)),
            ("", Content::Nothing),
            (" \n", Content::Nothing),
            ("five", garbage("not a whole number")),
            ("1 2", garbage("not a whole number")),
            ("1.5", garbage("not a whole number")),
            ("99999999999999999999", garbage("not a whole number")),
            (&"1".repeat(65), garbage("longer than 64 bytes")),
        ] {
            assert_eq!(parse(text.as_bytes()), content, "{text:?}");
        }
        assert_eq!(parse(b"1\xff"), garbage("not text"));
    }

    #[test]
    fn a_number_counts_by_its_weight() {
        for (number, weight, fit, adjust) in [
            (0, None, true, 0),
            (1, None, false, 0),
            (-1, None, false, 0),
            (0, Some(-1), true, 0),
            (10, Some(2), true, 20),
            (-10, Some(2), true, -20),
            (-10, Some(-2), true, 20),
            (253, Some(-1), true, -253),
            // keepalived's way to forbid it by a file with a weight.
            (-254, Some(1), false, -254),
            (254, Some(253), true, i16::MAX),
            (254, Some(-253), false, i16::MIN),
        ] {
            let fitness = fitness(Path::new("/f"), number, weight);
            let why = if fit && adjust >= 0 { vec![] } else { vec![format!("file /f says {number}")] };
            assert_eq!(fitness, Fitness { fit, ready: true, adjust, why }, "{number} {weight:?}");
        }
    }

    #[test]
    fn only_plain_files_are_opened() {
        let dir = std::env::temp_dir().join(format!("bascule-track-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (pipe, file, link) = (dir.join("pipe"), dir.join("file"), dir.join("link"));
        mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::fs::write(&file, "3\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&file), Content::Number(3));
        assert_eq!(read(&link), Content::Number(3));
        assert_eq!(read(&dir.join("absent")), Content::Nothing);
        for other in [&pipe, &dir, Path::new("/dev/zero")] {
            assert_eq!(read(other), Content::Garbage("not a plain file".to_owned()), "{}", other.display());
        }
        std::fs::write(&file, vec![b'1'; 1 << 20]).unwrap();
        assert_eq!(read(&file), Content::Garbage("longer than 64 bytes".to_owned()));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
