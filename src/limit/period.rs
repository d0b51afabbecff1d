//! Periods: a fixed length, or a unit of the calendar.

use std::fmt;

use super::zone::Zone;
use crate::bounds::{MAX_PERIOD_MS, MIN_PERIOD_MS};
use crate::clock::Micros;
use crate::error::{Error, Result};

/// A unit of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CalendarUnit {
    /// From midnight to midnight.
    Day,
    /// From Monday.
    Week,
    /// From its first day, or the anchor.
    Month,
    /// January, April, July, October.
    Quarter,
    /// From the first of January.
    Year,
}

/// How long a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Period {
    /// So many microseconds: whole milliseconds, from 1 ms to 366 days.
    Fixed(Micros),
    /// A unit of the calendar.
    Calendar {
        /// Which one.
        unit: CalendarUnit,
        /// In which time zone its days begin.
        zone: Zone,
        /// Day of the month on which a month, quarter or year begins, 1 to 31, clamped to the month's last; 1 for days
        /// and weeks.
        anchor: u8,
    },
}

impl Period {
    /// A rough length in microseconds, for the canonical order and for comparing rates: a month has 30.4 days.
    pub fn nominal(&self) -> Micros {
        todo!()
    }
}

/// `1m`, `90s`, `250ms`, or the calendar's word.
impl fmt::Display for Period {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
