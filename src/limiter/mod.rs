//! The limiter: limits in a sharded map, and the operations on them.
//!
//! Owns: the map, the order in which its locks are taken, and the promise that a record stands in the log before its
//! decision is told to anybody. Called by `server`, by `cli`, and by programs that embed Flint ([`Limiter`]). No HTTP
//! and no command line here.
//!
//! Locks, by rank: the compaction lock, the lock of who writes denials, then shards in the order of their index. Under a
//! shard's lock time is read, a decision is made and a record is queued; nothing there waits for the disk, for another
//! thread's work or for memory of unbounded size. Records of one limit are therefore in the log in the order of their
//! decisions.

mod build;
mod check;
#[cfg(test)]
mod check_tests;
mod compact;
mod core;
#[cfg(test)]
mod crash_disk;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
mod entry;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod helper_tests;
mod helpers;
mod inspect;
mod later;
mod least;
mod list;
#[cfg(test)]
mod list_tests;
mod repair;
mod replay;
mod report;
#[cfg(test)]
mod tests;
mod unlogged;

use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

pub use self::check::validate_items;
pub use self::entry::Totals;
pub use self::inspect::{dump, history, verify};
#[doc(hidden)]
pub use self::later::Later;
pub use self::list::{By, Listing, Page};
pub use self::repair::{Repair, repair};
pub use self::report::{
    AllDecision, Compaction, Decision, Status, write_many, write_number, write_statuses, write_text,
};
pub use crate::store::Access;

use self::core::{Core, Shard, shard_of};
use self::entry::{Entry, Table};
use self::replay::Replayed;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::limit::{Limit, validate_key};
use crate::store::record::{Event, MAX_FIXED};
use crate::store::{self, DirectoryLock, Disk, Health, Pending, Policy, Store, SystemDisk, Waiter};

/// When a check is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After its record is on disk (fdatasync); concurrent requests share one.
    Always,
    /// As soon as its record is queued for the log; a crash of the machine loses at most the last batch.
    Batch,
}

impl SyncMode {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            SyncMode::Always => "always",
            SyncMode::Batch => "batch",
        }
    }
}

/// How a limiter is opened. [`Options::default`] is what `flint server start` does without options.
#[derive(Clone)]
pub struct Options {
    /// When a check is answered.
    pub sync: SyncMode,
    /// When records that nobody waits for are synced, and when the log is compacted.
    pub policy: Policy,
    /// Whether the directory may be created, or is only looked at.
    pub access: Access,
    /// Where time comes from.
    pub clock: Clock,
    /// Where bytes go to.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::Always,
            policy: Policy::default(),
            access: Access::Create,
            clock: Clock::system(),
            disk: Arc::new(SystemDisk),
        }
    }
}

/// A durable rate limiter over one data directory, which it owns as its only writer.
///
/// All methods may be called from any number of threads. Dropping it syncs the log and closes it in good order;
/// [`Limiter::close`] does the same and tells of errors.
///
/// ```
/// use flint::{Algorithm, Limit, Limiter, Options};
///
/// let dir = tempfile::tempdir()?;
/// let limiter = Limiter::open(dir.path().join("quotas"), Options::default())?;
/// let limit = Limit::new(100, 60_000, Algorithm::TokenBucket, None)?;
/// limiter.configure("api:user-42", limit)?;
///
/// let decision = limiter.check("api:user-42", 5)?;
/// assert!(decision.allowed);
/// assert_eq!(decision.remaining, 95);
///
/// // Atomic: either both are spent or none is.
/// limiter.configure("org:acme", Limit::new(4, 1_000, Algorithm::SlidingWindowLog, None)?)?;
/// let all = limiter.check_all(&[("api:user-42", 1), ("org:acme", 4)])?;
/// assert!(all.allowed);
///
/// limiter.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Limiter {
    core: Arc<Core>,
    helpers: Mutex<Vec<JoinHandle<()>>>,
}

