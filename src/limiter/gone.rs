//! Keys of which nothing counts any more, and the room that they leave to others.
//!
//! Such a key is the same as a key that was never seen. It is taken out by the sweep, by a check that finds no room for
//! another one, and by whatever is about to change it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::core::Core;
use super::entry::{Change, Entry, Source, Swept, Table};
use super::lookup::{Brought, Served, is_plain};
use crate::bounds::{MAX_OVERFLOWS, SHARDS};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::Live;
use crate::limiter::answers::Totals;
use crate::store::record::{Event, MAX_FIXED};

/// Keys that are looked at, and swept if nothing counts for them, before a key is sent to an overflow limit.
const SWEPT_AT_THE_BOUND: usize = 64;

/// Shards besides its own in which that is done, at most.
const SHARDS_SWEPT_AT_THE_BOUND: usize = 16;

impl Core {
    /// Takes room for a key that is to be born, after a sweep if there is none. Whether there was some.
    pub fn take_room(&self, table: &mut Table, served: &Served, now: Micros) -> Result<bool> {
        let take = || match (&served.pattern, served.source) {
            (_, Source::Exact) => true,
            (None, Source::Overflow) => take(&self.registry.overflows, MAX_OVERFLOWS),
            (Some(_), Source::Overflow) => true,
            (Some((pattern, most)), _) => take(&pattern.live, *most),
            (None, _) => take(&self.registry.requested, self.registry.max_requested),
        };
        if take() {
            return Ok(true);
        }
        if served.source == Source::Overflow {
            return Err(Error::new(
                Kind::Overloaded,
                format!(
                    "too many keys live under limits that requests bring, with more than {MAX_OVERFLOWS} different \
                     values; configure a pattern for them or raise --max-keys"
                ),
            ));
        }
        self.sweep_for_room(table, now);
        Ok(take())
    }

    /// Sweeps a bounded number of keys: of the table, whose lock is held, and where that is small of others that are
    /// free.
    fn sweep_for_room(&self, table: &mut Table, now: Micros) {
        let mut left = SWEPT_AT_THE_BOUND;
        left -= table.len().min(left);
        self.sweep(table, SWEPT_AT_THE_BOUND, now);
        for _ in 0..SHARDS_SWEPT_AT_THE_BOUND {
            if left == 0 {
                return;
            }
            let next = self.registry.next_swept.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
            // Without waiting, as another shard's lock may be held already.
            let Ok(mut other) = self.shards[next].0.try_lock() else { continue };
            let most = left;
            left -= other.len().min(left);
            self.sweep(&mut other, most, now);
        }
    }

    /// Looks at some entries of a shard, and takes out the keys by pattern or request that are untouched, and overflow
    /// limits. The next call goes on where this one ends.
    pub fn sweep(&self, table: &mut Table, most: usize, now: Micros) -> Swept {
        let version = self.version(now);
        table.sweep(
            most,
            |key| self.hash(key),
            |entry, counts| {
                let gone = self.is_gone(entry, now, version);
                if gone {
                    self.leave(entry, counts);
                }
                gone
            },
        )
    }

    /// Takes an entry out of which something is due, if it is the same as none: what is to happen to the key then
    /// happens to a new one, as it would after a sweep.
    pub fn forget_if_none(&self, table: &mut Table, hash: u64, key: &str, now: Micros, version: u32) {
        let (Some(entry), counts) = table.get_with_counts(hash, key) else { return };
        if self.is_as_none(entry, now, version) {
            self.settle_denials(entry);
            self.leave(entry, counts);
            table.remove(hash, key, |key| self.hash(key));
        }
    }

    /// Queues the denials of a key that are missing in the log, before it changes: they count for what it lives under
    /// until then. Where there is no room at once, they count for nothing or for what it lives under next.
    pub fn settle_denials(&self, entry: &Entry) {
        if !entry.has_pending_denials() {
            return;
        }
        let Ok(log) = self.log() else { return };
        if let Ok(Some(mut reservation)) = log.reserve_now(1, MAX_FIXED) {
            let Totals { denied: total, denied_cost: cost, .. } = entry.totals();
            let [_, last, _] = entry.times();
            log.append(&mut reservation, &Event::Denied { id: entry.id(), total, cost, last }, None);
        }
    }

    /// Whether an entry is the same as none: not configured, and nothing that was spent still counts.
    pub fn is_gone(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        if entry.has_pending_denials() {
            return false;
        }
        if self.noting.is_elsewhere() {
            // Values that may be old bring no entry to a later instant.
            return self.is_as_none(&mut entry.clone(), now, version);
        }
        self.is_as_none(entry, now, version)
    }

    /// The same, also while denials are missing in the log.
    pub fn is_as_none(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        if entry.source() == Source::Exact {
            return false;
        }
        if !self.is_untouched(entry, now, version) {
            return false;
        }
        // What is due may be due no more at a later look: a pattern can get its old values back. So a key whose due
        // changes leave nothing of what it has counted is still there as long as something counts without them.
        if is_plain(entry, version, Brought::AsItStands) {
            return true;
        }
        let mut own = entry.clone();
        if let Some(until) = own.overlay().map(|overlay| overlay.until) {
            let (source, limit) = (own.source(), Arc::clone(&own.limit));
            own.change(&Change { at: until, source, lifts: true, limit }, &mut Live::default());
        }
        own.standing.advance(&own.limit, now);
        own.standing.is_untouched(&own.limit, now)
    }

    /// Whether nothing that was spent of a key still counts, no hold of it is open, and nothing lies over its values.
    pub fn is_untouched(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        if entry.overlay().is_some_and(|overlay| overlay.until > now) || entry.held_until() > now {
            return false;
        }
        if entry.overflow_text().is_none() && !is_plain(entry, version, Brought::AsItStands) {
            // What is due may make a key untouched, or touched.
            let Ok(served) = self.served(Some(entry), &entry.key, Brought::AsItStands, now, version) else {
                return false;
            };
            if !served.changes.is_empty() {
                return self.look(Some(entry), &served, now, |standing, limit| standing.is_untouched(limit, now));
            }
            entry.version = version;
        }
        if let Some(text) = entry.overflow_text() {
            // A key whose pattern was edited is due for its new values.
            let edited = self.registry.known().get(text).map(|row| (Arc::clone(row.in_force()), row.edited_at));
            if let Some((limit, edited_at)) = edited.filter(|(limit, _)| *limit != entry.limit) {
                let mut standing = entry.standing.clone();
                let at = edited_at.max(entry.last_change());
                standing.reconfigure(&entry.limit, &limit, at, &mut Live::default());
                standing.advance(&limit, now);
                return standing.is_untouched(&limit, now);
            }
        }
        let limit = Arc::clone(&entry.limit);
        entry.standing.advance(&limit, now);
        entry.standing.is_untouched(&limit, now)
    }
}

fn take(count: &AtomicU64, most: u64) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}
