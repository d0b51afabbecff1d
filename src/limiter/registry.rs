//! What keys share: the configured patterns, the bounds on keys that come and go, and one copy of equal values.
//!
//! Owns: which pattern serves a key, and since when with which values. A key that lives under a pattern remembers the
//! version at which that was looked up. While the version is current, its pattern and values are still right, so a
//! check compares one number and takes no lock that all share.
//!
//! An edit of patterns holds [`Registry::edit`] for all of it. What others see of it changes at once, under the inner
//! lock. A check reads the clock first and the version after it; an edit raises the version first and takes its
//! instant after it. So a check that still goes by the old values is never later than the edit, and the instant as of
//! which a key moves to the new ones is never before its own last.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use hashbrown::HashTable;

use crate::bounds::MAX_KEYS;
use crate::clock::Micros;
use crate::limit::{Limit, PatternSet};
use crate::limiter::notes::noting::Noting;
use crate::store::record::Overlay;

/// First character of the key of a pattern's entry in the map; its text follows. No key of a request has it.
pub const PATTERN_MARK: char = '\u{1}';

/// First character of the key of an overflow limit in the map; the pattern's text or the values follow.
pub const OVERFLOW_MARK: char = '\u{2}';

/// Fewest copies of values that are looked through for those that nothing uses any more.
const MIN_PURGE: usize = 1024;

/// What a pattern is known by, for as long as it is configured.
#[derive(Debug)]
pub struct Pattern {
    /// Its place in the registry. It goes to another pattern only when no entry refers to it any more.
    pub slot: u32,
    /// Id of its entry in the log.
    pub id: u64,
    /// As it was configured.
    pub text: Arc<str>,
    /// Keys that live under it, its overflow limit apart.
    pub live: AtomicU64,
}

/// A pattern, and what its keys are to have.
#[derive(Debug, Clone)]
pub struct Row {
    pub pattern: Arc<Pattern>,
    /// Its values. While there is an overlay, those that come back.
    pub limit: Arc<Limit>,
    pub overlay: Option<Overlay>,
    /// Since when the values in force are.
    pub edited_at: Micros,
    pub max_keys: u64,
    /// Set while its keys are led to other limits.
    pub removed_at: Option<Micros>,
}

impl Row {
    /// The values that its keys are to have.
    pub fn in_force(&self) -> &Arc<Limit> {
        self.overlay.as_ref().map_or(&self.limit, |overlay| &overlay.limit)
    }
}

/// The patterns by slot, and which serves a key.
#[derive(Debug, Default)]
pub struct Known {
    set: PatternSet<u32>,
    rows: Vec<Option<Row>>,
    /// Places in `rows` that are empty.
    free: Vec<u32>,
    /// No overlay ends before this, if there is one.
    next_end: Option<Micros>,
}

impl Known {
    /// The pattern with this slot, also while it is being removed.
    pub fn row(&self, slot: u32) -> Option<&Row> {
        self.rows.get(slot as usize)?.as_ref()
    }

    /// Changes a pattern.
    pub fn edit(&mut self, slot: u32, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows.get_mut(slot as usize).and_then(Option::as_mut) {
            change(row);
            self.next_end = earliest(self.next_end, row);
        }
    }

    /// The pattern that serves `key`.
    pub fn find(&self, key: &str) -> Option<&Row> {
        self.set.find(key).and_then(|(_, slot)| self.row(*slot))
    }

    /// The pattern with this text.
    pub fn get(&self, text: &str) -> Option<&Row> {
        self.set.get(text).and_then(|slot| self.row(*slot))
    }

    /// Adds a pattern that is not there yet.
    pub fn add(
        &mut self,
        text: &str,
        id: u64,
        limit: Arc<Limit>,
        overlay: Option<Overlay>,
        edited_at: Micros,
        max_keys: Option<u64>,
    ) -> Arc<Pattern> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        let pattern = Arc::new(Pattern { slot, id, text: text.into(), live: AtomicU64::new(0) });
        let max_keys = max_keys.unwrap_or(MAX_KEYS);
        let row = Row { pattern: Arc::clone(&pattern), limit, overlay, edited_at, max_keys, removed_at: None };
        self.next_end = earliest(self.next_end, &row);
        self.rows[slot as usize] = Some(row);
        self.set.insert(text, slot);
        pattern
    }

    /// Lets it serve no key any more. It stays for those that look back at it.
    pub fn retire(&mut self, text: &str, removed_at: Micros) -> Option<Arc<Pattern>> {
        let slot = self.set.remove(text)?;
        let row = self.rows.get_mut(slot as usize)?.as_mut()?;
        row.removed_at = Some(removed_at);
        Some(Arc::clone(&row.pattern))
    }

    /// Lets a pattern that was retired serve keys again.
    pub fn reinstate(&mut self, slot: u32) {
        if let Some(row) = self.rows.get_mut(slot as usize).and_then(Option::as_mut) {
            row.removed_at = None;
            self.set.insert(&row.pattern.text, slot);
        }
    }

    /// Takes out a pattern to which no entry refers any more.
    pub fn forget(&mut self, slot: u32) {
        if self.rows.get_mut(slot as usize).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }

    /// Lifts the overlays that have ended. Returns whether there were any.
    fn lift_ended(&mut self, now: Micros) -> bool {
        let (mut lifted, mut next_end) = (false, None);
        for row in self.rows.iter_mut().flatten() {
            if let Some(ended) = row.overlay.take_if(|overlay| overlay.until <= now) {
                row.edited_at = ended.until;
                lifted = true;
            }
            next_end = earliest(next_end, row);
        }
        self.next_end = next_end;
        lifted
    }

    /// All that serve keys.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().flatten().filter(|row| row.removed_at.is_none())
    }
}

