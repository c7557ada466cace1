//! Certificates that are renewed, half written, mixed up and forgotten, while the real binary serves. The clients are curl and
//! OpenSSL.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rcgen::{CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams};
use serde_json::Value;

use crate::support::{Instance, TempDir, free_addr, wait_for};

/// What OpenSSL's own tool and curl call the site.
const HOST: &str = "shop.test";

/// A folder as certbot has it: `archive` with every pair that ever was, `live` with links to the pair of the day.
struct Certbot {
    dir: TempDir,
    number: AtomicU64,
}

/// One pair.
struct Pair {
    chain: PathBuf,
    key: PathBuf,
}

impl Certbot {
    fn new() -> Self {
        let dir = TempDir::new();
        for folder in ["archive", "live"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let this = Self { dir, number: AtomicU64::new(0) };
        this.renew();
        this
    }

    /// Issues a pair, of a key of its own.
    fn issue(&self) -> Pair {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let archive = self.dir.path().join("archive");
        let pair = Pair {
            chain: archive.join(format!("fullchain{number}.pem")),
            key: archive.join(format!("privkey{number}.pem")),
        };
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([HOST.to_owned()]).unwrap();
        fs::write(&pair.chain, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).unwrap();
        pair
    }

    /// Points one of the links elsewhere.
    fn link(&self, name: &str, to: &Path) {
        let (link, new) = (self.live(name), self.live("new"));
        symlink(to, &new).unwrap();
        fs::rename(new, link).unwrap();
    }

    fn renew(&self) -> Pair {
        let pair = self.issue();
        self.link("fullchain.pem", &pair.chain);
        self.link("privkey.pem", &pair.key);
        pair
    }

    fn live(&self, name: &str) -> PathBuf {
        self.dir.path().join("live").join(name)
    }

    /// What is served: a listener for https at `addr` with these, and what else is in `rest`.
    fn config(&self, addr: SocketAddr, global: &str, rest: &str) -> String {
        let live = self.dir.path().join("live");
        format!(
            "[global]\ncertificate_check_interval = \"20ms\"\n{global}\n\
             [listener.web]\nbind = [\"{addr}\"]\ntls = {{ certificates = [\"{}\"] }}\n{rest}\n\
             [site.shop]\nhosts = [\"{HOST}\"]\n[[site.shop.route]]\nrespond = {{ body = \"served\" }}\n",
            live.display()
        )
    }
}

/// What curl says, which takes only what the certificate in `chain` has signed: itself.
fn curl(addr: SocketAddr, chain: &Path) -> bool {
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "20", "--cacert"])
        .arg(chain)
        .args([
            "--resolve",
            &format!("{HOST}:{}:{}", addr.port(), addr.ip()),
            &format!("https://{HOST}:{}/", addr.port()),
        ])
        .output()
        .unwrap();
    output.status.success() && output.stdout == b"served"
}

/// A connection that OpenSSL keeps.
struct Kept {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Kept {
    fn new(addr: SocketAddr) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-servername", HOST, "-connect", &addr.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// One request, and its answer to the end of its body.
    fn get(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        while line != "\r\n" {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "closed");
        }
        let mut body = [0; 6];
        std::io::Read::read_exact(&mut self.lines, &mut body).unwrap();
        assert_eq!(&body, b"served");
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certificates(instance: &Instance) -> Value {
    instance.status()["certificates"].clone()
}

/// Waits until the status says of a file that it cannot be used.
fn wait_for_refusal(instance: &Instance, why: &str) {
    wait_for(why, || {
        let status = certificates(instance);
        let refused = status["refused"].as_array().unwrap().clone();
        refused.iter().any(|refused| refused["why"].as_str().unwrap().contains(why)).then_some(())
    });
}

#[test]
fn a_renewed_certificate_is_served_without_a_reload_and_nobody_notices() {
    let certbot = Arc::new(Certbot::new());
    let addr = free_addr();
    let config = certbot.config(
        addr,
        "script_user = \"root\"\nnotify = [\"/bin/sh\", \"-c\", 'echo \"$@\" >> {dir}/told', \"notify\"]",
        "",
    );
    let instance = Instance::start(&config);
    let (generation, pid) = (instance.status()["generation"].clone(), instance.proxy_pid());
    let mut kept = Kept::new(addr);
    kept.get();

    let stop = Arc::new(AtomicBool::new(false));
    // Any certificate will do: what counts is that all are served.
    let load = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                let url = format!("https://{addr}/");
                let host = format!("Host: {HOST}");
                let output =
                    Command::new("curl").args(["-sSfk", "--max-time", "20", "-H", &host, &url]).output().unwrap();
                assert!(output.status.success(), "after {served}: {}", String::from_utf8_lossy(&output.stderr));
                served += 1;
            }
            served
        })
    };
    for _ in 0..3 {
        let pair = certbot.renew();
        wait_for("the new certificate", || curl(addr, &pair.chain).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 0);
    // What was there before is not touched: the connection, the process, the generation.
    kept.get();
    assert_eq!((instance.status()["generation"].clone(), instance.proxy_pid()), (generation, pid));
    assert!(certificates(&instance)["refused"].as_array().unwrap().is_empty());
    let told = wait_for("the command", || {
        let told = fs::read_to_string(instance.dir().join("told")).unwrap_or_default();
        (told.lines().count() >= 3).then_some(told)
    });
    let line = format!("CERTIFICATE {} certificate_replaced it expires in", certbot.live("fullchain.pem").display());
    assert!(told.lines().all(|told| told.starts_with(&line)), "{told}");
}

