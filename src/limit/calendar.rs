//! The calendar: where days, weeks, months, quarters and years begin.
//!
//! The beginnings of the days of a zone divide its time: the beginning of a date is the first instant at which a clock
//! there shows that date or a later one. So each instant lies in exactly one period, also where a clock is put back
//! over midnight, where midnight is left out, and where a whole day is: such a day has no length.

use std::cell::RefCell;

use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::period::{CalendarUnit, Period};
use super::window::Window;
use crate::bounds::MAX_WINDOWS;
use crate::clock::Micros;

/// Where calendar windows end. Whoever decides asks the zone data and notes the answers ([`Live`]); whoever replays has
/// them from the record ([`Recorded`]), in the same order.
pub trait Ends {
    /// The end of the calendar period of `window` that contains `at`: later than `at`.
    fn end(&mut self, window: &Window, at: Micros) -> Micros;
}

/// Ends from the zone data, noted in the order in which they were asked for. A zone that this machine does not know is
/// taken as UTC and logged once.
#[derive(Debug, Default)]
pub struct Live(pub Vec<Micros>);

impl Ends for Live {
    fn end(&mut self, window: &Window, at: Micros) -> Micros {
        let (_, end) = bounds_of(window, at);
        self.0.push(end);
        end
    }
}

/// Ends from a record. One that is missing there is `at` plus the nominal length (a damaged record must not panic), and
/// so is one that is not later than `at`.
#[derive(Debug)]
pub struct Recorded<'a>(pub std::slice::Iter<'a, Micros>);

impl Ends for Recorded<'_> {
    fn end(&mut self, window: &Window, at: Micros) -> Micros {
        let recorded = self.0.next().copied().filter(|end| *end > at);
        recorded.unwrap_or_else(|| at.saturating_add(window.period().nominal()))
    }
}

/// Beginning and end of the calendar period of `window` that contains `at`, by the zone data of today; a beginning
/// before 1970 is 0. A fixed period begins at `at`.
///
/// A thread finds what it asked for lately in a few nanoseconds, so new zone data counts from the next period on.
pub fn bounds_of(window: &Window, at: Micros) -> (Micros, Micros) {
    match window.period() {
        Period::Fixed(length) => (at, at.saturating_add(length)),
        period @ Period::Calendar { unit, zone, anchor } => LATELY.with_borrow_mut(|lately| {
            if let Some(found) = lately.find(period, at) {
                return found;
            }
            match bounds(unit, anchor, &zone.data(), at) {
                Some(found) => lately.keep(period, found),
                // No calendar goes on after the year 9999.
                None => {
                    let begin = at - at % period.nominal();
                    (begin, begin.saturating_add(period.nominal()).max(at.saturating_add(1)))
                }
            }
        }),
    }
}

/// The periods that a thread asked for lately: those of one limit, or of as many.
struct Lately {
    found: [Option<(Period, Micros, Micros)>; MAX_WINDOWS],
    next: usize,
}

thread_local! {
    static LATELY: RefCell<Lately> = const { RefCell::new(Lately { found: [None; MAX_WINDOWS], next: 0 }) };
}

impl Lately {
    fn find(&self, period: Period, at: Micros) -> Option<(Micros, Micros)> {
        let fits = |found: &&(Period, Micros, Micros)| found.1 <= at && at < found.2 && found.0 == period;
        self.found.iter().flatten().find(fits).map(|(_, begin, end)| (*begin, *end))
    }

    fn keep(&mut self, period: Period, (begin, end): (Micros, Micros)) -> (Micros, Micros) {
        self.found[self.next] = Some((period, begin, end));
        self.next = (self.next + 1) % MAX_WINDOWS;
        (begin, end)
    }
}

/// Beginning and end of the period that contains `at`; `None` where the calendar of the library ends.
fn bounds(unit: CalendarUnit, anchor: u8, zone: &TimeZone, at: Micros) -> Option<(Micros, Micros)> {
    let at = Timestamp::from_microsecond(i64::try_from(at).ok()?).ok()?;
    // What a clock shows may be a little off: past midnight, and then put back over it.
    let mut first = first_day(unit, anchor, zone.to_datetime(at).date())?;
    while beginning(first, zone)? > at {
        first = first_day(unit, anchor, first.yesterday().ok()?)?;
    }
    loop {
        let next = next_first_day(unit, anchor, first)?;
        let end = beginning(next, zone)?;
        if end > at {
            let micros = |at: Timestamp| at.as_microsecond().max(0).unsigned_abs();
            return Some((micros(beginning(first, zone)?), micros(end)));
        }
        first = next;
    }
}

/// The first day of the period that contains `date`.
fn first_day(unit: CalendarUnit, anchor: u8, date: Date) -> Option<Date> {
    match unit.months() {
        None if unit == CalendarUnit::Day => Some(date),
        None if date.weekday() == Weekday::Monday => Some(date),
        None => date.nth_weekday(-1, Weekday::Monday).ok(),
        Some(months) => {
            let before = (date.month() - 1) % months;
            let month = date.first_of_month().checked_sub(before.months()).ok()?;
            match anchored(month, anchor)? {
                first if first <= date => Some(first),
                _ => anchored(month.checked_sub(months.months()).ok()?, anchor),
            }
        }
    }
}

/// The first day of the period after the one that begins on `first`.
fn next_first_day(unit: CalendarUnit, anchor: u8, first: Date) -> Option<Date> {
    match unit.months() {
        None if unit == CalendarUnit::Day => first.tomorrow().ok(),
        None => first.checked_add(1.week()).ok(),
        Some(months) => anchored(first.first_of_month().checked_add(months.months()).ok()?, anchor),
    }
}

/// The day `anchor` of a month, or its last.
fn anchored(month: Date, anchor: u8) -> Option<Date> {
    let day = i8::try_from(anchor).ok()?.min(month.days_in_month());
    month.with().day(day).build().ok()
}

/// The first instant at which a clock in the zone shows `date` or a later one.
fn beginning(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    let midnight = zone.to_ambiguous_timestamp(date.to_datetime(jiff::civil::Time::midnight()));
    match midnight.offset() {
        // Midnight is left out: the clock is put forward over it. The later reading is at that instant or after it.
        AmbiguousOffset::Gap { .. } => {
            let later = midnight.later().ok()?;
            let after = later.checked_add(SignedDuration::from_nanos(1)).ok()?;
            Some(zone.preceding(after).next().map_or(later, |transition| transition.timestamp()))
        }
        // Once, or for the first time.
        _ => midnight.earlier().ok(),
    }
}
