//! Buffers of a worker: taken when there are bytes to hold, given back when there are none.

use std::cell::RefCell;
use std::rc::Rc;

/// What a buffer holds at first: a request head with its body start, or a typical response in one read.
pub const SMALL: usize = 32 * 1024;

/// What a buffer holds that is taken for what is there already, if it is enough: the head of a stream of HTTP/2, of which a
/// connection may have a hundred under way.
const TINY: usize = 2 * 1024;

/// How many buffers of a size a worker keeps for reuse: 64 small ones are 2 MiB, 512 tiny ones 1 MiB.
const KEPT: usize = 64;
const KEPT_TINY: usize = 512;

/// The buffers a worker has to spare.
#[derive(Debug, Default)]
pub struct BufferPool {
    tiny: RefCell<Vec<Box<[u8]>>>,
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
}

impl BufferPool {
    /// An empty pool.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// A buffer that holds `bytes`, and may have no room for more.
    pub fn take_for(self: &Rc<Self>, bytes: &[u8]) -> Buffer {
        let mut buffer = if bytes.len() > TINY {
            self.take(bytes.len())
        } else {
            let data = self.tiny.borrow_mut().pop().unwrap_or_else(|| vec![0; TINY].into_boxed_slice());
            Buffer { data, start: 0, end: 0, pool: Rc::clone(self) }
        };
        buffer.push(bytes);
        buffer
    }

    /// A buffer of at least `capacity` bytes.
    pub fn take(self: &Rc<Self>, capacity: usize) -> Buffer {
        let data = if capacity <= SMALL {
            self.small.borrow_mut().pop().unwrap_or_else(|| vec![0; SMALL].into_boxed_slice())
        } else {
            let mut large = self.large.borrow_mut();
            match large.pop() {
                Some(b) if b.len() >= capacity => b,
                _ => vec![0; capacity.next_multiple_of(SMALL)].into_boxed_slice(),
            }
        };
        Buffer { data, start: 0, end: 0, pool: Rc::clone(self) }
    }
}

/// Bytes in a window `start..end` of a fixed block.
#[derive(Debug)]
pub struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
    pool: Rc<BufferPool>,
}

impl Buffer {
    /// What is held.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// What is held, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Size of the block.
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Free room behind what is held.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.data[self.end..]
    }

    /// Bytes of free room behind what is held.
    pub fn room(&self) -> usize {
        self.data.len() - self.end
    }

    /// `n` bytes were written into `space`.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.data.len());
    }

    /// Drops the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Drops everything behind the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.end = self.end.min(self.start + n);
    }

    /// Appends as much of `bytes` as fits; returns how much.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        self.data[self.end..self.end + n].copy_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    /// Moves what is held to the front of the block.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Cuts `n` bytes out of what is held, from its byte `at` on.
    pub fn cut(&mut self, at: usize, n: usize) {
        let at = (self.start + at).min(self.end);
        let n = n.min(self.end - at);
        self.data.copy_within(at + n..self.end, at);
        self.end -= n;
    }

    /// Starts filling at byte `n` of an empty buffer, so that `prepend` finds room.
    pub fn reserve_front(&mut self, n: usize) {
        if self.is_empty() {
            self.start = n.min(self.data.len());
            self.end = self.start;
        }
    }

    /// Puts `bytes` right in front of what is held; false (and nothing done) when they do not fit.
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        self.data[start..self.start].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Leaves an empty buffer without a block.
    pub fn take(&mut self) -> Self {
        let pool = Rc::clone(&self.pool);
        std::mem::replace(self, Self { data: Box::default(), start: 0, end: 0, pool })
    }

    /// Makes the block at least `capacity` bytes, keeping what is held.
    pub fn grow(&mut self, capacity: usize) {
        if self.data.len() >= capacity {
            self.compact();
            return;
        }
        let mut larger = self.pool.take(capacity);
        larger.push(self.bytes());
        *self = larger;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let (list, kept) = match data.len() {
            SMALL => (&self.pool.small, KEPT),
            TINY => (&self.pool.tiny, KEPT_TINY),
            _ => (&self.pool.large, KEPT / 4),
        };
        let mut list = list.borrow_mut();
        if !data.is_empty() && list.len() < kept {
            list.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_is_empty() {
        let pool = BufferPool::new();
        let mut a = pool.take(10);
        a.push(b"hello");
        drop(a);
        assert_eq!(pool.small.borrow().len(), 1);
        let b = pool.take(10);
        assert!(b.is_empty());
        assert_eq!(pool.small.borrow().len(), 0);
    }

    #[test]
    fn what_is_there_gets_no_more_room_than_it_needs() {
        let pool = BufferPool::new();
        let mut a = pool.take_for(b"head");
        assert_eq!((a.bytes(), a.capacity()), (&b"head"[..], TINY));
        a.grow(SMALL);
        assert_eq!((a.bytes(), a.capacity()), (&b"head"[..], SMALL));
        assert_eq!(pool.tiny.borrow().len(), 1);
        assert_eq!(pool.take_for(&[7; TINY + 1]).bytes(), [7; TINY + 1]);
        drop(a);
        assert_eq!((pool.tiny.borrow().len(), pool.small.borrow().len()), (1, 2));
    }

    #[test]
    fn growing_keeps_what_is_held() {
        let pool = BufferPool::new();
        let mut a = pool.take(1);
        a.push(b"xxhello");
        a.consume(2);
        a.grow(SMALL * 3);
        assert_eq!(a.bytes(), b"hello");
        assert_eq!(a.capacity(), SMALL * 3);
    }

    #[test]
    fn a_head_goes_in_front_of_the_body_where_the_old_one_was() {
        let pool = BufferPool::new();
        let mut a = pool.take(1);
        a.reserve_front(4);
        a.push(b"head|body");
        a.consume(5);
        assert!(a.prepend(b"new-head|"));
        assert_eq!(a.bytes(), b"new-head|body");
        assert!(!a.prepend(b"x"));
        a.cut(3, 5);
        assert_eq!(a.bytes(), b"new|body");
    }

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let pool = BufferPool::new();
        let many: Vec<_> = (0..KEPT * 2).map(|_| pool.take(1)).collect();
        drop(many);
        assert_eq!(pool.small.borrow().len(), KEPT);
    }
}
