//! TLS that is passed through, end to end: a real engine, real handshakes of OpenSSL, and hellos that the tests send in
//! pieces.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bascule::proxy_protocol::{Parse, parse};

use support::origin::Origin;
use support::proxy::Proxy;
use support::wire::End;
use support::{TempDir, wait_for};

const LOG: &str = "[access_log]\npath = \"/log\"\nformat = '$ssl_preread_server_name $ssl_preread_alpn_protocols \
                   $ssl_preread_protocol $pool $status $reason'\n";

/// A fatal alert, unrecognized_name (RFC 8446 section 6.2).
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];

/// A listener with these keys and routes: names, protocols, and the pool, which is there with one server.
fn proxy(listener: &str, routes: &[(&str, &str, &str)], pools: &[(&str, SocketAddr)]) -> Proxy {
    let mut text = format!("[listener.l]\nbind = [\"127.0.0.1:443\"]\nprotocol = \"tls_passthrough\"\n{listener}\n");
    for (sni, alpn, pool) in routes {
        write!(text, "[[listener.l.tls_route]]\nsni = [{sni}]\nalpn = [{alpn}]\npool = \"{pool}\"\n").unwrap();
    }
    for (pool, addr) in pools {
        write!(text, "[pool.{pool}]\nservers = [\"{addr}\"]\n").unwrap();
    }
    Proxy::start(&format!("{text}{LOG}"))
}

fn list16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// What a client says first that wants this host and offers these protocols, in records of so many bytes.
fn hello(name: Option<&str>, alpn: &[&str], fragment: usize) -> Vec<u8> {
    let extension = |kind: u8, data: Vec<u8>| [&[0, kind][..], &list16(&data)].concat();
    let name = name.map(|name| extension(0, list16(&[&[0][..], &list16(name.as_bytes())].concat())));
    let protocols = alpn.iter().flat_map(|name| [&[name.len() as u8][..], name.as_bytes()].concat());
    let protocols = (!alpn.is_empty()).then(|| extension(16, list16(&protocols.collect::<Vec<u8>>())));
    let versions = extension(43, vec![2, 3, 4]);
    let extensions = [name.unwrap_or_default(), protocols.unwrap_or_default(), versions].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &list16(&extensions)].concat();
    let message = [&[1, 0][..], &list16(&body)].concat();
    message.chunks(fragment).flat_map(|part| [&[22, 3, 1][..], &list16(part)].concat()).collect()
}

#[test]
fn name_and_protocol_choose_the_pool() {
    let (shop, h2, other, rest) = (Origin::new(), Origin::new(), Origin::new(), Origin::new());
    let routes = [
        ("\"shop.example.com\"", "", "shop"),
        ("\"shop.example.com\"", "\"h2\"", "h2"),
        ("\"*.example.com\"", "", "other"),
    ];
    let pools = [("shop", shop.addr()), ("h2", h2.addr()), ("other", other.addr()), ("rest", rest.addr())];
    let mut proxy = proxy("pool = \"rest\"", &routes, &pools);
    for (name, alpn, origin, pool) in [
        (Some("Shop.Example.COM"), &[][..], &shop, "shop"),
        (Some("shop.example.com"), &["http/1.1", "h2"], &h2, "h2"),
        (Some("a.b.example.com"), &["h2"], &other, "other"),
        (Some("example.com"), &[], &rest, "rest"),
        (None, &[], &rest, "rest"),
    ] {
        let mut client = proxy.connect();
        let said = hello(name, alpn, 1 << 14);
        client.send(&said);
        let mut server = origin.accept();
        server.expect(&said);
        server.send("answer");
        server.finish();
        client.expect("answer");
        client.finish();
        assert_eq!((server.rest(), client.rest()), ((Vec::new(), End::Fin), (Vec::new(), End::Fin)));
        let name = name.map_or_else(|| "-".to_owned(), str::to_lowercase);
        let alpn = if alpn.is_empty() { "-".to_owned() } else { alpn.join(",") };
        assert_eq!(proxy.log_line(), format!("{name} {alpn} TLSv1.3 {pool} 200 -"));
    }
}

#[test]
fn a_hello_may_come_in_any_pieces() {
    let origin = Origin::new();
    let proxy = proxy("", &[("\"a.test\"", "", "p")], &[("p", origin.addr())]);
    for fragment in [1, 7, 1 << 14] {
        let said = [hello(Some("a.test"), &["h2"], fragment), b"early data".to_vec()].concat();
        let mut client = proxy.connect();
        for byte in &said {
            client.send([*byte]);
        }
        origin.accept().expect(&said);
    }
}

