//! The last exchanges and sessions that failed, for `bascule errors`: bounded in number and in bytes, and free of secrets.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::pool::Server;
use crate::telemetry::reason::Reason;

/// How many are kept.
const KEPT: usize = 256;

/// Bytes kept of what a client chose, each.
const LONGEST: usize = 512;

/// Servers kept of one exchange.
const MOST_TRIES: usize = 16;

/// What stands for a value that may be a secret.
const MASK: &str = "***";

/// One exchange or session that did not go as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedExchange {
    /// When it ended, milliseconds after 1970.
    pub unix_ms: u64,
    /// Whose it was.
    pub client: IpAddr,
    /// Where it came in.
    pub listener: Arc<str>,
    /// Host as sent; empty for TCP, and when no request could be read.
    pub host: String,
    /// Method as sent.
    pub method: String,
    /// Path and query as sent; values of the query are masked.
    pub path: String,
    /// The site, if it got as far.
    pub site: Option<Arc<str>>,
    /// The route, if it got as far.
    pub route: Option<Arc<str>>,
    /// The pool, if it got as far.
    pub pool: Option<Arc<str>>,
    /// Servers that were tried, in order.
    pub tries: Vec<FailedTry>,
    /// Status that the client got; 0: none.
    pub status: u16,
    /// The word in logs.
    pub reason: &'static str,
    /// What happened.
    pub cause: &'static str,
    /// What can be done about it.
    pub remedy: &'static str,
    /// Milliseconds in the pool's queue.
    pub queued_ms: Option<u64>,
    /// Milliseconds since the first server was picked (with an access log: since the request came); `None`: no server was.
    pub duration_ms: Option<u64>,
}

/// One server that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedTry {
    /// Its name.
    pub server: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// The status it answered; 0: none.
    pub status: u16,
    /// What was wrong with it; `None`: nothing, as far as it got.
    pub reason: Option<&'static str>,
    /// The same exactly, where the reason does not tell: what TLS says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
}

impl FailedExchange {
    /// What is known of any: the rest is to be filled in.
    pub(crate) fn new(client: IpAddr, listener: Arc<str>, reason: Reason) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            client,
            listener,
            host: String::new(),
            method: String::new(),
            path: String::new(),
            site: None,
            route: None,
            pool: None,
            tries: Vec::new(),
            status: 0,
            reason: reason.name(),
            cause: reason.cause(),
            remedy: reason.remedy(),
            queued_ms: None,
            duration_ms: None,
        }
    }

    /// Adds a server that was tried, unless there are many already.
    pub(crate) fn add_try(&mut self, server: &Server, status: u16, reason: Option<Reason>, detail: Option<&str>) {
        if self.tries.len() < MOST_TRIES {
            let reason = reason.map(Reason::name);
            let (server, address) = (Arc::clone(&server.name), server.address);
            let detail = detail.map(|detail| readable(detail.as_bytes()).into());
            self.tries.push(FailedTry { server, address, status, reason, detail });
        }
    }
}

/// The last ones. A worker that finds another at it does not wait: what it has to tell is counted as missed.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    ring: Mutex<VecDeque<FailedExchange>>,
    missed: AtomicU64,
}

impl Recent {
    /// Keeps one more, made only when there is room to put it.
    pub(crate) fn record(&self, made: impl FnOnce() -> FailedExchange) {
        let mut ring = match self.ring.try_lock() {
            Ok(ring) => ring,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(made());
    }

    /// All that are kept, the newest last.
    pub(crate) fn all(&self) -> Vec<FailedExchange> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many were not kept because two workers came at once.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// Text of bytes that a client chose: cut, and without what a terminal would obey.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(LONGEST)];
    let mut text: String =
        cut.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '?' }).collect();
    if cut.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

/// A path and its query with the values masked: a token may be in any, a word without `=` included. So are the parameters
/// of a path, `;jsessionid=...`.
pub(crate) fn masked(path: &[u8], query: Option<&[u8]>) -> String {
    let path = readable(path);
    let mut parts = path.split(';');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for parameter in parts {
        let (parameter, rest) = parameter.find('/').map_or((parameter, ""), |at| parameter.split_at(at));
        out.push(';');
        push_masked(&mut out, parameter);
        out.push_str(rest);
    }
    if let Some(query) = query {
        for (i, parameter) in readable(query).split('&').enumerate() {
            out.push(if i == 0 { '?' } else { '&' });
            push_masked(&mut out, parameter);
        }
    }
    out
}

fn push_masked(out: &mut String, parameter: &str) {
    if parameter.is_empty() {
        return;
    }
    if let Some((name, _)) = parameter.split_once('=') {
        out.push_str(name);
        out.push('=');
    }
    out.push_str(MASK);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn failed(path: &str) -> FailedExchange {
        let exchange = FailedExchange::new(Ipv4Addr::LOCALHOST.into(), "l".into(), Reason::NoRoute);
        FailedExchange { path: path.to_owned(), ..exchange }
    }

    #[test]
    fn the_last_ones_are_kept_in_order() {
        let recent = Recent::default();
        (0..KEPT + 3).for_each(|i| recent.record(|| failed(&i.to_string())));
        let all = recent.all();
        assert_eq!((all.len(), &*all[0].path, &*all[KEPT - 1].path), (KEPT, "3", "258"));
    }

    #[test]
    fn a_worker_never_waits_for_another() {
        let recent = Recent::default();
        let held = recent.ring.lock().unwrap();
        recent.record(|| failed("/"));
        drop(held);
        assert_eq!((recent.all().len(), recent.missed()), (0, 1));
    }

    #[test]
    fn no_value_of_a_query_or_of_a_path_parameter_is_kept() {
        let mask = |path: &str, query: &str| masked(path.as_bytes(), Some(query.as_bytes()));
        assert_eq!(mask("/a", "token=s3cret&x=s3cret=&s3cret&&y"), "/a?token=***&x=***&***&&***");
        assert_eq!(mask("/a;jsessionid=s3cret/b;s3cret", ""), "/a;jsessionid=***/b;***?");
        assert_eq!(masked(b"/plain", None), "/plain");
    }

    #[test]
    fn what_a_client_chose_is_cut_and_cannot_move_the_cursor() {
        let long = masked(&[b'/'; 100_000], Some(&[b'a'; 100_000]));
        assert!(long.len() <= 2 * LONGEST, "{}", long.len());
        assert_eq!(readable(b"/\x1b[2J\r\n\xff"), "/?[2J???");
    }
}
