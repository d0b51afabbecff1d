//! A token bucket below zero that refills faster than by its own rate.
//!
//! New values may have put it there: it pays at the faster of the old and the new rate, so that no caller waits longer
//! than under the old values. What it owes is kept in parts of a unit of that faster speed, so that paying rounds
//! nothing; where it reaches zero between two looks, the rest of the time counts at its own rate, rounded down once, to
//! the same level whenever that is noticed.

use super::token_bucket::{Bucket, Missing, level};
use crate::bounds::{MAX_PERIOD_MS, MAX_UNITS};
use crate::clock::Micros;
use crate::limit::counting::parts::StateParts;
use crate::limit::counting::quote::Quote;
use crate::limit::counting::speed::{Speed, narrow, product};
use crate::limit::window::Window;

/// The level of a bucket below zero at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    /// Parts of a unit below zero, each one `speed.per`-th; more than 0.
    owed: u128,
    /// Faster than the bucket's own rate.
    speed: Speed,
    at: Micros,
    /// When the bucket was last full.
    full_at: Micros,
}

impl Debt {
    /// A bucket that lacks more than its capacity; `None` if it does not, or if its own rate is as fast.
    pub fn lacking(window: &Window, missing: Missing, speed: Speed, at: Micros) -> Option<Debt> {
        if missing.units < window.capacity() || !speed.is_faster_than(Speed::of(window)) {
            return None;
        }
        let (whole, part) = level(window, missing, speed.per);
        (whole < 0).then(|| Debt { owed: below(whole, part, speed.per), speed, at, full_at: at })
    }

    /// From its parts as they are in a snapshot; `None` for what is not a debt.
    pub fn restore(window: &Window, whole: i64, part: u64, at: Micros, full_at: Micros, speed: Speed) -> Option<Debt> {
        let bounds = (1..=2 * MAX_UNITS).contains(&speed.units) && (1..=MAX_PERIOD_MS * 1000).contains(&speed.per);
        if whole >= 0 || !bounds || !speed.is_faster_than(Speed::of(window)) {
            return None;
        }
        let whole = whole.max(-(MAX_UNITS as i64));
        let owed = below(whole, part.min(speed.per - 1), speed.per);
        Some(Debt { owed, speed, at, full_at: full_at.min(at) })
    }

    pub fn parts(&self) -> StateParts {
        let units = self.units();
        StateParts::Bucket {
            whole: -(units as i64),
            part: (product(units, self.speed.per) - self.owed) as u64,
            at: self.at,
            full_at: self.full_at,
            fast: Some((self.speed.units, self.speed.per)),
        }
    }

    /// Whole units below zero, rounded up.
    fn units(&self) -> u64 {
        narrow(self.owed.div_ceil(u128::from(self.speed.per)))
    }

    pub fn missing(&self, window: &Window) -> Missing {
        let per = u128::from(self.speed.per);
        Missing {
            units: window.capacity() + narrow(self.owed / per),
            part: (self.owed % per) as u64,
            per: self.speed.per,
        }
    }

    pub fn speed(&self) -> Speed {
        self.speed
    }

    /// Parts of a unit below zero, and the speed whose parts they are.
    pub fn owed(&self) -> (u128, Speed) {
        (self.owed, self.speed)
    }

    pub fn at(&self) -> Micros {
        self.at
    }

    pub fn full_at(&self) -> Micros {
        self.full_at
    }

    /// The same, last full at an earlier instant.
    pub fn last_full(self, full_at: Micros) -> Debt {
        Debt { full_at: full_at.min(self.at), ..self }
    }

    /// Gives back units; the bucket itself once nothing is owed.
    pub fn give(&mut self, window: &Window, units: u64) -> Option<Bucket> {
        let given = product(units, self.speed.per);
        if given < self.owed {
            self.owed -= given;
            return None;
        }
        let (over, per) = (given - self.owed, u128::from(self.speed.per));
        let mut bucket = self.paid(window);
        // At most 10^12 units of parts: 80 bits, and 60 of a period.
        let length = u128::from(Speed::of(window).per);
        bucket.add(window, over / per * length + over % per * length / per);
        Some(bucket)
    }

    /// The bucket at zero.
    fn paid(&self, window: &Window) -> Bucket {
        let missing = Missing::whole(window.capacity());
        Bucket::lacking(window, missing, self.at).last_full(window, self.full_at)
    }

    /// Units that count, rounded up.
    pub fn used(&self, window: &Window) -> u64 {
        window.capacity() + self.units()
    }

    /// Pays; the bucket itself once nothing is owed.
    pub fn advance(&mut self, window: &Window, now: Micros) -> Option<Bucket> {
        let paid = product(now.saturating_sub(self.at), self.speed.units);
        self.at = self.at.max(now);
        if paid < self.owed {
            self.owed -= paid;
            return None;
        }
        // This many parts too much were paid, `speed.units` of them in a microsecond.
        let (over, units, rate) = (paid - self.owed, u128::from(self.speed.units), u128::from(window.rate()));
        let mut bucket = self.paid(window);
        bucket.add(window, over / units * rate + over % units * rate / units);
        Some(bucket)
    }

    pub fn quote(&self, window: &Window, now: Micros, cost: u64) -> Quote {
        let retry = match cost {
            0 => Some(0),
            cost if cost > window.capacity() => None,
            cost => self.until(window, cost),
        };
        Quote {
            allowed: cost == 0,
            remaining: 0,
            used: self.used(window),
            debt: self.units(),
            reset_at: now.saturating_add(self.until(window, window.capacity()).unwrap_or(Micros::MAX)),
            retry,
            next: self.until(window, 1),
        }
    }

    pub fn spend(&mut self, cost: u64) {
        let most = product(MAX_UNITS, self.speed.per);
        self.owed = (self.owed + product(cost, self.speed.per)).min(most);
    }

    /// Microseconds until `level` whole units are there; `None` for never. Above zero the bucket gains
    /// `over * rate / speed.units` parts, rounded down, where `over` parts too much were paid.
    fn until(&self, window: &Window, level: u64) -> Option<Micros> {
        let (units, rate) = (u128::from(self.speed.units), u128::from(window.rate()));
        let over = match level {
            0 => 0,
            _ if rate == 0 => return None,
            // At most 10^12 units, 366 days and 2 * 10^12 units: 126 bits.
            level => (product(level, Speed::of(window).per) * units).div_ceil(rate),
        };
        Some(narrow((self.owed + over).div_ceil(units)))
    }
}

/// Parts of a unit by which a level is below zero.
fn below(whole: i64, part: u64, per: Micros) -> u128 {
    product(whole.unsigned_abs(), per) - u128::from(part)
}
