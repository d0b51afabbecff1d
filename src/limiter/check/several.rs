//! Checks: of one key, of several at once, and of several each by itself.
//!
//! Owns: the order of what a check does. Room in the log is reserved, the shards are locked, the pure functions of
//! `limit` decide, the record is queued under the locks, and the answer waits for the log under none.

use std::sync::MutexGuard;

use super::wait::{NonBlocking, Wait};
use crate::bounds::{MAX_ITEMS, SHARDS};
use crate::clock::Millis;
use crate::error::{Error, Kind, Result};
use crate::limit::{validate_cost, validate_key};
use crate::limiter::answers::{AllDecision, Decision};
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::entry::{Entry, Table};
use crate::store::Reservation;
use crate::store::record::{Event, MAX_FIXED, MAX_ITEM};

/// Items of a `check_many` that are decided under one reservation.
const MANY_STEP: usize = 64;

/// What one decision is about.
struct Item<'a> {
    hash: u64,
    key: &'a str,
    cost: u64,
}

impl Limiter {
    /// Asks whether `cost` units may be spent now, and spends them if so.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// let decision = limiter.check("api:user-42", 60)?;
    /// assert!(decision.allowed);
    /// assert_eq!(decision.remaining, 40);
    ///
    /// let decision = limiter.check("api:user-42", 60)?;
    /// assert!(!decision.allowed);
    /// // 20 units are missing, of which 100 come in a minute.
    /// assert!(decision.retry_after.as_secs() <= 12);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `invalid_argument`, `cost_exceeds_capacity`; `log_failed` and `overloaded`, after
    /// which the units may have been spent.
    pub fn check(&self, key: &str, cost: u64) -> Result<Decision> {
        self.check_for(key, cost, None)
    }

