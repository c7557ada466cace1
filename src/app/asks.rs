//! Admin requests that wait for the proxy, none of them for long: a proxy that hangs costs an answer its part of it.

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use crate::app::admin::Answer;
use crate::app::child::Child;
use crate::ipc::{Question, ToProxy};

/// For the proxy to answer. A control runtime that works does so within a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// What becomes of the proxy's answer, or of the reason why there is none.
pub(super) type Complete = Box<dyn FnOnce(Result<Answer, String>) -> Answer + Send>;

/// See the module's documentation.
pub(super) struct Asks {
    waiting: Vec<Waiting>,
    next: u64,
    heard: Option<Instant>,
}

struct Waiting {
    token: u64,
    until: Instant,
    reply: oneshot::Sender<Answer>,
    complete: Complete,
}

impl Asks {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), next: 0, heard: None }
    }

    /// The proxy has said something.
    pub(super) fn heard(&mut self) {
        self.heard = Some(Instant::now());
    }

    /// Asks `proxy`; `reply` gets what `complete` makes of the answer, now when the proxy cannot be asked.
    pub(super) fn ask(
        &mut self,
        proxy: Option<&Child>,
        question: Question,
        reply: oneshot::Sender<Answer>,
        complete: Complete,
    ) {
        let token = self.next;
        self.next += 1;
        let Some(proxy) = proxy.filter(|proxy| proxy.ready) else {
            return finish(reply, complete, Err("there is no proxy that serves".to_owned()));
        };
        if proxy.offer(&ToProxy::Ask { token, question }).is_err() {
            return finish(reply, complete, Err(self.silence()));
        }
        self.waiting.push(Waiting { token, until: Instant::now() + PATIENCE, reply, complete });
    }

    /// The proxy's answer; one that comes too late, or to nothing, is of no interest.
    pub(super) fn answered(&mut self, token: u64, answer: &RawValue) {
        if let Some(i) = self.waiting.iter().position(|w| w.token == token) {
            let Waiting { reply, complete, .. } = self.waiting.swap_remove(i);
            let answer = serde_json::from_str(answer.get());
            finish(reply, complete, answer.map_err(|e| format!("its answer is none: {e}")));
        }
    }

    /// When the next of those who wait has waited long enough.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        self.waiting.iter().map(|w| w.until).min()
    }

    /// Answers those who have waited long enough.
    pub(super) fn on_limit(&mut self) {
        let (now, silence) = (Instant::now(), self.silence());
        self.give_up(|w| w.until <= now, &silence);
    }

    /// The proxy is gone: nobody waits any more.
    pub(super) fn lost(&mut self) {
        self.give_up(|_| true, "the proxy was lost before it answered");
    }

    fn give_up(&mut self, which: impl Fn(&Waiting) -> bool, why: &str) {
        let (over, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(which);
        self.waiting = waiting;
        for Waiting { reply, complete, .. } in over {
            finish(reply, complete, Err(why.to_owned()));
        }
    }

    fn silence(&self) -> String {
        match self.heard {
            Some(heard) => format!("no answer for {:.1}s", heard.elapsed().as_secs_f64()),
            None => "no answer yet".to_owned(),
        }
    }
}

fn finish(reply: oneshot::Sender<Answer>, complete: Complete, answer: Result<Answer, String>) {
    // Who asked may have left.
    let _ = reply.send(complete(answer));
}
