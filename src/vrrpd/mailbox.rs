//! Messages to a thread that waits in poll(2): a queue, and a descriptor that is readable while there is something in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::event::{EventfdFlags, eventfd};

/// The end that is waited at.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// The other end, for as many threads as like.
#[derive(Debug)]
pub struct Post<T> {
    queue: Sender<T>,
    bell: Arc<OwnedFd>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: Arc::clone(&self.bell) }
    }
}

/// Both ends.
///
/// # Errors
/// No descriptor is left.
pub fn mailbox<T>() -> io::Result<(Post<T>, Mailbox<T>)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (send, queue) = mpsc::channel();
    Ok((Post { queue: send, bell: Arc::clone(&bell) }, Mailbox { queue, bell }))
}

impl<T> Post<T> {
    /// Sends; to a thread that has ended, in vain.
    pub fn send(&self, message: T) {
        let _ = self.queue.send(message);
        // Fails only when the counter is full, and then the bell rings anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl<T> Mailbox<T> {
    /// Everything that has come, in order.
    pub fn take(&self) -> impl Iterator<Item = T> + '_ {
        // Silenced first: what comes afterwards rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.queue.try_iter()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
