//! What the operations and the helper threads share: the sharded map, the clock and the store.
//!
//! Owns: the locks of the map and how a key finds its shard. Called by the other modules of `limiter`.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::answers::Compaction;
use super::entry::Table;
use super::held::Holds;
use super::kept::Answers;
use super::notes::noting::Noting;
use super::options::SyncMode;
use super::registry::Registry;
use crate::bounds::SHARDS;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::store::{self, Reservation, Store};

/// How often a thread that must not wait tries to lock a shard: for about as long as a decision takes.
const LOCK_TRIES: u32 = 64;

/// A durable rate limiter over one data directory, which it owns as its only writer.
///
/// All methods may be called from any number of threads. Dropping it syncs the log and closes it cleanly;
/// [`Limiter::close`] does the same and returns errors.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{Algorithm, Limit, Limiter, Options};
///
/// let dir = tempfile::tempdir()?;
/// let limiter = Limiter::open(dir.path().join("quotas"), Options::default())?;
/// let limit = Limit::new(100, Duration::from_secs(60), Algorithm::TokenBucket, None)?;
/// limiter.configure("api:user-42", limit)?;
///
/// let decision = limiter.check("api:user-42", 5)?;
/// assert!(decision.allowed);
/// assert_eq!(decision.remaining, Some(95));
///
/// // Atomic: either both are spent or none is.
/// limiter.configure("org:acme", "4/1s sliding_window_log".parse()?)?;
/// let all = limiter.check_all(&[("api:user-42", 1), ("org:acme", 4)])?;
/// assert!(all.allowed);
/// // Each user has a separate limit, which takes no memory while nothing counts.
/// limiter.configure("user:*", "10/1s, 5000/day".parse()?)?;
/// assert!(limiter.check("user:7", 1)?.allowed);
///
/// limiter.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Limiter {
    pub(super) core: Arc<Core>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("dir", &self.core.dir).field("sync", &self.core.sync).finish_non_exhaustive()
    }
}

/// What the limiter shares with its helper threads.
pub struct Core {
    pub shards: Box<[Shard]>,
    pub hasher: RandomState,
    pub registry: Registry,
    pub clock: Clock,
    pub sync: SyncMode,
    pub store: Option<Store>,
    pub dir: PathBuf,
    /// The base of the ids of holds.
    #[cfg(feature = "store")]
    pub directory: [u8; 16],
    pub next_id: AtomicU64,
    pub holds: Holds,
    pub answers: Answers,
    /// Rank 1. Held while a compaction runs, which may take seconds; the value says how the last one ended.
    pub compaction: Mutex<Option<Result<Compaction>>>,
    /// Compactions that have begun. Changed under the compaction lock.
    pub compactions_begun: AtomicU64,
    pub closing: AtomicBool,
    /// Rank 2. Held while denials are written, which may wait for room in the log. With this lock, no denials left
    /// means that all of them are queued.
    pub writing_denials: Mutex<()>,
    /// Set when denials are missing in the log, which wakes the helper that writes them.
    pub has_pending_denials: AtomicBool,
    pub denials_helper: Mutex<Option<thread::Thread>>,
    /// Set while there are keys that may vanish by themselves, which wakes the helper that sweeps them.
    pub has_live: AtomicBool,
    pub sweep_helper: OnceLock<thread::Thread>,
    /// Keys that the sweep has taken out since `give_back` was called.
    pub swept: AtomicUsize,
    /// Called when the sweep has taken many keys out.
    pub give_back: fn(),
    /// The helper threads that run.
    pub helpers: Mutex<Vec<thread::JoinHandle<()>>>,
    /// Set when a helper has ended that should not have: what is no longer done.
    pub helper_ended: OnceLock<&'static str>,
    pub flush_every: Duration,
    /// Size of the log when it was opened, in bytes.
    pub found_bytes: u64,
    /// Compactions that succeeded since the start.
    pub compactions: AtomicU64,
    /// Rank 0. Held while the files are checked.
    pub looking_after_files: Mutex<()>,
    /// Locked for a moment, under no other lock than that.
    pub healing: Mutex<Healing>,
    /// Notes what is looked at and changed, where records are kept elsewhere.
    pub noting: Noting,
    /// The log of a limiter whose records are kept elsewhere.
    #[cfg(feature = "store")]
    pub sink: Option<store::Log>,
}