#[test]
fn who_has_no_place_is_told_so() {
    let origin = Origin::new();
    let mut proxy = proxy("", &[("\"a.test\"", "\"h2\"", "p")], &[("p", origin.addr())]);
    for (name, alpn) in [(Some("b.test"), &["h2"][..]), (Some("a.test"), &["http/1.1"]), (None, &["h2"])] {
        let mut client = proxy.connect();
        client.send(hello(name, alpn, 1 << 14));
        assert_eq!(client.rest(), (UNRECOGNIZED_NAME.to_vec(), End::Fin));
        let line = proxy.log_line();
        assert_eq!(line, format!("{} {} TLSv1.3 - 502 no_route", name.unwrap_or("-"), alpn.join(",")));
    }
    let errors = proxy.engine().errors().errors;
    assert_eq!((errors[0].reason, &*errors[0].host, &errors[0].pool), ("no_route", "b.test", &None));
    assert!(!origin.is_wanted());
}

#[test]
fn what_is_no_hello_or_does_not_come_is_closed() {
    let origin = Origin::new();
    let stage = || proxy("header_timeout = \"50ms\"\npool = \"p\"", &[], &[("p", origin.addr())]);
    let broken = [&[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3][..], b"more"].concat();
    for (bytes, answer, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[][..], "tls_broken"),
        (broken, DECODE_ERROR, "tls_broken"),
        (hello(Some("a.test"), &[], 9)[..40].to_vec(), &[], "tls_timeout"),
    ] {
        let proxy = stage();
        let mut client = proxy.connect();
        client.send(&bytes);
        assert_eq!(client.rest().0, answer, "{}", bytes.escape_ascii());
        // It is noted once the client has been told.
        let errors = || Some(proxy.engine().errors().errors).filter(|errors| !errors.is_empty());
        let reasons: Vec<_> = wait_for("the error", errors).iter().map(|error| error.reason).collect();
        assert_eq!(reasons, [reason], "{}", bytes.escape_ascii());
    }
    // Whoever only looks whether the port is open is no failure.
    let proxy = stage();
    let mut client = proxy.connect();
    client.finish();
    client.expect_end();
    assert!(proxy.engine().errors().errors.is_empty() && !origin.is_wanted());
}

#[test]
fn a_hello_is_bounded() {
    let origin = Origin::new();
    let proxy = proxy("pool = \"p\"", &[], &[("p", origin.addr())]);
    let mut client = proxy.connect();
    // A message of 16 MiB.
    let _ = client.try_send([22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]);
    let _ = client.try_send(vec![0; 1 << 14]);
    client.rest();
    wait_for("a failure", || proxy.engine().errors().errors.first().map(|error| error.reason));
    assert!(!origin.is_wanted());
}

#[test]
fn proxy_headers_stand_before_the_hello_on_both_sides() {
    let origin = Origin::new();
    let listener = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let addr = origin.addr();
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:443\"]\nprotocol = \"tls_passthrough\"\n{listener}\n\
         [[listener.l.tls_route]]\nsni = [\"a.test\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{addr}\"]\nsend_proxy_protocol = \"v1\"\n"
    ));
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 40001 443\r\n";
    let said = hello(Some("a.test"), &[], 50);
    let mut client = proxy.connect();
    client.send([&line[..], &said].concat());
    let mut server = origin.accept();
    let came = server.bytes(line.len() + said.len());
    assert_eq!(came, [&line[..], &said].concat());
    assert!(matches!(parse(&came), Ok(Parse::Complete { len, .. }) if len == line.len()));
}

/// A server of OpenSSL that answers a line with the same line backwards.
struct Tls {
    child: Child,
    addr: SocketAddr,
}

impl Tls {
    fn start(dir: &Path, name: &str) -> Self {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (key, cert) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}"), "-keyout"])
            .args([&key, Path::new("-out"), &cert])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut child = Command::new("openssl")
            .args(["s_server", "-rev", "-alpn", "h2", "-accept", &addr.to_string(), "-key"])
            .args([&key, Path::new("-cert"), &cert])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It says that it accepts.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("ACCEPT"))).expect("a server").unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, addr }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_handshake_is_the_servers_own() {
    let dir = TempDir::new();
    let servers = ["one.test", "two.test"].map(|name| Tls::start(dir.path(), name));
    let routes = [("\"one.test\"", "", "one"), ("\"two.test\"", "\"h2\"", "two")];
    let mut proxy = proxy("", &routes, &[("one", servers[0].addr), ("two", servers[1].addr)]);
    for name in ["one.test", "two.test"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", name, "-servername", name])
            .args(["-alpn", "h2", "-connect", &proxy.addr().to_string(), "-CAfile"])
            .arg(dir.path().join(format!("{name}.pem")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        client.stdin.as_mut().unwrap().write_all(b"drawer\n").unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
        drop(client.stdin.take());
        let _ = client.kill();
        client.wait().unwrap();
        assert_eq!(line.trim_end(), "reward", "the certificate of {name} was verified by the client");
        let pool = &name[..3];
        assert!(proxy.log_line().starts_with(&format!("{name} h2 TLSv1.3 {pool} 200")));
    }
}
