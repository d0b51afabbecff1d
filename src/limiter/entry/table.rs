//! The keys of one shard.

use hashbrown::HashTable;

use super::key::{Entry, Held};
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
    entries: HashTable<Held>,
    pub counts: Counts,
    /// Configurations that were queued for the log, and how many of them are known to be on disk: in this order, since
    /// records of a shard are queued under its lock.
    configured: (u64, u64),
    /// Bucket at which the next step of the sweep begins.
    next_bucket: usize,
}

impl Table {
    /// The entry of `key`, whose hash is `hash`.
    pub fn get(&mut self, hash: u64, key: &str) -> Option<&mut Entry> {
        self.entries.find_mut(hash, |entry| *entry.key == *key).map(|entry| &mut **entry)
    }

    /// As [`Table::get`], with what is counted besides.
    pub fn get_with_counts(&mut self, hash: u64, key: &str) -> (Option<&mut Entry>, &mut Counts) {
        let entry = self.entries.find_mut(hash, |entry| *entry.key == *key).map(|entry| &mut **entry);
        (entry, &mut self.counts)
    }

    /// The entry with `id`, whose key's hash is `hash`.
    pub fn get_id(&mut self, hash: u64, id: u64) -> Option<&mut Entry> {
        self.entries.find_mut(hash, |entry| entry.id() == id).map(|entry| &mut **entry)
    }

    /// Adds an entry whose key is not there yet.
    pub fn insert(&mut self, hash: u64, entry: Held, rehash: impl Fn(&str) -> u64) -> &mut Entry {
        self.entries.insert_unique(hash, entry, |entry| rehash(&entry.key)).into_mut()
    }

    /// Takes an entry out.
    pub fn remove(&mut self, hash: u64, key: &str) -> Option<Held> {
        self.entries.find_entry(hash, |entry| *entry.key == *key).ok().map(|found| found.remove().0)
    }

    /// All entries, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|entry| &mut **entry)
    }

    /// The same, to look at.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|entry| &**entry)
    }

    /// Looks at the entries of the next `buckets` buckets, and takes out those of which `gone` says so. `gone` must see
    /// to all that counts on them.
    pub fn sweep(&mut self, buckets: usize, mut gone: impl FnMut(&mut Entry, &mut Counts) -> bool) -> Swept {
        let begin = if self.next_bucket < self.entries.num_buckets() { self.next_bucket } else { 0 };
        let end = (begin + buckets).min(self.entries.num_buckets());
        let mut removed = 0;
        for bucket in begin..end {
            let Some(entry) = self.entries.get_bucket_mut(bucket) else { continue };
            if gone(entry, &mut self.counts)
                && let Ok(found) = self.entries.get_bucket_entry(bucket)
            {
                found.remove();
                removed += 1;
            }
        }
        let ended = end == self.entries.num_buckets();
        self.next_bucket = if ended { 0 } else { end };
        self.counts.swept += removed as u64;
        Swept { removed, ended }
    }

    /// Lets the next step of the sweep begin at the first bucket.
    pub fn begin_sweep(&mut self) {
        self.next_bucket = 0;
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.entries.num_buckets()
    }

    /// Gives memory back after many entries have gone.
    pub fn shrink(&mut self, rehash: impl Fn(&str) -> u64) {
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2, |entry| rehash(&entry.key));
            self.next_bucket = 0;
        }
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
        self.entries.len()
    }

    /// Makes room for `more`.
    pub fn reserve(&mut self, more: usize, rehash: impl Fn(&str) -> u64) {
        self.entries.reserve(more, |entry| rehash(&entry.key));
    }
}
