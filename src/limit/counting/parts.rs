//! A state as plain numbers.

use crate::clock::Micros;
use crate::limit::window::Window;

/// The state of one window as plain numbers, as a snapshot holds it. Instants are microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateParts {
    /// token_bucket: the level is `whole + part / period` units, with the period in microseconds; it was last full at
    /// `full_at`, which is no later than `at`. While it is below
    /// zero and `fast` is there, it refills at that rate (units, and microseconds of its period), and `part` counts in
    /// that period.
    Bucket { whole: i64, part: u64, at: Micros, full_at: Micros, fast: Option<(u64, Micros)> },
    /// sliding_window_log: instants and the units spent in each.
    Events(Vec<(Micros, u64)>),
    /// fixed_window_counter
    Window { start: Micros, end: Micros, used: u64 },
    /// sliding_window_counter
    Pair { start: Micros, previous: u64, current: u64 },
}

/// What several values in turn allow together, as plain numbers: there after a change of values to or from counters,
/// until what it holds is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CeilingParts {
    /// The largest capacity among the values.
    pub most: u64,
    /// The largest rate of a counter or log among them.
    pub edge: u64,
    /// The fastest rate among them: units, and microseconds of its period.
    pub speed: (u64, Micros),
    /// What counts against them: `whole + part / period` units at `at`, with the period of `speed`.
    pub whole: u64,
    /// Less than the period of `speed`.
    pub part: u64,
    /// Microseconds since the epoch.
    pub at: Micros,
}

/// A [`Standing`](super::standing::Standing) as plain numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// One for each window of the limit, in its order.
    pub windows: Vec<StateParts>,
    /// Windows of earlier values that still count.
    pub resting: Vec<(Window, StateParts)>,
    /// What the earlier values and those of now allow together.
    pub ceiling: Option<CeilingParts>,
}
