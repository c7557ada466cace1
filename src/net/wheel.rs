//! Deadlines of a worker's connections: set for every read and write, nearly never reached.
//!
//! Setting one is a store: an entry waits in the slot of the earliest deadline it was queued for, and is looked at (and
//! moved on, if its deadline has moved) only when that slot comes up. A timer that is pushed ahead by every exchange
//! costs one look each time the wheel turns, not one insertion each time it is set. The price is resolution: a deadline
//! is noticed up to one [`TICK`] late, never early.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::time::Millis;

/// How often the owner calls [`Wheel::advance`].
pub const TICK: Duration = Duration::from_millis(25);

const TICK_MS: u64 = 25;
const SLOTS: usize = 512;
const NEVER: u64 = u64::MAX;

/// The deadlines of one worker.
#[derive(Debug)]
pub struct Wheel {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    free: Vec<u32>,
    slots: Vec<Vec<Item>>,
    /// The next tick to look at; tick t covers deadlines in ((t-1)*TICK_MS, t*TICK_MS].
    next: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: u64,
    /// Tick of the earliest slot this entry is queued in; `NEVER`: in none.
    queued: u64,
    /// Counts the owners of this place, so that an item queued by a former one is recognised.
    owner: u32,
    fired: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    index: u32,
    owner: u32,
    tick: u64,
}

impl Wheel {
    /// A wheel that stands at `now`.
    pub fn new(now: Millis) -> Rc<Self> {
        let inner =
            Inner { entries: Vec::new(), free: Vec::new(), slots: vec![Vec::new(); SLOTS], next: now.0 / TICK_MS };
        Rc::new(Self { inner: RefCell::new(inner) })
    }

