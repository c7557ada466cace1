//! Asks Redis, or what speaks as it does, for INFO: role, link to the primary, loading.
//!
//! The client is our own: one command whose answer is a length and a text. Client libraries keep connections, route and
//! retry, which a probe must not, and read answers of any length.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::attempt::Failure;
use super::bounded::Bounded;
use crate::config::model::DatabaseProbe;
use crate::health::Role;

/// Of the line before an answer.
const MAX_LINE: usize = 1024;
/// Of an answer; INFO is about 6 KiB.
const MAX_ANSWER: usize = 128 << 10;

/// What the server on `stream` is.
pub(super) async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, probe: &DatabaseProbe) -> Result<Role, Failure> {
    let mut stream = tokio::io::BufStream::new(Bounded::new(stream));
    let mut request = Vec::new();
    if let Some(password) = &probe.password {
        let user = probe.user.as_deref();
        let words: Vec<&[u8]> = [Some("AUTH"), user, Some(password)].into_iter().flatten().map(str::as_bytes).collect();
        command(&words, &mut request);
    }
    command(&[b"INFO"], &mut request);
    stream.write_all(&request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    if probe.password.is_some() {
        answer(&mut stream).await?;
    }
    judge(&String::from_utf8_lossy(&answer(&mut stream).await?), probe.max_lag)
}

fn broken(e: std::io::Error) -> Failure {
    Failure::Database(format!("the connection broke: {e}"))
}

/// Adds a command as RESP has it: an array of bulk strings.
fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// One answer: a simple string, a bulk string, or the error in it.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(strange());
        }
        line.push(stream.read_u8().await.map_err(broken)?);
    }
    line.truncate(line.len().saturating_sub(2));
    let text = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
    match line.first() {
        Some(b'+') => Ok(text.into_bytes()),
        Some(b'-') => Err(Failure::Database(text)),
        Some(b'$') => {
            let len = text.parse::<usize>().ok().filter(|len| *len <= MAX_ANSWER).ok_or_else(strange)?;
            let mut body = vec![0; len.checked_add(2).ok_or_else(strange)?];
            stream.read_exact(&mut body).await.map_err(broken)?;
            body.truncate(len);
            Ok(body)
        }
        _ => Err(strange()),
    }
}

fn strange() -> Failure {
    Failure::Database("the answer is not that of Redis".to_owned())
}

/// The role that INFO tells of, if the server is fit for use.
fn judge(info: &str, max_lag: Option<Duration>) -> Result<Role, Failure> {
    let field = |name: &str| {
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim_end().to_owned());
        info.lines().find_map(of)
    };
    if field("loading").as_deref() == Some("1") {
        return Err(Failure::Database("it is loading its data".to_owned()));
    }
    match field("role").as_deref() {
        Some("master") => Ok(Role::Primary),
        Some("slave" | "replica") => {
            let Some(max) = max_lag else { return Ok(Role::Replica) };
            let silent = field("master_last_io_seconds_ago").and_then(|seconds| seconds.parse::<u64>().ok());
            match (field("master_link_status").as_deref(), silent) {
                (Some("up"), Some(seconds)) if seconds <= max.as_secs() => Ok(Role::Replica),
                (Some("up"), Some(seconds)) => Err(Failure::Lag(Some(seconds))),
                _ => Err(Failure::Lag(None)),
            }
        }
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:3\r\n";

    #[test]
    fn info_tells_the_role_and_whether_it_is_fit() {
        let down = REPLICA.replace(":up", ":down");
        for (info, max, result) in [
            ("loading:0\r\nrole:master\r\n", None, "primary"),
            ("loading:1\r\nrole:master\r\n", None, "it is loading its data"),
            (REPLICA, None, "replica"),
            (REPLICA, Some(3), "replica"),
            (REPLICA, Some(2), "the replica is 3 s behind"),
            (&down, None, "replica"),
            (&down, Some(60), "the replica does not replicate"),
            ("role:sentinel\r\n", None, "the answer is not that of Redis"),
            ("", None, "the answer is not that of Redis"),
        ] {
            let said = match judge(info, max.map(Duration::from_secs)) {
                Ok(Role::Primary) => "primary".to_owned(),
                Ok(Role::Replica) => "replica".to_owned(),
                Err(failure) => failure.to_string(),
            };
            assert!(said.contains(result), "{info:?}: {said}");
        }
    }

    /// The answer of a server that sends `bytes` and closes.
    async fn answered(bytes: &[u8], password: Option<&str>) -> Result<Role, String> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let password = password.map(Into::into);
        let probe = DatabaseProbe { user: None, password, database: "".into(), max_lag: None };
        ask(near, &probe).await.map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn only_what_redis_says_is_an_answer() {
        let info = b"$13\r\nrole:master\r\n\r\n";
        assert_eq!(answered(info, None).await, Ok(Role::Primary));
        assert_eq!(answered(&[&b"+OK\r\n"[..], info].concat(), Some("secret")).await, Ok(Role::Primary));
        for (bytes, says) in [
            (&b"-NOAUTH Authentication required.\r\n"[..], "NOAUTH Authentication required."),
            (b"$99999999999999999999\r\n", "not that of Redis"),
            (b"$-1\r\n", "not that of Redis"),
            (b"$500000\r\n", "not that of Redis"),
            (b"HTTP/1.1 400 Bad Request\r\n", "not that of Redis"),
            (b"$13\r\nrole", "the connection broke"),
            (b"", "the connection broke"),
            (&[b'+'; 5000], "not that of Redis"),
        ] {
            let failure = answered(bytes, None).await.unwrap_err();
            assert!(failure.contains(says), "{failure}");
        }
    }

    #[test]
    fn commands_hold_any_bytes() {
        let mut out = Vec::new();
        command(&[b"AUTH", b"a\r\nb"], &mut out);
        assert_eq!(out, b"*2\r\n$4\r\nAUTH\r\n$4\r\na\r\nb\r\n");
    }
}
