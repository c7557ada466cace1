//! `[global]`, `[admin]` and `[dns]`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Context, track};
use crate::config::decode::Field;
use crate::config::model::{Admin, Dns, Global, Log};
use crate::config::raw::{RawDns, RawGlobal};
use crate::config::words::OwnLogFormat;
use crate::telemetry;

/// A few of the shortest heartbeats.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(100);

/// What a `sockaddr_un` has room for, and a zero.
const LONGEST_SOCKET: usize = 107;

pub(super) fn global(cx: &mut Context<'_>) -> Option<Global> {
    let RawGlobal {
        workers,
        user,
        run_dir,
        state_dir,
        shutdown_timeout,
        drain_timeout,
        proxy_watchdog,
        max_connections,
        script_user,
        certificate_check_interval,
        notify,
        webhook,
        log,
    } = &*cx.file.global;
    for user in [user, script_user].into_iter().filter(|user| user.is_empty()) {
        cx.problems.error(user.place, "the name of a user cannot be empty");
    }
    if proxy_watchdog.get() < SHORTEST_WATCHDOG {
        let message = format!("{} would take a busy proxy for a hung one", **proxy_watchdog);
        cx.problems.error(proxy_watchdog.place, message).help("at least 100ms");
    }
    if let Err(error) = telemetry::check_level(&log.level) {
        cx.problems.error(log.level.place, error.to_string());
    }
    // Every caller fills it in: its default is a matter of who runs, not of the file.
    let mut dir = |field: &Field<String>, name: &str| {
        let written = field.required(name, cx.file.global.place, cx.problems)?;
        let dir = PathBuf::from(written.as_str());
        if !dir.is_absolute() {
            cx.problems.error(written.place, "not a whole path").help("start it with `/`");
        }
        Some(dir)
    };
    let run_dir = dir(run_dir, "run_dir")?;
    let state_dir = if state_dir.is_absent() { run_dir.join("state") } else { dir(state_dir, "state_dir")? };
    Some(Global {
        workers: workers.0.and_then(NonZeroU32::new),
        user: (**user).clone(),
        run_dir,
        state_dir,
        shutdown_timeout: shutdown_timeout.get(),
        drain_timeout: drain_timeout.get(),
        proxy_watchdog: proxy_watchdog.get(),
        max_connections: max_connections.0,
        script_user: (**script_user).clone(),
        certificate_check_interval: certificate_check_interval.0.map(|period| period.get()),
        notify: track::command(notify, cx),
        webhook: track::webhook(webhook, cx),
        log: Log { level: (*log.level).clone(), json: *log.format == OwnLogFormat::Json },
    })
}

pub(super) fn admin(global: &Global, cx: &mut Context<'_>) -> Option<Admin> {
    let group = cx.file.admin.group.get();
    if let Some(group) = group.filter(|group| group.is_empty()) {
        cx.problems.error(group.place, "the name of a group cannot be empty");
    }
    let group = group.map(|group| (**group).clone());
    let written = cx.file.admin.socket.get();
    if cx.file.admin.socket.is_absent() {
        return Some(Admin { socket: global.run_dir.join("admin.sock"), group });
    }
    let written = written?;
    if !Path::new(written.as_str()).is_absolute() {
        cx.problems.error(written.place, "not a whole path").help("start it with `/`");
    } else if written.len() > LONGEST_SOCKET {
        cx.problems.error(written.place, format!("the path of a socket has at most {LONGEST_SOCKET} bytes"));
    }
    Some(Admin { socket: PathBuf::from(written.as_str()), group })
}

pub(super) fn dns(cx: &mut Context<'_>) -> Dns {
    let RawDns { resolvers, timeout, min_ttl, max_ttl } = &*cx.file.dns;
    if min_ttl.get() > max_ttl.get() {
        let place = if min_ttl.given { min_ttl.place } else { max_ttl.place };
        cx.problems.error(place, format!("min_ttl ({}) is more than max_ttl ({})", **min_ttl, **max_ttl));
    }
    Dns {
        resolvers: resolvers.iter().map(|server| server.0).collect(),
        timeout: timeout.get(),
        min_ttl: min_ttl.get(),
        max_ttl: max_ttl.get(),
    }
}
