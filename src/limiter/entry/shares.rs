//! What is counted in a shard besides its keys.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::limiter::answers::Totals;
use crate::limiter::registry::Pattern;

/// What the keys of one pattern in one shard have counted, those that vanished included.
#[derive(Debug, Clone)]
pub struct Share {
    pub pattern: Arc<Pattern>,
    pub totals: Totals,
}

/// The shares of a shard, by slot.
#[derive(Debug, Clone, Default)]
pub struct Shares(HashTable<Share>);

/// Slots are few and dense; the table needs bits at both ends.
fn spread(slot: u32) -> u64 {
    u64::from(slot).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Shares {
    /// The share of the pattern with this slot.
    pub fn get(&self, slot: u32) -> Option<&Share> {
        self.0.find(spread(slot), |share| share.pattern.slot == slot)
    }

    /// The same, to count.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Share> {
        self.0.find_mut(spread(slot), |share| share.pattern.slot == slot)
    }

    /// The share of a pattern, made if there is none.
    pub fn of(&mut self, pattern: &Arc<Pattern>) -> &mut Share {
        let slot = pattern.slot;
        let entry = self.0.entry(spread(slot), |share| share.pattern.slot == slot, |share| spread(share.pattern.slot));
        entry.or_insert_with(|| Share { pattern: Arc::clone(pattern), totals: Totals::default() }).into_mut()
    }

    /// Takes out the share of a pattern that was removed, of which no key is left.
    pub fn remove(&mut self, slot: u32) {
        if let Ok(found) = self.0.find_entry(spread(slot), |share| share.pattern.slot == slot) {
            found.remove();
        }
    }

    /// Takes out what was counted, by the ids of the patterns.
    #[cfg(feature = "store")]
    pub fn take(&mut self, mut counted: impl FnMut(u64, Totals)) {
        for share in self.0.iter_mut().filter(|share| share.totals != Totals::default()) {
            counted(share.pattern.id, std::mem::take(&mut share.totals));
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Share> {
        self.0.iter()
    }
}

/// What is counted in a shard besides the keys.
#[derive(Debug, Default)]
pub struct Counts {
    /// Checks allowed and denied since the start.
    pub decisions: (u64, u64),
    /// Keys that a sweep has taken out since the start.
    pub swept: u64,
    /// Hash and id of the keys with pending denials: those that are missing in the log.
    pub pending_denials: Vec<(u64, u64)>,
    /// What the keys of each pattern have counted.
    pub shares: Shares,
}
