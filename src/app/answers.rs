//! The proxy's side of questions: answers from the engine, and the numbers that need a regular look.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Duration, Instant};

use crate::app::admin::Answer;
use crate::ipc::{Imagined, Question};
use crate::proxy::{Engine, Liveness, Query, explain};

/// How long a set of latencies is counted into.
const LATENCIES: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Answers {
    /// By name of the listener.
    rates: HashMap<Arc<str>, Rate>,
    looked: Instant,
    turned: Instant,
}

/// How many connections a listener accepts.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    accepted: u64,
    per_second: u64,
}

impl Answers {
    /// Knows nothing yet.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { rates: HashMap::new(), looked: now, turned: now }
    }

    /// Looks at what is to be known by the second; to be called about once a second.
    pub(super) fn look(&mut self, engine: &Engine) {
        let now = Instant::now();
        // The first look comes at once: what it sees is not the work of a moment.
        let millis = u64::try_from((now - self.looked).as_millis()).unwrap_or(u64::MAX).max(1000);
        self.looked = now;
        for listener in &engine.snapshot().config.listeners {
            let accepted = engine.listener_connections(&listener.name).map_or(0, |(_, accepted, _)| accepted);
            let rate = self.rates.entry(Arc::clone(&listener.name)).or_default();
            let more = accepted.saturating_sub(rate.accepted);
            *rate = Rate { accepted, per_second: (more * 1000).div_ceil(millis) };
        }
        if now - self.turned >= LATENCIES {
            self.turned = now;
            engine.turn_latencies();
        }
    }

    /// The answer, an [`Answer`] as JSON; `None` when there is no memory for it.
    pub(super) fn answer(&self, engine: &Engine, question: &Question) -> Option<Box<RawValue>> {
        let rate = |name: &str| self.rates.get(name).map_or(0, |rate| rate.per_second);
        let answer = match question {
            Question::Status => value(&engine.status(rate)),
            Question::Errors => value(&engine.errors()),
            Question::Explain(imagined) => {
                explain(&engine.snapshot(), &query(imagined), Liveness::Live).and_then(|found| value(&found))
            }
        };
        to_raw_value(&answer).ok()
    }
}

/// As the engine wants it.
pub(super) fn query(imagined: &Imagined) -> Query<'_> {
    let Imagined { url, method, headers, client } = imagined;
    Query { url, method, headers, client: *client }
}

fn value(of: &impl Serialize) -> Answer {
    serde_json::to_value(of).map_err(|e| e.to_string())
}
