//! One window of a limit: how many units in which period, counted how.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::algorithm::Algorithm;
use super::period::Period;
use super::text::excerpt;
use super::zone::Zone;
use crate::bounds::{MAX_REFILL_MS, MAX_UNITS};
use crate::error::{Error, Result};

/// One window of a limit: how many units in which period, counted how.
///
/// Its text is `RATE/PER`, then what differs from the default, each as a separate word: the algorithm, `burst=UNITS`,
/// `tz=ZONE`, `anchor=DAY`.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{Algorithm, Window};
///
/// let window: Window = "100/1m burst=200".parse()?;
/// assert_eq!(window, Window::new(100, Duration::from_secs(60), Algorithm::TokenBucket, Some(200))?);
/// let window: Window = "5000/month tz=UTC anchor=15".parse()?;
/// assert_eq!(window.algorithm(), Algorithm::FixedWindowCounter);
/// assert_eq!((window.to_string().as_str(), window.short().as_str()), ("5000/month anchor=15", "5000/month"));
/// # Ok::<(), flint::Error>(())
/// ```
// Copied often, so small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    rate: u64,
    capacity: u64,
    period: Period,
    algorithm: Algorithm,
}

impl Window {
    /// A window of `rate` units (0 to 10^12; with 0 every check is denied) per `per` (1 ms to 366 days, in whole
    /// milliseconds). `burst` (1 to 10^12, default `rate`) is the capacity of a token bucket; no other has one.
    ///
    /// # Errors
    /// As [`Window::of`].
    pub fn new(rate: u64, per: Duration, algorithm: Algorithm, burst: Option<u64>) -> Result<Window> {
        Window::of(rate, Period::fixed(per)?, algorithm, burst)
    }

    /// As [`Window::new`] with any period; a calendar period takes only `fixed_window_counter`.
    ///
    /// # Errors
    /// `invalid_argument`, naming the value that is out of its range, a burst that the algorithm or a rate of 0 does
    /// not have, and a bucket that would take more than 1000 years to refill.
    pub fn of(rate: u64, period: Period, algorithm: Algorithm, burst: Option<u64>) -> Result<Window> {
        if rate > MAX_UNITS {
            return Err(Error::invalid(format!("rate must be from 0 to {MAX_UNITS} units, not {rate}")));
        }
        period.validate()?;
        if period.is_calendar() && algorithm != Algorithm::FixedWindowCounter {
            return Err(Error::invalid(format!(
                "algorithm of a calendar period must be fixed_window_counter, not {algorithm}; for {algorithm} give \
                 per as a length such as 24h"
            )));
        }
        if let Some(burst) = burst {
            validate_burst(rate, period, algorithm, burst)?;
        }
        Ok(Window { rate, capacity: burst.unwrap_or(rate), period, algorithm })
    }

    /// Units per period.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The most units that can be spent at once: the bucket's size, otherwise the rate.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The capacity of a token bucket; other algorithms have no burst, and neither does a rate of 0.
    pub fn burst(&self) -> Option<u64> {
        (self.algorithm == Algorithm::TokenBucket && self.rate > 0).then_some(self.capacity)
    }

    /// Its period.
    pub fn period(&self) -> Period {
        self.period
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `100/1m`, `1/day`: only rate and period, as the `RateLimit` headers name it.
    pub fn short(&self) -> String {
        format!("{}/{}", self.rate, self.period)
    }

    /// Its values as JSON and the command line give them, defaults included: `burst` of token buckets, `tz` and
    /// `anchor` if the period has them.
    pub fn fields(&self) -> Fields {
        Fields {
            rate: Some(self.rate),
            per: Some(self.period.to_string()),
            algorithm: Some(self.algorithm.name().to_owned()),
            burst: self.burst(),
            tz: self.period.zone().map(|zone| zone.name().to_owned()),
            anchor: self.period.anchor().map(u64::from),
        }
    }
}

fn validate_burst(rate: u64, period: Period, algorithm: Algorithm, burst: u64) -> Result<()> {
    if algorithm != Algorithm::TokenBucket {
        return Err(Error::invalid(format!("burst is only for token_bucket; leave it out for {algorithm}")));
    }
    if rate == 0 {
        return Err(Error::invalid("burst must be left out if rate is 0: such a window denies every check"));
    }
    if !(1..=MAX_UNITS).contains(&burst) {
        return Err(Error::invalid(format!("burst must be from 1 to {MAX_UNITS} units, not {burst}")));
    }
    let longest = u128::from(MAX_REFILL_MS) * 1000;
    if u128::from(burst) * u128::from(period.nominal()) > u128::from(rate) * longest {
        return Err(Error::invalid(format!(
            "burst {burst} would take more than 1000 years to refill at this rate; lower burst or raise rate"
        )));
    }
    Ok(())
}

/// The canonical order: by period, then rate, then algorithm, then capacity.
impl Ord for Window {
    fn cmp(&self, other: &Window) -> Ordering {
        let place = |window: &Window| (window.period, window.rate, window.algorithm, window.capacity);
        place(self).cmp(&place(other))
    }
}

impl PartialOrd for Window {
    fn partial_cmp(&self, other: &Window) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rate, self.period)?;
        if self.algorithm != default_algorithm(self.period) {
            write!(f, " {}", self.algorithm)?;
        }
        if let Some(burst) = self.burst().filter(|burst| *burst != self.rate) {
            write!(f, " burst={burst}")?;
        }
        if let Some(zone) = self.period.zone().filter(|zone| *zone != Zone::UTC) {
            write!(f, " tz={zone}")?;
        }
        if let Some(anchor) = self.period.anchor().filter(|anchor| *anchor != 1) {
            write!(f, " anchor={anchor}")?;
        }
        Ok(())
    }
}

