mod check;
mod circuit;
mod refresh;
mod roles;
mod sticky;
mod tls;
mod vrrp;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::decode::{Decode, Shape};
use super::model::*;
use super::*;

const FULL: &str = include_str!("../../conf/full.toml");

/// A listener with a pool: the least there can be.
const LEAST: &str =
    "[listener.web]\nbind = [\"10.0.0.9:80\"]\npool = \"web\"\n[pool.web]\nservers = [\"10.0.0.1:80\"]\n";

/// Loads `text` as a file in `folder` with the environment `env`.
fn load_in(text: &str, node: &str, folder: &Path, env: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let path = folder.join("test.toml");
    let mut problems = Problems::default();
    let mut source = Source::parse(path.clone(), text.to_owned(), 0, &mut problems);
    resolve::mark_secrets(&mut source.table);
    source.secrets.extend(diagnostic::secrets_in(&source.table));
    let table = source.table.clone();
    let mut sources = Sources::default();
    sources.push(source);
    if problems.has_errors() {
        return Err(sources.render(problems));
    }
    load_node(&path, &sources, table, node, &|name| env.get(name).map(OsString::from)).map(|(loaded, _)| loaded)
}

fn load_text(text: &str) -> Loaded {
    load_in(text, "box", Path::new("conf"), &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> String {
    load_in(text, "box", Path::new("conf"), &[]).unwrap_err().to_string()
}

fn route(config: &Config) -> &Route {
    &config.sites[0].routes[0]
}

fn fields(edits: &[(Box<str>, crate::template::Template)]) -> Vec<(&str, &str)> {
    edits.iter().map(|(name, value)| (&**name, value.as_constant().unwrap())).collect()
}

#[test]
fn the_least_file_has_the_documented_defaults() {
    let config = load_text(LEAST).config;
    let secs = Duration::from_secs;
    assert_eq!(config.global.workers, None);
    assert_eq!(config.global.user, "bascule");
    assert_eq!(config.global.shutdown_timeout, secs(30));
    assert_eq!(config.global.proxy_watchdog, secs(2));
    assert_eq!(config.global.max_connections, 100_000);
    assert_eq!((config.global.log.level.as_str(), config.global.log.json), ("info", false));

    let listener = &config.listeners[0];
    assert_eq!((listener.backlog, listener.max_connections, listener.tcp_keepalive), (4096, None, None));
    assert!(listener.tcp.is_none() && listener.access_log.is_none());
    let http = &listener.http;
    assert_eq!([http.header_timeout, http.body_timeout, http.send_timeout], [secs(60); 3]);
    assert_eq!((http.keepalive_timeout, http.keepalive_requests), (secs(75), 1000));
    assert_eq!((http.max_header_size, http.max_header_count, http.max_uri_size), (32_768, 100, 8192));
    assert!(!http.underscores_in_headers && http.trusted_proxies.is_empty());

    let site = &config.sites[0];
    assert_eq!((&*site.name, site.hosts.len(), &*site.listeners), ("web", 0, &[Arc::from("web")][..]));
    let policy = &route(&config).policy;
    assert!(policy.host.is_none() && policy.x_forwarded && !policy.forwarded && policy.request_id);
    assert_eq!(policy.max_body_size, Some(1 << 20));
    assert_eq!((policy.request_buffering, policy.response_buffering), (65_536, 65_536));
    assert_eq!([policy.read_timeout, policy.send_timeout], [secs(60); 2]);
    assert_eq!((policy.connect_timeout, policy.tunnel_timeout), (secs(5), secs(3600)));
    let on = RetryOn { connect: true, reset: true, invalid_header: true, ..RetryOn::default() };
    assert_eq!((policy.retry.retries, &policy.retry.on), (2, &on));
    assert_eq!((policy.retry.timeout, policy.retry.non_idempotent), (None, false));

    let pool = &config.pools[0];
    assert!(matches!(pool.algorithm, Algorithm::RoundRobin) && pool.fail_open);
    assert_eq!((pool.keepalive, pool.keepalive_requests, pool.queue), (32, 1000, 0));
    assert_eq!((pool.keepalive_timeout, pool.keepalive_time, pool.queue_timeout), (secs(4), secs(3600), secs(5)));
    assert_eq!(pool.retry_budget, RetryBudget { percent: 20, min: 3 });
    let server = &pool.servers[0];
    assert_eq!(server.address, ServerAddress::Ip(SocketAddr::from(([10, 0, 0, 1], 80))));
    assert_eq!((&*server.name, server.weight, server.max_fails, server.max_conns), ("10.0.0.1:80", 1, 1, 0));
    assert_eq!((server.fail_timeout, server.backup, server.down), (secs(10), false, false));
}

#[test]
fn every_default_of_every_table_can_be_decoded() {
    /// The table with all tables inside and nothing else.
    fn all_tables(shape: &Shape) -> Option<Value> {
        let item = |value| Item { key: merge::TOP, place: merge::TOP, value, secret: false };
        match shape {
            Shape::Table(groups) => {
                let keys = groups.iter().copied().flatten();
                let inner = keys.filter_map(|key| Some((key.name.to_owned(), item(all_tables(key.shape)?))));
                Some(Value::Table(inner.collect()))
            }
            Shape::Named(inner) => Some(Value::Table(Table::from([("name".to_owned(), item(all_tables(inner)?))]))),
            Shape::List(inner) => Some(Value::Array(vec![item(all_tables(inner)?)])),
            Shape::OneOf(shapes) => shapes.iter().find_map(|shape| all_tables(shape)),
            _ => None,
        }
    }
    let table = all_tables(raw::RawFile::SHAPE).unwrap();
    let mut problems = Problems::default();
    let top = Item { key: merge::TOP, place: merge::TOP, value: table, secret: false };
    let file = raw::RawFile::decode(&top, &mut problems).unwrap();
    assert_eq!(file.pool["name"].servers.get().unwrap().len(), 1);
    assert_eq!(file.site["name"].route[0].respond.get().unwrap().status.0, 200);
    assert_eq!(problems.0, []);
}

#[test]
fn the_effective_text_gives_the_same_configuration() {
    for (text, node) in [(FULL, "lb1"), (FULL, "lb2"), (include_str!("../../conf/bascule.toml"), "lb1"), (LEAST, "x")] {
        let loaded = load_in(text, node, Path::new("conf"), &[]).unwrap();
        let again = parse_effective(&loaded.effective, node).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(format!("{again:#?}"), format!("{:#?}", loaded.config));
        assert!(!loaded.effective.contains("file ="), "an error page is a reference still");
    }
}

#[test]
fn secrets_come_from_outside_and_are_never_shown() {
    let folder = std::env::temp_dir().join(format!("bascule-secrets-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("token"), "from $file\r\n").unwrap();
    let text = format!(
        "{LEAST}[pool.web.request_headers]\nset.A = {{ env = \"ENV\" }}\nset.B = {{ file = \"token\" }}\n\
         set.C = {{ credential = \"token\" }}\nadd.D = [\"plain\", {{ env = \"ENV\" }}]\nset.Cookie = \"in=file\"\n"
    );
    let env = [("ENV", "from ${env}"), ("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())];
    let loaded = load_in(&text, "box", &folder, &env);
    fs::remove_dir_all(&folder).unwrap();
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));

    let edits = &route(&loaded.config).policy.request_headers;
    let expected = [("A", "from ${env}"), ("B", "from $file"), ("C", "from $file"), ("Cookie", "in=file")];
    assert_eq!(fields(&edits.set), expected);
    assert_eq!(fields(&edits.add), [("D", "plain"), ("D", "from ${env}")]);
    let again = parse_effective(&loaded.effective, "box").unwrap();
    assert_eq!(format!("{again:?}"), format!("{:?}", loaded.config));
    for shown in [loaded.effective_masked(), format!("{loaded:?}")] {
        assert!(shown.contains("***") && shown.contains("plain"), "{shown}");
        assert!(!shown.contains("from") && !shown.contains("in=file"), "{shown}");
    }
}

#[test]
fn the_unprivileged_side_opens_nothing() {
    let text = format!("{LEAST}[pool.web.request_headers.set]\nA = {{ file = \"/etc/hostname\" }}\n");
    let errors = parse_effective(&text, "box").unwrap_err().to_string();
    assert!(errors.contains("a reference where everything must be in the document"), "{errors}");
    let text = format!("{LEAST}[pool.web.error_pages]\n502 = {{ file = \"/etc/hostname\" }}\n");
    let errors = parse_effective(&text, "box").unwrap_err().to_string();
    assert!(errors.contains("a reference where everything must be in the document"), "{errors}");
    assert!(!errors.contains("/etc/hostname"), "lines of it are not quoted: {errors}");
}

#[test]
fn a_node_merges_tables_and_replaces_the_rest() {
    let text = format!(
        "{LEAST}keepalive = 7\n[node.LB1]\n[node.lb2.listener.web]\nbind = [\"10.0.0.8:80\"]\n\
         [node.lb2.pool.web]\nservers = [\"10.0.0.2:80\"]\n[node.lb2.pool.extra]\nservers = [\"10.0.0.3:80\"]\n"
    );
    let on = |node: &str| load_in(&text, node, Path::new(""), &[]).unwrap().config;
    let (one, two) = (on("lb1"), on("LB2"));
    assert_eq!((&*one.node, &*two.node), ("LB1", "lb2"), "as written, whatever the case");
    assert_eq!(one.listeners[0].bind, [SocketAddr::from(([10, 0, 0, 9], 80))]);
    assert_eq!(two.listeners[0].bind, [SocketAddr::from(([10, 0, 0, 8], 80))]);
    assert_eq!(two.pools.iter().map(|pool| &*pool.name).collect::<Vec<_>>(), ["extra", "web"]);
    assert_eq!((two.pools[1].keepalive, &*two.pools[1].servers[0].name), (7, "10.0.0.2:80"));

    let errors = load_in(&text, "lb3", Path::new(""), &[]).unwrap_err().to_string();
    assert!(errors.contains("there is no [node.lb3]") && errors.contains("--node LB1"), "{errors}");
}

#[test]
fn what_stands_before_the_bytes_has_defaults_where_something_does() {
    let text = "[defaults.listener]\nheader_timeout = \"7s\"\ntrusted_proxies = [\"10.0.0.0/8\"]\nbody_timeout = \"8s\"\n\
                [listener.a]\nbind = [\"10.0.0.9:1\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
                [listener.b]\nbind = [\"10.0.0.9:2\"]\nprotocol = \"tcp\"\npool = \"p\"\nproxy_protocol = \"required\"\n\
                [listener.c]\nbind = [\"10.0.0.9:3\"]\nprotocol = \"tls_passthrough\"\npool = \"p\"\n\
                [listener.d]\nbind = [\"10.0.0.9:4\"]\npool = \"p\"\nproxy_protocol = \"optional\"\n\
                [pool.p]\nservers = [\"10.0.0.1:1\"]\nkeepalive = 9\nsend_proxy_protocol = \"v2\"\n";
    let config = load_text(text).config;
    let [a, b, c, d] = &*config.listeners else { panic!("four listeners") };
    let header = |listener: &Listener| listener.proxy_header.as_ref().map(|h| (h.required, h.trusted.len(), h.timeout));
    let seven = Duration::from_secs(7);
    assert_eq!((header(a), header(c)), (None, None));
    assert_eq!((header(b), header(d)), (Some((true, 1, seven)), Some((false, 1, seven))));
    assert_eq!(d.http.trusted_proxies.len(), 1);
    let passthrough = |listener: &Listener| listener.tcp.as_ref()?.passthrough.as_ref().map(|p| p.timeout);
    assert_eq!((passthrough(a), passthrough(c)), (None, Some(seven)));
    assert_eq!(config.pools[0].keepalive, 0, "a connection is its client's");
}

#[test]
fn without_nodes_any_name_is_fine() {
    assert_eq!(&*load_text(LEAST).config.node, "box");
}

#[test]
fn defaults_are_for_all_tables_of_their_kind_and_protocol() {
    let text = format!(
        "{LEAST}keepalive = 1\n[listener.db]\nbind = [\"10.0.0.9:3306\"]\nprotocol = \"tcp\"\npool = \"db\"\n\
         [pool.db]\nservers = [\"10.0.0.2:3306\"]\n\
         [defaults.listener]\nbacklog = 5\nheader_timeout = \"7s\"\nidle_timeout = \"8s\"\n\
         [defaults.site]\nread_timeout = \"9s\"\n\
         [defaults.pool]\nkeepalive = 2\nread_timeout = \"10s\"\nretry_budget.percent = 50\n"
    );
    let config = load_text(&text).config;
    let [db, web] = &*config.listeners else { panic!("two listeners") };
    assert_eq!((db.backlog, web.backlog), (5, 5));
    assert_eq!(web.http.header_timeout, Duration::from_secs(7));
    assert_eq!(db.tcp.as_ref().unwrap().idle_timeout, Duration::from_secs(8));
    let keepalive: Vec<_> = config.pools.iter().map(|pool| (pool.keepalive, pool.retry_budget.percent)).collect();
    assert_eq!(keepalive, [(2, 50), (1, 50)], "db, web");
    assert_eq!(route(&config).policy.read_timeout, Duration::from_secs(9), "a site's win over a pool's");
}

#[test]
fn the_protocol_may_be_a_default() {
    let text = format!("{LEAST}[defaults.listener]\nprotocol = \"tcp\"\nheader_timeout = \"7s\"\n");
    let config = load_text(&text).config;
    assert_eq!(config.listeners[0].tcp.as_ref().unwrap().pool.as_deref(), Some("web"));
    assert!(config.sites.is_empty(), "a TCP listener has no short form");
}

#[test]
fn a_short_form_is_a_site_of_its_listener() {
    let text = format!("{LEAST}[[listener.web.route]]\npath = \"/health\"\nrespond = {{ body = \"ok\" }}\n");
    let config = load_text(&text).config;
    let [site] = &*config.sites else { panic!("one site") };
    assert_eq!((&*site.name, site.routes.len()), ("web", 2));
    assert!(matches!(site.routes[0].action, Action::Respond { status: 200, .. }));
    assert!(matches!(&site.routes[1].action, Action::Pool { pool, rewrite: None, roles: None } if &**pool == "web"));
    assert!(matches!(&site.routes[1].path, PathMatch::Segments(path) if &**path == "/"));
}

#[test]
fn a_route_wins_over_its_site_over_its_pool() {
    let text = "
        [listener.web]
        bind = ['10.0.0.9:80']
        [site.s]
        read_timeout = '2s'
        send_timeout = '2s'
        error_pages = { 502 = 'site', 503 = 'site' }
        [[site.s.route]]
        read_timeout = '1s'
        host = '$host:1'
        max_body_size = 'off'
        error_pages = { 502 = 'route' }
        pool = 'p'
        [pool.p]
        servers = ['10.0.0.1:80']
        read_timeout = '3s'
        send_timeout = '3s'
        connect_timeout = '3s'
        retry_on = ['timeout', 'http_503']
        host = 'pool'
        request_buffering = 0
        error_pages = { 504 = '<p>pool' }
    ";
    let config = load_text(text).config;
    let policy = &route(&config).policy;
    let secs = [policy.read_timeout, policy.send_timeout, policy.connect_timeout].map(|timeout| timeout.as_secs());
    assert_eq!(secs, [1, 2, 3]);
    assert_eq!(policy.host, Some(crate::template::Template::parse("$host:1").unwrap()));
    assert_eq!((policy.max_body_size, policy.request_buffering), (None, 0));
    assert_eq!(policy.retry.on, RetryOn { timeout: true, statuses: vec![503], ..RetryOn::default() });
    let mut pages: Vec<_> = policy.error_pages.iter().map(|page| (page.status, &*page.body)).collect();
    pages.sort_unstable();
    assert_eq!(pages, [(502, "route"), (503, "site"), (504, "<p>pool")]);
    assert_eq!(config.pools[0].connect_timeout, Duration::from_secs(3), "for TCP listeners");
}

#[test]
fn error_pages_have_a_type() {
    let text = format!("{LEAST}error_pages = {{ 500 = ' <p>', 502 = 'text', 504 = {{ file = '504.html' }} }}\n");
    let config = load_text(&text).config;
    let types: Vec<_> = route(&config).policy.error_pages.iter().map(|page| &*page.content_type).collect();
    let html = "text/html; charset=utf-8";
    assert_eq!(types, [html, "text/plain; charset=utf-8", html]);
}

#[test]
fn header_edits_of_all_levels_are_made_and_the_innermost_counts() {
    let text = "
        [listener.web]
        bind = ['10.0.0.9:80']
        [site.s]
        request_headers = { remove = ['R1', 'R2'], set = { S = 'site', T = 'site' }, add = { A = 'site', B = 'site' } }
        [[site.s.route]]
        pool = 'p'
        request_headers = { remove = ['t'], set = { s = 'route', r2 = 'route', b = 'route' }, add = { A = 'route' } }
        [pool.p]
        servers = ['10.0.0.1:80']
        request_headers = { set = { P = 'pool', S = 'pool' } }
    ";
    let config = load_text(text).config;
    let edits = &route(&config).policy.request_headers;
    assert_eq!(edits.remove.iter().map(|name| &**name).collect::<Vec<_>>(), ["r1", "t"]);
    assert_eq!(fields(&edits.set), [("P", "pool"), ("b", "route"), ("r2", "route"), ("s", "route")]);
    assert_eq!(fields(&edits.add), [("A", "site"), ("A", "route")]);
}

#[test]
fn access_logs_are_inherited_key_by_key_and_shared() {
    let text = "
        [access_log]
        path = '/a'
        [listener.web]
        bind = ['10.0.0.9:80']
        access_log = { format = 'json' }
        [site.s]
        access_log = { path = 'syslog:udp://192.0.2.1:514' }
        [[site.s.route]]
        path = '/off'
        access_log = false
        pool = 'p'
        [[site.s.route]]
        path = '/own'
        access_log = { format = '$host' }
        pool = 'p'
        [[site.s.route]]
        pool = 'p'
        [pool.p]
        servers = ['10.0.0.1:80']
    ";
    let config = load_text(text).config;
    let listener = config.listeners[0].access_log.as_deref().unwrap();
    assert_eq!(*listener, AccessLog { target: LogTarget::File("/a".into()), format: LogFormat::Json });
    let syslog = LogTarget::Syslog(SyslogTarget::Udp("192.0.2.1:514".parse().unwrap()));
    let site = config.sites[0].access_log.as_ref().unwrap();
    assert_eq!(**site, AccessLog { target: syslog.clone(), format: LogFormat::Json });
    let [off, own, rest] = &*config.sites[0].routes else { panic!("three routes") };
    assert_eq!(off.policy.access_log, None);
    let template = LogFormat::Template(crate::template::Template::parse("$host").unwrap());
    assert_eq!(own.policy.access_log.as_deref(), Some(&AccessLog { target: syslog, format: template }));
    assert!(Arc::ptr_eq(rest.policy.access_log.as_ref().unwrap(), site));
}

#[test]
fn log_destinations() {
    let target = |path: &str| {
        let config = load_text(&format!("{LEAST}[access_log]\npath = '{path}'\n")).config;
        let log = config.listeners[0].access_log.as_deref().unwrap();
        assert_eq!(log.format, LogFormat::Detailed);
        log.target.clone()
    };
    assert_eq!(target("stdout"), LogTarget::Stdout);
    assert_eq!(target("journald"), LogTarget::Journald);
    assert_eq!(target("syslog:/dev/log"), LogTarget::Syslog(SyslogTarget::Unix("/dev/log".into())));
}

#[test]
fn sites_and_routes_as_written() {
    let config = load_in(FULL, "lb1", Path::new("conf"), &[]).unwrap().config;
    let shop = config.sites.iter().find(|site| &*site.name == "shop").unwrap();
    let expected = [HostPattern::Exact("shop.example.com".into()), HostPattern::Suffix(".shop.example.com".into())];
    assert_eq!(shop.hosts, expected);
    let names: Vec<_> = shop.routes.iter().map(|route| &*route.name).collect();
    let names_there = ["api", "/img", "/old", "^/(private|\\.git)", "/ledger", "/cart", "/moved", "/robots.txt", "/"];
    assert_eq!(names, names_there);
    assert!(matches!(&shop.routes[1].path, PathMatch::Prefix { before_regex: true, .. }));
    let Action::Pool { rewrite: Some(PathRewrite::ReplacePrefix { prefix, with }), .. } = &shop.routes[1].action else {
        panic!("{:?}", shop.routes[1].action)
    };
    assert_eq!((&**prefix, &**with), ("/img", "/static/img"));
    assert!(matches!(shop.routes[3].action, Action::Close));
    let Action::Split { shares, .. } = &shop.routes[5].action else { panic!("{:?}", shop.routes[5].action) };
    assert_eq!(shares.iter().map(|share| share.weight).collect::<Vec<_>>(), [95, 5, 0]);
    assert!(matches!(shop.routes[6].action, Action::Redirect { status: 301, .. }));
}

#[test]
fn pools_as_written() {
    let config = load_in(FULL, "lb1", Path::new("conf"), &[]).unwrap().config;
    let pool = |name: &str| config.pools.iter().find(|pool| &*pool.name == name).unwrap();
    let (api, mysql, web) = (pool("api"), pool("mysql"), pool("web"));
    assert!(matches!(&api.algorithm, Algorithm::Hash { consistent: Consistent::Ketama, .. }));
    assert_eq!(api.servers.iter().map(|s| (&*s.name, s.backup, s.down)).collect::<Vec<_>>()[0], ("api1", false, false));
    assert!(api.servers[1].backup && api.servers[2].down);
    assert_eq!((api.servers[0].max_fails, api.servers[1].max_fails, api.servers[0].max_conns), (3, 1, 100));
    assert!(matches!(mysql.algorithm, Algorithm::IpHash { mask: Some((32, 128)) }));
    assert_eq!(web.servers[1].address, ServerAddress::Name { host: "app.example.com".into(), port: 8080 });
    let tcp = config.listeners.iter().find(|listener| listener.protocol == Protocol::Tcp).unwrap();
    assert_eq!(tcp.tcp_keepalive, Some(Duration::from_secs(60)), "on by default for TCP only");
}

#[test]
fn servers_by_name_and_version_6() {
    let text = LEAST.replace("10.0.0.1:80", "App.Example.COM.:80") + "max_conns = 9\n";
    let server = load_text(&text).config.pools[0].servers[0].clone();
    assert_eq!(server.address, ServerAddress::Name { host: "app.example.com".into(), port: 80 });
    assert_eq!((&*server.name, server.max_conns), ("App.Example.COM.:80", 9));
    let server = load_text(&LEAST.replace("10.0.0.1:80", "[2001:db8::1]:80")).config.pools[0].servers[0].clone();
    assert_eq!(server.address, ServerAddress::Ip("[2001:db8::1]:80".parse().unwrap()));
}

#[test]
fn the_run_dir_depends_on_who_starts_it_and_is_handed_over() {
    let own = load_text(&format!("[global]\nrun_dir = '/x'\n{LEAST}"));
    assert_eq!(own.config.global.run_dir, Path::new("/x"));
    let loaded = load_in(LEAST, "box", Path::new(""), &[("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
    let uid = rustix::process::getuid();
    let expected = if uid.is_root() { "/run/bascule" } else { "/run/user/7/bascule" };
    assert_eq!(loaded.config.global.run_dir, Path::new(expected));
    assert!(loaded.effective.contains(expected));
    let relative = errors(&format!("[global]\nrun_dir = 'x'\n{LEAST}"));
    assert!(relative.contains("not a whole path"), "{relative}");
}

#[test]
fn includes_are_read_in_order_without_hidden_files() {
    let folder = std::env::temp_dir().join(format!("bascule-include-{}", std::process::id()));
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write(
        "main.toml",
        &format!("include = ['conf.d/*.toml', 'conf.d/a.toml']\n{LEAST}[defaults.pool]\nkeepalive = 9\n"),
    );
    write("conf.d/b.toml", "[pool.b]\nservers = ['10.0.0.2:80']\n[defaults.site]\nforwarded = true\n");
    write("conf.d/a.toml", "[pool.a]\nservers = ['10.0.0.3:80']\n");
    write("conf.d/.hidden.toml", "not TOML");
    write("conf.d/a.toml~", "not TOML");
    let loaded = load(&folder.join("main.toml"), &LoadOptions { node: Some("box".into()) });
    fs::remove_dir_all(&folder).unwrap();
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<_> = loaded.files.iter().map(|file| file.strip_prefix(&folder).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["main.toml", "conf.d/a.toml", "conf.d/b.toml"]);
    let pools: Vec<_> = loaded.config.pools.iter().map(|pool| (&*pool.name, pool.keepalive)).collect();
    assert_eq!(pools, [("a", 9), ("b", 9), ("web", 9)]);
    assert!(route(&loaded.config).policy.forwarded);
    assert_eq!(loaded.warnings.iter().filter(|warning| warning.severity == Severity::Warning).count(), 2);
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_the_file() {
    let errors = load(Path::new("no/such.toml"), &LoadOptions::default()).unwrap_err();
    let text = errors.to_string();
    assert!(text.starts_with("no/such.toml: error: the file cannot be read: No such file"), "{text}");
}

#[test]
fn a_mistake_is_data_as_well_as_text() {
    let found = load_in("[global]\nworkers = 0\n", "box", Path::new("conf"), &[]).unwrap_err();
    let [one] = &*found.iter().collect::<Vec<_>>() else { panic!("{found}") };
    assert_eq!(
        (one.severity, one.position, one.key.as_deref()),
        (Severity::Error, Some((2, 11)), Some("global.workers"))
    );
    assert_eq!(one.file, Path::new("conf/test.toml"));
}

#[test]
fn ten_thousand_mistakes_are_all_reported() {
    let routes = "[[site.s.route]]\npool = \"x\"\nread_timout = \"5s\"\n".repeat(10_000);
    let found = errors(&format!("[listener.l]\nbind = [\"10.0.0.1:80\"]\n{routes}"));
    assert!(found.matches("error:").count() >= 20_000);
}

#[test]
fn the_schema_says_what_the_file_may_have() {
    let schema = schema();
    let pool = &schema["properties"]["pool"]["additionalProperties"];
    assert_eq!(pool["additionalProperties"], false);
    assert_eq!(pool["properties"]["keepalive"]["default"], 32);
    assert_eq!(pool["properties"]["connect_timeout"]["default"], "5s");
    assert_eq!(pool["properties"]["retry_on"]["default"], serde_json::json!(["connect", "reset", "invalid_header"]));
    assert_eq!(pool["properties"]["servers"]["items"]["anyOf"][1]["properties"]["weight"]["maximum"], 65_535);
    let node = &schema["properties"]["node"]["additionalProperties"]["properties"];
    assert_eq!((&node["pool"]["$ref"], &node["node"]), (&"#/properties/pool".into(), &serde_json::Value::Null));
    assert_eq!(node["address"]["type"], "string");
    let authentication = &schema["properties"]["vrrp"]["additionalProperties"]["properties"]["authentication"];
    assert_eq!(authentication["properties"]["type"]["default"], "pass");
    assert_eq!(pool["properties"]["algorithm"]["enum"][1], "least_conn");
}

#[test]
fn the_reference_has_each_key_once() {
    let rows = reference_rows();
    for row in &rows {
        assert!(!row.doc.is_empty() && !row.kind.is_empty(), "{row:?}");
        assert!(!row.doc.starts_with(' ') && !row.doc.contains("  "), "{row:?}");
    }
    let find = |key: &str| rows.iter().filter(|row| row.key == key).collect::<Vec<_>>();
    let [read_timeout] = &*find("read_timeout") else { panic!("one row") };
    assert_eq!(read_timeout.tables, ["[site.NAME]", "[[site.NAME.route]]", "[pool.NAME]"]);
    assert_eq!((read_timeout.kind.as_str(), read_timeout.default), ("duration", Some("\"60s\"")));
    let of_servers = |row: &&&KeyDoc| row.tables == ["[[pool.NAME.servers]]"];
    let weights = find("weight");
    assert_eq!(weights.iter().find(of_servers).unwrap().kind, "1 to 65535");
    let [address] = &*find("label") else { panic!("one row") };
    assert_eq!(address.tables, ["[[vrrp.NAME.virtual_addresses]]", "[[vrrp.NAME.excluded_addresses]]"]);
    assert_eq!(find("tcp_keepalive").len(), 2, "listeners and pools have different ones");
}

/// A change to a text: something is cut out at a place, and something else put there.
fn mutations() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let pieces = prop_oneof![
        Just(String::new()),
        "\\PC{0,4}",
        prop::sample::select(vec![
            "\"",
            "'",
            "[",
            "]",
            "{",
            "}",
            "=",
            "\n",
            ".",
            ",",
            "#",
            "$",
            "${",
            "-1",
            "0",
            "1e9",
            "true",
            "\"off\"",
            "[[",
            "[node.lb1.pool]\n",
            "[defaults.pool]\n",
            "include = 3\n",
            "{ env = \"X\" }",
            "\u{0}",
            "\r",
            "é",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec((any::<prop::sample::Index>().prop_map(|i| i.index(1 << 20)), 0..40_usize, pieces), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_it_panic(changes in mutations()) {
        let mut text = FULL.to_owned();
        for (at, cut, piece) in changes {
            let floor = |mut i: usize| { while !text.is_char_boundary(i) { i -= 1 } i };
            let start = floor(at % text.len().max(1));
            let end = floor((start + cut).min(text.len())).max(start);
            text.replace_range(start..end, &piece);
        }
        match load_in(&text, "lb1", Path::new("conf"), &[]) {
            Ok(loaded) => {
                let again = parse_with(&loaded.effective, "lb1", &loaded.attachments);
                prop_assert_eq!(format!("{:?}", again.unwrap()), format!("{:?}", loaded.config));
            }
            Err(errors) => prop_assert!(errors.to_string().contains("error:")),
        }
        let _ = parse_effective(&text, "lb1").map_err(|errors| errors.to_string());
    }

    #[test]
    fn arbitrary_text_is_a_configuration_or_errors(text in "\\PC{0,200}") {
        let _ = load_in(&text, "lb1", Path::new("conf"), &[]).map_err(|errors| errors.to_string());
    }
}