/// How storage and limiter stand, for `doctor` and for metrics.
#[derive(Debug, Clone)]
pub struct Report {
    /// The data directory.
    pub dir: PathBuf,
    /// When checks are answered.
    pub sync: SyncMode,
    /// How the log stands, and why, if not well.
    pub health: (Health, Option<String>),
    /// Configured limits.
    pub limits: u64,
    /// Size of the log, in bytes.
    pub log_bytes: u64,
    /// Events written since the start.
    pub events: u64,
    /// Bytes promised to records that are not written yet.
    pub queued_bytes: u64,
    /// Number of fdatasync calls by duration (see [`store::TIMING_BOUNDS_US`]), and their sum in microseconds.
    pub syncs: ([u64; store::TIMING_BOUNDS_US.len() + 1], u64),
    /// Bytes that the file system has left for this user, if it tells.
    pub free_bytes: Option<u64>,
    /// Compactions that succeeded since the start.
    pub compactions: u64,
    /// Why the last compaction failed, if it did.
    pub compaction_error: Option<String>,
    /// What is not done any more since a thread has ended that should not.
    pub helper_ended: Option<&'static str>,
    /// Checks allowed and denied since the start.
    pub decisions: (u64, u64),
}

impl Report {
    /// What is not as it should be, in words.
    pub fn problems(&self) -> Vec<String> {
        const LOW_BYTES: u64 = 64 * 1024 * 1024;
        let mut problems = Vec::new();
        if self.health.0 != Health::Healthy {
            problems.push(self.health.1.clone().unwrap_or_else(|| "the log cannot be written".to_owned()));
        }
        if let Some(free) = self.free_bytes.filter(|free| *free < LOW_BYTES) {
            problems.push(format!("only {free} bytes are free where {} is; make room", self.dir.display()));
        }
        if let Some(error) = &self.compaction_error {
            problems.push(format!("the last compaction failed: {error}"));
        }
        problems.extend(self.helper_ended.map(str::to_owned));
        problems
    }
}

