//! Periods as text: `250ms`, `10s`, `1m`, `24h`, `7d`, and a bare integer for seconds.

use super::text::excerpt;
use crate::bounds::{MAX_PERIOD_MS, MIN_PERIOD_MS};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// Units from the largest down, with their milliseconds.
const UNITS: [(&str, Millis); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a period, in milliseconds.
///
/// # Errors
/// `invalid_argument`, naming `per`, for anything but an integer with one of the units, and outside 1 ms to 366 d.
pub fn parse_period(text: &str) -> Result<Millis> {
    let wrong = || {
        Error::invalid(format!(
            "per must be an integer and a unit (ms, s, m, h, d) from 1ms to 366d, such as 10s, not `{}`",
            excerpt(text)
        ))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1000,
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(wrong)?,
    };
    let period = number.parse::<Millis>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)?;
    if (MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&period) { Ok(period) } else { Err(wrong()) }
}

/// Writes a period with the largest unit that divides it: 60000 ms is `1m`, 90000 ms is `90s`.
pub fn format_period(period: Millis) -> String {
    let (name, factor) = UNITS.into_iter().find(|(_, factor)| period.is_multiple_of(*factor)).unwrap_or(("ms", 1));
    format!("{}{name}", period / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("10", 10_000),
            ("1m", 60_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("366d", MAX_PERIOD_MS),
            ("1ms", 1),
            ("007s", 7000),
        ] {
            assert_eq!(parse_period(text).unwrap(), ms, "{text}");
        }
        for text in [
            "",
            "s",
            "0",
            "0ms",
            "-1s",
            "+1s",
            "1.5s",
            "1 m",
            " 1m",
            "1M",
            "1min",
            "367d",
            "1w",
            "99999999999999999999s",
        ] {
            assert!(parse_period(text).unwrap_err().message().starts_with("per "), "{text}");
        }
    }

    #[test]
    fn periods_are_written_so_that_they_are_read_back() {
        for (ms, text) in [(1, "1ms"), (1500, "1500ms"), (90_000, "90s"), (60_000, "1m"), (86_400_000, "1d")] {
            assert_eq!(format_period(ms), text);
            assert_eq!(parse_period(text).unwrap(), ms);
        }
    }
}
