//! `[pool.NAME.health_check]`.

use std::sync::Arc;

use super::{Context, is_field_value, is_token, settings, track};
use crate::config::decode::{At, Keys, OrOff};
use crate::config::model::{DatabaseProbe, Expected, GrpcProbe, HealthCheck, HttpProbe, Probe, TcpProbe};
use crate::config::raw::{RawDatabaseCheck, RawHealthCheck, RawHttpCheck};
use crate::config::words::{CheckType, ExpectText};
use crate::health::{Pace, Thresholds};
use crate::template::Scope;

/// `has_tls`: the servers of the pool speak TLS.
pub(super) fn health_check(
    raw: &At<OrOff<RawHealthCheck>>,
    has_tls: bool,
    cx: &mut Context<'_>,
) -> Option<Arc<HealthCheck>> {
    let place = raw.place;
    let raw = raw.0.as_ref()?;
    let (interval, timeout) = (raw.interval.get(), raw.timeout.get());
    if raw.timeout.given && timeout > interval {
        cx.problems
            .warning(raw.timeout.place, "longer than the interval: a server that is silent is probed less often");
    }
    let kind = *raw.r#type;
    let fast = raw.fast_interval.get().map_or(interval, |period| period.get());
    if let Some(written) = raw.fast_interval.get()
        && fast > interval
    {
        cx.problems.error(written.place, "longer than `interval`").help("a shorter one finds out sooner");
    }
    if raw.jitter.0.is_some_and(|percent| percent.0 > MOST_JITTER) {
        cx.problems.error(raw.jitter.place, "more than half of the interval").help("\"1%\" to \"50%\", or \"off\"");
    }
    if kind != CheckType::Tcp {
        for (key, place) in raw.tcp.given() {
            cx.problems.error(place, format!("`{key}` needs type = \"tcp\""));
        }
    }
    let expect_text = raw.expect_text.get();
    if let Some(text) = expect_text
        && !matches!(kind, CheckType::Tcp | CheckType::Http)
    {
        cx.problems.error(text.key, "`expect_text` needs type = \"tcp\" or \"http\"");
    }
    let expect_text = expect_text.and_then(|text| expected(text, cx));
    if kind != CheckType::Http {
        for (key, place) in raw.http.given() {
            cx.problems.error(place, format!("`{key}` needs type = \"http\""));
        }
    }
    if kind != CheckType::Grpc {
        for (key, place) in raw.grpc.given() {
            cx.problems.error(place, format!("`{key}` needs type = \"grpc\""));
        }
    }
    if kind != CheckType::Exec {
        for (key, place) in raw.exec.given() {
            cx.problems.error(place, format!("`{key}` needs type = \"exec\""));
        }
    }
    if !kind.knows_roles() {
        for (key, place) in raw.db.given() {
            cx.problems.error(place, format!("`{key}` is for checks of databases")).help(KNOW_ROLES);
        }
    }
    let probe = match kind {
        CheckType::Tcp => {
            Probe::Tcp(TcpProbe { send: raw.tcp.send.get().map(|text| text.as_str().into()), expect: expect_text })
        }
        CheckType::Http => Probe::Http(http(&raw.http, expect_text, cx)),
        CheckType::Grpc => Probe::Grpc(GrpcProbe { service: raw.grpc.service.as_str().into() }),
        CheckType::Exec => {
            let command = raw.exec.command.required("command", place, cx.problems)?;
            Probe::Exec(track::required_command(command, cx)?)
        }
        CheckType::Mysql => Probe::Mysql(database(kind, &raw.db, cx)),
        CheckType::Postgres => Probe::Postgres(database(kind, &raw.db, cx)),
        CheckType::Redis => Probe::Redis(database(kind, &raw.db, cx)),
    };
    let may_speak_tls = matches!(kind, CheckType::Tcp | CheckType::Http | CheckType::Grpc);
    let tls = match raw.tls.get() {
        None => has_tls && may_speak_tls,
        Some(wanted) => {
            if !may_speak_tls {
                cx.problems.error(wanted.key, "`tls` needs type = \"tcp\", \"http\" or \"grpc\"");
            } else if **wanted && !has_tls {
                cx.problems
                    .error(wanted.place, "the pool has no `tls` that says how servers are verified")
                    .help("tls = true in the pool");
            }
            **wanted && has_tls
        }
    };
    Some(Arc::new(HealthCheck {
        probe,
        pace: Pace { interval, fast_interval: fast, jitter: raw.jitter.0.map_or(0, |percent| percent.0) },
        timeout: if raw.timeout.given { timeout } else { timeout.min(interval) },
        thresholds: Thresholds { rise: raw.rise.0, fall: raw.fall.0 },
        initial: raw.initial_state.0,
        // Within the range of its key.
        port: raw.port.get().and_then(|port| u16::try_from(port.0).ok()),
        address: raw.address.get().map(|address| **address),
        tls,
    }))
}

