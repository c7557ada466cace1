//! What a site says of https.

use crate::http1::RequestHead;
use crate::proxy::explain::Explanation;
use crate::proxy::http::write_location;
use crate::snapshot::Https;

/// Writes down what browsers are told. Whether a request that came `by_https` or not is sent to https, which is all that is
/// done then.
pub(super) fn redirects(https: &Https, by_https: bool, head: &RequestHead, bytes: &[u8], to: &mut Explanation) -> bool {
    let line = String::from_utf8_lossy(&https.hsts);
    to.hsts = line.split_once(": ").map(|(_, value)| value.trim_end().to_owned());
    let Some((status, port)) = https.redirect.filter(|_| !by_https) else { return false };
    let mut location = Vec::new();
    to.action = if write_location(&mut location, head, bytes, port) {
        format!("redirect_https {status} to {}", String::from_utf8_lossy(&location))
    } else {
        "400: redirect_https, and no host is known".to_owned()
    };
    true
}
