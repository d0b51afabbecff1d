//! A state as plain numbers.

use crate::clock::Millis;

/// A state as plain numbers, as a snapshot holds it. Instants are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateParts {
    /// token_bucket
    Bucket { whole: u64, part: u64, at: Millis },
    /// sliding_window_log: instants and the units spent in each.
    Events(Vec<(Millis, u64)>),
    /// fixed_window_counter
    Window { start: Millis, used: u64 },
    /// sliding_window_counter
    Pair { start: Millis, previous: u64, current: u64 },
}
