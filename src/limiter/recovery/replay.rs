//! Recovery: from the records of a data directory to limits in memory.
//!
//! A snapshot that was written while checks went on holds each shard as it was at a marker record in the log. An event
//! is therefore applied if and only if the marker of its limit's shard came before it; the snapshot has it otherwise.
//! An event of a missing limit belongs to a limit that was removed before its shard's marker.

use std::collections::HashMap;

use crate::bounds::SHARDS;
use crate::limiter::entry::{Entry, Held};
use crate::store::Replay;
use crate::store::record::{self, Event};

/// Limits by their id in the log.
#[derive(Default)]
pub struct Replayed {
    limits: ById,
    /// Number of the snapshot whose markers count.
    snapshot: u64,
    /// Shards whose marker has come; all of them where there is nothing to wait for.
    marked: Vec<bool>,
    unmarked: usize,
    highest_id: u64,
    /// Set to pass over records about limits that are not there.
    lenient: bool,
}

impl Replayed {
    /// Nothing replayed yet.
    pub fn new() -> Replayed {
        Replayed { marked: vec![true; SHARDS], ..Replayed::default() }
    }

    /// Nothing replayed yet, of a directory from which limits may be missing.
    pub fn lenient() -> Replayed {
        Replayed { lenient: true, ..Replayed::new() }
    }

    /// The limits of a log that may end before its last marker: those of a shard without one are as the snapshot has
    /// them.
    pub fn remains(self) -> impl Iterator<Item = Box<Entry>> {
        self.limits.into_iter()
    }

    /// The limits, and the highest id in use.
    pub fn finish(self) -> (Vec<Held>, u64) {
        let mut entries = Vec::with_capacity(self.limits.len());
        entries.extend(self.limits.into_iter());
        (entries, self.highest_id)
    }

