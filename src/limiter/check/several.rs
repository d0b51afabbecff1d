//! Checks of one key, of several keys at once, and of several keys separately.
//!
//! Owns: the order of what a check does. Room in the log is reserved, the shards are locked, the pure functions of
//! `limit` decide, the record is queued under the locks, and the answer waits for the log under none. Where a decision
//! finds that it needs more room or another shard, nothing was changed; the locks are dropped, that is had too, and it
//! begins again.

use std::sync::atomic::Ordering;

use super::decide::{Ask, Pass, Step};
use super::room::Room;
use super::wait::{NonBlocking, Wait};
use super::walk::Purpose;
use crate::bounds::MAX_ITEMS;
use crate::error::{Error, Result};
use crate::limit::validate_key;
use crate::limiter::answers::{AllDecision, Decision, Item};
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::kept::Keep;
use crate::store::record::MAX_FIXED;

impl Limiter {
    /// Asks whether `cost` units may be spent now, and spends them if so.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// let decision = limiter.check("api:user-42", 60)?;
    /// assert!(decision.allowed);
    /// assert_eq!(decision.remaining, Some(40));
    ///
    /// let decision = limiter.check("api:user-42", 60)?;
    /// assert!(!decision.allowed);
    /// // 20 units are missing, and 100 are refilled each minute.
    /// assert!(decision.retry_after.unwrap().as_secs() <= 12);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `invalid_argument`, `cost_exceeds_capacity`; `log_failed` and `overloaded`, after
    /// which the units may have been spent.
    pub fn check(&self, key: &str, cost: u64) -> Result<Decision> {
        self.check_for(Item::new(key).with_cost(cost), None)
    }

    /// As [`Limiter::check`], for an item that may bring a limit. This limit decides if none is configured for the key,
    /// neither exactly nor by a pattern; if the check spends, the key keeps this limit until nothing that was spent
    /// counts any more.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use flint::{Item, Limit};
    ///
    /// let limit: Limit = "1/1d".parse()?;
    /// let backup = Item::new("backup").with_limit(&limit);
    /// assert!(limiter.check_item(backup)?.allowed);
    /// assert!(!limiter.check_item(backup)?.allowed);
    /// // What an operator configures always wins.
    /// limiter.configure("back*", "10/1d".parse()?)?;
    /// assert!(limiter.check_item(backup)?.allowed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub fn check_item(&self, item: Item<'_>) -> Result<Decision> {
        self.check_for(item, None)
    }

    /// [`Limiter::check_item`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_for(&self, item: Item<'_>, non_blocking: Option<&NonBlocking<'_>>) -> Result<Decision> {
        validate_key(item.key)?;
        let core = &*self.core;
        let wait = Wait::by(core.sync, non_blocking);
        let mut room = Room::new(core.reserve_for(non_blocking, 1, MAX_FIXED)?, MAX_FIXED);
        let mut decision = None;
        core.check(&core.ask(&item), &mut room, &wait, non_blocking, &mut decision)?;
        drop(room);
        core.count_overflows(decision.as_ref());
        if decision.as_ref().is_some_and(Decision::must_be_waited_for) {
            core.finish(&wait)?;
        }
        decision.ok_or_else(Core::unforeseen)
    }

    /// Checks several keys (1 to [`MAX_ITEMS`], each only once) at once: everything is spent or nothing, as seen by
    /// every other operation and after a crash.
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
    pub fn check_all<'a>(&self, items: &[impl Into<Item<'a>> + Copy]) -> Result<AllDecision> {
        let items: Vec<Item<'a>> = items.iter().map(|item| (*item).into()).collect();
        self.check_all_for(&items, None)
    }

    /// [`Limiter::check_all`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_all_for(&self, items: &[Item<'_>], non_blocking: Option<&NonBlocking<'_>>) -> Result<AllDecision> {
        self.core.check_all_kept(items, None, non_blocking)
    }

    /// Checks several keys (1 to [`MAX_ITEMS`]; a key may be given more than once), each separately and in order; one
    /// wait for the log serves all. An item with an error has the error as its result, and does not affect the others.
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
    pub fn check_many<'a>(&self, items: &[impl Into<Item<'a>> + Copy]) -> Result<Vec<Result<Decision>>> {
        let items: Vec<Item<'a>> = items.iter().map(|item| (*item).into()).collect();
        self.check_many_for(&items, None)
    }

    /// [`Limiter::check_many`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn check_many_for(
        &self,
        items: &[Item<'_>],
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Vec<Result<Decision>>> {
        let core = &*self.core;
        validate_count(items)?;
        let results = match non_blocking {
            Some(non_blocking) => core.decide_many_now(items, non_blocking)?,
            None => core.decide_many(items)?,
        };
        core.count_overflows(results.iter().flatten());
        if results.iter().flatten().any(Decision::must_be_waited_for) {
            core.finish_all(&Wait::by(core.sync, non_blocking))?;
        }
        Ok(results)
    }
}

