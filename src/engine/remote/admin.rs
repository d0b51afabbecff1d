//! What is asked of the whole store: changes of many limits, and how it stands.
//!
//! A change of many limits is made in parts, each of which is made as a whole; what fails on the way leaves those parts
//! that were made. What the operations find is what counts: a key that was listed and is gone meanwhile is passed over.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::engine::Remote;
use super::link::{limit_key, slot_of};
use super::names::{CONFIGURED, LIVE, OVERFLOWS};
use crate::engine::interface::{ask, ask_by};
use crate::error::{Kind, Result};
use crate::limit::{Limit, is_pattern};
use crate::limiter::{Applied, Limiter, OVERFLOW_MARK, Setting, place_in_removal, validate_prefix};

/// Keys that are changed together.
const PART: usize = 256;

/// A setting that an operation can keep.
struct Owned {
    key: String,
    limit: Limit,
    lasts: Option<Duration>,
    max_keys: Option<u64>,
}

impl Owned {
    fn of(setting: &Setting<'_>) -> Owned {
        let Setting { key, limit, lasts, max_keys } = setting;
        Owned { key: (*key).to_owned(), limit: limit.clone(), lasts: *lasts, max_keys: *max_keys }
    }

    fn setting(&self) -> Setting<'_> {
        let mut setting = Setting::new(&self.key, self.limit.clone());
        (setting.lasts, setting.max_keys) = (self.lasts, self.max_keys);
        setting
    }
}

