//! The circuit breaker of a pool for all workers, and what else bounds the pool as a whole.
//!
//! A try has three pieces of leave. Its [`Pass`] is of the [`Breaker`]: given before a server is picked, told of the outcome.
//! Its [`Share`] is of `max_connections` and `max_requests`: it is held with the lease. [`Pending`] is of `max_pending`: it is
//! held while a server or a connection is waited for. A pool without `circuit_breaker` has none of it, and pays a branch
//! each; a closed circuit costs a load a pass, and its lock is taken by outcomes only.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::model;
use crate::health::breaker::{Breaker, BreakerState, Limits, Phase, Turn};
use crate::time::Millis;

use super::{Lease, News, Outcome, Pool};

/// Shared by all workers; survives reloads.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    state: Mutex<State>,
    /// Phase and period of the breaker, for those who pass while it is closed: written under the lock.
    gate: AtomicU64,
    /// [`Breaker::until`], for those who are refused while it is open.
    until: AtomicU64,
    has_news: AtomicBool,
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    overflows: Overflows,
}

#[derive(Debug, Default)]
struct State {
    breaker: Breaker,
    /// Not yet told.
    news: Vec<Turn>,
}

#[derive(Debug, Default)]
struct Overflows {
    connections: AtomicU64,
    pending: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

/// How often something was refused at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OverflowCounts {
    /// At `max_connections`.
    pub connections: u64,
    /// At `max_pending`.
    pub pending: u64,
    /// At `max_requests`.
    pub requests: u64,
    /// Retries at `max_retries`.
    pub retries: u64,
}

/// What a proxy leaves to its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CircuitState {
    breaker: BreakerState,
    overflows: OverflowCounts,
}

/// For status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitReport {
    /// Closed where no errors open it.
    pub phase: Phase,
    /// Since when; `None`: since ever.
    pub since: Option<Millis>,
    /// How often it has opened.
    pub opened: u64,
    /// What was refused at the limits.
    pub overflows: OverflowCounts,
}

/// The circuit is open, or half open with all of its trials taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitOpen {
    /// Milliseconds until it may be otherwise; 0: it depends on the trials.
    pub rest: u64,
}

impl CircuitOpen {
    /// In whole seconds, one at least: for `Retry-After`.
    pub fn retry_after(self) -> u32 {
        u32::try_from(self.rest.div_ceil(1000).max(1)).unwrap_or(u32::MAX)
    }
}

/// A limit of the pool is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// What a try is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// An HTTP request: a request and a connection.
    Request,
    /// A TCP session: a connection.
    Session,
}

/// The circuit lets one try through.
#[derive(Debug)]
#[must_use = "a trial makes room for another when it is dropped"]
pub struct Pass {
    period: u32,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    circuit: Arc<Circuit>,
    period: u32,
    /// Its outcome has been counted.
    settled: AtomicBool,
}

/// A part of what the pool may have at a time.
#[derive(Debug)]
pub(super) struct Share {
    circuit: Arc<Circuit>,
    is_request: bool,
}

/// Something waits for a server or a connection, until this is dropped.
#[derive(Debug)]
#[must_use = "it counts as waiting until this is dropped"]
pub struct Pending(Arc<Circuit>);

const PHASES: u64 = 4;

fn gate(breaker: &Breaker) -> u64 {
    let phase = match breaker.phase() {
        Phase::Closed => 0,
        Phase::Open => 1,
        Phase::HalfOpen => 2,
    };
    u64::from(breaker.period()) * PHASES + phase
}

