//! Quota that is given back by hand.

use super::setting::validate_prefix;
use crate::clock::Micros;
use crate::error::Result;
use crate::limit::{is_pattern, validate_key};
use crate::limiter::check::wait::Wait;
use crate::limiter::core::{Core, Limiter, Shard};
use crate::limiter::entry::{Entry, Source};
use crate::limiter::lookup::Brought;
use crate::limiter::registry::OVERFLOW_MARK;
use crate::store::Reservation;
use crate::store::record::{Event, MAX_FIXED};

/// Keys that are reset under one hold of a shard's lock.
const STEP: usize = 64;

impl Limiter {
    /// Gives back everything that was spent of a limit. The totals stay.
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
    /// For a pattern, all keys that live under it are reset.
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn reset(&self, key: &str) -> Result<()> {
        validate_key(key)?;
        let core = &*self.core;
        if let Some(slot) = core.pattern_slot(key) {
            let overflow = format!("{OVERFLOW_MARK}{key}");
            core.reset_all(|entry| *entry.key == *overflow || core.is_served_by(entry, slot))?;
            return core.finish_all(&Wait::of_change(core.sync));
        }
        let hash = core.hash(key);
        let wait = Wait::of_change(core.sync);
        let mut reservation = core.reserve(1, MAX_FIXED)?;
        let mut table = core.shard(hash);
        let now = core.clock.now();
        core.forget_if_none(&mut table, hash, key, now, core.version(now));
        let Some(entry) = table.get(hash, key) else {
            // If it would be served, there is nothing to give back.
            return core.served(None, key, Brought::AsItStands, now, core.version(now)).map(|_| ());
        };
        entry.reset(now);
        core.log()?.append(&mut reservation, &Event::Reset { id: entry.id(), at: now }, wait.pending());
        drop(table);
        drop(reservation);
        core.finish(&wait)
    }

    /// Resets all keys that begin with `prefix`, including those that live under a pattern or request. Returns how many
    /// there were: configured limits, and other keys of which something that was spent still counted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("user:*", "1/1h".parse()?)?;
    /// for key in ["user:1", "user:2"] {
    ///     limiter.check(key, 1)?;
    /// }
    /// assert_eq!(limiter.reset_prefix("user:")?, 2);
    /// assert!(limiter.check("user:1", 1)?.allowed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for an empty prefix; `log_failed` and `overloaded`, after which some may be reset.
    pub fn reset_prefix(&self, prefix: &str) -> Result<u64> {
        validate_prefix(prefix)?;
        let core = &*self.core;
        let reset = core.reset_all(|entry| match entry.overflow_text() {
            // All keys that share it begin with it.
            Some(text) => text.split_once('*').is_some_and(|(begin, _)| begin.starts_with(prefix)),
            None => entry.pattern_text().is_none() && entry.key.starts_with(prefix),
        })?;
        if reset > 0 {
            core.finish_all(&Wait::of_change(core.sync))?;
        }
        Ok(reset)
    }
}

#[cfg(feature = "store")]
impl Limiter {
    /// Resets these keys, as [`Limiter::reset_prefix`] does; with a `pattern` those that it serves.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`.
    #[doc(hidden)]
    pub fn reset_keys(&self, keys: &[String], pattern: Option<&str>) -> Result<u64> {
        let core = &*self.core;
        let slot = pattern.and_then(|pattern| core.pattern_slot(pattern));
        let mut reset = 0;
        for key in keys {
            let hash = core.hash(key);
            let mut reservation = core.reserve(1, MAX_FIXED)?;
            let mut table = core.shard(hash);
            let now = core.clock.now();
            let version = core.version(now);
            let Some(entry) = table.get(hash, key) else { continue };
            let is_wanted = match (pattern, slot) {
                (None, _) => true,
                (Some(_), Some(slot)) => core.is_served_by(entry, slot),
                (Some(_), None) => false,
            };
            if is_wanted && !core.is_gone(entry, now, version) {
                reset += u64::from(core.reset_entry(entry, now, version, &mut reservation)?);
            }
        }
        Ok(reset)
    }
}

impl Core {
    /// The slot of the pattern with this text.
    pub fn pattern_slot(&self, text: &str) -> Option<u32> {
        is_pattern(text).then(|| self.registry.known().get(text).map(|row| row.pattern.slot)).flatten()
    }

    /// Whether the pattern with this slot serves a key, also a key that has not moved to it yet.
    fn is_served_by(&self, entry: &Entry, slot: u32) -> bool {
        let is_key = entry.source() != Source::Exact && entry.overflow_text().is_none();
        is_key && self.registry.known().find(&entry.key).is_some_and(|row| row.pattern.slot == slot)
    }

    /// Resets the chosen keys, in bounded steps. Returns how many there were; an overflow limit is not a key.
    fn reset_all(&self, wanted: impl Fn(&Entry) -> bool) -> Result<u64> {
        self.shards.iter().try_fold(0, |reset, shard| Ok(reset + self.reset_shard(shard, &wanted)?))
    }

    fn reset_shard(&self, shard: &Shard, wanted: &impl Fn(&Entry) -> bool) -> Result<u64> {
        let mut left: Vec<(u64, u64)> = {
            let table = shard.lock();
            table.iter().filter(|entry| wanted(entry)).map(|entry| (self.hash(&entry.key), entry.id())).collect()
        };
        let mut reset = 0;
        while !left.is_empty() {
            let mut reservation = self.reserve(STEP, STEP * MAX_FIXED)?;
            let mut table = shard.lock();
            let now = self.clock.now();
            let version = self.version(now);
            for (hash, id) in left.drain(left.len().saturating_sub(STEP)..) {
                let Some(entry) = table.get_id(hash, id) else { continue };
                if self.is_gone(entry, now, version) {
                    continue;
                }
                reset += u64::from(self.reset_entry(entry, now, version, &mut reservation)?);
            }
        }
        Ok(reset)
    }

    /// Returns whether it is of those that are counted.
    fn reset_entry(
        &self,
        entry: &mut Entry,
        now: Micros,
        version: u32,
        reservation: &mut Reservation<'_>,
    ) -> Result<bool> {
        // What counts no more by what is due may count again if that is not made after all.
        let counts = entry.source() == Source::Exact || !self.is_untouched(entry, now, version);
        entry.reset(now);
        self.log()?.append(reservation, &Event::Reset { id: entry.id(), at: now }, None);
        Ok(counts && entry.overflow_text().is_none())
    }
}
