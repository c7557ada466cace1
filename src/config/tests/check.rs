use super::*;
use crate::health::{Pace, Thresholds, Verdict};

fn checks(more: &str) -> Vec<Option<Arc<HealthCheck>>> {
    load_text(&format!("{LEAST}{more}")).config.pools.iter().map(|pool| pool.health_check.clone()).collect()
}

fn check(more: &str) -> HealthCheck {
    HealthCheck::clone(checks(more)[0].as_ref().unwrap())
}

#[test]
fn a_pool_has_no_checks_unless_it_is_told() {
    assert_eq!(checks(""), [None]);
    assert_eq!(checks("health_check = \"off\""), [None]);
}

#[test]
fn the_least_check_has_the_documented_defaults() {
    let least = HealthCheck {
        probe: Probe::Tcp(TcpProbe::default()),
        pace: Pace { interval: Duration::from_secs(2), fast_interval: Duration::from_secs(2), jitter: 0 },
        timeout: Duration::from_secs(1),
        thresholds: Thresholds { rise: 2, fall: 3 },
        initial: None,
        port: None,
        address: None,
        tls: false,
    };
    assert_eq!(check("health_check = {}"), least);
    let http = HttpProbe {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        expect: vec![200..=299, 300..=399],
        headers: Vec::new(),
        expect_text: None,
    };
    assert_eq!(check("health_check.type = \"http\""), HealthCheck { probe: Probe::Http(http), ..least });
}

#[test]
fn a_check_is_what_is_written() {
    let written = check(
        "[pool.web.health_check]\ntype = \"http\"\npath = \"/ready?full=1\"\nhost = \"a.example.com\"\n\
         expect = [204, \"4xx\"]\ninterval = \"500ms\"\ntimeout = \"300ms\"\nrise = 1\nfall = 5\nport = 8081\n\
         fast_interval = \"100ms\"\naddress = \"10.9.8.7\"\nmethod = \"OPTIONS\"\nexpect_text = \"ready\"\n\
         headers = { Authorization = \"Basic eDp5\" }\n\
         jitter = \"10%\"\ninitial_state = \"down\"\n",
    );
    let http = HttpProbe {
        method: "OPTIONS".into(),
        path: "/ready?full=1".into(),
        host: Some("a.example.com".into()),
        expect: vec![204..=204, 400..=499],
        headers: vec![("Authorization".into(), "Basic eDp5".into())],
        expect_text: Some(Expected::Text("ready".into())),
    };
    let expected = HealthCheck {
        probe: Probe::Http(http),
        pace: Pace { interval: Duration::from_millis(500), fast_interval: Duration::from_millis(100), jitter: 10 },
        timeout: Duration::from_millis(300),
        thresholds: Thresholds { rise: 1, fall: 5 },
        initial: Some(Verdict::Down),
        port: Some(8081),
        address: Some([10, 9, 8, 7].into()),
        tls: false,
    };
    assert_eq!(written, expected);
    assert!(!format!("{written:?}").contains("eDp5"), "values may be secrets");
    let tcp = check("health_check = { send = \"PING\\r\\n\", expect_text = \"PONG\" }");
    let said = TcpProbe { send: Some("PING\r\n".into()), expect: Some(Expected::Text("PONG".into())) };
    assert_eq!(tcp.probe, Probe::Tcp(said));
}

#[test]
fn a_check_may_be_a_call_a_command_or_a_pattern() {
    let grpc = check("health_check = { type = \"grpc\", service = \"shop.Cart\" }").probe;
    assert_eq!(grpc, Probe::Grpc(GrpcProbe { service: "shop.Cart".into() }));
    assert_eq!(check("health_check.type = \"grpc\"").probe, Probe::Grpc(GrpcProbe { service: "".into() }));
    let exec = check("health_check = { type = \"exec\", command = [\"/bin/check\", \"-v\"] }").probe;
    let command = Command { program: "/bin/check".into(), arguments: vec!["-v".to_owned()] };
    assert_eq!(exec, Probe::Exec(command));
    let Probe::Tcp(probe) = check("health_check.expect_text = { regex = \"^220 .*ESMTP\" }").probe else {
        panic!("tcp")
    };
    let expected = probe.expect.unwrap();
    assert!(expected.is_in(b"220 mail ESMTP ready\r\n") && !expected.is_in(b"554 no"));
    assert_eq!(expected, Expected::Regex(regex::bytes::Regex::new("^220 .*ESMTP").unwrap()));
    assert_ne!(expected, Expected::Text("^220 .*ESMTP".into()));
}

