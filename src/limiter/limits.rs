//! One limit: configured, looked at, reset, removed.

use std::sync::atomic::Ordering;

use super::answers::Status;
use super::check::wait::Wait;
use super::core::{Core, Limiter, shard_of};
use super::entry::{Entry, Table};
use crate::clock::Millis;
use crate::error::{Error, Result};
use crate::limit::{Limit, validate_key};
use crate::store::record::{Event, MAX_FIXED};

impl Limiter {
    /// Configures a limit. Returns whether it is new. The same values again change nothing at all; new values take
    /// over what was spent.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use flint::{Algorithm, Limit};
    /// use std::time::Duration;
    ///
    /// let limit = Limit::new(100, Duration::from_secs(60), Algorithm::SlidingWindowLog, None)?;
    /// assert!(limiter.configure("api:user-42", limit)?);
    /// assert!(!limiter.configure("api:user-42", "200/1m sliding_window_log".parse()?)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a bad key, `log_failed`, `overloaded`.
    pub fn configure(&self, key: &str, limit: Limit) -> Result<bool> {
        validate_key(key)?;
        let core = &*self.core;
        let hash = core.hash(key);
        let shard = shard_of(hash);
        // Every worker process of a web application does this at its start. It needs no room in the log.
        let same = core.same_values(&mut core.shards[shard].lock(), hash, key, &limit);
        if let Some(unconfirmed) = same {
            return core.confirm(shard, unconfirmed);
        }
        let wait = Wait::of_change(core.sync);
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
                core.log()?.append(&mut reservation, &event, wait.pending());
                entry.reconfigure(limit, now);
                false
            }
            None => {
                let id = core.next_id.fetch_add(1, Ordering::Relaxed);
                let event = Event::Created { id, shard: shard as u8, at: now, limit, key };
                core.log()?.append(&mut reservation, &event, wait.pending());
                let entry = Box::new(Entry::new(key, id, shard as u8, limit, now));
                table.insert(hash, entry, |key| core.hash(key));
                true
            }
        };
        let number = table.count_configured();
        drop(table);
        drop(reservation);
        core.finish(&wait)?;
        core.shards[shard].lock().confirm(number);
        Ok(created)
    }

    /// Gives back all that was spent of a limit. The totals stay.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.check("api:user-42", 100)?;
    /// limiter.reset("api:user-42")?;
    /// assert!(limiter.check("api:user-42", 100)?.allowed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn reset(&self, key: &str) -> Result<()> {
        self.core.change(key, |table, hash, id, at| {
            table.get(hash, key).into_iter().for_each(|entry| entry.reset(at));
            Event::Reset { id, at }
        })
    }

    /// Removes a limit with all it has counted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.remove("api:user-42")?;
    /// assert_eq!(limiter.status("api:user-42")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn remove(&self, key: &str) -> Result<()> {
        self.core.change(key, |table, hash, id, at| {
            table.remove(hash, key);
            Event::Removed { id, at }
        })
    }

    /// How a limit stands; `None` where none has this key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.check("api:user-42", 5)?;
    /// let status = limiter.status("api:user-42")?.unwrap();
    /// assert_eq!((status.totals.allowed, status.totals.allowed_cost), (1, 5));
    /// assert!(status.last_denied_at.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
}

impl Core {
    /// Whether the limit has these values, and if so, the configuration of its shard that may still be waited for.
    fn same_values(&self, table: &mut Table, hash: u64, key: &str, limit: &Limit) -> Option<Option<u64>> {
        table.get(hash, key).is_some_and(|entry| entry.limit == *limit).then(|| table.unconfirmed())
    }

    /// Returns that nothing had to be changed, once the configuration has come as far as another call may still wait
    /// for. To be called holding no lock.
    fn confirm(&self, shard: usize, unconfirmed: Option<u64>) -> Result<bool> {
        if let Some(number) = unconfirmed {
            self.finish_all(&Wait::of_change(self.sync))?;
            // The call that queued it may have stopped waiting; without this all later calls would wait again.
            self.shards[shard].lock().confirm(number);
        }
        Ok(false)
    }

    /// One change to one limit, which is written or durable when this returns, as the mode has it. `change` gets the
    /// hash of its key, its id and now.
    fn change(&self, key: &str, change: impl FnOnce(&mut Table, u64, u64, Millis) -> Event<'static>) -> Result<()> {
        validate_key(key)?;
        let hash = self.hash(key);
        let wait = Wait::of_change(self.sync);
        let mut reservation = self.reserve(1, MAX_FIXED)?;
        let mut table = self.shards[shard_of(hash)].lock();
        let id = table.get(hash, key).ok_or_else(|| Error::not_configured(key))?.id();
        let event = change(&mut table, hash, id, self.clock.now());
        self.log()?.append(&mut reservation, &event, wait.pending());
        drop(table);
        drop(reservation);
        self.finish(&wait)
    }
}
