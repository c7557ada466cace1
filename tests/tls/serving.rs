//! Which certificate a client gets, what may be agreed on, and what is inside.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::{Peer, ok};
use crate::support::{echo_server, wait_for};

/// A server that says `ok`.
fn server() -> Answering {
    Answering::with(ok("ok"))
}

/// The reasons of the last errors, once there are `count`: one is noted once the client has been told.
fn reasons(proxy: &Proxy, count: usize) -> Vec<&'static str> {
    wait_for("the errors", || {
        let errors = proxy.engine().errors().errors;
        (errors.len() >= count).then(|| errors.iter().map(|failed| failed.reason).collect())
    })
}

#[test]
fn the_certificate_is_that_of_the_name_and_the_first_for_strangers() {
    let files = Files::new();
    let all = [
        files.server("default", &["default.test"], &ECDSA),
        files.server("exact", &["shop.test"], &ECDSA),
        files.server("wildcard", &["*.test"], &ECDSA),
    ];
    let proxy = Proxy::start(&config(&certificates(&all), server().addr(), ""));
    for (name, expected) in [
        ("shop.test", "exact"),
        ("SHOP.test", "exact"),
        ("other.test", "wildcard"),
        ("a.other.test", "default"),
        ("unknown.example", "default"),
    ] {
        assert_eq!(shown(&handshake(proxy.addr(), &["-servername", name])), expected, "{name}");
    }
    assert_eq!(shown(&handshake(proxy.addr(), &["-noservername"])), "default");
}

#[test]
fn a_site_shows_its_own_and_strangers_are_refused_where_only_sites_have_some() {
    let files = Files::new();
    let own = files.server("own", &["no.test"], &ECDSA);
    let config = format!(
        "[listener.web]\nbind = [\"127.0.0.1:1\"]\ntls = {{}}\n[pool.p]\nservers = [\"{}\"]\n[site.shop]\n\
         hosts = [\"shop.test\"]\ntls = {{ certificates = [\"{own}\"] }}\n[[site.shop.route]]\npool = \"p\"\n",
        server().addr()
    );
    let proxy = Proxy::start(&config);
    assert_eq!(shown(&handshake(proxy.addr(), &["-servername", "shop.test"])), "own");
    let refused = handshake(proxy.addr(), &["-servername", "other.test"]);
    assert!(refused.contains("unrecognized name"), "{refused}");
    assert!(handshake(proxy.addr(), &["-noservername"]).contains("unrecognized name"));
    assert_eq!(reasons(&proxy, 2), ["tls_name", "tls_name"]);
}

#[test]
fn ecdsa_and_rsa_stand_side_by_side_and_each_client_gets_what_it_can_verify() {
    let files = Files::new();
    let both = [files.server("rsa", &["shop.test"], &RSA), files.server("ecdsa", &["shop.test"], &ECDSA)];
    let proxy = Proxy::start(&config(&certificates(&both), server().addr(), ""));
    for (args, expected) in [
        (&["-tls1_3"][..], "ecdsa"),
        (&["-tls1_2"], "ecdsa"),
        (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "rsa"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "rsa"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "rsa"),
    ] {
        let name = ["-servername", "shop.test"];
        assert_eq!(shown(&handshake(proxy.addr(), &[&name, args].concat())), expected, "{args:?}");
    }
}

#[test]
fn the_profile_says_which_versions_there_are() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let old = ["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"];
    let intermediate = Proxy::start(&config(&tls, server().addr(), ""));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let arg = format!("-{}", version.to_lowercase().replace("tlsv", "tls").replace('.', "_"));
        let output = openssl(intermediate.addr(), &[&arg], GET);
        assert!(output.contains(&format!("New, {version}, Cipher is ")) && output.contains("HTTP/1.1 200"), "{output}");
    }
    let refused = handshake(intermediate.addr(), &old);
    assert!(refused.contains("alert protocol version"), "{refused}");
    let modern = Proxy::start(&config(&format!("{tls}\nprofile = \"modern\""), server().addr(), ""));
    assert!(openssl(modern.addr(), &["-tls1_3"], GET).contains("HTTP/1.1 200"));
    assert!(handshake(modern.addr(), &["-tls1_2"]).contains("alert protocol version"));
    let ciphers = handshake(intermediate.addr(), &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]);
    assert!(ciphers.contains("alert handshake failure"), "{ciphers}");
    assert_eq!(reasons(&modern, 1), ["tls_mismatch"]);
    assert_eq!(reasons(&intermediate, 2), ["tls_mismatch", "tls_mismatch"]);
}

