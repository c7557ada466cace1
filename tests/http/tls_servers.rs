//! TLS to servers: whom the proxy trusts, what it shows, and what it says of those that it does not trust.

use std::io::{Read, Write};
use std::net::SocketAddr;

use rcgen::{SerialNumber, date_time_ymd};
use rustls::ServerConfig;

use super::big;
use crate::support::origin::Origin;
use crate::support::pki::{Authority, Leaf};
use crate::support::proxy::Proxy;
use crate::support::tls_origin::{TlsOrigin, read_head};
use crate::support::wire::{End, Message, get, post};
use crate::support::{echo_server, wait_for};

/// One pool of servers that speak TLS; `tls`: keys of its table.
fn text(addr: SocketAddr, tls: &str, pool: &str) -> String {
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{addr}\"]\nretries = 0\n{pool}\n[pool.p.tls]\n{tls}\n"
    )
}

fn trusting(authority: &Authority) -> String {
    format!("ca = \"{}\"", authority.file().display())
}

/// A server with a certificate for these names, its authority, and a proxy in front.
fn stage(names: &[&str], tls: &str, pool: &str) -> (TlsOrigin, Authority, Proxy) {
    let authority = Authority::new();
    let origin = TlsOrigin::answering(authority.sign("server", names).server(None), "hello");
    let proxy = Proxy::start(&text(origin.addr(), &format!("{}\n{tls}", trusting(&authority)), pool));
    (origin, authority, proxy)
}

fn ask(proxy: &Proxy) -> Message {
    let mut client = proxy.connect();
    client.send(get("/"));
    client.response()
}

/// What is said of the last server of the last exchange that failed.
fn last_failure(proxy: &Proxy) -> (String, String) {
    // It is noted after the client has its answer.
    let last = wait_for("a failed exchange", || proxy.engine().errors().errors.pop());
    let of_try = last.tries.last().expect("a try");
    let detail = of_try.detail.as_deref().unwrap_or_default().to_owned();
    (of_try.reason.unwrap_or_default().to_owned(), detail)
}

#[test]
fn a_server_is_verified_by_its_address_and_its_connection_is_kept() {
    let (origin, _authority, proxy) = stage(&["127.0.0.1"], "", "");
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(get("/"));
        assert_eq!(client.response().text(), "hello");
    }
    let greeted = origin.greeted();
    assert_eq!((greeted.len(), greeted[0].name.as_deref(), greeted[0].has_certificate), (1, None, false));
    assert_eq!(greeted[0].alpn, None);
}

#[test]
fn the_expected_name_is_asked_for_and_must_be_in_the_certificate() {
    let (origin, _authority, proxy) = stage(&["api.test"], "server_name = \"api.test\"", "");
    assert_eq!(ask(&proxy).text(), "hello");
    assert_eq!(origin.greeted()[0].name.as_deref(), Some("api.test"));
    let (origin, _authority, mut proxy) = stage(&["other.test"], "server_name = \"api.test\"", "");
    assert_eq!(ask(&proxy).status(), 502);
    proxy.wait_for_log("502 reason=server_certificate");
    let (reason, detail) = last_failure(&proxy);
    assert_eq!(reason, "server_certificate");
    assert!(detail.contains("not valid for name") && detail.contains("other.test"), "{detail}");
    assert!(origin.greeted().is_empty());
}