/// One more of at most `max`; 0: no limit.
fn take(count: &AtomicU32, max: u32) -> bool {
    let one_more = |n: u32| (max == 0 || n < max).then(|| n.saturating_add(1));
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

impl Circuit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Phase, and the period of passes.
    fn gate(&self) -> (Phase, u32) {
        let gate = self.gate.load(Ordering::Acquire);
        let phase = match gate % PHASES {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        };
        // A period has 32 bits.
        (phase, (gate / PHASES) as u32)
    }

    /// Does something to the breaker, and lets everyone see what has changed.
    fn change(&self, change: impl FnOnce(&mut Breaker) -> Option<Turn>) {
        let mut state = self.lock();
        if let Some(turn) = change(&mut state.breaker) {
            state.news.push(turn);
            self.publish(&state);
            self.has_news.store(true, Ordering::Release);
        }
    }

    fn publish(&self, state: &State) {
        self.until.store(state.breaker.until().0, Ordering::Relaxed);
        self.gate.store(gate(&state.breaker), Ordering::Release);
    }

    /// How long nothing passes yet, if that is known without the lock.
    fn rest(&self, now: Millis) -> Option<u64> {
        let rest = Millis(self.until.load(Ordering::Relaxed)).since(now);
        (self.gate().0 == Phase::Open && rest > 0).then_some(rest)
    }

    /// Does what is due by time.
    fn tick(&self, limits: &Limits, now: Millis) {
        if self.gate().0 != Phase::Closed && self.rest(now).is_none() {
            self.change(|breaker| breaker.tick(limits, now));
        }
    }

    fn admit(self: &Arc<Self>, limits: &Limits, now: Millis) -> Result<Pass, CircuitOpen> {
        if let (Phase::Closed, period) = self.gate() {
            return Ok(Pass { period, trial: None });
        }
        if let Some(rest) = self.rest(now) {
            return Err(CircuitOpen { rest });
        }
        self.tick(limits, now);
        let mut state = self.lock();
        let period = state.breaker.admit(limits, now).map_err(|rest| CircuitOpen { rest })?;
        let is_trial = state.breaker.phase() == Phase::HalfOpen;
        let trial = || Trial { circuit: Arc::clone(self), period, settled: AtomicBool::new(false) };
        Ok(Pass { period, trial: is_trial.then(trial) })
    }

    /// What [`Circuit::admit`] would say; it takes no trial.
    fn would_admit(&self, limits: &Limits, now: Millis) -> Result<(), CircuitOpen> {
        match self.gate().0 {
            Phase::Closed => Ok(()),
            // Past its time a trial is due.
            Phase::Open => self.rest(now).map_or(Ok(()), |rest| Err(CircuitOpen { rest })),
            Phase::HalfOpen if self.lock().breaker.has_room(limits) => Ok(()),
            Phase::HalfOpen => Err(CircuitOpen { rest: 0 }),
        }
    }

    fn share(self: &Arc<Self>, limits: &model::CircuitBreaker, of: Use) -> Result<Option<Share>, Overflow> {
        if limits.max_connections == 0 && limits.max_requests == 0 {
            return Ok(None);
        }
        if !take(&self.connections, limits.max_connections) {
            self.overflows.connections.fetch_add(1, Ordering::Relaxed);
            return Err(Overflow);
        }
        let mut share = Share { circuit: Arc::clone(self), is_request: false };
        if of == Use::Request {
            share.is_request = take(&self.requests, limits.max_requests);
            if !share.is_request {
                self.overflows.requests.fetch_add(1, Ordering::Relaxed);
                return Err(Overflow);
            }
        }
        Ok(Some(share))
    }

    fn overflows(&self) -> OverflowCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Overflows { connections, pending, requests, retries } = &self.overflows;
        OverflowCounts {
            connections: load(connections),
            pending: load(pending),
            requests: load(requests),
            retries: load(retries),
        }
    }
}

impl Pool {
    /// Leave for one try; told of how it went by [`Pool::note_outcome`].
    ///
    /// # Errors
    /// The circuit is open.
    pub fn admit(&self, now: Millis) -> Result<Option<Pass>, CircuitOpen> {
        let Some((circuit, limits)) = self.breaker() else { return Ok(None) };
        circuit.admit(limits, now).map(Some)
    }

    /// What [`Pool::admit`] would say, for who only asks.
    ///
    /// # Errors
    /// The circuit is open.
    pub fn would_admit(&self, now: Millis) -> Result<(), CircuitOpen> {
        self.breaker().map_or(Ok(()), |(circuit, limits)| circuit.would_admit(limits, now))
    }

    /// Makes the lease hold what it needs of the pool's limits, and its pass.
    ///
    /// # Errors
    /// `max_connections` or `max_requests` is reached.
    pub fn occupy(&self, mut lease: Lease, pass: Option<Pass>, of: Use) -> Result<Lease, Overflow> {
        if let (Some(circuit), Some(limits)) = (&self.circuit, &self.config.circuit_breaker) {
            lease.share = circuit.share(limits, of)?;
        }
        lease.pass = pass;
        Ok(lease)
    }

