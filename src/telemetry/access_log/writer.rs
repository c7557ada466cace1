//! The thread that writes: takes chunks of lines from all workers, and gives them to their destinations in turn.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use super::output::Output;
use super::{Shared, SinkStats};
use crate::config::model::LogTarget;

/// What the writing thread runs.
#[derive(Debug)]
pub struct Writer {
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) enum Message {
    /// Whole lines for a destination.
    Lines(Arc<Sink>, Vec<u8>),
    /// A descriptor was given; take it now, so that the old one is closed even when no line comes.
    NewFile(Arc<Sink>),
    /// Answer when you get here.
    Barrier(SyncSender<()>),
}

/// One destination. It is closed with the last reference.
#[derive(Debug)]
pub(super) struct Sink {
    target: LogTarget,
    slot: usize,
    /// A descriptor that was given and is not yet in use. Apart from `output`, whose lock is held while writing.
    given: Mutex<Option<OwnedFd>>,
    /// Used by the writer only.
    output: Mutex<Output>,
    written: AtomicU64,
    dropped: AtomicU64,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(receiver: Receiver<Message>, shared: Arc<Shared>) -> Self {
        Self { receiver, shared }
    }

    /// Writes until all senders of lines are gone.
    pub fn run(self) {
        for message in &self.receiver {
            match message {
                Message::Lines(sink, lines) => {
                    sink.write(&lines);
                    self.shared.backlog.fetch_sub(lines.capacity(), Ordering::Relaxed);
                }
                Message::NewFile(sink) => sink.take_given_file(&mut sink.output()),
                // Nobody waits any longer: nothing to do.
                Message::Barrier(done) => drop(done.try_send(())),
            }
        }
    }
}

impl Sink {
    pub(super) fn new(target: LogTarget, slot: usize, shared: Arc<Shared>) -> Self {
        let output = Mutex::new(Output::new(&target, &shared.zone));
        let (written, dropped) = Default::default();
        Self { target, slot, given: Mutex::default(), output, written, dropped, shared }
    }

    /// Index of the sink in every worker's buffer.
    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn give_file(&self, file: OwnedFd) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    pub(super) fn stats(&self) -> SinkStats {
        SinkStats {
            target: self.target.clone(),
            written: self.written.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Counts the lines of which `lost` has the end.
    pub(super) fn count_dropped(&self, lost: &[u8]) {
        let count = count_lines(lost);
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.shared.dropped.fetch_add(count, Ordering::Relaxed);
    }

    fn write(&self, lines: &[u8]) {
        let mut output = self.output();
        self.take_given_file(&mut output);
        let was_failing = output.is_failing();
        let (done, result) = output.write(lines);
        self.written.fetch_add(count_lines(&lines[..done]), Ordering::Relaxed);
        self.count_dropped(&lines[done..]);
        match result {
            Err(error) if !was_failing => tracing::warn!(target = ?self.target, %error, "access log lines are dropped"),
            Ok(()) if was_failing => tracing::info!(target = ?self.target, "access log is written again"),
            _ => {}
        }
    }

    fn take_given_file(&self, output: &mut Output) {
        if let Some(file) = self.given.lock().unwrap_or_else(PoisonError::into_inner).take() {
            output.replace_file(file);
        }
    }

    fn output(&self) -> std::sync::MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    u64::try_from(memchr::memchr_iter(b'\n', bytes).count()).unwrap_or(u64::MAX)
}