impl FromStr for Window {
    type Err = Error;

    fn from_str(text: &str) -> Result<Window> {
        let wrong =
            || Error::invalid(format!("limit must be RATE/PER, such as 100/1m or 5000/day, not `{}`", excerpt(text)));
        let mut words = text.split_ascii_whitespace();
        let (rate, per) = words.next().and_then(|first| first.split_once('/')).ok_or_else(wrong)?;
        if rate.is_empty() || !rate.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let mut fields = Fields { rate: Some(number("rate", rate)?), per: Some(per.to_owned()), ..Fields::default() };
        for word in words {
            let repeated = match word.split_once('=') {
                None => fields.algorithm.replace(word.to_owned()).is_some(),
                Some(("burst", units)) => fields.burst.replace(number("burst", units)?).is_some(),
                Some(("tz", zone)) => fields.tz.replace(zone.to_owned()).is_some(),
                Some(("anchor", day)) => fields.anchor.replace(number("anchor", day)?).is_some(),
                Some(_) => {
                    return Err(Error::invalid(format!(
                        "limit takes an algorithm, burst=UNITS, tz=ZONE and anchor=DAY after RATE/PER, not `{}`",
                        excerpt(word)
                    )));
                }
            };
            if repeated {
                return Err(Error::invalid(format!(
                    "limit must give each value only once, not again as `{}`",
                    excerpt(word)
                )));
            }
        }
        fields.window()
    }
}

/// An integer in the text of a limit: digits only.
fn number(field: &str, text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        Err(_) if digits => Err(Error::invalid(format!("{field} must be at most {MAX_UNITS}, not {}", excerpt(text)))),
        _ => Err(Error::invalid(format!("{field} must be a whole number, not `{}`", excerpt(text)))),
    }
}

/// The algorithm of a period where none is named.
fn default_algorithm(period: Period) -> Algorithm {
    if period.is_calendar() { Algorithm::FixedWindowCounter } else { Algorithm::default() }
}

/// The values of a window as JSON and the command line give them.
///
/// ```
/// use flint::Fields;
///
/// let fields = Fields { rate: Some(100), per: Some("60s".into()), ..Fields::default() };
/// assert_eq!(fields.window()?.to_string(), "100/1m");
/// let error = Fields { rate: Some(100), ..Fields::default() }.window().unwrap_err();
/// assert!(error.message().starts_with("per must be given"));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Units per period, 0 to 10^12.
    pub rate: Option<u64>,
    /// The period; see [`Period`].
    pub per: Option<String>,
    /// The name of an algorithm; `token_bucket` by default, for a calendar period `fixed_window_counter`.
    pub algorithm: Option<String>,
    /// The capacity of a token bucket, 1 to 10^12; the rate by default.
    pub burst: Option<u64>,
    /// The time zone of a calendar period; `UTC` by default.
    pub tz: Option<String>,
    /// The day of the month on which a calendar month, quarter or year begins, 1 to 31; 1 by default.
    pub anchor: Option<u64>,
}

impl Fields {
    /// The window of these values.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field that is missing, out of its range, or not one of this period or algorithm.
    pub fn window(&self) -> Result<Window> {
        let (rate, per) = match (self.rate, &self.per) {
            (Some(rate), Some(per)) => (rate, per),
            (Some(_), None) => return Err(Error::invalid("per must be given with rate, such as 1m or day")),
            (None, Some(_)) => return Err(Error::invalid("rate must be given with per, such as 100")),
            (None, None) => return Err(Error::invalid("rate and per must be given, such as 100 and 1m")),
        };
        let mut period: Period = per.parse()?;
        if let Some(tz) = &self.tz {
            period = period.with_tz(tz)?;
        }
        if let Some(anchor) = self.anchor {
            period = period.with_anchor(anchor)?;
        }
        let algorithm = match &self.algorithm {
            Some(name) => name.parse()?,
            None => default_algorithm(period),
        };
        Window::of(rate, period, algorithm, self.burst)
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == Fields::default()
    }
}