    /// A timer with no deadline.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let mut inner = self.inner.borrow_mut();
        let index = match inner.free.pop() {
            Some(i) => i,
            None => {
                inner.entries.push(Entry { deadline: NEVER, queued: NEVER, owner: 0, fired: false, waker: None });
                u32::try_from(inner.entries.len() - 1).expect("invariant: fewer than 2^32 connections")
            }
        };
        Timer { wheel: Rc::clone(self), index }
    }

    /// Wakes every owner whose deadline is at or before `now`.
    pub fn advance(&self, now: Millis) {
        let mut woken = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            let last = now.0 / TICK_MS;
            // After a long stall every slot is looked at once, not once per missed turn.
            let first = inner.next.max(last.saturating_sub(SLOTS as u64 - 1));
            for tick in first..=last {
                for item in std::mem::take(&mut inner.slots[slot_of(tick)]) {
                    if item.tick > last {
                        inner.slots[slot_of(tick)].push(item); // of a later turn
                    } else if let Some(w) = inner.look(item, now.0) {
                        woken.push(w);
                    }
                }
            }
            inner.next = inner.next.max(last + 1);
        }
        // Outside the borrow: waking may run code that sets timers.
        for w in woken {
            w.wake();
        }
    }

    /// Wakes every owner, whatever its deadline: all of them are to look at something else (draining).
    pub fn wake_all(&self) {
        let wakers: Vec<_> = self.inner.borrow().entries.iter().filter_map(|e| e.waker.clone()).collect();
        for w in wakers {
            w.wake();
        }
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

impl Inner {
    /// Looks at an item whose tick has come; a waker means: fired.
    fn look(&mut self, item: Item, now: u64) -> Option<Waker> {
        let e = &mut self.entries[item.index as usize];
        if e.owner != item.owner || e.queued != item.tick {
            return None; // of a former owner, or queued again for an earlier tick since
        }
        e.queued = NEVER;
        if e.deadline == NEVER {
            return None;
        }
        if e.deadline <= now {
            e.fired = true;
            e.deadline = NEVER;
            return e.waker.take();
        }
        self.queue(item.index, now / TICK_MS + 1);
        None
    }

    /// Puts the entry into the slot of its deadline, or the farthest one there is, but not before tick `from`.
    fn queue(&mut self, index: u32, from: u64) {
        let e = &mut self.entries[index as usize];
        let tick = e.deadline.div_ceil(TICK_MS).clamp(from, from + SLOTS as u64 - 2);
        e.queued = tick;
        let item = Item { index, owner: e.owner, tick };
        self.slots[slot_of(tick)].push(item);
    }
}

/// One owner's deadline.
#[derive(Debug)]
pub struct Timer {
    wheel: Rc<Wheel>,
    index: u32,
}

impl Timer {
    /// Sets the deadline, in place of the one before; a deadline that fired is forgotten.
    pub fn set(&self, at: Millis) {
        let mut inner = self.wheel.inner.borrow_mut();
        let next = inner.next;
        let e = &mut inner.entries[self.index as usize];
        e.fired = false;
        e.deadline = at.0;
        if e.queued > at.0.div_ceil(TICK_MS).max(next) {
            inner.queue(self.index, next);
        }
    }

    /// Sets the deadline unless there is a sooner one.
    pub fn bring_forward(&self, at: Millis) {
        let deadline = self.wheel.inner.borrow().entries[self.index as usize].deadline;
        if deadline > at.0 {
            self.set(at);
        }
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        let e = &mut self.wheel.inner.borrow_mut().entries[self.index as usize];
        e.fired = false;
        e.deadline = NEVER;
    }

    /// Ready once the deadline has passed, and until it is set or cleared.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        let e = &mut self.wheel.inner.borrow_mut().entries[self.index as usize];
        if e.fired {
            return Poll::Ready(());
        }
        match &e.waker {
            Some(w) if w.will_wake(cx.waker()) => {}
            _ => e.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut inner = self.wheel.inner.borrow_mut();
        let e = &mut inner.entries[self.index as usize];
        e.owner = e.owner.wrapping_add(1);
        e.deadline = NEVER;
        e.queued = NEVER;
        e.fired = false;
        e.waker = None;
        inner.free.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn expired(t: &Timer) -> bool {
        t.poll_expired(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn fires_at_the_deadline_and_wakes_once() {
        let wheel = Wheel::new(Millis(1000));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let t = wheel.timer();
        t.set(Millis(1500));
        assert!(t.poll_expired(&mut Context::from_waker(&waker)).is_pending());
        wheel.advance(Millis(1499));
        assert!(!expired(&t));
        assert!(t.poll_expired(&mut Context::from_waker(&waker)).is_pending());
        wheel.advance(Millis(1500));
        assert!(expired(&t));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        wheel.advance(Millis(9999));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_deadline_pushed_ahead_fires_at_the_later_time_only() {
        let wheel = Wheel::new(Millis(0));
        let t = wheel.timer();
        for now in (0..20_000).step_by(100) {
            wheel.advance(Millis(now));
            t.set(Millis(now + 1000));
            assert!(!expired(&t));
        }
        wheel.advance(Millis(20_899));
        assert!(expired(&t) == (20_899 >= 19_900 + 1000));
        wheel.advance(Millis(20_925));
        assert!(expired(&t));
    }

    #[test]
    fn a_deadline_is_brought_forward_and_never_put_off() {
        let wheel = Wheel::new(Millis(0));
        let t = wheel.timer();
        t.set(Millis(1000));
        t.bring_forward(Millis(500));
        t.bring_forward(Millis(700));
        wheel.advance(Millis(475));
        assert!(!expired(&t));
        wheel.advance(Millis(500));
        assert!(expired(&t));
    }

    #[test]
    fn a_former_owner_s_deadline_does_not_fire_for_the_next() {
        let wheel = Wheel::new(Millis(0));
        let t = wheel.timer();
        t.set(Millis(100));
        drop(t);
        let t = wheel.timer();
        t.set(Millis(500));
        wheel.advance(Millis(200));
        assert!(!expired(&t));
        wheel.advance(Millis(500));
        assert!(expired(&t));
    }

    proptest! {
        /// Against a model: never early, at most one tick late, whatever is set, cleared, dropped and however the clock jumps.
        #[test]
        fn fires_when_a_plain_comparison_would(ops in proptest::collection::vec((0u8..4, 0usize..5, 0u64..40_000), 1..200)) {
            let mut now = 7_777u64;
            let wheel = Wheel::new(Millis(now));
            let mut timers: Vec<_> = (0..5).map(|_| (wheel.timer(), None::<u64>, false)).collect();
            for (op, i, arg) in ops {
                match op {
                    0 => { timers[i].0.set(Millis(now + arg)); timers[i].1 = Some(now + arg); timers[i].2 = false; }
                    1 => { timers[i].0.clear(); timers[i].1 = None; timers[i].2 = false; }
                    2 => { timers[i] = (wheel.timer(), None, false); }
                    _ => {
                        now += arg;
                        wheel.advance(Millis(now));
                        for (t, deadline, fired) in &mut timers {
                            if let Some(d) = *deadline {
                                let is = expired(t);
                                if is { prop_assert!(now >= d, "early: {} < {}", now, d); *fired = true; *deadline = None; }
                                else { prop_assert!(now < d + TICK_MS, "late: {} >= {} + tick", now, d); }
                            } else {
                                prop_assert_eq!(expired(t), *fired);
                            }
                        }
                    }
                }
            }
        }
    }
}