impl Limiter {
    /// Opens the data directory and recovers what is in it.
    ///
    /// # Errors
    /// `locked` when another process owns it, `corrupt` when a file is damaged (nothing is changed then),
    /// `unsupported` when a newer Flint wrote it, `invalid_argument` for options out of range, `io`.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Limiter> {
        let dir = dir.as_ref();
        store::validate_policy(&options.policy)?;
        let lock = DirectoryLock::acquire(dir, options.access)?;
        let mut replayed = Replayed::new();
        let found = store::recover(dir, &*options.disk, &mut replayed)?;
        let (entries, highest_id) = replayed.finish();
        options.clock.raise(found.last_instant);
        let now = options.clock.now();
        // A log that is appended to knows the limits by their ids; a new one begins with dense ids.
        let renumber = found.clean.is_none();
        let next_id = if renumber { entries.len() as u64 + 1 } else { highest_id + 1 };
        let flush_every = options.policy.flush_every;
        let found_bytes = found.log_bytes;
        let hasher = RandomState::new();
        let disk = Arc::clone(&options.disk);
        let opening = match options.access {
            Access::Read => None,
            Access::Create | Access::Write => {
                Some(store::Opening::begin(dir, &disk, lock, found, now, options.policy)?)
            }
        };
        let (store, tables) = build::build(dir, &hasher, entries, renumber, opening)?;
        let core = Arc::new(Core {
            shards: tables.into_iter().map(|table| Shard(Mutex::new(table))).collect(),
            hasher,
            clock: options.clock,
            sync: options.sync,
            store,
            dir: dir.to_owned(),
            next_id: AtomicU64::new(next_id),
            compaction: Mutex::new(None),
            compactions_begun: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            writing_denials: Mutex::new(()),
            unlogged: AtomicBool::new(false),
            unlogged_helper: Mutex::new(None),
            helper_ended: OnceLock::new(),
            flush_every,
            found_bytes,
            compactions: AtomicU64::new(0),
        });
        let limiter = Limiter { core, helpers: Mutex::default() };
        if limiter.core.store.is_some() {
            limiter.start_helpers()?;
        }
        Ok(limiter)
    }

    /// Configures a limit. Returns whether it is new. The same values again change nothing at all; new values take
    /// over what was spent.
    ///
    /// # Errors
    /// `invalid_argument` for a bad key, `log_failed`, `overloaded`.
    pub fn configure(&self, key: &str, limit: Limit) -> Result<bool> {
        validate_key(key)?;
        let core = &*self.core;
        let hash = core.hash(key);
        let shard = shard_of(hash);
        // Every worker process of a web application does this at its start; it needs no room in the log.
        let same = core.same_values(&mut core.shards[shard].lock(), hash, key, &limit);
        if let Some(unconfirmed) = same {
            return core.confirm(shard, unconfirmed);
        }
        let waiter = Waiter::take();
        let mut reservation = core.reserve(1, MAX_FIXED + key.len())?;
        let mut table = core.shards[shard].lock();
        if let Some(unconfirmed) = core.same_values(&mut table, hash, key, &limit) {
            drop((table, reservation));
            return core.confirm(shard, unconfirmed);
        }
        let now = core.clock.now();
        let created = match table.get(hash, key) {
            Some(entry) => {
                let event = Event::Reconfigured { id: entry.id(), at: now, limit };
                core.log()?.append(&mut reservation, &event, Some(Pending::new(&waiter)));
                entry.reconfigure(limit, now);
                false
            }
            None => {
                let id = core.next_id.fetch_add(1, Ordering::Relaxed);
                let event = Event::Created { id, shard: shard as u8, at: now, limit, key };
                core.log()?.append(&mut reservation, &event, Some(Pending::new(&waiter)));
                let entry = Box::new(Entry::new(key, id, shard as u8, limit, now));
                table.insert(hash, entry, |key| core.hash(key));
                true
            }
        };
        let number = table.count_configured();
        drop(table);
        drop(reservation);
        core.wait(&waiter)?;
        core.shards[shard].lock().confirm(number);
        Ok(created)
    }

    /// Gives back all that was spent of a limit. The totals stay.
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn reset(&self, key: &str) -> Result<()> {
        self.core.change(key, |entry, now| {
            entry.reset(now);
            Event::Reset { id: entry.id(), at: now }
        })
    }

    /// Removes a limit with all it has counted.
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn remove(&self, key: &str) -> Result<()> {
        validate_key(key)?;
        let core = &*self.core;
        let hash = core.hash(key);
        let waiter = Waiter::take();
        let mut reservation = core.reserve(1, MAX_FIXED)?;
        let mut table = core.shards[shard_of(hash)].lock();
        let now = core.clock.now();
        let id = table.get(hash, key).ok_or_else(|| Error::not_configured(key))?.id();
        core.log()?.append(&mut reservation, &Event::Removed { id, at: now }, Some(Pending::new(&waiter)));
        table.remove(hash, key);
        drop(table);
        drop(reservation);
        core.wait(&waiter)
    }

    /// How a limit stands; `None` where none has this key.
    ///
    /// # Errors
    /// `invalid_argument` for a bad key.
    pub fn status(&self, key: &str) -> Result<Option<Status>> {
        validate_key(key)?;
        let hash = self.core.hash(key);
        let mut table = self.core.shards[shard_of(hash)].lock();
        let now = self.core.clock.now();
        Ok(table.get(hash, key).map(|entry| entry.status(now)))
    }

    /// Waits until all that was answered before is on disk, denials included.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`.
    pub fn flush(&self) -> Result<()> {
        self.core.write_denials()?;
        self.core.log()?.sync()
    }

    /// Writes a new snapshot and removes the log that it stands for. Checks go on meanwhile. One at a time: all calls that
    /// come while one runs are served by the next.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`, `io`; the old files are kept then.
    pub fn compact(&self) -> Result<Compaction> {
        self.core.compact()
    }

    /// How storage and limiter stand.
    pub fn report(&self) -> Report {
        let core = &*self.core;
        let log = core.store.as_ref().map(Store::log);
        let (mut limits, mut decisions) = (0, (0, 0));
        for shard in &core.shards {
            let table = shard.lock();
            limits += table.len() as u64;
            decisions = (decisions.0 + table.decisions.0, decisions.1 + table.decisions.1);
        }
        Report {
            dir: core.dir.clone(),
            sync: core.sync,
            health: log.map_or((Health::Healthy, None), |log| log.health()),
            limits,
            log_bytes: log.map_or(core.found_bytes, |log| log.bytes()),
            events: log.map_or(0, |log| log.events()),
            queued_bytes: log.map_or(0, |log| log.queued_bytes()),
            syncs: log.map_or_else(Default::default, |log| log.syncs().read()),
            free_bytes: fs4::available_space(&core.dir).ok(),
            compactions: core.compactions.load(Ordering::Relaxed),
            compaction_error: core.last_compaction().and_then(Result::err).map(|error| error.to_string()),
            helper_ended: core.helper_ended.get().copied(),
            decisions,
        }
    }

    /// When checks are answered.
    pub fn sync(&self) -> SyncMode {
        self.core.sync
    }

    /// How the log stands, and why, if not well; [`Health::Failed`] also when a thread that serves it has ended. Cheap, and
    /// never waits for the disk.
    pub fn health(&self) -> (Health, Option<String>) {
        let log = self.core.store.as_ref().map_or((Health::Healthy, None), |store| store.log().health());
        match self.core.helper_ended.get() {
            Some(ended) if log.0 == Health::Healthy => (Health::Failed, Some((*ended).to_owned())),
            _ => log,
        }
    }

    /// Notes the URL of the server that serves this limiter, for other processes to find.
    ///
    /// # Errors
    /// `io`.
    pub fn announce(&self, url: &str) -> Result<()> {
        self.core.store.as_ref().map_or(Ok(()), |store| store.lock().announce(Some(url)))
    }

    /// Syncs the log and closes it in good order. Operations after it fail with `log_failed`.
    ///
    /// # Errors
    /// `log_failed` when not everything could be written.
    pub fn close(&self) -> Result<()> {
        let core = &*self.core;
        core.closing.store(true, Ordering::Release);
        let helpers = std::mem::take(&mut *self.helpers.lock().unwrap_or_else(PoisonError::into_inner));
        for helper in helpers {
            helper.thread().unpark();
            let _ = helper.join();
        }
        let Some(store) = &core.store else { return Ok(()) };
        // Denials that can't be written are counters alone; that the log is not closed is what is told.
        let _ = core.write_denials();
        store.log().stop()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("the log was not closed in good order: {error}");
        }
    }
}

