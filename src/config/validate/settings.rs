//! How requests are forwarded: what route, site and pool say, in this order.

use std::sync::Arc;

use super::listener::to_usize;
use super::log::Log;
use super::{Context, is_field_value, is_token};
use crate::config::decode::{At, Field};
use crate::config::document::Place;
use crate::config::model::{ErrorPage, HeaderEdits, Policy, Retry, RetryOn};
use crate::config::raw::{RawHeaderEdits, RawSettings};
use crate::config::words::{HeaderValue, RetryCondition};
use crate::template::{Scope, Template};

/// Fields that say where a message ends, or belong to one connection (RFC 9110 section 7.6.1).
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// What holds for a request, `levels` from the route outwards; never empty.
pub(super) fn policy(levels: &[&RawSettings], access_log: Log, cx: &mut Context<'_>) -> Policy {
    let host = levels.iter().find_map(|level| level.host.get()).and_then(|host| {
        check_value(host, cx);
        cx.template(host, Scope::Request)
    });
    Policy {
        host,
        request_headers: edits(levels, |level| &level.request_headers, Scope::Request, cx),
        response_headers: edits(levels, |level| &level.response_headers, Scope::Response, cx),
        x_forwarded: **nearest(levels, |level| &level.x_forwarded),
        forwarded: **nearest(levels, |level| &level.forwarded),
        request_id: **nearest(levels, |level| &level.request_id),
        max_body_size: nearest(levels, |level| &level.max_body_size).0.map(|size| size.get()).filter(|size| *size != 0),
        request_buffering: nearest(levels, |level| &level.request_buffering).0.map_or(0, |size| to_usize(size.0)),
        response_buffering: to_usize(nearest(levels, |level| &level.response_buffering).0),
        connect_timeout: nearest(levels, |level| &level.connect_timeout).get(),
        read_timeout: nearest(levels, |level| &level.read_timeout).get(),
        send_timeout: nearest(levels, |level| &level.send_timeout).get(),
        tunnel_timeout: nearest(levels, |level| &level.tunnel_timeout).get(),
        retry: retry(levels),
        error_pages: error_pages(levels, cx),
        access_log,
    }
}

/// The rules for other servers, `levels` as for [`policy`].
pub(super) fn retry(levels: &[&RawSettings]) -> Retry {
    let mut on = RetryOn::default();
    for condition in nearest(levels, |level| &level.retry_on).iter() {
        match **condition {
            RetryCondition::Connect => on.connect = true,
            RetryCondition::Reset => on.reset = true,
            RetryCondition::InvalidHeader => on.invalid_header = true,
            RetryCondition::Timeout => on.timeout = true,
            RetryCondition::Status(status) => on.statuses.push(status),
        }
    }
    Retry {
        retries: nearest(levels, |level| &level.retries).0,
        on,
        timeout: nearest(levels, |level| &level.retry_timeout).0.map(|period| period.get()),
        non_idempotent: **nearest(levels, |level| &level.retry_non_idempotent),
    }
}

/// The value of the innermost level that gives one, else the default.
pub(super) fn nearest<'r, T>(levels: &[&'r RawSettings], key: impl Fn(&'r RawSettings) -> &'r At<T>) -> &'r At<T> {
    let given = levels.iter().map(|level| key(level)).find(|value| value.given);
    given.unwrap_or_else(|| key(levels.last().expect("invariant: there is a level")))
}

/// The edits of all levels as one: what an inner level says of a field undoes what outer ones said.
fn edits<'r>(
    levels: &[&'r RawSettings],
    key: impl Fn(&'r RawSettings) -> &'r At<RawHeaderEdits>,
    scope: Scope,
    cx: &mut Context<'_>,
) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for raw in levels.iter().rev().map(|level| key(level)) {
        for name in raw.remove.iter() {
            check_field_name(name, name.place, scope, cx);
            forget(&mut edits, name);
            edits.remove.push(name.to_ascii_lowercase().into());
        }
        for (name, value) in raw.set.iter() {
            check_field_name(name, value.key, scope, cx);
            forget(&mut edits, name);
            edits.set.extend(field(name, value, scope, cx));
        }
        for (name, values) in raw.add.iter() {
            check_field_name(name, values.key, scope, cx);
            edits.add.extend(values.0.iter().filter_map(|value| field(name, value, scope, cx)));
        }
    }
    edits
}

fn forget(edits: &mut HeaderEdits, name: &str) {
    let is_other = |other: &str| !other.eq_ignore_ascii_case(name);
    edits.remove.retain(|other| is_other(other));
    edits.set.retain(|(other, _)| is_other(other));
    edits.add.retain(|(other, _)| is_other(other));
}

fn field(name: &str, value: &At<HeaderValue>, scope: Scope, cx: &mut Context<'_>) -> Option<(Box<str>, Template)> {
    let value = value.map(|value| value.0.clone());
    check_value(&value, cx);
    Some((name.into(), cx.template(&value, scope)?))
}

/// Notes a name that no header has, or that is not to be changed.
pub(super) fn check_field_name(name: &str, place: Place, scope: Scope, cx: &mut Context<'_>) {
    let lower = name.to_ascii_lowercase();
    if !is_token(name) {
        cx.problems.error(place, "not the name of a header");
    } else if FRAMING.contains(&lower.as_str()) {
        cx.problems.error(
            place,
            format!("`{name}` cannot be changed: it belongs to the connection or says where a message ends"),
        );
    } else if lower == "host" && scope == Scope::Request {
        cx.problems.error(place, "`Host` cannot be changed here").help("`host = \"...\"` does it");
    }
}

/// Notes a value that no header can have.
pub(super) fn check_value(value: &At<String>, cx: &mut Context<'_>) {
    if !is_field_value(value) {
        cx.problems.error(value.place, "line ends and control characters cannot be in a header");
    }
}

/// The pages that hold, `levels` as for [`policy`].
pub(super) fn error_pages(levels: &[&RawSettings], cx: &mut Context<'_>) -> Arc<[ErrorPage]> {
    let mut pages: Vec<ErrorPage> = Vec::new();
    for (status, raw) in levels.iter().flat_map(|level| level.error_pages.iter()) {
        let Some(status) = status.parse().ok().filter(|status| (400..=599).contains(status)) else {
            cx.problems.error(raw.key, "an error page is for a status from 400 to 599");
            continue;
        };
        let page = &raw.0;
        let body = match (&page.body, &page.file) {
            (Field::Given(body), Field::Absent) => body.as_str(),
            (Field::Absent, Field::Absent) => {
                cx.problems.error(raw.place, "an error page needs `body` or `file`");
                continue;
            }
            // What is wrong with a file was noted when it was to be read.
            _ => continue,
        };
        if let Some(content_type) = page.content_type.get() {
            check_value(content_type, cx);
        }
        let guess =
            if body.trim_start().starts_with('<') { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        let content_type = page.content_type.get().map_or(guess, |content_type| content_type.as_str());
        if pages.iter().all(|known| known.status != status) {
            pages.push(ErrorPage { status, body: body.into(), content_type: content_type.into() });
        }
    }
    pages.into()
}