#[test]
fn the_default_timeout_is_never_above_the_interval() {
    let timeout = |keys: &str| check(&format!("health_check = {{ {keys} }}")).timeout.as_millis();
    assert_eq!(timeout("interval = \"100ms\""), 100);
    assert_eq!(timeout("interval = \"10s\""), 1000);
    assert_eq!(timeout("interval = \"100ms\", timeout = \"1s\""), 1000, "it is written");
}

#[test]
fn defaults_are_for_all_pools_but_those_that_say_otherwise() {
    let text = "[pool.db]\nservers = [\"10.0.0.2:3306\"]\nhealth_check = { type = \"tcp\", rise = 1 }\n\
                [pool.none]\nservers = [\"10.0.0.3:80\"]\nhealth_check = \"off\"\n\
                [pool.slow]\nservers = [\"10.0.0.4:80\"]\nhealth_check.interval = \"9s\"\n\
                [defaults.pool.health_check]\ntype = \"http\"\npath = \"/up\"\ninterval = \"1s\"\n";
    let checks = checks(text);
    let [Some(db), None, Some(slow), Some(web)] = &*checks else { panic!("{checks:?}") };
    let path = |check: &HealthCheck| match &check.probe {
        Probe::Http(http) => http.path.to_string(),
        _ => "none".to_owned(),
    };
    assert_eq!((path(db), db.pace.interval.as_secs(), db.thresholds.rise), ("none".to_owned(), 1, 1));
    assert_eq!((path(slow), slow.pace.interval.as_secs()), ("/up".to_owned(), 9));
    assert_eq!((path(web), web.pace.interval.as_secs()), ("/up".to_owned(), 1));
    let off = load_text(&format!("{LEAST}health_check = {{}}\n[defaults.pool]\nhealth_check = \"off\"\n"));
    assert!(off.config.pools[0].health_check.is_some());
}

#[test]
fn a_timeout_above_the_interval_is_worth_a_warning() {
    let warnings = |keys: &str| load_text(&format!("{LEAST}health_check = {{ {keys} }}\n")).warnings.to_string();
    assert!(warnings("timeout = \"3s\"").contains("longer than the interval"));
    assert_eq!(warnings("interval = \"100ms\""), "");
}

#[test]
fn checks_of_databases_have_a_login_and_no_keys_of_others() {
    let text = "[pool.db]\nservers = [\"10.0.0.2:5432\"]\n[pool.db.health_check]\ntype = \"postgres\"\npassword = \"pw\"\n\
                [pool.cache]\nservers = [\"10.0.0.3:6379\"]\nhealth_check.type = \"redis\"\n\
                [defaults.pool.health_check]\ntype = \"http\"\npath = \"/up\"\n";
    let checks = checks(text);
    let [Some(cache), Some(db), Some(web)] = &*checks else { panic!("{checks:?}") };
    let Probe::Postgres(probe) = &db.probe else { panic!("{db:?}") };
    assert_eq!((probe.password.as_deref(), &*probe.database, probe.max_lag), (Some("pw"), "postgres", None));
    assert!(!format!("{db:?}").contains("pw"), "a secret");
    assert!(matches!(cache.probe, Probe::Redis(_)) && matches!(web.probe, Probe::Http(_)));
}

#[test]
fn a_connection_without_a_login_to_mysql_is_worth_a_warning() {
    let warnings = |port: &str, keys: &str| {
        let pool = format!("[pool.db]\nservers = [\"10.0.0.2:{port}\"]\nhealth_check = {{ {keys} }}\n");
        load_text(&format!("{LEAST}{pool}")).warnings.to_string().contains("max_connect_errors")
    };
    assert!(warnings("3306", ""));
    assert!(warnings("80", "port = 3306"));
    assert!(!warnings("3306", "type = \"mysql\""));
    assert!(!warnings("3306", "port = 9200"));
    assert!(!warnings("3307", ""));
}

#[test]
fn words_of_haproxy_lead_to_the_keys_of_checks() {
    let help = |word: &str| help::for_unknown_key(word, ["interval", "fast_interval"].into_iter());
    for (word, key) in [
        ("inter", "`interval`"),
        ("fastinter", "`fast_interval`"),
        ("httpchk", "type = \"http\""),
        ("tcp-check", "type = \"tcp\""),
        ("spread-checks", "`jitter`"),
        ("init-state", "`initial_state`"),
        ("external-check", "type = \"exec\""),
        ("downinter", "`fast_interval`"),
        ("grpc_service", "`service`"),
    ] {
        assert!(help(word).is_some_and(|help| help.starts_with("here: ") && help.contains(key)), "{word}");
    }
}
