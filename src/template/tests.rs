use proptest::prelude::*;

use super::*;

/// Gives `<var>` for every variable but `$reason`.
struct Names;

impl Variables for Names {
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool {
        if *var == Var::Reason {
            return false;
        }
        out.extend_from_slice(format!("<{var:?}>").as_bytes());
        true
    }
}

fn expand(text: &str) -> String {
    let mut out = b">".to_vec();
    Template::parse(text).unwrap().expand(&Names, &mut out);
    String::from_utf8(out).unwrap()
}

fn error(text: &str) -> (usize, String, Option<String>) {
    let error = Template::parse(text).unwrap_err();
    (error.offset, error.message, error.help)
}

#[test]
fn variables_are_replaced_and_text_is_kept() {
    for (text, expanded) in [
        ("", ">"),
        ("plain", ">plain"),
        ("$host", "><Host>"),
        ("${host}x", "><Host>x"),
        ("$hostname", "><Hostname>"),
        ("$host-$uri", "><Host>-<Uri>"),
        ("a$host$uri.b", ">a<Host><Uri>.b"),
        ("100$$", ">100$"),
        ("$$host", ">$host"),
        ("$$$host", ">$<Host>"),
        ("é${scheme}é", ">é<Scheme>é"),
        ("[$reason]", ">[]"),
    ] {
        assert_eq!(expand(text), expanded, "{text}");
    }
}

#[test]
fn names_are_nginx_s_whatever_their_case() {
    for (text, var) in [
        ("$HOST", Var::Host),
        ("$query_string", Var::Args),
        ("$document_uri", Var::Uri),
        ("$server_name", Var::Site),
        ("$http_user_agent", Var::Http("user-agent".into())),
        ("$http_X_Forwarded_For", Var::Http("x-forwarded-for".into())),
        ("$http_host", Var::Http("host".into())),
        ("$sent_http_content_type", Var::SentHttp("content-type".into())),
        ("$upstream_http_server", Var::UpstreamHttp("server".into())),
        ("$arg_User_Id", Var::Arg("user_id".into())),
        ("$cookie_session_id", Var::Cookie("session_id".into())),
    ] {
        assert_eq!(Template::parse(text).unwrap().parts(), [Part::Var(var)], "{text}");
    }
}

#[test]
fn every_variable_of_the_table_parses_to_its_scope() {
    for variable in VARIABLES {
        let name = variable.name.replace("NAME", "some_name");
        let var = Var::parse(&name).unwrap();
        assert_eq!(var.scope(), variable.scope, "{name}");
        assert!(variable.doc.ends_with('.'), "{name}");
    }
}

#[test]
fn names_in_the_table_are_unique() {
    let mut names: Vec<_> = VARIABLES.iter().map(|v| v.name).chain(variable::aliases()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn an_unknown_variable_is_an_error_at_its_dollar_with_the_nearest_name() {
    let unknown = |name: &str| format!("unknown variable `${name}`");
    let meant = |name: &str| Some(format!("did you mean `${name}`?"));
    assert_eq!(error("a $hots"), (2, unknown("hots"), meant("host")));
    assert_eq!(error("$$ ${request_ur}"), (3, unknown("request_ur"), meant("request_uri")));
    assert_eq!(error("é$remote_adr"), (2, unknown("remote_adr"), meant("remote_addr")));
    assert_eq!(error("$host $tcpinfo_rtt"), (6, unknown("tcpinfo_rtt"), None));
    assert_eq!(error("$http_"), (0, unknown("http_"), meant("http_NAME")));
}

#[test]
fn a_dollar_that_starts_no_name_is_an_error_that_tells_of_the_escape() {
    let escape = Some("write `$$` for a dollar sign".to_owned());
    let nameless = "no variable name after `$`".to_owned();
    let open = "a variable's `${` has no `}` after its name".to_owned();
    assert_eq!(error("5$"), (1, nameless.clone(), escape.clone()));
    assert_eq!(error("5$ a"), (1, nameless.clone(), escape.clone()));
    assert_eq!(error("${}"), (0, nameless, escape.clone()));
    assert_eq!(error("x${host"), (1, open.clone(), escape.clone()));
    assert_eq!(error("x${host-y}"), (1, open, escape));
    let (offset, message, help) = error("/new/$1");
    assert_eq!((offset, message.as_str()), (5, "unknown variable `$1`"));
    assert!(help.unwrap().contains("captures"));
}

#[test]
fn a_variable_is_refused_where_it_has_no_value_yet() {
    assert!(Template::parse_for("$host $request_id $time_local", Scope::Request).is_ok());
    assert!(Template::parse_for("$host $status $upstream_addr", Scope::Response).is_ok());
    assert!(Template::parse_for("$status $bytes_sent", Scope::Log).is_ok());

    let error = Template::parse_for("$host $status", Scope::Request).unwrap_err();
    assert_eq!(error.offset, 6);
    assert_eq!(error.to_string(), "`$status` has a value only once there is a response, too late for this place");
    let error = Template::parse_for("$bytes_sent", Scope::Response).unwrap_err();
    assert_eq!(error.to_string(), "`$bytes_sent` has a value only once the exchange is over, too late for this place");
}

#[test]
fn the_scope_of_a_template_is_that_of_its_latest_variable() {
    for (text, scope) in [
        ("x", Scope::Request),
        ("$host", Scope::Request),
        ("$status$host", Scope::Response),
        ("$bytes_sent$status", Scope::Log),
    ] {
        assert_eq!(Template::parse(text).unwrap().scope(), scope, "{text}");
    }
}

#[test]
fn only_text_without_variables_is_constant() {
    let constant = |text: &str| Template::parse(text).unwrap().as_constant().map(str::to_owned);
    assert_eq!(constant(""), Some(String::new()));
    assert_eq!(constant("a$$b"), Some("a$b".into()));
    assert_eq!(constant("a$host"), None);
}

proptest! {
    #[test]
    fn any_text_parses_or_fails_at_a_dollar(text in "[$a-z{}_é ]{0,20}") {
        match Template::parse(&text) {
            Ok(template) => template.expand(&Names, &mut Vec::new()),
            Err(error) => prop_assert_eq!(text.as_bytes()[error.offset], b'$'),
        }
    }

    #[test]
    fn doubling_its_dollars_makes_any_text_constant(text in ".{0,20}") {
        let template = Template::parse(&text.replace('$', "$$")).unwrap();
        prop_assert_eq!(template.as_constant(), Some(text.as_str()));
    }
}
