//! Waiting for the disk: one signal for each thread, woken once for each batch.
//!
//! A thread that appends takes a ticket from its own signal. When the record is durable, or never will be, the log
//! thread stores the ticket in the signal and unparks the thread. No wake-up is lost: the log thread first stores and
//! then unparks; the waiting thread first looks and then parks; `unpark` before `park` makes
//! [`park`](std::thread::park) return at once. No answer comes too early: the value of a signal only grows, and a
//! ticket is stored after the sync that covers its record. The tests in `model.rs` run this in every order of its
//! steps.
//!
//! A thread that does not want to wait leaves a slot instead, with a [`Completion`] that is notified of it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::sync::{AtomicU64, Instant, Ordering, Thread, current, park_timeout, thread_local};

/// Receives the outcome of records.
pub trait Completion: Send + Sync + fmt::Debug {
    /// The record that was given this slot is durable, or never will be. Called once for each slot, by the log thread,
    /// which must not be made to wait, or by the thread that drops the record.
    fn complete(&self, slot: u64, durable: bool);
}

/// Where a thread waits.
#[derive(Debug)]
struct Signal {
    /// The last completed ticket with its outcome: twice the ticket, plus 1 if it failed.
    done: AtomicU64,
    thread: Thread,
}

/// The slot is a ticket: it and all before it are completed.
impl Completion for Signal {
    fn complete(&self, ticket: u64, durable: bool) {
        // The maximum, since a thread may have given up on an earlier ticket with another log.
        self.done.fetch_max(ticket << 1 | u64::from(!durable), Ordering::Release);
        self.thread.unpark();
    }
}

/// A thread's ticket.
#[derive(Debug, Clone)]
pub struct Waiter {
    signal: Arc<Signal>,
    ticket: u64,
}

/// What a record carries to the log thread: the completion to notify, and the slot. Dropped without
/// [`Pending::complete`] (in the queue of a thread that has ended, or by a thread that panics), the record has failed,
/// so that nothing waits for ever.
#[derive(Debug)]
pub struct Pending(Option<(Arc<dyn Completion>, u64)>);

impl Pending {
    /// Of a record for which a thread waits.
    pub fn new(waiter: &Waiter) -> Pending {
        Pending(Some((Arc::clone(&waiter.signal) as Arc<dyn Completion>, waiter.ticket)))
    }

    /// Of a record whose outcome goes to a slot.
    pub fn slot(completion: &Arc<dyn Completion>, slot: u64) -> Pending {
        Pending(Some((Arc::clone(completion), slot)))
    }

    /// Notifies the completion.
    pub fn complete(mut self, durable: bool) {
        self.notify(durable);
    }

    fn notify(&mut self, durable: bool) {
        if let Some((completion, slot)) = self.0.take() {
            completion.complete(slot, durable);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.notify(false);
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is on disk.
    Durable,
    /// It is not, and the log says why.
    Failed,
    /// The deadline passed first; the record may still reach the disk.
    TimedOut,
}

thread_local! {
    static SIGNAL: RefCell<(u64, Arc<Signal>)> =
        RefCell::new((0, Arc::new(Signal { done: AtomicU64::new(0), thread: current() })));
}

impl Waiter {
    /// A new ticket of the calling thread.
    pub fn take() -> Waiter {
        SIGNAL.with(|own| {
            let (tickets, signal) = &mut *own.borrow_mut();
            *tickets += 1;
            Waiter { signal: Arc::clone(signal), ticket: *tickets }
        })
    }

    /// Waits until the ticket is completed. To be called by the thread that took it, holding no lock.
    pub fn wait(&self, deadline: Instant) -> Outcome {
        loop {
            let done = self.signal.done.load(Ordering::Acquire);
            if done >> 1 >= self.ticket {
                // A later ticket cannot be completed before this one: the log completes in order, and a thread waits
                // for one ticket at a time.
                return if done & 1 == 0 { Outcome::Durable } else { Outcome::Failed };
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
    fn a_ticket_is_completed_by_another_thread() {
        let far = Instant::now() + Duration::from_secs(60);
        for (durable, expected) in [(true, Outcome::Durable), (false, Outcome::Failed)] {
            let waiter = Waiter::take();
            let pending = Pending::new(&waiter);
            let other = thread::spawn(move || pending.complete(durable));
            assert_eq!(waiter.wait(far), expected);
            other.join().unwrap();
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
        Pending::new(&waiter).complete(true);
        assert_eq!(waiter.wait(Instant::now()), Outcome::Durable);
    }

    #[test]
    fn a_slot_is_completed_once_even_when_it_is_dropped() {
        #[derive(Debug, Default)]
        struct Completed(std::sync::Mutex<Vec<(u64, bool)>>);
        impl Completion for Completed {
            fn complete(&self, slot: u64, durable: bool) {
                self.0.lock().unwrap().push((slot, durable));
            }
        }
        let completed = Arc::new(Completed::default());
        let completion = Arc::clone(&completed) as Arc<dyn Completion>;
        Pending::slot(&completion, 1).complete(true);
        Pending::slot(&completion, 2).complete(false);
        drop(Pending::slot(&completion, 3));
        assert_eq!(*completed.0.lock().unwrap(), [(1, true), (2, false), (3, false)]);
    }

    #[test]
    fn a_late_outcome_does_not_disturb_the_next_ticket() {
        let now = Instant::now();
        let late = Waiter::take();
        assert_eq!(late.wait(now), Outcome::TimedOut);
        let next = Waiter::take();
        Pending::new(&late).complete(false);
        assert_eq!(next.wait(now), Outcome::TimedOut);
        Pending::new(&next).complete(true);
        assert_eq!(next.wait(now), Outcome::Durable);
    }
}
