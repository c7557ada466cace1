//! Work that takes a while, beside the loop that must not wait for it.

use std::thread;

use tokio::sync::oneshot;

use crate::sys::schedule;

/// Whatever serves goes before, without starving it.
const NICE: i32 = 10;

/// Does `work` on a thread that others go before; its end without a value means that there was no thread, or a panic.
pub(super) fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (tell, told) = oneshot::channel();
    let thread = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // Without it, it is in the way of requests for some milliseconds.
        let _ = schedule::nice(NICE);
        // Nobody waits any more: it was given up.
        let _ = tell.send(work());
    });
    // Without a thread `told` says that nobody will tell.
    drop(thread);
    told
}
