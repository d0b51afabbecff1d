//! Opening a data directory, and closing it cleanly.

use std::hash::RandomState;
use std::path::Path;
use std::sync::Arc;

use super::background::helpers;
use super::core::{Core, Limiter};
use super::held::Holds;
use super::held::book::Book;
use super::held::id::Ids;
use super::options::{Options, SyncMode};
use super::recovery::build::build;
use super::recovery::redo::redo;
use super::recovery::replay::Replayed;
use super::registry::Registry;
use crate::bounds::{MAX_MAX_HOLDS, MAX_MAX_KEYS};
use crate::error::{Error, Result};
use crate::store::{self, Access, DirectoryLock, Policy};

impl Limiter {
    /// Opens the data directory and recovers what is in it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// // No other process can open it meanwhile, and this process can't open it again.
    /// let again = flint::Limiter::open(dir.path(), flint::Options::default());
    /// assert_eq!(again.err().map(|error| error.kind()), Some(flint::Kind::Locked));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `locked` when another process owns it, `corrupt` when a file is damaged (nothing is changed then),
    /// `unsupported` when a newer Flint wrote it, `invalid_argument` for options out of range, `io`.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Limiter> {
        let dir = dir.as_ref();
        store::validate_policy(&options.policy)?;
        if !(1..=MAX_MAX_KEYS).contains(&options.max_keys) {
            let message = format!("max-keys must be from 1 to {MAX_MAX_KEYS}, not {}", options.max_keys);
            return Err(Error::invalid(message));
        }
        if !(1..=MAX_MAX_HOLDS).contains(&options.max_holds) {
            let message = format!("max-holds must be from 1 to {MAX_MAX_HOLDS}, not {}", options.max_holds);
            return Err(Error::invalid(message));
        }
        let lock = DirectoryLock::acquire(dir, options.access)?;
        let registry = Registry::new(options.max_keys);
        let hasher = RandomState::new();
        let mut replayed = Replayed::new(&registry, &hasher);
        let mut found = store::recover(dir, &*options.disk, &mut replayed)?;
        let mut keys = replayed.finish();
        found.resume(&options.clock);
        if let Some(group) = keys.group.take() {
            redo(&mut keys, group, options.clock.now());
            // What was done here is in no record: a new snapshot has it.
            found.clean = None;
        }
        // A log that is continued knows the keys by their ids; a new log begins with dense ids.
        let renumber = found.clean.is_none();
        let flush_every = options.policy.flush_every;
        let policy = Policy { gathers: options.sync == SyncMode::Relaxed, ..options.policy };
        let found_bytes = found.log_bytes;
        let clock = &options.clock;
        let former = found.directory.unwrap_or_default();
        let opening = match options.access {
            Access::Read => None,
            Access::Create | Access::Write => {
                Some(store::Opening::begin(dir, &options.disk, lock, found, clock, policy)?)
            }
        };
        // A directory that is only read has the ids of open holds too.
        let directory = opening.as_ref().map_or(former, store::Opening::directory);
        let holds = Holds::new(Book::default(), Ids::of(&directory), options.max_holds);
        let mut core = Core {
            dir: dir.to_owned(),
            #[cfg(feature = "store")]
            directory,
            give_back: options.give_back,
            flush_every,
            found_bytes,
            ..Core::new(options.clock, options.sync, registry, hasher, holds)
        };
        build(&mut core, keys, renumber, opening)?;
        let core = Arc::new(core);
        // Dropped, it ends those of its threads that run, also when another could not be started.
        let limiter = Limiter { core };
        if limiter.core.store.is_some() {
            helpers::start_all(&limiter.core)?;
        }
        Ok(limiter)
    }

    /// Syncs the log and closes it cleanly. Operations after it fail with `log_failed`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.close()?;
    /// assert_eq!(limiter.check("api:user-42", 1).unwrap_err().kind(), flint::Kind::LogFailed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `log_failed` when not everything could be written.
    pub fn close(&self) -> Result<()> {
        let core = &*self.core;
        helpers::end_all(core);
        let Some(store) = &core.store else { return Ok(()) };
        // The next start looks for them.
        core.heal();
        // Denials that can't be written lose counters only. The error of the log is the one to return.
        let _ = core.write_denials();
        store.stop()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("the log was not closed cleanly: {error}");
        }
    }
}
