//! Sliding window counter: the last window's count, weighted by how much of it still lies within one period, plus this
//! window's count. The usual approximation: it takes the last window's units as evenly spread.
//!
//! At `passed` milliseconds into the window the estimate is `previous * (period - passed) / period + current` units;
//! all comparisons are made with both sides multiplied by the period, so nothing is rounded.

use super::parts::StateParts;
use super::quote::{Quote, div_ceil};
use crate::clock::Millis;
use crate::limit::values::Limit;

/// This window's count and the last one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowPair {
    /// Beginning of the current window. Means nothing while both counts are 0.
    start: Millis,
    previous: u64,
    current: u64,
}

impl WindowPair {
    /// Takes a pair back from its parts as they stand in a snapshot.
    pub(super) fn restore(start: Millis, previous: u64, current: u64) -> WindowPair {
        WindowPair { start, previous, current }
    }

    pub(super) fn parts(&self) -> StateParts {
        StateParts::Pair { start: self.start, previous: self.previous, current: self.current }
    }

    pub(super) fn advance(&mut self, limit: &Limit, now: Millis) {
        if self.untouched() {
            return;
        }
        let period = limit.period_ms();
        match now.saturating_sub(self.start) / period {
            0 => {}
            1 => {
                *self = WindowPair { start: self.start + period, previous: self.current, current: 0 };
            }
            _ => *self = WindowPair::default(),
        }
    }

    pub(super) fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        let (remaining, reset_at) = self.glance(limit, now);
        if cost <= remaining {
            let mut after = *self;
            after.spend(limit, now, cost);
            let (remaining, reset_at) = after.glance(limit, now);
            Quote { allowed: true, remaining, reset_at, retry_after_ms: 0 }
        } else {
            Quote { allowed: false, remaining, reset_at, retry_after_ms: self.until(limit, now, cost) }
        }
    }

    pub(super) fn spend(&mut self, _: &Limit, now: Millis, cost: u64) {
        if self.untouched() {
            self.start = now;
        }
        self.current = self.current.saturating_add(cost);
    }

    pub(super) fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        let period = limit.period_ms();
        let reset_at = match (self.previous, self.current) {
            (0, 0) => now,
            (_, 0) => self.start.saturating_add(period),
            (_, _) => self.start.saturating_add(2 * period),
        };
        (limit.rate().saturating_sub(self.spent(limit, now)), reset_at)
    }

    /// The estimate, rounded up: a unit is left only when all of it is.
    pub(super) fn spent(&self, limit: &Limit, now: Millis) -> u64 {
        let period = limit.period_ms();
        let passed = now.saturating_sub(self.start).min(period);
        let weighted = u128::from(self.previous) * u128::from(period - passed);
        div_ceil(weighted, period).saturating_add(self.current)
    }

    fn untouched(&self) -> bool {
        self.previous == 0 && self.current == 0
    }

    /// Milliseconds until `cost` fits, which it does not now. In the current window that is when the last window's
    /// share has shrunk far enough; if this window's own count is in the way, it is in the next window, where this
    /// count is the shrinking one; and when `cost` needs all of it gone, at that window's end.
    fn until(&self, limit: &Limit, now: Millis, cost: u64) -> Millis {
        let period = limit.period_ms();
        let passed = now.saturating_sub(self.start);
        let from_start = match limit.rate().checked_sub(self.current).and_then(|left| left.checked_sub(cost)) {
            Some(room) => shrunk(self.previous, room, period),
            None => period + shrunk(self.current, limit.rate() - cost, period),
        };
        from_start.saturating_sub(passed)
    }
}

/// Milliseconds into a window until the share of a former window's `count` is at most `room`:
/// count * (period - passed) <= room * period.
fn shrunk(count: u64, room: u64, period: Millis) -> Millis {
    if count <= room {
        return 0;
    }
    let may_overlap = u128::from(room) * u128::from(period) / u128::from(count);
    period - may_overlap as u64
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::limit::Algorithm;

    #[test]
    fn the_last_window_counts_by_its_overlap() {
        let limit = Limit::of_millis(100, 1000, Algorithm::SlidingWindowCounter, None).unwrap();
        let mut state = State::new(&limit, 0);
        state.spend(&limit, 0, 100);
        let quote = state.quote(&limit, 0, 1);
        assert_eq!(quote, Quote { allowed: false, remaining: 0, reset_at: 2000, retry_after_ms: 1010 });
        state.advance(&limit, 1009);
        assert!(!state.quote(&limit, 1009, 1).allowed);
        state.advance(&limit, 1010);
        assert_eq!(state.quote(&limit, 1010, 1).remaining, 0);
        assert!(state.quote(&limit, 1010, 1).allowed);
        state.advance(&limit, 1250);
        assert_eq!(state.glance(&limit, 1250), (25, 2000));
        state.advance(&limit, 2000);
        assert_eq!(state.glance(&limit, 2000), (100, 2000));
    }
}
