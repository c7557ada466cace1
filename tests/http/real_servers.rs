//! Servers that are not ours: OpenSSL's, and nginx with HTTP/2, with TLS and certificates of clients.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::big;
use crate::support::pki::Authority;
use crate::support::proxy::Proxy;
use crate::support::wire::{Message, Peer, get};
use crate::support::{connect, free_addr, wait_for};

/// A process that is ended with its owner.
struct Running(Child);

impl Running {
    /// Starts `command`, and waits until it takes connections at `addr`.
    fn start(command: &mut Command, addr: SocketAddr) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; see tests/run")));
        wait_for("a server", || connect(addr).ok());
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(addr: SocketAddr, authority: &Authority, more: &str) -> String {
    let ca = authority.file();
    format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [\"{addr}\"]\n{more}\n\
         [pool.p.tls]\nca = \"{}\"\nserver_name = \"real.test\"\n",
        ca.display()
    )
}

fn ask(client: &mut Peer, target: &str) -> Message {
    client.send(get(target));
    client.response()
}

#[test]
fn openssl_serves_in_both_versions_of_tls() {
    let authority = Authority::new();
    let leaf = authority.sign("server", &["real.test"]);
    for version in ["-tls1_2", "-tls1_3"] {
        let addr = free_addr();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", version, "-accept", &addr.to_string()]);
        command.arg("-cert").arg(&leaf.certificate).arg("-key").arg(&leaf.key);
        let _server = Running::start(&mut command, addr);
        let proxy = Proxy::start(&text(addr, &authority, ""));
        // It closes each connection after its answer: the second one resumes the session.
        for _ in 0..2 {
            let answer = ask(&mut proxy.connect(), "/");
            assert!(answer.status() == 200 && answer.text().contains("Ciphers supported in s_server"), "{version}");
        }
    }
}

/// nginx for `addr` in `dir`, with a file of `len` bytes at `/big`.
fn nginx(dir: &Path, addr: SocketAddr, listen: &str, more: &str, len: usize) -> Running {
    fs::write(dir.join("big"), big(len)).unwrap();
    let folder = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
         server {{ listen {addr} {listen}; root {folder}; {more}\n\
         location /say {{ add_header X-Said \"$http2 $ssl_server_name $ssl_client_verify\" always; return 200 said; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    Running::start(Command::new("nginx").arg("-e").arg(dir.join("start.log")).arg("-c").arg(file), addr)
}

#[test]
fn nginx_serves_over_http2_with_tls_and_asks_for_our_certificate() {
    let authority = Authority::new();
    let server = authority.sign("server", &["real.test"]);
    let own = authority.sign("own", &["proxy.test"]);
    let addr = free_addr();
    let tls = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; ssl_verify_client on;",
        server.certificate.display(),
        server.key.display(),
        authority.file().display()
    );
    let len = 4 << 20;
    let _server = nginx(authority.folder(), addr, "ssl http2", &tls, len);
    let config = text(addr, &authority, "http_version = \"2\"\nretries = 0");
    let proxy = Proxy::start(&format!("{config}client_certificate = \"{}\"\n", own.certificate.display()));
    let mut client = proxy.connect();
    let said = ask(&mut client, "/say");
    assert_eq!((said.status(), said.field("x-said"), said.text()), (200, Some("h2 real.test SUCCESS"), "said"));
    assert!(ask(&mut client, "/big").body == big(len));
    // More than nginx allows on a connection before it says goodbye: 1000. So do we, towards clients.
    for _ in 0..2 {
        let mut client = proxy.connect();
        for _ in 0..600 {
            assert_eq!(ask(&mut client, "/say").text(), "said");
        }
    }
    // Without our certificate nginx answers 400, in HTTP.
    let proxy = Proxy::start(&config);
    assert_eq!(ask(&mut proxy.connect(), "/say").status(), 400);
}

#[test]
fn nginx_serves_over_http2_in_the_clear() {
    let authority = Authority::new();
    let addr = free_addr();
    let len = 1 << 20;
    let _server = nginx(authority.folder(), addr, "http2", "", len);
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{addr}\"]\nhttp_version = \"2\"\n"
    ));
    let mut client = proxy.connect();
    assert_eq!(ask(&mut client, "/say").field("x-said"), Some("h2c"));
    assert!(ask(&mut client, "/big").body == big(len));
    assert_eq!(ask(&mut client, "/missing").status(), 404);
}
