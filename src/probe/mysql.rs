//! Asks MySQL or MariaDB whether it is writable, and how far behind.
//!
//! The client is our own and knows a login and a text query only: `mysql_async` opens its sockets itself, without the pool's
//! source address, and both it and `mysql_common` read packets of up to 16 MiB. Protocol: MySQL Internals, "Client/Server
//! Protocol"; MariaDB Knowledge Base, "Connection phase".

use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::attempt::Failure;
use super::bounded::Bounded;
use crate::config::model::DatabaseProbe;
use crate::health::Role;

/// Of a packet; the longest that is asked for is the status of a replica, some KiB.
const MAX_PACKET: usize = 64 << 10;
/// Packets of one answer.
const MAX_PACKETS: usize = 256;

const LONG_PASSWORD: u32 = 1;
const PROTOCOL_41: u32 = 0x200;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
const UTF8: u8 = 33;

/// "You have an error in your SQL syntax": the server has another word for it.
const SYNTAX_ERROR: u16 = 1064;

/// The server has forgotten the user's password, as it does when it starts and at FLUSH PRIVILEGES.
const FULL_LOGIN: &str = "caching_sha2_password wants a full login, which needs TLS: log this user in once by the mysql \
                          client on any box (again when the server has restarted), or identify the user by \
                          mysql_native_password";

/// What the server on `stream` is.
pub(super) async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, probe: &DatabaseProbe) -> Result<Role, Failure> {
    let mut wire = Wire { stream: Bounded::new(stream), sequence: 0 };
    wire.log_in(probe.user.as_deref().unwrap_or("bascule"), probe.password.as_deref().unwrap_or_default()).await?;
    // super_read_only implies it.
    let answer = wire.query("SELECT @@global.read_only").await.map_err(Trouble::into_failure)?;
    let role = match answer.first().and_then(|row| row.value_at(0)) {
        Some("0" | "OFF") => Role::Primary,
        Some(_) => Role::Replica,
        None => return Err(strange()),
    };
    if role == Role::Replica
        && let Some(max) = probe.max_lag
    {
        let status = match wire.query("SHOW REPLICA STATUS").await {
            Err(Trouble::Refused(SYNTAX_ERROR, _)) => wire.query("SHOW SLAVE STATUS").await,
            status => status,
        };
        judge(&status.map_err(Trouble::into_failure)?, max)?;
    }
    wire.leave().await;
    Ok(role)
}

/// Whether a replica is near enough.
fn judge(status: &[Row], max: Duration) -> Result<(), Failure> {
    let behind =
        |row: &Row| row.value("Seconds_Behind_Source").or_else(|| row.value("Seconds_Behind_Master"))?.parse().ok();
    let worst = status.iter().map(behind).collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
    match worst {
        Some(seconds) if seconds <= max.as_secs() => Ok(()),
        behind => Err(Failure::Lag(behind)),
    }
}

/// A row and the names of its columns.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row(Vec<(String, Option<String>)>);

impl Row {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(column, _)| column.eq_ignore_ascii_case(name))?.1.as_deref()
    }

    fn value_at(&self, at: usize) -> Option<&str> {
        self.0.get(at)?.1.as_deref()
    }
}

/// What goes wrong with a query.
enum Trouble {
    /// The server says no, and why.
    Refused(u16, String),
    Other(Failure),
}

impl Trouble {
    fn into_failure(self) -> Failure {
        match self {
            Self::Refused(code, text) => Failure::Database(format!("{text} ({code})")),
            Self::Other(failure) => failure,
        }
    }
}

