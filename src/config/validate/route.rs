//! Routes of a site.

use std::sync::Arc;

use super::admission::admission;
use super::log::Log;
use super::settings::{self, policy};
use super::{Context, is_field_value, is_token, role, split};
use crate::config::decode::{At, Field, Keys};
use crate::config::document::Place;
use crate::config::model::{
    Action, HeaderMatch, Mirror, PathMatch, PathRewrite, Policy, Retry, RoleRule, Route, ValueMatch,
};
use crate::config::raw::{RawPool, RawRoute, RawSite};
use crate::config::words::HeaderCondition;
use crate::template::Scope;

/// The routes of the site `site`, whose log is `outer`.
pub(super) fn routes(site: &str, raw: &RawSite, outer: &Log, cx: &mut Context<'_>) -> Vec<Arc<Route>> {
    let site: Arc<str> = site.into();
    let mut routes = Vec::new();
    for written in raw.route.iter() {
        routes.extend(route(&site, raw, written, outer, cx).map(|route| (Arc::new(route), written.place)));
    }
    note_unreachable(&routes, cx);
    routes.into_iter().map(|(route, _)| route).collect()
}

fn route(site: &Arc<str>, of: &RawSite, raw: &At<RawRoute>, outer: &Log, cx: &mut Context<'_>) -> Option<Route> {
    let path = path(raw, cx);
    let methods = methods(raw, cx);
    let headers = raw.headers.iter().filter_map(|(name, condition)| header(name, condition, cx)).collect();
    let pool = raw.pool.get().and_then(|name| cx.pool(name));
    let roles = raw.pool.get().zip(pool).and_then(|(name, pool)| role::roles(&raw.roles, name, pool, cx));
    let rewrite = rewrite(raw, path.as_ref(), cx);
    let action = action(raw, rewrite.as_ref(), roles, cx);
    let access_log = cx.log_within(&raw.access_log, outer);
    let policy_with = |pool: Option<&RawPool>, cx: &mut Context<'_>| {
        let levels = [Some(&raw.settings), Some(&of.settings), pool.map(|pool| &pool.settings)];
        policy(&levels.into_iter().flatten().collect::<Vec<_>>(), access_log.clone(), cx)
    };
    let policy = policy_with(pool.map(|pool| &**pool), cx);
    let mirror = mirror(raw, of, cx);
    let admission = admission(&[&raw.admission, &of.admission], cx);
    let written = [&raw.name, &raw.path, &raw.path_prefix, &raw.path_exact, &raw.path_regex];
    let name = written.into_iter().find_map(Field::get).map_or("/", |text| text.as_str());
    let split = raw.pools.get().and_then(|pools| split::split(raw, pools, policy_with, cx));
    let mut route = Route {
        name: name.into(),
        site: Arc::clone(site),
        path: path?,
        methods,
        headers,
        action: action?,
        admission,
        policy,
        mirror,
    };
    if let Some(split) = split {
        route.action = split.action(&route, rewrite.as_ref());
    }
    Some(route)
}

/// Where copies of the route's requests go, and how they are sent.
fn mirror(raw: &RawRoute, of: &RawSite, cx: &mut Context<'_>) -> Option<Mirror> {
    let written = raw.mirror.get()?;
    if raw.pool.is_absent() && raw.pools.is_absent() {
        cx.problems.error(written.key, "`mirror` needs `pool`: nothing is forwarded that could be copied");
    }
    let name = written.pool.required("pool", written.place, cx.problems)?;
    let pool = cx.pool(name)?;
    let shares = raw.pools.get().into_iter().flat_map(|pools| pools.iter()).filter_map(|share| share.pool.get());
    if raw.pool.get().into_iter().chain(shares).any(|own| **own == **name) {
        cx.problems
            .error(name.place, "this pool gets the requests themselves already")
            .help("name another: its servers would do everything twice");
    }
    let policy = policy(&[&raw.settings, &of.settings, &pool.settings], Log::default(), cx);
    let retry = Retry { retries: 0, ..policy.retry };
    Some(Mirror {
        pool: name.as_str().into(),
        share: written.share.0,
        max_in_flight: written.max_in_flight.0,
        policy: Policy { retry, access_log: None, ..policy },
    })
}

/// Errors for routes that come after one with the same path that takes everything.
fn note_unreachable(routes: &[(Arc<Route>, Place)], cx: &mut Context<'_>) {
    let mut seen = std::collections::BTreeMap::new();
    for (route, place) in routes {
        let key = match &route.path {
            PathMatch::Segments(text) => (0, text.to_string()),
            PathMatch::Prefix { prefix, .. } => (1, prefix.to_string()),
            PathMatch::Exact(text) => (2, text.to_string()),
            PathMatch::Regex(regex) => (3, regex.as_str().to_owned()),
        };
        if let Some(first) = seen.get(&key) {
            cx.problems
                .error(*place, "no request takes this route: one before it has the same path")
                .note("it is at", *first);
        } else if route.methods.is_empty() && route.headers.is_empty() {
            seen.insert(key, *place);
        }
    }
}

