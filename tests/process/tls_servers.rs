//! TLS to servers by the real binary: keys that the proxy may not read, checks, and what operators are told.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::pki::Authority;
use crate::support::tls_origin::TlsOrigin;
use crate::support::wire::{Peer, get};
use crate::support::{Instance, bascule, free_addr, wait_for};

fn tell(instance: &Instance, command: &str) -> String {
    let output = bascule(&[command, "-c", &instance.config_file()]);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn operators_are_told_why_a_server_is_not_trusted_and_the_key_is_for_the_supervisor_only() {
    let authority = Authority::new();
    let server = authority.sign("server", &["127.0.0.1"]);
    let good = TlsOrigin::answering(server.server(Some(&authority)), "well");
    let other = authority.sign("other", &["other.test"]);
    let bad = TlsOrigin::answering(other.server(None), "never");
    let own = authority.sign("own", &["proxy.test"]);
    fs::set_permissions(&own.key, fs::Permissions::from_mode(0o600)).unwrap();
    let addrs = [free_addr(), free_addr()];
    let check = "health_check = { type = \"http\", interval = \"100ms\" }";
    let tls = format!(
        "tls = {{ ca = \"{}\", client_certificate = \"{}\", client_key = \"{}\" }}",
        authority.file().display(),
        own.certificate.display(),
        own.key.display()
    );
    let instance = Instance::start(&format!(
        "[global]\nworkers = 1\n\
         [listener.good]\nbind = [\"{}\"]\npool = \"good\"\n[listener.bad]\nbind = [\"{}\"]\npool = \"bad\"\n\
         [pool.good]\nservers = [\"{}\"]\n{tls}\n{check}\n[pool.checked]\nservers = [\"{}\"]\n{tls}\n{check}\n\
         [pool.bad]\nservers = [\"{}\"]\n{tls}\n",
        addrs[0],
        addrs[1],
        good.addr(),
        bad.addr(),
        bad.addr()
    ));
    let mut client = Peer::connect(addrs[0]);
    client.send(get("/"));
    assert_eq!(client.response().text(), "well");
    assert!(good.greeted().iter().all(|greeted| greeted.has_certificate));
    let status = wait_for("a verdict", || {
        let status = tell(&instance, "status");
        status.contains("health check: no TLS").then_some(status)
    });
    assert!(status.contains("pool good (round_robin, TLS): 1 of 1 up"), "{status}");
    assert!(status.contains("not valid for name"), "{status}");
    instance.wait_for_log("server is down");
    let mut client = Peer::connect(addrs[1]);
    client.send(get("/"));
    assert_eq!(client.response().status(), 502);
    let errors = wait_for("the failure", || {
        let errors = tell(&instance, "errors");
        errors.contains("-> 502").then_some(errors)
    });
    assert!(errors.contains("server_certificate (") && errors.contains("not valid for name"), "{errors}");
}
