use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::app::runner::tests::{PATIENCE, TempDir, assert_ends, without_root};
use crate::config::parse_effective;

/// A pool "p" of the server 127.0.0.1:80 (and one by name), checked by what the shell does in `dir`.
fn config(dir: &TempDir, text: &str, keys: &str) -> Config {
    let folder = dir.join("");
    let text = format!(
        "[global]\nrun_dir = \"/nowhere\"\n[pool.p]\nservers = [\"127.0.0.1:80\", \"db.example.com:81\"]\n\
         [pool.p.health_check]\ntype = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", '''cd {}; {text}''']\n{keys}\n\
         [pool.other]\nservers = [\"127.0.0.1:80\"]\nhealth_check = {{}}\n",
        folder.display()
    );
    parse_effective(&text, "box").unwrap_or_else(|e| panic!("{e}"))
}

fn subject(pool: &str, server: &str, address: &str) -> Subject {
    Subject { pool: pool.into(), server: server.into(), address: address.parse().unwrap() }
}

fn usual() -> Subject {
    subject("p", "127.0.0.1:80", "127.0.0.1:80")
}

async fn next(commands: &mut Commands) -> (u64, CheckOutcome) {
    let done = timeout(PATIENCE, commands.next()).await.expect("an outcome in time");
    assert_eq!(done.proxy, 7);
    (done.token, done.outcome)
}

async fn outcome(config: &Config, subject: Subject) -> CheckOutcome {
    let mut commands = Commands::new();
    commands.due(config, (7, 1), subject);
    next(&mut commands).await.1
}

fn bad(why: &str) -> CheckOutcome {
    CheckOutcome::Bad(why.to_owned())
}

#[tokio::test]
async fn the_status_decides_and_the_first_line_says_why() {
    let dir = TempDir::new();
    let long = "x".repeat(5000);
    for (text, expected) in [
        ("echo fine".to_owned(), CheckOutcome::Good),
        ("exit 3".to_owned(), bad("exit status: 3")),
        ("echo; echo ' lag 7 s '; echo more; exit 2".to_owned(), bad("exit status: 2: lag 7 s")),
        ("echo oh no >&2; exit 1".to_owned(), bad("exit status: 1: oh no")),
        ("printf '\\033[2Jx'; exit 1".to_owned(), bad("exit status: 1: \\u{1b}[2Jx")),
        (format!("echo {long}; exit 1"), bad(&format!("exit status: 1: {}", &long[..LONGEST]))),
        ("kill -9 $$".to_owned(), bad("signal: 9 (SIGKILL)")),
    ] {
        assert_eq!(outcome(&config(&dir, &text, ""), usual()).await, expected, "{text}");
    }
}

#[tokio::test]
async fn a_command_that_writes_without_end_is_read_and_not_kept() {
    let dir = TempDir::new();
    let text = "head -c 300000 /dev/zero | tr '\\0' 'y'; exit 1";
    assert_eq!(
        outcome(&config(&dir, text, ""), usual()).await,
        bad(&format!("exit status: 1: {}", "y".repeat(LONGEST)))
    );
}

#[tokio::test]
async fn a_command_knows_whom_it_checks_and_nothing_else() {
    let dir = TempDir::new();
    let text = "env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=' | sort > env";
    assert_eq!(outcome(&config(&dir, text, ""), usual()).await, CheckOutcome::Good);
    let lines: Vec<String> = dir.read("env").lines().map(str::to_owned).collect();
    assert_eq!(
        lines[..4],
        ["BASCULE_ADDRESS=127.0.0.1", "BASCULE_POOL=p", "BASCULE_PORT=80", "BASCULE_SERVER=127.0.0.1:80"]
    );
    assert!(lines.len() == 5 && lines[4].starts_with("PATH="), "{lines:?}");
    // Where the file says, not where the server is; an address of a name is what the proxy says.
    let elsewhere = config(&dir, text, "port = 9000");
    let named = subject("p", "db.example.com:81", "192.0.2.7:9000");
    assert_eq!(outcome(&elsewhere, named).await, CheckOutcome::Good);
    let env = dir.read("env");
    assert!(env.contains("BASCULE_ADDRESS=192.0.2.7\n") && env.contains("BASCULE_PORT=9000\n"), "{env}");
}