fn path(raw: &RawRoute, cx: &mut Context<'_>) -> Option<PathMatch> {
    let forms = [&raw.path, &raw.path_prefix, &raw.path_exact, &raw.path_regex];
    let given: Vec<Place> = forms.iter().filter_map(|form| form.key()).collect();
    if let [first, second, ..] = given.as_slice() {
        cx.problems.error(*second, "a route has only one path").note("the first is at", *first);
    }
    if *raw.before_regex && raw.path_prefix.is_absent() {
        cx.problems.error(raw.before_regex.key, "`before_regex` needs `path_prefix`");
    }
    if let Some(pattern) = raw.path_regex.get() {
        return cx.regex(pattern).map(PathMatch::Regex);
    }
    let Some(text) = forms.into_iter().find_map(Field::get) else {
        return given.is_empty().then(|| PathMatch::Segments("/".into()));
    };
    check_path(text, cx);
    let text: Box<str> = text.as_str().into();
    Some(if !raw.path_exact.is_absent() {
        PathMatch::Exact(text)
    } else if !raw.path_prefix.is_absent() {
        PathMatch::Prefix { prefix: text, before_regex: *raw.before_regex }
    } else {
        PathMatch::Segments(text)
    })
}

/// A path that no request can have, since it is compared normalised.
fn check_path(text: &At<String>, cx: &mut Context<'_>) {
    let problem = if !text.starts_with('/') {
        Some(("a path starts with `/`", format!("\"/{}\"", **text)))
    } else if text.contains(['?', '#']) {
        Some(("a path has no query string", "routes do not look at the query string".into()))
    } else if text.contains("//") {
        Some(("no path has `//`: it is compared with double slashes merged", "write one `/`".into()))
    } else if text.split('/').any(|part| part == "." || part == "..") {
        Some(("no path has `.` or `..`: it is compared with dot segments removed", "leave them out".into()))
    } else if escapes(text) {
        Some(("no path has `%..`: it is compared decoded", "write the character itself".into()))
    } else {
        None
    };
    if let Some((message, help)) = problem {
        cx.problems.error(text.place, message).help(help);
    }
}

