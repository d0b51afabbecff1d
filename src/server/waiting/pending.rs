//! Replies that wait for the log, with no thread that waits along.
//!
//! Owns: what is answered when the log thread says so. A slot is reserved before a check is made
//! ([`Pending::reserve`]), its number is given to the log with the check's record, and then the slot is filled with
//! the reply, or given back. The log thread completes it ([`Completion`]), the guard completes what has waited too
//! long ([`Pending::expire`]); a decider takes the reply out ([`Pending::next`]) and sends it.
//!
//! Why each request is answered once: its reply is taken out of its slot under the lock, and a slot is never filled
//! twice. Why none is forgotten: a completion may come before its slot is filled; then the slot says so, and the
//! thread that fills it sends the reply itself.
//!
//! Connections of a Unix socket can't be told apart, and a reply that is sent before an earlier one of the same
//! connection makes tiny_http wait. So there replies leave in the order of their slots, and what is ready at once
//! gets a slot too while earlier ones wait ([`Pending::follow`]).
//!
//! The lock is held for a moment, holding nothing else; requests are never dropped under it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::bounds::LOG_WAIT_MS;
use crate::store::Completion;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is written or durable, as the mode has it.
    Done,
    /// The log says why.
    Failed,
    /// The disk did not answer in time; the record may still come to be on it.
    Late,
}

/// Called when a reply may have become ready.
type OnCompleted = Box<dyn Fn() + Send + Sync>;

/// All replies that wait: `W` is a request with its reply.
pub struct Pending<W> {
    slots: Mutex<Slots<W>>,
    in_order: bool,
    completions: Sender<(u64, Outcome)>,
    completed: Receiver<(u64, Outcome)>,
    on_completed: OnCompleted,
}

impl<W> std::fmt::Debug for Pending<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("in_order", &self.in_order).finish_non_exhaustive()
    }
}

struct Slots<W> {
    /// The number of the first slot.
    first: u64,
    slots: VecDeque<Slot<W>>,
}

enum Slot<W> {
    /// A check is being made.
    Reserved,
    /// Its record was completed before its reply was there.
    Completed(Outcome),
    /// Since when it waits.
    Waiting(Instant, Box<W>),
    /// To be sent when those before it are.
    Ready(Outcome, Box<W>),
    Free,
}

impl<W> Slots<W> {
    fn get(&mut self, number: u64) -> Option<&mut Slot<W>> {
        let index = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn push(&mut self, slot: Slot<W>) -> u64 {
        self.slots.push_back(slot);
        self.first + self.slots.len() as u64 - 1
    }

    /// Frees the slot.
    fn free(&mut self, number: u64) -> Slot<W> {
        let was = self.get(number).map_or(Slot::Free, |slot| std::mem::replace(slot, Slot::Free));
        while matches!(self.slots.front(), Some(Slot::Free)) {
            self.slots.pop_front();
            self.first += 1;
        }
        was
    }

    /// Takes the first reply of all, if it is ready.
    fn take_first(&mut self) -> Option<(W, Outcome)> {
        if !matches!(self.slots.front(), Some(Slot::Ready(..))) {
            return None;
        }
        match self.free(self.first) {
            Slot::Ready(outcome, waiting) => Some((*waiting, outcome)),
            _ => None,
        }
    }

    /// Notes how a wait ended. Returns the reply, unless it is not there yet or was sent already.
    fn complete(&mut self, number: u64, outcome: Outcome) -> Option<W> {
        let slot = self.get(number)?;
        if matches!(slot, Slot::Reserved) {
            *slot = Slot::Completed(outcome);
            return None;
        }
        if !matches!(slot, Slot::Waiting(..)) {
            return None;
        }
        match self.free(number) {
            Slot::Waiting(_, waiting) => Some(*waiting),
            _ => None,
        }
    }

    /// As `complete`, where replies leave in the order of their slots.
    fn complete_in_order(&mut self, number: u64, outcome: Outcome) {
        let Some(slot) = self.get(number) else { return };
        *slot = match std::mem::replace(slot, Slot::Free) {
            Slot::Reserved => Slot::Completed(outcome),
            Slot::Waiting(_, waiting) => Slot::Ready(outcome, waiting),
            other => other,
        };
    }
}

/// A slot for a reply that is being made. Dropped, it is given back.
pub struct Reserved<'a, W> {
    pending: &'a Pending<W>,
    number: u64,
    filled: bool,
}

