use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use std::{fs, thread};

use super::*;
use crate::sys::user;

/// Longest that anything here waits for something that should come at once: a loaded machine is no failure.
pub(in crate::app) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that anybody may write to, removed with its owner.
pub(in crate::app) struct TempDir(PathBuf);

impl TempDir {
    pub(in crate::app) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bascule-hooks-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    pub(in crate::app) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(in crate::app) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.join(name)).unwrap_or_default()
    }

    /// Waits until a file of this name holds a whole line, and returns it.
    pub(in crate::app) async fn line(&self, name: &str) -> String {
        let found = timeout(PATIENCE, async {
            loop {
                if let Some((line, _)) = self.read(name).split_once('\n') {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found.await.expect("a line in time")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether this runs without root, where nobody else can be become.
pub(in crate::app) fn without_root() -> bool {
    std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some()
}

/// Whom tests run programs as.
pub(in crate::app) fn identity() -> Option<Identity> {
    (!without_root()).then(user::nobody)
}

/// What the shell does, in the folder `dir`; more arguments are `$1` and so on.
pub(in crate::app) fn shell(dir: &TempDir, text: &str) -> Command {
    let text = format!("cd {}; {text}", dir.0.display());
    Command { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), text, "sh".to_owned()] }
}

/// Waits for the end of the process `pid`.
pub(in crate::app) fn assert_ends(pid: &str) {
    let deadline = Instant::now() + PATIENCE;
    // A zombie that its new parent has not looked at yet has ended too.
    let lives = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while lives() {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        thread::sleep(Duration::from_millis(5));
    }
}

async fn run(command: &Command, more: &[&str]) -> Result<(), Failure> {
    Running::start(command, more, identity())?.finish(PATIENCE).await
}

#[tokio::test]
async fn status_0_is_success_and_everything_else_says_what_it_is() {
    let dir = TempDir::new();
    run(&shell(&dir, "exit 0"), &[]).await.unwrap();
    for (text, reason) in [("exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9 (SIGKILL)")] {
        assert_eq!(run(&shell(&dir, text), &[]).await.unwrap_err().to_string(), reason);
    }
    let absent = Command { program: dir.join("absent"), arguments: Vec::new() };
    let failure = run(&absent, &[]).await.unwrap_err();
    assert!(failure.is_refusal());
    assert_eq!(failure.to_string(), "cannot execute it: No such file or directory (os error 2)");
}

#[tokio::test]
async fn arguments_are_exact() {
    let dir = TempDir::new();
    let mut command = shell(&dir, r#"printf '<%s>' "$@" > told"#);
    command.arguments.extend(["a b".to_owned(), "$HOME".to_owned(), String::new()]);
    run(&command, &["*", "INSTANCE"]).await.unwrap();
    assert_eq!(dir.read("told"), "<a b><$HOME><><*><INSTANCE>");
}

#[tokio::test]
async fn a_program_gets_nothing_of_ours() {
    let dir = TempDir::new();
    let look = "cat /proc/$$/environ > environ; cat /proc/$$/status > status; fds=$(ls -l /proc/$$/fd); echo \"$fds\" > fd; pwd > pwd";
    let mut command = shell(&dir, look);
    command.arguments[1] = command.arguments[1].replacen("cd ", "pwd > ", 1).replacen(';', "/start; cd ${0%/*};", 1);
    command.arguments[2] = dir.join("sh").display().to_string();
    let ours = fs::File::create(dir.join("ours")).unwrap();
    run(&command, &[]).await.unwrap();
    drop(ours);
    assert_eq!(dir.read("start"), "/\n");
    assert_eq!(dir.read("environ"), format!("PATH={PATH}\0"));
    let descriptors = dir.read("fd");
    for number in 0..2 {
        assert!(descriptors.contains(&format!(" {number} -> /dev/null\n")), "{descriptors}");
    }
    assert!(!descriptors.contains("/ours"), "{descriptors}");
    let status = dir.read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    };
    // Of its own process group.
    assert_eq!(field("NSpgid"), field("NSpid"));
    // Neither those that root has, nor what a service manager gave to another user.
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let Some(Identity { uid, gid }) = identity() else { return };
    assert_eq!(field("Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(field("Gid"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
    assert_eq!(field("Groups"), "");
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_its_whole_group() {
    let dir = TempDir::new();
    let command = shell(&dir, "trap '' TERM; sleep 1000 & echo $! > child; echo $$ > itself; wait");
    let mut running = Running::start(&command, &[], identity()).unwrap();
    let (child, itself) = (dir.line("child").await, dir.line("itself").await);
    let failure = running.finish(Duration::ZERO).await.unwrap_err();
    assert_eq!(failure.to_string(), "did not end in time");
    running.reap().await.unwrap();
    assert_ends(&child);
    assert!(!Path::new(&format!("/proc/{itself}")).exists(), "it was not reaped");
}

#[tokio::test]
async fn one_that_nobody_waits_for_any_more_is_killed() {
    let dir = TempDir::new();
    let command = shell(&dir, "sleep 1000 & echo $! > child; wait");
    let running = Running::start(&command, &[], identity()).unwrap();
    let child = dir.line("child").await;
    drop(running);
    assert_ends(&child);
}

#[tokio::test]
async fn root_executes_nothing_that_others_can_change() {
    if without_root() {
        return;
    }
    let dir = TempDir::new();
    let (program, link) = (dir.join("true"), dir.join("link"));
    fs::copy("/bin/true", &program).unwrap();
    symlink("/bin/true", &link).unwrap();
    let start = |program: &Path, identity| {
        Running::start(&Command { program: program.to_owned(), arguments: Vec::new() }, &[], identity)
    };
    // The folder is everybody's.
    for identity in [None, Some(Identity { uid: 0, gid: 0 })] {
        let failure = start(&program, identity).unwrap_err();
        let expected = format!("refused: it would run as root, and {} can be written to by others", dir.0.display());
        assert_eq!(failure.to_string(), expected);
    }
    // Whom it is not executed as root for, it is no matter.
    start(&program, identity()).unwrap().finish(PATIENCE).await.unwrap();
    // What the link leads to is nobody else's, and is what is executed.
    start(&link, None).unwrap().finish(PATIENCE).await.unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    start(&program, None).unwrap().finish(PATIENCE).await.unwrap();
}

#[test]
fn what_others_can_write_to_is_seen() {
    for (owner, group, mode, expected) in [
        (0, 0, 0o100_755, false),
        (0, 0, 0o100_775, false),
        (0, 7, 0o100_755, false),
        (0, 7, 0o100_775, true),
        (0, 0, 0o100_757, true),
        (7, 0, 0o100_755, true),
        (0, 0, 0o040_755, false),
        (0, 0, 0o040_777, true),
        // /tmp
        (0, 0, 0o041_777, false),
        (7, 0, 0o041_777, true),
        // Says nothing of a file.
        (0, 0, 0o101_757, true),
    ] {
        assert_eq!(writable_by_others(owner, group, mode), expected, "{owner}:{group} {mode:o}");
    }
}
