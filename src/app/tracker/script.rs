//! One tracked script (keepalived's `vrrp_script`): run again and again, never twice at once.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Said, Teller, starts};
use crate::app::runner::{Failure, Running};
use crate::config::model::TrackedScript;
use crate::health::{Hysteresis, Thresholds, Verdict};
use crate::sys::user::Identity;

/// Something that can be tried.
pub(super) trait Probe {
    /// Tries it, for a bounded time.
    async fn check(&mut self) -> Result<(), Failure>;

    /// Waits until what was tried last is over.
    async fn settle(&mut self);
}

/// The script itself.
#[derive(Debug)]
pub(super) struct ScriptProbe {
    script: Arc<TrackedScript>,
    identity: Option<Identity>,
    running: Option<Running>,
}

impl ScriptProbe {
    pub(super) fn new(script: Arc<TrackedScript>, identity: Option<Identity>) -> Self {
        Self { script, identity, running: None }
    }
}

impl Probe for ScriptProbe {
    async fn check(&mut self) -> Result<(), Failure> {
        let running = Running::start(&self.script.command, &[], self.identity)?;
        self.running.insert(running).finish(self.script.timeout).await
    }

    async fn settle(&mut self) {
        if let Some(mut running) = self.running.take() {
            // What was killed and is in the kernel still, is waited for rather than started again beside it.
            let _ = running.reap().await;
        }
    }
}

/// Runs `script` for ever, and tells what becomes of it.
pub(super) async fn watch(script: Arc<TrackedScript>, mut probe: impl Probe, teller: Teller) {
    let program = script.command.program.display();
    let mut starts = starts(script.interval);
    let thresholds = Thresholds { rise: script.rise, fall: script.fall };
    let mut hysteresis = Hysteresis::new(None);
    let mut refused = false;
    loop {
        starts.tick().await;
        let result = probe.check().await;
        let verdict = hysteresis.on_result(result.is_ok(), thresholds);
        match (&result, verdict) {
            (Ok(()), Some(_)) => info!(script = %program, "tracked script succeeds"),
            (Err(failure), Some(_)) => warn!(script = %program, reason = %failure, "tracked script fails"),
            // Whatever `fall` makes of it, this is the operator's to mend.
            (Err(failure), None) if failure.is_refusal() && !refused => {
                warn!(script = %program, reason = %failure, "tracked script does not run");
            }
            (Ok(()) | Err(_), None) => {}
        }
        refused = result.as_ref().is_err_and(|failure| failure.is_refusal());
        if let Some(verdict) = verdict {
            teller.tell(Said::Works(verdict == Verdict::Up)).await;
        }
        probe.settle().await;
    }
}