#[test]
fn what_cannot_be_used_is_told_and_the_old_certificate_stays() {
    let certbot = Certbot::new();
    let addr = free_addr();
    let old = certbot.renew();
    let instance = Instance::start(&certbot.config(addr, "", ""));
    assert!(curl(addr, &old.chain));

    // A chain without its key.
    let new = certbot.issue();
    certbot.link("fullchain.pem", &new.chain);
    wait_for_refusal(&instance, "the private key is not that of the first certificate");
    assert!(curl(addr, &old.chain));
    let first = instance.done(&["status"]);
    assert!(first.lines().next().unwrap().contains("1 CERTIFICATE TO LOOK AT"), "{first}");

    // Half a file.
    let whole = fs::read(&new.chain).unwrap();
    fs::write(&new.chain, &whole[..whole.len() / 2]).unwrap();
    wait_for_refusal(&instance, "it is not PEM");
    assert!(curl(addr, &old.chain));

    // No file.
    fs::remove_file(certbot.live("fullchain.pem")).unwrap();
    wait_for("the folder without its chain", || {
        (certificates(&instance)["refused"][0]["file"] != Value::Null).then_some(())
    });
    assert!(curl(addr, &old.chain));

    // A new process has what is in force, whatever is in the files.
    let proxy = instance.proxy_pid();
    crate::kill(proxy, crate::Signal::KILL).unwrap();
    instance.next_proxy_pid(proxy);
    wait_for("the old certificate", || curl(addr, &old.chain).then_some(()));

    // All is well in the end.
    fs::write(&new.chain, &whole).unwrap();
    certbot.link("fullchain.pem", &new.chain);
    certbot.link("privkey.pem", &new.key);
    wait_for("the new certificate", || curl(addr, &new.chain).then_some(()));
    wait_for("no refusal", || certificates(&instance)["refused"].as_array().unwrap().is_empty().then_some(()));
    assert!(!instance.log().contains("PRIVATE"), "{}", instance.log());
}