    /// Counts as waiting, for a server or for a connection, as long as the value lives.
    ///
    /// # Errors
    /// `max_pending` is reached.
    pub fn wait_for_connection(&self) -> Result<Option<Pending>, Overflow> {
        let (Some(circuit), Some(limits)) = (&self.circuit, &self.config.circuit_breaker) else { return Ok(None) };
        if limits.max_pending == 0 {
            return Ok(None);
        }
        if !take(&circuit.pending, limits.max_pending) {
            circuit.overflows.pending.fetch_add(1, Ordering::Relaxed);
            return Err(Overflow);
        }
        Ok(Some(Pending(Arc::clone(circuit))))
    }

    /// A retry was refused; counts it if that was because of `max_retries`.
    pub(super) fn note_refused_retry(&self) {
        if let (Some(circuit), Some(limits)) = (&self.circuit, &self.config.circuit_breaker)
            && limits.max_retries > 0
            && self.budget.running() >= u64::from(limits.max_retries)
        {
            circuit.overflows.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether [`Pool::watch`] has a change of the circuit to tell.
    pub fn has_news(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.has_news.load(Ordering::Acquire))
    }

    /// Tells the breaker how a try went.
    pub(super) fn note_pass(&self, pass: &Pass, outcome: Outcome, now: Millis) {
        let Some((circuit, limits)) = self.breaker() else { return };
        if let Some(trial) = &pass.trial {
            trial.settled.store(true, Ordering::Relaxed);
        }
        circuit.change(|breaker| breaker.on_outcome(limits, pass.period, outcome == Outcome::Good, now));
    }

    /// Lets trials begin when it is time, and tells of all changes since the last call.
    pub(super) fn watch_circuit(&self, now: Millis, news: &mut Vec<News>) {
        let Some(circuit) = &self.circuit else { return };
        if let Some((circuit, limits)) = self.breaker() {
            circuit.tick(limits, now);
        }
        if circuit.has_news.swap(false, Ordering::AcqRel) {
            news.extend(circuit.lock().news.drain(..).map(News::Circuit));
        }
    }

    /// For status; `None`: there is none.
    pub fn circuit_report(&self) -> Option<CircuitReport> {
        let circuit = self.circuit.as_ref()?;
        let state = circuit.lock();
        let is_used = self.breaker().is_some();
        Some(CircuitReport {
            phase: if is_used { state.breaker.phase() } else { Phase::Closed },
            since: state.breaker.since().filter(|_| is_used),
            opened: state.breaker.opened(),
            overflows: circuit.overflows(),
        })
    }

    pub(super) fn export_circuit(&self) -> Option<CircuitState> {
        let circuit = self.circuit.as_ref()?;
        Some(CircuitState { breaker: circuit.lock().breaker.export(), overflows: circuit.overflows() })
    }

    /// Goes on where another process was, once, before it serves.
    pub(super) fn import_circuit(&self, from: CircuitState, now: Millis) {
        let Some(circuit) = &self.circuit else { return };
        let OverflowCounts { connections, pending, requests, retries } = from.overflows;
        let own = &circuit.overflows;
        let counts = [&own.connections, &own.pending, &own.requests, &own.retries];
        for (count, more) in counts.into_iter().zip([connections, pending, requests, retries]) {
            count.fetch_add(more, Ordering::Relaxed);
        }
        if let Some((_, limits)) = self.breaker() {
            let mut state = circuit.lock();
            state.breaker.import(limits, from.breaker, now);
            circuit.publish(&state);
        }
    }

    /// The circuit, if errors open it.
    fn breaker(&self) -> Option<(&Arc<Circuit>, &Limits)> {
        let circuit = self.circuit.as_ref()?;
        Some((circuit, self.config.circuit_breaker.as_ref()?.errors.as_ref()?))
    }
}

impl Lease {
    /// The request is over, and its connection goes on as a tunnel.
    pub fn end_request(&mut self) {
        if let Some(share) = &mut self.share {
            share.end_request();
        }
    }
}

impl Share {
    fn end_request(&mut self) {
        if std::mem::take(&mut self.is_request) {
            self.circuit.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end_request();
        self.circuit.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !*self.settled.get_mut() {
            self.circuit.lock().breaker.on_abandoned(self.period);
        }
    }
}
