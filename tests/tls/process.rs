//! The real binary: what outlives reloads, upgrades and crashes, and who reads the keys.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use super::*;
use crate::support::origin::Answering;
use crate::support::wire::ok;
use crate::support::{Instance, bascule, free_addr, kill, wait_for};

/// A listener on `addr`, whose certificate and key are beside the configuration.
fn instance(addr: SocketAddr, more: &str) -> String {
    let server = Answering::with(ok("ok")).addr();
    format!(
        "[global]\nworkers = 1\n[listener.web]\nbind = [\"{addr}\"]\npool = \"p\"\n\
         [listener.web.tls]\ncertificates = [{{ cert = \"web.crt\", key = \"web.key\" }}]\n{more}\n\
         [pool.p]\nservers = [\"{server}\"]\n"
    )
}

/// Writes certificate and key where [`instance`] looks for them.
fn write_certificate(instance: &Instance, name: &str) {
    let chain = named(name, &["shop.test"]).self_signed(&*ECDSA).unwrap().pem();
    write_secret(&instance.dir().join("web.crt"), chain.as_bytes());
    write_secret(&instance.dir().join("web.key"), ECDSA.serialize_pem().as_bytes());
}

/// Starts with a certificate called `first`.
fn start(addr: SocketAddr, more: &str) -> Instance {
    // The folder comes with the first start, which fails for want of files.
    let mut instance = Instance::spawn(&instance(addr, more));
    let _ = instance.wait();
    write_certificate(&instance, "first");
    instance.restart();
    instance.wait_for_notice("READY=1");
    instance
}

fn done(instance: &Instance, args: &[&str]) {
    let output = bascule(&[args, &["-c", &instance.config_file()]].concat());
    instance.forget_notices();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_resumed(files: &Files, addr: SocketAddr) -> bool {
    openssl(addr, &["-sess_in", &files.path("session")], GET).contains("Reused, TLSv1.3")
}

fn begin(files: &Files, addr: SocketAddr) {
    let output = openssl(addr, &["-sess_out", &files.path("session")], GET);
    assert!(output.contains("HTTP/1.1 200"), "{output}");
}

#[test]
fn keys_are_read_by_who_may_and_kept_nowhere_else() {
    let addr = free_addr();
    let instance = start(addr, "");
    assert_eq!(shown(&handshake(addr, &[])), "first");
    let key = fs::metadata(instance.dir().join("web.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    if rustix::process::getuid().is_root() {
        let proxy = fs::metadata(format!("/proc/{}", instance.proxy_pid())).unwrap();
        assert_ne!(proxy.uid(), key.uid(), "the proxy cannot read it");
    }
    let status = bascule(&["status", "-c", &instance.config_file()]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("listener web (http in TLS) on "), "{status}");
    done(&instance, &["reload"]);
    // Generations and the state: everything that was written.
    let mut folders = vec![instance.dir().join("run")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned();
                assert!(!text.contains("PRIVATE KEY"), "{}", entry.path().display());
                seen += 1;
            }
        }
    }
    assert!(seen > 1 && !instance.log().contains("PRIVATE KEY"));
}

#[test]
fn sessions_outlive_the_death_of_a_proxy_an_upgrade_and_a_reload() {
    let (addr, files) = (free_addr(), Files::new());
    let instance = start(addr, "");
    begin(&files, addr);
    assert!(is_resumed(&files, addr));
    let old = instance.proxy_pid();
    kill(old, Signal::KILL).unwrap();
    instance.next_proxy_pid(old);
    assert!(wait_for("the next proxy", || {
        let output = openssl(addr, &["-sess_in", &files.path("session")], GET);
        output.contains("HTTP/1.1 200").then(|| output.contains("Reused, TLSv1.3"))
    }));
    done(&instance, &["upgrade"]);
    assert!(is_resumed(&files, addr));
    write_certificate(&instance, "second");
    done(&instance, &["reload"]);
    assert_eq!(shown(&handshake(addr, &[])), "second");
    assert!(is_resumed(&files, addr));
}

#[test]
fn going_back_to_a_generation_brings_no_old_certificate() {
    let addr = free_addr();
    let instance = start(addr, "");
    let text = fs::read_to_string(instance.config_file()).unwrap();
    fs::write(instance.config_file(), text.replace("[pool.p]", "[pool.p]\nkeepalive = 7")).unwrap();
    write_certificate(&instance, "second");
    done(&instance, &["reload"]);
    done(&instance, &["rollback"]);
    assert_eq!(shown(&handshake(addr, &[])), "second");
}

#[test]
fn a_reload_to_a_certificate_that_cannot_be_used_changes_nothing() {
    let addr = free_addr();
    let instance = start(addr, "");
    write_secret(&instance.dir().join("web.key"), b"no key");
    let output = bascule(&["reload", "-c", &instance.config_file()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("there is no private key"), "{said}");
    assert_eq!(shown(&handshake(addr, &[])), "first");
}

/// Says that it is over, also when an assertion fails before.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_handshake_is_made_while_the_binary_and_the_certificate_change() {
    let addr = free_addr();
    let instance = start(addr, "");
    let over = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let ask = || {
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                let output = openssl(addr, &[], GET);
                assert!(output.contains("HTTP/1.1 200"), "{output}");
                times += 1;
            }
            times
        };
        let clients = [scope.spawn(ask), scope.spawn(ask)];
        let end = Ends(&over);
        for (name, command) in [("second", "reload"), ("third", "upgrade"), ("fourth", "reload")] {
            write_certificate(&instance, name);
            done(&instance, &[command]);
        }
        assert_eq!(shown(&handshake(addr, &[])), "fourth");
        drop(end);
        clients.map(|client| client.join().unwrap())
    });
    assert!(served.iter().all(|times| *times > 0), "{served:?}");
}
