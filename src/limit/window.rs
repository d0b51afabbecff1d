//! One window of a limit: how many units in which period, counted how.

use std::time::Duration;

use super::algorithm::Algorithm;
use super::period::Period;
use crate::error::Result;

/// One window of a limit: how many units in which period, counted how.
// Copied often, so small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    rate: u64,
    capacity: u64,
    period: Period,
    algorithm: Algorithm,
}

impl Window {
    /// A window of `rate` units (0 to 10^12; with 0 every check is denied) per `per` (1 ms to 366 days, in whole
    /// milliseconds). `burst` (1 to 10^12, default `rate`) is the capacity of a token bucket; no other algorithm has one.
    ///
    /// # Errors
    /// `invalid_argument`, naming the value that is out of its range.
    pub fn new(_rate: u64, _per: Duration, _algorithm: Algorithm, _burst: Option<u64>) -> Result<Window> {
        todo!()
    }

    /// As [`Window::new`] with any period; a calendar period takes `fixed_window_counter` only.
    #[doc(hidden)]
    pub fn of(_rate: u64, _period: Period, _algorithm: Algorithm, _burst: Option<u64>) -> Result<Window> {
        todo!()
    }

    /// Units per period.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The most units that can be spent at once: the bucket's size, otherwise the rate.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The capacity of a token bucket; other algorithms have no burst.
    pub fn burst(&self) -> Option<u64> {
        (self.algorithm == Algorithm::TokenBucket).then_some(self.capacity)
    }

    /// Its period.
    pub fn period(&self) -> Period {
        self.period
    }

    /// How it counts.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `100/1m`, `1/day`: rate and period alone, as the `RateLimit` headers name it.
    pub fn short(&self) -> String {
        todo!()
    }
}
