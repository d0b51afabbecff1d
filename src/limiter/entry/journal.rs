//! Which keys of a shard an operation has looked at, for a limiter whose records are kept elsewhere.

use std::sync::Arc;

use super::key::Entry;
use super::text::Text;
use crate::limiter::notes::noting::Notes;

/// A key that was looked at.
#[derive(Debug)]
pub struct Look {
    pub hash: u64,
    pub key: Text,
    /// Its entry as it was before the operation.
    pub before: Option<Entry>,
    /// Whether it was looked at only to lead it away from a pattern.
    pub is_silent: bool,
}

/// The journal of a shard.
#[derive(Debug)]
pub struct Journal {
    notes: Arc<Notes>,
    shard: u8,
    looks: Vec<Look>,
}

impl Journal {
    /// An empty one.
    pub fn new(notes: &Arc<Notes>, shard: u8) -> Journal {
        Journal { notes: Arc::clone(notes), shard, looks: Vec::new() }
    }

    /// Notes that a key is looked at, before anything of it is changed.
    pub fn look(&mut self, hash: u64, key: &str, entry: Option<&Entry>) {
        if !self.notes.is_on() {
            return;
        }
        let is_silent = self.notes.is_silent();
        // A shard has few of the keys of any operation.
        if let Some(known) = self.looks.iter_mut().find(|look| look.hash == hash && *look.key == *key) {
            known.is_silent &= is_silent;
            return;
        }
        if self.looks.is_empty() {
            self.notes.shard(self.shard);
        }
        self.looks.push(Look { hash, key: key.into(), before: entry.cloned(), is_silent });
    }

    /// Takes out what was noted.
    pub fn take(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.looks)
    }
}
