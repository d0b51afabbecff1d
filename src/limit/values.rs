//! The values of a limit, and their text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::algorithm::Algorithm;
use super::period::{format_period, parse_period};
use super::text::excerpt;
use crate::bounds::{MAX_PERIOD_MS, MAX_REFILL_MS, MAX_UNITS, MIN_PERIOD_MS};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// The values of a limit: how many units in which period, counted how.
///
/// Its text is `RATE/PERIOD`, then what differs from the default: the algorithm, or the burst of a token bucket.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{Algorithm, Limit};
///
/// let limit: Limit = "100/1m burst=200".parse()?;
/// assert_eq!(limit, Limit::new(100, Duration::from_secs(60), Algorithm::TokenBucket, Some(200))?);
/// let limit = Limit::new(20, Duration::from_secs(10), Algorithm::SlidingWindowLog, None)?;
/// assert_eq!(limit.to_string(), "20/10s sliding_window_log");
/// # Ok::<(), flint::Error>(())
/// ```
// 24 bytes, since a million of them are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    rate: u64,
    capacity: u64,
    /// The period in the upper 56 bits, the algorithm's code in the lowest 8.
    period_and_algorithm: u64,
}

impl Limit {
    /// A limit of `rate` units (1 to 10^12) per `per` (1 ms to 366 days, in whole milliseconds). `burst` (1 to 10^12,
    /// default `rate`) is the capacity of a token bucket; no other algorithm has one.
    ///
    /// # Errors
    /// `invalid_argument`, naming the value that is out of its range.
    pub fn new(rate: u64, per: Duration, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        if !per.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(Error::invalid(format!("per must be whole milliseconds, not {per:?}")));
        }
        Limit::of_millis(rate, u64::try_from(per.as_millis()).unwrap_or(u64::MAX), algorithm, burst)
    }

    /// As [`Limit::new`], with the period in milliseconds.
    #[doc(hidden)]
    pub fn of_millis(rate: u64, period_ms: Millis, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        if !(1..=MAX_UNITS).contains(&rate) {
            return Err(Error::invalid(format!("rate must be from 1 to {MAX_UNITS} units, not {rate}")));
        }
        if !(MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&period_ms) {
            return Err(Error::invalid(format!("per must be from 1ms to 366d, not {period_ms}ms")));
        }
        if let Some(burst) = burst {
            if algorithm != Algorithm::TokenBucket {
                return Err(Error::invalid(format!(
                    "burst belongs to token_bucket only; leave it out for {}",
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

    /// The capacity of a token bucket; other algorithms have no burst.
    pub fn burst(&self) -> Option<u64> {
        (self.algorithm() == Algorithm::TokenBucket).then_some(self.capacity)
    }

    /// The period.
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms())
    }

    /// The period in milliseconds.
    #[doc(hidden)]
    pub fn period_ms(&self) -> Millis {
        self.period_and_algorithm >> 8
    }

    /// How it counts.
    pub fn algorithm(&self) -> Algorithm {
        // Only `new` makes a limit, from an algorithm's own code.
        Algorithm::from_code((self.period_and_algorithm & 0xff) as u8).unwrap_or(Algorithm::TokenBucket)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rate, format_period(self.period_ms()))?;
        match self.burst() {
            None => write!(f, " {}", self.algorithm()),
            Some(burst) if burst != self.rate => write!(f, " burst={burst}"),
            Some(_) => Ok(()),
        }
    }
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Limit> {
        let wrong = || {
            Error::invalid(format!(
                "limit must be RATE/PERIOD, such as 100/1m, and may name an algorithm or burst=N, not `{}`",
                excerpt(text)
            ))
        };
        let mut words = text.split_ascii_whitespace();
        let (rate, period) = words.next().and_then(|first| first.split_once('/')).ok_or_else(wrong)?;
        let (mut algorithm, mut burst) = (None, None);
        for word in words {
            let repeated = match word.strip_prefix("burst=") {
                Some(number) => burst.replace(number.parse().map_err(|_| wrong())?).is_some(),
                None => algorithm.replace(word.parse()?).is_some(),
            };
            if repeated {
                return Err(wrong());
            }
        }
        let rate = rate.parse().map_err(|_| wrong())?;
        Limit::of_millis(rate, parse_period(period)?, algorithm.unwrap_or_default(), burst)
    }
}
