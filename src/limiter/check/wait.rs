//! Answers that wait for the disk without a thread that waits.
//!
//! Owns: how an operation tells what becomes of its answer. A thread that must not wait asks with a [`Later`]; when the
//! operation has returned, that says whether the answer is to be given now, when its number is settled, or not at all
//! because the operation would have had to wait before it changed anything.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};

use crate::error::{Error, Result};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Table;
use crate::limiter::options::SyncMode;
use crate::store::{Completion, Pending, Reservation, Waiter, overloaded};

/// What an operation left to be waited for. For one operation.
pub struct Later<'a> {
    whom: &'a Arc<dyn Completion>,
    number: u64,
    unsettled: Cell<bool>,
    refused: Cell<bool>,
}

impl<'a> Later<'a> {
    /// Who is told of `number` when the operation's records are durable, or never will be.
    pub fn new(whom: &'a Arc<dyn Completion>, number: u64) -> Later<'a> {
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
        Pending::slot(self.whom, self.number)
    }
}

/// How one operation waits for the disk.
pub enum Wait<'a> {
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
    pub fn reserve_for(&self, later: Option<&Later<'_>>, records: usize, bytes: usize) -> Result<Reservation<'_>> {
        let Some(later) = later else { return self.reserve(records, bytes) };
        self.log()?.reserve_now(records, bytes)?.ok_or_else(|| {
            later.refused.set(true);
            overloaded()
        })
    }

    /// Locks a shard, without waiting for whoever has it for long if there is a `later`.
    pub fn lock_for(&self, later: Option<&Later<'_>>, shard: usize) -> Result<MutexGuard<'_, Table>> {
        let Some(later) = later else { return Ok(self.shards[shard].lock()) };
        self.shards[shard].lock_soon().ok_or_else(|| {
            later.refused.set(true);
            overloaded()
        })
    }

    /// Waits in this thread, if that was the way.
    pub fn finish(&self, wait: &Wait<'_>) -> Result<()> {
        match wait {
            Wait::Here(waiter) => self.wait(waiter),
            Wait::Not | Wait::Elsewhere(_) => Ok(()),
        }
    }
}

impl Limiter {
    /// What is to be answered where a number was settled as not durable.
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
    struct Told(Sender<(u64, bool)>);

    impl Completion for Told {
        fn complete(&self, number: u64, durable: bool) {
            let _ = self.0.send((number, durable));
        }
    }

    fn told() -> (Arc<dyn Completion>, Receiver<(u64, bool)>) {
        let (sender, receiver) = unbounded();
        (Arc::new(Told(sender)), receiver)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn who_must_not_wait_is_told_later_or_sent_away_with_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        let limiter = Limiter::open(dir.path(), options(&Clock::manual(START))).unwrap();
        limiter.configure("a", limit(3, Algorithm::FixedWindowCounter)).unwrap();
        let (whom, news) = told();
        let spent = || limiter.status("a").unwrap().unwrap().totals.allowed_cost;

        // Somebody has the shard.
        let table = limiter.core.shards[shard_of(limiter.core.hash("a"))].lock();
        for items in [vec![("a", 1)], Vec::new()] {
            let later = Later::new(&whom, 1);
            let done = match items.is_empty() {
                true => limiter.check_for("a", 1, Some(&later)).map(|_| ()),
                false => limiter.check_all_for(&items, Some(&later)).map(|_| ()),
            };
            assert!(done.is_err() && later.is_refused() && !later.is_unsettled());
        }
        drop(table);
        assert_eq!(spent(), 0);

        // Three ways to spend a unit: each is settled by its number, once it is on disk.
        let later = [2, 3, 4].map(|number| Later::new(&whom, number));
        assert!(limiter.check_for("a", 1, Some(&later[0])).unwrap().allowed);
        assert!(limiter.check_all_for(&[("a", 1)], Some(&later[1])).unwrap().allowed);
        assert!(limiter.check_many_for(&[("a", 1)], Some(&later[2])).unwrap()[0].as_ref().unwrap().allowed);
        assert!(later.iter().all(|later| later.is_unsettled() && !later.is_refused()));
        let mut settled: Vec<_> = (0..3).map(|_| news.recv_timeout(PATIENCE).unwrap()).collect();
        settled.sort_unstable();
        assert_eq!((settled, spent()), (vec![(2, true), (3, true), (4, true)], 3));

        // A denial and an error wait for nothing.
        let later = Later::new(&whom, 5);
        assert!(!limiter.check_for("a", 1, Some(&later)).unwrap().allowed);
        assert!(limiter.check_for("b", 1, Some(&later)).is_err());
        assert!(!later.is_unsettled() && !later.is_refused());
        limiter.close().unwrap();
        assert!(limiter.check_for("a", 1, Some(&later)).is_err() && !later.is_refused());
        assert!(news.try_recv().is_err());
    }
}
