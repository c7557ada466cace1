//! HAProxy, whose protocol it is, in front and behind at the same time.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::proxy::Proxy;
use crate::support::wire::{Peer, get};
use crate::support::{TempDir, connect, free_addr, wait_for};

/// A running HAProxy.
struct HaProxy {
    child: Child,
    _dir: TempDir,
}

impl HaProxy {
    /// With this configuration; accepts on `addr` when this returns.
    fn start(config: &str, addr: SocketAddr) -> Self {
        let dir = TempDir::new();
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let haproxy = Self { child: command.spawn().unwrap(), _dir: dir };
        wait_for("HAProxy", || connect(addr).ok());
        haproxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn haproxy_in_front_and_haproxy_behind_agree_on_the_client() {
    // The version in front, and what only its second one has: a checksum, and an id that is passed on.
    let fronts = [("send-proxy", None), ("send-proxy-v2 proxy-v2-options crc32c,unique-id", Some("id-of-the-test"))];
    for (send, id) in fronts {
        for (protocol, version) in [("tcp", "v1"), ("tcp", "v2"), ("http", "v1"), ("http", "v2")] {
            let (front, behind) = (free_addr(), free_addr());
            let proxy = Proxy::start(&format!(
                "[listener.l]\nbind = [\"127.0.0.1:80\"]\nprotocol = \"{protocol}\"\npool = \"p\"\n\
                 proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
                 [pool.p]\nservers = [\"{behind}\"]\nsend_proxy_protocol = \"{version}\"\n"
            ));
            let config = format!(
                "defaults\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                 frontend front\n mode tcp\n bind {front}\n unique-id-format id-of-the-test\n default_backend between\n\
                 backend between\n mode tcp\n server bascule {} {send}\n\
                 frontend behind\n mode http\n bind {behind} accept-proxy\n http-request return status 200 \
                 content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_unique_id]\"\n",
                proxy.addr()
            );
            let _haproxy = HaProxy::start(&config, front);
            let mut client = Peer::connect(front);
            client.send(get("/"));
            let id = id.filter(|_| version == "v2").unwrap_or_default();
            let expected = format!("{} {front} {id}", client.local_addr());
            assert_eq!(client.response().text(), expected, "{send}, {protocol}, {version}");
        }
    }
}

#[test]
fn curl_sends_a_header_before_its_tls() {
    let dir = TempDir::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = dir.path().join("a.pem");
    fs::write(&file, certificate.pem() + &key.serialize_pem()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:443\"]\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         tls = {{ certificates = [\"{}\"] }}\n[[site.s.route]]\nrespond = {{ body = \"$proxy_protocol_addr\" }}\n\
         [access_log]\npath = \"/log\"\nformat = '$proxy_protocol_server_addr:$proxy_protocol_server_port $http2'\n",
        file.display()
    ));
    let addr = proxy.addr();
    for (version, http2) in [("--http1.1", "-"), ("--http2", "h2")] {
        let resolve = format!("a.test:{}:127.0.0.1", addr.port());
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--haproxy-protocol",
                version,
                "--resolve",
                &resolve,
            ])
            .args([Path::new("--cacert"), &file, Path::new(&format!("https://a.test:{}/", addr.port()))])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "127.0.0.1", "{version}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(proxy.log_line(), format!("{addr} {http2}"));
    }
}
