//! Whether the client would come in, and which limits would count its request.

use std::net::IpAddr;
use std::sync::Arc;

use super::{AppliedLimit, Explanation};
use crate::admission::{AccessList, Judgement};
use crate::config::model::LimitKey;
use crate::snapshot::{Gate, Limiter};
use crate::template::Variables;

/// Writes down what the access list of `place` says of the client; whether it comes in.
pub(super) fn judge(list: Option<&Arc<AccessList>>, client: IpAddr, place: &str, to: &mut Explanation) -> bool {
    let Some(list) = list else { return true };
    let judgement = list.judge(client);
    let why = match judgement {
        Judgement { allowed: true, by: Some(network) } => format!("{client} is allowed by {network}"),
        Judgement { allowed: false, by: Some(network) } => format!("{client} is denied by {network}"),
        Judgement { allowed: true, by: None } => format!("{client} is allowed: no network of `deny` has it"),
        Judgement { allowed: false, by: None } => format!("{client} is denied: no network of `allow` has it"),
    };
    to.access.push(format!("{place}: {why}"));
    judgement.allowed
}

/// Writes down what a gate would do; whether the request could go on.
pub(super) fn pass(
    gate: Option<&Gate>,
    client: IpAddr,
    place: &str,
    vars: &dyn Variables,
    to: &mut Explanation,
) -> bool {
    let Some(gate) = gate else { return true };
    if !judge(gate.access.as_ref(), client, place, to) {
        return false;
    }
    to.limits.extend(gate.limits.iter().map(|limiter| applied(limiter, client, vars)));
    true
}

fn applied(limiter: &Limiter, client: IpAddr, vars: &dyn Variables) -> AppliedLimit {
    let limit = &limiter.config;
    let key = match &limit.key {
        LimitKey::Address { v4, v6 } => {
            let client = client.to_canonical();
            format!("key {client}/{}", if client.is_ipv4() { v4 } else { v6 })
        }
        LimitKey::Text(template) => {
            let mut key = Vec::new();
            template.expand(vars, &mut key);
            match key.as_slice() {
                b"" => "its key is empty: not limited".to_owned(),
                key => format!("key {}", String::from_utf8_lossy(key)),
            }
        }
    };
    let dry_run = if limit.dry_run { "; dry_run: nobody is refused" } else { "" };
    AppliedLimit { name: Arc::clone(&limit.name), why: format!("{}; {key}{dry_run}", limit.text) }
}