#[test]
fn curl_is_served_and_the_server_is_told_of_https() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let origin = server();
    let rest = "[pool.p.response_headers.set]\nX-Tls = \"$scheme $https $ssl_protocol $ssl_cipher $ssl_server_name \
                $ssl_session_reused $ssl_client_verify $ssl_alpn_protocol\"\n";
    let proxy = Proxy::start(&config(&tls, origin.addr(), rest));
    let url = format!("https://shop.test:{}/path", proxy.addr().port());
    let resolve = format!("shop.test:{}:127.0.0.1", proxy.addr().port());
    let args = ["-si", "--http1.1", "--cacert", &files.path("a.pem"), "--resolve", &resolve, &url, &url];
    let output = run("curl", &args, "");
    let expected = "x-tls: https on TLSv1.3 TLS_AES_128_GCM_SHA256 shop.test . NONE http/1.1";
    assert_eq!(output.to_lowercase().matches(&expected.to_lowercase()).count(), 2, "{output}");
    let seen = origin.requests();
    assert_eq!((seen.len(), seen[0].field("x-forwarded-proto")), (2, Some("https")));
    let listener = &proxy.engine().status(|_| 0).listeners[0];
    assert_eq!((listener.accepted, listener.tls.as_ref().map(|tls| (tls.handshakes, tls.failed))), (1, Some((1, 0))));
}

#[test]
fn a_listener_on_all_addresses_knows_which_one_a_client_came_to() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let rest = "[pool.p.response_headers.set]\nX-Local = \"$server_addr\"\n";
    let text = config(&tls, server().addr(), rest).replace("127.0.0.1:1\"", "0.0.0.0:1\"");
    let proxy = Proxy::start(&text);
    let url = format!("https://127.0.0.1:{}/", proxy.addr().port());
    for version in ["--http1.1", "--http2"] {
        let served = run("curl", &["-sik", version, &url], "").to_lowercase();
        assert!(served.contains("x-local: 127.0.0.1\r\n"), "{version}: {served}");
    }
}

#[test]
fn long_bodies_go_both_ways() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let origin = Answering::new(|request| ok(&request.text().repeat(3)).into_bytes());
    let text = config(&tls, origin.addr(), "");
    let proxy = Proxy::start(&text.replace("[pool.p]", "[pool.p]\nmax_body_size = \"64MiB\""));
    let body = "0123456789abcdef".repeat(1 << 18);
    files.write("body", &body);
    let url = format!("https://127.0.0.1:{}/", proxy.addr().port());
    let args = ["-sk", "--http1.1", "--data-binary", &format!("@{}", files.path("body")), "-H", "Expect:", &url];
    let output = run("curl", &args, "");
    assert_eq!(output.len(), body.len() * 3);
    assert!(output == body.repeat(3));
}

#[test]
fn plain_http_is_told_that_this_is_the_port_for_https() {
    let files = Files::new();
    let proxy = Proxy::start(&config(&certificates(&[files.server("a", &["a"], &ECDSA)]), server().addr(), ""));
    let mut client = proxy.connect();
    client.send(GET);
    let answer = client.response();
    assert_eq!((answer.status(), answer.text()), (400, "The plain HTTP request was sent to HTTPS port\n"));
    client.expect_end();
    assert_eq!(reasons(&proxy, 1), ["plain_http"]);
}

#[test]
fn what_is_no_tls_ends_in_an_alert_or_without_a_word_and_is_told() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["a"], &ECDSA)]) + "\nhandshake_timeout = \"300ms\"";
    let proxy = Proxy::start(&config(&tls, server().addr(), ""));
    for (sent, alert) in [
        (&b"\x00\x01\x02"[..], None),
        // A handshake message that is no ClientHello.
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Some(50)),
        // One of 16 MiB.
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", Some(50)),
    ] {
        let mut client = proxy.connect();
        client.send(sent);
        let (rest, _) = client.rest();
        assert_eq!(rest.last().copied(), alert, "{sent:?}: {rest:?}");
    }
    // Half a hello is given up; who says nothing is, too.
    let mut slow = proxy.connect();
    slow.send(b"\x16\x03\x01\x00\xff\x01");
    slow.expect_gone();
    proxy.connect().expect_gone();
    // Who connects and leaves has not failed.
    drop(Peer::connect(proxy.addr()));
    let expected = ["tls_broken", "tls_broken", "tls_broken", "tls_timeout", "tls_timeout"];
    assert_eq!(reasons(&proxy, expected.len()), expected);
}

