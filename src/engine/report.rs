//! The state of an engine, for `doctor` and for metrics.

use crate::limiter::Report;
use crate::store::Health;

/// The state of an engine.
#[derive(Debug, Clone)]
pub enum EngineReport {
    /// A data directory.
    Directory(Box<Report>),
    /// A store.
    Store(Box<StoreReport>),
}

/// The state of a store, as this server sees it. What it does not say is `None`.
#[derive(Debug, Clone)]
pub struct StoreReport {
    /// Its address, without the password.
    pub url: String,
    /// Whether it can be asked, and if not, why.
    pub health: (Health, Option<String>),
    /// Limits that are configured for one key.
    pub limits: Option<u64>,
    /// Patterns.
    pub patterns: Option<u64>,
    /// Keys that live by a pattern or request.
    pub live: Option<u64>,
    /// Patterns whose live keys have reached `max_keys`, plus one if `--max-keys` is reached.
    pub overflows: Option<u64>,
    /// Holds that are open.
    pub holds: Option<u64>,
    /// Replicas that must confirm each write.
    pub replicas: u32,
    /// What the store says of itself, by name: version, role, persistence, eviction.
    pub facts: Vec<(&'static str, String)>,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
    /// Checks that this server has allowed since its start.
    pub allowed: u64,
    /// Checks that this server has denied since its start.
    pub denied: u64,
    /// Rounds of this server that were sent to the store since the start.
    pub rounds: u64,
    /// Of the groups of operations in these, how many had to be decided again since another server was faster.
    pub lost: u64,
}

impl EngineReport {
    /// Limits that are configured for one key, where known.
    pub fn limits(&self) -> Option<u64> {
        match self {
            EngineReport::Directory(report) => Some(report.limits),
            EngineReport::Store(report) => report.limits,
        }
    }

    /// What is not as it should be, in words.
    pub fn problems(&self) -> Vec<String> {
        match self {
            EngineReport::Directory(report) => report.problems(),
            EngineReport::Store(report) => {
                let down = report.health.0 != Health::Healthy;
                let reason = down.then(|| report.health.1.clone().unwrap_or_else(|| "the store is away".to_owned()));
                reason.into_iter().chain(report.problems.iter().cloned()).collect()
            }
        }
    }
}

/// What was moved between a data directory and a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Limits of single keys, and keys that live by patterns or requests.
    pub keys: u64,
    /// Patterns.
    pub patterns: u64,
    /// Holds that are open or remembered.
    pub holds: u64,
    /// Kept answers.
    pub answers: u64,
    /// Kept answers that were left behind, since a Cluster keeps them where their keys are and does not say where.
    pub left_answers: u64,
}
