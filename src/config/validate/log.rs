//! Access logs: `[access_log]`, and what listeners, sites and routes say of their own.

use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use crate::config::decode::{At, Field};
use crate::config::document::Place;
use crate::config::model::{AccessLog, LogFormat, LogTarget, SyslogTarget};
use crate::config::raw::RawAccessLog;
use crate::config::words::LogOverride;
use crate::template::Scope;

/// Every access log once, so that equal ones share one value.
#[derive(Debug, Default)]
pub(super) struct Logs(Vec<Arc<AccessLog>>);

/// Destination and format around a table; `None`: no log.
pub(super) type Log = Option<Arc<AccessLog>>;

impl Context<'_> {
    /// The log of the top level.
    pub(super) fn top_log(&mut self) -> Log {
        let file = self.file;
        let log = file.access_log.get()?;
        self.log(log, log.place, None)
    }

    /// The log of a table in one with the log `outer`.
    pub(super) fn log_within(&mut self, own: &Field<LogOverride>, outer: &Log) -> Log {
        match own.get() {
            None => outer.clone(),
            Some(at) => match &**at {
                LogOverride::Off => None,
                LogOverride::On(log) => self.log(log, at.place, outer.as_deref()),
            },
        }
    }

    fn log(&mut self, raw: &RawAccessLog, place: Place, outer: Option<&AccessLog>) -> Log {
        let target = match (raw.path.get(), outer) {
            (Some(path), _) => self.log_target(path)?,
            (None, Some(outer)) => outer.target.clone(),
            (None, None) => {
                if raw.path.is_absent() {
                    self.problems
                        .error(place, "this access log has no `path`")
                        .help("give it one, or give one to [access_log]");
                }
                return None;
            }
        };
        let format = match (raw.format.get(), outer) {
            (Some(format), _) => self.log_format(format)?,
            (None, Some(outer)) => outer.format.clone(),
            (None, None) => LogFormat::Detailed,
        };
        let log = AccessLog { target, format };
        if let Some(known) = self.logs.0.iter().find(|known| ***known == log) {
            return Some(Arc::clone(known));
        }
        let log = Arc::new(log);
        self.logs.0.push(Arc::clone(&log));
        Some(log)
    }

    fn log_target(&mut self, path: &At<String>) -> Option<LogTarget> {
        match path.as_str() {
            "stdout" => return Some(LogTarget::Stdout),
            "journald" => return Some(LogTarget::Journald),
            text if text.starts_with('/') && !text.ends_with('/') => return Some(LogTarget::File(PathBuf::from(text))),
            text => {
                if let Some(target) = text.strip_prefix("syslog:") {
                    let udp = target.strip_prefix("udp://").map(|address| address.parse().map(SyslogTarget::Udp));
                    let unix = target.starts_with('/').then(|| Ok(SyslogTarget::Unix(PathBuf::from(target))));
                    if let Some(Ok(target)) = udp.or(unix) {
                        return Some(LogTarget::Syslog(target));
                    }
                }
            }
        }
        self.problems
            .error(path.place, "not a destination of an access log")
            .help("a whole path, \"stdout\", \"journald\", \"syslog:/dev/log\" or \"syslog:udp://192.0.2.1:514\"");
        None
    }

    fn log_format(&mut self, format: &At<String>) -> Option<LogFormat> {
        const NAMES: [&str; 4] = ["common", "combined", "detailed", "json"];
        match format.as_str() {
            "common" => Some(LogFormat::Common),
            "combined" => Some(LogFormat::Combined),
            "detailed" => Some(LogFormat::Detailed),
            "json" => Some(LogFormat::Json),
            text if text.contains('$') => self.template(format, Scope::Log).map(LogFormat::Template),
            text => {
                let near = crate::config::help::nearest(text, NAMES.into_iter());
                let help = near.map(|near| format!("did you mean \"{near}\"?"));
                self.problems
                    .error(format.place, "not a format: neither common, combined, detailed, json nor with a variable")
                    .maybe_help(help);
                None
            }
        }
    }
}
