//! Periods: a fixed length, or a unit of the calendar.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::text::excerpt;
use super::zone::Zone;
use crate::bounds::{MAX_ANCHOR, MAX_PERIOD_MS, MIN_PERIOD_MS};
use crate::clock::Micros;
use crate::error::{Error, Result};

/// A length in milliseconds.
type Millis = u64;

/// Units of a length, with their milliseconds. Written with the largest that divides it; a week is written in days.
const UNITS: [(&str, Millis); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Words that are understood well enough to say what to write instead: so many of a unit.
const WORDS: [(&str, &str, u64); 11] = [
    ("sec", "s", 1),
    ("second", "s", 1),
    ("min", "m", 1),
    ("minute", "m", 1),
    ("hr", "h", 1),
    ("hour", "h", 1),
    ("day", "d", 1),
    ("week", "w", 1),
    ("month", "d", 30),
    ("quarter", "d", 91),
    ("year", "d", 365),
];

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

impl CalendarUnit {
    /// Every unit, from the shortest to the longest.
    pub const ALL: &[CalendarUnit] =
        &[CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Quarter, CalendarUnit::Year];

    /// The word in the HTTP API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            CalendarUnit::Day => "day",
            CalendarUnit::Week => "week",
            CalendarUnit::Month => "month",
            CalendarUnit::Quarter => "quarter",
            CalendarUnit::Year => "year",
        }
    }

    /// The months of a unit that begins on a day of a month; `None` for days and weeks.
    pub(super) const fn months(self) -> Option<i8> {
        match self {
            CalendarUnit::Day | CalendarUnit::Week => None,
            CalendarUnit::Month => Some(1),
            CalendarUnit::Quarter => Some(3),
            CalendarUnit::Year => Some(12),
        }
    }
}