/// What was found and done about files that others removed, renamed or replaced while this process was running.
#[derive(Debug, Default)]
pub struct Healing {
    /// Why a start would not find everything that counts, if that could not be healed yet.
    pub wound: Option<String>,
    /// What was missing and written again: when last, and how often since the start.
    pub healed: Option<(String, u64)>,
}

impl Healing {
    /// In words, for doctor.
    pub fn problems(&self) -> Vec<String> {
        let healed = self.healed.iter().map(|(what, count)| {
            let often = if *count == 1 { String::new() } else { format!(", {count} times since the start") };
            format!("{what}{often}; a new snapshot replaces it, and nothing was lost; find out what caused this")
        });
        self.wound.iter().cloned().chain(healed).collect()
    }
}

/// Rank 4, in the order of the index. Aligned so that two shards share no cache line.
#[repr(align(64))]
#[derive(Default)]
pub struct Shard(pub Mutex<Table>);

impl Shard {
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        // A table is changed in single steps, each of which leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if it is free or about to be. Copying or listing a whole shard holds it for longer.
    pub fn lock_soon(&self) -> Option<MutexGuard<'_, Table>> {
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
    /// With an empty map and no store.
    pub fn new(clock: Clock, sync: SyncMode, registry: Registry, hasher: RandomState, holds: Holds) -> Core {
        Core {
            shards: Box::default(),
            hasher,
            registry,
            clock,
            sync,
            store: None,
            dir: PathBuf::new(),
            #[cfg(feature = "store")]
            directory: [0; 16],
            next_id: AtomicU64::new(1),
            holds,
            answers: Answers::default(),
            compaction: Mutex::new(None),
            compactions_begun: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            writing_denials: Mutex::new(()),
            has_pending_denials: AtomicBool::new(false),
            denials_helper: Mutex::new(None),
            has_live: AtomicBool::new(true),
            sweep_helper: OnceLock::new(),
            swept: AtomicUsize::new(0),
            give_back: || {},
            helper_ended: OnceLock::new(),
            flush_every: Duration::ZERO,
            found_bytes: 0,
            compactions: AtomicU64::new(0),
            looking_after_files: Mutex::new(()),
            healing: Mutex::default(),
            helpers: Mutex::default(),
            noting: Noting::default(),
            #[cfg(feature = "store")]
            sink: None,
        }
    }

    pub fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    pub fn log(&self) -> Result<&store::Log> {
        if let Some(store) = &self.store {
            return Ok(store.log());
        }
        #[cfg(feature = "store")]
        if let Some(sink) = &self.sink {
            return Ok(sink);
        }
        Err(Error::new(Kind::Io, format!("{} was opened only for reading", self.dir.display())))
    }

    pub fn reserve(&self, records: usize, bytes: usize) -> Result<Reservation<'_>> {
        self.log()?.reserve(records, bytes)
    }

    /// Notes that a key has come that may vanish by itself. To be called under the lock of its shard.
    #[inline]
    pub fn note_live(&self) {
        if !self.has_live.load(Ordering::SeqCst)
            && !self.has_live.swap(true, Ordering::SeqCst)
            && let Some(helper) = self.sweep_helper.get()
        {
            helper.unpark();
        }
    }

    pub fn healing(&self) -> MutexGuard<'_, Healing> {
        self.healing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits in a helper thread, until it is over or the limiter is closing.
    pub fn rest(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.is_closing() {
            thread::park_timeout(time.saturating_sub(begun.elapsed()));
        }
    }
}

pub fn shard_of(hash: u64) -> usize {
    // The table itself uses the lowest bits and the highest seven.
    (hash >> 40) as usize % SHARDS
}
