//! What a check of one limit answers.

use crate::clock::Millis;

/// The answer of [`State::quote`](super::state::State::quote).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Whether the cost may be spent now.
    pub allowed: bool,
    /// Whole units left: after spending when allowed, as they are when denied.
    pub remaining: u64,
    /// When the limit is untouched again if nothing more is spent (after this check, when allowed).
    pub reset_at: Millis,
    /// 0 when allowed; else the milliseconds until this same cost would be allowed if nothing else is spent.
    pub retry_after_ms: Millis,
}

/// `dividend / divisor`, rounded up. The callers' quotients are bounded by
/// [`MAX_REFILL_MS`](crate::bounds::MAX_REFILL_MS) or [`MAX_UNITS`](crate::bounds::MAX_UNITS).
pub(super) fn div_ceil(dividend: u128, divisor: u64) -> u64 {
    // A 128-bit division costs ten times a 64-bit one, and the small case is the common one.
    match u64::try_from(dividend) {
        Ok(small) => small.div_ceil(divisor),
        Err(_) => u64::try_from(dividend.div_ceil(u128::from(divisor))).unwrap_or(u64::MAX),
    }
}