#[test]
fn certificates_that_are_not_valid_are_refused_and_said_to_be() {
    let ours = Authority::new();
    let server = |leaf: &Leaf| TlsOrigin::answering(leaf.server(None), "never");
    let at = ["127.0.0.1"];
    let past = ours.sign_with("past", &at, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let future = ours.sign_with("future", &at, |params| params.not_before = date_time_ymd(2090, 1, 1));
    let revoked = ours.sign_with("revoked", &at, |params| params.serial_number = Some(SerialNumber::from(7)));
    let strange = Authority::new();
    let stranger = strange.sign("stranger", &at);
    let crl = format!("{}\ncrl = \"{}\"", trusting(&ours), ours.revoke(&[7]).display());
    for (leaf, tls, said) in [
        (&past, trusting(&ours), "expired"),
        (&future, trusting(&ours), "not valid yet"),
        (&revoked, crl.clone(), "Revoked"),
        (&stranger, trusting(&ours), "UnknownIssuer"),
    ] {
        let origin = server(leaf);
        let proxy = Proxy::start(&text(origin.addr(), &tls, ""));
        assert_eq!(ask(&proxy).status(), 502);
        let (reason, detail) = last_failure(&proxy);
        assert_eq!(reason, "server_certificate");
        assert!(detail.contains(said), "{said}: {detail}");
    }
    // Not in the list, and without a list.
    let good = ours.sign_with("good", &at, |params| params.serial_number = Some(SerialNumber::from(8)));
    for (leaf, tls) in [(&good, crl), (&revoked, trusting(&ours))] {
        let origin = TlsOrigin::answering(leaf.server(None), "fine");
        assert_eq!(ask(&Proxy::start(&text(origin.addr(), &tls, ""))).text(), "fine");
    }
}

#[test]
fn without_verification_any_certificate_will_do() {
    let authority = Authority::new();
    let leaf = authority.sign_with("past", &["other.test"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let origin = TlsOrigin::answering(leaf.server(None), "anybody");
    let proxy = Proxy::start(&text(origin.addr(), "verify = false", ""));
    assert_eq!(ask(&proxy).text(), "anybody");
}

#[test]
fn a_certificate_of_ours_is_shown_to_servers_that_ask() {
    let authority = Authority::new();
    let server = |leaf: &Leaf| -> ServerConfig { leaf.server(Some(&authority)) };
    let origin = TlsOrigin::answering(server(&authority.sign("server", &["127.0.0.1"])), "known");
    let own = authority.sign("own", &["proxy.test"]);
    let tls = format!("{}\nclient_certificate = \"{}\"", trusting(&authority), own.certificate.display());
    let proxy = Proxy::start(&text(origin.addr(), &tls, ""));
    assert_eq!(ask(&proxy).text(), "known");
    assert!(origin.greeted()[0].has_certificate);
    // In TLS 1.3 the server says so only after our side is done: no request was seen by anybody.
    let mut proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), ""));
    assert_eq!(ask(&proxy).status(), 502);
    proxy.wait_for_log("502 reason=server_tls");
    let (_, detail) = last_failure(&proxy);
    assert!(detail.to_lowercase().contains("certificaterequired"), "{detail}");
}

#[test]
fn a_session_is_resumed() {
    let (origin, authority, mut proxy) = stage(&["127.0.0.1"], "", "keepalive = 0");
    for _ in 0..3 {
        assert_eq!(ask(&proxy).text(), "hello");
    }
    let resumed = || -> Vec<bool> { origin.greeted().iter().map(|greeted| greeted.resumed).collect() };
    assert_eq!(resumed(), [false, true, true]);
    // Also after a reload that changes something else, and not after one that changes what servers must prove.
    let with = |tls: &str| text(origin.addr(), &format!("{}\n{tls}", trusting(&authority)), "keepalive = 0\nqueue = 1");
    proxy.reload(&with(""));
    assert_eq!(ask(&proxy).text(), "hello");
    proxy.reload(&with("profile = \"modern\""));
    assert_eq!(ask(&proxy).text(), "hello");
    assert_eq!(resumed(), [false, true, true, true, false]);
}

#[test]
fn protocols_are_asked_for_as_configured() {
    let authority = Authority::new();
    let mut config = authority.sign("server", &["127.0.0.1"]).server(None);
    config.alpn_protocols = vec![b"x/1".to_vec(), b"http/1.1".to_vec()];
    let origin = TlsOrigin::answering(config, "hello");
    let tls = format!("{}\nalpn = [\"http/1.1\"]", trusting(&authority));
    assert_eq!(ask(&Proxy::start(&text(origin.addr(), &tls, ""))).text(), "hello");
    assert_eq!(origin.greeted()[0].alpn.as_deref(), Some(&b"http/1.1"[..]));
    // HTTP/2 is not offered by this one.
    let mut proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), "http_version = \"2\""));
    assert_eq!(ask(&proxy).status(), 502);
    proxy.wait_for_log("502 reason=server_tls");
}

#[test]
fn what_does_not_speak_tls_fails_with_its_own_reason() {
    let authority = Authority::new();
    let plain = Origin::new();
    let mut proxy = Proxy::start(&text(plain.addr(), &trusting(&authority), ""));
    let mut client = proxy.connect();
    client.send(get("/"));
    plain.accept().send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status(), 502);
    proxy.wait_for_log("502 reason=server_tls");
    // One that is silent takes no more than connect_timeout.
    let silent = Origin::new();
    let pool = "connect_timeout = \"100ms\"";
    let mut proxy = Proxy::start(&text(silent.addr(), &trusting(&authority), pool));
    assert_eq!(ask(&proxy).status(), 504);
    proxy.wait_for_log("504 reason=connect_timeout");
}

