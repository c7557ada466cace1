//! Access logs: lines made on the workers, written by one thread of their own.
//!
//! ```text
//! worker: LogBuffer::line -> text per sink -> chunk --(bounded backlog)--> writer thread -> file, stdout, socket
//! ```
//!
//! A worker never waits: what does not fit into the backlog is dropped and counted, and so is what a full disk or a
//! dead syslog daemon does not take. The process opens no file: descriptors come through [`Sinks::set_file`].

mod format;
mod output;
mod writer;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use jiff::tz::TimeZone;

pub use writer::Writer;

use crate::config::model::{AccessLog, LogFormat, LogTarget};
use crate::telemetry::clock::LogClock;
use crate::template::Variables;
use format::Format;
use writer::{Message, Sink};

/// All destinations of access logs of this process. Used by the control side; workers have a [`LogBuffer`] each.
#[derive(Debug)]
pub struct Sinks {
    queue: Queue,
    registry: Mutex<Registry>,
}

/// One destination and format, ready for use. Those with equal destinations share one stream of lines.
#[derive(Debug)]
pub struct Log {
    sink: Arc<Sink>,
    format: Format,
}

/// Lines of one worker that are not yet handed to the writer. Dropping it hands them over.
#[derive(Debug)]
pub struct LogBuffer {
    queue: Queue,
    clock: LogClock,
    /// By the slot of the sink.
    pending: Vec<Pending>,
}

/// Counters of one destination since it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkStats {
    /// Where lines go.
    pub target: LogTarget,
    /// Lines written.
    pub written: u64,
    /// Lines lost: the backlog was full, or the destination did not take them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Registry {
    sinks: HashMap<LogTarget, Registered>,
}

#[derive(Debug)]
struct Registered {
    sink: Arc<Sink>,
    logs: Vec<(LogFormat, Arc<Log>)>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Only while there are lines, so that a buffer keeps no sink in use.
    sink: Option<Arc<Sink>>,
    lines: Vec<u8>,
    /// Size of the last chunk: how much room the next is given.
    last: usize,
}

/// The way to the writer.
#[derive(Debug, Clone)]
struct Queue {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

/// What all sinks share.
#[derive(Debug)]
struct Shared {
    /// Bytes on the way to the writer.
    backlog: AtomicUsize,
    /// Lines lost, also by sinks that are gone.
    dropped: AtomicU64,
    /// Read once: later the process may not be allowed to.
    zone: TimeZone,
}

/// A worker hands lines over when it has this much: few wake-ups of the writer, large writes, and with 100 sinks and
/// 32 workers still only 100 MiB in the worst case.
const CHUNK: usize = 32 * 1024;

/// Bytes that may wait for the writer. About a second of a busy machine's lines, in memory that it can spare.
const BACKLOG: usize = 16 * 1024 * 1024;

impl Sinks {
    /// Sinks, and the writer that must be run for them.
    pub fn new() -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel();
        let shared =
            Arc::new(Shared { backlog: AtomicUsize::new(0), dropped: AtomicU64::new(0), zone: TimeZone::system() });
        let queue = Queue { sender, shared: Arc::clone(&shared) };
        (Self { queue, registry: Mutex::default() }, Writer::new(receiver, shared))
    }

