//! Kept answers: a request that is sent again gets the same answer and is not carried out again.
//!
//! Owns: which answers are kept and for how long, and which requests are under way. An answer is in the record of what
//! it reports, so both are found after a crash or neither.
//!
//! Each module may use only those after it in this list: `shelf`, `once`.

mod once;
pub mod shelf;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use self::once::Once;
use self::shelf::{Found, Kept, Shelf};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limiter::answers::{AllDecision, Decision, Hold};
use crate::limiter::entry::Entry;

/// How the answer to a request is kept: in the record of what it reports.
pub struct Keep<'k> {
    pub once: Once,
    /// Writes the answer, once it is decided and before its record is queued.
    pub write: &'k mut dyn FnMut(Told<'_>) -> String,
}

/// What an answer reports.
pub enum Told<'t> {
    /// Decisions on several keys, each separately.
    Each(&'t [Result<Decision>]),
    /// Decisions, and the hold that was made of them.
    Decided(&'t AllDecision, Option<&'t Hold>),
    /// The state of a key after it: a copy of its entry, if it has one.
    Stands(Option<&'t mut Entry>),
}

/// The answers, and the waiters for them.
#[derive(Debug, Default)]
pub struct Answers {
    /// Rank 6, after the table of holds.
    shelf: Mutex<Shelf>,
    /// Told when a request is under way no more.
    ended: Condvar,
}

impl Answers {
    pub fn lock(&self) -> MutexGuard<'_, Shelf> {
        // It is changed in steps none of which panics.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request, or finds the answer that it had. `None` if another one with the same key is under way, and
    /// this one is not to wait for it.
    ///
    /// # Errors
    /// `idempotency_mismatch`.
    pub fn begin(&self, once: &Once, now: impl Fn() -> Micros, waits: bool) -> Result<Option<Begun>> {
        let mut shelf = self.lock();
        loop {
            shelf.tidy(now());
            match shelf.begin(once) {
                Found::Nothing => return Ok(Some(Begun::Fresh)),
                Found::Answer(answer) => return Ok(Some(Begun::Before(answer))),
                Found::Other => {
                    return Err(Error::new(
                        Kind::IdempotencyMismatch,
                        "the idempotency key was used for another request; each request needs its own key",
                    ));
                }
                Found::UnderWay if !waits => return Ok(None),
                Found::UnderWay => shelf = self.ended.wait(shelf).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Queues the record of what an answer reports, if there is one, and keeps it: a copy of the table has what was
    /// queued before its marker, and nothing else.
    pub fn keep_with<T>(&self, kept: Option<&Kept>, queue: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(kept) = kept else { return queue() };
        let mut shelf = self.lock();
        let queued = queue()?;
        shelf.keep(kept.clone());
        Ok(queued)
    }

    /// The answer that is kept for a request.
    pub fn of(&self, once: &Once) -> Option<Arc<str>> {
        self.lock().get(once)
    }

    /// A request is under way no more.
    pub fn end(&self, once: &Once) {
        self.lock().end(once);
        self.ended.notify_all();
    }
}

/// How a request begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is to be done.
    Fresh,
    /// It was done before.
    Before(Arc<str>),
}
