//! How a hold is found again by its id.

use std::sync::MutexGuard;

use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limiter::check::progress::Tables;
use crate::limiter::check::wait::NonBlocking;
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::held::book::{Book, Pledge};

/// The locks under which a hold is changed, and the instant that was read under all of them.
pub struct Locked<'a> {
    pub tables: Tables<'a>,
    pub book: MutexGuard<'a, Book>,
    pub now: Micros,
    pub pledge: Pledge,
}

impl Limiter {
    /// Calls a function with each key of a hold, until one call fails.
    ///
    /// # Errors
    /// `hold_not_found`; and as `each`.
    #[doc(hidden)]
    pub fn each_key_of_hold(
        &self,
        hold: &str,
        non_blocking: Option<&NonBlocking<'_>>,
        mut each: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        self.core.known(hold, non_blocking)?.items.iter().try_for_each(|item| each(&item.key))
    }
}

impl Core {
    /// The hold with this id, as it is now.
    ///
    /// # Errors
    /// `hold_not_found`.
    pub fn known(&self, id: &str, non_blocking: Option<&NonBlocking<'_>>) -> Result<Pledge> {
        let number = self.holds.ids.read(id).ok_or_else(not_found)?;
        let mut book = self.lock_holds_for(non_blocking)?;
        book.tidy(self.clock.now());
        book.get(number).cloned().ok_or_else(not_found)
    }

    /// The shards of all keys of a hold: of those that it names, and of those that decided.
    pub fn shards_of(&self, pledge: &Pledge) -> Vec<usize> {
        pledge.items.iter().flat_map(|item| [item.hash, self.hash(&item.key)]).map(shard_of).collect()
    }

    /// Locks these shards and the table, and looks for the hold again.
    ///
    /// # Errors
    /// `hold_not_found`.
    pub fn lock_hold(
        &self,
        number: u64,
        shards: &mut Vec<usize>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Locked<'_>> {
        let tables = self.lock_all(shards, non_blocking)?;
        let mut book = self.lock_holds_for(non_blocking)?;
        let now = self.clock.now();
        book.tidy(now);
        let pledge = book.get(number).cloned().ok_or_else(not_found)?;
        Ok(Locked { tables, book, now, pledge })
    }
}

fn not_found() -> Error {
    Error::new(
        Kind::HoldNotFound,
        "no such hold: its id is wrong, or it was settled or expired more than 10 minutes ago",
    )
}

/// The error where a hold was settled before, otherwise.
pub fn settled_before() -> Error {
    Error::new(Kind::HoldSettled, "the hold was settled before, with another cost; it can be settled only once")
}