/// What OpenSSL says of a handshake with `arguments`.
fn handshake(addr: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-servername", HOST, "-connect", &addr.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn staples_ticket_keys_and_lists_of_the_revoked_come_the_same_way() {
    let certbot = Certbot::new();
    let addr = free_addr();
    let path = |name: &str| certbot.dir.path().join(name).display().to_string();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    fs::write(path("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    let revoke = |serials: &[u64]| {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(path("new"), list.signed_by(&authority).unwrap().pem().unwrap()).unwrap();
        fs::rename(path("new"), path("crl.pem")).unwrap();
    };
    revoke(&[]);
    fs::write(path("tickets"), [1; 80]).unwrap();
    let mut client = CertificateParams::new([]).unwrap();
    client.serial_number = Some(7.into());
    let key = KeyPair::generate().unwrap();
    fs::write(path("client.pem"), client.signed_by(&key, &authority).unwrap().pem() + &key.serialize_pem()).unwrap();

    let tls = format!(
        "[listener.web.tls]\ncertificates = [\"{}\"]\nticket_key_file = \"{}\"\nclient_auth = \"optional\"\n\
         client_ca = \"{}\"\nclient_crl = \"{}\"\n",
        path("live"),
        path("tickets"),
        path("ca.pem"),
        path("crl.pem")
    );
    let config = certbot.config(addr, "", &tls);
    let inline = config.lines().find(|line| line.starts_with("tls = ")).unwrap().to_owned();
    let instance = Instance::start(&config.replace(&inline, ""));

    assert!(handshake(addr, &["-status"]).contains("no response sent"));
    fs::write(certbot.live("fullchain.ocsp"), "not for OpenSSL to like").unwrap();
    wait_for("a staple", || (!handshake(addr, &["-status"]).contains("no response sent")).then_some(()));

    let session = path("session");
    let resumes = || handshake(addr, &["-sess_in", &session]).contains("Reused, TLSv1.2");
    handshake(addr, &["-sess_out", &session]);
    assert!(resumes());
    fs::write(path("tickets"), [2; 80]).unwrap();
    wait_for("other ticket keys", || (!resumes()).then_some(()));

    let client = path("client.pem");
    let is_revoked = || handshake(addr, &["-cert", &client, "-key", &client]).contains("certificate revoked");
    assert!(!is_revoked());
    revoke(&[7]);
    wait_for("the revocation", || is_revoked().then_some(()));
    instance.wait_for_log("crl.pem: other contents");
    assert!(!instance.log().contains("another certificate is in force"));
}

#[test]
fn a_reload_takes_over_what_has_changed_where_nobody_looks_at_files() {
    let certbot = Certbot::new();
    let addr = free_addr();
    let config = certbot.config(addr, "", "").replace("\"20ms\"", "\"off\"");
    let instance = Instance::start(&config);
    let pair = certbot.renew();
    assert!(!curl(addr, &pair.chain));
    let said = instance.done(&["reload"]);
    assert!(said.contains("fullchain.pem: other contents"), "{said}");
    assert!(curl(addr, &pair.chain));
}

#[test]
fn going_back_to_an_earlier_configuration_brings_no_old_certificate() {
    let certbot = Certbot::new();
    let addr = free_addr();
    let config = certbot.config(addr, "", "").replace("\"20ms\"", "\"off\"");
    let instance = Instance::start(&config);
    let pair = certbot.renew();
    instance.write(&config.replace("\"served\"", "\"changed\""));
    instance.done(&["reload", "--confirm", "100ms"]);
    instance.wait_for_log("nobody has confirmed the configuration");
    wait_for("the earlier configuration", || curl(addr, &pair.chain).then_some(()));
    assert_eq!(instance.status()["certificates"]["in_force"].as_array().unwrap().len(), 1);
}

#[test]
fn a_certificate_that_nobody_renewed_is_told_at_once() {
    let certbot = Certbot::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    fs::write(certbot.dir.path().join("archive/fullchain0.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(certbot.dir.path().join("archive/privkey0.pem"), key.serialize_pem()).unwrap();
    let command = "script_user = \"root\"\nnotify = [\"/bin/sh\", \"-c\", 'echo \"$@\" >> {dir}/told', \"notify\"]";
    let instance = Instance::start(&certbot.config(free_addr(), command, ""));
    let file = certbot.live("fullchain.pem");
    instance.wait_for_log("this certificate has expired");
    let told = wait_for("the command", || {
        fs::read_to_string(instance.dir().join("told")).ok().filter(|told| told.ends_with('\n'))
    });
    assert_eq!(told, format!("CERTIFICATE {} certificate_expired it has expired\n", file.display()));
    let status = certificates(&instance);
    assert_eq!((&status["in_force"][0]["state"], &status["in_force"][0]["key"]), (&"expired".into(), &"ECDSA".into()));
    assert!(status["in_force"][0]["days_left"].as_i64().unwrap() < 0);
    let text = instance.done(&["status"]);
    assert!(text.contains("HAS EXPIRED: 2021-01-01T00:00:00Z"), "{text}");
}

#[test]
fn challenges_get_through_where_everything_else_is_sent_to_https() {
    let certbot = Certbot::new();
    let (https, http) = (free_addr(), free_addr());
    let plain = format!(
        "[listener.plain]\nbind = [\"{http}\"]\nredirect_https = {{ port = {} }}\nacme_challenge_dir = \"{{dir}}/acme\"\n",
        https.port()
    );
    let rest = format!("acme_challenge_dir = \"{{dir}}/acme\"\nhsts = true\n{plain}");
    let instance = Instance::start(&certbot.config(https, "", &rest));
    let folder = instance.dir().join("acme/.well-known/acme-challenge");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("token"), "token.thumbprint").unwrap();
    // As root the proxy is another user.
    for dir in folder.ancestors().take_while(|dir| dir.starts_with(instance.dir())) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let challenge = "/.well-known/acme-challenge/token";
    let curl = |url: &str, more: &[&str]| {
        let resolve = |addr: SocketAddr| format!("{HOST}:{}:{}", addr.port(), addr.ip());
        let output = Command::new("curl")
            .args(["-sSk", "--max-time", "20", "--resolve", &resolve(http), "--resolve", &resolve(https)])
            .args(more)
            .arg(url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (plain, secure) = (format!("http://{HOST}:{}", http.port()), format!("https://{HOST}:{}", https.port()));
    assert_eq!(curl(&format!("{plain}{challenge}"), &[]), "token.thumbprint");
    assert_eq!(curl(&format!("{secure}{challenge}"), &[]), "token.thumbprint");
    let sent = curl(&format!("{plain}/a%20b?c"), &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"]);
    assert_eq!(sent, format!("308 {secure}/a%20b?c"));
    // There it ends, and browsers are told to come there first.
    let last = curl(
        &format!("{plain}/"),
        &["-L", "-w", " %{num_redirects} %{http_version} %header{strict-transport-security}"],
    );
    assert_eq!(last, "served 1 2 max-age=31536000");
    let text = instance.done(&["explain", &format!("{plain}/")]);
    assert!(text.contains(&format!("redirect_https 308 to {secure}/")), "{text}");
}
