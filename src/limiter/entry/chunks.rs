//! Entries one after the other, in chunks.
//!
//! Places have no gap: where an entry is taken out, the last one moves. So chunks are given back as soon as there are
//! fewer entries, and memory goes with them. A chunk is so large that the system's allocator maps it for itself, and
//! unmaps it when it is given back.

use super::key::Entry;

/// Entries of a chunk: about 220 KiB. What of it no entry was in yet takes no memory.
pub const CHUNK: usize = 2048;

/// Entries by their places. All chunks but the last are full.
#[derive(Debug, Default)]
pub struct Chunks(Vec<Vec<Entry>>);

impl Chunks {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * CHUNK + last.len(),
            None => 0,
        }
    }

    /// Room for how many there is.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.0.iter().map(Vec::capacity).sum()
    }

    /// The entry at a place below the length.
    #[inline]
    pub fn at(&self, place: u32) -> &Entry {
        &self.0[place as usize / CHUNK][place as usize % CHUNK]
    }

    /// The same, to change.
    #[inline]
    pub fn at_mut(&mut self, place: u32) -> &mut Entry {
        &mut self.0[place as usize / CHUNK][place as usize % CHUNK]
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(entry),
            // The first grows with what is in it.
            None => self.0.push(vec![entry]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(entry);
                self.0.push(chunk);
            }
        }
    }

    /// Takes out the last one.
    fn pop(&mut self) -> Option<Entry> {
        let last = self.0.last_mut()?;
        let entry = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        entry
    }

    /// Takes out the entry at a place. Returns the place from which another one came there, if one did.
    pub fn remove(&mut self, place: u32) -> Option<u32> {
        let last = self.pop()?;
        let from = self.len() as u32;
        if from == place {
            return None;
        }
        *self.at_mut(place) = last;
        Some(from)
    }

    /// Keeps those of which `stays` says so.
    pub fn retain(&mut self, mut stays: impl FnMut(&mut Entry) -> bool) {
        let mut place = 0;
        while place < self.len() as u32 {
            if stays(self.at_mut(place)) {
                place += 1;
            } else {
                self.remove(place);
            }
        }
    }

    /// All of them by their places.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flatten()
    }

    /// The same, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut().flatten()
    }

    /// Gives memory back that is not used.
    pub fn shrink(&mut self) {
        if let [only] = &mut *self.0
            && only.len() < only.capacity() / 4
        {
            only.shrink_to(2 * only.len());
        }
        self.0.shrink_to(2 * self.0.len());
    }
}