fn escapes(text: &str) -> bool {
    text.as_bytes().windows(3).any(|w| matches!(w, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}

fn methods(raw: &RawRoute, cx: &mut Context<'_>) -> Vec<Box<str>> {
    for method in raw.methods.iter() {
        if !is_token(method) {
            cx.problems.error(method.place, "not a method");
        } else if method.bytes().any(|b| b.is_ascii_lowercase()) {
            let help = format!("write \"{}\": methods are compared as they are", method.to_ascii_uppercase());
            cx.problems.error(method.place, "not a method").help(help);
        }
    }
    raw.methods.iter().map(|method| method.as_str().into()).collect()
}

pub(super) fn header(name: &str, condition: &At<HeaderCondition>, cx: &mut Context<'_>) -> Option<HeaderMatch> {
    if !is_token(name) {
        cx.problems.error(condition.key, "not the name of a header");
        return None;
    }
    let value = value(condition, "header", cx)?;
    Some(HeaderMatch { name: name.to_ascii_lowercase().into(), value })
}

/// A condition on a value of a `what`.
pub(super) fn value(condition: &At<HeaderCondition>, what: &str, cx: &mut Context<'_>) -> Option<ValueMatch> {
    Some(match &**condition {
        HeaderCondition::Present => ValueMatch::Present,
        HeaderCondition::Equals(text) => {
            if !is_field_value(text) || text.trim() != text {
                cx.problems.error(condition.place, format!("no {what} has this value"));
            }
            ValueMatch::Exact(text.as_str().into())
        }
        HeaderCondition::Regex(raw) => {
            let pattern = raw.regex.required("regex", condition.place, cx.problems)?;
            ValueMatch::Regex(cx.regex(pattern)?)
        }
    })
}

fn action(
    raw: &At<RawRoute>,
    rewrite: Option<&PathRewrite>,
    roles: Option<RoleRule>,
    cx: &mut Context<'_>,
) -> Option<Action> {
    let close = raw.close.then_some(raw.close.key);
    let given = [
        ("pool", raw.pool.key()),
        ("pools", raw.pools.key()),
        ("redirect", raw.redirect.key()),
        ("respond", raw.respond.key()),
        ("close", close),
    ];
    let given: Vec<_> = given.into_iter().filter_map(|(name, key)| Some((name, key?))).collect();
    match given.as_slice() {
        [] => {
            cx.problems
                .error(raw.place, "this route does nothing")
                .help("give it one of `pool`, `pools`, `redirect`, `respond` and `close`");
            return None;
        }
        [_] => {}
        [(first, at), rest @ ..] => {
            for (name, key) in rest {
                cx.problems
                    .error(*key, format!("a route has either `{first}` or `{name}`"))
                    .note("the first is at", *at);
            }
        }
    }
    if let Some(key) = raw.split_key.key().filter(|_| raw.pools.is_absent()) {
        cx.problems.error(key, "`split_key` needs `pools`");
    }
    if let Some(pool) = raw.pool.get() {
        return Some(Action::Pool { pool: pool.as_str().into(), rewrite: rewrite.cloned(), roles });
    }
    if !raw.pools.is_absent() {
        // Made once the rest of the route is there.
        return Some(Action::Split { shares: Arc::default(), key: None });
    }
    note_useless(raw, cx);
    if let Some(redirect) = raw.redirect.get() {
        let status = redirect.0.status.0;
        if ![301, 302, 303, 307, 308].contains(&status) {
            cx.problems.error(redirect.0.status.place, "a redirect has status 301, 302, 303, 307 or 308");
        }
        let location = redirect.0.location.required("location", redirect.place, cx.problems)?;
        settings::check_value(location, cx);
        return Some(Action::Redirect { status: narrow(status), location: cx.template(location, Scope::Request)? });
    }
    if let Some(respond) = raw.respond.get() {
        let content_type = &respond.content_type;
        settings::check_value(content_type, cx);
        return Some(Action::Respond {
            status: narrow(respond.status.0),
            body: cx.template(&respond.body, Scope::Request)?,
            content_type: content_type.as_str().into(),
        });
    }
    close.map(|_| Action::Close)
}

/// A status that is within the range of its key.
fn narrow(status: u32) -> u16 {
    u16::try_from(status).unwrap_or(u16::MAX)
}

/// Whether requests go to servers.
fn forwards(raw: &RawRoute) -> bool {
    !raw.pool.is_absent() || !raw.pools.is_absent()
}

/// Keys that say how to forward in a route that does not forward.
fn note_useless(raw: &RawRoute, cx: &mut Context<'_>) {
    if forwards(raw) {
        return;
    }
    const USEFUL: [&str; 4] = ["response_headers", "max_body_size", "error_pages", "request_id"];
    for (key, place) in raw.roles.given() {
        cx.problems.error(place, format!("`{key}` needs `pool`: nothing is forwarded"));
    }
    for (key, place) in raw.settings.given().into_iter().filter(|(key, _)| !USEFUL.contains(key)) {
        cx.problems.warning(place, format!("`{key}` does nothing here: the route has no pool"));
    }
}

fn rewrite(raw: &RawRoute, path: Option<&PathMatch>, cx: &mut Context<'_>) -> Option<PathRewrite> {
    let keys = [
        ("strip_prefix", &raw.strip_prefix),
        ("replace_prefix", &raw.replace_prefix),
        ("replace_path", &raw.replace_path),
    ];
    let given: Vec<_> = keys.into_iter().filter_map(|(name, field)| Some((name, field.key()?))).collect();
    for (name, key) in &given {
        if !forwards(raw) {
            cx.problems.error(*key, format!("`{name}` needs `pool`: nothing is forwarded"));
        }
    }
    if let [(first, at), (second, key), ..] = given.as_slice() {
        cx.problems.error(*key, format!("a route has either `{first}` or `{second}`")).note("the first is at", *at);
    }
    let prefix = match path {
        Some(PathMatch::Segments(text) | PathMatch::Prefix { prefix: text, .. }) => Some(text),
        _ => None,
    };
    if let Some(strip) = raw.strip_prefix.get() {
        check_path(strip, cx);
        let matched = match path {
            Some(PathMatch::Exact(text)) => Some(text),
            _ => prefix,
        };
        match matched {
            Some(matched) if !matched.starts_with(strip.as_str()) => {
                cx.problems
                    .error(strip.place, format!("\"{matched}\", which the route matches, does not start with this"));
            }
            Some(_) => {}
            // What a regular expression matches may start with anything; a path without the prefix stays as it is.
            None => {}
        }
        return Some(PathRewrite::StripPrefix(strip.as_str().into()));
    }
    if let Some(with) = raw.replace_prefix.get() {
        if !with.starts_with('/') || with.contains(['?', '#', ' ']) || !with.bytes().all(|b| b.is_ascii_graphic()) {
            cx.problems.error(with.place, "not a path as it is sent: `/`, then visible ASCII without `?` and `#`");
        }
        let Some(prefix) = prefix else {
            if path.is_some() {
                cx.problems.error(with.key, "`replace_prefix` needs `path` or `path_prefix`");
            }
            return None;
        };
        return Some(PathRewrite::ReplacePrefix { prefix: prefix.clone(), with: with.as_str().into() });
    }
    let replace = raw.replace_path.get()?;
    if !replace.starts_with(['/', '$']) || replace.bytes().any(|b| !b.is_ascii_graphic()) {
        cx.problems.error(replace.place, "not a path as it is sent: `/`, then visible ASCII");
    }
    cx.template(replace, Scope::Request).map(PathRewrite::Replace)
}
