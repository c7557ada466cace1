//! Work space of an exchange, kept by the worker between exchanges so that none of it is allocated anew.

use std::cell::RefCell;
use std::sync::Arc;

use crate::http1::{RequestHead, ResponseHead};
use crate::pool::Server;
use crate::telemetry::reason::Reason;

/// How many a worker keeps: some kilobytes each, and streams of HTTP/2 have one each.
const KEPT: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The request's head; its spans refer to the client's buffer.
    pub(crate) request: RequestHead,
    /// The response's head; its spans refer to the server's buffer.
    pub(crate) response: ResponseHead,
    /// The normalised path, when it differs from the one received.
    pub(crate) path: Vec<u8>,
    /// The target that is forwarded, when it differs from the one received.
    pub(crate) target: Vec<u8>,
    /// A head on its way out.
    pub(crate) out: Vec<u8>,
    /// The server's head as received, when the access log asks for its fields.
    pub(crate) received: Vec<u8>,
    /// Fields of ours that go out with the response: the cookie of a sticky pool.
    pub(crate) own_fields: Vec<u8>,
    /// The line of Strict-Transport-Security that goes out with the response, if one does.
    pub(crate) hsts: Vec<u8>,
    /// A hash key, a redirect's location, a body.
    pub(crate) text: Vec<u8>,
    /// Servers tried: for the log, and when the first one failed.
    pub(crate) tries: Vec<Try>,
}

/// One server tried.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    /// Which.
    pub(crate) server: Arc<Server>,
    /// The status it answered; 0: none.
    pub(crate) status: u16,
    /// Microseconds until connected; `None`: a connection was reused, or there was none.
    pub(crate) connect: Option<u64>,
    /// Microseconds until its head was complete.
    pub(crate) header: Option<u64>,
    /// Microseconds until the end.
    pub(crate) response: Option<u64>,
    /// What was wrong with it.
    pub(crate) reason: Option<Reason>,
    /// The same exactly, where the reason does not tell.
    pub(crate) detail: Option<Box<str>>,
}

impl Try {
    /// One that begins.
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, status: 0, connect: None, header: None, response: None, reason: None, detail: None }
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.path.clear();
        self.target.clear();
        self.out.clear();
        self.received.clear();
        self.own_fields.clear();
        self.hsts.clear();
        self.text.clear();
        self.tries.clear();
    }
}

/// The spare ones of a worker.
#[derive(Debug, Default)]
pub(crate) struct ScratchPool {
    #[expect(clippy::vec_box, reason = "they are lent out and taken back as boxes")]
    spare: RefCell<Vec<Box<Scratch>>>,
}

impl ScratchPool {
    /// One to use.
    pub(crate) fn take(&self) -> Box<Scratch> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes one back.
    pub(crate) fn put(&self, mut scratch: Box<Scratch>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < KEPT {
            scratch.clear();
            spare.push(scratch);
        }
    }
}
