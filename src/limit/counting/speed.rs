//! How fast units come back, and the arithmetic of it.

use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::period::{CalendarUnit, Period};
use crate::limit::window::Window;

const HOUR: Micros = 3_600_000_000;
const DAY: Micros = 24 * HOUR;

/// This many units in this many microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    pub units: u64,
    pub per: Micros,
}

impl Speed {
    /// The speed of a window.
    pub fn of(window: &Window) -> Speed {
        Speed { units: window.rate(), per: length(window) }
    }

    pub fn is_faster_than(self, other: Speed) -> bool {
        product(self.units, other.per) > product(other.units, self.per)
    }

    /// This speed, or as much less that what pays at it, `after` parts, takes no shorter than `before` parts at the
    /// speed `own`, whose parts both are.
    pub fn at_most(self, own: Speed, after: u128, before: u128) -> Speed {
        // At most 2 * 10^12 units and as many parts as a unit has, 10^12 times: 126 bits.
        let units = u128::from(own.units) * after / before;
        let most = if units <= u128::from(2 * MAX_UNITS) {
            Speed { units: units as u64, per: own.per }
        } else {
            // In the parts of the other speed, so that units stay few. Where there is no room, it is beyond all speeds.
            let Some(units) = units.checked_mul(u128::from(self.per)) else { return self };
            Speed { units: narrow(units / u128::from(own.per)), per: self.per }
        };
        if most.is_faster_than(self) { self } else { most }
    }

    /// The faster of both.
    pub fn faster(self, other: Speed) -> Speed {
        if other.is_faster_than(self) { other } else { self }
    }
}

/// The period of a window in microseconds: nominal where it is the calendar's.
pub fn length(window: &Window) -> Micros {
    match window.period() {
        Period::Fixed(length) => length,
        calendar => calendar.nominal(),
    }
}

/// No period of this window is shorter: the calendar's are not all of one length.
pub fn shortest(window: &Window) -> Micros {
    match window.period() {
        Period::Fixed(length) => length,
        // February; the quarter from 31 January to 30 April. Two hours less, for the day on which summer time begins.
        Period::Calendar { unit, .. } => {
            let days = match unit {
                CalendarUnit::Day => 1,
                CalendarUnit::Week => 7,
                CalendarUnit::Month => 28,
                CalendarUnit::Quarter => 89,
                CalendarUnit::Year => 365,
            };
            days * DAY - 2 * HOUR
        }
    }
}

pub fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// `(a * b - less) / by`, rounded up. `less` is at most `a * b`.
pub fn ratio_up(a: u64, b: u64, less: u64, by: u64) -> u64 {
    match a.checked_mul(b) {
        // A division of 64 bits takes a fraction of the time.
        Some(product) => (product - less).div_ceil(by),
        None => narrow((product(a, b) - u128::from(less)).div_ceil(u128::from(by))),
    }
}

pub fn narrow(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}