/// How long a window is.
///
/// Its text is the value of `per`: `250ms`, `1m`, `7d`, or a word of the calendar. Zone and anchor of a calendar period
/// are separate values (`tz`, `anchor`); a text without them means UTC and the first day.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{CalendarUnit, Period};
///
/// assert_eq!("1w".parse::<Period>()?, Period::fixed(Duration::from_secs(7 * 24 * 3600))?);
/// assert_eq!("60".parse::<Period>()?.to_string(), "1m");
/// let billing = Period::calendar(CalendarUnit::Month).with_tz("UTC")?.with_anchor(15)?;
/// assert_eq!((billing.to_string().as_str(), billing.anchor()), ("month", Some(15)));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Period {
    /// This many microseconds: whole milliseconds, from 1 ms to 366 days.
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
    /// A fixed length: whole milliseconds, from 1 ms to 366 days.
    ///
    /// # Errors
    /// `invalid_argument`, naming `per`.
    pub fn fixed(per: Duration) -> Result<Period> {
        if !per.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(Error::invalid(format!("per must be whole milliseconds, not {per:?}")));
        }
        Period::of_millis(u64::try_from(per.as_millis()).unwrap_or(u64::MAX))
    }

    /// As [`Period::fixed`], in milliseconds.
    #[doc(hidden)]
    pub fn of_millis(per: Millis) -> Result<Period> {
        if !(MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&per) {
            return Err(Error::invalid(format!("per must be from 1ms to 366d, not {per}ms")));
        }
        Ok(Period::Fixed(per * 1000))
    }

    /// A unit of the calendar, in UTC, from its first day.
    pub const fn calendar(unit: CalendarUnit) -> Period {
        Period::Calendar { unit, zone: Zone::UTC, anchor: 1 }
    }

    /// The same in the IANA time zone of this name.
    ///
    /// # Errors
    /// `invalid_argument`, naming `tz`: an unknown zone, or a period that is not of the calendar.
    pub fn with_tz(self, tz: &str) -> Result<Period> {
        match self {
            Period::Calendar { unit, anchor, .. } => Ok(Period::Calendar { unit, zone: Zone::named(tz)?, anchor }),
            Period::Fixed(_) => Err(Error::invalid(format!(
                "tz is only for a calendar period (day, week, month, quarter, year); leave it out for per {self}"
            ))),
        }
    }

    /// The same from another day of the month, 1 to 31: the last day if a month has fewer. A quarter begins on it in
    /// January, April, July and October, a year in January.
    ///
    /// # Errors
    /// `invalid_argument`, naming `anchor`: out of its range, or a period that is not a month, quarter or year.
    pub fn with_anchor(self, anchor: u64) -> Result<Period> {
        match self {
            Period::Calendar { unit, zone, .. } if unit.months().is_some() => {
                let day = u8::try_from(anchor).ok().filter(|day| (1..=MAX_ANCHOR).contains(day));
                let day = day.ok_or_else(|| {
                    Error::invalid(format!("anchor must be a day of the month from 1 to {MAX_ANCHOR}, not {anchor}"))
                })?;
                Ok(Period::Calendar { unit, zone, anchor: day })
            }
            _ => {
                Err(Error::invalid(format!("anchor is only for a month, quarter or year; leave it out for per {self}")))
            }
        }
    }

    /// Refuses what only a caller that fills in the fields can make.
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Period::Fixed(micros) if !micros.is_multiple_of(1000) => {
                Err(Error::invalid(format!("per must be whole milliseconds, not {micros}us")))
            }
            Period::Fixed(micros) => Period::of_millis(micros / 1000).map(drop),
            Period::Calendar { anchor: 1, .. } => Ok(()),
            Period::Calendar { anchor, .. } => self.with_anchor(anchor.into()).map(drop),
        }
    }

    /// The time zone of a calendar period.
    pub const fn zone(&self) -> Option<Zone> {
        match self {
            Period::Fixed(_) => None,
            Period::Calendar { zone, .. } => Some(*zone),
        }
    }

    /// The day of the month on which a calendar month, quarter or year begins.
    pub fn anchor(&self) -> Option<u8> {
        match self {
            Period::Calendar { unit, anchor, .. } if unit.months().is_some() => Some(*anchor),
            _ => None,
        }
    }

    /// Whether it is a unit of the calendar.
    pub const fn is_calendar(&self) -> bool {
        matches!(self, Period::Calendar { .. })
    }

    /// The number and the unit of its text: `1m`. The words of the calendar have no number.
    pub(crate) fn words(&self) -> (Option<u64>, &'static str) {
        match self {
            Period::Fixed(micros) => {
                let (number, unit) = in_units(micros / 1000);
                (Some(number), unit)
            }
            Period::Calendar { unit, .. } => (None, unit.name()),
        }
    }

    /// A rough length in microseconds, for the canonical order and for comparing rates: a month has 30.4 days. Never 0.
    pub fn nominal(&self) -> Micros {
        // A year of the calendar has 365.2425 days on average.
        const MONTH: Micros = 2_629_746_000_000;
        match self {
            Period::Fixed(micros) => (*micros).max(1),
            Period::Calendar { unit: CalendarUnit::Day, .. } => 86_400_000_000,
            Period::Calendar { unit: CalendarUnit::Week, .. } => 604_800_000_000,
            Period::Calendar { unit: CalendarUnit::Month, .. } => MONTH,
            Period::Calendar { unit: CalendarUnit::Quarter, .. } => 3 * MONTH,
            Period::Calendar { unit: CalendarUnit::Year, .. } => 12 * MONTH,
        }
    }
}

/// By length; then fixed ones before those of the calendar, then by zone and anchor.
impl Ord for Period {
    fn cmp(&self, other: &Period) -> Ordering {
        let place = |period: &Period| (period.nominal(), period.zone(), period.anchor());
        place(self).cmp(&place(other))
    }
}

impl PartialOrd for Period {
    fn partial_cmp(&self, other: &Period) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `1m`, `90s`, `250ms`, or the calendar's word.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Period::Fixed(micros) => f.pad(&format_length(micros / 1000)),
            Period::Calendar { unit, .. } => f.pad(unit.name()),
        }
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Period> {
        if let Some(unit) = CalendarUnit::ALL.iter().copied().find(|unit| unit.name() == text) {
            return Ok(Period::calendar(unit));
        }
        match length(text).filter(|ms| (MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(ms)) {
            Some(ms) => Ok(Period::Fixed(ms * 1000)),
            None => Err(Error::invalid(said_otherwise(text).unwrap_or_else(|| {
                format!(
                    "per must be a whole number and a unit (ms, s, m, h, d, w) from 1ms to 366d, such as 10s, or one \
                     of day, week, month, quarter and year, not `{}`",
                    excerpt(text)
                )
            }))),
        }
    }
}