impl Core {
    /// Whether the limit has these values, and if so, the configuration of its shard that is not known to be on disk.
    fn same_values(&self, table: &mut Table, hash: u64, key: &str, limit: &Limit) -> Option<Option<u64>> {
        table.get(hash, key).is_some_and(|entry| entry.limit == *limit).then(|| table.unconfirmed())
    }

    /// Answers that nothing had to be changed, once what somebody else may still be waiting for is durable. To be called
    /// holding no lock.
    fn confirm(&self, shard: usize, unconfirmed: Option<u64>) -> Result<bool> {
        if let Some(number) = unconfirmed {
            self.log()?.sync()?;
            // Whoever queued it may have given up waiting; without this all who come later would sync again.
            self.shards[shard].lock().confirm(number);
        }
        Ok(false)
    }

    /// One change to one limit, which is durable when this returns.
    fn change(&self, key: &str, change: impl FnOnce(&mut Entry, u64) -> Event<'static>) -> Result<()> {
        validate_key(key)?;
        let hash = self.hash(key);
        let waiter = Waiter::take();
        let mut reservation = self.reserve(1, MAX_FIXED)?;
        let mut table = self.shards[shard_of(hash)].lock();
        let entry = table.get(hash, key).ok_or_else(|| Error::not_configured(key))?;
        let event = change(entry, self.clock.now());
        self.log()?.append(&mut reservation, &event, Some(Pending::new(&waiter)));
        drop(table);
        drop(reservation);
        self.wait(&waiter)
    }
}