struct Wire<S> {
    stream: S,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let greeting = self.receive().await?;
        let (nonce, plugin) = greeted(&greeting)?;
        let answer = scramble(&plugin, password, &nonce).unwrap_or_default();
        let flags = LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
        let mut reply = flags.to_le_bytes().to_vec();
        reply.extend_from_slice(&(1_u32 << 24).to_le_bytes());
        reply.push(UTF8);
        reply.extend_from_slice(&[0; 23]);
        reply.extend_from_slice(user.as_bytes());
        reply.push(0);
        // A scramble has 32 bytes at most.
        reply.push(u8::try_from(answer.len()).unwrap_or(0));
        reply.extend_from_slice(&answer);
        reply.extend_from_slice(plugin.as_bytes());
        reply.push(0);
        self.send(&reply).await?;
        let mut switched = false;
        loop {
            let packet = self.receive().await?;
            match (packet.first(), packet.get(1)) {
                (Some(0), _) => return Ok(()),
                (Some(0xff), _) => return Err(refusal(&packet).into_failure()),
                (Some(0xfe), _) if !switched => {
                    switched = true;
                    let (plugin, nonce) = split_at_zero(packet.get(1..).unwrap_or_default());
                    let plugin = String::from_utf8_lossy(plugin).into_owned();
                    let nonce = nonce.strip_suffix(&[0]).unwrap_or(nonce);
                    let answer = scramble(&plugin, password, nonce).ok_or_else(|| {
                        Failure::Database(format!("the user logs in by {plugin}, which is not known here"))
                    })?;
                    self.send(&answer).await?;
                }
                // caching_sha2_password knows the user.
                (Some(1), Some(3)) => {}
                // The other way is the password itself, over TLS or encrypted for a key that nobody vouches for.
                (Some(1), Some(4)) => return Err(Failure::Database(FULL_LOGIN.to_owned())),
                _ => return Err(strange()),
            }
        }
    }

    async fn query(&mut self, text: &str) -> Result<Vec<Row>, Trouble> {
        self.sequence = 0;
        let command = [&[3], text.as_bytes()].concat();
        self.send(&command).await.map_err(Trouble::Other)?;
        let first = self.receive().await.map_err(Trouble::Other)?;
        let columns = match first.first() {
            Some(0xff) => return Err(refusal(&first)),
            Some(0) => return Ok(Vec::new()),
            Some(&columns) if columns < 0xfb => usize::from(columns),
            _ => return Err(Trouble::Other(strange())),
        };
        let mut names = Vec::new();
        let mut rows = Vec::new();
        let mut defined = false;
        for _ in 0..MAX_PACKETS {
            let packet = self.receive().await.map_err(Trouble::Other)?;
            match packet.first() {
                Some(0xff) => return Err(refusal(&packet)),
                Some(0xfe) if packet.len() < 9 && defined => return Ok(rows),
                Some(0xfe) if packet.len() < 9 && names.len() == columns => defined = true,
                // Catalog, schema, table, table as in the database, name.
                _ if !defined => {
                    let name = texts(&packet).nth(4).flatten();
                    names.push(name.ok_or_else(|| Trouble::Other(strange()))?);
                }
                _ => {
                    let values: Vec<_> = texts(&packet).collect();
                    if values.len() != names.len() {
                        return Err(Trouble::Other(strange()));
                    }
                    rows.push(Row(names.iter().cloned().zip(values).collect()));
                }
            }
        }
        Err(Trouble::Other(strange()))
    }

    /// Says good-bye, so that the server does not count an aborted client, and waits until it has heard.
    async fn leave(&mut self) {
        self.sequence = 0;
        if self.send(&[1]).await.is_ok() {
            let _ = self.stream.read_u8().await;
        }
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut packet = vec![len[0], len[1], len[2], self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        packet.extend_from_slice(payload);
        self.stream.write_all(&packet).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    async fn receive(&mut self) -> Result<Vec<u8>, Failure> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await.map_err(broken)?;
        let [a, b, c, sequence] = head;
        let len = u32::from_le_bytes([a, b, c, 0]);
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_PACKET).ok_or_else(strange)?;
        self.sequence = sequence.wrapping_add(1);
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await.map_err(broken)?;
        Ok(payload)
    }
}

