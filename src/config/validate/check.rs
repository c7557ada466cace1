//! `[pool.NAME.health_check]`.

use std::sync::Arc;

use super::{Context, is_field_value};
use crate::config::decode::{At, Keys, OrOff};
use crate::config::model::{HealthCheck, HttpProbe, Probe};
use crate::config::raw::{RawHealthCheck, RawHttpCheck};
use crate::config::words::CheckType;
use crate::health::Thresholds;

pub(super) fn health_check(raw: &At<OrOff<RawHealthCheck>>, cx: &mut Context<'_>) -> Option<Arc<HealthCheck>> {
    let raw = raw.0.as_ref()?;
    let (interval, timeout) = (raw.interval.get(), raw.timeout.get());
    if raw.timeout.given && timeout > interval {
        cx.problems
            .warning(raw.timeout.place, "longer than the interval: a server that is silent is probed less often");
    }
    let probe = match *raw.r#type {
        CheckType::Tcp => {
            for (key, place) in raw.http.given() {
                cx.problems.error(place, format!("`{key}` needs type = \"http\""));
            }
            Probe::Tcp
        }
        CheckType::Http => Probe::Http(http(&raw.http, cx)),
    };
    Some(Arc::new(HealthCheck {
        probe,
        interval,
        timeout: if raw.timeout.given { timeout } else { timeout.min(interval) },
        thresholds: Thresholds { rise: raw.rise.0, fall: raw.fall.0 },
        // Within the range of its key.
        port: raw.port.get().and_then(|port| u16::try_from(port.0).ok()),
    }))
}

fn http(raw: &RawHttpCheck, cx: &mut Context<'_>) -> HttpProbe {
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
    HttpProbe {
        path: path.as_str().into(),
        host: raw.host.get().map(|host| host.as_str().into()),
        expect: expect.iter().map(|statuses| statuses.0.clone()).collect(),
    }
}

/// Whether a byte can be in a path or a query as it is (RFC 3986 sections 3.3 and 3.4).
fn is_of_target(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&b)
}
