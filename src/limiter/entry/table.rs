//! The keys of one shard: entries in chunks, and a hash table of their places.

use hashbrown::HashTable;

use super::chunks::Chunks;
#[cfg(feature = "store")]
use super::journal::Journal;
use super::key::Entry;
use super::shares::Counts;

/// How far a step of a sweep came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Keys that were taken out.
    pub removed: usize,
    /// Whether it came to the end of the table: the next step begins again.
    pub ended: bool,
}

/// The keys of one shard.
#[derive(Debug, Default)]
pub struct Table {
    /// Where the entries are.
    places: HashTable<u32>,
    chunks: Chunks,
    pub counts: Counts,
    /// Configurations that were queued for the log, and how many of them are known to be on disk: in this order, since
    /// records of a shard are queued under its lock.
    configured: (u64, u64),
    /// Place at which the next step of the sweep begins.
    next: usize,
    /// Where it is noted which keys are looked at.
    #[cfg(feature = "store")]
    pub journal: Option<Box<Journal>>,
}

impl Table {
    /// Of entries with these hashes. `Err` has a key that is there twice.
    pub fn of(chunks: Chunks, hashes: &[u64]) -> Result<Table, Box<str>> {
        let mut places: HashTable<u32> = HashTable::with_capacity(hashes.len());
        for (place, hash) in (0..).zip(hashes) {
            let key = chunks.at(place).key.as_bytes();
            if places.find(*hash, |other| chunks.at(*other).key.as_bytes() == key).is_some() {
                return Err(Box::from(&*chunks.at(place).key));
            }
            places.insert_unique(*hash, place, |other| hashes[*other as usize]);
        }
        Ok(Table { places, chunks, ..Table::default() })
    }

    /// The entry of `key`, whose hash is `hash`.
    pub fn get(&mut self, hash: u64, key: &str) -> Option<&mut Entry> {
        self.get_with_counts(hash, key).0
    }

    /// As [`Table::get`], with what is counted besides.
    pub fn get_with_counts(&mut self, hash: u64, key: &str) -> (Option<&mut Entry>, &mut Counts) {
        let place = self.find(hash, key);
        let Table { chunks, counts, .. } = self;
        (place.map(|place| chunks.at_mut(place)), counts)
    }

    /// Where the entry of `key` is. Each look at a key that may decide anything comes through here or
    /// [`Table::get_id`].
    #[inline]
    fn find(&mut self, hash: u64, key: &str) -> Option<u32> {
        let Table { places, chunks, .. } = self;
        let place = places.find(hash, |place| chunks.at(*place).key.as_bytes() == key.as_bytes()).copied();
        #[cfg(feature = "store")]
        if let Some(journal) = &mut self.journal {
            journal.look(hash, key, place.map(|place| chunks.at(place)));
        }
        place
    }

    /// The entry with `id`, whose key's hash is `hash`.
    pub fn get_id(&mut self, hash: u64, id: u64) -> Option<&mut Entry> {
        let Table { places, chunks, .. } = self;
        let place = places.find(hash, |place| chunks.at(*place).id() == id)?;
        #[cfg(feature = "store")]
        if let Some(journal) = &mut self.journal {
            let entry = chunks.at(*place);
            journal.look(hash, &entry.key, Some(entry));
        }
        Some(chunks.at_mut(*place))
    }

    /// Adds an entry whose key is not there yet.
    pub fn insert(&mut self, hash: u64, entry: Entry, rehash: impl Fn(&str) -> u64) -> &mut Entry {
        let Table { places, chunks, .. } = self;
        let place = chunks.len() as u32;
        chunks.push(entry);
        places.insert_unique(hash, place, |place| rehash(&chunks.at(*place).key));
        chunks.at_mut(place)
    }

    /// Takes an entry out. Whether it was there.
    pub fn remove(&mut self, hash: u64, key: &str, rehash: impl Fn(&str) -> u64) -> bool {
        let Table { places, chunks, .. } = self;
        let place = places.find(hash, |place| chunks.at(*place).key.as_bytes() == key.as_bytes()).copied();
        place.map(|place| self.remove_at(hash, place, &rehash)).is_some()
    }

    /// Takes out the entry at a place, to which the last one moves.
    fn remove_at(&mut self, hash: u64, place: u32, rehash: &impl Fn(&str) -> u64) {
        let Table { places, chunks, .. } = self;
        if let Ok(found) = places.find_entry(hash, |other| *other == place) {
            found.remove();
        }
        if let Some(from) = chunks.remove(place)
            && let Some(found) = places.find_mut(rehash(&chunks.at(place).key), |other| *other == from)
        {
            *found = place;
        }
    }

