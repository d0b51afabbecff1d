//! The values of a limit.

use super::algorithm::Algorithm;
use crate::bounds::{MAX_PERIOD_MS, MAX_REFILL_MS, MAX_UNITS, MIN_PERIOD_MS};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// The values of a limit: how many units in which period, counted how. 24 bytes, since a million of them are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    rate: u64,
    capacity: u64,
    /// The period in the upper 56 bits, the algorithm's code in the lowest 8.
    period_and_algorithm: u64,
}

impl Limit {
    /// A limit of `rate` units (1 to 10^12) per `period_ms` milliseconds (1 to 366 days). `burst` (1 to 10^12,
    /// default `rate`) is the capacity of a token bucket and belongs to no other algorithm.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field that is out of its range.
    pub fn new(rate: u64, period_ms: Millis, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        if !(1..=MAX_UNITS).contains(&rate) {
            return Err(Error::invalid(format!("rate must be from 1 to {MAX_UNITS} units, not {rate}")));
        }
        if !(MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&period_ms) {
            return Err(Error::invalid(format!("per must be from 1ms to 366d, not {period_ms}ms")));
        }
        if let Some(burst) = burst {
            if algorithm != Algorithm::TokenBucket {
                return Err(Error::invalid(format!(
                    "burst belongs to token_bucket alone; leave it out for {}",
                    algorithm.name()
                )));
            }
            if !(1..=MAX_UNITS).contains(&burst) {
                return Err(Error::invalid(format!("burst must be from 1 to {MAX_UNITS} units, not {burst}")));
            }
            if u128::from(burst) * u128::from(period_ms) > u128::from(rate) * u128::from(MAX_REFILL_MS) {
                return Err(Error::invalid(format!(
                    "burst {burst} would take more than 1000 years to refill at this rate; lower burst or raise rate"
                )));
            }
        }
        let capacity = burst.unwrap_or(rate);
        Ok(Limit { rate, capacity, period_and_algorithm: period_ms << 8 | u64::from(algorithm.code()) })
    }

    /// Units per period.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The most units that can be spent at once: the bucket's size, otherwise the rate.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The period in milliseconds.
    pub fn period_ms(&self) -> Millis {
        self.period_and_algorithm >> 8
    }

    /// How it counts.
    pub fn algorithm(&self) -> Algorithm {
        // Only `new` makes a limit, from an algorithm's own code.
        Algorithm::from_code((self.period_and_algorithm & 0xff) as u8).unwrap_or(Algorithm::TokenBucket)
    }
}
