//! What the keys of each pattern have counted, while a log is replayed.

use std::collections::HashMap;

use crate::limiter::answers::Totals;
use crate::limiter::entry::{Entry, Source};
use crate::store::record;

/// Slots for the patterns that records name, and what the keys of each have counted. A pattern may have two: its keys
/// name it by its id, its overflow limit by its text, and either may come before the pattern itself.
#[derive(Default)]
pub struct Shares {
    by_id: HashMap<u64, u32>,
    by_text: HashMap<Box<str>, u32>,
    totals: Vec<Totals>,
}

impl Shares {
    fn new_slot(totals: &mut Vec<Totals>) -> u32 {
        totals.push(Totals::default());
        (totals.len() - 1) as u32
    }

    /// The slot of the pattern with this id.
    pub fn slot(&mut self, id: u64) -> u32 {
        *self.by_id.entry(id).or_insert_with(|| Shares::new_slot(&mut self.totals))
    }

    /// A source as entries have it.
    pub fn source(&mut self, source: record::Source) -> Source {
        match source {
            record::Source::Exact => Source::Exact,
            record::Source::Request => Source::Request,
            record::Source::Overflow => Source::Overflow,
            record::Source::Pattern(id) => Source::Pattern(self.slot(id)),
        }
    }

    /// Notes of an overflow limit of a pattern which that is.
    pub fn note(&mut self, entry: &mut Entry) {
        if let Some(text) = entry.overflow_text().filter(|text| is_of_pattern(text)) {
            let slot = match self.by_text.get(text) {
                Some(slot) => *slot,
                None => {
                    let slot = Shares::new_slot(&mut self.totals);
                    self.by_text.insert(text.into(), slot);
                    slot
                }
            };
            entry.set_overflow_of(slot);
        }
    }

    /// Counts for the pattern with this slot.
    pub fn add(&mut self, slot: u32, totals: Totals) {
        if let Some(share) = self.totals.get_mut(slot as usize) {
            share.add(totals);
        }
    }

    /// Forgets what the keys of a pattern have counted, which is removed.
    pub fn remove(&mut self, id: u64, text: &str) {
        self.by_id.remove(&id);
        self.by_text.remove(text);
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.totals.len()
    }

    /// The slots of the pattern with this id and text, each with what was counted for it.
    pub fn of(&self, id: u64, text: &str) -> impl Iterator<Item = (u32, Totals)> {
        let slots = [self.by_id.get(&id).copied(), self.by_text.get(text).copied()];
        slots.into_iter().flatten().map(|slot| (slot, self.totals[slot as usize]))
    }
}

/// Whether an overflow limit is that of a pattern: values have no `*`.
pub fn is_of_pattern(text: &str) -> bool {
    text.contains('*')
}
