//! `bascule demo`: a configuration, three backends on loopback, and what to try, with nothing else installed.

mod backend;

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::app::demo::backend::Backend;
use crate::app::supervisor::{self, RunError, Source};
use crate::config::{self, Diagnostics, LoadOptions};

/// Why the demo did not run.
#[derive(Debug)]
pub(super) enum DemoError {
    /// The temporary folder, a port or a thread.
    Setup(io::Error),
    /// The built-in configuration.
    Config(Diagnostics),
    Run(RunError),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(e) => write!(f, "cannot set up the demo: {e}"),
            Self::Config(e) => write!(f, "the demo's configuration is bad:\n{e}"),
            Self::Run(e) => e.fmt(f),
        }
    }
}

const DEFAULT_PORT: u16 = 8080;
const NAMES: [&str; 3] = ["red", "green", "blue"];

/// Runs until a signal ends it; `port` is the listener's.
pub(super) fn run(port: Option<u16>) -> Result<(), DemoError> {
    let folder = Folder::create().map_err(DemoError::Setup)?;
    let port = port.map_or_else(free_port, Ok).map_err(DemoError::Setup)?;
    let backends: Vec<Backend> =
        NAMES.into_iter().map(Backend::bind).collect::<io::Result<_>>().map_err(DemoError::Setup)?;
    let ports = backends.iter().map(Backend::port).collect::<io::Result<Vec<_>>>().map_err(DemoError::Setup)?;

    let file = folder.path.join("bascule.toml");
    fs::write(&file, configuration(&folder.path, port, &ports)).map_err(DemoError::Setup)?;
    let options = LoadOptions { node: Some("demo".to_owned()) };
    let loaded = config::load(&file, &options).map_err(DemoError::Config)?;
    backend::serve_on_a_thread(backends).map_err(DemoError::Setup)?;
    eprint!("{}", introduction(&folder.path, port, &ports));
    supervisor::run(loaded, Source { path: file, options }, None).map_err(DemoError::Run)
}

/// A folder of our own, removed with all it holds when the demo ends.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create() -> io::Result<Self> {
        // Created, never reused: nobody can have put something there for us.
        let path = std::env::temp_dir().join(format!("bascule-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("bascule: {} is left behind: {e}", self.path.display());
        }
    }
}

fn free_port() -> io::Result<u16> {
    let any = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    Ok(any(DEFAULT_PORT).or_else(|_| any(0))?.local_addr()?.port())
}

fn configuration(folder: &Path, port: u16, backends: &[u16]) -> String {
    let server = |(name, port): (&str, &u16)| format!("  {{ name = \"{name}\", address = \"127.0.0.1:{port}\" }},\n");
    let servers: String = NAMES.into_iter().zip(backends).map(server).collect();
    let folder = folder.display();
    format!(
        r#"# The configuration of `bascule demo`.
[global]
run_dir = "{folder}"
max_connections = 1000
workers = 1                     # so that the servers take turns strictly: each worker takes its own
shutdown_timeout = "5s"

[access_log]
path = "{folder}/access.log"

[listener.demo]
bind = ["127.0.0.1:{port}"]
pool = "demo"

[pool.demo]
fail_timeout = "2s"
servers = [
{servers}]
"#
    )
}

fn introduction(folder: &Path, port: u16, backends: &[u16]) -> String {
    let [red, green, blue] = backends else { return String::new() };
    let folder = folder.display();
    format!(
        "\
bascule demo: http://127.0.0.1:{port} balances over red (:{red}), green (:{green}) and blue (:{blue}). Try:

  curl http://127.0.0.1:{port}/                                   one of the three answers
  for i in 1 2 3 4 5 6; do curl -s http://127.0.0.1:{port}/; done   they take turns
  curl -X POST http://127.0.0.1:{green}/stop                     green is gone for {pause} seconds: no request fails
  tail -f {folder}/access.log           which server answered, after how many tries
  cat {folder}/bascule.toml             the whole configuration
  pkill -9 -P {pid:<44} the proxy dies, and no connection is refused

Ctrl-C ends it.

",
        pause = backend::PAUSE.as_secs(),
        pid = std::process::id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid() {
        let text = configuration(Path::new("/tmp/x"), 8080, &[1001, 1002, 1003]);
        let config = config::parse_effective(&text, "demo").unwrap();
        assert_eq!(config.listeners[0].bind, ["127.0.0.1:8080".parse().unwrap()]);
    }

    #[test]
    fn the_folder_is_private_and_goes_with_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::create().unwrap();
        let path = folder.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(Folder::create().is_err());
        drop(folder);
        assert!(!path.exists());
    }
}
