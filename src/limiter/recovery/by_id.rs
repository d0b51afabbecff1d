//! Keys by their id in the log, in the shards in which they are to be.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::bounds::SHARDS;
use crate::limiter::core::shard_of;
use crate::limiter::entry::{Chunks, Entry};

/// Most keys of a shard, one more than the last place.
const MOST: usize = 1 << 24;

/// An invalid place: nothing has this many keys.
const NONE: u32 = u32::MAX;

/// Entries by shard, and where each id is: in a vector while ids are dense, as they are after every start, in a map
/// otherwise. A place has the shard in its upper 8 bits.
pub struct ById {
    hasher: RandomState,
    shards: Vec<Chunks>,
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
    count: usize,
    /// How many are to come at most, where that is known.
    expected: usize,
}

impl ById {
    /// None yet. They go to shards by this hasher.
    pub fn new(hasher: &RandomState) -> ById {
        ById {
            hasher: hasher.clone(),
            shards: (0..SHARDS).map(|_| Chunks::default()).collect(),
            dense: Vec::new(),
            sparse: HashMap::new(),
            count: 0,
            expected: 0,
        }
    }

    /// The hash of a key, as the map has it.
    pub fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// How many are to come at most.
    pub fn expect(&mut self, expected: usize) {
        self.expected = expected;
        self.dense.reserve(expected);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    #[inline]
    fn place(&self, id: u64) -> Option<(usize, u32)> {
        let place = match usize::try_from(id).ok().and_then(|id| self.dense.get(id)) {
            Some(place) if *place != NONE => *place,
            _ if self.sparse.is_empty() => return None,
            _ => *self.sparse.get(&id)?,
        };
        Some((place as usize / MOST, place % MOST as u32))
    }

    fn note(&mut self, id: u64, shard: usize, place: u32) {
        let place = (shard * MOST) as u32 + place;
        match usize::try_from(id) {
            // In proportion to what there is, whatever the ids are.
            Ok(index) if index < 2 * self.expected + 4 * self.count + 1024 || index < self.dense.len() => {
                if index >= self.dense.len() {
                    self.dense.resize(index + 1, NONE);
                }
                self.dense[index] = place;
            }
            _ => {
                self.sparse.insert(id, place);
            }
        }
    }

    /// The entry of `id`.
    #[inline]
    pub fn get(&mut self, id: u64) -> Option<&mut Entry> {
        let (shard, place) = self.place(id)?;
        Some(self.shards[shard].at_mut(place))
    }

    /// Adds an entry whose id is not there yet.
    pub fn insert(&mut self, entry: Entry) -> Result<(), String> {
        let id = entry.id();
        if self.place(id).is_some() {
            return Err(format!("key {id} is there twice"));
        }
        let shard = shard_of(self.hasher.hash_one(&*entry.key));
        let place = self.shards[shard].len();
        if place >= MOST - 1 {
            return Err("there are more keys than can be".to_owned());
        }
        self.shards[shard].push(entry);
        self.count += 1;
        self.note(id, shard, place as u32);
        Ok(())
    }

    /// Takes out the entry of `id`.
    pub fn remove(&mut self, id: u64) {
        let Some((shard, place)) = self.place(id) else { return };
        self.count -= 1;
        match usize::try_from(id).ok().and_then(|id| self.dense.get_mut(id)).filter(|place| **place != NONE) {
            Some(place) => *place = NONE,
            None => drop(self.sparse.remove(&id)),
        }
        if self.shards[shard].remove(place).is_some() {
            let moved = self.shards[shard].at(place).id();
            // Where it was noted before, whatever the bound is now.
            match self.sparse.get_mut(&moved) {
                Some(noted) => *noted = (shard * MOST) as u32 + place,
                None => self.note(moved, shard, place),
            }
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.shards.iter().flat_map(Chunks::iter)
    }

    /// The same, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.shards.iter_mut().flat_map(Chunks::iter_mut)
    }

    /// All of them by shard.
    pub fn into_shards(self) -> Vec<Chunks> {
        self.shards
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limit::Limit;
    use crate::limiter::entry::Source;

    fn entry(id: u64) -> Entry {
        let limit: Limit = "1/1ms".parse().unwrap();
        Entry::new(&format!("k{id}"), id, 0, Source::Exact, Arc::new(limit))
    }

    #[test]
    fn room_is_made_for_what_there_is_and_not_for_large_ids() {
        let mut by_id = ById::new(&RandomState::new());
        // Each one but little beyond twice the one before, and some far away.
        let ids: Vec<u64> = (0..39).map(|doubling| 1000 << doubling).chain([7, (1 << 48) - 1]).collect();
        for id in &ids {
            by_id.insert(entry(*id)).unwrap();
            assert!(by_id.insert(entry(*id)).is_err(), "{id} twice");
        }
        assert!(by_id.dense.len() < 4096, "{}", by_id.dense.len());
        assert!(ids.iter().all(|id| by_id.get(*id).is_some_and(|entry| entry.id() == *id)));
        by_id.remove(1000);
        by_id.remove(1 << 40);
        assert_eq!((by_id.len(), by_id.get(1000).is_none()), (ids.len() - 1, true));
        assert_eq!(by_id.iter().count(), ids.len() - 1);
    }

    #[test]
    fn those_that_move_are_found_where_they_are() {
        let mut by_id = ById::new(&RandomState::new());
        // Dense ones and others.
        let id = |number: u64| if number.is_multiple_of(3) { number << 30 } else { number };
        for number in 1..5000 {
            by_id.insert(entry(id(number))).unwrap();
        }
        for number in (1..5000).filter(|number| number % 7 < 4) {
            by_id.remove(id(number));
        }
        for number in 1..5000 {
            let found = by_id.get(id(number)).map(|entry| entry.id());
            assert_eq!(found, (number % 7 >= 4).then_some(id(number)), "{number}");
        }
        assert_eq!(by_id.len(), by_id.iter_mut().count());
        assert_eq!(by_id.len(), by_id.into_shards().iter().map(Chunks::len).sum::<usize>());
    }
}