#[tokio::test]
async fn only_what_is_configured_is_run() {
    let dir = TempDir::new();
    let config = config(&dir, "touch ran", "");
    for subject in [
        subject("q", "127.0.0.1:80", "127.0.0.1:80"),
        subject("p", "127.0.0.2:80", "127.0.0.2:80"),
        subject("p", "127.0.0.1:80", "127.0.0.2:80"),
        subject("p", "127.0.0.1:80", "127.0.0.1:81"),
        subject("p", "db.example.com:81", "192.0.2.7:80"),
        subject("other", "127.0.0.1:80", "127.0.0.1:80"),
    ] {
        assert_eq!(outcome(&config, subject.clone()).await, not_run("no such check is configured"), "{subject:?}");
    }
    assert!(!dir.join("ran").exists());
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_what_it_started() {
    let dir = TempDir::new();
    let config = config(&dir, "echo waiting; sleep 1000 & echo $! > child; wait", "timeout = \"300ms\"");
    let says = outcome(&config, usual()).await;
    assert_eq!(says, bad("the command did not end within 300ms: waiting"));
    assert_ends(dir.read("child").trim());
}

#[tokio::test]
async fn runs_of_a_server_never_overlap_and_are_no_faster_than_configured() {
    let dir = TempDir::new();
    let text = "mkdir lock || exit 9; date +%s%N >> starts; sleep 0.1; rmdir lock";
    let config = config(&dir, text, "interval = \"1s\"\nfast_interval = \"600ms\"\ntimeout = \"900ms\"");
    let mut commands = Commands::new();
    for token in 1..=3 {
        commands.due(&config, (7, token), usual());
    }
    let refused = next(&mut commands).await;
    assert_eq!(refused, (3, not_run("its command is waited for already")));
    assert_eq!(
        [next(&mut commands).await, next(&mut commands).await].map(|(_, outcome)| outcome),
        [CheckOutcome::Good, CheckOutcome::Good]
    );
    let starts: Vec<u64> = dir.read("starts").lines().map(|line| line.parse().unwrap()).collect();
    assert!(starts.len() == 2 && starts[1] - starts[0] >= 290_000_000, "{starts:?}");
}

#[tokio::test]
async fn what_cannot_be_run_says_nothing_of_the_server() {
    let dir = TempDir::new();
    let program = |path: &str| {
        let text = format!(
            "[global]\nrun_dir = \"/nowhere\"\nscript_user = \"root\"\n[pool.p]\nservers = [\"127.0.0.1:80\"]\n\
             health_check = {{ type = \"exec\", command = [\"{path}\"] }}\n"
        );
        parse_effective(&text, "box").unwrap_or_else(|e| panic!("{e}"))
    };
    let CheckOutcome::NotRun(why) = outcome(&program("/nowhere/check"), usual()).await else { panic!("it was run") };
    assert!(why.starts_with("/nowhere/check: cannot execute it: No such file"), "{why}");
    if !without_root() {
        let path = dir.join("check");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let CheckOutcome::NotRun(why) = outcome(&program(path.to_str().unwrap()), usual()).await else { panic!("run") };
        assert!(why.contains("refused: it would run as root"), "{why}");
    }
}

#[tokio::test]
async fn subjects_of_former_configurations_are_forgotten() {
    let dir = TempDir::new();
    let config = config(&dir, "true", "");
    let mut commands = Commands::new();
    commands.due(&config, (7, 1), usual());
    next(&mut commands).await;
    commands.follow(&config);
    assert_eq!(commands.subjects.len(), 1);
    commands.follow(&parse_effective("[global]\nrun_dir = \"/nowhere\"\n", "box").unwrap());
    assert_eq!(commands.subjects.len(), 0);
}
