//! Holds that are made, looks at what would be decided, and charges.

use std::time::Duration;

use crate::bounds::HOLD_MS;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{format_length, validate_key};
use crate::limiter::answers::{AllDecision, Decision, HoldDecision, Item, Status};
use crate::limiter::check::decide::Ask;
use crate::limiter::check::several::validate_items;
use crate::limiter::check::wait::{NonBlocking, Wait};
use crate::limiter::check::walk::Purpose;
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Entry;
use crate::limiter::kept::Keep;

impl Limiter {
    /// As [`Limiter::check`], but what was spent can be corrected by [`Limiter::settle`]; for a limit of slots, takes
    /// this many of them until then. The hold lasts for `ttl`, 1 s to 24 h, unless it is renewed. If no client settles
    /// it, what it has spent stays spent, and its slots become free when it expires.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use std::time::Duration;
    ///
    /// limiter.configure("tokens", "100000/1m".parse()?)?;
    /// let held = limiter.hold("tokens", 4000, Duration::from_secs(60))?;
    /// let hold = held.hold.unwrap();
    /// // The work is done; it has cost less.
    /// let settled = limiter.settle(&hold.id, flint::Cost::Units(1234))?;
    /// assert_eq!(settled.results[0].cost, 1234);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limiter::check_all`]; `invalid_argument` for a `ttl` out of its range, `too_many_holds`.
    pub fn hold(&self, key: &str, cost: u64, ttl: Duration) -> Result<HoldDecision> {
        self.hold_all_for(&[Item::new(key).with_cost(cost)], ttl, None)
    }

    /// As [`Limiter::check_all`], for windows and slots: everything is held or nothing.
    ///
    /// # Errors
    /// As [`Limiter::hold`].
    pub fn hold_all(&self, items: &[Item<'_>], ttl: Duration) -> Result<HoldDecision> {
        self.hold_all_for(items, ttl, None)
    }

    /// [`Limiter::hold_all`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn hold_all_for(
        &self,
        items: &[Item<'_>],
        ttl: Duration,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<HoldDecision> {
        self.core.hold_all_kept(items, ttl, None, non_blocking)
    }

    /// What [`Limiter::check_item`] would answer, or for a limit of slots what [`Limiter::hold`] would; spends nothing
    /// and writes nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("login", "3/1h".parse()?)?;
    /// assert_eq!(limiter.peek("login".into())?.remaining, Some(2));
    /// assert_eq!(limiter.peek("login".into())?.remaining, Some(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `invalid_argument`, `cost_exceeds_capacity`.
    pub fn peek(&self, item: Item<'_>) -> Result<Decision> {
        validate_key(item.key)?;
        let all = self.core.peek_all(&[self.core.ask(&item)])?;
        all.results.into_iter().next().ok_or_else(Core::unforeseen)
    }

    /// What [`Limiter::check_all`] would answer, or [`Limiter::hold_all`]; spends nothing and writes nothing.
    ///
    /// # Errors
    /// As [`Limiter::peek`], for the first key that has one.
    pub fn peek_all(&self, items: &[Item<'_>]) -> Result<AllDecision> {
        validate_items(items)?;
        let asks: Vec<Ask<'_>> = items.iter().map(|item| self.core.ask(item)).collect();
        self.core.peek_all(&asks)
    }

    /// Spends without a check, also past the limit: what is beyond its capacity is its debt.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use flint::Item;
    ///
    /// limiter.configure("bytes", "1000/1h fixed_window_counter".parse()?)?;
    /// let status = limiter.charge(Item::new("bytes").with_cost(1500))?;
    /// assert_eq!((status.remaining, status.debt), (Some(0), 500));
    /// let status = limiter.refund(Item::new("bytes").with_cost(700))?;
    /// assert_eq!((status.remaining, status.debt), (Some(200), 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `limit_not_configured`, `invalid_argument`; `log_failed` and `overloaded`, after which the units may have been
    /// spent.
    pub fn charge(&self, item: Item<'_>) -> Result<Status> {
        self.charge_for(item, None)
    }

    /// [`Limiter::charge`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn charge_for(&self, item: Item<'_>, non_blocking: Option<&NonBlocking<'_>>) -> Result<Status> {
        self.core.charge_kept(&item, None, non_blocking)
    }
}

impl Core {
    /// Holds all items, and waits for the log. The answer is kept if it has held and is to be kept.
    pub fn hold_all_kept(
        &self,
        items: &[Item<'_>],
        ttl: Duration,
        keep: Option<&mut Keep<'_>>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<HoldDecision> {
        let ttl = validate_ttl(ttl)?;
        validate_items(items)?;
        let asks: Vec<Ask<'_>> = items.iter().map(|item| self.ask(item)).collect();
        let wait = Wait::by(self.sync, non_blocking);
        let (all, pledge) = self.check_all(&asks, (Purpose::Hold, ttl), keep, &wait, non_blocking)?;
        self.count_overflows(&all.results);
        if pledge.is_some() {
            self.finish(&wait)?;
        }
        let hold = pledge.map(|pledge| self.told_hold(pledge.number, pledge.until, ttl));
        Ok(HoldDecision { all, hold })
    }

    /// Charges a key, and waits for the log. The answer is kept if it is to be.
    pub fn charge_kept(
        &self,
        item: &Item<'_>,
        keep: Option<&mut Keep<'_>>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Status> {
        validate_key(item.key)?;
        let wait = Wait::by(self.sync, non_blocking);
        let ask = self.ask(item);
        let (all, _) = self.check_all(&[ask], (Purpose::Charge, 0), keep, &wait, non_blocking)?;
        self.count_overflows(&all.results);
        let status = self.status_by(item.key, ask.brought).ok_or_else(|| Error::not_configured(item.key))?;
        if all.results.iter().any(Decision::must_be_waited_for) {
            self.finish(&wait)?;
        }
        Ok(status)
    }

    /// The state of a key, of whose entry this is a copy.
    pub fn status_of_copy(&self, entry: Option<&mut Entry>, item: &Item<'_>) -> Option<Status> {
        let now = self.clock.now();
        let version = self.version(now);
        let overflow = entry.as_ref().is_some_and(|entry| entry.overflow_text().is_some());
        let served = match &entry {
            Some(entry) if overflow => self.due(entry, now, version).unwrap_or_else(|| self.undue(entry, version)),
            entry => self.served(entry.as_deref(), item.key, item.limit.into(), now, version).ok()?,
        };
        let mut status = self.status_of(entry, item.key, &served, now);
        status.overflow = overflow;
        Some(status)
    }
}

/// Refuses a time that no hold may last.
pub fn validate_ttl(ttl: Duration) -> Result<Micros> {
    let millis = Duration::from_millis(*HOLD_MS.start())..=Duration::from_millis(*HOLD_MS.end());
    if millis.contains(&ttl) {
        return Ok(ttl.as_micros() as Micros);
    }
    let [least, most] = [HOLD_MS.start(), HOLD_MS.end()].map(|bound| format_length(*bound));
    Err(Error::invalid(format!("ttl must be from {least} to {most}, not {ttl:?}")))
}
