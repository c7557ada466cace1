//! Certificates of clients: who gets in, what is known of them, and where a connection may be used.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams};

use super::*;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wait_for;
use crate::support::wire::ok;

/// What servers and clients are told of a client.
const TOLD: &str = "[pool.p.request_headers.set]\nX-Client = \"$ssl_client_s_dn\"\nX-Cert = \"$ssl_client_escaped_cert\"\n\
                    [pool.p.response_headers.set]\nX-Client = \"$ssl_client_verify $ssl_client_s_dn $ssl_client_i_dn \
                    $ssl_client_serial\"\n";

fn tls(files: &Files, mode: &str, more: &str) -> String {
    let certificate = files.server("server", &["*.test"], &ECDSA);
    let ca = files.path("ca.pem");
    format!("{}\nclient_auth = \"{mode}\"\nclient_ca = \"{ca}\"\n{more}", certificates(&[certificate]))
}

/// The reasons of the last errors, once there are `count`: one is noted once the client has been told.
fn reasons(proxy: &Proxy, count: usize) -> Vec<&'static str> {
    wait_for("the errors", || {
        let errors = proxy.engine().errors().errors;
        (errors.len() >= count).then(|| errors.iter().map(|failed| failed.reason).collect())
    })
}

#[test]
fn nobody_gets_in_without_a_certificate_where_one_is_required() {
    let files = Files::new();
    let alice = files.client("alice", 0x9a0b, &files.authority());
    let origin = Answering::with(ok("ok"));
    let proxy = Proxy::start(&config(&tls(&files, "required", ""), origin.addr(), TOLD));
    for version in ["-tls1_2", "-tls1_3"] {
        let output = openssl(proxy.addr(), &[version, "-cert", &alice], GET);
        assert!(output.contains("X-Client: SUCCESS CN=alice CN=authority 9A0B"), "{output}");
        let refused = openssl(proxy.addr(), &[version], GET);
        assert!(refused.contains("alert") && !refused.contains("HTTP/1.1"), "{refused}");
    }
    // Signed by somebody else.
    let other = Files::new();
    let mallory = other.client("mallory", 1, &other.authority_called("other"));
    let refused = openssl(proxy.addr(), &["-cert", &mallory], GET);
    assert!(refused.contains("alert unknown ca") && !refused.contains("HTTP/1.1"), "{refused}");
    assert_eq!(reasons(&proxy, 3), ["tls_client_certificate"; 3]);
    let seen = origin.requests();
    assert_eq!((seen.len(), seen[0].field("x-client")), (2, Some("CN=alice")));
    let certificate = seen[0].field("x-cert").unwrap();
    assert!(certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"), "{certificate}");
}

#[test]
fn an_optional_certificate_is_verified_if_it_comes() {
    let files = Files::new();
    let alice = files.client("alice", 1, &files.authority());
    let proxy = Proxy::start(&config(&tls(&files, "optional", ""), Answering::with(ok("ok")).addr(), TOLD));
    assert!(openssl(proxy.addr(), &["-cert", &alice], GET).contains("X-Client: SUCCESS CN=alice"));
    let without = openssl(proxy.addr(), &[], GET);
    assert!(without.contains("X-Client: NONE"), "{without}");
    let other = Files::new();
    let mallory = other.client("mallory", 1, &other.authority_called("other"));
    let refused = openssl(proxy.addr(), &["-cert", &mallory], GET);
    assert!(!refused.contains("HTTP/1.1"), "{refused}");
}

#[test]
fn who_is_on_the_list_of_the_revoked_is_refused() {
    let files = Files::new();
    let authority = files.authority();
    let [alice, bob] = [("alice", 1), ("bob", 2)].map(|(name, serial)| files.client(name, serial, &authority));
    let list = |until: i32| CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(until, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: 2_u64.into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let server = Answering::with(ok("ok")).addr();
    let run = |name: &str, until: i32| {
        let list = files.write(name, list(until).signed_by(&authority).unwrap().pem().unwrap());
        Proxy::start(&config(&tls(&files, "required", &format!("client_crl = \"{list}\"")), server, ""))
    };
    let proxy = run("now.crl", 4000);
    assert!(openssl(proxy.addr(), &["-cert", &alice], GET).contains("HTTP/1.1 200"));
    let refused = openssl(proxy.addr(), &["-cert", &bob], GET);
    assert!(refused.contains("alert certificate revoked") && !refused.contains("HTTP/1.1"), "{refused}");
    // A list that is out of date lets nobody in.
    let stale = run("stale.crl", 2021);
    assert!(!openssl(stale.addr(), &["-cert", &alice], GET).contains("HTTP/1.1"));
}

#[test]
fn a_connection_is_used_only_for_sites_that_ask_for_what_it_showed() {
    let files = Files::new();
    let alice = files.client("alice", 1, &files.authority());
    let text = format!(
        "[listener.web]\nbind = [\"127.0.0.1:1\"]\npool = \"p\"\n[listener.web.tls]\n{}\n[pool.p]\nservers = [\"{}\"]\n\
         [site.secret]\nhosts = [\"secret.test\"]\ntls = {{ client_auth = \"required\", client_ca = \"{}\" }}\n\
         [[site.secret.route]]\npool = \"p\"\n",
        certificates(&[files.server("server", &["*.test"], &ECDSA)]),
        Answering::with(ok("ok")).addr(),
        files.path("ca.pem"),
    );
    let proxy = Proxy::start(&text);
    let ask = |name: &str, host: &str, args: &[&str]| {
        let said = GET.replace("shop.test", host);
        let output = openssl(proxy.addr(), &[&["-servername", name][..], args].concat(), &said);
        output.split_once("HTTP/1.1 ").map(|(_, status)| status[..3].to_owned())
    };
    let status = |text: &str| Some(text.to_owned());
    assert_eq!(ask("shop.test", "shop.test", &[]), status("200"));
    assert_eq!(ask("secret.test", "secret.test", &["-cert", &alice]), status("200"));
    assert_eq!(ask("secret.test", "secret.test", &[]), None);
    // The way around: a handshake for a site that asks nothing, and a request for one that does.
    assert_eq!(ask("shop.test", "secret.test", &[]), status("421"));
    assert_eq!(ask("shop.test", "SECRET.test.", &[]), status("421"));
    assert_eq!(ask("shop.test", "secret.test", &["-cert", &alice]), status("421"));
    // The other way nothing is gained.
    assert_eq!(ask("secret.test", "shop.test", &["-cert", &alice]), status("200"));
    wait_for("the error", || (reasons(&proxy, 1).last() == Some(&"misdirected")).then_some(()));
}

#[test]
fn a_reload_that_asks_for_more_holds_for_connections_that_are_there() {
    let files = Files::new();
    files.authority();
    let server = Answering::with(ok("ok")).addr();
    let certificate = certificates(&[files.server("server", &["*.test"], &ECDSA)]);
    let mut proxy = Proxy::start(&config(&certificate, server, ""));
    let mut client = Talking::new(proxy.addr(), &[]);
    client.say(&GET.replace("close", "keep-alive"));
    client.hear(&ok("ok"));
    proxy.reload(&config(&tls(&files, "required", ""), server, ""));
    client.say(GET);
    client.hear("HTTP/1.1 421 ");
}

#[test]
fn requests_of_http2_are_held_to_it_one_by_one() {
    let files = Files::new();
    let alice = files.client("alice", 1, &files.authority());
    let origin = Answering::with(ok("ok"));
    let text = format!(
        "[listener.web]\nbind = [\"127.0.0.1:1\"]\npool = \"p\"\n[listener.web.tls]\n{}\n[pool.p]\nservers = [\"{}\"]\n{TOLD}\
         [site.secret]\nhosts = [\"secret.test\"]\ntls = {{ client_auth = \"required\", client_ca = \"{}\" }}\n\
         [[site.secret.route]]\npool = \"p\"\n",
        certificates(&[files.server("server", &["*.test"], &ECDSA)]),
        origin.addr(),
        files.path("ca.pem"),
    );
    let proxy = Proxy::start(&text);
    let port = proxy.addr().port();
    let ask = |name: &str, more: &[&str]| {
        let (url, resolve) = (format!("https://{name}:{port}/"), format!("{name}:{port}:127.0.0.1"));
        let write = ["-sk", "-o", "/dev/null", "-w", "%{http_version} %{http_code} ", "--http2", "--resolve", &resolve];
        run("curl", &[&write[..], more, &[&url]].concat(), "")
    };
    assert_eq!(ask("shop.test", &[]), "2 200 ");
    assert_eq!(ask("secret.test", &["--cert", &alice]), "2 200 ");
    assert_eq!(origin.requests().last().unwrap().field("x-client"), Some("CN=alice"));
    // One certificate for both names has browsers use one connection for both: the answer that sends them to another.
    assert_eq!(ask("shop.test", &["-H", "Host: secret.test"]), "2 421 ");
}
