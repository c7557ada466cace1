//! Clients that are not ours: curl, a WebSocket library, wrk. `tests/run` installs them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::big;
use crate::support::TempDir;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::{chunked, ok};

/// Runs a program to its end; fails with the name of its Debian package when it is not there.
fn run(package: &str, program: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}; the tests need the Debian package {package}, see tests/run"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} (package {package}): {}\n{error}", output.status);
    output
}

/// A server that says what it was asked: the method, the target, the length and the sum of the body.
fn mirror() -> Answering {
    Answering::new(|request| {
        let sum: u64 = request.body.iter().map(|b| u64::from(*b)).sum();
        let said = format!("{} {} {} {sum}\n", request.method(), request.target(), request.body.len());
        match request.target() {
            "/chunked" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                [head, chunked(said.as_bytes(), &[1, 5])].concat()
            }
            "/close" => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{said}").into_bytes(),
            _ if request.method() == "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
            _ => ok(&said).into_bytes(),
        }
    })
}

fn in_front_of(origin: &Answering) -> Proxy {
    Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         [pool.p]\nservers = [\"{}\"]\nmax_body_size = \"off\"\n",
        origin.addr()
    ))
}

#[test]
fn curl_gets_what_it_asks_for() {
    let origin = mirror();
    let proxy = in_front_of(&origin);
    let url = |target: &str| format!("http://{}{target}", proxy.addr());
    let dir = TempDir::new();
    let file = dir.path().join("upload");
    let body = big(3_000_000);
    std::fs::write(&file, &body).unwrap();
    let sum: u64 = body.iter().map(|b| u64::from(*b)).sum();
    let file = file.display().to_string();
    let curl = |args: &[&str], input: &[u8]| {
        let args = [&["--silent", "--show-error", "--fail", "--max-time", "20"], args].concat();
        String::from_utf8(run("curl", "curl", &args, input).stdout).unwrap()
    };
    let (plain, in_chunks, closing) = (url("/"), url("/chunked"), url("/close"));
    assert_eq!(curl(&[&plain], b""), "GET / 0 0\n");
    assert_eq!(curl(&[&in_chunks], b""), "GET /chunked 0 0\n");
    assert_eq!(curl(&[&closing], b""), "GET /close 0 0\n");
    for target in [&plain, &in_chunks, &closing] {
        let said = curl(&["--http1.0", target], b"");
        assert!(said.starts_with("GET /") && said.ends_with(" 0 0\n"), "{said}");
    }
    assert_eq!(curl(&["--data", "abc", &plain], b""), format!("POST / 3 {}\n", 97 + 98 + 99));
    // curl asks whether to go on before it sends so much.
    let uploaded = format!("PUT /up {} {sum}\n", body.len());
    assert_eq!(curl(&["--upload-file", &file, &url("/up")], b""), uploaded);
    assert_eq!(curl(&["--upload-file", "-", &url("/up")], &body), uploaded);
    let form = format!("upload=@{file}");
    assert!(curl(&["--form", &form, &plain], b"").starts_with("POST / 3000"));
    let said = curl(&["--header", "Expect: 100-continue", "--data-binary", "x", &plain], b"");
    assert_eq!(said, "POST / 1 120\n");
    let head = curl(&["--head", &plain], b"");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 1234\r\n"), "{head}");
    // Three transfers, one connection.
    let three = curl(&["--write-out", "%{num_connects};", &plain, &in_chunks, &plain], b"");
    assert_eq!(three, "GET / 0 0\n1;GET /chunked 0 0\n0;GET / 0 0\n0;");
}

const WEBSOCKET_SERVER: &str = r#"
import asyncio, websockets
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)
try:
    asyncio.run(main())
except EOFError:
    pass
"#;

const WEBSOCKET_CLIENT: &str = r#"
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], max_size=None) as ws:
        for message in ["hello", "", b"\x00\xff" * 10, "x" * 300_000]:
            await ws.send(message)
            assert await ws.recv() == message
        await asyncio.wait_for(await ws.ping(), 10)
        await asyncio.gather(*(ws.send(str(i)) for i in range(100)))
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
    assert ws.close_code == 1000, ws.close_code
asyncio.run(main())
"#;

#[test]
fn a_websocket_library_talks_through_the_proxy() {
    // The system's interpreter: the package is not in any other.
    let python = "/usr/bin/python3";
    let mut server = Command::new(python)
        .args(["-c", WEBSOCKET_SERVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{python}: {e}; the tests need the Debian package python3-websockets, see tests/run")
        });
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut port).unwrap();
    assert!(!port.is_empty(), "no server: the tests need the Debian package python3-websockets, see tests/run");
    let mut proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n[pool.p]\nservers = [\"127.0.0.1:{}\"]\n",
        port.trim()
    ));
    let url = format!("ws://{}/chat", proxy.addr());
    run("python3-websockets", python, &["-c", WEBSOCKET_CLIENT, &url], b"");
    assert_eq!(proxy.log_line(), "GET /chat 101 reason=- tries=1");
    // The end of its input is the end of the server.
    drop(server.stdin.take());
    server.wait().unwrap();
}

#[test]
fn wrk_sees_no_error_under_load() {
    let origin = mirror();
    let proxy = Proxy::start(&format!(
        "[global]\nworkers = 2\n[access_log]\npath = \"/log\"\n[listener.l]\nbind = [\"127.0.0.1:80\"]\npool = \"p\"\n\
         access_log = false\n[pool.p]\nservers = [\"{}\"]\n",
        origin.addr()
    ));
    for target in ["/", "/chunked"] {
        let url = format!("http://{}{target}", proxy.addr());
        let output = run("wrk", "wrk", &["-t1", "-c20", "-d1s", &url], b"");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let requests: u64 = text.lines().find_map(|l| l.trim().split_once(" requests in")?.0.parse().ok()).unwrap();
        assert!(requests > 100, "{text}");
    }
}
