//! `bascule explain`: asks the running instance, or, when there is none, the file.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use crate::app::admin::Request;
use crate::app::{Instance, answers, bad_config, client, describe, show, shown};
use crate::ipc::Imagined;
use crate::proxy::{self, Liveness};
use crate::snapshot::{Addresses, Snapshot};
use crate::telemetry::access_log::Sinks;

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    instance: Instance,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Method of the request
    #[arg(long, value_name = "M", default_value = "GET")]
    method: String,
    /// A header of the request, as `Name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Address of the client
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// http://HOST/PATH, https://HOST:PORT/PATH, tcp://ADDRESS:PORT, or tls://HOST:PORT of a tls_passthrough listener
    url: String,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("not of the form `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Does it.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Arguments { instance, json, method, headers, client, url } = arguments;
    let imagined = Imagined { url, method, headers, client };
    let file = instance.file.clone();
    let socket = match instance.socket() {
        Ok(socket) => socket,
        Err(diagnostics) => return bad_config(&diagnostics),
    };
    let answer = if client::is_alone(&socket) {
        // Warnings were shown when it was read for the socket's path.
        match file.load_again() {
            Ok(loaded) => from_file(loaded.config, &imagined),
            Err(diagnostics) => return bad_config(&diagnostics),
        }
    } else {
        client::ask(&socket, &Request::Explain(imagined))
    };
    show(answer.map(|answer| shown(&answer, json, describe::explanation)))
}

fn from_file(config: crate::config::model::Config, imagined: &Imagined) -> Result<Value, String> {
    let sinks = Sinks::start().map_err(|e| format!("cannot build the configuration: {e}"))?;
    let snapshot = Snapshot::build(Arc::new(config), Arc::default(), &Addresses::new(), &sinks, None);
    let found = proxy::explain(&snapshot, &answers::query(imagined), Liveness::FileOnly)?;
    serde_json::to_value(found).map_err(|e| e.to_string())
}
