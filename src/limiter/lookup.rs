//! Which limit a key has, and which changes of it are due: the one place that decides it, for every operation.
//!
//! A key has the limit that is configured for exactly it; else that of the pattern that serves it; else the one that
//! the request brings; else none. Values that last for a time lie over all of these.
//!
//! What is due (the end of such values, the edit of a pattern, other values in a request) is found at each look. Only a
//! spend makes it, and says so in its record; any other look works on a copy and throws it away. So a replay, which
//! sees records only, comes to the same state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, shard_of};
use super::entry::{Change, Counts, Entry, Source, Table};
use super::registry::{OVERFLOW_MARK, Pattern, Row};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, Live, Standing, Verdict};
use crate::store::record;

/// What a request says of the limit of its key.
#[derive(Debug, Clone, Copy)]
pub enum Brought<'a> {
    /// Nothing: where none is configured there is none.
    Nothing,
    /// These values, where none are configured.
    Values(&'a Limit),
    /// Nothing, and it is enough if the key has lived under a request.
    AsItStands,
}

impl<'a> From<Option<&'a Limit>> for Brought<'a> {
    fn from(limit: Option<&'a Limit>) -> Brought<'a> {
        limit.map_or(Brought::Nothing, Brought::Values)
    }
}

/// How a key is served at one instant.
#[derive(Debug, Clone)]
pub struct Served {
    /// Changes that are due, in the order in which they are to be made.
    pub changes: Vec<Change>,
    /// Where its values come from after them.
    pub source: Source,
    /// Its values after them. While there is an overlay, those that come back.
    pub limit: Arc<Limit>,
    /// The pattern that serves it, with its bound; of an overflow limit the pattern that it belongs to.
    pub pattern: Option<(Arc<Pattern>, u64)>,
    /// When the values of its pattern end, and what comes then.
    pub ends: Option<(Micros, Arc<Limit>)>,
    /// The version at which this was found.
    pub version: u32,
}

impl Served {
    fn by(row: &Row, version: u32) -> Served {
        Served {
            changes: Vec::new(),
            source: Source::Pattern(row.pattern.slot),
            limit: Arc::clone(row.in_force()),
            pattern: Some((Arc::clone(&row.pattern), row.max_keys)),
            ends: row.overlay.as_ref().map(|overlay| (overlay.until, Arc::clone(&row.limit))),
            version,
        }
    }

    /// The values under which a key is decided; `entry` is what the map has of it.
    pub fn in_force<'a>(&'a self, entry: Option<&'a Entry>) -> &'a Arc<Limit> {
        match entry.and_then(Entry::overlay) {
            Some(overlay) if !self.changes.iter().any(|change| change.lifts) => &overlay.limit,
            _ => &self.limit,
        }
    }

    /// As it is in records. The pattern of a source is always known to who serves a key.
    pub fn recorded(&self, source: Source) -> record::Source {
        match source {
            Source::Exact => record::Source::Exact,
            Source::Request => record::Source::Request,
            Source::Overflow => record::Source::Overflow,
            Source::Pattern(slot) => match &self.pattern {
                Some((pattern, _)) if pattern.slot == slot => record::Source::Pattern(pattern.id),
                // A step on the way from a pattern that was removed: the next change leads to another source.
                _ => record::Source::Request,
            },
        }
    }

    /// The changes as a record says them.
    pub fn moves(&self) -> Vec<record::Move> {
        let recorded = |change: &Change| record::Move {
            at: change.at,
            source: self.recorded(change.source),
            lifts: change.lifts,
            limit: Arc::clone(&change.limit),
        };
        self.changes.iter().map(recorded).collect()
    }
}

/// An overflow limit, by the key that found no room.
#[derive(Debug, Clone)]
pub struct Overflow {
    /// Its key in the map, and the hash.
    pub key: String,
    pub hash: u64,
    /// What it is to have.
    pub limit: Arc<Limit>,
    /// As of when, if it has other values.
    pub edited_at: Micros,
    pub served: Served,
}

/// Whether an entry is served by its own values, and nothing is due. Not of a key that comes and goes and is
/// `unlimited` now: it may be the same as none, and whether it was swept must make no difference to what counts where.
#[inline]
pub fn is_plain(entry: &Entry, version: u32, brought: Brought<'_>) -> bool {
    if entry.is_plain_exact() {
        return true;
    }
    if entry.version != version || entry.overlay().is_some() || entry.limit.is_unlimited() {
        return false;
    }
    match (entry.source(), brought) {
        (Source::Pattern(_), _) | (Source::Request, Brought::AsItStands) => true,
        (Source::Request, Brought::Values(limit)) => *entry.limit == *limit,
        _ => false,
    }
}

