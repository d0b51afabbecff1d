//! What the operations and the helper threads share: the sharded map, the clock and the store.
//!
//! Owns: the locks of the map and how a key finds its shard. Called by the other modules of `limiter`.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use super::SyncMode;
use super::entry::Table;
use super::report::Compaction;
use crate::bounds::SHARDS;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::store::{self, Reservation, Store, Waiter};

/// How often a thread that must not wait tries to lock a shard: for about as long as a decision takes.
const LOCK_TRIES: u32 = 64;

/// What the limiter shares with its helper threads.
pub(super) struct Core {
    pub(super) shards: Box<[Shard]>,
    pub(super) hasher: RandomState,
    pub(super) clock: Clock,
    pub(super) sync: SyncMode,
    pub(super) store: Option<Store>,
    pub(super) dir: PathBuf,
    pub(super) next_id: AtomicU64,
    /// Rank 1. Held while a compaction runs, which may take seconds; the value says how the last one ended.
    pub(super) compaction: Mutex<Option<Result<Compaction>>>,
    /// Compactions that have begun. Changed by who holds the compaction lock.
    pub(super) compactions_begun: AtomicU64,
    pub(super) closing: AtomicBool,
    /// Rank 2. Held while denials are written, which may wait for room in the log: who finds none left to write knows that
    /// all of them are queued.
    pub(super) writing_denials: Mutex<()>,
    /// Set when there are denials that the log does not know of, to wake the helper that writes them.
    pub(super) unlogged: AtomicBool,
    pub(super) unlogged_helper: Mutex<Option<thread::Thread>>,
    /// Set when a helper has ended that should not: what is not done any more.
    pub(super) helper_ended: OnceLock<&'static str>,
    pub(super) flush_every: Duration,
    /// Size of the log when it was opened, in bytes.
    pub(super) found_bytes: u64,
    /// Compactions that succeeded since the start.
    pub(super) compactions: AtomicU64,
}

/// Rank 3, in the order of the index. Aligned so that two shards share no cache line.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Shard(pub(super) Mutex<Table>);

impl Shard {
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        // A table is changed in single steps, each of which leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if it is free or about to be. Held for longer by who copies or lists a whole shard.
    pub(super) fn lock_soon(&self) -> Option<MutexGuard<'_, Table>> {
        for _ in 0..LOCK_TRIES {
            match self.0.try_lock() {
                Ok(table) => return Some(table),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }
}

impl Core {
    pub(super) fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn log(&self) -> Result<&store::Log> {
        match &self.store {
            Some(store) => Ok(store.log()),
            None => Err(Error::new(Kind::Io, format!("{} was opened to be looked at only", self.dir.display()))),
        }
    }

    pub(super) fn reserve(&self, records: usize, bytes: usize) -> Result<Reservation<'_>> {
        self.log()?.reserve(records, bytes)
    }

    pub(super) fn wait(&self, waiter: &Waiter) -> Result<()> {
        self.log()?.wait(waiter)
    }
}

pub(super) fn shard_of(hash: u64) -> usize {
    // The table itself uses the lowest bits and the highest seven.
    (hash >> 40) as usize % SHARDS
}
