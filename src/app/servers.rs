//! `bascule server`: servers are used otherwise than the file says.

use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::app::admin::{Request, ServerOrder};
use crate::app::{Instance, bad_config, client, show};
use crate::config::value::Period;

/// What can be said of a server.
#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// Give it nothing new; what it has goes on, and it is checked
    Drain(OneServer),
    /// Use it as the file says again
    Ready(OneServer),
    /// Give it nothing new, and do not check it
    Maintenance(OneServer),
    /// Change its share
    Weight {
        #[command(flatten)]
        server: OneServer,
        /// 1 to 65535, or "file" for what is in the file
        weight: ShownWeight,
    },
}

/// A server of the running instance.
#[derive(Debug, Args)]
pub(super) struct OneServer {
    #[command(flatten)]
    instance: Instance,
    /// Wait at most this long until nothing is in flight on it, "60s"
    #[arg(long, value_name = "TIME")]
    wait: Option<Period>,
    /// POOL/SERVER
    server: PoolServer,
}

/// `POOL/SERVER`.
#[derive(Debug, Clone)]
pub(super) struct PoolServer {
    pool: String,
    server: String,
}

impl FromStr for PoolServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A server may be named by its address, a pool has no slash.
        let (pool, server) = text.split_once('/').ok_or("expected POOL/SERVER, such as api/10.0.0.1:80")?;
        Ok(Self { pool: pool.to_owned(), server: server.to_owned() })
    }
}

/// A weight, or that of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShownWeight(Option<u32>);

impl FromStr for ShownWeight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            _ if text == "file" => Ok(Self(None)),
            Ok(weight) if weight > 0 => Ok(Self(Some(weight.into()))),
            _ => Err("expected 1 to 65535, or \"file\"; `bascule server drain` takes a server out".to_owned()),
        }
    }
}

impl ServerCommand {
    /// Says it to the running instance.
    pub(super) fn run(self) -> ExitCode {
        let (server, order) = match self {
            Self::Drain(server) => (server, ServerOrder::Drain),
            Self::Ready(server) => (server, ServerOrder::Ready),
            Self::Maintenance(server) => (server, ServerOrder::Maintenance),
            Self::Weight { server, weight } => (server, ServerOrder::Weight(weight.0)),
        };
        let OneServer { instance, wait, server: PoolServer { pool, server } } = server;
        let socket = match instance.socket() {
            Ok(socket) => socket,
            Err(diagnostics) => return bad_config(&diagnostics),
        };
        let request = Request::Server { pool: pool.clone(), server: server.clone(), order };
        let said = client::ask(&socket, &request).map(|answer| format!("{}\n", answer.as_str().unwrap_or_default()));
        let waited = wait.map_or(Ok(()), |limit| client::wait_for_server(&socket, &pool, &server, limit.get()));
        show(said.and_then(|text| waited.map(|()| text)))
    }
}
