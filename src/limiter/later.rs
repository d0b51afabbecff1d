//! Answers that wait for the disk without a thread that waits.
//!
//! Owns: how an operation tells what becomes of its answer. A thread that must not wait asks with a [`Later`]; when the
//! operation has returned, that says whether the answer is to be given now, when its number is settled, or not at all
//! because the operation would have had to wait before it changed anything.

use std::cell::Cell;
use std::sync::Arc;

use super::{Core, SyncMode};
use crate::error::{Error, Result};
use crate::store::{Pending, Reservation, Settle, Waiter, overloaded};

/// What an operation left to be waited for. For one operation.
pub struct Later<'a> {
    whom: &'a Arc<dyn Settle>,
    number: u64,
    unsettled: Cell<bool>,
    refused: Cell<bool>,
}

impl<'a> Later<'a> {
    /// Who is told of `number` when the operation's records are durable, or never will be.
    pub fn new(whom: &'a Arc<dyn Settle>, number: u64) -> Later<'a> {
        Later { whom, number, unsettled: Cell::new(false), refused: Cell::new(false) }
    }

    /// Whether the number will be settled, or was in the meantime: the answer must not be given before. Otherwise it is
    /// never heard of again.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.get()
    }

    /// Whether nothing was done, since it would have meant to wait. The error that was returned is then of no meaning.
    pub fn is_refused(&self) -> bool {
        self.refused.get()
    }

    fn pending(&self) -> Pending {
        self.unsettled.set(true);
        Pending::number(self.whom, self.number)
    }
}

/// How one operation waits for the disk.
pub(super) enum Wait<'a> {
    /// Not at all: a batch is synced when it is due.
    Not,
    /// In this thread.
    Here(Waiter),
    /// Somebody else does.
    Elsewhere(&'a Later<'a>),
}

impl<'a> Wait<'a> {
    /// As the mode has it, elsewhere if there is a `later`.
    pub fn by(sync: SyncMode, later: Option<&'a Later<'a>>) -> Wait<'a> {
        match (sync, later) {
            (SyncMode::Batch, _) => Wait::Not,
            (SyncMode::Always, None) => Wait::Here(Waiter::take()),
            (SyncMode::Always, Some(later)) => Wait::Elsewhere(later),
        }
    }

    /// Whom the log has to tell.
    pub fn pending(&self) -> Option<Pending> {
        match self {
            Wait::Not => None,
            Wait::Here(waiter) => Some(Pending::new(waiter)),
            Wait::Elsewhere(later) => Some(later.pending()),
        }
    }
}

impl Core {
    /// Reserves room in the log, without waiting for it if there is a `later`.
    pub(super) fn reserve_for(
        &self,
        later: Option<&Later<'_>>,
        records: usize,
        bytes: usize,
    ) -> Result<Reservation<'_>> {
        let Some(later) = later else { return self.reserve(records, bytes) };
        self.log()?.reserve_now(records, bytes)?.ok_or_else(|| {
            later.refused.set(true);
            overloaded()
        })
    }

    /// Waits in this thread, if that was the way.
    pub(super) fn finish(&self, wait: &Wait<'_>) -> Result<()> {
        match wait {
            Wait::Here(waiter) => self.wait(waiter),
            Wait::Not | Wait::Elsewhere(_) => Ok(()),
        }
    }
}

impl super::Limiter {
    /// What is to be answered where a number was settled as not durable.
    pub fn failure(&self) -> Error {
        self.core.log().map_or_else(|error| error, crate::store::Log::failure)
    }
}
