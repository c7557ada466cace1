//! What a virtual router looks at beside its peers, and whom it tells.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use super::vrrp::check_interface;
use super::{Context, is_label};
use crate::config::decode::{At, Field, List};
use crate::config::model::{self, Command, TrackedFile, TrackedInterface, TrackedPools, TrackedScript};
use crate::config::raw::RawVrrp;
use crate::config::words::{TrackMode, Weight};

pub(super) fn pools(raw: &RawVrrp, cx: &mut Context<'_>) -> Option<TrackedPools> {
    let mut pools: Vec<Arc<str>> = Vec::new();
    for name in raw.track_pools.iter() {
        if pools.iter().any(|known| **known == **name) {
            cx.problems.error(name.place, format!("\"{}\" is there twice", **name));
        } else if cx.pool(name).is_some() {
            pools.push(name.as_str().into());
        }
    }
    (!pools.is_empty()).then(|| TrackedPools { pools, any: *raw.track_mode == TrackMode::Any })
}

fn weight(weight: &Field<Weight>) -> model::Weight {
    weight.get().map(|weight| weight.0)
}

pub(super) fn interfaces(raw: &RawVrrp, cx: &mut Context<'_>) -> Vec<TrackedInterface> {
    let mut tracked: Vec<TrackedInterface> = Vec::new();
    for text in raw.track_interfaces.iter() {
        let Some(name) = text.0.name.required("name", text.place, cx.problems) else { continue };
        check_interface(name, cx);
        if tracked.iter().any(|known| *known.name == **name) {
            cx.problems.error(name.place, format!("\"{}\" is there twice", **name));
        }
        if raw.interface.get().is_some_and(|own| **own == **name) {
            cx.problems
                .warning(name.place, format!("\"{}\" is the interface of this virtual router", **name))
                .help("while it is down, the box never holds the addresses");
        }
        tracked.push(TrackedInterface { name: name.as_str().into(), weight: weight(&text.0.weight) });
    }
    tracked
}

pub(super) fn files(raw: &RawVrrp, cx: &mut Context<'_>) -> Vec<TrackedFile> {
    let mut files = Vec::new();
    for file in raw.track_files.iter() {
        let Some(path) = file.path.required("path", file.place, cx.problems) else { continue };
        check_path(path, cx);
        files.push(TrackedFile { path: PathBuf::from(path.as_str()), weight: weight(&file.weight) });
    }
    files
}

pub(super) fn scripts(raw: &RawVrrp, cx: &mut Context<'_>) -> Vec<Arc<TrackedScript>> {
    let mut scripts = Vec::new();
    for script in raw.track_scripts.iter() {
        let Some(written) = script.command.required("command", script.place, cx.problems) else { continue };
        let Some(command) = required_command(written, cx) else { continue };
        scripts.push(Arc::new(TrackedScript {
            command,
            interval: script.interval.get(),
            timeout: script.timeout.get().map_or(script.interval.get(), |timeout| timeout.get()),
            rise: script.rise.0,
            fall: script.fall.0,
            weight: weight(&script.weight),
        }));
    }
    scripts
}

/// The program and its arguments.
pub(super) fn required_command(written: &At<List<String>>, cx: &mut Context<'_>) -> Option<Command> {
    if written.is_empty() && written.complete {
        cx.problems.error(written.place, "a command needs a program").help("[\"/usr/bin/test\", \"-e\", \"/file\"]");
    }
    command(written, cx)
}

/// The program and its arguments; none in an empty list.
pub(super) fn command(written: &At<List<String>>, cx: &mut Context<'_>) -> Option<Command> {
    for part in written.iter().filter(|part| part.contains('\0')) {
        cx.problems.error(part.place, "a zero byte cannot be in an argument");
    }
    let (program, arguments) = written.split_first()?;
    check_path(program, cx);
    if arguments.is_empty() && program.contains(' ') {
        cx.problems
            .warning(program.place, "there is no shell: the whole text is the name of the program")
            .help("each argument is an element of its own");
    }
    let arguments = arguments.iter().map(|argument| (**argument).clone()).collect();
    Some(Command { program: PathBuf::from(program.as_str()), arguments })
}

fn check_path(path: &At<String>, cx: &mut Context<'_>) {
    if !path.starts_with('/') || path.ends_with('/') {
        cx.problems.error(path.place, "not the whole path of a file").help("start it with `/`; PATH is not searched");
    }
}

/// A URL that is posted to.
pub(super) fn webhook(written: &Field<String>, cx: &mut Context<'_>) -> Option<Arc<str>> {
    let url = written.get()?;
    if url.to_ascii_lowercase().starts_with("https:") {
        cx.problems
            .error(url.place, "a webhook is \"http://...\": nothing is posted by TLS")
            .help("`notify` can run curl; or send it to a relay on this box");
    } else if !is_url(url) {
        cx.problems.error(url.place, "not a URL").help("\"http://192.0.2.1:8000/path\"");
    }
    Some(url.as_str().into())
}

/// Whether `url` is `http://host[:port][/path]`.
fn is_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let version6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match version6 {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n != 0);
    is_host && port.is_none_or(is_port) && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}