#[test]
fn a_failed_handshake_goes_to_the_next_server_also_for_a_post() {
    let authority = Authority::new();
    let bad = TlsOrigin::answering(authority.sign("bad", &["other.test"]).server(None), "never");
    let good = TlsOrigin::new(authority.sign("good", &["127.0.0.1"]).server(None), |stream| {
        loop {
            read_head(stream)?;
            let mut body = [0; 4];
            stream.read_exact(&mut body)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")?;
            stream.write_all(&body)?;
        }
    });
    let config = format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{}\", \"{}\"]\nalgorithm = \"first\"\n[pool.p.tls]\n{}\n",
        bad.addr(),
        good.addr(),
        trusting(&authority)
    );
    let mut proxy = Proxy::start(&config);
    let mut client = proxy.connect();
    client.send(post("/", "once"));
    assert_eq!(client.response().text(), "once");
    proxy.wait_for_log("POST / 200 reason=- tries=2");
}

#[test]
fn an_end_without_goodbye_is_no_end_of_a_response() {
    let authority = Authority::new();
    let config = authority.sign("server", &["127.0.0.1"]).server(None);
    let origin = TlsOrigin::new(config, |stream| {
        read_head(stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall but the end")?;
        stream.flush()
    });
    let mut proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), ""));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.head().status(), 200);
    assert_eq!(client.rest(), (b"all but the end".to_vec(), End::Reset));
    proxy.wait_for_log("200 reason=reset_in_body");
    // With a goodbye it is one.
    let config = authority.sign("other", &["127.0.0.1"]).server(None);
    let origin = TlsOrigin::new(config, |stream| {
        read_head(stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), ""));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.head();
    assert_eq!(client.rest(), (b"all of it".to_vec(), End::Fin));
}

#[test]
fn large_bodies_pass_both_ways() {
    let authority = Authority::new();
    let size = 3 << 20;
    let origin = TlsOrigin::new(authority.sign("server", &["127.0.0.1"]).server(None), move |stream| {
        read_head(stream)?;
        let mut body = vec![0; size];
        stream.read_exact(&mut body)?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
        stream.write_all(&body)
    });
    let proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), "max_body_size = \"8MiB\""));
    let body = big(size);
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n"));
    client.send(&body);
    assert!(client.response().body == body);
}

#[test]
fn an_upgraded_connection_goes_on_inside_tls() {
    let authority = Authority::new();
    let origin = TlsOrigin::new(authority.sign("server", &["127.0.0.1"]).server(None), |stream| {
        read_head(stream)?;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nready")?;
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() {
            stream.write_all(&word)?;
        }
        Ok(())
    });
    let mut proxy = Proxy::start(&text(origin.addr(), &trusting(&authority), ""));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.head().status(), 101);
    client.expect("ready");
    for word in ["ping", "pong"] {
        client.send(word);
        client.expect(word);
    }
    client.reset();
    proxy.wait_for_log("101 reason=client_gone");
}

#[test]
fn tcp_sessions_go_over_tls_too() {
    let authority = Authority::new();
    let origin = TlsOrigin::new(authority.sign("server", &["127.0.0.1"]).server(None), |stream| {
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                stream.conn.send_close_notify();
                return stream.flush();
            }
            stream.write_all(&buffer[..n])?;
        }
    });
    let tcp = |addr: SocketAddr, tls: &str| text(addr, tls, "").replacen("[pool.p]", "protocol = \"tcp\"\n[pool.p]", 1);
    let proxy = Proxy::start(&tcp(origin.addr(), &trusting(&authority)));
    let mut client = proxy.connect();
    client.send("there and back");
    client.expect("there and back");
    client.finish();
    client.expect_end();
    // To a server that speaks no TLS nothing of the client gets.
    let proxy = Proxy::start(&tcp(echo_server(), &trusting(&authority)));
    let mut client = proxy.connect();
    client.expect_gone();
    assert_eq!(last_failure(&proxy).0, "server_tls");
}

#[test]
fn a_reload_changes_whom_is_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let origin = TlsOrigin::answering(ours.sign("server", &["127.0.0.1"]).server(None), "hello");
    let mut proxy = Proxy::start(&text(origin.addr(), &trusting(&ours), ""));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.response().text(), "hello");
    proxy.reload(&text(origin.addr(), &trusting(&theirs), ""));
    // The connection that is open was made to somebody who is not trusted any more.
    client.send(get("/"));
    assert_eq!(client.response().status(), 502);
    proxy.reload(&text(origin.addr(), &trusting(&ours), ""));
    client.send(get("/"));
    assert_eq!(client.response().text(), "hello");
}