    /// All entries, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.chunks.iter_mut()
    }

    /// The same, to look at.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter()
    }

    /// Looks at the next `most` entries, and takes out those of which `gone` says so. `gone` must see to all that
    /// counts on them.
    pub fn sweep(
        &mut self,
        most: usize,
        rehash: impl Fn(&str) -> u64,
        mut gone: impl FnMut(&mut Entry, &mut Counts) -> bool,
    ) -> Swept {
        let mut removed = 0;
        for _ in 0..most {
            if self.next >= self.len() {
                break;
            }
            let place = self.next as u32;
            let entry = self.chunks.at_mut(place);
            if gone(entry, &mut self.counts) {
                let hash = rehash(&entry.key);
                self.remove_at(hash, place, &rehash);
                removed += 1;
            } else {
                self.next += 1;
            }
        }
        self.counts.swept += removed as u64;
        let ended = self.next >= self.len();
        if ended {
            self.next = 0;
        }
        Swept { removed, ended }
    }

    /// Lets the next step of the sweep begin at the first entry.
    pub fn begin_sweep(&mut self) {
        self.next = 0;
    }

    /// Gives memory back after many entries have gone.
    pub fn shrink(&mut self, rehash: impl Fn(&str) -> u64) {
        let Table { places, chunks, .. } = self;
        if places.capacity() > 16 && places.len() < places.capacity() / 4 {
            places.shrink_to(places.len() * 2, |place| rehash(&chunks.at(*place).key));
        }
        chunks.shrink();
    }

    /// Counts a configuration that was queued for the log. Returns its number.
    pub fn count_configured(&mut self) -> u64 {
        self.configured.0 += 1;
        self.configured.0
    }

    /// The number of the last configuration, if it is not known to be on disk: under way, or not waited for any more.
    pub fn unconfirmed(&self) -> Option<u64> {
        (self.configured.0 > self.configured.1).then_some(self.configured.0)
    }

    /// Notes that the configuration of this number is on disk, and so all before it.
    pub fn confirm(&mut self, number: u64) {
        self.configured.1 = self.configured.1.max(number);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Room for how many there is.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.chunks.room().max(self.places.capacity())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::{BuildHasher, RandomState};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::chunks::CHUNK;
    use super::*;
    use crate::limiter::entry::Source;

    #[derive(Debug, Clone)]
    enum Op {
        /// Keys from the first number, so many.
        Insert(u32, u32),
        Remove(u32, u32),
        /// Those whose number leaves a remainder of 0, in steps of this many entries.
        Sweep(u32, usize),
        Shrink,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_table_holds_what_a_map_holds(ops in prop::collection::vec(prop_oneof![
            3 => (0..9000u32, prop_oneof![1..20u32, 1000..5000u32]).prop_map(|(first, count)| Op::Insert(first, count)),
            2 => (0..9000u32, prop_oneof![1..20u32, 1000..5000u32]).prop_map(|(first, count)| Op::Remove(first, count)),
            2 => (1..5u32, prop_oneof![1..100usize, Just(usize::MAX)]).prop_map(|(by, step)| Op::Sweep(by, step)),
            1 => Just(Op::Shrink),
        ], 1..20)) {
            let hasher = RandomState::new();
            let rehash = |key: &str| hasher.hash_one(key);
            let limit = Arc::new("1/1s".parse().unwrap());
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            let name = |number: u32| format!("key-{number}");
            for op in ops {
                match op {
                    Op::Insert(first, count) => for number in first..first + count {
                        let key = name(number);
                        if map.insert(number, u64::from(number)).is_none() {
                            let entry = Entry::new(&key, u64::from(number), 0, Source::Exact, Arc::clone(&limit));
                            let there = table.insert(rehash(&key), entry, rehash);
                            prop_assert_eq!(there.id(), u64::from(number));
                        }
                    },
                    Op::Remove(first, count) => for number in first..first + count {
                        let key = name(number);
                        prop_assert_eq!(table.remove(rehash(&key), &key, rehash), map.remove(&number).is_some());
                    },
                    Op::Sweep(by, step) => {
                        let (mut removed, before) = (0, map.len());
                        table.begin_sweep();
                        loop {
                            let swept = table.sweep(step, rehash, |entry, _| entry.id() % u64::from(by) == 0);
                            removed += swept.removed;
                            if swept.ended {
                                break;
                            }
                        }
                        map.retain(|number, _| number % by != 0);
                        prop_assert_eq!(removed, before - map.len());
                    }
                    Op::Shrink => {
                        table.shrink(rehash);
                        let hashes: Vec<u64> = table.iter().map(|entry| rehash(&entry.key)).collect();
                        table = Table::of(table.chunks, &hashes).unwrap();
                        let most = (4 * table.len() + CHUNK).max(8 * table.len() + 32);
                        prop_assert!(table.room() <= most, "{} for {}", table.room(), table.len());
                    }
                }
                prop_assert_eq!(table.len(), map.len());
            }
            let mut ids: Vec<u64> = table.iter().map(Entry::id).collect();
            ids.sort_unstable();
            prop_assert_eq!(ids, map.values().copied().collect::<Vec<_>>());
            for number in 0..14_000 {
                let key = name(number);
                let found = table.get(rehash(&key), &key).map(|entry| entry.id());
                prop_assert_eq!(found, map.get(&number).copied());
                let found = table.get_id(rehash(&key), u64::from(number)).map(|entry| entry.key.to_string());
                prop_assert_eq!(found, map.contains_key(&number).then_some(key));
            }
        }
    }
}
