//! What a check answers.

use crate::clock::Micros;

/// The state of one window, for one cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Whether this window allows the cost now.
    pub allowed: bool,
    /// Whole units left: after spending when allowed, as they are when denied.
    pub remaining: u64,
    /// Units that count, rounded up: after spending when allowed. `used - debt + remaining` is the capacity, except for
    /// rounding.
    pub used: u64,
    /// Units used beyond the capacity.
    pub debt: u64,
    /// When the window is untouched again if nothing more is spent (after this check, when allowed).
    pub reset_at: Micros,
    /// 0 when allowed; else the microseconds until this same cost would be allowed if nothing else is spent; `None` for
    /// never.
    pub retry: Option<Micros>,
    /// Microseconds until one more unit is available; 0 if nothing is missing, `None` for never.
    pub next: Option<Micros>,
}

/// The state of all windows of a limit, for one cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all windows allow the cost. If so, the figures are those after spending, otherwise the current ones.
    pub allowed: bool,
    /// Index of the window that binds: on a denial the longest wait, else the least remaining. 0 under `unlimited`.
    pub binding: usize,
    /// One for each window, in the limit's order; empty under `unlimited`.
    pub windows: Quotes,
}

/// Quotes; one of them without an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quotes {
    /// Of a limit of one window.
    One([Quote; 1]),
    /// Of none or several.
    Many(Vec<Quote>),
}

impl Quotes {
    /// As a slice.
    pub fn as_slice(&self) -> &[Quote] {
        match self {
            Quotes::One(one) => one,
            Quotes::Many(many) => many,
        }
    }
}

/// What only some algorithms report of a window. Instants are microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// Nothing.
    None,
    /// For a sliding log: the oldest instant that still counts.
    Log {
        /// `None` if none does.
        oldest_at: Option<Micros>,
    },
    /// For a sliding counter: its two counts, and when the current window began.
    Pair {
        /// Units of the window before.
        previous: u64,
        /// Units of the current window.
        current: u64,
        /// `None` before the first spend.
        started_at: Option<Micros>,
    },
}
