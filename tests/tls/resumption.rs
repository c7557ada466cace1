//! Session tickets: who resumes what, and who does not.

use super::*;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::ok;

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// Keeps a session of `name` on `addr` in a file, and says how the handshake went.
fn begin(files: &Files, addr: SocketAddr, args: &[&str]) -> String {
    openssl(addr, &[&["-sess_out", &files.path("session")][..], args].concat(), GET)
}

/// Comes again with that session.
fn again(files: &Files, addr: SocketAddr, args: &[&str]) -> String {
    openssl(addr, &[&["-sess_in", &files.path("session")][..], args].concat(), GET)
}

fn is_resumed(output: &str) -> bool {
    let (new, reused) = (output.contains("New, TLSv1."), output.contains("Reused, TLSv1."));
    assert!(new != reused, "{output}");
    reused
}

fn server() -> SocketAddr {
    Answering::with(ok("ok")).addr()
}

#[test]
fn a_session_is_resumed_in_both_versions_and_the_server_can_be_told() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let rest = "[pool.p.response_headers.set]\nX-Reused = \"$ssl_session_reused\"\n";
    let proxy = Proxy::start(&config(&tls, server(), rest));
    for version in VERSIONS {
        assert!(!is_resumed(&begin(&files, proxy.addr(), &[version])));
        let output = again(&files, proxy.addr(), &[version]);
        assert!(is_resumed(&output) && output.contains("X-Reused: r"), "{output}");
    }
}

#[test]
fn without_tickets_nothing_is_resumed() {
    let files = Files::new();
    let tls = certificates(&[files.server("a", &["shop.test"], &ECDSA)]) + "\nsession_tickets = false";
    let proxy = Proxy::start(&config(&tls, server(), ""));
    for version in VERSIONS {
        let output = begin(&files, proxy.addr(), &[version]);
        assert!(!output.contains("TLS session ticket:"), "{output}");
    }
}

#[test]
fn a_reload_that_changes_the_listener_keeps_the_keys() {
    let files = Files::new();
    let one = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let other = certificates(&[files.server("b", &["shop.test"], &ECDSA)]) + "\nhandshake_timeout = \"9s\"";
    let server = server();
    let mut proxy = Proxy::start(&config(&one, server, ""));
    begin(&files, proxy.addr(), &[]);
    proxy.reload(&config(&other, server, ""));
    assert!(is_resumed(&again(&files, proxy.addr(), &[])));
}

#[test]
fn boxes_with_the_same_key_file_resume_each_other_s_sessions_also_while_it_is_rotated() {
    let files = Files::new();
    let [old, new] = [1, 2].map(|byte| files.write(&format!("{byte}.key"), [byte; 80]));
    let certificate = certificates(&[files.server("a", &["shop.test"], &ECDSA)]);
    let run =
        |keys: &[&String]| Proxy::start(&config(&format!("{certificate}\nticket_key_file = {keys:?}"), server(), ""));
    let [one, two, rotated, strange] = [run(&[&old]), run(&[&old]), run(&[&new, &old]), run(&[&new])];
    for version in VERSIONS {
        begin(&files, one.addr(), &[version]);
        let resumes = |proxy: &Proxy| is_resumed(&again(&files, proxy.addr(), &[version]));
        assert!(resumes(&two) && resumes(&rotated) && !resumes(&strange));
        begin(&files, rotated.addr(), &[version]);
        assert!(resumes(&strange) && !resumes(&one));
    }
}

#[test]
fn no_session_is_resumed_where_clients_must_show_something_else() {
    let files = Files::new();
    let authority = files.authority();
    let alice = files.client("alice", 1, &authority);
    let certificate = files.server("a", &["*.test"], &ECDSA);
    let key = files.write("key", [1; 80]);
    let tls = format!(
        "{}\nticket_key_file = \"{key}\"\nclient_ca = \"{}\"\nclient_auth = ",
        certificates(&[certificate]),
        files.path("ca.pem")
    );
    let server = server();
    let run = |mode: &str| Proxy::start(&config(&format!("{tls}\"{mode}\""), server, ""));
    let with = ["-cert", &alice];
    let [open, optional, required] = ["optional", "optional", "required"].map(run);
    let off = Proxy::start(&config(
        &tls.replace(&format!("client_ca = \"{}\"\nclient_auth = ", files.path("ca.pem")), ""),
        server,
        "",
    ));
    for version in VERSIONS {
        // The same demands on another instance: resumed.
        begin(&files, open.addr(), &[version]);
        assert!(is_resumed(&again(&files, optional.addr(), &[version])));
        // CVE-2025-23419: without a certificate at one place, and in at another by the ticket.
        let output = again(&files, required.addr(), &[version]);
        assert!(!output.contains("HTTP/1.1 200") && !output.contains("Reused"), "{output}");
        begin(&files, off.addr(), &[version]);
        let output = again(&files, required.addr(), &[version]);
        assert!(!output.contains("HTTP/1.1 200") && !output.contains("Reused"), "{output}");
        // With one it is the whole handshake again.
        let output = again(&files, required.addr(), &[&with[..], &[version]].concat());
        assert!(!is_resumed(&output) && output.contains("HTTP/1.1 200"), "{output}");
    }
}

#[test]
fn a_session_of_one_site_opens_no_other_of_the_same_listener() {
    let files = Files::new();
    let authority = files.authority();
    files.client("alice", 1, &authority);
    let certificate = files.server("a", &["*.test"], &ECDSA);
    let text = format!(
        "[listener.web]\nbind = [\"127.0.0.1:1\"]\npool = \"p\"\n[listener.web.tls]\n{}\n[pool.p]\nservers = [\"{}\"]\n\
         [site.secret]\nhosts = [\"secret.test\"]\ntls = {{ client_auth = \"required\", client_ca = \"{}\" }}\n\
         [[site.secret.route]]\npool = \"p\"\n",
        certificates(&[certificate]),
        server(),
        files.path("ca.pem"),
    );
    let proxy = Proxy::start(&text);
    for version in VERSIONS {
        begin(&files, proxy.addr(), &[version, "-servername", "shop.test"]);
        assert!(is_resumed(&again(&files, proxy.addr(), &[version, "-servername", "shop.test"])));
        let output = again(&files, proxy.addr(), &[version, "-servername", "secret.test"]);
        assert!(!output.contains("HTTP/1.1 200") && !output.contains("Reused"), "{output}");
    }
}