    /// [`Limiter::check`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_for(&self, key: &str, cost: u64, non_blocking: Option<&NonBlocking<'_>>) -> Result<Decision> {
        validate_key(key)?;
        let core = &*self.core;
        let hash = core.hash(key);
        let wait = Wait::by(core.sync, non_blocking);
        let mut reservation = core.reserve_for(non_blocking, 1, MAX_FIXED)?;
        let mut table = core.lock_for(non_blocking, shard_of(hash))?;
        let now = core.clock.now();
        let decision = core.decide(&mut table, Item { hash, key, cost }, now, &mut reservation, &wait);
        drop(table);
        drop(reservation);
        let decision = decision?;
        if decision.allowed {
            core.finish(&wait)?;
        }
        Ok(decision)
    }

    /// Asks for several keys (1 to [`MAX_ITEMS`], none twice) at once: everything is spent or nothing, as seen by every
    /// other operation and after a crash.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("user:42", "100/1m".parse()?)?;
    /// limiter.configure("org:acme", "1000/1h burst=50".parse()?)?;
    /// assert!(limiter.check_all(&[("user:42", 10), ("org:acme", 50)])?.allowed);
    ///
    /// let all = limiter.check_all(&[("user:42", 10), ("org:acme", 50)])?;
    /// assert_eq!((all.allowed, all.denied), (false, Some(1)));
    /// assert_eq!(limiter.status("user:42")?.unwrap().totals.allowed_cost, 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limiter::check`], for the first key that has one; nothing is spent then.
    pub fn check_all(&self, items: &[(&str, u64)]) -> Result<AllDecision> {
        self.check_all_for(items, None)
    }

    /// [`Limiter::check_all`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_all_for(&self, items: &[(&str, u64)], non_blocking: Option<&NonBlocking<'_>>) -> Result<AllDecision> {
        let core = &*self.core;
        validate_items(items)?;
        let hashes: Vec<u64> = items.iter().map(|(key, _)| core.hash(key)).collect();
        let mut shards: Vec<usize> = hashes.iter().map(|hash| shard_of(*hash)).collect();
        shards.sort_unstable();
        shards.dedup();
        let wait = Wait::by(core.sync, non_blocking);
        let mut reservation = core.reserve_for(non_blocking, 1, MAX_FIXED + items.len() * MAX_ITEM)?;

        let mut tables: Vec<(usize, MutexGuard<'_, Table>)> =
            shards.into_iter().map(|shard| Ok((shard, core.lock_for(non_blocking, shard)?))).collect::<Result<_>>()?;
        let now = core.clock.now();
        let mut answer = AllDecision { allowed: true, denied: None, results: Vec::with_capacity(items.len()) };
        let mut spent = Vec::with_capacity(items.len());
        // An unknown key or an impossible cost anywhere in the list comes before any denial.
        for (hash, (key, cost)) in hashes.iter().zip(items) {
            let entry = find(&mut tables, *hash, key)?;
            validate_cost(key, &entry.limit, *cost)?;
        }
        for (index, (hash, (key, cost))) in hashes.iter().zip(items).enumerate() {
            let entry = find(&mut tables, *hash, key)?;
            entry.state.advance(&entry.limit, now);
            let quote = entry.state.quote(&entry.limit, now, *cost);
            answer.results.push(Decision::new(quote, entry.limit, *cost, now));
            spent.push((entry.id(), *cost));
            if !quote.allowed {
                answer.allowed = false;
                answer.denied = Some(index);
                break;
            }
        }
        match answer.denied {
            None => {
                let event = Event::SpentAll { at: now, items: spent };
                core.log()?.append(&mut reservation, &event, wait.pending());
                for (hash, (key, cost)) in hashes.iter().zip(items) {
                    find(&mut tables, *hash, key)?.allow(now, *cost);
                }
                if let Some((_, first)) = tables.first_mut() {
                    first.decisions.0 += 1;
                }
            }
            Some(denied) => {
                // What would have been allowed was not spent: it is reported as it stands.
                for (result, (hash, (key, _))) in answer.results.iter_mut().zip(hashes.iter().zip(items)).take(denied) {
                    let entry = find(&mut tables, *hash, key)?;
                    (result.remaining, result.reset_at) = entry.state.glance(&entry.limit, now);
                }
                let (hash, (key, cost)) = (hashes[denied], items[denied]);
                let shard = shard_of(hash);
                let at = tables.partition_point(|(other, _)| *other < shard);
                core.count_denial(&mut tables[at].1, hash, key, now, cost);
            }
        }
        drop(tables);
        drop(reservation);
        if answer.allowed {
            core.finish(&wait)?;
        }
        Ok(answer)
    }

    /// Asks for several keys (1 to [`MAX_ITEMS`]; a key may stand twice), each decided by itself, in order; one wait
    /// for the log serves all. An item that has an error has it in its place, and does not affect the others.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("a", "1/1h".parse()?)?;
    /// let results = limiter.check_many(&[("a", 1), ("a", 1), ("unknown", 1)])?;
    /// assert!(results[0].as_ref().unwrap().allowed);
    /// assert!(!results[1].as_ref().unwrap().allowed);
    /// assert_eq!(results[2].as_ref().unwrap_err().kind(), flint::Kind::LimitNotConfigured);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for too many items or none; `log_failed` and `overloaded`, after which the units of any item
    /// may have been spent.
    pub fn check_many(&self, items: &[(&str, u64)]) -> Result<Vec<Result<Decision>>> {
        self.check_many_for(items, None)
    }

    /// [`Limiter::check_many`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_many_for(
        &self,
        items: &[(&str, u64)],
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Vec<Result<Decision>>> {
        let core = &*self.core;
        validate_count(items)?;
        let results = match non_blocking {
            Some(non_blocking) => core.decide_many_now(items, non_blocking)?,
            None => core.decide_many(items)?,
        };
        let wait = Wait::by(core.sync, non_blocking);
        let spent = results.iter().flatten().any(|decision| decision.allowed);
        if spent {
            core.finish_all(&wait)?;
        }
        Ok(results)
    }
}

