//! Token bucket: `burst` units at most, refilled continuously at `rate` per period, in exact fractions.
//!
//! The level is `whole + part / period_ms` units. One millisecond adds `rate / period_ms` units, that is `rate` parts,
//! so nothing is ever rounded: neither given away nor lost, however often the bucket is looked at.

use super::parts::StateParts;
use super::quote::{Quote, div_ceil};
use crate::clock::Millis;
use crate::limit::values::Limit;

/// The level of a bucket at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    whole: u64,
    /// Parts of a unit, each one `period_ms`-th. Less than `period_ms`, and 0 in a full bucket.
    part: u64,
    at: Millis,
}

impl Bucket {
    /// A full bucket.
    pub fn full(capacity: u64, now: Millis) -> Bucket {
        Bucket { whole: capacity, part: 0, at: now }
    }

    /// Takes a bucket back from its parts as they stand in a snapshot; what could not have been written is clamped.
    pub(super) fn restore(limit: &Limit, whole: u64, part: u64, at: Millis) -> Bucket {
        if whole >= limit.capacity() {
            return Bucket::full(limit.capacity(), at);
        }
        Bucket { whole, part: part.min(limit.period_ms() - 1), at }
    }

    pub(super) fn parts(&self) -> StateParts {
        StateParts::Bucket { whole: self.whole, part: self.part, at: self.at }
    }

    pub(super) fn spent(&self, limit: &Limit, _: Millis) -> u64 {
        limit.capacity() - self.whole
    }

    pub(super) fn advance(&mut self, limit: &Limit, now: Millis) {
        let elapsed = now.saturating_sub(self.at);
        if elapsed == 0 {
            return;
        }
        self.at = now;
        if self.whole >= limit.capacity() {
            return;
        }
        let period = limit.period_ms();
        match elapsed.checked_mul(limit.rate()).and_then(|gain| gain.checked_add(self.part)) {
            Some(parts) => {
                let whole = self.whole.saturating_add(parts / period);
                (self.whole, self.part) = (whole, parts % period);
            }
            None => {
                let parts = u128::from(elapsed) * u128::from(limit.rate()) + u128::from(self.part);
                let gain = parts / u128::from(period);
                self.whole = u64::try_from(gain).map_or(u64::MAX, |gain| self.whole.saturating_add(gain));
                self.part = (parts % u128::from(period)) as u64;
            }
        }
        if self.whole >= limit.capacity() {
            *self = Bucket::full(limit.capacity(), now);
        }
    }

    pub(super) fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        if cost <= self.whole {
            let left = Bucket { whole: self.whole - cost, ..*self };
            let (remaining, reset_at) = left.glance(limit, now);
            Quote { allowed: true, remaining, reset_at, retry_after_ms: 0 }
        } else {
            let (remaining, reset_at) = self.glance(limit, now);
            Quote { allowed: false, remaining, reset_at, retry_after_ms: self.until(limit, cost) }
        }
    }

    pub(super) fn spend(&mut self, _: &Limit, _: Millis, cost: u64) {
        self.whole = self.whole.saturating_sub(cost);
    }

    pub(super) fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        (self.whole, now.saturating_add(self.until(limit, limit.capacity())))
    }

    /// What is missing stays missing, up to the new capacity; parts of a unit are rounded down.
    pub(super) fn reconfigured(self, old: &Limit, new: &Limit) -> Bucket {
        if self.whole >= old.capacity() {
            return Bucket::full(new.capacity(), self.at);
        }
        let missing = old.capacity() - self.whole;
        if missing > new.capacity() {
            return Bucket { whole: 0, part: 0, at: self.at };
        }
        let part = u128::from(self.part) * u128::from(new.period_ms()) / u128::from(old.period_ms());
        Bucket { whole: new.capacity() - missing, part: part as u64, at: self.at }
    }

    /// Milliseconds until `level` whole units are there: ceil(missing parts / rate).
    fn until(&self, limit: &Limit, level: u64) -> Millis {
        if level <= self.whole {
            return 0;
        }
        let missing = u128::from(level - self.whole) * u128::from(limit.period_ms()) - u128::from(self.part);
        div_ceil(missing, limit.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::limit::Algorithm;

    #[test]
    fn refills_without_losing_a_fraction() {
        // 3 per 7 ms, looked at in every millisecond: after 7 000 ms exactly 3 000 units have come in.
        let limit = Limit::of_millis(3, 7, Algorithm::TokenBucket, Some(1_000_000)).unwrap();
        let mut bucket = Bucket::full(limit.capacity(), 0);
        bucket.spend(&limit, 0, 1_000_000);
        for now in 1..=7000 {
            bucket.advance(&limit, now);
        }
        assert_eq!(bucket.parts(), StateParts::Bucket { whole: 3000, part: 0, at: 7000 });
    }

    #[test]
    fn says_when_to_come_back() {
        let limit = Limit::of_millis(100, 60_000, Algorithm::TokenBucket, None).unwrap();
        let mut bucket = Bucket::full(100, 0);
        let quote = bucket.quote(&limit, 0, 100);
        assert_eq!(quote, Quote { allowed: true, remaining: 0, reset_at: 60_000, retry_after_ms: 0 });
        bucket.spend(&limit, 0, 100);
        let quote = bucket.quote(&limit, 0, 1);
        assert_eq!(quote, Quote { allowed: false, remaining: 0, reset_at: 60_000, retry_after_ms: 600 });
    }

    #[test]
    fn extremes_do_not_overflow() {
        use crate::bounds::{MAX_PERIOD_MS, MAX_UNITS};
        for (rate, period, burst) in
            [(MAX_UNITS, 1, None), (MAX_UNITS, MAX_PERIOD_MS, None), (1, MAX_PERIOD_MS, Some(1000))]
        {
            let limit = Limit::of_millis(rate, period, Algorithm::TokenBucket, burst).unwrap();
            let mut bucket = Bucket::full(limit.capacity(), 0);
            bucket.spend(&limit, 0, limit.capacity());
            let (_, reset_at) = bucket.glance(&limit, 0);
            let mut early = bucket;
            early.advance(&limit, reset_at - 1);
            assert!(early.whole < limit.capacity());
            bucket.advance(&limit, reset_at);
            assert_eq!(bucket.whole, limit.capacity());
            bucket.spend(&limit, 0, 1);
            bucket.advance(&limit, u64::MAX / 2);
            assert_eq!(bucket.whole, limit.capacity());
        }
    }

    #[test]
    fn a_new_capacity_takes_over_what_is_missing() {
        let old = Limit::of_millis(100, 60_000, Algorithm::TokenBucket, None).unwrap();
        let wide = Limit::of_millis(150, 60_000, Algorithm::TokenBucket, None).unwrap();
        let narrow = Limit::of_millis(10, 1000, Algorithm::TokenBucket, None).unwrap();
        let mut state = State::new(&old, 0);
        state.spend(&old, 0, 40);
        assert_eq!(state.clone().reconfigured(&old, &wide, 0).glance(&wide, 0).0, 110);
        assert_eq!(state.reconfigured(&old, &narrow, 0).glance(&narrow, 0).0, 0);
    }
}
