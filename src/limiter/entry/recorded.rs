//! What others get of a key: a snapshot and, for a pattern, the registry.

use std::sync::Arc;

use super::key::{Entry, Source};
use super::shares::Shares;
use crate::bounds::MAX_KEYS;
use crate::clock::Micros;
use crate::limit::Standing;
use crate::limiter::answers::Totals;
use crate::limiter::registry::Row;
use crate::store::record;

impl Entry {
    /// For a pattern: since when its keys are to have the values in force at `now`.
    fn edited_at(&self, now: Micros) -> Micros {
        let ended = self.overlay().filter(|overlay| overlay.until <= now).map_or(0, |overlay| overlay.until);
        self.configured().unwrap_or(0).max(ended)
    }

    /// Shows in the registry what its pattern is to be.
    pub fn show(&self, row: &mut Row, now: Micros) {
        row.limit = Arc::clone(&self.limit);
        row.overlay = self.overlay().filter(|overlay| overlay.until > now).cloned();
        row.edited_at = self.edited_at(now);
        row.max_keys = self.max_keys().unwrap_or(MAX_KEYS);
    }

    /// What a snapshot says of it. `shares` are those of its shard.
    pub fn to_record(&self, shares: &Shares) -> record::Entry<'_> {
        let Totals { allowed, denied, allowed_cost, denied_cost } = self.totals();
        let source = match self.source() {
            Source::Exact => record::Source::Exact,
            Source::Request => record::Source::Request,
            Source::Overflow => record::Source::Overflow,
            // A share is made before the first key joins, and stays as long as the pattern.
            Source::Pattern(slot) => {
                shares.get(slot).map_or(record::Source::Request, |share| record::Source::Pattern(share.pattern.id))
            }
        };
        record::Entry {
            id: self.id(),
            shard: self.shard(),
            source,
            limit: Arc::clone(&self.limit),
            max_keys: self.max_keys(),
            overlay: self.overlay().cloned(),
            parts: match self.pattern_text() {
                // That of a pattern is never used, and is not of its values in force.
                Some(_) => Standing::new(self.in_force()).parts(),
                None => self.standing.parts(),
            },
            configured: self.configured(),
            totals: [allowed, denied, allowed_cost, denied_cost],
            times: self.times(),
            barrier: self.barrier(),
            key: &self.key,
        }
    }
}

/// What records say that are kept elsewhere.
#[cfg(feature = "store")]
impl Entry {
    /// Sets what has happened to it.
    pub fn set_totals(&mut self, totals: Totals) {
        (self.allowed, self.allowed_cost) = (totals.allowed, totals.allowed_cost);
        let more = self.more();
        (more.denied, more.denied_cost) = (totals.denied, totals.denied_cost);
    }

    /// How often it has got the totals of a new key, modulo [`GENERATIONS`](super::GENERATIONS). What was counted in an
    /// earlier generation is not part of its totals.
    pub fn generation(&self) -> u64 {
        self.tag.generation()
    }

    /// Sets the generation, which is less than [`GENERATIONS`](super::GENERATIONS).
    pub fn set_generation(&mut self, generation: u64) {
        self.tag.set_generation(generation);
    }
}
