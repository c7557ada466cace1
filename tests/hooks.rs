//! What the real binary does to tell the world of changes of state.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "support/fault_origin.rs"]
mod fault_origin;
mod support;

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fault_origin::{Refusing, handing_server, server, without_root};
use support::status_field;
use support::wire::{Peer, ok, reply};

const BODY: &str = "{\"state\":\"active\"}";

/// Starts `bascule webhook` as the supervisor does, with more arguments.
fn begin(url: &str, more: &[String]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bascule"))
        .args(["webhook", &format!("--supervisor={}", std::process::id())])
        .args(more)
        .args(["--", url])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(BODY.as_bytes());
    child
}

/// Posts; the exit status and the reason.
fn post(url: &str) -> (i32, String) {
    result(&begin(url, &[]).wait_with_output().unwrap())
}

fn result(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8(output.stderr.clone()).unwrap().trim_end().to_owned())
}

#[test]
fn a_webhook_is_one_post_of_what_is_on_standard_input() {
    let (addr, accepted) = handing_server();
    let child = begin(&format!("http://{addr}/vrrp/in?token=a%20b"), &[]);
    let mut peer = Peer::new(accepted.next());
    let request = peer.request();
    assert_eq!(request.line, "POST /vrrp/in?token=a%20b HTTP/1.1");
    assert_eq!(request.field("host"), Some(addr.to_string().as_str()));
    assert_eq!(request.field("content-type"), Some("application/json"));
    assert_eq!(request.field("content-length"), Some(BODY.len().to_string().as_str()));
    assert_eq!(request.field("connection"), Some("close"));
    assert!(request.field("user-agent").unwrap().starts_with("bascule/"));
    assert_eq!(request.text(), BODY);
    peer.send(reply("204 No Content", "", ""));
    assert_eq!(result(&child.wait_with_output().unwrap()), (0, String::new()));
}

#[test]
fn a_url_needs_no_path() {
    let (addr, accepted) = handing_server();
    let child = begin(&format!("http://localhost:{}", addr.port()), &[]);
    let mut peer = Peer::new(accepted.next());
    let request = peer.request();
    assert_eq!(request.line, "POST / HTTP/1.1");
    assert_eq!(request.field("host"), Some(format!("localhost:{}", addr.port()).as_str()));
    peer.send(ok(""));
    assert_eq!(result(&child.wait_with_output().unwrap()).0, 0);
}

#[test]
fn the_exit_status_says_whether_to_try_again() {
    for (status, expected) in [
        ("200 OK", (0, String::new())),
        ("202 Accepted", (0, String::new())),
        // Not followed.
        ("302 Found", (1, "answered 302 Found".to_owned())),
        ("404 Not Found", (1, "answered 404 Not Found".to_owned())),
        ("500 Internal Server Error", (75, "answered 500 Internal Server Error".to_owned())),
        ("503 Service Unavailable", (75, "answered 503 Service Unavailable".to_owned())),
    ] {
        let addr = server(move |stream| {
            let mut peer = Peer::new(stream);
            peer.request();
            peer.send(reply(status, "Location: /elsewhere\r\n", ""));
        });
        assert_eq!(post(&format!("http://{addr}/")), expected);
    }
    let refusing = Refusing::new();
    let expected = (75, "cannot connect: Connection refused (os error 111)".to_owned());
    assert_eq!(post(&format!("http://{}/", refusing.addr)), expected);
    for url in ["https://127.0.0.1/", "127.0.0.1", "/path", "http://a b/", ""] {
        assert_eq!(post(url), (1, "not a URL of http".to_owned()), "{url}");
    }
}

#[test]
fn a_server_that_misbehaves_does_no_harm() {
    let addr = server(|stream| {
        let mut peer = Peer::new(stream);
        peer.request();
        let _ = peer.try_send("SSH-2.0-OpenSSH\r\n\r\n");
    });
    let (code, reason) = post(&format!("http://{addr}/"));
    assert!(code == 1 && reason.starts_with("not understood: "), "{code} {reason}");

    // A head, then a body, without an end.
    for (begin, code) in [("", 1), ("Content-Length: 99999999999\r\n\r\n", 0)] {
        let addr = server(move |stream| {
            let mut peer = Peer::new(stream);
            peer.request();
            let line = format!("X-Line: {}\r\n", "x".repeat(1000));
            let _ = peer.try_send(format!("HTTP/1.1 200 OK\r\n{begin}"));
            while peer.try_send(&line).is_ok() {}
        });
        let (got, reason) = post(&format!("http://{addr}/"));
        assert_eq!(got, code, "{reason}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_left_after_5_s() {
    let (addr, accepted) = handing_server();
    let before = Instant::now();
    assert_eq!(post(&format!("http://{addr}/")), (1, "no answer in 5 s".to_owned()));
    assert!(before.elapsed() >= Duration::from_secs(5));
    drop(accepted);
}

#[test]
fn the_process_that_posts_has_no_privileges() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody: Vec<_> = passwd.lines().find(|l| l.starts_with("nobody:")).unwrap().split(':').collect();
    let ids = [format!("--uid={}", nobody[2]), format!("--gid={}", nobody[3])];
    let (addr, accepted) = handing_server();
    let child = begin(&format!("http://{addr}/"), if without_root() { &[] } else { &ids });
    let pid = child.id();
    let mut peer = Peer::new(accepted.next());
    peer.request();
    assert_eq!(support::comm(pid).as_deref(), Some("bascule-webhook"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_field(pid, "NoNewPrivs"), "1");
    if !without_root() {
        assert_eq!(status_field(pid, "Uid"), [nobody[2]; 4].join("\t"));
        assert_eq!(status_field(pid, "Gid"), [nobody[3]; 4].join("\t"));
        assert_eq!(status_field(pid, "Groups"), "");
    }
    peer.send(ok(""));
    assert_eq!(result(&child.wait_with_output().unwrap()).0, 0);
}

#[test]
fn only_the_supervisor_s_own_children_post() {
    let output = support::bascule(&["webhook", "--supervisor=1", "http://127.0.0.1:1/"]);
    assert_eq!(result(&output), (1, "the supervisor is gone".to_owned()));
}
