//! Sliding window log: at most `rate` units in every window of one period, exactly.
//!
//! One entry for each distinct millisecond with an allowed check within the last period, whatever was spent in it. An
//! entry holds the running total up to and including its millisecond, so that the instant at which a given number of
//! units will have expired is found by binary search: a flood of denials costs no more than a flood of checks. The
//! totals wrap around; their differences, which are at most a few times 10^12, do not.

use std::collections::VecDeque;

use super::parts::StateParts;
use super::quote::Quote;
use crate::clock::Millis;
use crate::limit::values::Limit;

/// The logged milliseconds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Running total of what has expired.
    expired: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    at: Millis,
    total: u64,
}

impl EventLog {
    /// Takes a log back from its parts as they stand in a snapshot, oldest first.
    pub(super) fn restore(events: &[(Millis, u64)]) -> EventLog {
        let mut log = EventLog::default();
        events.iter().for_each(|(at, units)| log.add(*at, *units));
        log
    }

    pub(super) fn parts(&self) -> StateParts {
        StateParts::Events(self.events().collect())
    }

    /// The logged milliseconds with the units spent in each, oldest first.
    fn events(&self) -> impl ExactSizeIterator<Item = (Millis, u64)> {
        let mut before = self.expired;
        self.entries.iter().map(move |entry| {
            let units = entry.total.wrapping_sub(before);
            before = entry.total;
            (entry.at, units)
        })
    }

    pub(super) fn spent(&self, _: &Limit, _: Millis) -> u64 {
        self.sum()
    }

    fn sum(&self) -> u64 {
        self.entries.back().map_or(0, |last| last.total.wrapping_sub(self.expired))
    }

    pub(super) fn advance(&mut self, limit: &Limit, now: Millis) {
        let period = limit.period_ms();
        while let Some(first) = self.entries.front() {
            if first.at.saturating_add(period) > now {
                break;
            }
            self.expired = first.total;
            self.entries.pop_front();
        }
        // A burst must not keep its memory for ever.
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    pub(super) fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        let (remaining, reset_at) = self.glance(limit, now);
        if cost <= remaining {
            let reset_at = now.saturating_add(limit.period_ms());
            Quote { allowed: true, remaining: remaining - cost, reset_at, retry_after_ms: 0 }
        } else {
            Quote { allowed: false, remaining, reset_at, retry_after_ms: self.until(limit, now, cost) }
        }
    }

    pub(super) fn spend(&mut self, limit: &Limit, now: Millis, cost: u64) {
        self.advance(limit, now);
        self.add(now, cost);
    }

    pub(super) fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        let reset_at = self.entries.back().map_or(now, |last| last.at.saturating_add(limit.period_ms()));
        (limit.rate().saturating_sub(self.sum()), reset_at)
    }

    fn add(&mut self, at: Millis, units: u64) {
        match self.entries.back_mut() {
            Some(last) if last.at >= at => last.total = last.total.wrapping_add(units),
            last => {
                let before = last.map_or(self.expired, |last| last.total);
                self.entries.push_back(Entry { at, total: before.wrapping_add(units) });
            }
        }
    }

    /// Milliseconds until so many units have expired that `cost` fits.
    fn until(&self, limit: &Limit, now: Millis, cost: u64) -> Millis {
        let must_expire = self.sum().saturating_add(cost).saturating_sub(limit.rate());
        let first = self.entries.partition_point(|entry| entry.total.wrapping_sub(self.expired) < must_expire);
        self.entries.get(first).map_or(0, |entry| entry.at.saturating_add(limit.period_ms()).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::limit::Algorithm;

    #[test]
    fn units_expire_one_period_after_they_were_spent() {
        let limit = Limit::of_millis(10, 1000, Algorithm::SlidingWindowLog, None).unwrap();
        let mut state = State::new(&limit, 0);
        for (now, cost) in [(0, 4), (0, 2), (300, 4)] {
            state.advance(&limit, now);
            assert!(state.quote(&limit, now, cost).allowed);
            state.spend(&limit, now, cost);
        }
        let quote = state.quote(&limit, 300, 6);
        assert_eq!(quote, Quote { allowed: false, remaining: 0, reset_at: 1300, retry_after_ms: 700 });
        assert_eq!(state.quote(&limit, 300, 7).retry_after_ms, 1000);
        state.advance(&limit, 999);
        assert!(!state.quote(&limit, 999, 1).allowed);
        state.advance(&limit, 1000);
        assert_eq!(
            state.quote(&limit, 1000, 6),
            Quote { allowed: true, remaining: 0, reset_at: 2000, retry_after_ms: 0 }
        );
    }

    #[test]
    fn memory_is_bounded_by_distinct_milliseconds_and_given_back() {
        let limit = Limit::of_millis(1_000_000, 1000, Algorithm::SlidingWindowLog, None).unwrap();
        let mut log = EventLog::default();
        for check in 0..100_000 {
            log.spend(&limit, check / 100, 1);
        }
        assert_eq!(log.events().len(), 1000);
        assert_eq!(log.sum(), 100_000);
        log.advance(&limit, 5000);
        assert_eq!(log.sum(), 0);
        assert!(log.entries.capacity() <= 64);
    }

    #[test]
    fn running_totals_may_wrap() {
        let limit = Limit::of_millis(10, 1000, Algorithm::SlidingWindowLog, None).unwrap();
        let mut log = EventLog { expired: u64::MAX - 4, entries: VecDeque::new() };
        log.spend(&limit, 0, 6);
        log.spend(&limit, 1, 4);
        assert_eq!(log.sum(), 10);
        assert_eq!(log.quote(&limit, 1, 7).retry_after_ms, 1000);
        assert_eq!(log.events().collect::<Vec<_>>(), [(0, 6), (1, 4)]);
    }
}