/// Reads a length of `least` to `most` milliseconds, in the form of a fixed period: `250ms`, `10s`, `h`, or a bare
/// integer for seconds.
///
/// # Errors
/// `invalid_argument`, naming `field`.
pub fn parse_length(field: &str, text: &str, least: Millis, most: Millis) -> Result<Millis> {
    length(text).filter(|ms| (least..=most).contains(ms)).ok_or_else(|| {
        Error::invalid(format!(
            "{field} must be a whole number and a unit (ms, s, m, h, d, w) from {} to {}, such as 10s, not `{}`",
            format_length(least),
            format_length(most),
            excerpt(text)
        ))
    })
}

/// Writes milliseconds with the largest unit that divides them, up to days: 60000 ms is `1m`, 90000 ms is `90s`.
pub fn format_length(ms: Millis) -> String {
    let (number, unit) = in_units(ms);
    format!("{number}{unit}")
}

fn in_units(ms: Millis) -> (u64, &'static str) {
    let fits = |(name, factor): &(&str, Millis)| *name != "w" && ms.is_multiple_of(*factor);
    let (name, factor) = UNITS.into_iter().find(fits).filter(|_| ms > 0).unwrap_or(("ms", 1));
    (ms / factor, name)
}

fn length(text: &str) -> Option<Millis> {
    let unit_of = |name: &str| UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, factor)| *factor);
    let (number, unit) = split(text);
    match (number, unit) {
        ("", "") => None,
        ("", "second") => Some(1000),
        ("", "minute") => Some(60_000),
        ("", "hour") => Some(3_600_000),
        ("", unit) => unit_of(unit),
        (number, "") => number.parse::<Millis>().ok()?.checked_mul(1000),
        (number, unit) => number.parse::<Millis>().ok()?.checked_mul(unit_of(unit)?),
    }
}

