//! The command line, and the processes behind it.
//!
//! ```text
//! bascule run   ── supervisor (this process) ──socketpair── proxy (a child of its own user)
//!                   ├─ scripts, notify commands and those of health checks, as script_user
//!                   └─ webhook (a child for each post)
//! bascule demo  ── the same, with three backends on a thread
//! bascule check ── config only
//! ```
//!
//! Exit codes: 0 done, 64 wrong usage, 78 bad configuration, 1 anything else.

mod admin;
mod answers;
mod asks;
mod background;
mod backoff;
mod certificates;
mod child;
mod client;
mod commands;
mod completion;
mod condition;
mod demo;
mod describe;
mod duty;
mod effects;
mod explain;
mod history;
mod listen;
mod lock;
mod logs;
mod manager;
mod notifier;
mod peers;
mod proxy;
mod runner;
mod servers;
mod supervisor;
mod tracker;
mod upgrade;
mod vrrp;
mod watchdog;
mod webhook;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::app::admin::Request;
use crate::app::servers::ServerCommand;
use crate::app::supervisor::{RunError, Source};
use crate::app::upgrade::{Document, Origin};
use crate::config::value::Period;
use crate::config::{self, Diagnostics, LoadOptions, Loaded};
use crate::sys::exec::Inherited;
use crate::sys::process;
use crate::sys::schedule;
use crate::sys::user::Identity;
use crate::time::to_millis;