impl Remote {
    fn ask<T: Send + 'static>(&self, operation: impl FnMut(&Limiter) -> Result<T> + Send + 'static) -> Result<T> {
        ask(self, operation)
    }

    /// Keys in parts that may change together.
    fn parts(&self, keys: &[String]) -> Vec<Vec<String>> {
        if !self.source.store.is_cluster() {
            return keys.chunks(PART).map(<[String]>::to_vec).collect();
        }
        let mut by_slot: BTreeMap<Option<u16>, Vec<String>> = BTreeMap::new();
        for key in keys {
            let slot = (!is_pattern(key)).then(|| slot_of(&limit_key(key)));
            by_slot.entry(slot).or_default().push(key.clone());
        }
        by_slot.into_values().collect()
    }

    /// As [`Limiter::configure_setting`].
    ///
    /// # Errors
    /// As that, and [`Remote::run`].
    pub fn configure(&self, setting: &Setting<'_>) -> Result<bool> {
        let setting = Owned::of(setting);
        self.ask(move |limiter| limiter.configure_setting(&setting.setting()))
    }

    /// Configures several limits, all or none of them. Returns for each whether it is new. In a Cluster they must share
    /// a slot, or all be patterns.
    ///
    /// # Errors
    /// As [`Limiter::configure_all`] and [`Remote::run`].
    pub fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>> {
        let settings: Vec<Owned> = settings.iter().map(Owned::of).collect();
        let count = settings.len();
        let operation =
            move |limiter: &Limiter| limiter.configure_all(&settings.iter().map(Owned::setting).collect::<Vec<_>>());
        ask_by(|operation| self.run_many(count, operation), operation)
    }

    /// As [`Limiter::apply`]. With `prune`, limits that are added while this runs may be left.
    ///
    /// # Errors
    /// As [`Remote::configure_all`].
    pub fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied> {
        let mut others = if prune { self.configured("")? } else { Vec::new() };
        let named: HashSet<&str> = settings.iter().map(|setting| setting.key).collect();
        others.retain(|key| !named.contains(&**key));
        let settings: Vec<Owned> = settings.iter().map(Owned::of).collect();
        let count = settings.len() + others.len();
        let operation = move |limiter: &Limiter| {
            let settings: Vec<Setting<'_>> = settings.iter().map(Owned::setting).collect();
            let mut applied = limiter.apply(&settings, false, dry_run)?;
            for key in &others {
                // Values that last for a time only end by themselves.
                if limiter.has_own(key) && (dry_run || is_done(limiter.remove(key))?) {
                    applied.removed += 1;
                }
            }
            Ok(applied)
        };
        ask_by(|operation| self.run_many(count, operation), operation)
    }

    /// Removes all limits that begin with `prefix`, patterns too, in parts. Returns how many there were.
    ///
    /// # Errors
    /// As [`Limiter::remove_prefix`] and [`Remote::run`], after which some may be removed.
    pub fn remove_prefix(&self, prefix: &str) -> Result<u64> {
        validate_prefix(prefix)?;
        let removed = Arc::new(AtomicU64::new(0));
        let mut sum = 0;
        for keys in self.parts(&self.configured(prefix)?) {
            let count = Arc::clone(&removed);
            self.ask(move |limiter| {
                let done = keys.iter().map(|key| is_done(limiter.remove(key)).map(u64::from)).sum::<Result<u64>>()?;
                count.store(done, Ordering::Relaxed);
                Ok(())
            })?;
            sum += removed.load(Ordering::Relaxed);
        }
        Ok(sum)
    }

    /// All that is configured and begins with `prefix`, in the order in which it is to be removed.
    fn configured(&self, prefix: &str) -> Result<Vec<String>> {
        let mut reader = self.source.reader();
        reader.load_patterns()?;
        let patterns = reader.patterns().into_iter().map(|(_, text)| text);
        let mut keys: Vec<String> = patterns.filter(|text| text.starts_with(prefix)).collect();
        reader.each_key(&[CONFIGURED], prefix, |_, some| {
            keys.extend_from_slice(some);
            Ok(())
        })?;
        keys.sort_unstable_by(|one, other| place_in_removal(one).cmp(&place_in_removal(other)));
        Ok(keys)
    }

    /// Resets a key, or all keys that live by a pattern, these in parts.
    ///
    /// # Errors
    /// As [`Limiter::reset`] and [`Remote::run`].
    pub fn reset(&self, key: &str) -> Result<()> {
        let owned = key.to_owned();
        if is_pattern(key) {
            let mut reader = self.source.reader();
            reader.load_patterns()?;
            if reader.patterns().iter().any(|(_, text)| text == key) {
                let begin = key.split('*').next().unwrap_or_default();
                let overflow = format!("{OVERFLOW_MARK}{key}");
                return self.reset_keys(begin, |other| *other == *overflow, Some(key)).map(|_| ());
            }
        }
        self.ask(move |limiter| limiter.reset(&owned))
    }

    /// As [`Limiter::reset_prefix`], in parts.
    ///
    /// # Errors
    /// As [`Limiter::reset_prefix`] and [`Remote::run`], after which some may be reset.
    pub fn reset_prefix(&self, prefix: &str) -> Result<u64> {
        validate_prefix(prefix)?;
        // All keys that share such a limit begin with the prefix.
        let is_wanted =
            |overflow: &str| overflow[1..].split_once('*').is_some_and(|(begin, _)| begin.starts_with(prefix));
        self.reset_keys(prefix, is_wanted, None)
    }

    fn reset_keys(&self, prefix: &str, is_wanted: impl Fn(&str) -> bool, pattern: Option<&str>) -> Result<u64> {
        let mut reader = self.source.reader();
        let mut reset = 0;
        reader.each_key(&[CONFIGURED, LIVE], prefix, |_, keys| {
            for keys in self.parts(keys) {
                let pattern = pattern.map(str::to_owned);
                reset += self.ask(move |limiter| limiter.reset_keys(&keys, pattern.as_deref()))?;
            }
            Ok(())
        })?;
        reader.each_key(&[OVERFLOWS], "", |_, keys| {
            let keys: Vec<String> = keys.iter().filter(|key| is_wanted(key)).cloned().collect();
            for keys in self.parts(&keys) {
                self.ask(move |limiter| limiter.reset_keys(&keys, None))?;
            }
            Ok(())
        })?;
        Ok(reset)
    }
}

/// Whether a limit was there that was to be removed.
fn is_done(removed: Result<()>) -> Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::LimitNotConfigured => Ok(false),
        Err(error) => Err(error),
    }
}
