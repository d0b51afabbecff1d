//! The algorithms by which a limit can count.

use super::text::excerpt;
use crate::error::{Error, Result};

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// A bucket of `burst` units, refilled continuously at `rate` per period.
    TokenBucket,
    /// At most `rate` units in every window of one period, exactly.
    SlidingWindowLog,
    /// At most `rate` units in a window that opens at the first check after the former one ended.
    FixedWindowCounter,
    /// Two counters weighted by their overlap with the last period: constant memory, approximate.
    SlidingWindowCounter,
}

impl Algorithm {
    /// Every algorithm, in the order of their codes in the log.
    pub const ALL: [Algorithm; 4] = [
        Algorithm::TokenBucket,
        Algorithm::SlidingWindowLog,
        Algorithm::FixedWindowCounter,
        Algorithm::SlidingWindowCounter,
    ];

    /// The name in the HTTP API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::TokenBucket => "token_bucket",
            Algorithm::SlidingWindowLog => "sliding_window_log",
            Algorithm::FixedWindowCounter => "fixed_window_counter",
            Algorithm::SlidingWindowCounter => "sliding_window_counter",
        }
    }

    /// The algorithm of that name.
    ///
    /// # Errors
    /// `invalid_argument`, listing the names there are.
    pub fn from_name(name: &str) -> Result<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "algorithm `{}` is not known; use token_bucket, sliding_window_log, fixed_window_counter or \
                 sliding_window_counter",
                excerpt(name)
            ))
        })
    }

    /// The code in the log.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The algorithm of that code in the log.
    pub(crate) fn from_code(code: u8) -> Option<Algorithm> {
        Algorithm::ALL.get(usize::from(code)).copied()
    }
}