/// As HAProxy has it.
const MOST_JITTER: u32 = 50;

/// The remedy where a role is asked for.
pub(super) const KNOW_ROLES: &str = "health_check = { type = \"mysql\", \"postgres\" or \"redis\", ... }";

fn database(kind: CheckType, raw: &RawDatabaseCheck, cx: &mut Context<'_>) -> DatabaseProbe {
    if raw.database.given && kind != CheckType::Postgres {
        cx.problems.error(raw.database.key, "`database` needs type = \"postgres\"");
    }
    if let Some(user) = raw.user.get().filter(|user| user.is_empty() || user.contains('\0')) {
        cx.problems.error(user.place, "not the name of a user");
    }
    if kind == CheckType::Redis && !raw.user.is_absent() && raw.password.is_absent() {
        cx.problems.error(raw.user.key().unwrap_or(raw.database.place), "redis lets no user in without `password`");
    }
    DatabaseProbe {
        user: raw.user.get().map(|user| user.as_str().into()),
        password: raw.password.get().map(|password| password.0.as_str().into()),
        database: raw.database.as_str().into(),
        max_lag: raw.max_lag.0.map(|period| period.get()),
    }
}

/// What an answer is to hold.
fn expected(written: &At<ExpectText>, cx: &mut Context<'_>) -> Option<Expected> {
    match &**written {
        ExpectText::Plain(text) => {
            if text.is_empty() {
                let problem = cx.problems.error(written.place, "every answer holds this");
                problem.help("leave it out, or write what is to come");
            }
            Some(Expected::Text(text.as_str().into()))
        }
        ExpectText::Regex(raw) => {
            let pattern = raw.regex.required("regex", written.place, cx.problems)?;
            cx.regex(pattern).map(Expected::Regex)
        }
    }
}

fn http(raw: &RawHttpCheck, expect_text: Option<Expected>, cx: &mut Context<'_>) -> HttpProbe {
    let method = &raw.method;
    if !is_token(method) || method.bytes().any(|b| b.is_ascii_lowercase()) {
        cx.problems.error(method.place, "not a method").help("such as \"GET\", \"HEAD\" or \"OPTIONS\"");
    } else if **method == "CONNECT" {
        cx.problems.error(method.place, "CONNECT asks for no page");
    } else if **method == "HEAD" && expect_text.is_some() {
        cx.problems.error(method.place, "an answer to HEAD has no body for `expect_text`");
    }
    for (name, value) in raw.headers.iter() {
        settings::check_field_name(name, value.key, Scope::Request, cx);
        settings::check_value(&value.map(|value| value.0.clone()), cx);
    }
    let path = &raw.path;
    if !path.starts_with('/') {
        cx.problems.error(path.place, "a path begins with `/`");
    } else if !path.bytes().all(is_of_target) {
        cx.problems.error(path.place, "not a path").help("write what cannot be in a URL as %XX, and no fragment");
    }
    if let Some(host) = raw.host.get()
        && (host.is_empty() || host.contains(char::is_whitespace) || !is_field_value(host))
    {
        cx.problems.error(host.place, "not a host");
    }
    let expect = &raw.expect.0;
    if expect.is_empty() && expect.complete {
        cx.problems.error(raw.expect.place, "no answer would be good").help("[\"2xx\", \"3xx\"] is the default");
    }
    let fields = raw.headers.iter().map(|(name, value)| (name.as_str().into(), value.0.as_str().into()));
    HttpProbe {
        method: method.as_str().into(),
        headers: fields.collect(),
        expect_text,
        path: path.as_str().into(),
        host: raw.host.get().map(|host| host.as_str().into()),
        expect: expect.iter().map(|statuses| statuses.0.clone()).collect(),
    }
}

/// Whether a byte can be in a path or a query as it is (RFC 3986 sections 3.3 and 3.4).
fn is_of_target(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&b)
}
