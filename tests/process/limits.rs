//! Limits and access lists as an operator sees them: the real binary, its commands, two workers.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::bascule;
use crate::support::{Instance, connect, free_addr};

fn start(addr: SocketAddr) -> Instance {
    Instance::start(&format!(
        "[global]\nworkers = 2\n[listener.web]\nbind = [\"{addr}\"]\nlimits = [\"slow\"]\n\
         [[listener.web.route]]\nname = \"admin\"\npath = \"/admin\"\nallow = [\"10.0.0.0/8\"]\nrespond = {{ body = \"\" }}\n\
         [[listener.web.route]]\npath = \"/\"\nrespond = {{ body = \"\" }}\n\
         [limit.slow]\nrate = \"1/h\"\nburst = 1\n"
    ))
}

/// What a command that succeeds prints.
fn tell(instance: &Instance, args: &[&str]) -> String {
    let file = instance.config_file();
    let (first, rest) = args.split_first().unwrap();
    let output = bascule(&[&[*first, "-c", &file], rest].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn status_line(addr: SocketAddr, target: &str) -> String {
    let mut stream = connect(addr).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.lines().next().unwrap().to_owned()
}

#[test]
fn status_and_a_reload_know_what_a_limit_has_decided() {
    let addr = free_addr();
    let instance = start(addr);
    let ok = "HTTP/1.1 200 OK";
    let too_many = "HTTP/1.1 429 Too Many Requests";
    assert_eq!([status_line(addr, "/"), status_line(addr, "/"), status_line(addr, "/")], [ok, ok, too_many]);
    let text = tell(&instance, &["status"]);
    assert!(text.contains("\nlimit slow (1/h, burst 1): 1 keys, 2 passed, 1 rejected\n"), "{text}");
    let file = instance.config_file();
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("burst = 1\n", "burst = 2\n")).unwrap();
    let changes = tell(&instance, &["reload"]);
    assert!(changes.contains("~ limit.slow.burst: 1 -> 2"), "{changes}");
    assert_eq!([status_line(addr, "/"), status_line(addr, "/")], [ok, too_many]);
    let text = tell(&instance, &["status"]);
    assert!(text.contains("\nlimit slow (1/h, burst 2): 1 keys, 3 passed, 2 rejected\n"), "{text}");
}

#[test]
fn explain_says_who_comes_in_and_what_counts() {
    let addr = free_addr();
    let instance = start(addr);
    let found = tell(&instance, &["explain", &format!("http://{addr}/")]);
    assert!(found.contains("limit     slow (1/h, burst 1; key 127.0.0.1/32)\n"), "{found}");
    let admin = format!("http://{addr}/admin");
    let found = tell(&instance, &["explain", &admin]);
    assert!(found.contains("access    route admin: 127.0.0.1 is denied: no network of `allow` has it\n"), "{found}");
    assert!(found.contains("action    403 denied\n"), "{found}");
    let found = tell(&instance, &["explain", &admin, "--client", "10.1.2.3"]);
    assert!(found.contains("access    route admin: 10.1.2.3 is allowed by 10.0.0.0/8\n"), "{found}");
    assert!(found.contains("action    respond 200"), "{found}");
    // Nothing was counted.
    assert!(tell(&instance, &["status"]).contains(": 0 keys, 0 passed\n"));
    assert_eq!(status_line(addr, "/admin"), "HTTP/1.1 403 Forbidden");
}
