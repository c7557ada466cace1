//! `[pool.NAME.sticky]`.

use super::pool::bits;
use super::{Context, is_field_value, is_token};
use crate::config::decode::{At, Keys};
use crate::config::document::Place;
use crate::config::model::{Sticky, StickyCookie, StickyKey, StickyTable};
use crate::config::raw::{RawPool, RawStickyCookie, RawStickyLearned};
use crate::config::words::{SameSite, StickyType};

/// A secret shorter than this is guessed.
const LEAST_SECRET: usize = 16;

pub(super) fn sticky(pool: &RawPool, cx: &mut Context<'_>) -> Option<Sticky> {
    let place = pool.sticky.place;
    let raw = pool.sticky.0.as_ref()?;
    let kind = **raw.r#type.required("type", place, cx.problems)?;
    let (given, word) = match kind {
        StickyType::Cookie => (raw.learned.given(), "\"source\" or \"header\""),
        StickyType::Source | StickyType::Header => (raw.cookie.given(), "\"cookie\""),
    };
    for (key, place) in given {
        cx.problems.error(place, format!("`{key}` needs type = {word}"));
    }
    match kind {
        StickyType::Cookie => cookie(&raw.cookie, place, cx).map(Sticky::Cookie),
        StickyType::Source | StickyType::Header => {
            let RawStickyLearned { max_entries, ttl, .. } = &raw.learned;
            let key = key(kind, &raw.learned, place, pool, cx)?;
            Some(Sticky::Learned(StickyTable { key, max_entries: max_entries.0, ttl: ttl.get() }))
        }
    }
}

fn key(
    kind: StickyType,
    raw: &RawStickyLearned,
    place: Place,
    pool: &RawPool,
    cx: &mut Context<'_>,
) -> Option<StickyKey> {
    if kind == StickyType::Source {
        if let Some(key) = raw.header.key() {
            cx.problems.error(key, "`header` needs type = \"header\"");
        }
        if pool.algorithm.given {
            cx.problems
                .warning(
                    pool.algorithm.place,
                    "it chooses nothing: the hash of a client's address gives its first server",
                )
                .help("leave it out; or sticky = { type = \"cookie\", ... }, which leaves the first server to it");
        }
        return Some(StickyKey::Source { mask: (bits(raw.mask.ipv4.0), bits(raw.mask.ipv6.0)) });
    }
    if raw.mask.given {
        cx.problems.error(raw.mask.key, "`mask` needs type = \"source\"");
    }
    let name = raw.header.required("header", place, cx.problems)?;
    if !is_token(name) {
        cx.problems.error(name.place, "not the name of a header");
    }
    Some(StickyKey::Header(name.to_ascii_lowercase().into()))
}

fn cookie(raw: &RawStickyCookie, place: Place, cx: &mut Context<'_>) -> Option<StickyCookie> {
    let RawStickyCookie { cookie: name, secret, path, domain, http_only, secure, same_site, max_age } = raw;
    if !is_token(name) {
        cx.problems.error(name.place, "not the name of a cookie").help("letters, digits, `_` and `-`");
    }
    if !path.starts_with('/') || !is_attribute(path) {
        cx.problems.error(path.place, "not the path of a cookie").help("it begins with `/` and has no `;`");
    }
    if let Some(domain) = domain.get().filter(|domain| domain.is_empty() || !domain.bytes().all(is_of_domain)) {
        cx.problems.error(domain.place, "not a domain").help("such as \"example.com\", for its hosts too");
    }
    if **same_site == SameSite::None && !**secure {
        cx.problems
            .error(same_site.place, "browsers take no cookie with SameSite=None that is not secure")
            .help("secure = true, for clients that come over HTTPS");
    }
    let secret = secret.required("secret", place, cx.problems)?;
    if secret.0.len() < LEAST_SECRET {
        cx.problems
            .error(secret.place, format!("the secret has fewer than {LEAST_SECRET} bytes"))
            .help("`openssl rand -base64 24` makes one; it is the same on both boxes");
    }
    let mut attributes = format!("; Path={}", path.as_str());
    if let Some(domain) = domain.get() {
        attributes.push_str(&format!("; Domain={}", domain.as_str()));
    }
    if let Some(age) = max_age.get() {
        // In whole seconds: a shorter one would delete it.
        attributes.push_str(&format!("; Max-Age={}", age.get().as_secs().max(1)));
    }
    let flags = [
        (**http_only, "; HttpOnly"),
        (**secure, "; Secure"),
        (**same_site == SameSite::Lax, "; SameSite=Lax"),
        (**same_site == SameSite::Strict, "; SameSite=Strict"),
        (**same_site == SameSite::None, "; SameSite=None"),
    ];
    flags.iter().filter(|(is_set, _)| *is_set).for_each(|(_, text)| attributes.push_str(text));
    let secret = secret.0.as_str().into();
    Some(StickyCookie { name: name.as_str().into(), secret, attributes: attributes.into() })
}

/// Whether `text` can be the value of an attribute (RFC 6265 section 4.1.1).
fn is_attribute(text: &str) -> bool {
    is_field_value(text) && text.is_ascii() && !text.contains([';', '\t'])
}

fn is_of_domain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')
}

/// Notes a pool whose clients cannot be told apart in TCP sessions; `name` is where a listener names it.
pub(super) fn check_tcp(name: &At<String>, pool: &RawPool, cx: &mut Context<'_>) {
    let mut next = Some((name.as_str(), pool));
    // A loop of fallbacks is noted where it is.
    for _ in 0..=cx.file.pool.len() {
        let Some((of, pool)) = next else { return };
        let kind = pool.sticky.0.as_ref().and_then(|sticky| sticky.r#type.get());
        if let Some(kind) = kind.filter(|kind| ***kind != StickyType::Source) {
            let word = if **kind == StickyType::Cookie { "cookies" } else { "headers" };
            cx.problems
                .error(name.place, format!("pool \"{of}\" is sticky by {word}, and TCP sessions have none"))
                .help("type = \"source\" there, sticky = \"off\", or another pool with the same servers")
                .note("its `sticky` is at", kind.place);
            return;
        }
        let fallback = pool.fallback_pool.get();
        next = fallback.and_then(|name| Some((name.as_str(), &**cx.file.pool.get(name.as_str())?)));
    }
}
