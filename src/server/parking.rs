//! Replies that wait for the disk, with no thread waiting along.
//!
//! Owns: what is answered when the log thread says so. A number is taken before a check is made ([`Parking::number`]),
//! given to the log with the check's record, and then either parked with the reply that it stands for, or given back.
//! The log thread tells of it ([`Completion`]) by a message, the guard of what has waited too long ([`Parking::expire`]); the
//! thread that hears the messages ([`News`]) takes the reply out and sends it.
//!
//! Why each request is answered once: its reply is taken out of its slot under the lock, and a slot is never filled
//! twice. Why none is forgotten: the number's message may come before the reply is parked; then the slot says so, and
//! who parks is told to send it himself.
//!
//! The lock is held for a moment, holding nothing else; requests are never dropped under it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::exchange::Exchange;
use super::metrics::Suspended;
use super::reply::Reply;
use crate::bounds::LOG_WAIT_MS;
use crate::store::Completion;

/// A request with its reply.
pub struct Parked {
    pub exchange: Exchange,
    /// What is answered if all goes well.
    pub reply: Reply,
    pub head_only: bool,
    pub close: bool,
    pub measure: Option<Suspended>,
}

/// A number that stands for a reply that is being made. Dropped, it is given back.
pub struct Number<'a> {
    parking: &'a Arc<Parking>,
    number: u64,
    parked: bool,
}

impl Number<'_> {
    /// The number.
    pub fn value(&self) -> u64 {
        self.number
    }

    /// Parks a reply until its number is settled; gives it back, to be sent, if that was so already.
    pub fn park(mut self, parked: Parked) -> Option<(Parked, Outcome)> {
        self.parked = true;
        self.parking.park(self.number, parked)
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        if !self.parked {
            let was = self.parking.lock().free(self.number);
            drop(was);
        }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Durable,
    /// The log says why.
    Failed,
    /// The disk did not answer in time; the record may still come to be on it.
    Late,
}

/// What is told to the thread that sends.
#[derive(Debug)]
pub enum News {
    Settled(u64, Outcome),
    /// A single reply has begun to wait: its news is some tens of microseconds away.
    Soon,
    /// To end when nothing is parked any more.
    End,
}

/// All replies that wait.
#[derive(Debug)]
pub struct Parking {
    slots: Mutex<Slots>,
    news: Sender<News>,
}

#[derive(Debug, Default)]
struct Slots {
    /// The number of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
}

enum Slot {
    /// A check is being made.
    Taken,
    /// Its record was settled before its reply was parked.
    Settled(Outcome),
    /// Since when it waits.
    Waiting(Instant, Box<Parked>),
    Free,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Slot::Taken => "Taken",
            Slot::Settled(_) => "Settled",
            Slot::Waiting(..) => "Waiting",
            Slot::Free => "Free",
        })
    }
}

impl Slots {
    fn get(&mut self, number: u64) -> Option<&mut Slot> {
        let index = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    /// Frees the slot.
    fn free(&mut self, number: u64) -> Slot {
        let was = self.get(number).map_or(Slot::Free, |slot| std::mem::replace(slot, Slot::Free));
        while matches!(self.slots.front(), Some(Slot::Free)) {
            self.slots.pop_front();
            self.first += 1;
        }
        was
    }
}

impl Parking {
    /// An empty one, and where its news is heard.
    pub fn new() -> (Arc<Parking>, Receiver<News>) {
        let (news, heard) = unbounded();
        (Arc::new(Parking { slots: Mutex::default(), news }), heard)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a number.
    pub fn number(self: &Arc<Self>) -> Number<'_> {
        let mut slots = self.lock();
        slots.slots.push_back(Slot::Taken);
        let number = slots.first + slots.slots.len() as u64 - 1;
        Number { parking: self, number, parked: false }
    }

    fn park(&self, number: u64, parked: Parked) -> Option<(Parked, Outcome)> {
        let mut slots = self.lock();
        match slots.get(number) {
            Some(slot @ Slot::Taken) => {
                *slot = Slot::Waiting(Instant::now(), Box::new(parked));
                let alone = slots.slots.len() == 1;
                drop(slots);
                if alone {
                    let _ = self.news.send(News::Soon);
                }
                None
            }
            Some(Slot::Settled(outcome)) => {
                let outcome = *outcome;
                slots.free(number);
                Some((parked, outcome))
            }
            // Never so: a number is parked once.
            Some(Slot::Waiting(..) | Slot::Free) | None => Some((parked, Outcome::Failed)),
        }
    }

    /// Takes out the reply that a message tells of; `None` if it was sent already, or will be by who parks it.
    pub fn take(&self, number: u64, outcome: Outcome) -> Option<Parked> {
        let mut slots = self.lock();
        let slot = slots.get(number)?;
        if matches!(slot, Slot::Taken) {
            *slot = Slot::Settled(outcome);
            return None;
        }
        match slots.free(number) {
            Slot::Waiting(_, parked) => Some(*parked),
            Slot::Taken | Slot::Settled(_) | Slot::Free => None,
        }
    }

    /// Has those answered that have waited too long for the disk.
    pub fn expire(&self, now: Instant) {
        let bound = Duration::from_millis(LOG_WAIT_MS);
        let slots = self.lock();
        // They stand in the order of their numbers, and so, but for moments, of their times.
        for (number, slot) in (slots.first..).zip(&slots.slots) {
            match slot {
                Slot::Waiting(since, _) if now.saturating_duration_since(*since) >= bound => {
                    let _ = self.news.send(News::Settled(number, Outcome::Late));
                }
                Slot::Waiting(..) => return,
                Slot::Taken | Slot::Settled(_) | Slot::Free => {}
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().slots.is_empty()
    }

    /// Has the thread that sends end when nothing waits any more.
    pub fn end(&self) {
        let _ = self.news.send(News::End);
    }
}

impl Completion for Parking {
    fn complete(&self, number: u64, durable: bool) {
        let outcome = if durable { Outcome::Durable } else { Outcome::Failed };
        let _ = self.news.send(News::Settled(number, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once_and_slots_given_back() {
        let (parking, news) = Parking::new();
        let [zero, one, two, three] = std::array::from_fn(|_| parking.number());
        assert_eq!([zero.value(), one.value(), two.value(), three.value()], [0, 1, 2, 3]);
        drop(one);
        assert!(!parking.is_empty());
        // Settled before it is parked: nothing is there to be sent yet, and a second message changes nothing.
        parking.complete(0, true);
        assert!(matches!(news.try_recv(), Ok(News::Settled(0, Outcome::Durable))));
        assert!(parking.take(0, Outcome::Durable).is_none());
        assert!(matches!(parking.lock().get(0), Some(Slot::Settled(Outcome::Durable))));
        drop(zero);
        assert_eq!(parking.lock().first, 2, "slots that are free at the front are gone");
        assert!(parking.take(0, Outcome::Failed).is_none() && parking.take(9, Outcome::Failed).is_none());
        drop(three);
        drop(two);
        assert!(parking.is_empty());
        let four = parking.number();
        assert_eq!(four.value(), 4);
        // What is still being decided does not expire.
        parking.expire(Instant::now() + Duration::from_secs(3600));
        assert!(news.try_recv().is_err());
    }
}