impl<W> Reserved<'_, W> {
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Makes the reply wait until its record is completed; gives it back, to be sent, if that has happened already.
    pub fn fill(mut self, waiting: W) -> Option<(W, Outcome)> {
        self.filled = true;
        self.pending.fill(self.number, waiting)
    }
}

impl<W> Drop for Reserved<'_, W> {
    fn drop(&mut self) {
        if !self.filled {
            let was = self.pending.lock().free(self.number);
            drop(was);
        }
    }
}

impl<W> Pending<W> {
    /// `in_order`: whether replies leave in the order of their slots.
    pub fn new(in_order: bool, on_completed: OnCompleted) -> Pending<W> {
        let (completions, completed) = unbounded();
        let slots = Mutex::new(Slots { first: 0, slots: VecDeque::new() });
        Pending { slots, in_order, completions, completed, on_completed }
    }

    fn lock(&self) -> MutexGuard<'_, Slots<W>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a slot.
    pub fn reserve(&self) -> Reserved<'_, W> {
        Reserved { pending: self, number: self.lock().push(Slot::Reserved), filled: false }
    }

    fn fill(&self, number: u64, waiting: W) -> Option<(W, Outcome)> {
        let mut slots = self.lock();
        let outcome = match slots.get(number) {
            Some(slot @ Slot::Reserved) => {
                *slot = Slot::Waiting(Instant::now(), Box::new(waiting));
                return None;
            }
            Some(Slot::Completed(outcome)) => *outcome,
            // Never so: a slot is filled once.
            _ => return Some((waiting, Outcome::Failed)),
        };
        if self.in_order && number != slots.first {
            if let Some(slot) = slots.get(number) {
                *slot = Slot::Ready(outcome, Box::new(waiting));
            }
            return None;
        }
        slots.free(number);
        Some((waiting, outcome))
    }

    /// Gives back a reply that is ready at once, unless it has to leave after others.
    pub fn follow(&self, waiting: W) -> Option<W> {
        if !self.in_order {
            return Some(waiting);
        }
        let mut slots = self.lock();
        if slots.slots.is_empty() {
            return Some(waiting);
        }
        slots.push(Slot::Ready(Outcome::Done, Box::new(waiting)));
        None
    }

    /// The next reply that may be sent, and how its wait ended.
    pub fn next(&self) -> Option<(W, Outcome)> {
        loop {
            if self.in_order
                && let Some(first) = self.lock().take_first()
            {
                return Some(first);
            }
            let (number, outcome) = self.completed.try_recv().ok()?;
            if self.in_order {
                self.lock().complete_in_order(number, outcome);
            } else if let Some(waiting) = self.lock().complete(number, outcome) {
                return Some((waiting, outcome));
            }
        }
    }

    /// Whether [`Pending::next`] has anything to look at.
    pub fn has_completions(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Has those answered that have waited too long for the disk.
    pub fn expire(&self, now: Instant) {
        let bound = Duration::from_millis(LOG_WAIT_MS);
        let slots = self.lock();
        let mut late = false;
        // They stand in the order of their numbers, and so, but for moments, of their times.
        for (number, slot) in (slots.first..).zip(&slots.slots) {
            match slot {
                Slot::Waiting(since, _) if now.saturating_duration_since(*since) >= bound => {
                    let _ = self.completions.send((number, Outcome::Late));
                    late = true;
                }
                Slot::Waiting(..) => break,
                _ => {}
            }
        }
        drop(slots);
        if late {
            (self.on_completed)();
        }
    }

    /// Replies that wait.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }
}

