//! One hold, and what it takes of a key.

use std::sync::Arc;

use crate::clock::Micros;
use crate::limiter::entry::Text;
use crate::store::record::HoldEntry;

/// One key of a hold.
#[derive(Debug, Clone)]
pub struct Item {
    /// The entry on which it was decided; 0 if there was none: under `unlimited`, or if a shadow denied.
    pub id: u64,
    /// Hash of that entry's key, or else of its own.
    pub hash: u64,
    /// What is held: units or slots; 0 if a shadow denied.
    pub cost: u64,
    /// Whether these are slots.
    pub slots: bool,
    /// As it was asked for. An overflow limit may have decided.
    pub key: Text,
}

/// What a hold has cost in the end.
#[derive(Debug)]
pub struct Settlement {
    pub at: Micros,
    /// One for each item.
    pub costs: Vec<u64>,
}

/// A hold.
#[derive(Debug, Clone)]
pub struct Pledge {
    pub number: u64,
    /// When it was made.
    pub at: Micros,
    pub until: Micros,
    /// How long it was made for.
    pub ttl: Micros,
    pub settlement: Option<Arc<Settlement>>,
    pub items: Arc<[Item]>,
}

impl Pledge {
    /// Whether it was settled after it had expired.
    pub fn is_late(&self, at: Micros) -> bool {
        self.until <= at
    }

    /// Since when it is not open any more, or will be.
    pub fn end(&self) -> Micros {
        self.settlement.as_ref().map_or(self.until, |settlement| settlement.at)
    }

    /// What a snapshot says of it.
    pub fn to_record(&self) -> HoldEntry<'_> {
        HoldEntry {
            hold: self.number,
            at: self.at,
            until: self.until,
            ttl: self.ttl,
            ended: self.settlement.as_ref().map(|settlement| settlement.at),
            costs: self.settlement.as_ref().map(|settlement| settlement.costs.clone()).unwrap_or_default(),
            items: self.items.iter().map(|item| (item.id, item.cost, item.slots, &*item.key)).collect(),
        }
    }

    /// From what a snapshot says of it. `hash` gives the hash of an item's place, by its id and key.
    pub fn from_record(record: &HoldEntry<'_>, mut hash: impl FnMut(u64, &str) -> u64) -> Pledge {
        let item = |(id, cost, slots, key): &(u64, u64, bool, &str)| Item {
            id: *id,
            hash: hash(*id, key),
            cost: *cost,
            slots: *slots,
            key: (*key).into(),
        };
        Pledge {
            number: record.hold,
            at: record.at,
            until: record.until,
            ttl: record.ttl,
            settlement: record.ended.map(|at| Arc::new(Settlement { at, costs: record.costs.clone() })),
            items: record.items.iter().map(item).collect(),
        }
    }
}

/// What an open hold takes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub until: Micros,
    /// Which hold.
    pub number: u64,
    /// How many slots; 0 if these are units.
    pub slots: u64,
    /// When it was made.
    pub at: Micros,
}
