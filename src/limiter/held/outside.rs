//! What the table of holds has besides, where holds and keys are records that are kept elsewhere.
//!
//! The record of a key and that of a hold come and go separately, and either may be older than the other. So the
//! slots of a key that are in use follow from the record of the key, and whether a hold was settled from that of the
//! hold. What is decided on an older one is not written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pledge::{Pledge, Taken};
use crate::clock::Micros;
use crate::limiter::notes::noted::Notes;

/// A hold that was looked at, as it was before the operation.
pub type HoldLook = (u64, Option<Pledge>);

/// What the table has besides.
#[derive(Debug)]
pub struct Outside {
    notes: Arc<Notes>,
    /// When open holds of keys expire: instant, hash, number. It is in no record.
    pub ends: BTreeSet<(Micros, u64, u64)>,
    looks: Mutex<Vec<HoldLook>>,
    /// The open holds of keys as they were before the operation, by hash.
    rows: Vec<(u64, Vec<Taken>)>,
    /// The next number, and the first that is not ours.
    next: AtomicU64,
    end: u64,
    /// How many low bits of a number are given, and which.
    low: (u32, u64),
    wants_numbers: AtomicBool,
}

impl Outside {
    pub fn new(notes: &Arc<Notes>) -> Outside {
        Outside {
            notes: Arc::clone(notes),
            ends: BTreeSet::new(),
            looks: Mutex::default(),
            rows: Vec::new(),
            next: AtomicU64::new(0),
            end: 0,
            low: (0, 0),
            wants_numbers: AtomicBool::new(false),
        }
    }

    /// Notes that a hold is looked at.
    pub fn look(&self, number: u64, pledge: Option<&Pledge>) {
        if !self.notes.is_on() {
            return;
        }
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.iter().all(|(known, _)| *known != number) {
            looks.push((number, pledge.cloned()));
        }
    }

    /// Whether the open holds of a key are to be remembered before they change.
    pub fn wants_rows(&self, hash: u64) -> bool {
        self.notes.is_on() && self.rows.iter().all(|(known, _)| *known != hash)
    }

    /// Remembers them.
    pub fn remember(&mut self, hash: u64, rows: Vec<Taken>) {
        self.rows.push((hash, rows));
    }

    /// The number of the next hold, if there is one left.
    pub fn next_number(&self) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        if next >= self.end {
            self.wants_numbers.store(true, Ordering::Relaxed);
            return None;
        }
        self.next.store(next + 1, Ordering::Relaxed);
        let (bits, low) = self.low;
        Some(next << bits | low)
    }

    pub fn set_numbers(&mut self, numbers: Range<u64>) {
        (self.next, self.end) = (AtomicU64::new(numbers.start), numbers.end);
    }

    pub fn set_low(&mut self, bits: u32, low: u64) {
        self.low = (bits, low);
    }
}

impl Outside {
    /// What holds were looked at, and whether one found no number.
    pub fn end_noting(&mut self) -> (Vec<HoldLook>, bool) {
        let looks = self.looks.get_mut().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(looks), self.wants_numbers.swap(false, Ordering::Relaxed))
    }

    /// The open holds of keys that were remembered.
    pub fn take_rows(&mut self) -> Vec<(u64, Vec<Taken>)> {
        std::mem::take(&mut self.rows)
    }
}