impl Core {
    /// The version of the patterns at `now`, which was read under a shard's lock.
    #[inline]
    pub fn version(&self, now: Micros) -> u32 {
        self.registry.version(now)
    }

    /// How `key` is served; `entry` is what the map has of it.
    ///
    /// # Errors
    /// `limit_not_configured`.
    pub fn served(
        &self,
        entry: Option<&Entry>,
        key: &str,
        brought: Brought<'_>,
        now: Micros,
        version: u32,
    ) -> Result<Served> {
        let Some(entry) = entry else { return self.served_unborn(key, brought, version) };
        let ended = entry.overlay().filter(|overlay| overlay.until <= now).map(|overlay| overlay.until);
        let covered = ended.is_none() && entry.overlay().is_some();
        let own = |changes| Served {
            changes,
            source: entry.source(),
            limit: Arc::clone(&entry.limit),
            pattern: None,
            ends: None,
            version,
        };
        let lift = |at, source, limit: &Arc<Limit>| Change { at, source, lifts: true, limit: Arc::clone(limit) };
        let lift_own = || ended.map(|until| lift(until, entry.source(), &entry.limit));
        if entry.source() == Source::Exact {
            return Ok(own(lift_own().into_iter().collect()));
        }
        let known = self.registry.known();
        if let Some(row) = known.find(key) {
            let mut served = Served::by(row, version);
            let same = entry.source() == served.source && entry.limit == served.limit;
            // A pattern that was removed a moment ago: its keys go to others as of then.
            let left_at = match entry.source() {
                Source::Pattern(slot) if served.source != entry.source() => known.row(slot),
                _ => None,
            };
            let left_at = left_at.and_then(|row| row.removed_at).unwrap_or(0);
            let at = row.edited_at.max(left_at);
            served.changes = match ended {
                Some(until) if same || at <= until => vec![lift(until, served.source, &served.limit)],
                Some(until) => vec![
                    lift(until, entry.source(), &entry.limit),
                    Change { at, source: served.source, lifts: false, limit: Arc::clone(&served.limit) },
                ],
                None if same => Vec::new(),
                None => {
                    let at = at.max(entry.last_change());
                    vec![Change { at, source: served.source, lifts: false, limit: Arc::clone(&served.limit) }]
                }
            };
            return Ok(served);
        }
        drop(known);
        if covered {
            return Ok(own(Vec::new()));
        }
        let mut changes: Vec<Change> = lift_own().into_iter().collect();
        match brought {
            Brought::AsItStands => Ok(own(changes)),
            Brought::Nothing => Err(Error::not_configured(key)),
            Brought::Values(limit) => {
                if entry.source() != Source::Request || *entry.limit != *limit {
                    let limit = self.registry.intern(limit);
                    changes.push(Change { at: now, source: Source::Request, lifts: false, limit });
                }
                let limit = Arc::clone(changes.last().map_or(&entry.limit, |change| &change.limit));
                Ok(Served { limit, source: Source::Request, ..own(changes) })
            }
        }
    }

    fn served_unborn(&self, key: &str, brought: Brought<'_>, version: u32) -> Result<Served> {
        if let Some(row) = self.registry.known().find(key) {
            return Ok(Served::by(row, version));
        }
        match brought {
            Brought::Values(limit) => Ok(Served {
                changes: Vec::new(),
                source: Source::Request,
                limit: self.registry.intern(limit),
                pattern: None,
                ends: None,
                version,
            }),
            Brought::Nothing | Brought::AsItStands => Err(Error::not_configured(key)),
        }
    }

    /// The overflow limit of the pattern that serves `key`, or of the values that are brought. `None` if neither is
    /// there any more.
    pub fn overflow(&self, key: &str, brought: Brought<'_>, version: u32) -> Option<Overflow> {
        let (text, served, edited_at) = match (self.registry.known().find(key), brought) {
            (Some(row), _) => (row.pattern.text.to_string(), Served::by(row, version), row.edited_at),
            (None, Brought::Values(limit)) => {
                let served = self.served_unborn(key, brought, version).ok()?;
                (limit.to_string(), served, 0)
            }
            (None, _) => return None,
        };
        let key = format!("{OVERFLOW_MARK}{text}");
        let served = Served { source: Source::Overflow, ..served };
        Some(Overflow { hash: self.hash(&key), key, limit: Arc::clone(&served.limit), edited_at, served })
    }

