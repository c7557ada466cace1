//! PostgreSQL and MariaDB: real replication, and a promotion after the death of the primary.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::{Instance, TempDir, free_addr, kill, wait_for};

/// The program, wherever Debian has it, started as `user` when this is root: these refuse to be root.
fn program(name: &str, user: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let folders = versions.chain(["/usr/sbin".into(), "/usr/bin".into()]);
    let path = folders.map(|folder: PathBuf| folder.join(name)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("{name} is not installed"));
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(path);
    command
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server process; ends with the value.
struct Server {
    addr: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory that another user may use.
fn shared_dir() -> TempDir {
    let dir = TempDir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// A write port before two servers, checked by `check`.
fn before(write: SocketAddr, servers: [SocketAddr; 2], check: &str) -> Instance {
    let [a, b] = servers;
    Instance::start(&format!(
        "[global]\nworkers = 1\n[listener.write]\nbind = [\"{write}\"]\nprotocol = \"tcp\"\npool = \"db\"\nrole = \"primary\"\n\
         [pool.db]\nservers = [\"{a}\", \"{b}\"]\n\
         health_check = {{ {check}, interval = \"300ms\", timeout = \"300ms\", max_lag = \"30s\" }}\n"
    ))
}

fn sql(addr: SocketAddr, text: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", "secret").env("PGCONNECT_TIMEOUT", "5");
    psql.args(["-qAt", "-h", "127.0.0.1", "-U", "postgres", "-p", &addr.port().to_string(), "-c", text]);
    psql
}

/// Runs a statement; `None` when it does not succeed.
fn try_sql(addr: SocketAddr, text: &str) -> Option<String> {
    let output = sql(addr, text).stderr(Stdio::null()).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn postgres(dir: &TempDir, data: &str) -> Server {
    let addr = free_addr();
    let child = program("postgres", "postgres")
        .args(["-D", data, "-p", &addr.port().to_string(), "-k", dir.path().to_str().unwrap()])
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { addr, child };
    wait_for("postgres to answer", || try_sql(addr, "SELECT 1"));
    server
}

#[test]
fn the_first_write_after_the_death_of_a_postgres_comes_to_the_promoted_replica() {
    let dir = shared_dir();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("password"), "secret\n").unwrap();
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let [first, second] = ["first", "second"].map(path);
    done(
        program("initdb", "postgres")
            .args(["-D", &first, "-U", "postgres", "-A", "scram-sha-256", "-N"])
            .args(["--pwfile", &path("password")]),
    );
    let old = postgres(&dir, &first);
    done(&mut sql(old.addr, "CREATE USER bascule PASSWORD 'known'"));
    done(&mut sql(old.addr, "CREATE TABLE written (n bigint)"));
    let source = format!("host=127.0.0.1 port={} user=postgres password=secret", old.addr.port());
    done(program("pg_basebackup", "postgres").args(["-d", &source, "-D", &second, "-R", "-c", "fast", "--no-sync"]));
    let new = postgres(&dir, &second);

    let write = free_addr();
    let instance = before(write, [old.addr, new.addr], "type = \"postgres\", password = \"known\"");
    wait_for("a write", || try_sql(write, "INSERT INTO written VALUES (1)"));
    wait_for("the replica to have it", || (try_sql(new.addr, "SELECT n FROM written")? == "1").then_some(()));
    kill(old.child.id(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(try_sql(new.addr, "INSERT INTO written VALUES (2)"), None, "a replica takes no writes");
    done(&mut sql(new.addr, "SELECT pg_promote()"));
    let promoted = Instant::now();
    wait_for("a write", || try_sql(write, "INSERT INTO written VALUES (3)"));
    println!("first write {} ms after the promotion", promoted.elapsed().as_millis());
    instance.wait_for_log("server is the primary, another was");
    assert_eq!(done(&mut sql(new.addr, "SELECT n FROM written ORDER BY n")), "1\n3");
}

/// MariaDB without a password for root on its socket.
fn mariadb(dir: &TempDir, name: &str, id: u32) -> (Server, String) {
    let data = dir.path().join(name).to_str().unwrap().to_owned();
    let socket = format!("{data}.sock");
    done(
        program("mariadb-install-db", "mysql")
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args([&format!("--datadir={data}"), "--skip-test-db"]),
    );
    let addr = free_addr();
    let child = program("mariadbd", "mysql")
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--log-bin=bin", "--innodb-flush-log-at-trx-commit=0"])
        .args([format!("--datadir={data}"), format!("--port={}", addr.port()), format!("--socket={socket}")])
        .args([format!("--server-id={id}"), format!("--pid-file={data}.pid")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { addr, child };
    wait_for("mariadb to answer", || on_socket(&socket, "SELECT 1"));
    let users = "SET sql_log_bin = 0; CREATE USER bascule@'127.0.0.1' IDENTIFIED BY 'known'; \
                 GRANT SLAVE MONITOR ON *.* TO bascule@'127.0.0.1'; \
                 CREATE USER copy@'127.0.0.1' IDENTIFIED BY 'copy'; GRANT ALL ON *.* TO copy@'127.0.0.1'";
    on_socket(&socket, users).unwrap();
    (server, socket)
}

fn on_socket(socket: &str, text: &str) -> Option<String> {
    let output = Command::new("mariadb").args(["--no-defaults", "-uroot", "-N", "-S", socket, "-e", text]).output();
    let output = output.unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A MariaDB, and one that replicates it and is read-only; each with its socket.
fn mariadb_with_replica(dir: &TempDir) -> [(Server, String); 2] {
    let (old, new) = (mariadb(dir, "old", 1), mariadb(dir, "new", 2));
    let source = format!(
        "SET GLOBAL read_only = 1; CHANGE MASTER TO master_host = '127.0.0.1', master_port = {}, master_user = 'copy', \
         master_password = 'copy'; START SLAVE",
        old.0.addr.port()
    );
    on_socket(&new.1, &source).unwrap();
    [old, new]
}

fn over(addr: SocketAddr, text: &str) -> Option<String> {
    let port = addr.port().to_string();
    let login = ["--no-defaults", "-ucopy", "-pcopy", "-h127.0.0.1", "-N", "-P", &port, "-e", text];
    let output = Command::new("mariadb").args(login).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn the_checks_of_mariadb_know_who_is_read_only_and_whether_it_replicates() {
    let dir = shared_dir();
    let [(old, old_socket), (new, new_socket)] = mariadb_with_replica(&dir);
    let write = free_addr();
    let instance = before(write, [old.addr, new.addr], "type = \"mysql\", password = \"known\"");
    let id = || over(write, "SELECT @@server_id");
    assert_eq!(wait_for("the primary", id), "1");
    on_socket(&new_socket, "STOP SLAVE").unwrap();
    instance.wait_for_log("the replica does not replicate");
    on_socket(&old_socket, "SET GLOBAL read_only = 1").unwrap();
    instance.wait_for_log("the primary has become a replica");
    on_socket(&new_socket, "SET GLOBAL read_only = 0").unwrap();
    assert_eq!(wait_for("the new primary", id), "2");
    // Neither what is probed nor its end is an error to the server.
    let aborted = on_socket(&old_socket, "SHOW GLOBAL STATUS LIKE 'Aborted_connects'").unwrap();
    assert_eq!(aborted.split_whitespace().last(), Some("0"), "{aborted}");
}

/// The numbers in the table, asked for past bascule.
fn written(socket: &str) -> BTreeSet<u64> {
    let all = on_socket(socket, "SELECT n FROM load_test.written").unwrap();
    all.lines().map(|number| number.parse().unwrap()).collect()
}

/// Writes numbers over one session until that ends; what was acknowledged.
fn write_in_a_session(write: SocketAddr, first: u64) -> JoinHandle<Vec<u64>> {
    let port = write.port().to_string();
    let mut session = Command::new("mariadb")
        .args(["--no-defaults", "-ucopy", "-pcopy", "-h127.0.0.1", "-N", "-n", "--skip-reconnect", "-P", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::spawn(move || {
        let (mut to, from) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
        let mut answers = BufReader::new(from).lines();
        let mut done = Vec::new();
        for number in first.. {
            let statement = format!("INSERT INTO load_test.written VALUES ({number}); SELECT {number};\n");
            if to.write_all(statement.as_bytes()).is_err() {
                break;
            }
            match answers.next() {
                Some(Ok(answer)) if answer == number.to_string() => done.push(number),
                _ => break,
            }
        }
        drop(to);
        session.wait().unwrap();
        done
    })
}

#[test]
fn no_write_comes_to_the_old_mariadb_once_another_is_the_primary() {
    let dir = shared_dir();
    let [(old, old_socket), (new, new_socket)] = mariadb_with_replica(&dir);
    on_socket(&old_socket, "CREATE DATABASE load_test; CREATE TABLE load_test.written (n bigint)").unwrap();
    let write = free_addr();
    let instance = before(write, [old.addr, new.addr], "type = \"mysql\", password = \"known\"");
    wait_for("the primary", || over(write, "SELECT 1"));
    wait_for("the table on the replica", || on_socket(&new_socket, "SELECT n FROM load_test.written"));

    const OF_SESSION: u64 = 1_000_000;
    let session = write_in_a_session(write, OF_SESSION);
    let ends = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ends);
    // A connection each, whose user may write to any server, read-only or not: only bascule keeps it from that.
    let writer = std::thread::spawn(move || {
        let insert = |number: &u64| over(write, &format!("INSERT INTO load_test.written VALUES ({number})")).is_some();
        (1..OF_SESSION).take_while(|_| !seen.load(Ordering::SeqCst)).filter(insert).collect::<BTreeSet<u64>>()
    });
    let both_write =
        |numbers: &BTreeSet<u64>| numbers.range(..OF_SESSION).count() > 5 && numbers.range(OF_SESSION..).count() > 5;
    wait_for("load", || both_write(&written(&new_socket)).then_some(()));

    on_socket(&new_socket, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0").unwrap();
    instance.wait_for_log("several servers say that they are the primary");
    on_socket(&old_socket, "SET GLOBAL read_only = 1").unwrap();
    instance.wait_for_log("server is the primary, another was");
    let only_new = || written(&new_socket).difference(&written(&old_socket)).count();
    wait_for("writes to the new one", || (only_new() > 0).then_some(()));
    let of_old = written(&old_socket);
    let acknowledged = session.join().unwrap();
    wait_for("more of them", || (only_new() > 10).then_some(()));
    ends.store(true, Ordering::SeqCst);
    let done = writer.join().unwrap();

    let of_new = written(&new_socket);
    assert_eq!(written(&old_socket), of_old, "a write to the old one after the first to the new one");
    let last_old = of_old.difference(&of_new).filter(|number| **number < OF_SESSION).max();
    let first_new = of_new.difference(&of_old).min();
    assert!(last_old < first_new, "{last_old:?} was written to the old primary, {first_new:?} to the new one");
    assert!(of_new.difference(&of_old).all(|number| *number < OF_SESSION), "the session has ended");
    let lost: Vec<_> =
        done.iter().chain(&acknowledged).filter(|n| !of_old.contains(n) && !of_new.contains(n)).collect();
    assert!(lost.is_empty(), "{lost:?} were acknowledged and are nowhere");
}
