//! What the program says: its own log on stderr, access logs, and the words for why an exchange failed.

pub mod access_log;
pub mod clock;
pub mod reason;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use reason::Reason;

/// Why our own log could not be set up or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TelemetryError {
    /// This part of the level is neither a level nor a directive of a filter.
    Level(String),
    /// There is a log already, or it is gone.
    Subscriber,
}

/// Changes the level of our own log while it is in use.
#[derive(Debug, Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

/// Starts our own log on stderr, for the whole process, once: text, or JSON with one object a line.
///
/// `level` is `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,bascule::proxy=debug`.
///
/// # Errors
/// `level` is neither, or the log was started before.
pub fn init(level: &str, json: bool) -> Result<LevelHandle, TelemetryError> {
    let (subscriber, handle) = subscriber(level, json, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Subscriber)?;
    Ok(handle)
}

impl LevelHandle {
    /// Makes `level` the level of the log.
    ///
    /// # Errors
    /// `level` is neither a level nor a filter; the old one stays.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = parse_level(level)?;
        self.0.reload(filter).map_err(|_| TelemetryError::Subscriber)
    }
}

/// Whether `level` can be given to [`init`].
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    parse_level(level).map(drop)
}

impl fmt::Display for TelemetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(part) => write!(
                f,
                "`{part}` is neither a level (error, warn, info, debug, trace) nor part of a filter such as \
                 `info,bascule::proxy=debug`"
            ),
            Self::Subscriber => f.write_str("the log was already started, or has ended"),
        }
    }
}

impl std::error::Error for TelemetryError {}

fn subscriber<W>(
    level: &str,
    json: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LevelHandle), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_level(level)?);
    let lines = lines(json, writer);
    Ok((Registry::default().with(filter).with(lines), LevelHandle(handle)))
}

fn lines<S, W>(json: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    if json { layer.json().flatten_event(true).boxed() } else { layer.boxed() }
}

/// A directive without `=` must be a level: `EnvFilter` alone takes a mistyped one for the name of a module.
fn parse_level(level: &str) -> Result<EnvFilter, TelemetryError> {
    let is_bad = |part: &&str| part.is_empty() || (!part.contains('=') && part.parse::<LevelFilter>().is_err());
    match level.split(',').map(str::trim).find(is_bad) {
        Some(part) => Err(TelemetryError::Level(part.into())),
        None => EnvFilter::try_new(level).map_err(|_| TelemetryError::Level(level.into())),
    }
}

/// From now on panics are logged with their place and counted, instead of printed. Each is a bug that has ended one
/// connection, not the process.
pub fn log_panics() {
    static TOTAL: AtomicU64 = AtomicU64::new(0);
    std::panic::set_hook(Box::new(|info| {
        let total = TOTAL.fetch_add(1, Ordering::Relaxed) + 1;
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, panic = message, total, "panic: a bug has ended one connection; please report it");
    }));
}

#[cfg(test)]
mod tests;
