//! Shell completion: what clap makes of the command line, and the names of the running instance.

use clap::{CommandFactory, ValueEnum};
use serde_json::Value;

use crate::app::admin::Request;
use crate::app::{Cli, Instance, client};

/// A shell that can be helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What names are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Virtual routers.
    Routers,
    /// Servers, as POOL/SERVER.
    Servers,
}

/// Where a name is expected: behind these words a virtual router, behind `server VERB` a server.
const BASH: &str = r#"
_bascule_with_names() {
    _bascule "$@"
    local names= current="${COMP_WORDS[COMP_CWORD]}"
    case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
        "vrrp handover") names="$(bascule names routers 2>/dev/null)" ;;
        "server "*) [ "$COMP_CWORD" -gt 2 ] && names="$(bascule names servers 2>/dev/null)" ;;
    esac
    if [ -n "$names" ] && [ "$COMP_CWORD" -gt 2 ]; then
        COMPREPLY+=($(compgen -W "$names" -- "$current"))
    fi
}
complete -F _bascule_with_names -o bashdefault -o default bascule
"#;

const ZSH: &str = r#"
_bascule_with_names() {
    _bascule "$@"
    case "$words[2] $words[3]" in
        "vrrp handover") compadd -- ${(f)"$(bascule names routers 2>/dev/null)"} ;;
        "server "*) (( CURRENT > 3 )) && compadd -- ${(f)"$(bascule names servers 2>/dev/null)"} ;;
    esac
}
compdef _bascule_with_names bascule
"#;

const FISH: &str = r#"
complete -c bascule -n "__fish_seen_subcommand_from handover" -f -a "(bascule names routers 2>/dev/null)"
complete -c bascule -n "__fish_seen_subcommand_from server" -f -a "(bascule names servers 2>/dev/null)"
"#;

/// The script, to be evaluated by the shell.
pub(super) fn script(shell: Shell) -> String {
    let (generator, names) = match shell {
        Shell::Bash => (clap_complete::Shell::Bash, BASH),
        Shell::Zsh => (clap_complete::Shell::Zsh, ZSH),
        Shell::Fish => (clap_complete::Shell::Fish, FISH),
    };
    let mut out = Vec::new();
    clap_complete::generate(generator, &mut Cli::command(), "bascule", &mut out);
    String::from_utf8_lossy(&out).into_owned() + names
}

/// Names of the running instance, one a line; nothing when there is none.
pub(super) fn names(instance: Instance, kind: Kind) -> String {
    let Ok(socket) = instance.socket() else { return String::new() };
    let Ok(status) = client::ask(&socket, &Request::Status) else { return String::new() };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = match kind {
        Kind::Routers => list(&status["vrrp"]["routers"]).iter().map(name).collect(),
        Kind::Servers => list(&status["pools"])
            .iter()
            .flat_map(|pool| list(&pool["servers"]).into_iter().map(|s| format!("{}/{}", name(pool), name(&s))))
            .collect(),
    };
    names.iter().map(|name| format!("{name}\n")).collect()
}
