//! Waiting for the disk: one slot per thread, woken once per batch.
//!
//! A thread that appends takes a ticket from its own slot; the log thread, once the record is durable (or never will
//! be), stores the ticket in the slot and unparks the thread. Why no wake-up is lost: the log thread stores first and
//! unparks then; the waiter looks first and parks then; `unpark` before `park` makes `park` return at once. Why no
//! answer comes too early: a slot's value only grows, and a ticket is stored after the sync that covers its record.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

/// A ticket with its outcome: twice the ticket, plus one if it failed.
type Mark = u64;

/// Where a thread waits.
#[derive(Debug)]
pub struct Slot {
    done: AtomicU64,
    thread: Thread,
}

impl Slot {
    /// Tells the slot's thread that `ticket` and all before it are settled.
    pub fn settle(&self, ticket: u64, durable: bool) {
        let mark: Mark = ticket << 1 | u64::from(!durable);
        // The maximum, since a thread may have given up on an earlier ticket with another log.
        self.done.fetch_max(mark, Ordering::Release);
        self.thread.unpark();
    }
}

/// What a record carries to the log thread: whom to tell.
#[derive(Debug, Clone)]
pub struct Waiter {
    slot: Arc<Slot>,
    ticket: u64,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is on disk.
    Durable,
    /// It is not, and the log says why.
    Failed,
    /// The deadline passed first; the record may still come to be on disk.
    TimedOut,
}

thread_local! {
    static SLOT: RefCell<(u64, Arc<Slot>)> =
        RefCell::new((0, Arc::new(Slot { done: AtomicU64::new(0), thread: thread::current() })));
}

impl Waiter {
    /// A new ticket of the calling thread.
    pub fn take() -> Waiter {
        SLOT.with_borrow_mut(|(tickets, slot)| {
            *tickets += 1;
            Waiter { slot: Arc::clone(slot), ticket: *tickets }
        })
    }

    /// Settles the ticket. Called by the log thread.
    pub fn settle(&self, durable: bool) {
        self.slot.settle(self.ticket, durable);
    }

    /// Waits for the ticket to be settled; to be called by the thread that took it, holding no lock.
    pub fn wait(&self, deadline: Instant) -> Outcome {
        loop {
            let mark = self.slot.done.load(Ordering::Acquire);
            if mark >> 1 >= self.ticket {
                // A later ticket can't be settled before this one is: the log settles in order, and a thread waits
                // for one ticket at a time.
                return if mark & 1 == 0 { Outcome::Durable } else { Outcome::Failed };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::TimedOut;
            }
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ticket_is_settled_from_another_thread() {
        let far = Instant::now() + Duration::from_secs(60);
        for durable in [true, false] {
            let waiter = Waiter::take();
            let other = waiter.clone();
            let settler = thread::spawn(move || other.settle(durable));
            let expected = if durable { Outcome::Durable } else { Outcome::Failed };
            assert_eq!(waiter.wait(far), expected);
            settler.join().unwrap();
        }
    }

    #[test]
    fn a_late_outcome_does_not_disturb_the_next_ticket() {
        let now = Instant::now();
        let late = Waiter::take();
        assert_eq!(late.wait(now), Outcome::TimedOut);
        let next = Waiter::take();
        late.settle(false);
        assert_eq!(next.wait(now), Outcome::TimedOut);
        next.settle(true);
        assert_eq!(next.wait(now), Outcome::Durable);
    }
}
