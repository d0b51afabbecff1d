//! The algorithms by which a limit can count.

use std::fmt;
use std::str::FromStr;

use super::text::excerpt;
use crate::error::{Error, Result};

/// How a limit counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket of `burst` units, refilled continuously at `rate` per period.
    #[default]
    TokenBucket,
    /// At most `rate` units in every window of one period, exactly.
    SlidingWindowLog,
    /// At most `rate` units in a window that opens at the first check after the previous one ended.
    FixedWindowCounter,
    /// Two counters weighted by their overlap with the last period: constant memory, approximate.
    SlidingWindowCounter,
}

impl Algorithm {
    /// Every algorithm, in the order of their codes in the log.
    pub const ALL: &[Algorithm] = &[
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

    /// The code in the log.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The algorithm of that code in the log.
    pub(crate) fn from_code(code: u8) -> Option<Algorithm> {
        Algorithm::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Algorithm> {
        Algorithm::ALL.iter().copied().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "algorithm `{}` is not known; use token_bucket, sliding_window_log, fixed_window_counter or \
                 sliding_window_counter",
                excerpt(name)
            ))
        })
    }
}
