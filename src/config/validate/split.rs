//! `pools` of a route: requests shared out to several pools.

use std::sync::Arc;

use super::route::{header, value};
use super::{Context, is_token, role};
use crate::config::decode::{At, List};
use crate::config::model::{Action, HeaderMatch, PathRewrite, Policy, RoleRule, Route, Share};
use crate::config::raw::{RawPool, RawRoute, RawShare};
use crate::config::words::{HeaderCondition, StickyType};
use crate::template::{Part, Scope, Template, Var};

/// `pools` and `split_key` of a route.
pub(super) struct Split {
    parts: Vec<Written>,
    key: Option<Template>,
}

/// A [`Share`] whose route is not there yet.
struct Written {
    pool: Arc<str>,
    policy: Policy,
    roles: Option<RoleRule>,
    weight: u32,
    headers: Vec<HeaderMatch>,
    cookies: Vec<HeaderMatch>,
}

impl Split {
    /// What `route` does, which is the route but for that.
    pub(super) fn action(self, route: &Route, rewrite: Option<&PathRewrite>) -> Action {
        let share = |Written { pool, policy, roles, weight, headers, cookies }| {
            let action = Action::Pool { pool: Arc::clone(&pool), rewrite: rewrite.cloned(), roles };
            let route = Arc::new(Route { action, policy, ..route.clone() });
            Share { pool, route, weight, headers, cookies }
        };
        Action::Split { shares: self.parts.into_iter().map(share).collect(), key: self.key }
    }
}

/// What is written of `pools`; `policy_with`: how requests to a pool are forwarded.
pub(super) fn split(
    raw: &RawRoute,
    written: &At<List<RawShare>>,
    mut policy_with: impl FnMut(Option<&RawPool>, &mut Context<'_>) -> Policy,
    cx: &mut Context<'_>,
) -> Option<Split> {
    if written.is_empty() && written.complete {
        cx.problems.error(written.place, "there is no pool").help("pools = [{ pool = \"stable\", weight = 95 }, ...]");
    }
    let mut parts = Vec::new();
    let mut found: Vec<(&At<String>, &RawPool, u32)> = Vec::new();
    for share in written.iter() {
        let headers: Vec<_> = share.headers.iter().filter_map(|(name, wanted)| header(name, wanted, cx)).collect();
        let cookies: Vec<_> = share.cookies.iter().filter_map(|(name, wanted)| cookie(name, wanted, cx)).collect();
        let has_conditions = !share.headers.is_empty() || !share.cookies.is_empty();
        let weight = share.weight.get().map_or(u32::from(!has_conditions), |weight| weight.0);
        let Some(name) = share.pool.required("pool", share.place, cx.problems) else { continue };
        let Some(pool) = cx.pool(name) else { continue };
        if weight == 0 && !has_conditions {
            let place = share.weight.get().map_or(share.place, |weight| weight.place);
            cx.problems
                .warning(place, "no request comes to this pool")
                .help("give it a weight, or `headers` or `cookies` that its requests have");
        }
        let again = found.iter().find(|(other, _, weight)| other.as_str() == name.as_str() && *weight > 0);
        if let Some((other, ..)) = again.filter(|_| weight > 0) {
            cx.problems
                .error(name.place, format!("pool \"{}\" has two weights", name.as_str()))
                .help("add them up; `headers` and `cookies` may lead to it as often as you like")
                .note("the first is at", other.place);
        }
        found.push((name, pool, weight));
        let policy = policy_with(Some(pool), cx);
        let roles = role::roles(&raw.roles, name, pool, cx);
        parts.push(Written { pool: name.as_str().into(), policy, roles, weight, headers, cookies });
    }
    if written.complete && !found.is_empty() && found.len() == written.len() && found.iter().all(|(.., w)| *w == 0) {
        cx.problems
            .error(written.place, "requests that meet no conditions come to no pool: every weight is 0")
            .help("give one a weight");
    }
    note_shared_cookies(raw, &found, cx);
    let key = raw.split_key.get().and_then(|key| self::key(key, cx));
    (!parts.is_empty()).then_some(Split { parts, key })
}

fn cookie(name: &str, condition: &At<HeaderCondition>, cx: &mut Context<'_>) -> Option<HeaderMatch> {
    if !is_token(name) {
        cx.problems.error(condition.key, "not the name of a cookie");
        return None;
    }
    Some(HeaderMatch { name: name.into(), value: value(condition, "cookie", cx)? })
}

fn key(written: &At<String>, cx: &mut Context<'_>) -> Option<Template> {
    let template = cx.template(written, Scope::Request)?;
    if template.as_constant().is_some() {
        cx.problems.warning(written.place, "a key without a variable sends everything to one pool");
    }
    if template.parts().contains(&Part::Var(Var::Pool)) {
        cx.problems.error(written.place, "`$pool` is what the key is to decide");
    }
    Some(template)
}

/// Warns of pools that take each other's clients their server away.
fn note_shared_cookies(raw: &RawRoute, found: &[(&At<String>, &RawPool, u32)], cx: &mut Context<'_>) {
    let cookie = |pool: &RawPool| {
        let sticky = pool.sticky.0.as_ref().filter(|s| s.r#type.get().is_some_and(|t| **t == StickyType::Cookie))?;
        Some(sticky.cookie.cookie.as_str().to_owned())
    };
    for (i, (name, pool, _)) in found.iter().enumerate() {
        let Some(own) = cookie(pool) else { continue };
        let other = found[..i].iter().find(|(n, p, _)| n.as_str() != name.as_str() && cookie(p).as_ref() == Some(&own));
        if let Some((other, ..)) = other {
            let message = format!("pools \"{}\" and \"{}\" set the same cookie", other.as_str(), name.as_str());
            let key = if raw.split_key.is_absent() { ", and `split_key` keeps it with its pool" } else { "" };
            cx.problems
                .warning(name.place, format!("{message}: a client that comes to the other loses its server"))
                .help(format!("`cookie` in `sticky` of each gives it a name of its own{key}"));
        }
    }
}
