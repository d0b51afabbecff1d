//! Keys by their id in the log.

use std::collections::HashMap;

use crate::limiter::entry::Entry;

/// Entries in the order in which they came, which is that of their memory, and where each id stands: in a vector while
/// ids are dense, as they are after every start, in a map otherwise.
#[derive(Default)]
pub struct ById {
    entries: Vec<Option<Entry>>,
    /// Place of the entry plus 1; 0 for none.
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
    count: usize,
    /// How many are to come at most, where that is known.
    expected: usize,
}

impl ById {
    /// How many are to come at most.
    pub fn expect(&mut self, expected: usize) {
        self.expected = expected;
        self.entries.reserve(expected);
        self.dense.reserve(expected);
    }

    fn place(&self, id: u64) -> Option<usize> {
        let place = match usize::try_from(id).ok().and_then(|id| self.dense.get(id)) {
            Some(place) if *place > 0 => *place,
            _ if self.sparse.is_empty() => return None,
            _ => *self.sparse.get(&id)?,
        };
        Some(place as usize - 1)
    }

    /// The entry of `id`.
    pub fn get(&mut self, id: u64) -> Option<&mut Entry> {
        let place = self.place(id)?;
        self.entries[place].as_mut()
    }

    /// Adds an entry whose id is not there yet.
    pub fn insert(&mut self, entry: Entry) -> Result<(), String> {
        let id = entry.id();
        if self.place(id).is_some() {
            return Err(format!("key {id} is there twice"));
        }
        let place = u32::try_from(self.entries.len() + 1).map_err(|_| "more keys than can be".to_owned())?;
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

    /// Takes out the entry of `id`.
    pub fn remove(&mut self, id: u64) {
        let Some(place) = self.place(id) else { return };
        self.entries[place] = None;
        self.count -= 1;
        match usize::try_from(id).ok().and_then(|id| self.dense.get_mut(id)).filter(|place| **place > 0) {
            Some(place) => *place = 0,
            None => drop(self.sparse.remove(&id)),
        }
    }

    /// All of them, in the order in which they came.
    pub fn into_entries(self) -> Vec<Entry> {
        // In the memory in which they are.
        self.entries.into_iter().flatten().collect()
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
        Entry::new("k", id, 0, Source::Exact, Arc::new(limit))
    }

    #[test]
    fn room_is_made_for_what_there_is_and_not_for_large_ids() {
        let mut by_id = ById::default();
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
        assert_eq!((by_id.count, by_id.get(1000).is_none()), (ids.len() - 1, true));
        assert_eq!(by_id.into_entries().len(), ids.len() - 1);
    }
}
