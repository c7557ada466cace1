//! Which route a request takes, what the route does, and which fields change on the way.

use crate::support::origin::{Answering, Origin};
use crate::support::proxy::Proxy;
use crate::support::wire::{Message, Peer, get, ok, reply};

/// A proxy whose listener has no routes but those of `sites`; pool `p` is `origin`.
fn sites(origin: &Origin, listener: &str, sites: &str) -> Proxy {
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\n{listener}\n[pool.p]\nservers = [\"{}\"]\n{sites}\n",
        origin.addr()
    ))
}

fn ask(proxy: &Proxy, request: impl AsRef<[u8]>) -> Message {
    let mut client = proxy.connect();
    client.send(request);
    client.response()
}

/// The request as the server sees it.
fn forwarded(origin: &Origin, proxy: &Proxy, request: impl AsRef<[u8]>) -> Message {
    let mut client = proxy.connect();
    client.send(request);
    let (mut server, request) = origin.request();
    server.send(reply("200 OK", "Connection: close\r\n", ""));
    client.response();
    request
}

#[test]
fn host_then_path_then_conditions_choose_the_route() {
    let origin = Origin::new();
    let routes = r#"
        [site.exact]
        hosts = ["shop.test"]
        [[site.exact.route]]
        path_exact = "/only"
        respond = { body = "exact path" }
        [[site.exact.route]]
        path_regex = "\\.php$"
        respond = { body = "regex" }
        [[site.exact.route]]
        path = "/api"
        methods = ["POST"]
        respond = { body = "api by post" }
        [[site.exact.route]]
        path = "/api"
        headers = { X-Version = "2" }
        respond = { body = "api 2" }
        [[site.exact.route]]
        path = "/api"
        headers = { X-Any = true, X-Number = { regex = "^[0-9]+$" } }
        respond = { body = "api any" }
        [[site.exact.route]]
        path = "/api"
        respond = { body = "api" }
        [[site.exact.route]]
        path_prefix = "/pre"
        respond = { body = "prefix" }
        [[site.exact.route]]
        path_prefix = "/prefer"
        before_regex = true
        respond = { body = "prefer" }
        [site.wild]
        hosts = ["*.shop.test"]
        [[site.wild.route]]
        respond = { body = "wild" }
        [site.other]
        [[site.other.route]]
        path = "/known"
        respond = { body = "other" }
    "#;
    let mut proxy = sites(&origin, "", routes);
    for (host, line, fields, expected) in [
        ("shop.test", "GET /only", "", "exact path"),
        ("SHOP.test:8080", "GET /only", "", "exact path"),
        ("shop.test", "GET /x.php", "", "regex"),
        ("shop.test", "GET /pre.php", "", "regex"),
        ("shop.test", "GET /prefer.php", "", "prefer"),
        ("shop.test", "GET /prefix", "", "prefix"),
        ("shop.test", "GET /api", "", "api"),
        ("shop.test", "GET /api/x?y", "", "api"),
        ("shop.test", "POST /api", "", "api by post"),
        ("shop.test", "GET /api", "X-Version: 2\r\n", "api 2"),
        ("shop.test", "GET /api", "X-Version: 3\r\n", "api"),
        ("shop.test", "GET /api", "x-any: \r\nX-Number: 12\r\n", "api any"),
        ("shop.test", "GET /api", "X-Any: 1\r\nX-Number: 1a\r\n", "api"),
        ("a.shop.test", "GET /only", "", "wild"),
        ("b.a.shop.test", "GET /", "", "wild"),
        ("shop.test.evil", "GET /known", "", "other"),
        // Matched as the server behind would resolve it.
        ("shop.test", "GET /x/%2e%2e/only", "", "exact path"),
        ("shop.test", "GET //only", "", "exact path"),
        ("shop.test", "GET /%6fnly", "", "exact path"),
        ("shop.test", "GET /api%2Fx", "", "api"),
        ("other.test", "GET http://shop.test/only", "", ""),
    ] {
        let response = ask(&proxy, format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        let expected_status = if expected.is_empty() { 400 } else { 200 };
        assert_eq!(response.status(), expected_status, "{host} {line} {fields}");
        if !expected.is_empty() {
            assert_eq!(response.text(), expected, "{host} {line} {fields}");
            assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
    for (host, target) in [("shop.test", "/apix"), ("other.test", "/unknown")] {
        let response = ask(&proxy, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.status(), 404);
        proxy.wait_for_log(&format!("GET {target} 404 reason=no_route"));
    }
    assert!(!origin.is_wanted());
}

#[test]
fn the_target_is_forwarded_as_it_was_sent() {
    let origin = Origin::new();
    let proxy = sites(&origin, "pool = \"p\"", "");
    for target in ["/", "/a/%2e%2e/b?x=%20&y#".trim_end_matches('#'), "//a//b/./c", "/a?", "/%61?a=/../b", "/x;y=1"] {
        assert_eq!(forwarded(&origin, &proxy, get(target)).target(), target);
    }
}

#[test]
fn absolute_and_asterisk_targets_become_what_a_server_understands() {
    let origin = Origin::new();
    let proxy = sites(&origin, "pool = \"p\"", "");
    for (line, expected) in [
        ("GET http://a.test/x?y=1", "GET /x?y=1 HTTP/1.1"),
        ("GET HTTP://a.test", "GET / HTTP/1.1"),
        ("GET http://a.test?q", "GET /?q HTTP/1.1"),
        ("OPTIONS *", "OPTIONS * HTTP/1.1"),
        ("OPTIONS /x", "OPTIONS /x HTTP/1.1"),
    ] {
        let request = forwarded(&origin, &proxy, format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!((request.line.as_str(), request.field("host")), (expected, Some("a.test")));
    }
    // The authority counts where there is no Host.
    let request = forwarded(&origin, &proxy, "GET http://b.test/ HTTP/1.0\r\n\r\n");
    assert_eq!(request.field("host"), Some("b.test"));
}

#[test]
fn paths_are_stripped_and_replaced_and_the_query_stays() {
    let origin = Origin::new();
    let routes = r#"
        [[listener.l.route]]
        path = "/strip"
        strip_prefix = "/strip"
        pool = "p"
        [[listener.l.route]]
        path = "/old"
        replace_prefix = "/new"
        pool = "p"
        [[listener.l.route]]
        path = "/to-root/"
        replace_prefix = "/"
        pool = "p"
        [[listener.l.route]]
        path_regex = "^/whole"
        replace_path = "/all$uri"
        pool = "p"
    "#;
    let proxy = sites(&origin, "", routes);
    for (target, expected) in [
        ("/strip/a/b?q=1", "/a/b?q=1"),
        ("/strip", "/"),
        ("/strip?q", "/?q"),
        ("/old/x%2Fy?z", "/new/x%2Fy?z"),
        ("/old", "/new"),
        ("/to-root/x", "/x"),
        ("/whole/x?q=1", "/all/whole/x?q=1"),
        // A decoded line end must not become one.
        ("/whole%0d%0aX:1", "/all/whole__X:1"),
    ] {
        assert_eq!(forwarded(&origin, &proxy, get(target)).target(), expected, "{target}");
    }
}

#[test]
fn what_is_not_forwarded_redirects_answers_or_closes() {
    let origin = Origin::new();
    let routes = r#"
        [[listener.l.route]]
        path = "/moved"
        redirect = { status = 308, location = "https://$host$request_uri" }
        [[listener.l.route]]
        path = "/found"
        redirect = "/elsewhere"
        [[listener.l.route]]
        path = "/decoded"
        redirect = "$uri"
        [[listener.l.route]]
        path = "/teapot"
        respond = { status = 418, body = "$request_method $uri $arg_a", content_type = "text/tea" }
        [[listener.l.route]]
        path = "/edited"
        respond = { body = "x" }
        response_headers = { remove = ["Server"], set = { Content-Type = "text/x", X-Id = "$arg_a" }, add = { X-Tag = ["a", "b"] } }
        [[listener.l.route]]
        path = "/close"
        close = true
    "#;
    let mut proxy = sites(&origin, "", routes);
    let response = ask(&proxy, get("/moved/x?y=1"));
    assert_eq!((response.status(), response.field("location")), (308, Some("https://a.test/moved/x?y=1")));
    let response = ask(&proxy, get("/found"));
    assert_eq!((response.status(), response.field("location")), (302, Some("/elsewhere")));
    let response = ask(&proxy, get("/decoded/%0d%0aSet-Cookie:x"));
    assert_eq!((response.all("set-cookie"), response.status()), (vec![], 302));

    let mut client = proxy.connect();
    client.send(get("/teapot?a=b"));
    let response = client.response();
    assert_eq!((response.status(), response.text()), (418, "GET /teapot b"));
    assert_eq!(response.field("content-type"), Some("text/tea"));
    assert!(response.field("date").is_some());
    // A body that nobody wanted does not become a request.
    client.send("POST /teapot HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40\r\n\r\n");
    assert_eq!(client.response().field("connection"), Some("close"));
    let response = ask(&proxy, get("/edited?a=7"));
    assert_eq!((response.all("server"), response.field("content-type")), (vec![], Some("text/x")));
    assert_eq!((response.field("x-id"), response.all("x-tag")), (Some("7"), vec!["a", "b"]));
    let mut client = proxy.connect();
    client.send("HEAD /teapot HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().field("content-length"), Some("13"));
    client.send(get("/close"));
    client.expect_gone();
    proxy.wait_for_log("GET /close 444 reason=route_closed");
    assert!(!origin.is_wanted());
}

#[test]
fn fields_are_removed_set_and_added_on_both_ways() {
    let origin = Origin::new();
    let routes = r#"
        [[listener.l.route]]
        pool = "p"
        request_headers = { remove = ["X-Debug"], set = { X-Client = "$remote_addr", X-Empty = "$http_nothing" }, add = { X-Tag = ["a", "b"] } }
        response_headers = { remove = ["Server"], set = { X-Node = "$node", Cache-Control = "no-store" }, add = { Set-Cookie = "a=$arg_a" } }
    "#;
    let proxy = sites(&origin, "", routes);
    let mut client = proxy.connect();
    client.send(
        "GET /?a=1 HTTP/1.1\r\nHost: a.test\r\nx-debug: 1\r\nX-DEBUG: 2\r\nX-Client: forged\r\nX-Empty: 1\r\n\
         X-Tag: own\r\nX-Order: 1\r\nX-order: 2\r\n\r\n",
    );
    let (mut server, request) = origin.request();
    assert_eq!((request.all("x-debug"), request.all("x-empty")), (vec![], vec![]));
    assert_eq!(request.field("x-client"), Some("127.0.0.1"));
    assert_eq!(request.all("x-tag"), ["own", "a", "b"]);
    assert_eq!(request.all("x-order"), ["1", "2"]);
    server.send(reply(
        "200 OK",
        "Server: secret/1.0\r\nCache-Control: public\r\nSet-Cookie: b=2\r\nX-Kept: 1\r\n",
        "x",
    ));
    let response = client.response();
    assert_eq!((response.all("server"), response.field("cache-control")), (vec![], Some("no-store")));
    assert_eq!(response.all("set-cookie"), ["b=2", "a=1"]);
    assert!(response.field("x-node").is_some_and(|n| !n.is_empty()));
    assert_eq!(response.field("x-kept"), Some("1"));
}

#[test]
fn host_is_the_clients_or_what_is_set() {
    let origin = Origin::new();
    let proxy = sites(&origin, "pool = \"p\"", "");
    let request = forwarded(&origin, &proxy, "GET / HTTP/1.1\r\nHost: A.test:8080\r\n\r\n");
    assert_eq!(request.field("host"), Some("A.test:8080"));
    let proxy = sites(&origin, "", "[[listener.l.route]]\npool = \"p\"\nhost = \"inner.$host\"\n");
    let request = forwarded(&origin, &proxy, get("/"));
    assert_eq!((request.field("host"), request.field("x-forwarded-host")), (Some("inner.a.test"), Some("a.test")));
}

const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\nForwarded: for=192.0.2.1\r\n\
    X-Request-Id: from-outside\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";

#[test]
fn claims_of_strangers_are_replaced() {
    let origin = Origin::new();
    let proxy = sites(&origin, "", "[[listener.l.route]]\npool = \"p\"\nforwarded = true\n");
    let request = forwarded(&origin, &proxy, CLAIMS);
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("a.test"));
    assert_eq!(request.field("forwarded"), Some("for=127.0.0.1;proto=http;host=\"a.test\""));
    let id = request.field("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(request.field("traceparent"), Some(parent));
    let again = forwarded(&origin, &proxy, CLAIMS);
    assert_ne!(again.field("x-request-id"), Some(id));
}

#[test]
fn claims_of_trusted_proxies_are_kept_and_extended() {
    let origin = Origin::new();
    let listener = "trusted_proxies = [\"127.0.0.0/8\"]";
    let routes = "[[listener.l.route]]\npool = \"p\"\nforwarded = true\n\
        request_headers = { set = { X-Found = \"$remote_addr\" } }\n";
    let proxy = sites(&origin, listener, routes);
    let request = forwarded(&origin, &proxy, CLAIMS);
    assert_eq!(request.field("x-forwarded-for"), Some("192.0.2.1, 192.0.2.2, 127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-forwarded-host"), Some("public.test"));
    assert!(request.field("forwarded").unwrap().starts_with("for=192.0.2.1, for=127.0.0.1;"));
    assert_eq!(request.field("x-request-id"), Some("from-outside"));
    assert_eq!(request.field("x-found"), Some("192.0.2.2"));
}

#[test]
fn forwarding_fields_can_be_switched_off_and_then_pass() {
    let origin = Origin::new();
    let routes = "[[listener.l.route]]\npool = \"p\"\nx_forwarded = false\nrequest_id = false\n";
    let proxy = sites(&origin, "", routes);
    let request = forwarded(&origin, &proxy, CLAIMS);
    assert_eq!(request.all("x-forwarded-for"), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        (request.field("x-request-id"), request.field("forwarded")),
        (Some("from-outside"), Some("for=192.0.2.1"))
    );
    let request = forwarded(&origin, &proxy, get("/"));
    assert_eq!((request.all("x-forwarded-for"), request.all("x-request-id")), (vec![], vec![]));
}

#[test]
fn fields_of_one_connection_stay_there() {
    let origin = Origin::new();
    let proxy = sites(&origin, "pool = \"p\"", "");
    let mut client = proxy.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Foo, Host, X-Forwarded-For, TE\r\nX-Foo: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nTrailer: X-T\r\n\
         Upgrade: h2c\r\nX-Bar: 2\r\n\r\n",
    );
    let (mut server, request) = origin.request();
    for gone in ["x-foo", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(request.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!((request.field("host"), request.field("x-forwarded-for")), (Some("a.test"), Some("127.0.0.1")));
    assert_eq!((request.field("x-bar"), request.field("te")), (Some("2"), Some("trailers")));
    // Whoever says TE must name it (RFC 9110 section 10.1.4).
    assert_eq!(request.field("connection"), Some("TE"));
    server.send(reply("200 OK", "Connection: X-Baz\r\nX-Baz: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n", "x"));
    let response = client.response();
    assert_eq!((response.all("x-baz"), response.all("keep-alive")), (vec![], vec![]));
    assert_eq!((response.all("connection"), response.field("x-kept")), (vec![], Some("1")));
}

#[test]
fn error_pages_are_ours_where_configured() {
    let origin = Origin::new();
    let routes = r#"
        [site.s]
        error_pages = { "502" = "<h1>sorry</h1>", "413" = "too much", "404" = { body = "{}", content_type = "application/json" } }
        [[site.s.route]]
        path = "/pool"
        max_body_size = "1"
        pool = "p"
    "#;
    let proxy = sites(&origin, "", routes);
    let mut client = proxy.connect();
    client.send(get("/pool"));
    drop(origin.request());
    let response = client.response();
    assert_eq!((response.status(), response.text()), (502, "<h1>sorry</h1>"));
    assert_eq!(response.field("content-type"), Some("text/html; charset=utf-8"));
    let response = ask(&proxy, "POST /pool HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nxx");
    assert_eq!((response.status(), response.text()), (413, "too much"));
    let response = ask(&proxy, get("/nowhere"));
    assert_eq!((response.status(), response.text()), (404, "{}"), "no route: the site's page");
    // An error page of the server is the server's.
    client.send(get("/pool"));
    let (mut server, _) = origin.request();
    server.send(reply("502 Bad Gateway", "", "theirs"));
    assert_eq!(client.response().text(), "theirs");
    // One without a page is small, and HTML.
    let response = ask(&proxy, "GET /pool HTTP/1.1\r\n\r\n");
    assert_eq!((response.status(), response.field("content-type")), (400, Some("text/html")));
    assert!(response.body.len() < 200 && response.text().contains("400 Bad Request"));
}

#[test]
fn limits_of_a_head_have_their_statuses() {
    let origin = Origin::new();
    let limits = "pool = \"p\"\nmax_header_size = \"8KiB\"\nmax_header_count = 10\nmax_uri_size = \"1KiB\"";
    let mut proxy = sites(&origin, limits, "");
    let long = |n: usize| "x".repeat(n);
    for (request, status, reason) in [
        (get(&format!("/{}", long(1024))), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", long(8192)), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "X: 1\r\n".repeat(10)), 431, "head_too_large"),
    ] {
        let response = ask(&proxy, &request);
        assert_eq!((response.status(), response.field("connection")), (status, Some("close")));
        proxy.wait_for_log(&format!(" {status} reason={reason}"));
    }
    assert!(!origin.is_wanted());
    let most = format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n{}\r\n", long(1023), "X: 1\r\n".repeat(9));
    assert_eq!(forwarded(&origin, &proxy, most).all("x").len(), 9);
}

#[test]
fn limits_of_a_body_hold_for_every_framing() {
    let origin = Origin::new();
    let mut proxy = sites(&origin, "pool = \"p\"", "[defaults.pool]\nmax_body_size = \"10\"\n");
    let response = ask(&proxy, "POST /cl HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(response.status(), 413);
    assert_eq!(proxy.log_line(), "POST /cl 413 reason=body_too_large tries=-");
    assert!(!origin.is_wanted());
    let head = "POST /ch HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    // At once, and only with its last byte.
    for first in ["b\r\nhello world\r\n", "a\r\nhello worl\r\n"] {
        let mut client = proxy.connect();
        client.send([head, first].concat());
        if first.starts_with('a') {
            let mut server = origin.accept();
            server.head();
            server.expect(first);
            client.send("1\r\nd\r\n0\r\n\r\n");
            assert_eq!(client.response().status(), 413);
            server.expect_gone();
            assert_eq!(proxy.log_line(), "POST /ch 413 reason=body_too_large tries=1");
        } else {
            assert_eq!(client.response().status(), 413);
            proxy.wait_for_log("POST /ch 413 reason=body_too_large");
            drop(origin.accept());
        }
    }
    let mut client = proxy.connect();
    client.send([head, "a\r\nhello worl\r\n0\r\n\r\n"].concat());
    let (mut server, request) = origin.request();
    assert_eq!(request.text(), "hello worl");
    server.send(ok("1"));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn names_with_underscores_pass_only_when_allowed() {
    let origin = Origin::new();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX_Y: 1\r\nX-Y: 2\r\n\r\n";
    let proxy = sites(&origin, "pool = \"p\"", "");
    assert_eq!(forwarded(&origin, &proxy, request).all("x_y"), Vec::<&str>::new());
    let proxy = sites(&origin, "pool = \"p\"\nunderscores_in_headers = true", "");
    assert_eq!(forwarded(&origin, &proxy, request).field("x_y"), Some("1"));
}

#[test]
fn hash_and_ip_hash_use_the_key_and_the_client_that_was_found() {
    let servers: Vec<_> = (0..4).map(|i| Answering::with(ok(&i.to_string()))).collect();
    let list = servers.iter().map(|s| format!("\"{}\"", s.addr())).collect::<Vec<_>>().join(", ");
    let start = |keys: &str| {
        Proxy::start(&format!(
            "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
             [pool.p]\nservers = [{list}]\n{keys}\n"
        ))
    };
    let proxy = start("algorithm = \"hash\"\nhash_key = \"$arg_user\"\nconsistent = \"ketama\"");
    let of_user = |user: u32, junk: u32| ask(&proxy, get(&format!("/{junk}?user={user}"))).text().to_owned();
    let spread: std::collections::BTreeSet<_> = (0..50).map(|u| of_user(u, 1)).collect();
    assert!(spread.len() > 1);
    assert!((0..50).all(|u| of_user(u, 1) == of_user(u, 2)));

    let proxy = start("algorithm = \"ip_hash\"");
    let of_client = |net: u8, host: u8| {
        let xff = format!("X-Forwarded-For: 203.0.{net}.{host}");
        ask(&proxy, format!("GET / HTTP/1.1\r\nHost: a.test\r\n{xff}\r\n\r\n")).text().to_owned()
    };
    let spread: std::collections::BTreeSet<_> = (0..50).map(|net| of_client(net, 1)).collect();
    assert!(spread.len() > 1);
    assert!((0..50).all(|net| of_client(net, 1) == of_client(net, 200)));
}

#[test]
fn the_access_log_has_the_whole_story() {
    let origin = Origin::new();
    let format = "$remote_addr $request_method $request_uri $server_protocol $status $body_bytes_sent \
        $upstream_addr $upstream_status $tries $upstream_local_port $request_id $site/$route/$pool/$server \
        $host $http_x_a $sent_http_x_b $upstream_http_x_c $connection_requests $reason";
    let mut proxy = Proxy::start(&format!(
        "[access_log]\npath = \"/log\"\nformat = '{format}'\n\
         [listener.l]\nbind = [\"127.0.0.1:80\"]\n\
         [site.s]\n[[site.s.route]]\npath = \"/x\"\nname = \"r\"\npool = \"p\"\n\
         response_headers = {{ remove = [\"X-C\"] }}\n\
         [[site.s.route]]\npath = \"/quiet\"\naccess_log = false\nrespond = {{}}\n\
         [pool.p]\nservers = [{{ address = \"{}\", name = \"one\" }}]\n",
        origin.addr()
    ));
    let mut client = proxy.connect();
    client.send(get("/quiet"));
    client.response();
    client.send("GET /x?y=\"z HTTP/1.1\r\nHost: A.test\r\nX-A: quo\"te\r\n\r\n");
    let (mut server, request) = origin.request();
    let port = server.peer_addr().port();
    server.send(reply("201 Created", "X-B: b\r\nX-C: c\r\n", "hello"));
    client.response();
    let id = request.field("x-request-id").unwrap();
    let addr = origin.addr();
    assert_eq!(
        proxy.log_line(),
        format!(
            "127.0.0.1 GET /x?y=\\x22z HTTP/1.1 201 5 {addr} 201 1 {port} {id} s/r/p/one a.test quo\\x22te b c 2 -"
        )
    );
}

#[test]
fn two_listeners_have_routes_of_their_own() {
    let origin = Answering::with(ok("pool"));
    let proxy = Proxy::start(&format!(
        "[listener.a]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [listener.b]\nbind = [\"127.0.0.1:81\"]\n[[listener.b.route]]\nrespond = {{ body = \"b $server_port\" }}\n\
         [pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    let of = |listener: &str| {
        let mut client = Peer::connect(proxy.addr_of(listener));
        client.send(get("/"));
        client.response().text().to_owned()
    };
    assert_eq!(of("a"), "pool");
    assert_eq!(of("b"), format!("b {}", proxy.addr_of("b").port()));
}
