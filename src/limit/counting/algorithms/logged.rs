//! The entries of a sliding window log.
//!
//! There may be tens of millions, and a compaction copies them under the lock of their shard. So all but the last few
//! stand in chunks that copies share: to copy a log takes a step for each chunk and a copy of the rest. A short log has
//! no chunk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Micros;

/// Entries of a chunk. Small in tests, so that short logs have some.
const CHUNK: usize = if cfg!(test) { 8 } else { 4096 };

/// A logged millisecond, with the running total up to and including it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub at: Micros,
    pub total: u64,
}

/// Entries, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Logged {
    /// `None` for a log of less than a chunk.
    older: Option<Box<Older>>,
    /// At most a chunk; empty only if there is nothing older.
    newer: VecDeque<Entry>,
}

/// Entries in full chunks. There is at least one, and of the first at least one entry is left.
#[derive(Debug, Clone, Default)]
struct Older {
    chunks: VecDeque<Arc<[Entry]>>,
    /// Entries of the first chunk that are taken out.
    taken: usize,
}

impl Older {
    fn len(&self) -> usize {
        self.chunks.len() * CHUNK - self.taken
    }

    /// What is left of a chunk.
    fn left(&self, chunk: usize) -> &[Entry] {
        let taken = if chunk == 0 { self.taken } else { 0 };
        self.chunks.get(chunk).map_or(&[], |entries| &entries[taken..])
    }

    /// The chunk of a place below the length, and the place in that.
    fn find(&self, place: usize) -> (usize, usize) {
        ((place + self.taken) / CHUNK, (place + self.taken) % CHUNK)
    }
}

impl Logged {
    pub fn len(&self) -> usize {
        self.before() + self.newer.len()
    }

