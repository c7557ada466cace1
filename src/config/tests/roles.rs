use super::*;
use crate::health::Role;

const POOL: &str = "[pool.db]\nservers = [\"10.0.0.1:80\"]\nhealth_check = { type = \"redis\", port = 6379 }\n";

/// Of the routes of the only site, in file order.
fn roles(more: &str) -> Vec<Option<RoleRule>> {
    let config = load_text(&format!("[listener.web]\nbind = [\"10.0.0.9:80\"]\n{more}\n{POOL}")).config;
    let of = |route: &Arc<Route>| match &route.action {
        Action::Pool { roles, .. } => *roles,
        _ => panic!("a route without a pool"),
    };
    config.sites[0].routes.iter().map(of).collect()
}

#[test]
fn a_role_is_of_its_route_and_the_one_of_a_listener_of_its_short_form_alone() {
    let primary = RoleRule { role: Role::Primary, fallback: Fallback::None, ends_with_role: true };
    let replica = RoleRule { role: Role::Replica, fallback: Fallback::To(Some(Role::Primary)), ends_with_role: false };
    let read = "path = \"/read\"\npool = \"db\"\nrole = \"replica\"\nfallback_role = \"primary\"";
    assert_eq!(roles("pool = \"db\""), [None]);
    assert_eq!(
        roles(&format!("pool = \"db\"\nrole = \"primary\"\n[[listener.web.route]]\n{read}")),
        [Some(replica), Some(primary)]
    );
    assert_eq!(
        roles(&format!(
            "[[site.s.route]]\n{read}\n[[site.s.route]]\npool = \"db\"\nrole = \"primary\"\non_role_loss = \"keep\""
        )),
        [Some(replica), Some(RoleRule { ends_with_role: false, ..primary })]
    );
    // Defaults of listeners are for those of tcp.
    assert_eq!(roles("pool = \"db\"\n[defaults.listener]\nrole = \"primary\""), [None]);
}
