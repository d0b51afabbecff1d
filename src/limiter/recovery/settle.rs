//! Between replay and map: the registry learns of the patterns, and what came and went is dropped.
//!
//! No record says that a key was swept, nor that it is due to be. Each key by pattern or request is therefore asked
//! whether it is the same as none, as the sweep asks it: what was swept before the start is that, since it was then and
//! nothing was spent of it since.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::by_id::ById;
use super::replay::Found;
use super::shares::{Shares, is_of_pattern};
use crate::clock::Micros;
use crate::limiter::answers::Totals;
use crate::limiter::core::Core;
use crate::limiter::entry::{Chunks, Entry, Source};
use crate::limiter::held::book::Book;
use crate::limiter::registry::Pattern;

/// The patterns by their slots, and what the keys of each have counted.
type Patterns = Vec<(Arc<Pattern>, Totals)>;

/// What the map is made of.
pub struct Settled {
    /// Entries by shard.
    pub shards: Vec<Chunks>,
    pub patterns: Patterns,
}

/// Makes the patterns known to the registry, which has none yet, leads keys to them, and drops keys of which nothing
/// counts any more. With `renumber` patterns get the ids 1, 2, 3 … in their order, and keys those after them.
pub fn settle(core: &Core, found: Found, book: &mut Book, renumber: bool) -> Settled {
    let Found { mut keys, shares, .. } = found;
    let (patterns, slots) = learn(core, &mut keys, &shares, renumber);
    let now = core.clock.now();
    let version = core.version(now);
    let mut shards = keys.into_shards();
    let mut next_id = patterns.len() as u64;
    // Of the keys that holds are of, the new ids by the old ones.
    let mut ids: HashMap<u64, u64> = book.ids().map(|id| (id, 0)).collect();
    for chunks in &mut shards {
        chunks.retain(|entry| {
            if entry.pattern_text().is_some() {
                return true;
            }
            let stays = entry.is_plain_exact() || stays(core, entry, &slots, now, version);
            if stays {
                count(core, entry, &patterns);
            }
            if stays && renumber {
                next_id += 1;
                if !ids.is_empty()
                    && let Some(id) = ids.get_mut(&entry.id())
                {
                    *id = next_id;
                }
                entry.renumber(next_id, entry.shard());
            }
            stays
        });
        chunks.shrink();
    }
    if renumber {
        book.renumber(|id| ids.get(&id).copied().unwrap_or(0));
    }
    Settled { shards, patterns }
}

/// Adds the patterns to the registry. Returns them by their slots there, and these by the slots of the replay.
fn learn(core: &Core, keys: &mut ById, shares: &Shares, renumber: bool) -> (Patterns, Vec<Option<u32>>) {
    let mut patterns: Patterns = Vec::new();
    let mut slots = vec![None; shares.slots()];
    core.registry.publish(|known| {
        for entry in keys.iter_mut().filter(|entry| entry.pattern_text().is_some()) {
            let old_id = entry.id();
            if renumber {
                entry.renumber(patterns.len() as u64 + 1, entry.shard());
            }
            let text = entry.pattern_text().unwrap_or_default();
            let (limit, overlay) = (Arc::clone(&entry.limit), entry.overlay().cloned());
            let edited_at = entry.configured().unwrap_or(0);
            let pattern = known.add(text, entry.id(), limit, overlay, edited_at, entry.max_keys());
            let mut totals = Totals::default();
            for (slot, counted) in shares.of(old_id, &pattern.text) {
                slots[slot as usize] = Some(pattern.slot);
                totals.add(counted);
            }
            // A registry without patterns gives out the slots in order.
            debug_assert_eq!(pattern.slot as usize, patterns.len());
            patterns.push((pattern, totals));
        }
    });
    (patterns, slots)
}

/// Counts a key in where it takes room.
fn count(core: &Core, entry: &Entry, patterns: &[(Arc<Pattern>, Totals)]) {
    let room = match entry.source() {
        Source::Pattern(slot) => &patterns[slot as usize].0.live,
        Source::Request => &core.registry.requested,
        Source::Overflow if entry.share_slot().is_none() => &core.registry.overflows,
        Source::Exact | Source::Overflow => return,
    };
    room.fetch_add(1, Ordering::Relaxed);
}

/// Whether the entry of a key is kept. It gets the slot that its pattern has in the registry.
fn stays(core: &Core, entry: &mut Entry, slots: &[Option<u32>], now: Micros, version: u32) -> bool {
    let slot = entry.share_slot().and_then(|slot| slots[slot as usize]);
    match entry.source() {
        Source::Exact | Source::Request => {}
        Source::Pattern(_) => match slot {
            Some(slot) => entry.set_source(Source::Pattern(slot)),
            // It went with its pattern: a key that was led elsewhere has a record of that, and before the record of the
            // removal.
            None => return false,
        },
        Source::Overflow => {
            let of_pattern = entry.overflow_text().is_some_and(is_of_pattern);
            match slot {
                Some(slot) => entry.set_overflow_of(slot),
                None if of_pattern => return false,
                None => {}
            }
        }
    }
    !core.is_gone(entry, now, version)
}
