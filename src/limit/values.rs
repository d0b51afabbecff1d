//! The values of a limit, and their text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::algorithm::Algorithm;
use super::window::Window;
use crate::error::{Error, Result};

/// What a denial does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// It is answered as a denial.
    #[default]
    Enforce,
    /// It is answered as allowed and told; it spends nothing.
    Shadow,
}

/// The values of a limit: 1 to 8 windows, all of which must allow; or no limit at all (`unlimited`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limit {
    /// In canonical order; empty for `unlimited`.
    windows: Box<[Window]>,
    mode: Mode,
}

impl Limit {
    /// A limit of one window; see [`Window::new`].
    ///
    /// # Errors
    /// As [`Window::new`].
    pub fn new(rate: u64, per: Duration, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        Limit::of(vec![Window::new(rate, per, algorithm, burst)?])
    }

    /// A limit of 1 to 8 windows, in any order.
    ///
    /// # Errors
    /// `invalid_argument` for none, too many, or two with equal rate, period and algorithm.
    pub fn of(_windows: Vec<Window>) -> Result<Limit> {
        todo!()
    }

    /// No limit: every check is allowed and counted.
    pub fn unlimited() -> Limit {
        Limit { windows: Box::default(), mode: Mode::Enforce }
    }

    /// The same in another mode.
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Limit {
        Limit { mode, ..self }
    }

    /// Its windows in canonical order: by period, then rate, then algorithm, then burst. Empty for `unlimited`.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// What a denial does.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether every check is allowed.
    pub fn is_unlimited(&self) -> bool {
        self.windows.is_empty()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Limit> {
        todo!()
    }
}