    /// Applies an event to the limit of `id`, if that is for it.
    fn apply(&mut self, id: u64, event: impl FnOnce(&mut Entry)) -> Result<(), String> {
        match self.limits.get(id) {
            Some(entry) if self.marked[usize::from(entry.shard())] => event(entry),
            None if self.unmarked == 0 && !self.lenient => {
                return Err(format!("a record is about limit {id}, which is not configured"));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Replay for Replayed {
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64) {
        self.snapshot = number;
        if !complete {
            self.marked = vec![false; SHARDS];
            self.unmarked = SHARDS;
        }
        self.limits.expected = limits as usize;
    }

    fn entry(&mut self, entry: record::Entry<'_>) -> Result<(), String> {
        self.highest_id = self.highest_id.max(entry.id);
        self.limits.insert(Box::new(Entry::from_record(&entry)))
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Created { id, shard, at, limit, key } => {
                self.highest_id = self.highest_id.max(id);
                if self.marked[usize::from(shard)] {
                    self.limits.insert(Box::new(Entry::new(key, id, shard, limit, at)))?;
                }
            }
            Event::Reconfigured { id, at, limit } => self.apply(id, |entry| entry.reconfigure(limit, at))?,
            Event::Removed { id, .. } => {
                // It may be a limit that is in the log only: one that was removed before its shard's marker. Its id is
                // used up all the same.
                self.highest_id = self.highest_id.max(id);
                let mut removed = false;
                self.apply(id, |_| removed = true)?;
                if removed {
                    self.limits.remove(id);
                }
            }
            Event::Spent { id, cost, at } => self.apply(id, |entry| entry.allow(at, cost))?,
            Event::SpentAll { at, items } => {
                items.into_iter().try_for_each(|(id, cost)| self.apply(id, |entry| entry.allow(at, cost)))?;
            }
            Event::Denied { id, total, cost, last } => self.apply(id, |entry| entry.set_denied(total, cost, last))?,
            Event::Reset { id, at } => self.apply(id, |entry| entry.reset(at))?,
            Event::Marker { snapshot, shard } => {
                if snapshot == self.snapshot && !std::mem::replace(&mut self.marked[usize::from(shard)], true) {
                    self.unmarked -= 1;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.unmarked {
            0 => Ok(()),
            missing => Err(format!("the log ends before {missing} of the snapshot's markers")),
        }
    }
}

/// Entries in the order in which they came, which is that of their memory, and where each id stands: in a vector while
/// ids are dense, as they are after every start, in a map otherwise.
#[derive(Default)]
struct ById {
    entries: Vec<Option<Box<Entry>>>,
    /// Place of the entry plus 1; 0 for none.
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
    count: usize,
    /// How many are to come at most, where that is known.
    expected: usize,
}

impl ById {
    fn len(&self) -> usize {
        self.count
    }

    fn place(&self, id: u64) -> Option<usize> {
        let place = match usize::try_from(id).ok().and_then(|id| self.dense.get(id)) {
            Some(place) if *place > 0 => *place,
            _ if self.sparse.is_empty() => return None,
            _ => *self.sparse.get(&id)?,
        };
        Some(place as usize - 1)
    }

    fn get(&mut self, id: u64) -> Option<&mut Entry> {
        let place = self.place(id)?;
        self.entries[place].as_deref_mut()
    }

    fn insert(&mut self, entry: Box<Entry>) -> Result<(), String> {
        let id = entry.id();
        if self.place(id).is_some() {
            return Err(format!("limit {id} is configured twice"));
        }
        let place = u32::try_from(self.entries.len() + 1).map_err(|_| "more limits than can be".to_owned())?;
        self.entries.push(Some(entry));
        self.count += 1;
        match usize::try_from(id) {
            // In proportion to what there is, whatever the ids are.
            Ok(index) if index < 2 * self.expected + 4 * self.count + 1024 => {
                if index >= self.dense.len() {
                    self.dense.resize(index + 1, 0);
                }
                self.dense[index] = place;
            }
            _ => {
                self.sparse.insert(id, place);
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: u64) {
        let Some(place) = self.place(id) else { return };
        self.entries[place] = None;
        self.count -= 1;
        match usize::try_from(id).ok().and_then(|id| self.dense.get_mut(id)).filter(|place| **place > 0) {
            Some(place) => *place = 0,
            None => drop(self.sparse.remove(&id)),
        }
    }

    fn into_iter(self) -> impl Iterator<Item = Box<Entry>> {
        self.entries.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit};

    #[test]
    fn ids_of_limits_that_were_removed_before_their_marker_are_used_up() {
        let mut replayed = Replayed::new();
        replayed.snapshot(1, false, 0);
        replayed.event(Event::Removed { id: 7, at: 0 }).unwrap();
        for shard in 0..=255 {
            assert!(replayed.end().is_err());
            replayed.event(Event::Marker { snapshot: 1, shard }).unwrap();
        }
        assert_eq!(replayed.end(), Ok(()));
        let (limits, highest) = replayed.finish();
        assert_eq!((limits.len(), highest), (0, 7));
    }

    #[test]
    fn room_is_made_for_what_there_is_and_not_for_large_ids() {
        let limit = Limit::of_millis(1, 1, Algorithm::TokenBucket, None).unwrap();
        let mut by_id = ById::default();
        // Each one but little beyond twice the one before, and some far away.
        let ids: Vec<u64> = (0..39).map(|doubling| 1000 << doubling).chain([7, (1 << 48) - 1]).collect();
        for id in &ids {
            by_id.insert(Box::new(Entry::new("k", *id, 0, limit, 0))).unwrap();
            assert!(by_id.insert(Box::new(Entry::new("k", *id, 0, limit, 0))).is_err(), "{id} twice");
        }
        assert!(by_id.dense.len() < 4096, "{}", by_id.dense.len());
        assert!(ids.iter().all(|id| by_id.get(*id).is_some_and(|entry| entry.id() == *id)));
        by_id.remove(1000);
        by_id.remove(1 << 40);
        assert_eq!((by_id.len(), by_id.get(1000).is_none()), (ids.len() - 1, true));
        assert_eq!(by_id.into_iter().count(), ids.len() - 1);
    }
}