    /// As [`Core::served`], of an overflow limit.
    pub fn served_overflow(&self, entry: Option<&Entry>, overflow: &Overflow) -> Served {
        let mut served = overflow.served.clone();
        if let Some(entry) = entry.filter(|entry| entry.limit != overflow.limit) {
            let at = overflow.edited_at.max(entry.last_change());
            let limit = Arc::clone(&overflow.limit);
            served.changes = vec![Change { at, source: Source::Overflow, lifts: false, limit }];
        }
        served
    }

    /// How an entry is served that is there, overflow limits too, if something is due for it.
    pub fn due(&self, entry: &Entry, now: Micros, version: u32) -> Option<Served> {
        let served = match entry.overflow_text() {
            None => self.served(Some(entry), &entry.key, Brought::AsItStands, now, version).ok()?,
            Some(text) => {
                let row = self.registry.known().get(text).cloned()?;
                let served = Served { source: Source::Overflow, ..Served::by(&row, version) };
                let (limit, edited_at) = (Arc::clone(&served.limit), row.edited_at);
                let hash = 0;
                self.served_overflow(Some(entry), &Overflow { key: String::new(), hash, limit, edited_at, served })
            }
        };
        (!served.changes.is_empty()).then_some(served)
    }

    /// The same, where nothing is due.
    pub fn undue(&self, entry: &Entry, version: u32) -> Served {
        let (source, limit) = (entry.source(), Arc::clone(&entry.limit));
        Served { changes: Vec::new(), source, limit, pattern: None, ends: None, version }
    }

    /// Whether a key that is to be born may find no room, `more` others before it.
    pub fn may_be_full(&self, served: &Served, more: u64) -> bool {
        match &served.pattern {
            Some((pattern, most)) => pattern.live.load(Ordering::Relaxed) + more >= *most,
            None => self.registry.requested.load(Ordering::Relaxed) + more >= self.registry.max_requested,
        }
    }

    /// Gives back what [`Core::take_room`] took, or what a key had that is gone.
    pub fn give_room(&self, source: Source, pattern: Option<&Pattern>, of_pattern: bool) {
        let count = match (source, pattern) {
            (Source::Exact, _) => return,
            (Source::Overflow, _) if of_pattern => return,
            (Source::Overflow, _) => &self.registry.overflows,
            (Source::Request, _) => &self.registry.requested,
            (Source::Pattern(_), Some(pattern)) => &pattern.live,
            (Source::Pattern(_), None) => return,
        };
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// Counts a key out of what it lived under.
    pub fn leave(&self, entry: &Entry, counts: &Counts) {
        let share = entry.share_slot().and_then(|slot| counts.shares.get(slot));
        self.give_room(entry.source(), share.map(|share| &*share.pattern), entry.share_slot().is_some());
    }

    /// Counts a key in, whatever the bound: one that comes from elsewhere is never sent away.
    pub fn join(&self, source: Source, pattern: Option<&Arc<Pattern>>, counts: &mut Counts) {
        match (source, pattern) {
            (Source::Request, _) => {
                self.note_live();
                self.registry.requested.fetch_add(1, Ordering::Relaxed);
            }
            (Source::Pattern(_), Some(pattern)) => {
                self.note_live();
                counts.shares.of(pattern);
                pattern.live.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Looks at the state of a key at `now`, without a spend: at what it has counted under the values that serve it.
    pub fn look<T>(
        &self,
        entry: Option<&mut Entry>,
        served: &Served,
        now: Micros,
        look: impl FnOnce(&Standing, &Arc<Limit>) -> T,
    ) -> T {
        let mut copy;
        let entry = match entry {
            None => return look(&Standing::new(&served.limit), &served.limit),
            Some(entry) if served.changes.is_empty() => entry,
            Some(entry) => {
                copy = changed(entry, served, &mut Live::default());
                &mut copy
            }
        };
        let limit = Arc::clone(entry.in_force());
        entry.standing.advance(&limit, now);
        look(&entry.standing, &limit)
    }

    /// The shard of a hash, and its lock.
    pub fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, Table> {
        self.shards[shard_of(hash)].lock()
    }
}

/// A copy of the entry after the changes that are due. The ends of calendar windows are asked from `ends`.
pub fn changed(entry: &Entry, served: &Served, ends: &mut Live) -> Entry {
    let mut entry = entry.clone();
    for change in &served.changes {
        entry.change(change, ends);
    }
    entry.version = served.version;
    entry
}

/// How a standing is reported.
pub fn glance(standing: &Standing, limit: &Limit, now: Micros) -> Verdict {
    standing.glance(limit, now, &mut Live::default())
}
