//! The calendar: where days, weeks, months, quarters and years begin.
//!
//! The beginnings of the days of a zone divide its time: the beginning of a date is the first instant at which a clock
//! there shows that date or a later one. So each instant lies in exactly one period, even if a clock is put back
//! over midnight, where midnight is left out, and where a whole day is: such a day has no length.

use std::cell::RefCell;

use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::period::{CalendarUnit, Period};
use super::window::Window;
use crate::bounds::MAX_WINDOWS;
use crate::clock::Micros;

/// Where calendar windows end. A check asks the zone data and notes the answers ([`Live`]); a replay has
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

/// Ends from a record. An end that is missing there is `at` plus the nominal length (a damaged record must not panic),
/// and so is an end that is not later than `at`.
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

/// Beginning and end of the period that contains `at`; `None` if the calendar of the library ends.
fn bounds(unit: CalendarUnit, anchor: u8, zone: &TimeZone, at: Micros) -> Option<(Micros, Micros)> {
    let at = Timestamp::from_microsecond(i64::try_from(at).ok()?).ok()?;
    // The date that a clock shows has begun. The next one may have too, where the clock was put back over midnight.
    let mut first = first_day(unit, anchor, zone.to_datetime(at).date())?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limit::Algorithm;
    use crate::limit::zone::Zone;

    fn window(period: Period) -> Window {
        Window::of(1, period, Algorithm::FixedWindowCounter, None).unwrap()
    }

    fn of(unit: CalendarUnit, tz: &str, anchor: u64) -> Window {
        let period = Period::calendar(unit).with_tz(tz).unwrap();
        window(if unit.months().is_some() { period.with_anchor(anchor).unwrap() } else { period })
    }

    fn micros(at: &str) -> Micros {
        at.parse::<Timestamp>().unwrap().as_microsecond().unsigned_abs()
    }

    /// Beginning and end as a person would write them. Computed too: a neighbour may have been asked for lately.
    fn between(window: &Window, at: &str) -> (String, String) {
        let text = |at: Micros| Timestamp::from_microsecond(at as i64).unwrap().to_string();
        let Period::Calendar { unit, zone, anchor } = window.period() else { panic!("{window}") };
        let found = bounds_of(window, micros(at));
        assert_eq!(bounds(unit, anchor, &zone.data(), micros(at)).unwrap(), found, "{window} {at}");
        (text(found.0), text(found.1))
    }

    fn hours(window: &Window, at: &str) -> f64 {
        let (begin, end) = bounds_of(window, micros(at));
        (end - begin) as f64 / 3_600_000_000.0
    }

    #[test]
    fn units_begin_where_the_calendar_says() {
        use CalendarUnit::{Day, Month, Quarter, Week, Year};
        for (unit, tz, anchor, at, begin, end) in [
            (Day, "UTC", 1, "2026-11-25T21:40:00Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"),
            (Day, "UTC", 1, "2026-11-25T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"),
            (Day, "UTC", 1, "2026-11-25T23:59:59.999999Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"),
            (Day, "Asia/Kathmandu", 1, "2026-11-25T18:14:59Z", "2026-11-24T18:15:00Z", "2026-11-25T18:15:00Z"),
            (Day, "Asia/Kathmandu", 1, "2026-11-25T18:15:00Z", "2026-11-25T18:15:00Z", "2026-11-26T18:15:00Z"),
            // 2026-11-23 is a Monday.
            (Week, "UTC", 1, "2026-11-25T21:40:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "UTC", 1, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "UTC", 1, "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "UTC", 1, "2026-01-01T00:00:00Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
            (Week, "Europe/Berlin", 1, "2026-03-29T12:00:00Z", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Month, "UTC", 1, "2026-11-25T21:40:00Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            (Month, "UTC", 15, "2026-11-25T21:40:00Z", "2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z"),
            (Month, "UTC", 15, "2026-11-14T23:59:59Z", "2026-10-15T00:00:00Z", "2026-11-15T00:00:00Z"),
            (Month, "UTC", 15, "2026-01-14T00:00:00Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"),
            // 31 through February: of a leap year, of another one, and of 2000 and 2100.
            (Month, "UTC", 31, "2028-02-15T00:00:00Z", "2028-01-31T00:00:00Z", "2028-02-29T00:00:00Z"),
            (Month, "UTC", 31, "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"),
            (Month, "UTC", 31, "2028-03-30T23:59:59Z", "2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"),
            (Month, "UTC", 31, "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"),
            (Month, "UTC", 31, "2000-03-01T00:00:00Z", "2000-02-29T00:00:00Z", "2000-03-31T00:00:00Z"),
            (Month, "UTC", 30, "2100-03-01T00:00:00Z", "2100-02-28T00:00:00Z", "2100-03-30T00:00:00Z"),
            (Month, "UTC", 31, "2026-04-30T00:00:00Z", "2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z"),
            (Quarter, "UTC", 1, "2026-11-25T21:40:00Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Quarter, "UTC", 1, "2026-03-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            (Quarter, "UTC", 31, "2026-04-29T00:00:00Z", "2026-01-31T00:00:00Z", "2026-04-30T00:00:00Z"),
            (Quarter, "UTC", 31, "2026-04-30T00:00:00Z", "2026-04-30T00:00:00Z", "2026-07-31T00:00:00Z"),
            (Quarter, "UTC", 10, "2026-01-09T00:00:00Z", "2025-10-10T00:00:00Z", "2026-01-10T00:00:00Z"),
            (Year, "UTC", 1, "2026-11-25T21:40:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Year, "UTC", 31, "2026-01-30T00:00:00Z", "2025-01-31T00:00:00Z", "2026-01-31T00:00:00Z"),
            (Year, "Asia/Tokyo", 1, "2026-12-31T15:00:00Z", "2026-12-31T15:00:00Z", "2027-12-31T15:00:00Z"),
            (Year, "Europe/Berlin", 1, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-12-31T23:00:00Z"),
        ] {
            let found = between(&of(unit, tz, anchor), at);
            assert_eq!((found.0.as_str(), found.1.as_str()), (begin, end), "{unit:?} {tz} {anchor} {at}");
        }
    }

    #[test]
    fn days_are_as_long_as_they_are() {
        let day = |tz| of(CalendarUnit::Day, tz, 1);
        for (tz, at, length) in [
            ("Europe/Berlin", "2026-03-28T12:00:00Z", 24.0),
            ("Europe/Berlin", "2026-03-29T12:00:00Z", 23.0),
            ("Europe/Berlin", "2026-10-25T12:00:00Z", 25.0),
            ("America/New_York", "2026-03-08T17:00:00Z", 23.0),
            ("America/New_York", "2026-11-01T17:00:00Z", 25.0),
            ("Australia/Lord_Howe", "2026-10-04T00:00:00Z", 23.5),
            // Ramadan: the clock goes back at 3:00 and forward at 2:00.
            ("Africa/Casablanca", "2026-02-15T12:00:00Z", 25.0),
            ("Africa/Casablanca", "2026-03-22T12:00:00Z", 23.0),
            ("Asia/Kathmandu", "2026-03-29T12:00:00Z", 24.0),
            // A quarter of an hour was left out right at midnight.
            ("Asia/Kathmandu", "1986-01-01T12:00:00Z", 23.75),
        ] {
            assert_eq!(hours(&day(tz), at), length, "{tz} {at}");
        }
    }

    #[test]
    fn days_without_a_midnight_or_with_two() {
        let sao_paulo = of(CalendarUnit::Day, "America/Sao_Paulo", 1);
        // 2018-11-04 began at 1:00; 2018-02-17 had 23:00 to midnight twice.
        for (at, begin, end) in [
            ("2018-11-04T02:59:59Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z"),
            ("2018-11-04T03:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
            ("2018-02-18T01:59:59Z", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"),
            ("2018-02-18T02:30:00Z", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"),
            ("2018-02-18T03:00:00Z", "2018-02-18T03:00:00Z", "2018-02-19T03:00:00Z"),
        ] {
            assert_eq!(between(&sao_paulo, at), (begin.into(), end.into()), "{at}");
        }
        // Havana puts its clock back from 1:00 to 0:00: the day begins with the first of the two.
        let havana = of(CalendarUnit::Day, "America/Havana", 1);
        assert_eq!(
            between(&havana, "2025-11-02T05:30:00Z"),
            ("2025-11-02T04:00:00Z".into(), "2025-11-03T05:00:00Z".into())
        );
        // St. John's did at 0:01, to 23:01 of the day before: what came twice belongs to the new day.
        let st_johns = of(CalendarUnit::Day, "America/St_Johns", 1);
        let (begin, end) = ("2010-11-07T02:30:00Z".to_owned(), "2010-11-08T03:30:00Z".to_owned());
        for at in ["2010-11-07T02:30:30Z", "2010-11-07T02:31:00Z", "2010-11-07T03:29:59Z", "2010-11-07T03:30:00Z"] {
            assert_eq!(between(&st_johns, at), (begin.clone(), end.clone()), "{at}");
        }
        assert_eq!(between(&st_johns, "2010-11-07T02:29:59Z").1, begin);
        // Toronto went from 23:30 to 0:30 in 1919, Casablanca from 24:00 to 1:00 on the first of June 2008.
        let zone = Zone::named("America/Toronto").unwrap().data();
        let toronto = beginning(jiff::civil::date(1919, 3, 31), &zone).unwrap();
        assert_eq!(toronto.to_string(), "1919-03-31T04:30:00Z");
        let casablanca = of(CalendarUnit::Day, "Africa/Casablanca", 1);
        assert_eq!(
            between(&casablanca, "2008-06-01T12:00:00Z"),
            ("2008-06-01T00:00:00Z".into(), "2008-06-01T23:00:00Z".into())
        );
    }

    #[test]
    fn a_day_that_was_left_out_has_no_length() {
        // Samoa had no 2011-12-30: midnight after the 29th began the 31st.
        let gone = "2011-12-30T10:00:00Z";
        for (unit, anchor, before, after) in [
            (CalendarUnit::Day, 1, "2011-12-29T10:00:00Z", "2011-12-31T10:00:00Z"),
            (CalendarUnit::Month, 30, "2011-11-30T10:00:00Z", "2012-01-29T10:00:00Z"),
            (CalendarUnit::Month, 31, "2011-11-30T10:00:00Z", "2012-01-30T10:00:00Z"),
        ] {
            let apia = of(unit, "Pacific/Apia", anchor);
            assert_eq!(
                between(&apia, "2011-12-30T09:59:59.999999Z"),
                (before.into(), gone.into()),
                "{unit:?} {anchor}"
            );
            assert_eq!(between(&apia, gone), (gone.into(), after.into()), "{unit:?} {anchor}");
        }
        assert_eq!(hours(&of(CalendarUnit::Week, "Pacific/Apia", 1), gone), 6.0 * 24.0);
    }

    #[test]
    fn beyond_the_calendar_a_period_still_ends() {
        let zones = [Zone::UTC, Zone::named("Pacific/Apia").unwrap(), Zone::recorded("Atlantis/Nowhere")];
        for at in
            [0, 1, 253_402_207_200_000_000, 253_402_300_799_999_999, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1]
        {
            for zone in zones {
                for unit in CalendarUnit::ALL.iter().copied() {
                    let (begin, end) = bounds_of(&window(Period::Calendar { unit, zone, anchor: 1 }), at);
                    assert!(begin <= at && at < end, "{at} {zone} {unit:?}: {begin} {end}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_zone_is_taken_as_utc() {
        let unknown =
            window(Period::Calendar { unit: CalendarUnit::Day, zone: Zone::recorded("Atlantis/Deep"), anchor: 1 });
        assert_eq!(between(&unknown, "2026-11-25T21:40:00Z").0, "2026-11-25T00:00:00Z");
    }

    #[test]
    fn ends_are_noted_and_given_again_in_order() {
        let (day, month) = (of(CalendarUnit::Day, "Europe/Berlin", 1), of(CalendarUnit::Month, "UTC", 31));
        let at = micros("2026-11-25T21:40:00Z");
        let mut live = Live::default();
        let ends = [live.end(&day, at), live.end(&month, at), live.end(&day, at)];
        assert_eq!(ends, [micros("2026-11-25T23:00:00Z"), micros("2026-11-30T00:00:00Z"), ends[0]]);
        assert_eq!(live.0, ends);
        let mut recorded = Recorded(live.0.iter());
        assert_eq!([recorded.end(&day, at), recorded.end(&month, at), recorded.end(&day, at)], ends);
        // What is missing or can't be is as long as such a period is on average.
        assert_eq!(recorded.end(&day, at), at + 86_400_000_000);
        assert_eq!(Recorded([at].iter()).end(&month, at), at + month.period().nominal());
        assert_eq!(Recorded([].iter()).end(&day, u64::MAX), u64::MAX);
        assert_eq!(bounds_of(&Window::of(1, Period::Fixed(1000), Algorithm::default(), None).unwrap(), 5), (5, 1005));
    }

    #[test]
    fn what_was_asked_lately_is_not_computed_again() {
        let windows: Vec<Window> = (1..=8).map(|anchor| of(CalendarUnit::Month, "Europe/Berlin", anchor)).collect();
        let at = micros("2026-11-25T21:40:00Z");
        let kept = || LATELY.with_borrow(|lately| lately.next);
        let (before, first): (usize, Vec<_>) = (kept(), windows.iter().map(|window| bounds_of(window, at)).collect());
        assert_eq!(kept(), before, "eight were kept, in a ring of eight");
        bounds_of(&of(CalendarUnit::Day, "UTC", 1), at);
        let after = kept();
        assert_ne!(after, before);
        // The oldest gave way; the others, and the day, are found.
        for (window, bounds) in windows.iter().zip(&first).skip(1) {
            assert_eq!(bounds_of(window, at + 1), *bounds);
        }
        assert_eq!(kept(), after);
        // One microsecond before, and at the end, it is another period.
        let (begin, end) = first[7];
        assert_eq!((bounds_of(&windows[7], begin - 1).1, bounds_of(&windows[7], end).0), (begin, end));
    }

    fn zones() -> impl Strategy<Value = Zone> {
        let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let odd = [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Africa/Casablanca",
            "America/Sao_Paulo",
            "Pacific/Apia",
            "Pacific/Kwajalein",
            "Pacific/Kiritimati",
            "Asia/Kathmandu",
            "America/St_Johns",
            "America/Havana",
            "Australia/Lord_Howe",
            "Antarctica/Troll",
            "Africa/Monrovia",
            "Asia/Gaza",
            "America/Scoresbysund",
        ];
        let named = |name: &str| Zone::named(name).unwrap_or(Zone::UTC);
        prop_oneof![
            prop::sample::select(odd.to_vec()).prop_map(named),
            prop::sample::select(names).prop_map(move |name| named(&name)),
        ]
    }

    /// Instants of 1970 to 2100, many of them near a change of a zone's clock.
    fn instants() -> impl Strategy<Value = (Zone, Micros)> {
        let last = micros("2100-01-01T00:00:00Z");
        (
            zones(),
            0..last,
            any::<bool>(),
            prop_oneof![-90_000_000_000..90_000_000_000i64, -4_000_000_000..4_000_000_000i64],
            0..3u8,
        )
            .prop_map(|(zone, at, near, off, exact)| {
                let change = Timestamp::from_microsecond(at as i64).ok().and_then(|at| {
                    let data = zone.data();
                    data.following(at).next().map(|change| change.timestamp().as_microsecond())
                });
                let off = if exact == 0 { off.signum() } else { off };
                match change.filter(|_| near) {
                    Some(change) => (zone, change.saturating_add(off).max(0).unsigned_abs()),
                    None => (zone, at),
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn periods_tile_time((zone, at) in instants(), unit in 0..5usize, anchor in 1..=31u8) {
            let unit = CalendarUnit::ALL[unit];
            let anchor = if unit.months().is_some() { anchor } else { 1 };
            let data = zone.data();
            let (begin, end) = bounds(unit, anchor, &data, at).unwrap();
            prop_assert!(begin <= at && at < end, "{begin} {at} {end}");
            // Every instant of the period has these bounds, and its neighbours touch it.
            for inside in [begin, at, begin + (end - begin) / 2, end - 1] {
                prop_assert_eq!(bounds(unit, anchor, &data, inside).unwrap(), (begin, end), "{}", inside);
            }
            prop_assert_eq!(bounds(unit, anchor, &data, end).unwrap().0, end);
            if begin > 0 {
                prop_assert_eq!(bounds(unit, anchor, &data, begin - 1).unwrap().1, begin);
            }
            // No length is far from what the unit promises.
            let nominal = Period::calendar(unit).nominal();
            prop_assert!(end - begin <= nominal + 4 * 86_400_000_000, "{begin} {end}");
            // And what is found lately is what is computed.
            let window = window(Period::Calendar { unit, zone, anchor });
            prop_assert_eq!(bounds_of(&window, at), (begin, end));
            prop_assert_eq!(bounds_of(&window, at), (begin, end));
        }

        /// A clock in the zone shows an earlier date just before a day begins.
        #[test]
        fn days_begin_when_the_date_changes((zone, at) in instants()) {
            let data = zone.data();
            let (begin, _) = bounds(CalendarUnit::Day, 1, &data, at).unwrap();
            let shown = |at: Micros| data.to_datetime(Timestamp::from_microsecond(at as i64).unwrap()).date();
            if begin > 0 {
                prop_assert!(shown(begin - 1) < shown(begin));
            }
            // Only a clock that is put back over midnight shows the day before.
            prop_assert!(shown(at) >= shown(begin) || shown(at).tomorrow().unwrap() == shown(begin));
        }
    }
}
