//! How a check waits for the disk: in its thread, or without one.
//!
//! Owns: non-blocking operations. A thread that must not wait passes a [`NonBlocking`]. After the operation it says
//! whether the answer can be given now, or has to wait until its slot is completed, or whether nothing was done because
//! the operation would block.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};

use crate::error::{Error, Result};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Table;
use crate::limiter::options::SyncMode;
use crate::store::{Completion, Pending, Reservation, Waiter, overloaded};

/// One operation that must not block.
pub struct NonBlocking<'a> {
    completion: &'a Arc<dyn Completion>,
    slot: u64,
    pending: Cell<bool>,
    would_block: Cell<bool>,
}

impl<'a> NonBlocking<'a> {
    /// For one operation: `slot` of `completion` is completed when its records are durable, or never will be.
    pub fn new(completion: &'a Arc<dyn Completion>, slot: u64) -> NonBlocking<'a> {
        NonBlocking { completion, slot, pending: Cell::new(false), would_block: Cell::new(false) }
    }

    /// Whether the slot will be completed, or was meanwhile: the answer must not be given before. Otherwise it never
    /// is.
    pub fn is_pending(&self) -> bool {
        self.pending.get()
    }

    /// Whether nothing was done because the operation would block. The error that it returned then means nothing.
    pub fn would_block(&self) -> bool {
        self.would_block.get()
    }

    fn pending(&self) -> Pending {
        self.pending.set(true);
        Pending::slot(self.completion, self.slot)
    }

    fn give_up(&self) -> Error {
        self.would_block.set(true);
        overloaded()
    }
}

/// How one operation waits for the disk.
pub enum Wait<'a> {
    /// Not at all: a batch is synced when it is due.
    Not,
    /// In this thread.
    Blocking(Waiter),
    /// By a completion.
    NonBlocking(&'a NonBlocking<'a>),
}

impl<'a> Wait<'a> {
    /// As the mode has it.
    pub fn by(sync: SyncMode, non_blocking: Option<&'a NonBlocking<'a>>) -> Wait<'a> {
        match (sync, non_blocking) {
            (SyncMode::Batch, _) => Wait::Not,
            (SyncMode::Always, None) => Wait::Blocking(Waiter::take()),
            (SyncMode::Always, Some(non_blocking)) => Wait::NonBlocking(non_blocking),
        }
    }

    /// What the log has to complete.
    pub fn pending(&self) -> Option<Pending> {
        match self {
            Wait::Not => None,
            Wait::Blocking(waiter) => Some(Pending::new(waiter)),
            Wait::NonBlocking(non_blocking) => Some(non_blocking.pending()),
        }
    }
}

impl Core {
    /// Reserves room in the log; without waiting, if non-blocking.
    pub fn reserve_for(
        &self,
        non_blocking: Option<&NonBlocking<'_>>,
        records: usize,
        bytes: usize,
    ) -> Result<Reservation<'_>> {
        let Some(non_blocking) = non_blocking else { return self.reserve(records, bytes) };
        self.log()?.reserve_now(records, bytes)?.ok_or_else(|| non_blocking.give_up())
    }

    /// Locks a shard; if non-blocking, without waiting for a thread that holds it for long.
    pub fn lock_for(&self, non_blocking: Option<&NonBlocking<'_>>, shard: usize) -> Result<MutexGuard<'_, Table>> {
        let Some(non_blocking) = non_blocking else { return Ok(self.shards[shard].lock()) };
        self.shards[shard].lock_soon().ok_or_else(|| non_blocking.give_up())
    }

    /// Waits in this thread, if blocking.
    pub fn finish(&self, wait: &Wait<'_>) -> Result<()> {
        match wait {
            Wait::Blocking(waiter) => self.wait(waiter),
            Wait::Not | Wait::NonBlocking(_) => Ok(()),
        }
    }
}

impl Limiter {
    /// The error of an operation whose slot was completed as not durable.
    #[doc(hidden)]
    pub fn failure(&self) -> Error {
        self.core.log().map_or_else(|error| error, crate::store::Log::failure)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;
    use crate::clock::Clock;
    use crate::limit::Algorithm;
    use crate::limiter::core::shard_of;
    use crate::limiter::tests::{START, limit, options};

    #[derive(Debug)]
    struct Completed(Sender<(u64, bool)>);

    impl Completion for Completed {
        fn complete(&self, number: u64, durable: bool) {
            let _ = self.0.send((number, durable));
        }
    }

    fn completion() -> (Arc<dyn Completion>, Receiver<(u64, bool)>) {
        let (sender, receiver) = unbounded();
        (Arc::new(Completed(sender)), receiver)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_non_blocking_check_completes_a_slot_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let limiter = Limiter::open(dir.path(), options(&Clock::manual(START))).unwrap();
        limiter.configure("a", limit(3, Algorithm::FixedWindowCounter)).unwrap();
        let (completion, completed) = completion();
        let spent = || limiter.status("a").unwrap().unwrap().totals.allowed_cost;

        // Another thread holds the shard.
        let table = limiter.core.shards[shard_of(limiter.core.hash("a"))].lock();
        for items in [vec![("a", 1)], Vec::new()] {
            let non_blocking = NonBlocking::new(&completion, 1);
            let done = match items.is_empty() {
                true => limiter.check_for("a", 1, Some(&non_blocking)).map(|_| ()),
                false => limiter.check_all_for(&items, Some(&non_blocking)).map(|_| ()),
            };
            assert!(done.is_err() && non_blocking.would_block() && !non_blocking.is_pending());
        }
        drop(table);
        assert_eq!(spent(), 0);

        // Three ways to spend a unit: each completes its slot, once it is on disk.
        let non_blocking = [2, 3, 4].map(|slot| NonBlocking::new(&completion, slot));
        assert!(limiter.check_for("a", 1, Some(&non_blocking[0])).unwrap().allowed);
        assert!(limiter.check_all_for(&[("a", 1)], Some(&non_blocking[1])).unwrap().allowed);
        assert!(limiter.check_many_for(&[("a", 1)], Some(&non_blocking[2])).unwrap()[0].as_ref().unwrap().allowed);
        assert!(non_blocking.iter().all(|non_blocking| non_blocking.is_pending() && !non_blocking.would_block()));
        let mut results: Vec<_> = (0..3).map(|_| completed.recv_timeout(PATIENCE).unwrap()).collect();
        results.sort_unstable();
        assert_eq!((results, spent()), (vec![(2, true), (3, true), (4, true)], 3));

        // A denial and an error wait for nothing.
        let non_blocking = NonBlocking::new(&completion, 5);
        assert!(!limiter.check_for("a", 1, Some(&non_blocking)).unwrap().allowed);
        assert!(limiter.check_for("b", 1, Some(&non_blocking)).is_err());
        assert!(!non_blocking.is_pending() && !non_blocking.would_block());
        limiter.close().unwrap();
        assert!(limiter.check_for("a", 1, Some(&non_blocking)).is_err() && !non_blocking.would_block());
        assert!(completed.try_recv().is_err());
    }
}
