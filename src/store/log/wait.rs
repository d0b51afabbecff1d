//! Waiting for the disk: one slot per thread, woken once per batch.
//!
//! A thread that appends takes a ticket from its own slot; the log thread, once the record is durable (or never will
//! be), stores the ticket in the slot and unparks the thread. Why no wake-up is lost: the log thread stores first and
//! unparks then; the waiter looks first and parks then; `unpark` before `park` makes `park` return at once. Why no
//! answer comes too early: a slot's value only grows, and a ticket is stored after the sync that covers its record. The
//! tests in `model.rs` run this in every order of its steps.
//!
//! Who does not want to wait leaves a number instead, and where to tell it ([`Settle`]).

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::sync::{AtomicU64, Instant, Ordering, Thread, current, park_timeout, thread_local};

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

/// A thread's ticket.
#[derive(Debug, Clone)]
pub struct Waiter {
    slot: Arc<Slot>,
    ticket: u64,
}

/// Where it is told how a record fared that no thread waits for.
pub trait Settle: Send + Sync + fmt::Debug {
    /// The record that this number was given for is durable, or never will be. Called once for each number, by the log
    /// thread, which must not be made to wait; or by whoever drops the record.
    fn settle(&self, number: u64, durable: bool);
}

/// What a record carries to the log thread: whom to tell. Dropped by whoever can't settle it (the queue of a thread that
/// has ended, a thread that panics), it is settled as failed: nobody waits for what will never come.
#[derive(Debug)]
pub struct Pending(Option<Whom>);

#[derive(Debug)]
enum Whom {
    Thread(Waiter),
    Other(Arc<dyn Settle>, u64),
}

impl Whom {
    fn settle(self, durable: bool) {
        match self {
            Whom::Thread(waiter) => waiter.settle(durable),
            Whom::Other(other, number) => other.settle(number, durable),
        }
    }
}

impl Pending {
    /// Puts a thread's ticket on its way.
    pub fn new(waiter: &Waiter) -> Pending {
        Pending(Some(Whom::Thread(waiter.clone())))
    }

    /// Puts a number on its way.
    pub fn number(whom: &Arc<dyn Settle>, number: u64) -> Pending {
        Pending(Some(Whom::Other(Arc::clone(whom), number)))
    }

    /// Settles it. Called by the log thread.
    pub fn settle(mut self, durable: bool) {
        if let Some(whom) = self.0.take() {
            whom.settle(durable);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(whom) = self.0.take() {
            whom.settle(false);
        }
    }
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
        RefCell::new((0, Arc::new(Slot { done: AtomicU64::new(0), thread: current() })));
}

impl Waiter {
    /// A new ticket of the calling thread.
    pub fn take() -> Waiter {
        SLOT.with(|own| {
            let (tickets, slot) = &mut *own.borrow_mut();
            *tickets += 1;
            Waiter { slot: Arc::clone(slot), ticket: *tickets }
        })
    }

    /// Settles the ticket.
    pub(super) fn settle(&self, durable: bool) {
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
            park_timeout(left);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;
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
    fn a_ticket_that_is_dropped_has_failed() {
        let waiter = Waiter::take();
        let (sender, queue) = std::sync::mpsc::channel();
        sender.send(Pending::new(&waiter)).unwrap();
        drop(queue);
        assert_eq!(waiter.wait(Instant::now() + Duration::from_secs(60)), Outcome::Failed);
        let waiter = Waiter::take();
        Pending::new(&waiter).settle(true);
        assert_eq!(waiter.wait(Instant::now()), Outcome::Durable);
    }

    #[test]
    fn a_number_is_settled_once_even_when_it_is_dropped() {
        #[derive(Debug, Default)]
        struct Told(std::sync::Mutex<Vec<(u64, bool)>>);
        impl Settle for Told {
            fn settle(&self, number: u64, durable: bool) {
                self.0.lock().unwrap().push((number, durable));
            }
        }
        let told = Arc::new(Told::default());
        let whom: Arc<dyn Settle> = Arc::clone(&told) as Arc<dyn Settle>;
        Pending::number(&whom, 1).settle(true);
        Pending::number(&whom, 2).settle(false);
        drop(Pending::number(&whom, 3));
        assert_eq!(*told.0.lock().unwrap(), [(1, true), (2, false), (3, false)]);
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
