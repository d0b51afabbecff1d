//! How an operation waits for the log: until its record is written or on disk, in its thread or without one.
//!
//! Owns: non-blocking operations. A thread that must not wait passes a [`NonBlocking`]. After the operation it says
//! whether the answer can be given now, or has to wait until its slot is completed, or whether nothing was done because
//! the operation would block.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};

use crate::error::{Error, Result};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Table;
use crate::limiter::held::book::Book;
use crate::limiter::options::SyncMode;
use crate::store::{Completion, Pending, Reservation, Stage, Waiter, overloaded};

/// One operation that must not block.
pub struct NonBlocking<'a> {
    completion: &'a Arc<dyn Completion>,
    slot: u64,
    pending: Cell<bool>,
    would_block: Cell<bool>,
}

impl<'a> NonBlocking<'a> {
    /// For one operation: `slot` of `completion` is completed when its records are written or durable, as the mode has
    /// it, or never will be.
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

    fn pending(&self, stage: Stage) -> Pending {
        self.pending.set(true);
        Pending::slot(self.completion, self.slot, stage)
    }

    /// Notes that nothing was done since it would block.
    pub fn give_up(&self) -> Error {
        self.would_block.set(true);
        overloaded()
    }
}

/// How one operation waits for its record.
pub enum Wait<'a> {
    /// Not at all: the record is written and synced when it is due.
    Not,
    /// In this thread.
    Blocking(Waiter, Stage),
    /// By a completion.
    NonBlocking(&'a NonBlocking<'a>, Stage),
}

impl<'a> Wait<'a> {
    /// As the mode has it for checks.
    pub fn by(sync: SyncMode, non_blocking: Option<&'a NonBlocking<'a>>) -> Wait<'a> {
        let stage = match sync {
            SyncMode::Always => Stage::Durable,
            SyncMode::Batch => Stage::Written,
            SyncMode::Relaxed => return Wait::Not,
        };
        match non_blocking {
            None => Wait::Blocking(Waiter::take(), stage),
            Some(non_blocking) => Wait::NonBlocking(non_blocking, stage),
        }
    }

    /// As the mode has it for changes of a limit, which are rare and wait for the write at least.
    pub fn of_change(sync: SyncMode) -> Wait<'static> {
        match sync {
            SyncMode::Always | SyncMode::Batch => Wait::by(sync, None),
            SyncMode::Relaxed => Wait::Blocking(Waiter::take(), Stage::Written),
        }
    }

    /// What the log has to complete.
    pub fn pending(&self) -> Option<Pending> {
        match self {
            Wait::Not => None,
            Wait::Blocking(waiter, stage) => Some(Pending::new(waiter, *stage)),
            Wait::NonBlocking(non_blocking, stage) => Some(non_blocking.pending(*stage)),
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

    /// Locks the table of holds; if non-blocking, without waiting for a thread that holds it for long.
    pub fn lock_holds_for(&self, non_blocking: Option<&NonBlocking<'_>>) -> Result<MutexGuard<'_, Book>> {
        let Some(non_blocking) = non_blocking else { return Ok(self.holds.lock()) };
        self.holds.lock_soon().ok_or_else(|| non_blocking.give_up())
    }

    /// Waits in this thread, if blocking.
    pub fn finish(&self, wait: &Wait<'_>) -> Result<()> {
        match wait {
            Wait::Blocking(waiter, _) => self.log()?.wait(waiter),
            Wait::Not | Wait::NonBlocking(..) => Ok(()),
        }
    }

    /// As [`Core::finish`], for all records that were queued before.
    pub fn finish_all(&self, wait: &Wait<'_>) -> Result<()> {
        let Some(pending) = wait.pending() else { return Ok(()) };
        self.log()?.notify(pending);
        self.finish(wait)
    }
}

impl Limiter {
    /// The error of an operation whose slot was completed as failed.
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
    use crate::limiter::options::Options;
    use crate::limiter::tests::{START, limit, options};

    #[derive(Debug)]
    struct Completed(Sender<(u64, bool)>);

    impl Completion for Completed {
        fn complete(&self, number: u64, done: bool) {
            let _ = self.0.send((number, done));
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
        for items in [vec![("a", 1).into()], Vec::new()] {
            let non_blocking = NonBlocking::new(&completion, 1);
            let done = match items.is_empty() {
                true => limiter.check_for("a".into(), Some(&non_blocking)).map(|_| ()),
                false => limiter.check_all_for(&items, Some(&non_blocking)).map(|_| ()),
            };
            assert!(done.is_err() && non_blocking.would_block() && !non_blocking.is_pending());
        }
        drop(table);
        assert_eq!(spent(), 0);

        // Three ways to spend a unit: each completes its slot, once it is on disk.
        let non_blocking = [2, 3, 4].map(|slot| NonBlocking::new(&completion, slot));
        assert!(limiter.check_for("a".into(), Some(&non_blocking[0])).unwrap().allowed);
        assert!(limiter.check_all_for(&["a".into()], Some(&non_blocking[1])).unwrap().allowed);
        assert!(limiter.check_many_for(&["a".into()], Some(&non_blocking[2])).unwrap()[0].as_ref().unwrap().allowed);
        assert!(non_blocking.iter().all(|non_blocking| non_blocking.is_pending() && !non_blocking.would_block()));
        let mut results: Vec<_> = (0..3).map(|_| completed.recv_timeout(PATIENCE).unwrap()).collect();
        results.sort_unstable();
        assert_eq!((results, spent()), (vec![(2, true), (3, true), (4, true)], 3));

        // A denial and an error wait for nothing.
        let non_blocking = NonBlocking::new(&completion, 5);
        assert!(!limiter.check_for("a".into(), Some(&non_blocking)).unwrap().allowed);
        assert!(limiter.check_for("b".into(), Some(&non_blocking)).is_err());
        assert!(!non_blocking.is_pending() && !non_blocking.would_block());
        limiter.close().unwrap();
        assert!(limiter.check_for("a".into(), Some(&non_blocking)).is_err() && !non_blocking.would_block());
        assert!(completed.try_recv().is_err());
    }

    #[test]
    fn each_mode_waits_for_its_stage() {
        let (completion, completed) = completion();
        let non_blocking = NonBlocking::new(&completion, 1);
        for (sync, check, change) in [
            (SyncMode::Always, Some(Stage::Durable), Stage::Durable),
            (SyncMode::Batch, Some(Stage::Written), Stage::Written),
            (SyncMode::Relaxed, None, Stage::Written),
        ] {
            let stage = |wait: &Wait<'_>| match wait {
                Wait::Not => None,
                Wait::Blocking(_, stage) | Wait::NonBlocking(_, stage) => Some(*stage),
            };
            assert_eq!(stage(&Wait::by(sync, None)), check);
            assert_eq!(stage(&Wait::by(sync, Some(&non_blocking))), check);
            assert_eq!(stage(&Wait::of_change(sync)), Some(change));

            let dir = tempfile::tempdir().unwrap();
            let limiter = Limiter::open(dir.path(), Options { sync, ..options(&Clock::manual(START)) }).unwrap();
            limiter.configure("a", limit(3, Algorithm::FixedWindowCounter)).unwrap();
            let non_blocking = NonBlocking::new(&completion, 2);
            assert!(limiter.check_for("a".into(), Some(&non_blocking)).unwrap().allowed);
            assert_eq!(non_blocking.is_pending(), check.is_some());
            if non_blocking.is_pending() {
                assert_eq!(completed.recv_timeout(PATIENCE), Ok((2, true)));
            }
        }
        assert!(completed.try_recv().is_err());
    }
}