/// Digits, and what follows them.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// What to write instead of a number and a word, such as `1day`.
fn said_otherwise(text: &str) -> Option<String> {
    let (number, word) = split(text);
    let word = word.trim_start().to_ascii_lowercase();
    let word = word.strip_suffix('s').unwrap_or(&word);
    let (word, unit, times) = WORDS.into_iter().find(|(name, _, _)| *name == word)?;
    let number: u64 = if number.is_empty() { 1 } else { number.parse().ok()? };
    let instead = format!("{}{unit}", number.checked_mul(times)?);
    let fits = length(&instead).is_some_and(|ms| (MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&ms));
    let calendar = CalendarUnit::ALL.iter().any(|unit| unit.name() == word);
    let text = excerpt(text);
    match (fits, calendar) {
        (true, true) => {
            Some(format!("per must be `{instead}` for a length of time, or `{word}` for the calendar's, not `{text}`"))
        }
        (true, false) => Some(format!("per must be `{instead}`, not `{text}`")),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read() {
        for (text, ms, written) in [
            ("250ms", 250, "250ms"),
            ("10s", 10_000, "10s"),
            ("10", 10_000, "10s"),
            ("60000ms", 60_000, "1m"),
            ("90s", 90_000, "90s"),
            ("24h", 86_400_000, "1d"),
            ("7d", 604_800_000, "7d"),
            ("1w", 604_800_000, "7d"),
            ("52w", 364 * 86_400_000, "364d"),
            ("366d", MAX_PERIOD_MS, "366d"),
            ("1ms", 1, "1ms"),
            ("007s", 7000, "7s"),
            ("ms", 1, "1ms"),
            ("s", 1000, "1s"),
            ("m", 60_000, "1m"),
            ("h", 3_600_000, "1h"),
            ("d", 86_400_000, "1d"),
            ("w", 604_800_000, "7d"),
            ("second", 1000, "1s"),
            ("minute", 60_000, "1m"),
            ("hour", 3_600_000, "1h"),
        ] {
            let period = text.parse::<Period>().unwrap();
            assert_eq!((period, period.to_string().as_str()), (Period::Fixed(ms * 1000), written), "{text}");
            assert_eq!(written.parse::<Period>().unwrap(), period);
        }
        for unit in CalendarUnit::ALL.iter().copied() {
            assert_eq!(unit.name().parse::<Period>().unwrap(), Period::calendar(unit));
            assert_eq!(Period::calendar(unit).to_string(), unit.name());
        }
    }

    #[test]
    fn what_is_no_period_is_told() {
        for text in [
            "",
            "0",
            "0ms",
            "-1s",
            "+1s",
            "1.5s",
            "1 m",
            " 1m",
            "1M",
            "367d",
            "53w",
            "ſ",
            "day ",
            "DAYZ",
            "1mm",
            "99999999999999999999s",
            "18446744073709551615w",
            "fortnight",
            "2years",
            "1fortnight",
            "٣s",
        ] {
            let error = text.parse::<Period>().unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::InvalidArgument);
            assert!(error.message().starts_with("per must be a whole number and a unit"), "{text}: {error}");
        }
        for (text, offers) in [
            ("1day", &["`1d`", "`day`"][..]),
            ("7days", &["`7d`", "`day`"]),
            ("2 weeks", &["`2w`", "`week`"]),
            ("1month", &["`30d`", "`month`"]),
            ("months", &["`30d`", "`month`"]),
            ("1quarter", &["`91d`", "`quarter`"]),
            ("1Year", &["`365d`", "`year`"]),
            ("Day", &["`1d`", "`day`"]),
            ("5min", &["`5m`"]),
            ("10seconds", &["`10s`"]),
            ("2hours", &["`2h`"]),
        ] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(error.message().starts_with("per must be `"), "{text}: {error}");
            assert!(error.message().ends_with(&format!("not `{text}`")), "{error}");
            for offer in offers {
                assert!(error.message().contains(offer), "{text}: {error}");
                assert!(offer.trim_matches('`').parse::<Period>().is_ok());
            }
        }
    }

    #[test]
    fn lengths_name_their_field_and_range() {
        let ttl = |text| parse_length("ttl", text, 1000, 86_400_000);
        assert_eq!((ttl("1").unwrap(), ttl("24h").unwrap(), ttl("minute").unwrap()), (1000, 86_400_000, 60_000));
        for text in ["999ms", "86401", "day", "", "1day"] {
            let error = ttl(text).unwrap_err();
            assert!(error.message().starts_with("ttl must be") && error.message().contains("from 1s to 1d"), "{error}");
        }
        assert_eq!(
            (format_length(0), format_length(1500), format_length(14 * 86_400_000)),
            ("0ms".into(), "1500ms".into(), "14d".into())
        );
    }

    #[test]
    fn zone_and_anchor_belong_to_the_calendar() {
        let minute = Period::Fixed(60_000_000);
        assert!(minute.with_tz("UTC").unwrap_err().message().starts_with("tz is only for"));
        for period in [minute, Period::calendar(CalendarUnit::Day), Period::calendar(CalendarUnit::Week)] {
            assert!(period.with_anchor(1).unwrap_err().message().starts_with("anchor is only for"));
            assert_eq!(period.anchor(), None);
        }
        for unit in [CalendarUnit::Month, CalendarUnit::Quarter, CalendarUnit::Year] {
            let period = Period::calendar(unit).with_tz("Europe/Berlin").unwrap();
            assert_eq!((period.zone().unwrap().name(), period.anchor()), ("Europe/Berlin", Some(1)));
            assert_eq!(period.with_anchor(31).unwrap().anchor(), Some(31));
            for wrong in [0, 32, 257, u64::MAX] {
                let error = period.with_anchor(wrong).unwrap_err();
                assert!(error.message().starts_with("anchor must be") && error.message().ends_with(&wrong.to_string()));
            }
        }
        assert!(
            Period::calendar(CalendarUnit::Day).with_tz("Nowhere").unwrap_err().message().starts_with("tz `Nowhere`")
        );
    }

    #[test]
    fn the_order_is_by_length() {
        let mut periods: Vec<Period> =
            ["366d", "year", "365d", "quarter", "month", "30d", "week", "7d", "day", "1d", "1ms"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        periods.sort();
        let written: Vec<String> = periods.iter().map(Period::to_string).collect();
        assert_eq!(written, ["1ms", "1d", "day", "7d", "week", "30d", "month", "quarter", "365d", "year", "366d"]);
    }
}