/// The lock of edits.
pub type Edit<'a> = MutexGuard<'a, Option<Group>>;

/// Changes that are made all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number in the log.
    pub number: u64,
    /// What is left to do, the next one last.
    pub left: Vec<Intended>,
}

/// What one limit of a group is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intended {
    pub key: Box<str>,
    /// Its values; without them it is to be removed.
    pub limit: Option<Arc<Limit>>,
    pub max_keys: Option<u64>,
    /// Until when, if the values lie over others for a time.
    pub until: Option<Micros>,
}

/// What every check of a key by pattern looks at, and only edits change. So it shares no cache line with counters.
#[derive(Debug)]
#[repr(align(64))]
struct Now {
    /// Raised by every edit. 0 is never current: it is what a new entry has.
    version: AtomicU32,
    /// When the next overlay of a pattern ends; [`u64::MAX`] for none.
    next_end: AtomicU64,
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    now: Now,
    /// Rank 3: held by an edit, before any shard's lock. Holds what an error has left of a group of changes.
    editing: Mutex<Option<Group>>,
    /// Rank 5: held for a look or for one step of an edit, after a shard's lock. Nothing is waited for under it.
    known: RwLock<Known>,
    /// Rank 5. One copy of equal values, and how many there may be before the unused ones are dropped.
    interned: Mutex<(HashTable<Arc<Limit>>, usize)>,
    hasher: RandomState,
    /// Keys that live under what a request brought, overflow limits apart.
    pub requested: AtomicU64,
    /// Most of these.
    pub max_requested: u64,
    /// Overflow limits for values that requests brought.
    pub overflows: AtomicU64,
    /// Where the next key that finds no room looks for some.
    pub next_swept: AtomicU32,
    /// Decisions by overflow limits since the start.
    pub overflowed: AtomicU64,
    pub noting: Noting,
}

impl Registry {
    /// Without patterns.
    pub fn new(max_requested: u64) -> Registry {
        Registry {
            now: Now { version: AtomicU32::new(1), next_end: AtomicU64::new(u64::MAX) },
            editing: Mutex::new(None),
            known: RwLock::default(),
            interned: Mutex::new((HashTable::new(), MIN_PURGE)),
            hasher: RandomState::new(),
            requested: AtomicU64::new(0),
            max_requested,
            overflows: AtomicU64::new(0),
            next_swept: AtomicU32::new(0),
            overflowed: AtomicU64::new(0),
            noting: Noting::default(),
        }
    }

    /// The version at `now`, which must have been read before.
    #[inline]
    pub fn version(&self, now: Micros) -> u32 {
        if now >= self.now.next_end.load(Ordering::Acquire) {
            self.lift_ended(now);
        }
        self.now.version.load(Ordering::SeqCst)
    }

    /// The patterns, to look at.
    pub fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.noting.patterns();
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by a thread that configures or removes, until all its records are queued.
    pub fn edit(&self) -> Edit<'_> {
        self.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the patterns at once for all. `change` must read the clock for the edit's instant.
    pub fn publish<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        self.noting.patterns();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        self.raise();
        let done = change(&mut known);
        self.now.next_end.store(known.next_end.unwrap_or(u64::MAX), Ordering::Release);
        done
    }

    fn raise(&self) {
        if self.now.version.fetch_add(1, Ordering::SeqCst) == u32::MAX {
            self.now.version.store(1, Ordering::SeqCst);
        }
    }

    #[cold]
    fn lift_ended(&self, now: Micros) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.lift_ended(now) {
            self.raise();
        }
        self.now.next_end.store(known.next_end.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// The one copy of these values.
    pub fn intern(&self, limit: &Limit) -> Arc<Limit> {
        let hash = self.hasher.hash_one(limit);
        let mut interned = self.interned.lock().unwrap_or_else(PoisonError::into_inner);
        let (table, most) = &mut *interned;
        if let Some(found) = table.find(hash, |known| **known == *limit) {
            return Arc::clone(found);
        }
        if table.len() >= *most {
            table.retain(|known| Arc::strong_count(known) > 1);
            *most = MIN_PURGE.max(2 * table.len());
        }
        let limit = Arc::new(limit.clone());
        table.insert_unique(hash, Arc::clone(&limit), |known| self.hasher.hash_one(&**known));
        limit
    }

    /// Whether the values of some pattern end by themselves.
    pub fn has_ends(&self) -> bool {
        self.now.next_end.load(Ordering::Relaxed) != u64::MAX
    }
}

fn earliest(end: Option<Micros>, row: &Row) -> Option<Micros> {
    row.overlay.as_ref().map(|overlay| overlay.until.min(end.unwrap_or(u64::MAX))).or(end)
}