    /// How many stand in chunks.
    fn before(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.len())
    }

    pub fn get(&self, place: usize) -> Option<Entry> {
        let Some(older) = self.older.as_ref().filter(|older| place < older.len()) else {
            return self.newer.get(place - self.before()).copied();
        };
        let (chunk, within) = older.find(place);
        older.chunks.get(chunk)?.get(within).copied()
    }

    pub fn last(&self) -> Option<Entry> {
        self.newer.back().copied()
    }

    pub fn last_mut(&mut self) -> Option<&mut Entry> {
        self.newer.back_mut()
    }

    pub fn push(&mut self, entry: Entry) {
        if self.newer.len() == CHUNK {
            let chunk = self.newer.iter().copied().collect();
            self.newer.clear();
            self.older.get_or_insert_default().chunks.push_back(chunk);
        }
        self.newer.push_back(entry);
    }

    /// Takes out the last one.
    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.newer.pop_back();
        if self.newer.is_empty() {
            self.thaw();
        }
        entry
    }

    /// Takes the last chunk apart, before the others.
    fn thaw(&mut self) {
        let Some(older) = &mut self.older else { return };
        let Some(chunk) = older.chunks.pop_back() else { return };
        let taken = if older.chunks.is_empty() { older.taken } else { 0 };
        for entry in chunk[taken..].iter().rev() {
            self.newer.push_front(*entry);
        }
        if older.chunks.is_empty() {
            self.older = None;
        }
    }

    /// Takes out the first ones, as long as they are `gone`, which is so of all before one that is. Returns the last of
    /// them.
    pub fn take_while(&mut self, gone: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let mut last = None;
        while let Some(older) = &mut self.older {
            let first = older.left(0);
            let some = first.partition_point(&gone);
            if some == 0 {
                return last;
            }
            last = Some(first[some - 1]);
            if some < first.len() {
                older.taken += some;
                return last;
            }
            older.chunks.pop_front();
            older.taken = 0;
            if older.chunks.is_empty() {
                self.older = None;
            }
        }
        while let Some(first) = self.newer.front().copied().filter(&gone) {
            self.newer.pop_front();
            last = Some(first);
        }
        last
    }

    /// The place of the first entry of which `before` is not so, which is so of all before one of which it is.
    pub fn partition_point(&self, before: impl Fn(&Entry) -> bool) -> usize {
        let Some(older) = &self.older else { return self.newer.partition_point(before) };
        let chunk = older.chunks.partition_point(|chunk| chunk.last().is_some_and(&before));
        if chunk == older.chunks.len() {
            return older.len() + self.newer.partition_point(before);
        }
        let passed = if chunk == 0 { 0 } else { chunk * CHUNK - older.taken };
        passed + older.left(chunk).partition_point(before)
    }

    /// Lowers the total of those from a place on by this many units. They are walked through, and what a copy shares is
    /// copied.
    pub fn lower(&mut self, place: usize, units: u64) {
        let before = self.before();
        if let Some(older) = self.older.as_mut().filter(|older| place < older.len()) {
            let (first, within) = older.find(place);
            let mut skip = within;
            for chunk in older.chunks.range_mut(first..) {
                Arc::make_mut(chunk)[skip..].iter_mut().for_each(|entry| entry.total = entry.total.wrapping_sub(units));
                skip = 0;
            }
        }
        for entry in self.newer.range_mut(place.saturating_sub(before)..) {
            entry.total = entry.total.wrapping_sub(units);
        }
    }

    /// Takes out the entry at a place. What comes after it is walked through.
    pub fn remove(&mut self, place: usize) {
        while place < self.before() {
            self.thaw();
        }
        self.newer.remove(place - self.before());
        while self.newer.len() > CHUNK {
            let chunk = self.newer.drain(..CHUNK).collect();
            self.older.get_or_insert_default().chunks.push_back(chunk);
        }
        if self.newer.is_empty() {
            self.thaw();
        }
    }

    /// Gives back room of a burst, which must not keep its memory for ever.
    pub fn shrink(&mut self) {
        if self.older.is_none() && self.newer.capacity() > 64 && self.newer.len() < self.newer.capacity() / 4 {
            self.newer.shrink_to(self.newer.len() * 2);
        }
        if let Some(older) = &mut self.older
            && older.chunks.capacity() > 64
            && older.chunks.len() < older.chunks.capacity() / 4
        {
            older.chunks.shrink_to(older.chunks.len() * 2);
        }
    }

    /// Entries for which there is room.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.chunks.len() * CHUNK) + self.newer.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> Entry {
        Entry { at, total: at }
    }

    fn all(logged: &Logged) -> Vec<(u64, u64)> {
        (0..logged.len()).map(|place| logged.get(place).map(|entry| (entry.at, entry.total)).unwrap()).collect()
    }

    /// What a log of any length does is what a plain list does, and copies stay as they were.
    #[test]
    fn it_is_a_list_whose_copies_share_what_is_old() {
        for seed in 0..300_u64 {
            let (mut logged, mut plain) = (Logged::default(), Vec::<Entry>::new());
            let mut copies = Vec::new();
            let mut next = 0;
            let mut random = seed;
            for _ in 0..200 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (what, which) = (random >> 60, (random >> 32) as usize & 0xffff);
                match what {
                    0..=8 => {
                        next += 1 + which as u64 % 3;
                        logged.push(entry(next));
                        plain.push(entry(next));
                    }
                    9 => assert_eq!(logged.pop().map(|entry| entry.at), plain.pop().map(|entry| entry.at)),
                    10 => {
                        let until = plain.get(which % (plain.len() + 1)).map_or(next, |entry| entry.at);
                        let gone = plain.iter().take_while(|entry| entry.at < until).count();
                        let last = plain.drain(..gone).next_back();
                        let told = logged.take_while(|entry| entry.at < until);
                        assert_eq!(told.map(|entry| entry.at), last.map(|entry| entry.at));
                    }
                    11 if !plain.is_empty() => {
                        let place = which % plain.len();
                        logged.remove(place);
                        plain.remove(place);
                    }
                    12 if !plain.is_empty() => {
                        let place = which % plain.len();
                        logged.lower(place, 7);
                        plain[place..].iter_mut().for_each(|entry| entry.total = entry.total.wrapping_sub(7));
                    }
                    13 => copies.push((logged.clone(), all(&logged))),
                    14 => logged.shrink(),
                    _ => {}
                }
                assert_eq!(all(&logged), plain.iter().map(|entry| (entry.at, entry.total)).collect::<Vec<_>>());
                assert_eq!(logged.last().map(|entry| entry.at), plain.last().map(|entry| entry.at));
                assert!(logged.get(plain.len()).is_none());
                let at = next.saturating_sub(which as u64 % 40);
                let place = plain.partition_point(|entry| entry.at < at);
                assert_eq!(logged.partition_point(|entry| entry.at < at), place);
            }
            assert!(copies.iter().all(|(copy, then)| all(copy) == *then));
        }
    }

    #[test]
    fn a_copy_takes_a_step_for_each_chunk() {
        let mut logged = Logged::default();
        (0..10 * CHUNK as u64 + 3).for_each(|at| logged.push(entry(at)));
        let copy = logged.clone();
        let chunks = |logged: &Logged| -> Vec<*const Entry> {
            logged.older.as_ref().unwrap().chunks.iter().map(|chunk| chunk.as_ptr()).collect()
        };
        assert_eq!((chunks(&copy).len(), copy.newer.len()), (10, 3));
        assert_eq!(chunks(&copy), chunks(&logged), "shared");
    }
}
