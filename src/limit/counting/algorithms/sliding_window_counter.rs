//! Sliding window counter: the last window's count, weighted by how much of it still lies within one period, plus this
//! window's count. The usual approximation: it takes the last window's units as evenly spread.
//!
//! At `passed` microseconds into the window the estimate is `previous * (period - passed) / period + current` units;
//! all comparisons are made with both sides multiplied by the period, so nothing is rounded.

use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::counting::parts::StateParts;
use crate::limit::counting::quote::{Detail, Quote};
use crate::limit::counting::speed::{length, product, ratio_up};
use crate::limit::window::Window;

/// This window's count and the last one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowPair {
    /// Beginning of the current window; 0 while both counts are 0.
    start: Micros,
    previous: u64,
    current: u64,
}

impl WindowPair {
    /// A window begun at `start` of which this much was used.
    pub fn begun(window: &Window, start: Micros, used: u64) -> WindowPair {
        WindowPair::restore(window, start, 0, used)
    }

    /// A pair from its parts as they are in a snapshot.
    pub fn restore(window: &Window, start: Micros, previous: u64, current: u64) -> WindowPair {
        let most = most(window);
        match (previous, current) {
            (0, 0) => WindowPair::default(),
            _ => WindowPair { start, previous: previous.min(most), current: current.min(most) },
        }
    }

    pub fn parts(&self) -> StateParts {
        StateParts::Pair { start: self.start, previous: self.previous, current: self.current }
    }

    pub fn detail(&self) -> Detail {
        let WindowPair { start, previous, current } = *self;
        Detail::Pair { previous, current, started_at: Some(start).filter(|start| *start > 0) }
    }

    pub fn start(&self) -> Micros {
        self.start
    }

    pub fn current(&self) -> u64 {
        self.current
    }

    /// The same counts, judged by another window.
    pub fn judged(&self, window: &Window) -> WindowPair {
        WindowPair::restore(window, self.start, self.previous, self.current)
    }

    pub fn advance(&mut self, window: &Window, now: Micros) {
        if self.is_untouched() {
            return;
        }
        let period = length(window);
        let elapsed = now.saturating_sub(self.start);
        if elapsed < period {
            return;
        }
        *self = if elapsed - period < period {
            WindowPair::restore(window, self.start + period, self.current, 0)
        } else {
            WindowPair::default()
        };
    }

    pub fn is_untouched(&self) -> bool {
        self.previous == 0 && self.current == 0
    }

    pub fn allows(&self, window: &Window, now: Micros, cost: u64) -> bool {
        cost == 0 || self.used(window, now).saturating_add(cost) <= window.rate()
    }

    pub fn quote(&self, window: &Window, now: Micros, cost: u64, take: bool) -> Quote {
        let rate = window.rate();
        let allowed = take || self.allows(window, now, cost);
        let mut left = *self;
        if take {
            left.spend(window, now, cost);
        }
        let used = left.used(window, now);
        let remaining = rate.saturating_sub(used);
        Quote {
            allowed,
            remaining,
            used,
            debt: used.saturating_sub(rate),
            reset_at: left.reset_at(window, now),
            retry: if allowed { Some(0) } else { self.until(window, now, cost) },
            next: if used == 0 && rate > 0 { Some(0) } else { left.until(window, now, remaining + 1) },
        }
    }

    pub fn spend(&mut self, window: &Window, now: Micros, cost: u64) {
        if self.is_untouched() {
            self.start = now;
        }
        let weighted = self.used(window, now) - self.current;
        self.current = self.current.saturating_add(cost).min(most(window).saturating_sub(weighted).max(self.current));
    }

    /// Gives back units that were spent at an instant, if that lies in one of the two windows. Returns how many.
    pub fn give_back(&mut self, window: &Window, held_at: Micros, units: u64) -> u64 {
        let (start, period) = (self.start, length(window));
        if (start..start.saturating_add(period)).contains(&held_at) {
            return self.give(units);
        }
        let before = start.saturating_sub(period)..start;
        let given = if before.contains(&held_at) { units.min(self.previous) } else { 0 };
        *self = WindowPair::restore(window, start, self.previous - given, self.current);
        given
    }

    /// Gives back units of this window; two counts of nothing are as none. Returns how many.
    pub fn give(&mut self, units: u64) -> u64 {
        let given = units.min(self.current);
        self.current -= given;
        if self.is_untouched() {
            *self = WindowPair::default();
        }
        given
    }

    fn reset_at(&self, window: &Window, now: Micros) -> Micros {
        let period = length(window);
        match (self.previous, self.current) {
            (0, 0) => now,
            (_, 0) => self.start.saturating_add(period),
            (_, _) => self.start.saturating_add(2 * period),
        }
    }

    /// The estimate, rounded up: a unit is left only when all of it is.
    pub fn used(&self, window: &Window, now: Micros) -> u64 {
        if self.previous == 0 {
            return self.current;
        }
        let period = length(window);
        let passed = now.saturating_sub(self.start).min(period);
        ratio_up(self.previous, period - passed, 0, period) + self.current
    }

    /// Microseconds until `cost` fits, which it does not now; `None` for never. In the current window that is when the
    /// last window's share has shrunk far enough; if this window's own count is in the way, it is in the next window,
    /// where this count is the shrinking one; and when `cost` needs all of it gone, at that window's end.
    fn until(&self, window: &Window, now: Micros, cost: u64) -> Option<Micros> {
        let period = length(window);
        let passed = now.saturating_sub(self.start);
        let free = window.rate().checked_sub(cost)?;
        let from_start = match free.checked_sub(self.current) {
            Some(room) => shrunk(self.previous, room, period),
            None => period + shrunk(self.current, free, period),
        };
        Some(from_start.saturating_sub(passed))
    }
}

/// Microseconds into a window until the share of a former window's `count` is at most `room`:
/// count * (period - passed) <= room * period.
fn shrunk(count: u64, room: u64, period: Micros) -> Micros {
    if count <= room {
        return 0;
    }
    let may_overlap = product(room, period) / u128::from(count);
    period - may_overlap as u64
}

/// The most that may be used: a debt has a bound.
fn most(window: &Window) -> u64 {
    window.rate() + MAX_UNITS
}
