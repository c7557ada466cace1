//! Pipes for `splice(2)`: a few per worker, bounded for the process.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Capacity of a pipe. Four times what the kernel makes by itself: a quarter of the system calls on bulk.
pub const CAPACITY: usize = 256 * 1024;

/// Pipes of the process at most. An unprivileged user gets 16,384 pages (`pipe-user-pages-soft`) before the kernel
/// refuses to enlarge pipes, which is 256 of these; half of that leaves room for the user's other processes.
const MAX_PIPES: usize = 128;

/// Empty pipes a worker keeps.
const KEPT: usize = 32;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The pipes a worker has to spare.
#[derive(Debug, Default)]
pub struct PipePool {
    spare: RefCell<Vec<Ends>>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Drop for Ends {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PipePool {
    /// An empty pool.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// An empty pipe; `None` when the process has its share or the kernel refuses: copy instead.
    pub fn take(self: &Rc<Self>) -> Option<Pipe> {
        let spare = self.spare.borrow_mut().pop();
        let ends = match spare {
            Some(e) => e,
            None => {
                if OPEN.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES {
                    OPEN.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
                    Ok((read, write)) => {
                        // A pipe that stays small works as well, with more system calls.
                        let _ = fcntl_setpipe_size(&write, CAPACITY);
                        Ends { read, write }
                    }
                    Err(_) => {
                        OPEN.fetch_sub(1, Ordering::Relaxed);
                        return None;
                    }
                }
            }
        };
        Some(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(self) })
    }
}

/// A pipe on loan, with the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<Ends>,
    /// Bytes in the pipe; kept by whoever moves them.
    pub held: usize,
    pool: Rc<PipePool>,
}

impl Pipe {
    /// Where bytes go in.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.ends.as_ref().expect("invariant: taken only by drop").write.as_fd()
    }

    /// Where bytes come out.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.ends.as_ref().expect("invariant: taken only by drop").read.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A pipe with bytes in it would hand them to the next connection: it is closed instead.
        if self.held == 0 {
            let mut spare = self.pool.spare.borrow_mut();
            if spare.len() < KEPT
                && let Some(ends) = self.ends.take()
            {
                spare.push(ends);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_is_not_empty_never_goes_back() {
        let pool = PipePool::new();
        let mut p = pool.take().expect("a pipe");
        p.held = 1;
        drop(p);
        assert!(pool.spare.borrow().is_empty());
        drop(pool.take().expect("a pipe"));
        assert_eq!(pool.spare.borrow().len(), 1);
    }
}