/// Load balancer for HTTP and TCP.
#[derive(Debug, Parser)]
#[command(name = "bascule", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground until SIGTERM, SIGINT or SIGQUIT
    Run {
        #[command(flatten)]
        file: File,
        /// Descriptor of what the program before this one in the process hands over
        #[arg(long, hide = true, value_name = "FD", require_equals = true)]
        resume: Option<i32>,
    },
    /// Validate a configuration; exit 0, or 78 with every error at its place
    Check {
        #[command(flatten)]
        file: File,
        /// Print the configuration as this node runs it, secrets masked
        #[arg(long)]
        effective: bool,
        /// Print the JSON schema of the file, for editors
        #[arg(long, exclusive = true)]
        schema: bool,
    },
    /// Balance over three built-in backends on loopback, and print what to try
    Demo {
        /// Port to listen on [default: 8080, or a free one when it is taken]
        #[arg(long)]
        port: Option<u16>,
    },
    /// Hand the addresses over, finish what is under way, and end the running instance
    Stop {
        #[command(flatten)]
        instance: Instance,
        /// Let go of everything at once
        #[arg(long)]
        now: bool,
    },
    /// Go over to what is in the file; if anything is wrong with it, nothing changes
    Reload {
        #[command(flatten)]
        instance: Instance,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Go back unless `bascule confirm` comes within this time, "5m"
        #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
        confirm: Option<Period>,
    },
    /// Stay with the configuration that waits for it
    Confirm(Instance),
    /// The last generations of the configuration
    History {
        #[command(flatten)]
        instance: Instance,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Go back to an earlier generation
    Rollback {
        #[command(flatten)]
        instance: Instance,
        /// As above
        #[arg(long, value_name = "TIME")]
        confirm: Option<Period>,
        /// Its number [default: the one before]
        generation: Option<u64>,
    },
    /// Use servers otherwise than the file says
    #[command(subcommand)]
    Server(ServerCommand),
    /// Replace the running program by the one that is now at its path: no request fails, no address moves
    Upgrade {
        #[command(flatten)]
        instance: Instance,
        /// Another program, by its whole path; also to go back
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Show how the running instance is
    Status {
        #[command(flatten)]
        instance: Instance,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Show the exchanges that failed last, and what to do about it
    Errors {
        #[command(flatten)]
        instance: Instance,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say where a request would go and why, without sending it
    Explain(explain::Arguments),
    /// Print the completion script of a shell
    Completions {
        /// Which
        #[arg(value_enum)]
        shell: completion::Shell,
    },
    /// Names for completion: of the running instance, one a line
    #[command(hide = true)]
    Names {
        #[command(flatten)]
        instance: Instance,
        #[arg(value_enum)]
        kind: completion::Kind,
    },
    /// Virtual addresses
    #[command(subcommand)]
    Vrrp(VrrpCommand),
    /// Tries to take over from the supervisor that starts it
    #[command(hide = true)]
    Preflight {
        #[command(flatten)]
        file: File,
        #[arg(long, require_equals = true)]
        resume: i32,
    },
    /// The vrrp process, started by the supervisor
    #[command(hide = true)]
    VrrpProcess(Confinement),
    /// The proxy process, started by the supervisor
    #[command(hide = true)]
    Proxy {
        #[command(flatten)]
        confinement: Confinement,
        #[arg(long)]
        guarded: bool,
    },
    /// Posts what is on standard input to a URL, started by the supervisor
    #[command(hide = true)]
    Webhook {
        url: String,
        #[command(flatten)]
        confinement: Confinement,
    },
}

/// How a child of the supervisor is to give up its privileges.
#[derive(Debug, Args)]
struct Confinement {
    #[arg(long)]
    supervisor: i32,
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
}

impl Confinement {
    fn identity(&self) -> Option<Identity> {
        self.uid.zip(self.gid).map(|(uid, gid)| Identity { uid, gid })
    }
}

#[derive(Debug, Subcommand)]
enum VrrpCommand {
    /// Give the addresses to a peer, without losing a request
    Handover {
        #[command(flatten)]
        instance: Instance,
        /// Only this virtual router
        router: Option<String>,
    },
    /// Hold no address that another box can hold, until switched off
    Maintenance {
        #[command(flatten)]
        instance: Instance,
        /// on or off
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Hear the wire for 5 s, claim nothing, and compare with the file; exit 1 when something differs
    Listen(File),
    /// Remove addresses that a killed instance left on this box
    Release(File),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Which running instance is meant.
#[derive(Debug, Args)]
struct Instance {
    #[command(flatten)]
    file: File,
    /// Its admin socket, instead of the one that the configuration names
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Instance {
    fn socket(self) -> Result<PathBuf, Diagnostics> {
        match self.socket {
            Some(socket) => Ok(socket),
            None => Ok(self.file.load()?.config.admin.socket),
        }
    }
}

/// Every command and option as it is typed, and what it does; the README's table.
pub fn commands() -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let top = Cli::command();
    let groups = top.get_subcommands().filter(|c| !c.is_hide_set());
    let all = groups.flat_map(|group| {
        let name = format!("bascule {}", group.get_name());
        let within: Vec<_> = group.get_subcommands().map(|c| (format!("{name} {}", c.get_name()), c)).collect();
        if within.is_empty() { vec![(name, group)] } else { within }
    });
    for (name, command) in all {
        let operands = command.get_positionals().map(|arg| {
            let value =
                arg.get_value_names().and_then(|names| names.first()).map_or_else(String::new, ToString::to_string);
            let of_choice: Vec<_> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
            let shown = if of_choice.is_empty() { value } else { of_choice.join("|") };
            if arg.is_required_set() { format!(" {shown}") } else { format!(" [{shown}]") }
        });
        let usage = name.clone() + &operands.collect::<String>();
        rows.push((usage, command.get_about().map(ToString::to_string).unwrap_or_default()));
        for arg in command.get_arguments().filter(|a| !a.is_hide_set() && a.get_long().is_some_and(|l| l != "help")) {
            let short = arg.get_short().map_or(String::new(), |s| format!("-{s}, "));
            let long = arg.get_long().unwrap_or_default();
            let value = arg.get_action().takes_values().then(|| arg.get_value_names()?.first()).flatten();
            let value = value.map_or(String::new(), |v| format!(" {v}"));
            let default = arg.get_default_values().first().map(|d| format!(" [default: {}]", d.to_string_lossy()));
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            rows.push((format!("{name} {short}--{long}{value}"), help + &default.unwrap_or_default()));
        }
    }
    rows
}

#[derive(Debug, Clone, Args)]
struct File {
    /// Configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "/etc/bascule/bascule.toml")]
    path: PathBuf,
    /// Which [node.*] this box is [default: the short hostname]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl File {
    fn load(self) -> Result<Loaded, Diagnostics> {
        let loaded = self.load_again()?;
        eprint!("{}", loaded.warnings);
        Ok(loaded)
    }

    /// The same without a word about what is probably not meant.
    fn load_again(self) -> Result<Loaded, Diagnostics> {
        config::load(&self.path, &LoadOptions { node: self.node })
    }
}

const USAGE: u8 = 64;
const CONFIG: u8 = 78;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The text is all there is to say, and stderr may be closed.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run { file, resume: None } => {
            begin().leave_open();
            let origin = Origin::of_this_process(&file.path, file.node.as_deref());
            // Wherever it is run from, it is read from there again.
            let path = std::path::absolute(&file.path).unwrap_or_else(|_| file.path.clone());
            let source = Source { path, options: LoadOptions { node: file.node.clone() } };
            // Without /proc nothing runs, and the supervisor says so.
            with(file, |loaded| finish(supervisor::run(loaded, source, origin.ok())))
        }
        Command::Run { file, resume: Some(document) } => finish(resume(&file, document)),
        Command::Preflight { file, resume } => preflight(file, resume),
        Command::Check { schema: true, .. } => print(&format!("{:#}\n", config::schema())),
        Command::Check { file, effective, .. } => check(file, effective),
        Command::Demo { port } => {
            begin().leave_open();
            finish(demo::run(port))
        }
        Command::Stop { instance, now } => tell(instance, &Request::Stop { now }),
        Command::Reload { instance, dry_run, confirm } => {
            ask(instance, &Request::Reload { dry_run, confirm_ms: confirm.map(millis) }, describe::reload)
        }
        Command::Confirm(instance) => tell(instance, &Request::Confirm),
        Command::History { instance, json } => {
            ask(
                instance,
                &Request::History,
                |history| {
                    if json { format!("{history:#}\n") } else { describe::history(history) }
                },
            )
        }
        Command::Rollback { instance, confirm, generation } => {
            let request = Request::Rollback { to: generation, confirm_ms: confirm.map(millis) };
            ask(instance, &request, describe::reload)
        }
        Command::Server(command) => command.run(),
        Command::Upgrade { instance, binary } => match instance.socket() {
            Ok(socket) => show(client::upgrade(&socket, binary)),
            Err(diagnostics) => bad_config(&diagnostics),
        },
        Command::Status { instance, json, watch } => status(instance, json, watch),
        Command::Errors { instance, json } => {
            ask(instance, &Request::Errors, |answer| shown(answer, json, describe::errors))
        }
        Command::Explain(arguments) => explain::run(arguments),
        Command::Completions { shell } => print(&completion::script(shell)),
        Command::Names { instance, kind } => print(&completion::names(instance, kind)),
        Command::Vrrp(VrrpCommand::Handover { instance, router }) => tell(instance, &Request::HandOver { router }),
        Command::Vrrp(VrrpCommand::Maintenance { instance, switch }) => {
            tell(instance, &Request::Maintenance { on: switch == Switch::On })
        }
        Command::Vrrp(VrrpCommand::Listen(file)) => with(file, hear),
        Command::Vrrp(VrrpCommand::Release(file)) => with(file, |loaded| show(vrrp::release(&loaded.config))),
        Command::VrrpProcess(_) => finish(vrrp::run()),
        Command::Proxy { confinement, guarded } => {
            finish(proxy::run(confinement.identity(), confinement.supervisor, guarded))
        }
        Command::Webhook { url, confinement } => webhook::run(&url, confinement.identity(), confinement.supervisor),
    }
}

/// What a process that becomes a supervisor does before anything else.
fn begin() -> Inherited {
    process::set_name(c"bascule");
    // On a busy box an order would else wait for a core in each process that it passes.
    let _ = schedule::prompt();
    Inherited::take_all()
}

/// Goes on as the supervisor that executed this program.
fn resume(file: &File, document: i32) -> Result<(), RunError> {
    let mut inherited = begin();
    let document = Document::take(document, &mut inherited).map_err(RunError::Document)?;
    let origin = Origin::of_this_process(&file.path, file.node.as_deref()).map_err(RunError::System)?;
    supervisor::resume(document, inherited, origin)
}

/// Tries whether [`resume`] would do.
fn preflight(file: File, document: i32) -> ExitCode {
    let mut inherited = begin();
    let document = match Document::take(document, &mut inherited) {
        Ok(document) => document,
        Err(error) => return finish(Err(error)),
    };
    // What runs may be older than the file, but the next start reads the file.
    with(file, |_| match upgrade::preflight(&document, &mut inherited) {
        Ok(line) => print(&line),
        Err(error) => finish(Err(error)),
    })
}

/// Does `act` with the configuration in `file`, if it is valid.
fn with(file: File, act: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    file.load().map_or_else(|diagnostics| bad_config(&diagnostics), act)
}

fn check(file: File, effective: bool) -> ExitCode {
    if effective {
        return with(file, |loaded| print(&loaded.effective_masked()));
    }
    let name = file.path.display().to_string();
    let result = match file.node {
        Some(_) => file.load().map(|loaded| loaded.warnings),
        None => config::check_all_nodes(&file.path),
    };
    match result {
        Ok(warnings) => {
            eprint!("{warnings}");
            print(&format!("{name}: the configuration is valid\n"))
        }
        Err(diagnostics) => bad_config(&diagnostics),
    }
}

fn millis(period: Period) -> u64 {
    to_millis(period.get())
}

/// Asks the running instance, and shows what `text` makes of its answer.
fn ask(instance: Instance, request: &Request, text: impl FnOnce(&Value) -> String) -> ExitCode {
    match instance.socket() {
        Ok(socket) => show(client::ask(&socket, request).map(|answer| text(&answer))),
        Err(diagnostics) => bad_config(&diagnostics),
    }
}

/// Has the running instance do something, and shows what it says of it.
fn tell(instance: Instance, request: &Request) -> ExitCode {
    ask(instance, request, |answer| match answer {
        Value::String(text) => format!("{text}\n"),
        other => format!("{other:#}\n"),
    })
}

/// An answer as JSON, or as `words` make of it.
fn shown(answer: &Value, json: bool, words: impl FnOnce(&Value) -> String) -> String {
    if json { format!("{answer:#}\n") } else { words(answer) }
}

/// Between two pictures of `status --watch`.
const WATCH: Duration = Duration::from_secs(1);

fn status(instance: Instance, json: bool, watch: bool) -> ExitCode {
    let socket = match instance.socket() {
        Ok(socket) => socket,
        Err(diagnostics) => return bad_config(&diagnostics),
    };
    let picture = || client::ask(&socket, &Request::Status).map(|answer| shown(&answer, json, describe::status));
    if !watch {
        return show(picture());
    }
    loop {
        // An instance that restarts is waited for.
        let text = picture().unwrap_or_else(|error| format!("{error}\n"));
        // Home, the text, and nothing of what was below it: without the flicker of an empty screen.
        let clear = if json { "" } else { "\x1b[H\x1b[2J" };
        if std::io::stdout().write_all(format!("{clear}{text}").as_bytes()).is_err() {
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(WATCH);
    }
}

/// Longer than any usual interval.
const LISTEN: Duration = Duration::from_secs(5);

fn hear(loaded: Loaded) -> ExitCode {
    match listen::run(&loaded.config, LISTEN) {
        Ok(heard) => {
            print(&heard.text);
            if heard.agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => finish(Err(error)),
    }
}

fn bad_config(diagnostics: &Diagnostics) -> ExitCode {
    eprint!("{diagnostics}");
    CONFIG.into()
}

/// Writes to stdout; a reader that left early is none of our business.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Writes `text` to stdout, or what went wrong to stderr.
fn show(text: Result<String, String>) -> ExitCode {
    text.map_or_else(|error| finish(Err(error)), |text| print(&text))
}

/// Resolves at `when`, never when there is none.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn finish(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bascule: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_of_the_supervisor_are_not_shown() {
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("proxy process") && !help.contains("Posts"), "{help}");
    }
}