    /// Sinks with their writer on a new thread, which ends when these and all buffers are dropped.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start() -> io::Result<Self> {
        let (sinks, writer) = Self::new();
        thread::Builder::new().name("access-log".into()).spawn(|| writer.run())?;
        Ok(sinks)
    }

    /// The log that `spec` describes; the same one for equal descriptions.
    pub fn log(&self, spec: &AccessLog) -> Arc<Log> {
        let mut registry = self.registry();
        let registered = registry.target(&spec.target, &self.queue.shared);
        if let Some((_, log)) = registered.logs.iter().find(|(format, _)| *format == spec.format) {
            return Arc::clone(log);
        }
        let log = Arc::new(Log { sink: Arc::clone(&registered.sink), format: Format::new(&spec.format) });
        registered.logs.push((spec.format.clone(), Arc::clone(&log)));
        log
    }

    /// Gives the descriptor for the file `path`, open for appending, and replaces the one in use (a reopen). Lines
    /// that are on their way go to the new one. Until the first is given, lines for the file are dropped and counted.
    pub fn set_file(&self, path: &Path, file: OwnedFd) {
        let sink = Arc::clone(&self.registry().target(&LogTarget::File(path.into()), &self.queue.shared).sink);
        sink.give_file(file);
        // Without a writer there is nobody left to use the descriptor.
        let _ = self.queue.sender.send(Message::NewFile(sink));
    }

    /// Forgets, and closes, destinations that no [`Log`] outside uses: to be called once a reload is committed and
    /// the old configuration is gone.
    pub fn sweep(&self) {
        self.registry().sinks.retain(|_, registered| {
            registered.logs.retain(|(_, log)| Arc::strong_count(log) > 1);
            !registered.logs.is_empty() || Arc::strong_count(&registered.sink) > 1
        });
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> LogBuffer {
        LogBuffer {
            queue: self.queue.clone(),
            clock: LogClock::new(self.queue.shared.zone.clone()),
            pending: Vec::new(),
        }
    }

    /// Waits until all that was handed over before is written or dropped, at most for `limit`; whether it is.
    pub fn drain(&self, limit: Duration) -> bool {
        let (done, is_done) = mpsc::sync_channel(1);
        self.queue.sender.send(Message::Barrier(done)).is_ok() && is_done.recv_timeout(limit).is_ok()
    }

    /// Lines lost since the process started, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.queue.shared.dropped.load(Ordering::Relaxed)
    }

    /// Counters of all destinations in use, in no order.
    pub fn stats(&self) -> Vec<SinkStats> {
        self.registry().sinks.values().map(|registered| registered.sink.stats()).collect()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Whether lines hold fields of the server's response, which somebody has to keep until then.
    pub fn uses_upstream_fields(&self) -> bool {
        self.format.uses_upstream_fields()
    }
}

impl LogBuffer {
    /// Adds a line about `record`, at the time `now`. The variables of time are the buffer's own: `record` is not
    /// asked for them.
    pub fn line(&mut self, log: &Log, record: &dyn Variables, now: SystemTime) {
        let slot = log.sink.slot();
        if self.pending.len() <= slot {
            self.pending.resize_with(slot + 1, Pending::default);
        }
        let pending = &mut self.pending[slot];
        if !pending.sink.as_ref().is_some_and(|sink| Arc::ptr_eq(sink, &log.sink)) {
            pending.hand_over(&self.queue);
            pending.sink = Some(Arc::clone(&log.sink));
            pending.lines.reserve(pending.last);
        }
        log.format.write(record, &self.clock, now, &mut pending.lines);
        pending.lines.push(b'\n');
        if pending.lines.len() >= CHUNK {
            pending.hand_over(&self.queue);
        }
    }

    /// Hands all lines to the writer; never waits. To be called every 100 ms or so, and before a worker ends.
    pub fn flush(&mut self) {
        for pending in &mut self.pending {
            pending.hand_over(&self.queue);
        }
    }

    /// The clock that times in lines are written with.
    pub fn clock(&self) -> &LogClock {
        &self.clock
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Registry {
    fn target(&mut self, target: &LogTarget, shared: &Arc<Shared>) -> &mut Registered {
        // The lowest free number, so that the vectors of the workers stay short.
        let free = || (0..).find(|slot| self.sinks.values().all(|r| r.sink.slot() != *slot)).unwrap_or_default();
        let slot = if self.sinks.contains_key(target) { 0 } else { free() };
        self.sinks.entry(target.clone()).or_insert_with(|| Registered {
            sink: Arc::new(Sink::new(target.clone(), slot, Arc::clone(shared))),
            logs: Vec::new(),
        })
    }
}

impl Pending {
    fn hand_over(&mut self, queue: &Queue) {
        if let Some(sink) = self.sink.take() {
            self.last = self.lines.len();
            queue.send(sink, std::mem::take(&mut self.lines));
        }
    }
}

impl Queue {
    fn send(&self, sink: Arc<Sink>, lines: Vec<u8>) {
        let size = lines.capacity();
        let before = self.shared.backlog.fetch_add(size, Ordering::Relaxed);
        if before.saturating_add(size) > BACKLOG {
            self.shared.backlog.fetch_sub(size, Ordering::Relaxed);
            sink.count_dropped(&lines);
        } else if let Err(mpsc::SendError(Message::Lines(sink, lines))) = self.sender.send(Message::Lines(sink, lines))
        {
            sink.count_dropped(&lines);
        }
    }
}

#[cfg(test)]
mod tests;