impl Core {
    /// Decides each item by itself. Room in the log is reserved in steps, so that many such requests at once find
    /// some, also in the little that a new log has.
    fn decide_many(&self, items: &[(&str, u64)]) -> Result<Vec<Result<Decision>>> {
        let mut results = Vec::with_capacity(items.len());
        for step in items.chunks(MANY_STEP) {
            let mut reservation = self.reserve(step.len(), step.len() * MAX_FIXED)?;
            for (key, cost) in step {
                results.push(validate_key(key).and_then(|()| {
                    let hash = self.hash(key);
                    let mut table = self.shards[shard_of(hash)].lock();
                    let now = self.clock.now();
                    self.decide(&mut table, Item { hash, key, cost: *cost }, now, &mut reservation, &Wait::Not)
                }));
            }
        }
        Ok(results)
    }

    /// As [`Core::decide_many`], without waiting. What was decided can't be taken back, so all that could have to be
    /// waited for is had before the first decision.
    fn decide_many_now(&self, items: &[(&str, u64)], non_blocking: &NonBlocking<'_>) -> Result<Vec<Result<Decision>>> {
        let hash = |key: &str| validate_key(key).map(|()| self.hash(key));
        let hashes: Vec<Result<u64>> = items.iter().map(|(key, _)| hash(key)).collect();
        // Items of each shard that are still to be decided.
        let mut left = [0u16; SHARDS];
        for hash in hashes.iter().flatten() {
            left[shard_of(*hash)] += 1;
        }
        let mut reservation = self.reserve_for(Some(non_blocking), items.len(), items.len() * MAX_FIXED)?;
        let mut tables = [const { None }; SHARDS];
        for shard in (0..SHARDS).filter(|shard| left[*shard] > 0) {
            tables[shard] = Some(self.lock_for(Some(non_blocking), shard)?);
        }
        let now = self.clock.now();
        let decide = |(hash, (key, cost)): (Result<u64>, &(&str, u64))| {
            let hash = hash?;
            let shard = shard_of(hash);
            let Some(table) = &mut tables[shard] else {
                return Err(Error::new(Kind::Internal, "a check without its shard"));
            };
            let decision = self.decide(table, Item { hash, key, cost: *cost }, now, &mut reservation, &Wait::Not);
            left[shard] -= 1;
            if left[shard] == 0 {
                // Another thread that waits for the shard need not wait for the other items.
                tables[shard] = None;
            }
            decision
        };
        Ok(hashes.into_iter().zip(items).map(decide).collect())
    }

    fn decide(
        &self,
        table: &mut Table,
        Item { hash, key, cost }: Item<'_>,
        now: Millis,
        reservation: &mut Reservation<'_>,
        wait: &Wait<'_>,
    ) -> Result<Decision> {
        let entry = table.get(hash, key).ok_or_else(|| Error::not_configured(key))?;
        validate_cost(key, &entry.limit, cost)?;
        entry.state.advance(&entry.limit, now);
        let quote = entry.state.quote(&entry.limit, now, cost);
        let decision = Decision::new(quote, entry.limit, cost, now);
        if quote.allowed {
            self.log()?.append(reservation, &Event::Spent { id: entry.id(), cost, at: now }, wait.pending());
            entry.allow(now, cost);
            table.decisions.0 += 1;
        } else {
            self.count_denial(table, hash, key, now, cost);
        }
        Ok(decision)
    }
}

fn find<'t>(tables: &'t mut [(usize, MutexGuard<'_, Table>)], hash: u64, key: &str) -> Result<&'t mut Entry> {
    let shard = shard_of(hash);
    let at = tables.partition_point(|(other, _)| *other < shard);
    tables.get_mut(at).and_then(|(_, table)| table.get(hash, key)).ok_or_else(|| Error::not_configured(key))
}

/// Refuses items that are too few or too many, or that hold a bad key or one key twice.
///
/// # Errors
/// `invalid_argument`, naming the key.
pub fn validate_items(items: &[(&str, u64)]) -> Result<()> {
    validate_count(items)?;
    items.iter().try_for_each(|(key, _)| validate_key(key))?;
    let mut keys: Vec<&str> = items.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid(format!("items must not hold the key `{}` twice; add up its costs", pair[0]))),
        None => Ok(()),
    }
}

fn validate_count(items: &[(&str, u64)]) -> Result<()> {
    if (1..=MAX_ITEMS).contains(&items.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!("items must hold 1 to {MAX_ITEMS} items, not {}", items.len())))
}
