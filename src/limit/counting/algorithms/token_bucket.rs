//! Token bucket: `burst` units at most, refilled continuously at `rate` per period, in exact fractions.
//!
//! The level is `whole + part / period` units, with the period in microseconds. One microsecond adds `rate / period`
//! units, that is `rate` parts, so nothing is ever rounded: neither given away nor lost, however often the bucket is
//! looked at. A debt is a level below zero.
//!
//! A bucket remembers when it was last full: what was held before that has come back by itself, and is not given back
//! once more.

use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::counting::parts::StateParts;
use crate::limit::counting::quote::Quote;
use crate::limit::counting::speed::{Speed, length, product, ratio_up};
use crate::limit::window::Window;

/// The lowest level, in units.
const LOWEST: i64 = -(MAX_UNITS as i64);

/// The level of a bucket at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    whole: i64,
    /// Parts of a unit, each one `period`-th. Less than `period`, and 0 in a full bucket.
    part: u64,
    at: Micros,
    /// When it was last full, as far as that was looked at: `at` while it is.
    full_at: Micros,
}

/// What a bucket lacks: `units + part / per`, with `part` less than `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    pub units: u64,
    pub part: u64,
    pub per: Micros,
}

impl Missing {
    /// This many whole units.
    pub fn whole(units: u64) -> Missing {
        Missing { units, part: 0, per: 1 }
    }
}

/// The capacity, comparable with a level.
fn capacity(window: &Window) -> i64 {
    window.capacity() as i64
}

impl Bucket {
    /// A full bucket.
    pub fn full(window: &Window, at: Micros) -> Bucket {
        Bucket { whole: capacity(window), part: 0, at, full_at: at }
    }

    /// A bucket from its parts as they are in a snapshot; what cannot have been written is clamped.
    pub fn restore(window: &Window, whole: i64, part: u64, at: Micros, full_at: Micros) -> Bucket {
        if whole >= capacity(window) {
            return Bucket::full(window, at);
        }
        Bucket { whole: whole.max(LOWEST), part: part.min(length(window) - 1), at, full_at: full_at.min(at) }
    }

    /// A bucket that lacks this much. Parts of a unit are rounded so that nothing is given away. It gives back nothing
    /// that was held before `at`.
    pub fn lacking(window: &Window, missing: Missing, at: Micros) -> Bucket {
        let (whole, part) = level(window, missing, length(window));
        Bucket { whole, part, at, full_at: at }
    }

    /// The same, last full at an earlier instant.
    pub fn last_full(self, window: &Window, full_at: Micros) -> Bucket {
        if self.is_full(window) { self } else { Bucket { full_at: full_at.min(self.at), ..self } }
    }

    pub fn full_at(&self) -> Micros {
        self.full_at
    }

    pub fn parts(&self) -> StateParts {
        StateParts::Bucket { whole: self.whole, part: self.part, at: self.at, full_at: self.full_at, fast: None }
    }

    pub fn missing(&self, window: &Window) -> Missing {
        let per = length(window);
        // Parts are never there in a full bucket.
        let units = capacity(window).abs_diff(self.whole);
        match self.part {
            0 => Missing { units, part: 0, per },
            part => Missing { units: units - 1, part: per - part, per },
        }
    }

    pub fn at(&self) -> Micros {
        self.at
    }

    /// Parts of a unit below zero, and the speed whose parts they are.
    pub fn owed(&self, window: &Window) -> Option<(u128, Speed)> {
        let speed = Speed::of(window);
        (self.whole < 0).then(|| (product(self.whole.unsigned_abs(), speed.per) - u128::from(self.part), speed))
    }

    pub fn is_full(&self, window: &Window) -> bool {
        self.whole >= capacity(window)
    }

    /// Units that count, rounded up.
    pub fn used(&self, window: &Window) -> u64 {
        // The part is what is left of the last unit.
        capacity(window).abs_diff(self.whole)
    }

    pub fn advance(&mut self, window: &Window, now: Micros) {
        let elapsed = now.saturating_sub(self.at);
        if elapsed == 0 {
            return;
        }
        self.at = now;
        if self.whole >= capacity(window) {
            self.full_at = now;
            return;
        }
        let period = length(window);
        match elapsed.checked_mul(window.rate()).and_then(|gain| gain.checked_add(self.part)) {
            Some(parts) => {
                self.whole += (parts / period) as i64;
                self.part = parts % period;
                self.cap(window);
            }
            None => self.add(window, product(elapsed, window.rate())),
        }
    }

    /// Adds parts of a unit.
    pub fn add(&mut self, window: &Window, parts: u128) {
        let period = u128::from(length(window));
        let parts = parts + u128::from(self.part);
        self.whole = i64::try_from(parts / period).map_or(i64::MAX, |gain| self.whole.saturating_add(gain));
        self.part = (parts % period) as u64;
        self.cap(window);
    }

    fn cap(&mut self, window: &Window) {
        if self.whole >= capacity(window) {
            (self.whole, self.part, self.full_at) = (capacity(window), 0, self.at);
        }
    }

    pub fn allows(&self, cost: u64) -> bool {
        cost == 0 || i64::try_from(cost).is_ok_and(|cost| cost <= self.whole)
    }

    pub fn quote(&self, window: &Window, now: Micros, cost: u64, take: bool) -> Quote {
        let allowed = self.allows(cost);
        let retry = if allowed {
            Some(0)
        } else if cost > window.capacity() {
            None
        } else {
            self.until(window, cost as i64)
        };
        let left = if take { Bucket { whole: self.whole - cost as i64, ..*self } } else { *self };
        let next =
            if left.is_full(window) && window.rate() > 0 { Some(0) } else { left.until(window, left.whole.max(0) + 1) };
        Quote {
            allowed,
            remaining: left.whole.max(0) as u64,
            used: left.used(window),
            debt: left.whole.min(0).unsigned_abs(),
            reset_at: now.saturating_add(left.until(window, capacity(window)).unwrap_or(Micros::MAX)),
            retry,
            next,
        }
    }

    pub fn spend(&mut self, now: Micros, cost: u64) {
        // A bucket that was full from its beginning on has no time yet.
        if self.at < now {
            (self.at, self.full_at) = (now, now);
        }
        self.whole = i64::try_from(cost).map_or(LOWEST, |cost| self.whole.saturating_sub(cost).max(LOWEST));
    }

    /// Gives back units, up to the capacity. Returns how many.
    pub fn give(&mut self, window: &Window, units: u64) -> u64 {
        // No more than is missing, which is at most the capacity and the largest debt.
        let given = units.min(self.used(window));
        self.whole = self.whole.saturating_add_unsigned(given);
        self.cap(window);
        given
    }

    /// Microseconds until `level` whole units are there: the missing parts by the rate, rounded up. `None` for never.
    fn until(&self, window: &Window, level: i64) -> Option<Micros> {
        if level <= self.whole {
            return Some(0);
        }
        (window.rate() > 0).then(|| ratio_up(level.abs_diff(self.whole), length(window), self.part, window.rate()))
    }
}

/// The level of a bucket that lacks so much, in whole units and parts that are each one `per`-th: rounded down.
pub fn level(window: &Window, missing: Missing, per: Micros) -> (i64, u64) {
    let units = missing.units.min(2 * MAX_UNITS) as i64;
    let whole = capacity(window) - units;
    let (whole, part) = match missing.part {
        0 => (whole, 0),
        part => (whole - 1, product(missing.per - part, per) / u128::from(missing.per)),
    };
    if whole < LOWEST { (LOWEST, 0) } else { (whole, part as u64) }
}