/// Nonce and way to log in of a greeting.
fn greeted(packet: &[u8]) -> Result<(Vec<u8>, String), Failure> {
    match packet.first() {
        Some(10) => {}
        Some(0xff) => return Err(refusal(packet).into_failure()),
        _ => return Err(strange()),
    }
    let (_version, rest) = split_at_zero(packet.get(1..).unwrap_or_default());
    // Thread 4, nonce 8, filler 1, flags 2, character set 1, status 2, flags 2, length of the nonce 1, reserved 10.
    let (first, second) = (rest.get(4..12), rest.get(31..43));
    let (Some(first), Some(second)) = (first, second) else { return Err(strange()) };
    let (plugin, _) = split_at_zero(rest.get(44..).unwrap_or_default());
    let plugin = if plugin.is_empty() { b"mysql_native_password" } else { plugin };
    Ok(([first, second].concat(), String::from_utf8_lossy(plugin).into_owned()))
}

/// The proof of knowing `password` that `plugin` wants; `None`: it is not known here.
fn scramble(plugin: &str, password: &str, nonce: &[u8]) -> Option<Vec<u8>> {
    let password = password.as_bytes();
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect();
    match plugin {
        "mysql_native_password" | "caching_sha2_password" if password.is_empty() => Some(Vec::new()),
        "mysql_native_password" => {
            let once = Sha1::digest(password);
            let mixed = Sha1::new().chain_update(nonce).chain_update(Sha1::digest(once)).finalize();
            Some(xor(&once, &mixed))
        }
        "caching_sha2_password" => {
            let once = Sha256::digest(password);
            let mixed = Sha256::new().chain_update(Sha256::digest(once)).chain_update(nonce).finalize();
            Some(xor(&once, &mixed))
        }
        _ => None,
    }
}

/// Code and text of an error packet.
fn refusal(packet: &[u8]) -> Trouble {
    let code = packet.get(1..3).and_then(|code| code.try_into().ok()).map_or(0, u16::from_le_bytes);
    let text = packet.get(3..).unwrap_or_default();
    // A mark and five letters of SQL state, once the protocol is agreed upon.
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or_default() } else { text };
    Trouble::Refused(code, String::from_utf8_lossy(text).chars().take(200).collect())
}

/// The strings of a packet, each with its length before it; `None`: NULL. Ends where it is broken.
fn texts(packet: &[u8]) -> impl Iterator<Item = Option<String>> {
    let mut rest = packet;
    std::iter::from_fn(move || {
        let (&first, behind) = rest.split_first()?;
        let (len, behind) = match first {
            0xfb => {
                rest = behind;
                return Some(None);
            }
            0xfc => (usize::from(u16::from_le_bytes(behind.get(..2)?.try_into().ok()?)), behind.get(2..)?),
            0..=0xfa => (usize::from(first), behind),
            _ => return None,
        };
        let text = String::from_utf8_lossy(behind.get(..len)?).into_owned();
        rest = behind.get(len..)?;
        Some(Some(text))
    })
}

/// What is before the first zero, and what is behind it.
fn split_at_zero(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default())
}

fn broken(e: std::io::Error) -> Failure {
    Failure::Database(format!("the connection broke: {e}"))
}