impl Decision {
    /// Whether something was spent that a restart must not forget. Under `unlimited` there is nothing to forget.
    pub(in crate::limiter) fn must_be_waited_for(&self) -> bool {
        self.is_spent() && !self.limit.is_unlimited()
    }
}

impl Core {
    /// Decides on all items, and waits for the log. The answer is kept if it has spent and is to be kept.
    pub fn check_all_kept(
        &self,
        items: &[Item<'_>],
        keep: Option<&mut Keep<'_>>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<AllDecision> {
        validate_items(items)?;
        let asks: Vec<Ask<'_>> = items.iter().map(|item| self.ask(item)).collect();
        let wait = Wait::by(self.sync, non_blocking);
        let (answer, _) = self.check_all(&asks, (Purpose::Spend, 0), keep, &wait, non_blocking)?;
        self.count_overflows(&answer.results);
        if answer.allowed && answer.results.iter().any(Decision::must_be_waited_for) {
            self.finish(&wait)?;
        }
        Ok(answer)
    }

    /// Counts the decisions that overflow limits made: few, so that one count for all threads costs nothing.
    pub fn count_overflows<'a>(&self, decisions: impl IntoIterator<Item = &'a Decision>) {
        let overflowed = decisions.into_iter().filter(|decision| decision.overflow).count() as u64;
        if overflowed > 0 {
            self.registry.overflowed.fetch_add(overflowed, Ordering::Relaxed);
        }
    }

    /// What a decision needs of an item whose key is valid.
    pub fn ask<'a>(&self, item: &Item<'a>) -> Ask<'a> {
        Ask { hash: self.hash(item.key), key: item.key, cost: item.cost, brought: item.limit.into() }
    }

    /// Decides on one key; waits for the log only where it has no room.
    pub fn check<'a>(
        &'a self,
        ask: &Ask<'_>,
        room: &mut Room<'a>,
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
        out: &mut Option<Decision>,
    ) -> Result<()> {
        let mut overflows = false;
        loop {
            let step = match overflows {
                false => {
                    let mut table = self.lock_for(non_blocking, shard_of(ask.hash))?;
                    let now = self.clock.now();
                    self.decide(&mut table, ask, &mut Pass { now, room, wait, out })?
                }
                true => self.check_overflow(ask, room, wait, non_blocking, out)?,
            };
            match step {
                Step::Done(aside) => {
                    if let Some(aside) = aside {
                        self.count_aside(&aside);
                    }
                    return Ok(());
                }
                Step::Grow(bytes) => room.set_longer(self.reserve_for(non_blocking, 1, bytes)?, bytes),
                Step::Overflow => overflows = true,
            }
        }
    }

    /// Decides by the overflow limit that stands for the key. Patterns may be edited until its shard is locked.
    fn check_overflow<'a>(
        &'a self,
        ask: &Ask<'_>,
        room: &mut Room<'a>,
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
        out: &mut Option<Decision>,
    ) -> Result<Step> {
        let find =
            |now| self.overflow(ask.key, ask.brought, self.version(now)).ok_or_else(|| Error::not_configured(ask.key));
        let mut shard = shard_of(find(self.clock.now())?.hash);
        loop {
            let mut table = self.lock_for(non_blocking, shard)?;
            let now = self.clock.now();
            let overflow = find(now)?;
            if shard_of(overflow.hash) == shard {
                return self.decide_overflow(&mut table, ask, &overflow, &mut Pass { now, room, wait, out });
            }
            shard = shard_of(overflow.hash);
        }
    }
}

/// Refuses items that are too few or too many, or that hold a bad key or one key twice.
///
/// # Errors
/// `invalid_argument`, naming the key.
pub fn validate_items(items: &[Item<'_>]) -> Result<()> {
    validate_count(items)?;
    items.iter().try_for_each(|item| validate_key(item.key))?;
    let mut keys: Vec<&str> = items.iter().map(|item| item.key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid(format!("items must not have the key `{}` twice; add up its costs", pair[0]))),
        None => Ok(()),
    }
}

pub fn validate_count(items: &[Item<'_>]) -> Result<()> {
    if (1..=MAX_ITEMS).contains(&items.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!("items must have 1 to {MAX_ITEMS} items, not {}", items.len())))
}
