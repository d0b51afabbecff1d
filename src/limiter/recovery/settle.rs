//! Between replay and map: the registry learns of the patterns, and what came and went is dropped.
//!
//! No record tells that a key was swept, nor that it is due to be. Each key by pattern or request is therefore asked
//! whether it is the same as none, as the sweep asks it: what was swept before the start is that, since it was then and
//! nothing was spent of it since.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::replay::{Found, Shares, is_of_pattern};
use crate::clock::Micros;
use crate::limiter::answers::Totals;
use crate::limiter::core::Core;
use crate::limiter::entry::{Entry, Held, Source};
use crate::limiter::registry::Pattern;

/// What the map is made of.
pub struct Settled {
    /// Patterns first, then keys; each in the order in which they came.
    pub entries: Vec<Held>,
    /// The patterns, and what the keys of each have counted.
    pub patterns: Vec<(Arc<Pattern>, Totals)>,
}

/// Makes the patterns known to the registry, leads keys to them, and drops keys of which nothing counts any more. With
/// `renumber` all get the ids 1, 2, 3 … in their order.
pub fn settle(core: &Core, found: Found, renumber: bool) -> Settled {
    let Found { entries, shares, .. } = found;
    let (mut entries, mut keys): (Vec<Held>, Vec<Held>) =
        entries.into_iter().partition(|entry| entry.pattern_text().is_some());
    number(&mut entries, 0, renumber);
    let (patterns, slots) = learn(core, &entries, &shares);
    let now = core.clock.now();
    let version = core.version(now);
    keys.retain_mut(|entry| stays(core, entry, &slots, now, version));
    number(&mut keys, entries.len(), renumber);
    keys.iter().for_each(|entry| count(core, entry, &patterns));
    entries.append(&mut keys);
    Settled { entries, patterns }
}

fn number(entries: &mut [Held], before: usize, renumber: bool) {
    if renumber {
        for (entry, id) in entries.iter_mut().zip(before as u64 + 1..) {
            entry.renumber(id, entry.shard());
        }
    }
}

/// Adds the patterns to the registry. Returns them by their slots there, and these by the slots of the replay.
fn learn(core: &Core, entries: &[Held], shares: &Shares) -> (Vec<(Arc<Pattern>, Totals)>, Vec<Option<u32>>) {
    todo!()
}

/// Whether an entry is kept. It gets the slot of its pattern.
fn stays(core: &Core, entry: &mut Entry, slots: &[Option<u32>], now: Micros, version: u32) -> bool {
    todo!()
}