#[test]
fn a_tcp_listener_speaks_tls_to_clients_and_plain_bytes_to_its_servers() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]) + "\nalpn = [\"echo\"]";
    let text = config(&tls, echo_server(), "").replace("pool = \"p\"\n", "protocol = \"tcp\"\npool = \"p\"\n");
    let log = "[access_log]\npath = \"/log\"\nformat = '$ssl_protocol $ssl_server_name $ssl_alpn_protocol $status'\n";
    let mut proxy = Proxy::start(&format!("{text}{log}"));
    let mut client = Talking::new(proxy.addr(), &["-servername", "shop.test", "-alpn", "other,echo"]);
    let said = "hello\n".repeat(2000);
    client.say(&said);
    client.hear(&said);
    drop(client);
    assert_eq!(proxy.log_line(), "TLSv1.3 shop.test echo 200");
}

#[test]
fn what_a_client_said_before_it_left_without_a_word_arrives_and_so_does_the_answer() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let text = config(&tls, server, "").replace("pool = \"p\"\n", "protocol = \"tcp\"\npool = \"p\"\n");
    let log = "[access_log]\npath = \"/log\"\nformat = '$upstream_bytes_sent $status $reason'\n";
    let mut proxy = Proxy::start(&format!("{text}{log}"));
    let said = vec![7; 4 << 20];
    let all = said.len();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(b"all of it").unwrap();
        heard.len()
    });
    let mut client = files.client_of("a.pem", proxy.addr());
    client.write_all(&said).unwrap();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!((server.join().unwrap(), &answer[..]), (all, &b"all of it"[..]));
    assert_eq!(proxy.log_line(), format!("{all} 200 -"));
}

#[test]
fn a_reload_with_another_certificate_changes_new_handshakes_and_no_connection() {
    let files = Files::new();
    let first = files.server("first", &["shop.test"], &ECDSA);
    let second = files.server("second", &["shop.test"], &ECDSA);
    let server = server();
    let mut proxy = Proxy::start(&config(&certificates(&[first]), server.addr(), ""));
    let mut client = Talking::new(proxy.addr(), &[]);
    let ask = GET.replace("close", "keep-alive");
    client.say(&ask);
    client.hear(&ok("ok"));
    proxy.reload(&config(&certificates(&[second]), server.addr(), ""));
    assert_eq!(shown(&handshake(proxy.addr(), &[])), "second");
    client.say(&ask);
    client.hear(&ok("ok"));
    assert_eq!(proxy.engine().status(|_| 0).listeners[0].accepted, 2);
}

#[test]
fn a_response_to_staple_goes_to_whoever_asks() {
    let files = Files::new();
    let chain = files.server("a", &["shop.test"], &ECDSA);
    // A response that says "try later" is as good as any here (RFC 6960 section 4.2.1).
    files.write("a.pem.ocsp", [0x30, 0x03, 0x0a, 0x01, 0x03]);
    let proxy = Proxy::start(&config(&certificates(&[chain]), server().addr(), ""));
    let output = handshake(proxy.addr(), &["-status"]);
    assert!(output.contains("OCSP Response Status: trylater (0x3)"), "{output}");
}

#[test]
fn a_half_open_handshake_does_not_keep_others_waiting() {
    let files = Files::new();
    let proxy = Proxy::start(&config(&certificates(&[files.server("a", &["a"], &ECDSA)]), server().addr(), ""));
    let mut held: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(proxy.addr()).unwrap()).collect();
    held.iter_mut().for_each(|client| client.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap());
    assert!(openssl(proxy.addr(), &[], GET).contains("HTTP/1.1 200"));
    assert_eq!(proxy.engine().status(|_| 0).listeners[0].open, 200);
}

#[test]
fn the_header_of_a_proxy_in_front_comes_before_the_handshake() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let origin = server();
    let text = config(&tls, origin.addr(), "").replace(
        "pool = \"p\"\n[listener.web.tls]",
        "pool = \"p\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[listener.web.tls]",
    );
    let proxy = Proxy::start(&text);
    let url = format!("https://127.0.0.1:{}/", proxy.addr().port());
    let served = run("curl", &["-sik", "--http1.1", "--haproxy-protocol", &url], "");
    assert!(served.contains("200"), "{served}");
    assert!(!run("curl", &["-sik", "--http1.1", &url], "").contains("HTTP/"));
    assert_eq!(reasons(&proxy, 1), ["proxy_header"]);
    assert_eq!(origin.requests()[0].field("x-forwarded-proto"), Some("https"));
}