fn strange() -> Failure {
    Failure::Database("the answer is not that of MySQL".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[(&str, Option<&str>)]) -> Row {
        Row(values.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect())
    }

    #[test]
    fn a_replica_is_as_far_behind_as_it_says() {
        let max = Duration::from_secs(10);
        for (status, says) in [
            (vec![row(&[("Seconds_Behind_Master", Some("10"))])], None),
            (vec![row(&[("Seconds_Behind_Source", Some("0"))])], None),
            (vec![row(&[("Seconds_Behind_Source", Some("11"))])], Some("the replica is 11 s behind")),
            (vec![row(&[("Seconds_Behind_Master", None)])], Some("the replica does not replicate")),
            (vec![], Some("the replica does not replicate")),
        ] {
            let said = judge(&status, max).err().map(|failure| failure.to_string());
            assert_eq!(said.as_deref(), says, "{status:?}");
        }
    }

    #[test]
    fn errors_are_told_with_and_without_a_state() {
        for packet in [&b"\xff\x15\x04#28000Access denied"[..], b"\xff\x15\x04Access denied"] {
            assert_eq!(refusal(packet).into_failure().to_string(), "Access denied (1045)");
        }
    }

    /// `ask` of a server that sends `bytes` and closes.
    fn answered(bytes: &[u8]) -> Result<Role, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            far.write_all(bytes).await.unwrap();
            far.shutdown().await.unwrap();
            let password = Some("secret".into());
            let probe = DatabaseProbe { user: None, password, database: "".into(), max_lag: Some(Duration::ZERO) };
            ask(near, &probe).await.map_err(|failure| failure.to_string())
        })
    }

    #[test]
    fn a_server_that_blocks_this_box_says_so() {
        let text = b"\xff\x69\x04Host '192.0.2.11' is blocked because of many connection errors";
        let packet = [&[u8::try_from(text.len()).unwrap(), 0, 0, 0], &text[..]].concat();
        assert!(answered(&packet).unwrap_err().contains("is blocked because of many connection errors (1129)"));
    }

    /// Packets as they are sent, numbered from `first`.
    fn packets(first: u8, payloads: &[&[u8]]) -> Vec<u8> {
        let packet =
            |(payload, n): (&&[u8], u8)| [&[u8::try_from(payload.len()).unwrap(), 0, 0, n][..], payload].concat();
        payloads.iter().zip(first..).flat_map(packet).collect()
    }

    fn greeting(plugin: &str) -> Vec<u8> {
        let nonce = b"abcdefghijklmnopqrst";
        [&b"\x0a8.0.36\0\x01\0\0\0"[..], &nonce[..8], &[0; 19], &nonce[8..], b"\0", plugin.as_bytes(), b"\0"].concat()
    }

    #[test]
    fn caching_sha2_password_lets_in_whom_it_knows_and_says_what_to_do_about_others() {
        const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
        let hello = greeting("caching_sha2_password");
        // One column, its definition, the end of those, a row that says 0, the end of those.
        let end = &[0xfe, 0, 0, 2, 0][..];
        let read_only =
            packets(1, &[&[1], b"\x03def\0\0\0\x01r\0\x0c\x3f\0\x01\0\0\0\x08\0\0\0\0\0", end, b"\x010", end]);
        let known = [packets(0, &[&hello]), packets(2, &[&[1, 3], OK]), read_only.clone()].concat();
        assert_eq!(answered(&known), Ok(Role::Primary));
        let forgotten = [packets(0, &[&hello]), packets(2, &[&[1, 4]])].concat();
        assert_eq!(answered(&forgotten), Err(FULL_LOGIN.to_owned()));

        // The user has another plugin than the server.
        let switch = [&b"\xfecaching_sha2_password\0"[..], b"abcdefghijklmnopqrst\0"].concat();
        let hello = greeting("mysql_native_password");
        let switched = [packets(0, &[&hello]), packets(2, &[&switch]), packets(4, &[&[1, 4]])].concat();
        assert_eq!(answered(&switched), Err(FULL_LOGIN.to_owned()));
        let switch = [&b"\xfesha256_password\0"[..], b"abcdefghijklmnopqrst\0"].concat();
        let switched = [packets(0, &[&hello]), packets(2, &[&switch])].concat();
        assert!(answered(&switched).unwrap_err().contains("logs in by sha256_password, which is not known here"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_failure_and_no_panic(bytes in vec(any::<u8>(), 0..2000)) {
            prop_assert!(answered(&bytes).is_err());
        }

        #[test]
        fn any_packets_are_taken_apart_without_panic(packets in vec(vec(any::<u8>(), 0..80), 0..12)) {
            let mut bytes = Vec::new();
            for packet in packets {
                let _ = texts(&packet).count();
                let _ = greeted(&packet);
                bytes.extend_from_slice(&[u8::try_from(packet.len()).unwrap(), 0, 0, 0]);
                bytes.extend_from_slice(&packet);
            }
            let _ = answered(&bytes);
        }
    }
}
