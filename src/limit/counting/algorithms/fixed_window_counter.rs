//! Fixed window counter: a window opens at the first check after the former one ended.
//!
//! A window of a fixed length ends so long after it was opened; a calendar window ends where the calendar says, which
//! is asked when it opens and kept.

use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::calendar::Ends;
use crate::limit::counting::parts::StateParts;
use crate::limit::counting::quote::Quote;
use crate::limit::period::Period;
use crate::limit::window::Window;

/// The open window. Closed, and then both instants are 0, while `used` is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FixedWindow {
    start: Micros,
    end: Micros,
    used: u64,
}

/// When a window that opens at `start` ends.
fn end_of(window: &Window, start: Micros, ends: &mut dyn Ends) -> Micros {
    match window.period() {
        Period::Fixed(length) => start.saturating_add(length),
        Period::Calendar { .. } => ends.end(window, start),
    }
}

impl FixedWindow {
    /// A window opened at `start` of which this much was used.
    pub fn opened(window: &Window, start: Micros, used: u64, ends: &mut dyn Ends) -> FixedWindow {
        match used {
            0 => FixedWindow::default(),
            used => FixedWindow { start, end: end_of(window, start, ends), used: used.min(most(window)) },
        }
    }

    /// A window from its parts as they are in a snapshot; what cannot have been written is clamped.
    pub fn restore(window: &Window, start: Micros, end: Micros, used: u64) -> FixedWindow {
        if used == 0 {
            return FixedWindow::default();
        }
        let end = match window.period() {
            Period::Fixed(length) => start.saturating_add(length),
            Period::Calendar { .. } => end.max(start),
        };
        FixedWindow { start, end, used: used.min(most(window)) }
    }

    /// The same window, judged by another one of the same period.
    pub fn judged(&self, window: &Window) -> FixedWindow {
        FixedWindow { used: self.used.min(most(window)), ..*self }
    }

    pub fn parts(&self) -> StateParts {
        StateParts::Window { start: self.start, end: self.end, used: self.used }
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn start(&self) -> Micros {
        self.start
    }

    pub fn end(&self) -> Micros {
        self.end
    }

    pub fn advance(&mut self, now: Micros) {
        if self.used > 0 && now >= self.end {
            *self = FixedWindow::default();
        }
    }

    pub fn allows(&self, window: &Window, cost: u64) -> bool {
        cost == 0 || self.used.saturating_add(cost) <= window.rate()
    }

    pub fn quote(&self, window: &Window, now: Micros, cost: u64, take: bool, ends: &mut dyn Ends) -> Quote {
        let allowed = self.allows(window, cost);
        let mut left = *self;
        if take {
            left.spend(window, now, cost, ends);
        }
        let wait = left.end.saturating_sub(now);
        Quote {
            allowed,
            remaining: window.rate().saturating_sub(left.used),
            used: left.used,
            debt: left.used.saturating_sub(window.rate()),
            reset_at: if left.used == 0 { now } else { left.end },
            retry: if allowed { Some(0) } else { (cost <= window.rate()).then_some(wait) },
            // Closed, `end` is 0 and so is the wait.
            next: (window.rate() > 0).then_some(wait),
        }
    }

    pub fn spend(&mut self, window: &Window, now: Micros, cost: u64, ends: &mut dyn Ends) {
        if self.used == 0 {
            *self = FixedWindow::opened(window, now, cost, ends);
        } else {
            self.used = self.used.saturating_add(cost).min(most(window));
        }
    }

    /// Gives back units that were spent at an instant, if that lies in this window. Returns how many.
    pub fn give_back(&mut self, held_at: Micros, units: u64) -> u64 {
        if (self.start..self.end).contains(&held_at) { self.give(units) } else { 0 }
    }

    /// Gives back units; a window that comes to nothing is as none. Returns how many.
    pub fn give(&mut self, units: u64) -> u64 {
        let given = units.min(self.used);
        self.used -= given;
        if self.used == 0 {
            *self = FixedWindow::default();
        }
        given
    }
}

/// The most that may be used: a debt has a bound.
fn most(window: &Window) -> u64 {
    window.rate() + MAX_UNITS
}
