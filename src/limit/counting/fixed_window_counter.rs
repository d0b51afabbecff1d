//! Fixed window counter: a window opens at the first check after the former one ended.

use super::parts::StateParts;
use super::quote::Quote;
use crate::clock::Millis;
use crate::limit::values::Limit;

/// The open window. Closed, and then `start` means nothing, while `used` is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FixedWindow {
    start: Millis,
    used: u64,
}

impl FixedWindow {
    /// Takes a window back from its parts as they stand in a snapshot.
    pub(super) fn restore(start: Millis, used: u64) -> FixedWindow {
        FixedWindow { start, used }
    }

    pub(super) fn parts(&self) -> StateParts {
        StateParts::Window { start: self.start, used: self.used }
    }

    pub(super) fn spent(&self, _: &Limit, _: Millis) -> u64 {
        self.used
    }

    pub(super) fn advance(&mut self, limit: &Limit, now: Millis) {
        if self.used > 0 && now >= self.start.saturating_add(limit.period_ms()) {
            self.used = 0;
        }
    }

    pub(super) fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        let (remaining, reset_at) = self.glance(limit, now);
        if cost <= remaining {
            let start = if self.used == 0 { now } else { self.start };
            let reset_at = start.saturating_add(limit.period_ms());
            Quote { allowed: true, remaining: remaining - cost, reset_at, retry_after_ms: 0 }
        } else {
            Quote { allowed: false, remaining, reset_at, retry_after_ms: reset_at.saturating_sub(now) }
        }
    }

    pub(super) fn spend(&mut self, _: &Limit, now: Millis, cost: u64) {
        if self.used == 0 {
            self.start = now;
        }
        self.used = self.used.saturating_add(cost);
    }

    pub(super) fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        let reset_at = if self.used == 0 { now } else { self.start.saturating_add(limit.period_ms()) };
        (limit.rate().saturating_sub(self.used), reset_at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::limit::Algorithm;

    #[test]
    fn a_window_opens_at_the_first_check() {
        let limit = Limit::of_millis(10, 1000, Algorithm::FixedWindowCounter, None).unwrap();
        let mut state = State::new(&limit, 0);
        assert_eq!(state.glance(&limit, 500), (10, 500));
        assert_eq!(state.quote(&limit, 700, 10).reset_at, 1700);
        state.spend(&limit, 700, 10);
        state.advance(&limit, 1699);
        let quote = state.quote(&limit, 1699, 1);
        assert_eq!(quote, Quote { allowed: false, remaining: 0, reset_at: 1700, retry_after_ms: 1 });
        state.advance(&limit, 1700);
        assert!(state.quote(&limit, 1700, 10).allowed);
    }
}
