//! The values of a limit, and their text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::algorithm::Algorithm;
use super::period::Period;
use super::text::excerpt;
use super::window::Window;
use crate::bounds::{MAX_SLOTS, MAX_WINDOWS};
use crate::error::{Error, Result};

/// The text of a limit that allows every check.
const UNLIMITED: &str = "unlimited";

/// What is before the number in the text of a limit of slots.
const SLOTS: &str = "slots=";

/// What a denial does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// It is answered as a denial.
    #[default]
    Enforce,
    /// It is answered as allowed, but reported; it spends nothing.
    Shadow,
}

impl Mode {
    /// Every mode.
    pub const ALL: &[Mode] = &[Mode::Enforce, Mode::Shadow];

    /// The name in the HTTP API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
        }
    }

    fn find(name: &str) -> Option<Mode> {
        Mode::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Mode> {
        Mode::find(name)
            .ok_or_else(|| Error::invalid(format!("mode must be enforce or shadow, not `{}`", excerpt(name))))
    }
}

/// The values of a limit: 1 to 8 windows, all of which must allow; or units that may be held at once (`slots`); or no
/// limit at all (`unlimited`).
///
/// Its text is that of its windows, separated by commas, or `slots=4`, or `unlimited`; then `shadow` in that mode.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{Algorithm, Limit, Mode};
///
/// let limit: Limit = "100/1m burst=200".parse()?;
/// assert_eq!(limit, Limit::new(100, Duration::from_secs(60), Algorithm::TokenBucket, Some(200))?);
/// // The order of windows does not matter: they are kept from the shortest period to the longest.
/// let limit: Limit = "5000/day, 10/1s shadow".parse()?;
/// assert_eq!((limit.to_string().as_str(), limit.mode()), ("10/1s, 5000/day shadow", Mode::Shadow));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limit {
    /// In canonical order; empty for `unlimited`.
    windows: Box<[Window]>,
    mode: Mode,
    slots: Option<u64>,
}

impl Limit {
    /// A limit of one window; see [`Window::new`].
    ///
    /// # Errors
    /// As [`Window::new`].
    pub fn new(rate: u64, per: Duration, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        Limit::of(vec![Window::new(rate, per, algorithm, burst)?])
    }

    /// As [`Limit::new`], with the period in milliseconds.
    #[doc(hidden)]
    pub fn of_millis(rate: u64, per: u64, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        Limit::of(vec![Window::of(rate, Period::of_millis(per)?, algorithm, burst)?])
    }

    /// A limit of 1 to 8 windows, in any order.
    ///
    /// # Errors
    /// `invalid_argument` for none, too many, or two with the same rate, period and algorithm.
    pub fn of(mut windows: Vec<Window>) -> Result<Limit> {
        if !(1..=MAX_WINDOWS).contains(&windows.len()) {
            return Err(wrong_count(windows.len()));
        }
        windows.sort_unstable();
        let values = |window: &Window| (window.rate(), window.period(), window.algorithm());
        if let Some(pair) = windows.windows(2).find(|pair| values(&pair[0]) == values(&pair[1])) {
            return Err(Error::invalid(format!(
                "windows must differ in rate, per or algorithm, and `{}` is given twice",
                pair[0].short()
            )));
        }
        Ok(Limit { windows: windows.into_boxed_slice(), mode: Mode::Enforce, slots: None })
    }

    /// A number of units that may be held at once, 1 to 1 000 000.
    ///
    /// # Errors
    /// `invalid_argument`, naming `slots`.
    pub fn of_slots(slots: u64) -> Result<Limit> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::invalid(format!("slots must be an integer of 1 to {MAX_SLOTS}, not {slots}")));
        }
        Ok(Limit { slots: Some(slots), ..Limit::unlimited() })
    }

    /// No limit: every check is allowed and counted.
    pub fn unlimited() -> Limit {
        Limit { windows: Box::default(), mode: Mode::Enforce, slots: None }
    }

    /// The same in another mode. Nothing is ever denied under `unlimited`, whatever the mode.
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Limit {
        Limit { mode, ..self }
    }

    /// Its windows in canonical order: by period, then rate, then algorithm, then burst. Empty for `unlimited` and
    /// slots.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// What a denial does.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether every check is allowed.
    pub fn is_unlimited(&self) -> bool {
        self.windows.is_empty() && self.slots.is_none()
    }

    /// Whether both count over the same periods by the same algorithms, whatever the rates.
    pub(crate) fn has_shape_of(&self, other: &Limit) -> bool {
        // In canonical order a period's windows stand together, but not by algorithm.
        let shape = |limit: &Limit| {
            let mut shape: Vec<_> = limit.windows.iter().map(|window| (window.period(), window.algorithm())).collect();
            shape.sort_unstable();
            shape
        };
        self.windows.len() == other.windows.len() && (self.windows == other.windows || shape(self) == shape(other))
    }

    /// Units that may be held at once; `None` for a limit of windows.
    pub fn slots(&self) -> Option<u64> {
        self.slots
    }
}

impl From<Window> for Limit {
    fn from(window: Window) -> Limit {
        Limit { windows: Box::new([window]), mode: Mode::Enforce, slots: None }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() {
            f.write_str(UNLIMITED)?;
        }
        if let Some(slots) = self.slots {
            write!(f, "{SLOTS}{slots}")?;
        }
        for (index, window) in self.windows.iter().enumerate() {
            write!(f, "{}{window}", if index == 0 { "" } else { ", " })?;
        }
        if self.mode == Mode::default() { Ok(()) } else { write!(f, " {}", self.mode) }
    }
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Limit> {
        let text = text.trim_ascii();
        let last = text.rsplit_once(|c: char| c.is_ascii_whitespace());
        let (values, mode) = match last.and_then(|(values, word)| Some((values.trim_ascii_end(), Mode::find(word)?))) {
            Some((values, mode)) => (values, mode),
            None => (text, Mode::default()),
        };
        if values == UNLIMITED {
            return Ok(Limit::unlimited().with_mode(mode));
        }
        if let Some(slots) = values.strip_prefix(SLOTS) {
            let digits = slots.bytes().all(|byte| byte.is_ascii_digit());
            let Some(slots) = slots.parse().ok().filter(|_| digits) else {
                let text = excerpt(slots);
                return Err(Error::invalid(format!("slots must be an integer of 1 to {MAX_SLOTS}, not `{text}`")));
            };
            return Ok(Limit::of_slots(slots)?.with_mode(mode));
        }
        // Counted first: a long text of commas gets an error.
        let count = values.split(',').count();
        if count > MAX_WINDOWS {
            return Err(wrong_count(count));
        }
        let windows = values.split(',').map(str::parse).collect::<Result<Vec<Window>>>()?;
        Ok(Limit::of(windows)?.with_mode(mode))
    }
}

fn wrong_count(count: usize) -> Error {
    Error::invalid(format!("windows must be 1 to {MAX_WINDOWS}, not {count}"))
}
