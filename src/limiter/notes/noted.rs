//! What is noted of an operation, but for what each structure has in its own journal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Micros;
use crate::store::record::{Event, Spend};

/// What is noted of all structures together. Each value is written and read by one thread at a time: that of the
/// operation, which is the owner of the limiter.
#[derive(Debug, Default)]
pub struct Notes {
    is_on: AtomicBool,
    /// Set while keys are led away from a pattern: what is looked at then is undone, but is not to be written.
    is_silent: AtomicBool,
    /// Whether it made a difference which patterns there are.
    patterns: AtomicBool,
    /// Id of the last pattern that was ever configured.
    last_pattern: AtomicU64,
    noted: Mutex<Noted>,
}

/// What one operation has done.
#[derive(Debug, Default)]
pub struct Noted {
    /// Shards whose journals have something.
    pub shards: Vec<u8>,
    /// Ids of the entries that records are about.
    pub ids: Vec<u64>,
    pub holds: Vec<u64>,
    pub answers: Vec<[u8; 16]>,
    /// Ids of entries that were removed, and when.
    pub removed: Vec<(u64, Micros)>,
    /// Slots of patterns that were removed. They are kept until it is sure that they need not come back.
    pub retired: Vec<u32>,
    /// Of each denial the hash of the key, the cost and the instant.
    pub denied: Vec<(u64, u64, Micros)>,
    /// Checks of keys without an entry, by the id of their pattern: allowed, denied, allowed cost, denied cost.
    pub asides: Vec<(u64, [u64; 4])>,
}

impl Notes {
    /// Begins to note an operation.
    pub fn begin(&self) {
        *self.lock() = Noted::default();
        self.patterns.store(false, Ordering::Relaxed);
        self.is_silent.store(false, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Ends it. Returns what is noted, and whether it made a difference which patterns there are.
    pub fn end(&self) -> (Noted, bool) {
        self.is_on.store(false, Ordering::Relaxed);
        (std::mem::take(&mut *self.lock()), self.patterns.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // It is changed in steps none of which panics.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an operation is noted now.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Whether what is looked at now is not to be written.
    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Sets that.
    pub fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Notes that a shard's journal has something.
    pub fn shard(&self, shard: u8) {
        self.lock().shards.push(shard);
    }

    /// Notes that it makes a difference which patterns there are.
    pub fn patterns(&self) {
        if !self.is_silent() {
            self.patterns.store(true, Ordering::Relaxed);
        }
    }

    /// The id of a new pattern.
    pub fn next_pattern(&self) -> u64 {
        self.last_pattern.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The id of the last pattern that was ever configured.
    pub fn last_pattern(&self) -> u64 {
        self.last_pattern.load(Ordering::Relaxed)
    }

    /// Sets that.
    pub fn set_last_pattern(&self, last: u64) {
        self.last_pattern.store(last, Ordering::Relaxed);
    }

    /// Notes that a pattern was removed, whose slot is kept for a while.
    pub fn retired(&self, slot: u32) {
        self.lock().retired.push(slot);
    }

    /// Notes a denial of a key by its hash.
    pub fn denied(&self, hash: u64, cost: u64, now: Micros) {
        self.lock().denied.push((hash, cost, now));
    }

    /// Notes a check of a key without an entry, by the id of its pattern.
    pub fn aside(&self, pattern: u64, totals: [u64; 4]) {
        self.lock().asides.push((pattern, totals));
    }

    /// Notes what a record changes.
    pub fn event(&self, event: &Event<'_>) {
        if self.is_on() && !self.is_silent() {
            self.lock().event(event);
        }
    }
}

impl Noted {
    fn event(&mut self, event: &Event<'_>) {
        let of_spends = |ids: &mut Vec<u64>, spends: &mut dyn Iterator<Item = &Spend<'_>>| {
            ids.extend(spends.map(|spend| spend.id).filter(|id| *id != 0));
        };
        match event {
            Event::Created { id, .. }
            | Event::Reconfigured { id, .. }
            | Event::Overlaid { id, .. }
            | Event::Became { id, .. }
            | Event::Spent { id, .. }
            | Event::Reset { id, .. }
            | Event::Refunded { id, .. } => self.ids.push(*id),
            Event::Removed { id, at } => {
                self.ids.push(*id);
                self.removed.push((*id, *at));
            }
            Event::SpentAll { items, .. } => self.ids.extend(items.iter().map(|(id, _)| *id)),
            Event::SpentMore { items, .. } => of_spends(&mut self.ids, &mut items.iter()),
            Event::Held { hold, items, .. } => {
                self.holds.push(*hold);
                of_spends(&mut self.ids, &mut items.iter().map(|item| &item.spend));
            }
            Event::Settled { hold, back, more, .. } => {
                self.holds.push(*hold);
                self.ids.extend(back.iter().map(|back| back.id));
                of_spends(&mut self.ids, &mut more.iter());
            }
            Event::Renewed { hold, .. } => self.holds.push(*hold),
            Event::Kept { answer, event } => {
                self.answers.push(answer.key);
                self.event(event);
            }
            // Denials are reported separately; the rest is about files, or is done by other records.
            Event::Denied { .. }
            | Event::Marker { .. }
            | Event::TablesMarker { .. }
            | Event::Clock(_)
            | Event::Intended { .. }
            | Event::Done { .. } => {}
        }
    }
}
