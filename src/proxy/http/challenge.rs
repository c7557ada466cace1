//! Challenges of ACME's http-01 (RFC 8555 section 8.3), answered from the webroot that the ACME client writes to.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use crate::http1::Method;
use crate::net::Transport;
use crate::proxy::http::Next;
use crate::proxy::http::exchange::{Exchange, Refusal};
use crate::proxy::http::respond::NO_EDITS;
use crate::snapshot::ListenerView;
use crate::telemetry::reason::Reason;

/// Where challenges are asked for.
const PREFIX: &[u8] = b"/.well-known/acme-challenge/";

/// Below the webroot.
const FOLDER: &str = ".well-known/acme-challenge";

/// Longest file that is sent; a key authorization has some hundred bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Longest token: no file has a longer name.
const MAX_TOKEN: usize = 255;

/// Why a file is not sent.
#[derive(Debug)]
enum ChallengeError {
    /// Not a token of RFC 8555: base64url without padding.
    Token,
    Method,
    /// The webroot cannot be opened.
    Folder(io::Error),
    /// Missing, not to be read by the proxy's user, or a link that leads out of the webroot.
    File(io::Error),
    /// A folder, a pipe, a device.
    NotAFile,
    TooLarge,
}

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => f.write_str("not a token"),
            Self::Method => f.write_str("only GET and HEAD are answered"),
            Self::Folder(e) => write!(f, "the folder cannot be opened: {e}"),
            Self::File(e) => write!(f, "the file cannot be read: {e}"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::TooLarge => write!(f, "the file is larger than {MAX_FILE} bytes"),
        }
    }
}

/// Whether `path`, as received, asks for a challenge.
pub(crate) fn is_asked_for(path: &[u8]) -> bool {
    path.starts_with(PREFIX)
}

impl<C: Transport> Exchange<'_, C> {
    /// Answers from the webroot `dir`, to whom the listener's limits let pass.
    pub(super) async fn answer_challenge(&mut self, listener: &ListenerView, dir: &Arc<Path>) -> Next {
        self.log.clone_from(&listener.log);
        if let Some(gate) = &listener.gate
            && let Err(refusal) = self.pass(gate, None, None).await
        {
            return self.refuse(refusal, &[]).await;
        }
        match self.challenge(dir).await {
            Ok(body) => self.respond(200, None, Some((&body, "text/plain")), false, &NO_EDITS).await,
            Err(error) => {
                tracing::debug!(peer = %self.conn.peer, dir = %dir.display(), %error, "challenge not answered");
                self.refuse(Refusal { status: 404, reason: Some(Reason::NoChallenge), close: false }, &[]).await
            }
        }
    }

    async fn challenge(&self, dir: &Arc<Path>) -> Result<Vec<u8>, ChallengeError> {
        let head = &self.scratch.request;
        let token = token(head.path.of(self.buf.bytes())).ok_or(ChallengeError::Token)?.to_owned();
        if !matches!(head.method, Method::Get | Method::Head) {
            return Err(ChallengeError::Method);
        }
        let dir = Arc::clone(dir);
        // A disk may be slow, and a worker does not wait.
        let read = tokio::task::spawn_blocking(move || read(&dir, &token));
        read.await.unwrap_or_else(|e| Err(ChallengeError::File(io::Error::other(e))))
    }
}

/// The token that `path` asks for.
fn token(path: &[u8]) -> Option<&str> {
    let token = path.strip_prefix(PREFIX)?;
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_token = (1..=MAX_TOKEN).contains(&token.len()) && token.iter().all(fits);
    std::str::from_utf8(token).ok().filter(|_| is_token)
}

/// The file of `token` in the webroot `dir`.
fn read(dir: &Path, token: &str) -> Result<Vec<u8>, ChallengeError> {
    let folder = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = folder.map_err(|e| ChallengeError::Folder(e.into()))?;
    // Not to wait for whoever writes to a pipe, nor to follow a link out of the webroot.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(&folder, format!("{FOLDER}/{token}"), flags, Mode::empty(), beneath);
    let file = File::from(file.map_err(|e| ChallengeError::File(e.into()))?);
    if !file.metadata().map_err(ChallengeError::File)?.is_file() {
        return Err(ChallengeError::NotAFile);
    }
    let mut body = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut body).map_err(ChallengeError::File)?;
    if body.len() as u64 > MAX_FILE { Err(ChallengeError::TooLarge) } else { Ok(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_are_names_of_files() {
        let longest = "a".repeat(MAX_TOKEN);
        for name in ["a", "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", "-_09azAZ", &longest] {
            assert_eq!(token(format!("/.well-known/acme-challenge/{name}").as_bytes()), Some(name));
        }
        let long = "a".repeat(MAX_TOKEN + 1);
        for name in ["", ".", "..", "a.b", "a/b", "../x", "%61", "a=", "a b", "\u{e4}", "a\0", &long] {
            assert_eq!(token(format!("/.well-known/acme-challenge/{name}").as_bytes()), None, "{name:?}");
        }
        assert_eq!(token(b"/.well-known/acme-challenge"), None);
    }
}
