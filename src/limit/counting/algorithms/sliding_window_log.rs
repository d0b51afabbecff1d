//! Sliding window log: at most `rate` units in every window of one period, exactly.
//!
//! One entry for each distinct millisecond with an allowed check within the last period, whatever was spent in it:
//! instants are rounded up to whole milliseconds, so that the memory has a bound, and a unit counts for less than a
//! millisecond too long. An entry holds the running total up to and including its millisecond, so that the instant at
//! which a given number of units will have expired is found by binary search: a flood of denials costs no more than a
//! flood of checks. The totals wrap around; their differences, which are at most a few times 10^12, do not.

use super::logged::{Entry, Logged};
use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::counting::parts::StateParts;
use crate::limit::counting::quote::Quote;
use crate::limit::counting::speed::length;
use crate::limit::window::Window;

/// The step of the log's instants.
const STEP: Micros = 1000;

/// The logged milliseconds, oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventLog {
    /// Running total of what has expired.
    expired: u64,
    entries: Logged,
}

/// Equal with the same events, whatever has expired.
impl PartialEq for EventLog {
    fn eq(&self, other: &EventLog) -> bool {
        self.events().eq(other.events())
    }
}

impl Eq for EventLog {}

impl EventLog {
    /// A log from its events, oldest first, as they are in a snapshot.
    pub fn restore(window: &Window, events: impl IntoIterator<Item = (Micros, u64)>) -> EventLog {
        let mut log = EventLog::default();
        for (at, units) in events {
            log.add(window, at, units);
        }
        log
    }

    pub fn parts(&self) -> StateParts {
        StateParts::Events(self.events().collect())
    }

    /// The logged milliseconds with the units spent in each, oldest first.
    pub fn events(&self) -> impl ExactSizeIterator<Item = (Micros, u64)> {
        let mut before = self.expired;
        (0..self.entries.len()).map(move |place| {
            let Entry { at, total } = self.entries.get(place).unwrap_or(Entry { at: 0, total: before });
            let units = total.wrapping_sub(before);
            before = total;
            (at, units)
        })
    }

    /// Units that count.
    pub fn used(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.total.wrapping_sub(self.expired))
    }

    /// The last instant at which something was spent that counts.
    pub fn newest(&self) -> Option<Micros> {
        self.entries.last().map(|last| last.at)
    }

    pub fn advance(&mut self, window: &Window, now: Micros) {
        let period = length(window);
        if let Some(last) = self.entries.take_while(|entry| entry.at.saturating_add(period) <= now) {
            self.expired = last.total;
        }
        self.entries.shrink();
    }

    pub fn allows(&self, window: &Window, cost: u64) -> bool {
        cost == 0 || self.used().saturating_add(cost) <= window.rate()
    }

    pub fn quote(&self, window: &Window, now: Micros, cost: u64, take: bool) -> Quote {
        let rate = window.rate();
        let allowed = self.allows(window, cost);
        let spent = if take { cost } else { 0 };
        let used = self.used() + spent;
        // When what this check would spend expires.
        let own = self.logged(now).saturating_add(length(window));
        let gone = |units: u64| self.expiry(window, units).unwrap_or(own).saturating_sub(now);
        let reset_at = match self.entries.last() {
            _ if spent > 0 => own,
            Some(last) => last.at.saturating_add(length(window)),
            None => now,
        };
        Quote {
            allowed,
            remaining: rate.saturating_sub(used),
            used,
            debt: used.saturating_sub(rate),
            reset_at,
            retry: if allowed { Some(0) } else { (cost <= rate).then(|| gone(self.used() - (rate - cost))) },
            next: match used {
                _ if rate == 0 => None,
                0 => Some(0),
                // One more than is used beyond the rate.
                used => Some(gone(used.saturating_sub(rate) + 1)),
            },
        }
    }

    pub fn spend(&mut self, window: &Window, now: Micros, cost: u64) {
        self.add(window, self.logged(now), cost);
    }

    /// Gives back units that were spent at an instant, as long as that is logged. What came after it is walked through:
    /// a hold is settled soon. Returns how many.
    pub fn give_back(&mut self, held_at: Micros, units: u64) -> u64 {
        let at = held_at.checked_next_multiple_of(STEP).unwrap_or(held_at);
        let place = self.entries.partition_point(|entry| entry.at < at);
        let Some(held) = self.entries.get(place).filter(|entry| entry.at == at) else { return 0 };
        let there = held.total.wrapping_sub(self.total_before(place));
        let units = units.min(there);
        self.entries.lower(place, units);
        if units == there {
            self.entries.remove(place);
        }
        units
    }

    /// Gives back units, the newest first. Returns how many.
    pub fn give(&mut self, units: u64) -> u64 {
        let given = units.min(self.used());
        let mut units = given;
        while let Some(last) = self.entries.last().filter(|_| units > 0) {
            let there = last.total.wrapping_sub(self.total_before(self.entries.len() - 1));
            if there > units {
                if let Some(last) = self.entries.last_mut() {
                    last.total = last.total.wrapping_sub(units);
                }
                break;
            }
            self.entries.pop();
            units -= there;
        }
        given
    }

    /// The running total before a place.
    fn total_before(&self, place: usize) -> u64 {
        let before = place.checked_sub(1).and_then(|before| self.entries.get(before));
        before.map_or(self.expired, |before| before.total)
    }

    /// The instant under which what is spent at `now` is logged.
    fn logged(&self, now: Micros) -> Micros {
        let at = now.checked_next_multiple_of(STEP).unwrap_or(now);
        self.newest().map_or(at, |newest| newest.max(at))
    }

    fn add(&mut self, window: &Window, at: Micros, units: u64) {
        // A debt has a bound.
        let units = units.min((window.rate() + MAX_UNITS).saturating_sub(self.used()));
        match self.entries.last_mut() {
            _ if units == 0 => {}
            Some(last) if last.at >= at => last.total = last.total.wrapping_add(units),
            last => {
                let before = last.map_or(self.expired, |last| last.total);
                self.entries.push(Entry { at, total: before.wrapping_add(units) });
            }
        }
    }

    /// When so many of the units have expired; `None` if there are not so many.
    fn expiry(&self, window: &Window, units: u64) -> Option<Micros> {
        let first = self.entries.partition_point(|entry| entry.total.wrapping_sub(self.expired) < units);
        self.entries.get(first).map(|entry| entry.at.saturating_add(length(window)))
    }
}

#[cfg(test)]
impl EventLog {
    /// A log of which this much has expired.
    pub fn expired(expired: u64) -> EventLog {
        EventLog { expired, entries: Logged::default() }
    }

    /// Entries for which there is room.
    pub fn memory(&self) -> usize {
        self.entries.room()
    }
}
