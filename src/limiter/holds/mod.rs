//! Holds: units taken now whose final cost is told later, and slots taken until they are given back.

use std::time::Duration;

use super::answers::{AllDecision, Cost, Decision, Hold, HoldDecision, Item, Settled, Status};
use super::check::wait::NonBlocking;
use super::core::Limiter;
use crate::error::Result;

impl Limiter {
    /// As [`Limiter::check`], and what was spent can be corrected later, or slots are taken until then.
    pub fn hold(&self, key: &str, cost: u64, ttl: Duration) -> Result<HoldDecision> {
        self.hold_all_for(&[Item::new(key).with_cost(cost)], ttl, None)
    }

    /// As [`Limiter::check_all`], of windows and slots.
    pub fn hold_all(&self, items: &[Item<'_>], ttl: Duration) -> Result<HoldDecision> {
        self.hold_all_for(items, ttl, None)
    }

    #[doc(hidden)]
    pub fn hold_all_for(&self, _: &[Item<'_>], _: Duration, _: Option<&NonBlocking<'_>>) -> Result<HoldDecision> {
        todo!()
    }

    /// Corrects what a hold has spent to what it cost, and gives back its slots.
    pub fn settle(&self, hold: &str, cost: Cost<'_>) -> Result<Settled> {
        self.settle_for(hold, cost, None)
    }

    #[doc(hidden)]
    pub fn settle_for(&self, _: &str, _: Cost<'_>, _: Option<&NonBlocking<'_>>) -> Result<Settled> {
        todo!()
    }

    /// Lets a hold last for `ttl` from now, by default for as long as before.
    pub fn renew(&self, hold: &str, ttl: Option<Duration>) -> Result<Hold> {
        self.renew_for(hold, ttl, None)
    }

    #[doc(hidden)]
    pub fn renew_for(&self, _: &str, _: Option<Duration>, _: Option<&NonBlocking<'_>>) -> Result<Hold> {
        todo!()
    }

    /// What [`Limiter::check_item`] would answer; spends nothing and writes nothing.
    pub fn peek(&self, _: Item<'_>) -> Result<Decision> {
        todo!()
    }

    /// What [`Limiter::check_all`] would answer; spends nothing and writes nothing.
    pub fn peek_all(&self, _: &[Item<'_>]) -> Result<AllDecision> {
        todo!()
    }

    /// Spends, also past the limit.
    pub fn charge(&self, item: Item<'_>) -> Result<Status> {
        self.charge_for(item, None)
    }

    #[doc(hidden)]
    pub fn charge_for(&self, _: Item<'_>, _: Option<&NonBlocking<'_>>) -> Result<Status> {
        todo!()
    }

    /// Gives back units, never more than was spent and still counts.
    pub fn refund(&self, item: Item<'_>) -> Result<Status> {
        self.refund_for(item, None)
    }

    #[doc(hidden)]
    pub fn refund_for(&self, _: Item<'_>, _: Option<&NonBlocking<'_>>) -> Result<Status> {
        todo!()
    }
}