impl<W: Send> Completion for Pending<W> {
    fn complete(&self, number: u64, done: bool) {
        let outcome = if done { Outcome::Done } else { Outcome::Failed };
        let _ = self.completions.send((number, outcome));
        (self.on_completed)();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pending(in_order: bool) -> Pending<u64> {
        Pending::new(in_order, Box::new(|| {}))
    }

    #[test]
    fn slots_are_used_once_and_given_back() {
        let pending = pending(false);
        let [zero, one, two, three] = std::array::from_fn(|_| pending.reserve());
        assert_eq!([zero.number(), one.number(), two.number(), three.number()], [0, 1, 2, 3]);
        drop(one);
        // Completed before it is filled: nothing is there to be sent yet, and a second completion changes nothing.
        pending.complete(0, true);
        pending.complete(0, false);
        assert!(pending.has_completions() && pending.next().is_none());
        assert_eq!(zero.fill(10), Some((10, Outcome::Done)));
        assert_eq!(pending.lock().first, 2, "slots that are free at the front are gone");
        assert!(two.fill(12).is_none());
        pending.complete(9, true);
        pending.complete(2, false);
        assert_eq!(pending.next(), Some((12, Outcome::Failed)));
        assert_eq!(pending.next(), None);
        drop(three);
        assert_eq!(pending.len(), 0);
        assert_eq!(pending.reserve().number(), 4);
        // What is still being decided does not expire; what waits does, once.
        let (deciding, late) = (pending.reserve(), pending.reserve());
        assert!(late.fill(7).is_none());
        pending.expire(Instant::now());
        assert!(!pending.has_completions());
        pending.expire(Instant::now() + Duration::from_millis(LOG_WAIT_MS));
        pending.expire(Instant::now() + Duration::from_millis(LOG_WAIT_MS));
        assert_eq!(pending.next(), Some((7, Outcome::Late)));
        assert_eq!(pending.next(), None);
        drop(deciding);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Reserve a slot and fill it, with the completion before or after.
        Wait {
            early: bool,
        },
        /// Reserve a slot and give it back.
        Deny,
        /// Complete the n-th of those that wait.
        Complete(usize, bool),
        Expire,
        Send,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<bool>().prop_map(|early| Step::Wait { early }),
            2 => Just(Step::Deny),
            4 => (0..4usize, any::<bool>()).prop_map(|(nth, durable)| Step::Complete(nth, durable)),
            1 => Just(Step::Expire),
            3 => Just(Step::Send),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// Runs the steps; returns the replies in the order in which they were sent, and how many were made.
    fn run(in_order: bool, steps: &[Step]) -> (Vec<(u64, Outcome)>, u64) {
        let pending = pending(in_order);
        let (mut sent, mut made, mut waiting) = (Vec::new(), 0, Vec::new());
        for step in steps {
            match *step {
                Step::Wait { early } => {
                    let slot = pending.reserve();
                    if early {
                        pending.complete(slot.number(), true);
                        sent.extend(pending.next());
                    } else {
                        waiting.push(slot.number());
                    }
                    sent.extend(slot.fill(made));
                    made += 1;
                }
                Step::Deny => {
                    drop(pending.reserve());
                    sent.extend(pending.follow(made).map(|reply| (reply, Outcome::Done)));
                    made += 1;
                }
                Step::Complete(nth, durable) if nth < waiting.len() => pending.complete(waiting.remove(nth), durable),
                Step::Complete(..) => {}
                Step::Expire => pending.expire(Instant::now() + Duration::from_secs(3600)),
                Step::Send => sent.extend(pending.next()),
            }
        }
        for number in waiting {
            pending.complete(number, true);
        }
        sent.extend(std::iter::from_fn(|| pending.next()));
        assert_eq!(pending.len(), 0);
        (sent, made)
    }

    proptest! {
        #[test]
        fn each_reply_is_sent_once(steps in steps()) {
            for in_order in [false, true] {
                let (sent, made) = run(in_order, &steps);
                let mut replies: Vec<u64> = sent.iter().map(|(reply, _)| *reply).collect();
                if in_order {
                    prop_assert!(replies.is_sorted(), "{:?}", replies);
                }
                replies.sort_unstable();
                prop_assert_eq!(replies, (0..made).collect::<Vec<_>>());
            }
        }
    }
}
