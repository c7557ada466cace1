//! The whole binary between client and server of grpcio, the C implementation that most languages use.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{Instance, free_addr};

/// Which has the package of tests/run, whatever else is first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// Ended with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn grpcio_talks_to_grpcio() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc/server.py");
    let server = Command::new(PYTHON).arg(script).stdout(Stdio::piped()).spawn().expect("python3; see tests/run");
    let mut server = Running(server);
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().expect("a port of the server; see tests/run");
    let addr = free_addr();
    let instance = Instance::start(&format!(
        "[global]\nworkers = 2\n[access_log]\npath = \"{{dir}}/access.log\"\nformat = \"$request_uri $status $reason\"\n\
         [listener.l]\nbind = [\"{addr}\"]\nhttp2 = true\npool = \"p\"\n\
         [pool.p]\nservers = [\"127.0.0.1:{port}\"]\nhttp_version = \"2\"\nmax_body_size = \"off\"\n"
    ));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc/client.py");
    let client = Command::new(PYTHON).arg(script).arg(addr.to_string()).output().unwrap();
    let log = fs::read_to_string(instance.dir().join("access.log")).unwrap_or_default();
    assert!(client.status.success(), "{}\n{log}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(String::from_utf8_lossy(&client.stdout).trim(), "all is well");
}
