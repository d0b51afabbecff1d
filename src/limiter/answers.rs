//! What the limiter answers with.

use std::time::Duration;

use crate::clock::Millis;
use crate::limit::{Limit, Quote};

/// The answer to one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// Whether the cost was spent.
    pub allowed: bool,
    /// What was asked for, in units.
    pub cost: u64,
    /// The limit's values.
    pub limit: Limit,
    /// Whole units left after the decision.
    pub remaining: u64,
    /// When the limit is untouched again if nothing more is spent, in milliseconds since the epoch.
    pub reset_at: Millis,
    /// How long until this same cost could be allowed, if nothing else is spent; zero when it was.
    pub retry_after: Duration,
    /// When the decision was made, in milliseconds since the epoch.
    pub now: Millis,
}

impl Decision {
    pub(super) fn new(quote: Quote, limit: Limit, cost: u64, now: Millis) -> Decision {
        Decision {
            allowed: quote.allowed,
            cost,
            limit,
            remaining: quote.remaining,
            reset_at: quote.reset_at,
            retry_after: Duration::from_millis(quote.retry_after_ms),
            now,
        }
    }
}

/// The answer to a check of several keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllDecision {
    /// Whether everything was spent; nothing was otherwise.
    pub allowed: bool,
    /// Index of the first item that was denied.
    pub denied: Option<usize>,
    /// The decisions in the order of the items, up to and including the first denied one.
    pub results: Vec<Decision>,
}

/// How a limit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its key.
    pub key: String,
    /// Its values.
    pub limit: Limit,
    /// Whole units left.
    pub remaining: u64,
    /// When it is untouched again if nothing more is spent, in milliseconds since the epoch.
    pub reset_at: Millis,
    /// What has happened since it was configured.
    pub totals: Totals,
    /// When a check was last allowed.
    pub last_allowed_at: Option<Millis>,
    /// When a check was last denied.
    pub last_denied_at: Option<Millis>,
    /// When it was last reset by hand.
    pub last_reset_at: Option<Millis>,
}

/// What has happened to a limit since it was configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Allowed checks.
    pub allowed: u64,
    /// Denied checks.
    pub denied: u64,
    /// Units spent.
    pub allowed_cost: u64,
    /// Units refused.
    pub denied_cost: u64,
}

/// What a compaction did, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Size of the log before.
    pub log_bytes_before: u64,
    /// Size of the log after.
    pub log_bytes_after: u64,
    /// Size of the new snapshot.
    pub snapshot_bytes: u64,
}
