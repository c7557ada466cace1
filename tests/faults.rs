//! Faults of servers, clients and the box, with the real binary: what clients see, what it costs, what the log says.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "support/fault_origin.rs"]
mod fault_origin;
mod support;
mod faults {
    pub(crate) mod http;
    pub(crate) mod netns;

    mod client;
    mod resources;
    mod server;
}

use std::net::SocketAddr;

use fault_origin::log_lines;
use support::{Instance, free_addr, status_field};

/// A running instance with an HTTP listener, and a TCP one to the same pool.
struct Proxy {
    instance: Instance,
    http: SocketAddr,
    tcp: SocketAddr,
}

/// More keys of `[global]`, of the HTTP listener and of the pool; where the access log goes, if anywhere.
struct Keys<'a> {
    global: &'a str,
    listener: &'a str,
    pool: &'a str,
    log: Option<&'a str>,
}

impl Default for Keys<'_> {
    fn default() -> Self {
        Self { global: "", listener: "", pool: "", log: Some("{dir}/access.log") }
    }
}

impl Proxy {
    /// One worker in front of `servers`.
    fn start(servers: &[SocketAddr], pool: &str) -> Self {
        Self::start_with(servers, &Keys { pool, ..Keys::default() })
    }

    fn start_with(servers: &[SocketAddr], keys: &Keys<'_>) -> Self {
        let (http, tcp) = (free_addr(), free_addr());
        let servers: Vec<_> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        let Keys { global, listener, pool, log } = keys;
        let config = format!(
            "[global]\nworkers = 1\n{global}\n{}\n\
             [listener.http]\nbind = [\"{http}\"]\npool = \"p\"\n{listener}\n\
             [listener.tcp]\nbind = [\"{tcp}\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
             [pool.p]\nservers = [{}]\n{pool}\n",
            log.map_or(String::new(), |path| format!("[access_log]\npath = \"{path}\"\nformat = \"detailed\"")),
            servers.join(", ")
        );
        Self { instance: Instance::start(&config), http, tcp }
    }

    /// Its access log, once there are `count` lines.
    fn log(&self, count: usize) -> Vec<String> {
        log_lines(&self.instance.dir().join("access.log"), count)
    }

    /// The `reason` of the last of `count` lines.
    fn reason(&self, count: usize) -> String {
        field(&self.log(count)[count - 1], "reason").to_owned()
    }

    /// Kilobytes of a field of the proxy's /proc/PID/status.
    fn memory(&self, name: &str) -> u64 {
        let text = status_field(self.instance.proxy_pid(), name);
        text.strip_suffix(" kB").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    }
}

/// The value of `name=` in a line of the access log.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name}= in {line}"))
}
