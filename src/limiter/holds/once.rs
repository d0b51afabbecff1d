//! Requests that may be sent again: what was spent once is answered again.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::limiter::answers::{AllDecision, Decision, Hold, HoldDecision, Item, Status};
use crate::limiter::check::several::validate_count;
use crate::limiter::check::wait::{NonBlocking, Wait};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::kept::{Begun, Keep, Once, Told};

/// How a request begins that may be sent again.
#[derive(Debug)]
pub enum Begin<'l> {
    /// It is to be done: it is under way until the guard is dropped.
    Fresh(Guard<'l>),
    /// It was done before, with this answer.
    Before(Arc<str>),
}

/// A request that is under way.
pub struct Guard<'l> {
    core: &'l Core,
    once: Once,
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("once", &self.once).finish_non_exhaustive()
    }
}

impl Guard<'_> {
    /// The answer that was kept, if what was asked for has spent.
    pub fn kept(&self) -> Option<Arc<str>> {
        self.core.answers.of(&self.once)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.core.answers.end(&self.once);
    }
}

impl Limiter {
    /// Begins a request that may be sent again. A repetition that comes while the first is under way waits for it,
    /// unless it must not block. The answer to a request that was done before is on disk as the mode has it, or the
    /// slot of `non_blocking` is completed when it is.
    ///
    /// # Errors
    /// `idempotency_mismatch` where its key was used for another request; as for checks where the log fails.
    #[doc(hidden)]
    pub fn once(&self, once: Once, non_blocking: Option<&NonBlocking<'_>>) -> Result<Begin<'_>> {
        let core = &*self.core;
        match (core.answers.begin(&once, || core.clock.now(), non_blocking.is_none())?, non_blocking) {
            (Some(Begun::Fresh), _) => Ok(Begin::Fresh(Guard { core, once })),
            (Some(Begun::Before(answer)), _) => {
                core.finish_all(&Wait::by(core.sync, non_blocking))?;
                Ok(Begin::Before(answer))
            }
            (None, Some(non_blocking)) => Err(non_blocking.give_up()),
            (None, None) => Err(Core::unforeseen()),
        }
    }

    /// As [`Limiter::check_all`]; what `write` says of it is kept in its record, if it is allowed and spends.
    #[doc(hidden)]
    pub fn check_all_once(
        &self,
        items: &[Item<'_>],
        guard: &Guard<'_>,
        write: &mut dyn FnMut(&AllDecision) -> String,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<AllDecision> {
        let mut write = |told: Told<'_>| match told {
            Told::Decided(all, _) => write(all),
            Told::Each(_) | Told::Stands(_) => String::new(),
        };
        let mut keep = Keep { once: guard.once, write: &mut write };
        self.core.check_all_kept(items, Some(&mut keep), non_blocking)
    }

    /// As [`Limiter::check_many`]; what `write` says of it is kept in the one record of all that it spends.
    #[doc(hidden)]
    pub fn check_many_once(
        &self,
        items: &[Item<'_>],
        guard: &Guard<'_>,
        write: &mut dyn FnMut(&[Result<Decision>]) -> String,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Vec<Result<Decision>>> {
        validate_count(items)?;
        let mut write = |told: Told<'_>| match told {
            Told::Each(results) => write(results),
            Told::Decided(..) | Told::Stands(_) => String::new(),
        };
        let mut keep = Keep { once: guard.once, write: &mut write };
        self.core.check_many_kept(items, &mut keep, non_blocking)
    }

    /// As [`Limiter::hold_all`]; what `write` says of it is kept in its record, if it is allowed.
    #[doc(hidden)]
    pub fn hold_all_once(
        &self,
        items: &[Item<'_>],
        ttl: Duration,
        guard: &Guard<'_>,
        write: &mut dyn FnMut(&AllDecision, Option<&Hold>) -> String,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<HoldDecision> {
        let mut write = |told: Told<'_>| match told {
            Told::Decided(all, hold) => write(all, hold),
            Told::Each(_) | Told::Stands(_) => String::new(),
        };
        let mut keep = Keep { once: guard.once, write: &mut write };
        self.core.hold_all_kept(items, ttl, Some(&mut keep), non_blocking)
    }

    /// As [`Limiter::charge`]; what `write` says of it is kept in its record, unless there is no limit to it.
    #[doc(hidden)]
    pub fn charge_once(
        &self,
        item: &Item<'_>,
        guard: &Guard<'_>,
        write: &mut dyn FnMut(&Status) -> String,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Status> {
        let mut write = |told: Told<'_>| self.core.write_status(told, item, write);
        let mut keep = Keep { once: guard.once, write: &mut write };
        self.core.charge_kept(item, Some(&mut keep), non_blocking)
    }

    /// As [`Limiter::refund`]; what `write` says of it is kept in its record, if the key was there.
    #[doc(hidden)]
    pub fn refund_once(
        &self,
        item: &Item<'_>,
        guard: &Guard<'_>,
        write: &mut dyn FnMut(&Status) -> String,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Status> {
        let mut write = |told: Told<'_>| self.core.write_status(told, item, write);
        let mut keep = Keep { once: guard.once, write: &mut write };
        self.core.refund_kept(item, Some(&mut keep), non_blocking)
    }
}

impl Core {
    fn write_status(&self, told: Told<'_>, item: &Item<'_>, write: &mut dyn FnMut(&Status) -> String) -> String {
        match told {
            Told::Stands(entry) => self.status_of_copy(entry, item).map(|status| write(&status)).unwrap_or_default(),
            Told::Decided(..) | Told::Each(_) => String::new(),
        }
    }
}
