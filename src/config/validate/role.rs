//! `role` of a listener or a route.

use super::Context;
use super::check::KNOW_ROLES;
use crate::config::decode::At;
use crate::config::model::{Fallback, RoleRule};
use crate::config::raw::{RawPool, RawRoles};
use crate::config::words::{OnRoleLoss, WantedRole};
use crate::health::Role;

/// Which servers of `pool`, called `name`; `None`: any.
pub(super) fn roles(raw: &RawRoles, name: &At<String>, pool: &RawPool, cx: &mut Context<'_>) -> Option<RoleRule> {
    let role = match *raw.role {
        WantedRole::Any => None,
        WantedRole::Only(role) => Some(role),
    };
    let knows = pool.health_check.0.as_ref().is_some_and(|check| check.r#type.knows_roles());
    if role.is_some() && !knows {
        let message = format!("the checks of pool \"{}\" know no roles", **name);
        cx.problems.error(raw.role.place, message).help(KNOW_ROLES);
    }
    let fallback = match raw.fallback_role.get() {
        None => Fallback::None,
        Some(to) => {
            if role.is_none() {
                cx.problems.error(to.key, "`fallback_role` needs `role`");
            }
            if role == Some(Role::Primary) && **to == WantedRole::Any {
                cx.problems
                    .error(to.place, "two servers that say they are the primary would both be used")
                    .help("\"replica\" for reads while there is no primary; or no `fallback_role`");
            }
            Fallback::To(match **to {
                WantedRole::Any => None,
                WantedRole::Only(role) => Some(role),
            })
        }
    };
    if raw.on_role_loss.given && role != Some(Role::Primary) {
        cx.problems.error(raw.on_role_loss.key, "`on_role_loss` needs role = \"primary\"");
    }
    let ends_with_role = role == Some(Role::Primary) && *raw.on_role_loss == OnRoleLoss::Close;
    role.map(|role| RoleRule { role, fallback, ends_with_role })
}
