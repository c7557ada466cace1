//! The whole binary with clients that are not ours: curl and nghttp2's.

use std::fs;
use std::process::{Command, Output};

use crate::support::origin::Answering;
use crate::support::wire::{chunked, reply};
use crate::support::{Instance, free_addr};

/// A body that no part of which looks like another.
fn big(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

/// The binary in front of a server that answers `/big` with a body of `len` bytes in chunks and trailers, and everything
/// else with the number of bytes it was sent.
fn start(len: usize) -> (Instance, String, Answering) {
    let body = big(len);
    let origin = Answering::new(move |request| match request.target() {
        "/big" => {
            let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            text.extend(chunked(&body, &[16_000, 3, 70_000]));
            text.truncate(text.len() - 2);
            text.extend(b"x-sum: 1\r\n\r\n");
            text
        }
        _ => reply("200 OK", "", &request.body.len().to_string()).into_bytes(),
    });
    let addr = free_addr();
    let instance = Instance::start(&format!(
        "[global]\nworkers = 2\n[listener.l]\nbind = [\"{addr}\"]\nhttp2 = true\nkeepalive_requests = 1000000\n\
         pool = \"p\"\n[pool.p]\nservers = [\"{}\"]\nkeepalive = 100\nmax_body_size = \"off\"\n",
        origin.addr()
    ));
    (instance, format!("http://{addr}"), origin)
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}; see tests/run"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_gets_and_sends_large_bodies_and_trailers() {
    let (instance, url, origin) = start(5 << 20);
    let curl = |args: &[&str]| run("curl", &[&["-sS", "--http2-prior-knowledge", "--max-time", "60"], args].concat());
    let got = curl(&[&format!("{url}/big")]);
    assert!(got.stdout == big(5 << 20), "{} bytes came", got.stdout.len());
    let trailers =
        curl(&["-o", "/dev/null", "-w", "%{http_version} %{response_code} %{num_headers}", &format!("{url}/big")]);
    assert!(text(&trailers).starts_with("2 200 "));
    assert!(text(&curl(&["-i", &format!("{url}/big")])).contains("x-sum: 1"));

    let file = instance.dir().join("upload");
    fs::write(&file, big(8 << 20)).unwrap();
    let file = file.display().to_string();
    assert_eq!(text(&curl(&["-T", &file, &format!("{url}/put")])), (8 << 20).to_string());
    let unknown =
        curl(&["-H", "Content-Length:", "-X", "POST", "--data-binary", &format!("@{file}"), &format!("{url}/post")]);
    assert_eq!(text(&unknown), (8 << 20).to_string());
    let request = origin.requests().into_iter().find(|r| r.target() == "/put").unwrap();
    assert!(request.body == big(8 << 20), "the upload is what arrived");
}

#[test]
fn nghttp_reads_what_is_sent_as_it_is_meant() {
    let (_instance, url, _origin) = start(100_000);
    let said = text(&run("nghttp", &["-nv", &format!("{url}/big")]));
    assert!(said.contains(":status: 200") && said.contains("x-sum: 1"), "{said}");
    assert!(!said.contains("transfer-encoding"), "{said}");
    // Padding and many streams with priorities.
    run("nghttp", &["-n", "-m", "20", "-b", "100", "-H", "x-test: 1", &format!("{url}/a"), &format!("{url}/b")]);
}

#[test]
fn a_thousand_requests_on_one_connection_are_all_answered() {
    let (_instance, url, origin) = start(0);
    let said = text(&run("h2load", &["-n", "1000", "-c", "1", "-m", "100", &format!("{url}/x")]));
    assert!(said.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert_eq!(origin.requests().len(), 1000);
    let said = text(&run("h2load", &["-n", "2000", "-c", "20", "-m", "10", &format!("{url}/x")]));
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
}
