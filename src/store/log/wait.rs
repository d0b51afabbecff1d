//! Waiting for the log: one signal for each thread, woken once for each batch.
//!
//! A record is waited for until it has come to a [`Stage`]: written or durable. A thread that appends takes a ticket
//! from its own signal. When the record has come so far, or never will, the log thread stores the ticket in the signal
//! and unparks the thread. No wake-up is lost: the log thread first stores and then unparks; the waiting thread first
//! looks and then parks; `unpark` before `park` makes [`park`](std::thread::park) return at once. No answer comes too
//! early: the value of a signal only grows, a ticket is stored after the write or the sync that covers its record, and
//! a thread waits for one ticket at a time. The tests in `model.rs` run this in every order of its steps.
//!
//! A thread that does not want to wait leaves a slot instead, with a [`Completion`] that is notified of it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::sync::{AtomicU64, Instant, Ordering, Thread, current, park_timeout, thread_local};

/// How far a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is written to its file: it survives the end of the process, but not of the machine.
    Written,
    /// It is on disk: it survives a power cut too.
    Durable,
}

/// Receives the outcome of records.
pub trait Completion: Send + Sync + fmt::Debug {
    /// The record that was given this slot has come to the stage that was asked for, if `done`, or never will. Called
    /// once for each slot, by the log thread, which must not be made to wait, or by the thread that drops the record.
    fn complete(&self, slot: u64, done: bool);
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
    fn complete(&self, ticket: u64, done: bool) {
        // The maximum, since a thread may have given up on an earlier ticket, with this log or another.
        self.done.fetch_max(ticket << 1 | u64::from(!done), Ordering::Release);
        self.thread.unpark();
    }
}

/// A thread's ticket.
#[derive(Debug, Clone)]
pub struct Waiter {
    signal: Arc<Signal>,
    ticket: u64,
}

/// What a record carries to the log thread: the completion to notify, the slot, and what is waited for. Dropped without
/// [`Pending::complete`] (in the queue of a thread that has ended, or by a thread that panics), the record has failed,
/// so that nothing waits for ever.
#[derive(Debug)]
pub struct Pending {
    completion: Option<Arc<dyn Completion>>,
    slot: u64,
    stage: Stage,
}

impl Pending {
    /// Of a record for which a thread waits until it has come to this stage.
    pub fn new(waiter: &Waiter, stage: Stage) -> Pending {
        let completion = Some(Arc::clone(&waiter.signal) as Arc<dyn Completion>);
        Pending { completion, slot: waiter.ticket, stage }
    }

    /// Of a record whose outcome goes to a slot.
    pub fn slot(completion: &Arc<dyn Completion>, slot: u64, stage: Stage) -> Pending {
        Pending { completion: Some(Arc::clone(completion)), slot, stage }
    }

    /// Notifies the completion.
    pub fn complete(mut self, done: bool) {
        self.notify(done);
    }

    fn notify(&mut self, done: bool) {
        if let Some(completion) = self.completion.take() {
            completion.complete(self.slot, done);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.notify(false);
    }
}

/// Those that the log thread has still to notify, by what they wait for.
#[derive(Debug, Default)]
pub struct Waiting {
    written: Vec<Pending>,
    durable: Vec<Pending>,
}

impl Waiting {
    pub fn add(&mut self, waiter: Pending) {
        match waiter.stage {
            Stage::Written => self.written.push(waiter),
            Stage::Durable => self.durable.push(waiter),
        }
    }

    /// How many wait for the write, and how many for the sync.
    pub fn len(&self) -> (usize, usize) {
        (self.written.len(), self.durable.len())
    }

    /// Notifies those that wait until their records are written, which they are.
    pub fn complete_written(&mut self) {
        self.written.drain(..).for_each(|waiter| waiter.complete(true));
    }

    /// Notifies all. Those that waited for the write come first.
    pub fn complete(&mut self, done: bool) {
        self.written.drain(..).chain(self.durable.drain(..)).for_each(|waiter| waiter.complete(done));
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record has come to its stage.
    Done,
    /// It has not and will not, and the log says why.
    Failed,
    /// The deadline passed first; the record may still come to its stage.
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
                // A later ticket has not been taken: a thread waits for one at a time.
                return if done & 1 == 0 { Outcome::Done } else { Outcome::Failed };
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
        for (done, expected) in [(true, Outcome::Done), (false, Outcome::Failed)] {
            let waiter = Waiter::take();
            let pending = Pending::new(&waiter, Stage::Durable);
            let other = thread::spawn(move || pending.complete(done));
            assert_eq!(waiter.wait(far), expected);
            other.join().unwrap();
        }
    }

    #[test]
    fn a_ticket_that_is_dropped_has_failed() {
        let waiter = Waiter::take();
        let (sender, queue) = std::sync::mpsc::channel();
        sender.send(Pending::new(&waiter, Stage::Written)).unwrap();
        drop(queue);
        assert_eq!(waiter.wait(Instant::now() + Duration::from_secs(60)), Outcome::Failed);
        let waiter = Waiter::take();
        Pending::new(&waiter, Stage::Written).complete(true);
        assert_eq!(waiter.wait(Instant::now()), Outcome::Done);
    }

    #[derive(Debug, Default)]
    struct Completed(std::sync::Mutex<Vec<(u64, bool)>>);

    impl Completion for Completed {
        fn complete(&self, slot: u64, done: bool) {
            self.0.lock().unwrap().push((slot, done));
        }
    }

    impl Completed {
        fn take(&self) -> Vec<(u64, bool)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    #[test]
    fn a_slot_is_completed_once_even_when_it_is_dropped() {
        let completed = Arc::new(Completed::default());
        let completion = Arc::clone(&completed) as Arc<dyn Completion>;
        Pending::slot(&completion, 1, Stage::Durable).complete(true);
        Pending::slot(&completion, 2, Stage::Durable).complete(false);
        drop(Pending::slot(&completion, 3, Stage::Durable));
        assert_eq!(completed.take(), [(1, true), (2, false), (3, false)]);
    }

    #[test]
    fn those_that_wait_for_the_write_are_notified_by_themselves() {
        let completed = Arc::new(Completed::default());
        let completion = Arc::clone(&completed) as Arc<dyn Completion>;
        let mut waiting = Waiting::default();
        let add = |waiting: &mut Waiting, slot, stage| waiting.add(Pending::slot(&completion, slot, stage));
        add(&mut waiting, 1, Stage::Durable);
        add(&mut waiting, 2, Stage::Written);
        add(&mut waiting, 3, Stage::Durable);
        assert_eq!(waiting.len(), (1, 2));
        waiting.complete_written();
        assert_eq!((completed.take(), waiting.len()), (vec![(2, true)], (0, 2)));
        add(&mut waiting, 4, Stage::Written);
        waiting.complete(false);
        assert_eq!((completed.take(), waiting.len()), (vec![(4, false), (1, false), (3, false)], (0, 0)));
    }

    #[test]
    fn a_late_outcome_does_not_disturb_the_next_ticket() {
        let now = Instant::now();
        let late = Waiter::take();
        assert_eq!(late.wait(now), Outcome::TimedOut);
        let next = Waiter::take();
        Pending::new(&late, Stage::Durable).complete(false);
        assert_eq!(next.wait(now), Outcome::TimedOut);
        Pending::new(&next, Stage::Written).complete(true);
        // That an earlier one comes to its stage later changes nothing.
        Pending::new(&late, Stage::Durable).complete(false);
        assert_eq!(next.wait(now), Outcome::Done);
    }
}
